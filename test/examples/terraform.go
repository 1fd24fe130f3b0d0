// SPDX-License-Identifier: MPL-2.0

package examples

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// variable is the value of every variable in a Terraform module.
const variable = "<a variable>"

// parseTerraform reads the resources that write to Vault, the policies, the ephemeral resources that read, and which of their fields are used.
func parseTerraform(file string, text []byte) ([]Request, error) {
	body, err := parseBody(file, text)
	if err != nil {
		return nil, err
	}
	scope := &hcl.EvalContext{Variables: map[string]cty.Value{"path": object("module", ".")}, Functions: map[string]function.Function{
		"jsonencode": stdlib.JSONEncodeFunc, "merge": stdlib.MergeFunc, "file": fileFunction(file),
	}}
	variables, mounts := map[string]cty.Value{}, map[string]cty.Value{}
	for _, block := range body.Blocks {
		switch {
		case block.Type == "variable":
			variables[block.Labels[0]] = cty.StringVal(variable)
		case block.Type == "resource" && block.Labels[0] == "vault_mount":
			mounts[block.Labels[1]] = object("path", literal(block.Body.Attributes, "path"))
		}
	}
	scope.Variables["var"], scope.Variables["vault_mount"] = cty.ObjectVal(variables), cty.ObjectVal(mounts)

	var requests []Request
	reads := make(map[string]int) // by name, where the read of an ephemeral resource is in requests
	for _, block := range body.Blocks {
		attributes := block.Body.Attributes
		switch block.Type {
		case "terraform", "variable":
			continue
		case "provider", "data", "output":
			err = usesOf(attributes, requests, reads)
		case "ephemeral":
			if block.Labels[0] != "vault_generic_secret" {
				return nil, fmt.Errorf("ephemeral %s is not known", block.Labels[0])
			}
			reads[block.Labels[1]] = len(requests)
			requests = append(requests, Request{Operation: logical.ReadOperation, Path: literal(attributes, "path")})
		case "resource":
			var of []Request
			of, err = parseResource(block, scope)
			requests = append(requests, of...)
		default:
			err = fmt.Errorf("block %s is not known", block.Type)
		}
		if err != nil {
			return nil, err
		}
	}
	return requests, nil
}

func object(name, value string) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{name: cty.StringVal(value)})
}

// parseResource returns what a resource writes. It must not have attributes that its kind doesn't.
func parseResource(block *hclsyntax.Block, scope *hcl.EvalContext) ([]Request, error) {
	known := map[string][]string{
		"vault_mount":            {"path", "type"},
		"vault_generic_endpoint": {"path", "data_json", "ignore_absent_fields", "disable_delete", "depends_on"},
		"vault_policy":           {"name", "policy"},
	}[block.Labels[0]]
	values := make(map[string]string)
	for name, attribute := range block.Body.Attributes {
		switch {
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("%s has no %s that is known", block.Labels, name)
		case name == "depends_on":
			continue
		}
		value, diagnostics := attribute.Expr.Value(scope)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		if value.Type() == cty.String {
			values[name] = value.AsString()
		}
	}
	switch block.Labels[0] {
	case "vault_generic_endpoint":
		request := Request{Operation: logical.UpdateOperation, Path: values["path"]}
		if err := json.Unmarshal([]byte(values["data_json"]), &request.Data); err != nil {
			return nil, err
		}
		for name, value := range request.Data {
			if value == variable {
				request.Data[name] = Unknown{}
			}
		}
		return []Request{request}, nil
	case "vault_policy":
		body, err := parseBody(values["name"], []byte(values["policy"]))
		if err != nil {
			return nil, err
		}
		return parsePolicy(body)
	case "vault_mount":
		return nil, nil
	}
	return nil, fmt.Errorf("resource %s is not known", block.Labels[0])
}

// usesOf notes which fields of ephemeral resources the attributes use, as in ephemeral.vault_generic_secret.NAME.data["FIELD"].
func usesOf(attributes hclsyntax.Attributes, requests []Request, reads map[string]int) error {
	for _, attribute := range attributes {
		for _, traversal := range attribute.Expr.Variables() {
			if traversal.RootName() != "ephemeral" {
				continue
			}
			if len(traversal) != 5 {
				return fmt.Errorf("%s: expected a field of an ephemeral resource", attribute.Name)
			}
			at, known := reads[traversal[2].(hcl.TraverseAttr).Name]
			field, isField := traversal[4].(hcl.TraverseIndex)
			if !known || !isField || traversal[3].(hcl.TraverseAttr).Name != "data" {
				return fmt.Errorf("%s: expected data[\"…\"] of an ephemeral resource above", attribute.Name)
			}
			requests[at].Answer = append(requests[at].Answer, field.Key.AsString())
		}
	}
	return nil
}

// fileFunction is Terraform's function file, relative to a file's folder.
func fileFunction(of string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
			text, err := readBeside(of, arguments[0].AsString())
			return cty.StringVal(text), err
		},
	})
}
