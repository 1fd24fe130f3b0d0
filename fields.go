// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// keyForce is the field that overrides a refusal.
const keyForce = "force"

// given reports whether the request names the field with a value other than null or the empty string.
func given(data *framework.FieldData, field string) bool {
	value, ok := data.Raw[field]
	return ok && value != nil && value != ""
}

// mergeFields applies the fields of the request to current (RFC 7396: null resets a field, and so does an empty duration) and decodes the outcome into result,
// which must hold the defaults. Fields in leaveOut are not merged. The field force is for deletes and refused.
func mergeFields(data *framework.FieldData, current, result any, leaveOut ...string) error {
	if _, sent := data.Raw[keyForce]; sent {
		return badField(keyForce, "is a parameter of a delete; leave it out")
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
			schema := data.Schema[field]
			if schema != nil && (value == nil || value == "" && schema.Type == framework.TypeDurationSecond) {
				input[field] = nil
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

// storedFields returns the schema of an answer that shows an entry as it is stored, derived from that of the request which writes it:
// all its fields but secrets and those to leave out, with durations in whole seconds. A new field of an entry needs no more than its
// schema in the request, and a field with that JSON key in the struct that is stored.
func storedFields(request map[string]*framework.FieldSchema, leaveOut ...string) map[string]*framework.FieldSchema {
	fields := make(map[string]*framework.FieldSchema)
	for name, field := range request {
		if slices.Contains(leaveOut, name) || field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive {
			continue
		}
		kind := field.Type
		switch kind {
		case framework.TypeDurationSecond:
			kind = framework.TypeInt64
		case framework.TypeCommaStringSlice:
			kind = framework.TypeStringSlice
		}
		fields[name] = &framework.FieldSchema{Type: kind, Required: true, Description: field.Description}
	}
	return fields
}

// withFields returns the fields of both.
func withFields(fields, more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	all := maps.Clone(fields)
	maps.Copy(all, more)
	return all
}

// storedData returns the fields of an entry as it is stored, as storedFields describes them.
func storedData(entry any, fields map[string]*framework.FieldSchema) map[string]any {
	stored, data := make(map[string]any), make(map[string]any)
	if err := decodeMap(entry, &stored); err != nil {
		panic(err) // it couldn't have been stored
	}
	for name, field := range fields {
		number, _ := stored[name].(float64)
		switch field.Type {
		case framework.TypeInt64:
			data[name] = int64(number)
		case framework.TypeInt:
			data[name] = int(number)
		case framework.TypeStringSlice:
			texts := []string{}
			list, _ := stored[name].([]any)
			for _, text := range list {
				texts = append(texts, text.(string))
			}
			data[name] = texts
		case framework.TypeString:
			text, _ := stored[name].(string)
			data[name] = text
		default:
			data[name] = stored[name]
			if stored[name] == nil {
				data[name] = field.Type.Zero()
			}
		}
	}
	return data
}

// pathNames is the path that lists the names under which entries are stored, with what info returns of each. An entry that can't be read
// is listed with the error.
func pathNames(pattern, storagePrefix, summary, help string, info func(b *backend, ctx context.Context, s logical.Storage, name string) (map[string]any, error)) *framework.Path {
	list := func(b *backend, ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		names, err := req.Storage.List(ctx, storagePrefix)
		if err != nil {
			return nil, err
		}
		infos := make(map[string]any, len(names))
		for _, name := range names {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			shown, err := info(b, ctx, req.Storage, name)
			if err != nil {
				shown = map[string]any{"error": err.Error()}
			}
			if shown != nil {
				infos[name] = shown
			}
		}
		return logical.ListResponseWithInfo(names, infos), nil
	}
	return &framework.Path{
		Pattern:      pattern + "/?",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: "databricks", OperationSuffix: pattern},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: readOperation(list, summary, map[string]*framework.FieldSchema{
				"keys":     {Type: framework.TypeStringSlice, Description: "The names."},
				"key_info": {Type: framework.TypeMap, Description: "Details of each, by name."},
			}),
		},
		HelpSynopsis:    summary,
		HelpDescription: strings.TrimSpace(help),
	}
}

// readOperation declares an operation that changes nothing.
func readOperation(serve handler, summary string, fields map[string]*framework.FieldSchema) *framework.PathOperation {
	return &framework.PathOperation{
		Callback: on(serve), Summary: summary,
		Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: fields}}},
	}
}

// writeOperation declares an operation that changes storage, and is therefore forwarded to a node that may.
func writeOperation(serve handler, summary string, responses []framework.Response, examples ...framework.RequestExample) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    exactly(on(serve), nil),
		Summary:                     summary,
		Examples:                    examples,
		Responses:                   map[int][]framework.Response{http.StatusOK: responses},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

// deleteOperation declares an operation that deletes, with the parameters that it accepts besides those in the path. It answers 204,
// or 200 with warnings where there is something to say.
func deleteOperation(serve handler, summary string, accepts ...string) *framework.PathOperation {
	op := writeOperation(serve, summary, nil)
	op.Callback = exactly(on(serve), append([]string{}, accepts...))
	op.Responses = map[int][]framework.Response{
		http.StatusNoContent: {{Description: "Deleted, or there was none."}},
		http.StatusOK:        {{Description: "Done, with warnings.", Fields: map[string]*framework.FieldSchema{}}},
	}
	return op
}

// requestedTTL returns the ttl of a request, 0 if none was sent.
func requestedTTL(data *framework.FieldData) (time.Duration, error) {
	ttl := data.Get(keyTTL).(int)
	if _, sent := data.Raw[keyTTL]; sent && ttl <= 0 {
		// Where a policy demands a ttl, an empty one must not mean "without a lease".
		return 0, badField(keyTTL, "is not more than 0; send at least 1s, or leave it out")
	}
	return seconds(int64(ttl)), nil
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// rfc3339 formats a time for a response: RFC 3339 in UTC, empty for the zero time.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// timeOrNull returns a time for a field of a response that is null where there is no time.
func timeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return rfc3339(t)
}

// applicationIDForm matches an application id, which is a UUID.
var applicationIDForm = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// joinIDs joins ids for a message.
func joinIDs(ids []string) string { return strings.Join(ids, ", ") }
