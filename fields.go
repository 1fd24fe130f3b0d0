// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/json"
	"math"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
)

// given tells whether the request names the field with a value other than null or the empty string.
func given(data *framework.FieldData, field string) bool {
	value, ok := data.Raw[field]
	return ok && value != nil && value != ""
}

// mergeFields lays the fields that the request names over current (RFC 7396: null resets), and decodes the outcome into
// result, which holds the defaults. Names in leaveOut are not merged.
func mergeFields(data *framework.FieldData, current, result any, leaveOut ...string) error {
	if err := checkWholeSeconds(data); err != nil {
		return err
	}
	marshalled, err := json.Marshal(current)
	if err != nil {
		return err
	}
	var resource map[string]any
	if err := json.Unmarshal(marshalled, &resource); err != nil {
		return err
	}
	merged, err := framework.HandlePatchOperation(data, resource, func(input map[string]any) (map[string]any, error) {
		for field, value := range data.Raw {
			if _, known := data.Schema[field]; known && value == nil {
				input[field] = nil
			}
			if number, ok := input[field].(float64); ok && (math.IsNaN(number) || math.IsInf(number, 0)) {
				return nil, badField(field, "%v is not a finite number", number)
			}
		}
		for _, field := range leaveOut {
			delete(input, field)
		}
		return input, nil
	})
	if err != nil {
		return err
	}
	return json.Unmarshal(merged, result)
}

// writeOperation declares an operation that changes storage, and is therefore forwarded to a node that may.
func (b *backend) writeOperation(callback framework.OperationFunc, summary string, responses []framework.Response, examples ...framework.RequestExample) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    callback,
		Summary:                     summary,
		Examples:                    examples,
		Responses:                   map[int][]framework.Response{http.StatusOK: responses},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}
