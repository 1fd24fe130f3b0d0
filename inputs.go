// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// maxSafeInteger is the largest whole number that every JSON decoder keeps exactly: Vault passes numbers on as float64.
const maxSafeInteger = 1<<53 - 1

// numericIDs are the fields with an id that Databricks writes as a number. They take it as one, too. assume_group takes an id or a name.
var numericIDs = []string{keyServicePrincipalID, keyWorkspaceID, keyAssumeGroupID, keyAssumeGroup}

// storedBools are the boolean fields that are stored, and reset by null.
var storedBools = []string{keyVerifyConnection, keyDisableRotation}

// checkTypes returns a fieldError for a parameter that the framework would convert to something else than was sent: it stores numbers
// and booleans as texts, truncates fractions and takes any number for a boolean. It must run before the framework's own validation, whose
// errors repeat the value. The ids of numericIDs become strings in req.Data. Errors never contain the value of a string field, which may
// be a secret that was sent in the wrong field.
func (b *backend) checkTypes(req *logical.Request) error {
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation, logical.ReadOperation, logical.ListOperation:
	default:
		return nil
	}
	if len(req.Data) == 0 {
		return nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		value, schema := req.Data[name], path.Fields[name]
		if schema == nil {
			continue
		}
		if value == nil {
			// A null resets a field of what is stored. Of a request alone it would mean not to do what the field is for.
			if schema.Type == framework.TypeBool && !slices.Contains(storedBools, name) {
				return badField(name, "is null; send true or false, or leave it out")
			}
			continue
		}
		if number, ok := numberOf(value); ok && slices.Contains(numericIDs, name) {
			if number != math.Trunc(number) || math.Abs(number) > maxSafeInteger {
				return badField(name, "is a number that JSON does not carry exactly; send it as a string")
			}
			req.Data[name] = strconv.FormatFloat(number, 'f', 0, 64)
			continue
		}
		if reason := wrongType(schema.Type, value); reason != "" {
			return badField(name, "%s", reason)
		}
		if hasReplacement(value) {
			return badField(name, "holds the character U+FFFD, which stands for bytes that were not valid UTF-8 and got lost on the way; %s", withoutReplacement(name))
		}
	}
	return nil
}

// withoutReplacement says how to send bytes that a text can't hold.
func withoutReplacement(field string) string {
	switch field {
	case keyStringValue:
		return "send bytes in base64 as " + keyBytesValue
	case keySecrets:
		return "send bytes in base64 in " + keyBytes
	case keyBytesValue, keyBytes:
		return "send it in base64"
	default:
		return "send it in UTF-8"
	}
}

// wrongType says what to send instead of a value that the type doesn't have; "" if it has it.
func wrongType(kind framework.FieldType, value any) string {
	text, isText := value.(string)
	number, isNumber := numberOf(value)
	switch kind {
	case framework.TypeString:
		if !isText {
			return fmt.Sprintf("is not a string but %s; send a string", jsonType(value))
		}
	case framework.TypeBool:
		if _, ok := value.(bool); ok {
			return ""
		}
		if _, err := strconv.ParseBool(text); !isText || err != nil {
			return "is not a boolean; send true or false"
		}
	case framework.TypeInt, framework.TypeInt64:
		if isText && wholeNumber.MatchString(text) {
			number, isNumber = parseFloat(text), true
		}
		if !isNumber || number != math.Trunc(number) || math.Abs(number) > maxSafeInteger {
			return "is not a whole number; send one"
		}
	case framework.TypeFloat:
		if isText && decimalNumber.MatchString(text) {
			number, isNumber = parseFloat(text), true
		}
		if !isNumber || math.IsInf(number, 0) || math.IsNaN(number) {
			return "is not a finite number; send one, for example 2.5"
		}
	case framework.TypeDurationSecond:
		return wrongDuration(value)
	case framework.TypeCommaStringSlice, framework.TypeStringSlice:
		return wrongList(value)
	case framework.TypeMap:
		if _, ok := value.(map[string]any); !ok {
			return "is not a map; send an object of keys and values"
		}
	}
	return ""
}

// wrongDuration is wrongType for durations. They are whole seconds, as a number or a text; the empty text means unset.
func wrongDuration(value any) string {
	const advice = "send whole seconds, or a text such as 90s, 15m, 24h or 7d"
	var d time.Duration
	switch text, isText := value.(string); {
	case isText:
		var err error
		if d, err = parseutil.ParseDurationSecond(text); err != nil {
			return fmt.Sprintf("is not a duration; %s", advice)
		}
	default:
		number, isNumber := numberOf(value)
		switch {
		case !isNumber:
			return fmt.Sprintf("is not a duration but %s; %s", jsonType(value), advice)
		case number != math.Trunc(number):
			return fmt.Sprintf("%v is not a whole number of seconds; %s", value, advice)
		case math.Abs(number) > float64(math.MaxInt64/int64(time.Second)):
			return fmt.Sprintf("%v seconds are out of range; %s", value, advice)
		}
		d = time.Duration(number) * time.Second
	}
	switch {
	case d%time.Second != 0:
		return fmt.Sprintf("%v is not a whole number of seconds; %s", value, advice)
	case d < 0:
		return fmt.Sprintf("%v is negative; %s", value, advice)
	}
	return ""
}

// maxListed is how many elements a list may have. Lists are compared element by element.
const maxListed = 100

// wrongList is wrongType for lists of strings, which may also be sent as one string with commas.
func wrongList(value any) string {
	const advice = "send a list of strings, or one string with commas between them"
	n := 0
	switch list := value.(type) {
	case string:
		n = strings.Count(list, ",") + 1
	case []string:
		n = len(list)
	case []any:
		n = len(list)
	}
	if n > maxListed {
		return fmt.Sprintf("has %d elements; %d is the most", n, maxListed)
	}
	switch list := value.(type) {
	case string, []string:
	case []any:
		for _, element := range list {
			if _, ok := element.(string); !ok {
				return fmt.Sprintf("holds %s; %s", jsonType(element), advice)
			}
		}
	default:
		return fmt.Sprintf("is not a list but %s; %s", jsonType(value), advice)
	}
	return ""
}

var (
	// wholeNumber and decimalNumber match numbers that are sent as texts. Go's parsers also take "010" for 8, hexadecimal and NaN.
	wholeNumber   = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	decimalNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)
)

// parseFloat returns the number that the text, which matches one of the expressions above, stands for.
func parseFloat(text string) float64 {
	number, _ := strconv.ParseFloat(text, 64) // infinite if it is out of range
	return number
}

// numberOf returns the value of a JSON number.
func numberOf(value any) (float64, bool) {
	switch number := value.(type) {
	case float64:
		return number, true
	case int:
		return float64(number), true
	case int64:
		return float64(number), true
	case json.Number:
		return parseFloat(number.String()), true
	}
	return 0, false
}

// jsonType names the type of a JSON value for a message.
func jsonType(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	if _, ok := numberOf(value); ok {
		return "a number"
	}
	return "another type"
}

// hasReplacement reports whether a text in the value has U+FFFD, by which JSON decoders replace bytes that are not UTF-8.
func hasReplacement(value any) bool {
	switch value := value.(type) {
	case string:
		return strings.ContainsRune(value, utf8.RuneError)
	case []any:
		return slices.ContainsFunc(value, hasReplacement)
	case map[string]any:
		for key, element := range value {
			if hasReplacement(key) || hasReplacement(element) {
				return true
			}
		}
	}
	return false
}

// exactly wraps the callback of an operation that changes something: a request with parameters that the operation does not know is
// refused before anything is done, since a misspelt dry_run must not delete. So is one with another value for a part of its path, which
// the framework would replace by that of the path. accepts has the known parameters; nil means all fields of the path.
func exactly(callback framework.OperationFunc, accepts []string) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		var unknown []string
		for _, name := range slices.Sorted(maps.Keys(req.Data)) {
			switch _, known := data.Schema[name]; {
			case !known || accepts != nil && !slices.Contains(accepts, name):
				unknown = append(unknown, name)
			case req.Data[name] != nil && isText(data.Raw[name]) && data.Raw[name] != req.Data[name]:
				return nil, badField(name, "is part of the path; leave it out")
			}
		}
		if len(unknown) > 0 {
			return nil, unknownParameters(unknown, req, data, accepts)
		}
		return callback(ctx, req, data)
	}
}

func isText(value any) bool {
	_, ok := value.(string)
	return ok
}

// unknownParameters returns the error of a request that names parameters which its operation does not know.
func unknownParameters(unknown []string, req *logical.Request, data *framework.FieldData, accepts []string) error {
	if accepts == nil {
		for name := range data.Schema {
			_, known := data.Raw[name]
			if _, sent := req.Data[name]; known && !sent {
				continue // it is part of the path
			}
			accepts = append(accepts, name)
		}
	}
	slices.Sort(accepts)
	known := "it takes none"
	if len(accepts) > 0 {
		known = "it takes " + strings.Join(accepts, ", ")
	}
	const most = 5 // the error must not grow with the request
	more := ""
	if len(unknown) > most {
		more = fmt.Sprintf(" and %d more", len(unknown)-most)
		unknown = unknown[:most]
	}
	for i, name := range unknown {
		// A name may be anything, a secret in the wrong place included.
		if !parameterName.MatchString(name) {
			unknown[i] = "one whose name is not a name"
		}
	}
	verb := "is not a parameter"
	if len(unknown) > 1 {
		verb = "are not parameters"
	}
	return badField(strings.Join(unknown, ", ")+more, "%s of this request, so nothing was done; %s", verb, known)
}

var parameterName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)
