// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// draft is a SCIM resource that is being written. It replaces the resource as a
// whole, or not at all.
type draft struct {
	displayName   string
	applicationID string
	externalID    string
	active        bool
	lists         map[string][]string // by name in lower case; names that aren't there are no attributes
}

// unparsable has the text that was observed for a body with a member that the
// schema forbids (terraform-provider-databricks issue 630).
func unparsable() *refusal {
	return refuseSCIM(http.StatusBadRequest, "invalidSyntax", "Request is unparsable, syntactically incorrect, or violates schema.")
}

// write takes the attributes that the body of a POST or PUT has, and ignores
// others.
func (d *draft) write(r *request) *refusal {
	var body map[string]json.RawMessage
	if refused := r.decode(&body); refused != nil {
		return refused
	}
	return d.replaceAll(body)
}

func (d *draft) replaceAll(values map[string]json.RawMessage) *refusal {
	for name, raw := range values {
		if !d.has(name) {
			continue
		}
		if refused := d.change("replace", name, "", raw); refused != nil {
			return refused
		}
	}
	return nil
}

// patchPath is an attribute, or the values of one that equal something.
var patchPath = regexp.MustCompile(`^([A-Za-z]+)(?:\[(?i:value eq) ("(?:[^"\\]|\\.)*")\])?$`)

// patch applies the operations of a PatchOp (RFC 7644, section 3.5.2).
func (d *draft) patch(r *request) *refusal {
	var body struct {
		Schemas    []string `json:"schemas"`
		Operations []struct {
			Op    string          `json:"op"`
			Path  string          `json:"path"`
			Value json.RawMessage `json:"value"`
		} `json:"Operations"`
	}
	if refused := r.decode(&body); refused != nil {
		return refused
	}
	if !slices.Contains(body.Schemas, schemaPatch) {
		return unparsable()
	}
	for _, o := range body.Operations {
		op := strings.ToLower(o.Op)
		if op != "add" && op != "remove" && op != "replace" {
			return refuseSCIM(http.StatusBadRequest, "invalidSyntax", fmt.Sprintf("Patch operation %q is not supported.", o.Op))
		}
		if o.Path == "" {
			if refused := d.patchAll(op, o.Value); refused != nil {
				return refused
			}
			continue
		}
		parts := patchPath.FindStringSubmatch(o.Path)
		if parts == nil || !d.has(parts[1]) {
			return refuseSCIM(http.StatusBadRequest, "invalidPath", fmt.Sprintf("Path %q is not supported.", o.Path))
		}
		if refused := d.change(op, parts[1], parts[2], o.Value); refused != nil {
			return refused
		}
	}
	return nil
}

// patchAll applies an operation without a path, whose value has the attributes.
func (d *draft) patchAll(op string, value json.RawMessage) *refusal {
	var values map[string]json.RawMessage
	if op == "remove" || json.Unmarshal(value, &values) != nil {
		return refuseSCIM(http.StatusBadRequest, "noTarget", "A patch operation without a path must have an object as its value.")
	}
	if op == "replace" {
		return d.replaceAll(values)
	}
	for name, raw := range values {
		if d.has(name) {
			if refused := d.change(op, name, "", raw); refused != nil {
				return refused
			}
		}
	}
	return nil
}

func (d *draft) has(attribute string) bool {
	switch name := strings.ToLower(attribute); name {
	case "displayname", "externalid":
		return true
	case "applicationid", "active":
		return d.lists["members"] == nil // groups have neither
	default:
		return d.lists[name] != nil
	}
}

// change applies one operation to an attribute that d has. The quoted value
// selects elements of a list, if it isn't empty.
func (d *draft) change(op, attribute, selected string, raw json.RawMessage) *refusal {
	invalid := refuseSCIM(http.StatusBadRequest, "invalidValue", fmt.Sprintf("The value of %s is invalid.", attribute))
	name := strings.ToLower(attribute)
	list, isList := d.lists[name]
	if selected != "" {
		var value string
		if !isList || op != "remove" || json.Unmarshal([]byte(selected), &value) != nil {
			return refuseSCIM(http.StatusBadRequest, "invalidPath", fmt.Sprintf("The path to values of %s is not supported.", attribute))
		}
		d.lists[name] = slices.DeleteFunc(list, func(v string) bool { return v == value })
		return nil
	}
	values, ok := valuesIn(raw)
	if !ok {
		return invalid
	}
	if isList {
		switch {
		case op == "replace" || op == "remove" && len(values) == 0:
			list = []string{}
		case op == "remove":
			list = slices.DeleteFunc(list, func(v string) bool { return slices.Contains(values, v) })
			values = nil
		}
		d.lists[name] = appendNew(list, values)
		return nil
	}
	if op == "remove" {
		values = []string{""}
	}
	if len(values) != 1 {
		return invalid
	}
	switch value := values[0]; name {
	case "displayname":
		d.displayName = value
	case "externalid":
		d.externalID = value
	case "applicationid":
		d.applicationID = value
	case "active":
		active, err := strconv.ParseBool(strings.ToLower(value))
		if err != nil {
			return invalid
		}
		d.active = active
	}
	return nil
}

// appendNew appends the values that are not in list yet.
func appendNew(list, values []string) []string {
	known := make(map[string]bool, len(list))
	for _, v := range list {
		known[v] = true
	}
	for _, v := range values {
		if !known[v] {
			known[v] = true
			list = append(list, v)
		}
	}
	return list
}

// valuesIn reads the forms in which clients send values: plain, as an object with
// a member value, and as an array of either.
func valuesIn(raw json.RawMessage) (values []string, ok bool) {
	if len(raw) == 0 {
		return nil, true
	}
	var value any
	if json.Unmarshal(raw, &value) != nil { // can't be, in a body that was decoded
		return nil, false
	}
	elements, isArray := value.([]any)
	if value != nil && !isArray {
		elements = []any{value}
	}
	for _, e := range elements {
		if object, isObject := e.(map[string]any); isObject {
			e = object["value"]
		}
		switch e := e.(type) {
		case string:
			values = append(values, e)
		case bool:
			values = append(values, strconv.FormatBool(e))
		default:
			return nil, false
		}
	}
	return values, true
}
