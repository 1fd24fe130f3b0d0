// SPDX-License-Identifier: MPL-2.0

package examples

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

func parseBody(file string, text []byte) (*hclsyntax.Body, error) {
	parsed, diagnostics := hclsyntax.ParseConfig(text, file, hcl.InitialPos)
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	return parsed.Body.(*hclsyntax.Body), nil
}

// parseHCL reads a policy, a configuration of Vault Agent, or one of an OpenBao server.
func parseHCL(file string, text []byte) ([]Request, error) {
	body, err := parseBody(file, text)
	if err != nil {
		return nil, err
	}
	has := func(kind string) bool {
		return slices.ContainsFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == kind })
	}
	switch {
	case has("path"):
		return parsePolicy(body)
	case has("auto_auth"):
		return parseAgent(file, body)
	case has("plugin"):
		return nil, checkServer(body)
	}
	return nil, errors.New("is neither a policy nor a configuration of Vault Agent or OpenBao")
}

// parsePolicy returns a request for each path and capability of a policy.
func parsePolicy(body *hclsyntax.Body) ([]Request, error) {
	type rule struct {
		Capabilities []string  `hcl:"capabilities"`
		Allowed      cty.Value `hcl:"allowed_parameters,optional"`
		Denied       cty.Value `hcl:"denied_parameters,optional"`
		Required     []string  `hcl:"required_parameters,optional"`
	}
	var requests []Request
	for _, block := range body.Blocks {
		if block.Type != "path" || len(block.Labels) != 1 {
			return nil, fmt.Errorf("a policy has no block %q", block.Type)
		}
		var r rule
		if diagnostics := gohcl.DecodeBody(block.Body, nil, &r); diagnostics.HasErrors() {
			return nil, diagnostics
		}
		data, err := parameters(r.Allowed, r.Denied)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", block.Labels[0], err)
		}
		for _, name := range r.Required {
			if _, named := data[name]; !named {
				data[name] = []any{}
			}
		}
		for _, capability := range r.Capabilities {
			operation, known := operations[capability]
			switch {
			case !known:
				return nil, fmt.Errorf("%s: there is no capability %q", block.Labels[0], capability)
			case operation != "":
				requests = append(requests, Request{Rule: true, Operation: operation, Path: block.Labels[0], Data: data})
			}
		}
	}
	return ofLeases(requests), nil
}

// parameters returns the names of parameters in a policy, each with the list of its values, which is empty for any.
func parameters(lists ...cty.Value) (map[string]any, error) {
	data := make(map[string]any)
	for _, list := range lists {
		if list == cty.NilVal || list.IsNull() {
			continue
		}
		for name, values := range list.AsValueMap() {
			if name == "*" {
				continue
			}
			known, err := valueOf(values)
			if err != nil {
				return nil, err
			}
			if _, ok := known.([]any); !ok {
				return nil, fmt.Errorf("%s is not a list of values", name)
			}
			data[name] = known
		}
	}
	return data, nil
}

// valueOf returns a value of HCL as JSON has it.
func valueOf(value cty.Value) (any, error) {
	text, err := ctyjson.Marshal(value, value.Type())
	if err != nil {
		return nil, err
	}
	var decoded any
	err = json.Unmarshal(text, &decoded)
	return decoded, err
}

// checkServer checks the configuration of an OpenBao server, by the names that OpenBao's documentation has.
func checkServer(body *hclsyntax.Body) error {
	known := map[string][]string{
		"storage":  {"path", "node_id"},
		"listener": {"address", "tls_cert_file", "tls_key_file", "max_request_json_strings", "max_request_json_memory"},
		"plugin":   {"image", "command", "version", "binary_name", "sha256sum", "args", "env"},
		"":         {"api_addr", "cluster_addr", "plugin_directory", "plugin_auto_download", "plugin_auto_register", "plugin_download_behavior"},
	}
	check := func(kind string, attributes hclsyntax.Attributes) error {
		for name, attribute := range attributes {
			if !slices.Contains(known[kind], name) {
				return fmt.Errorf("%s %s is not known", kind, name)
			}
			value, diagnostics := attribute.Expr.Value(nil)
			if diagnostics.HasErrors() {
				return diagnostics
			}
			if name == "sha256sum" && !sha256sum.MatchString(value.AsString()) {
				return errors.New("sha256sum is no SHA-256")
			}
		}
		return nil
	}
	if err := check("", body.Attributes); err != nil {
		return err
	}
	for _, block := range body.Blocks {
		if known[block.Type] == nil {
			return fmt.Errorf("the block %s is not known", block.Type)
		}
		if block.Type == "plugin" && (len(block.Labels) != 2 || block.Labels[0] != "secret") {
			return fmt.Errorf("plugin %q: a type and a name are expected, and the type is secret", block.Labels)
		}
		if err := check(block.Type, block.Body.Attributes); err != nil {
			return err
		}
	}
	return nil
}

var sha256sum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// literal returns the value of a literal text, "" if the attribute is absent or something else.
func literal(attributes hclsyntax.Attributes, name string) string {
	attribute := attributes[name]
	if attribute == nil {
		return ""
	}
	value, diagnostics := attribute.Expr.Value(nil)
	if diagnostics.HasErrors() || value.Type() != cty.String {
		return ""
	}
	return value.AsString()
}

// readBeside reads a file whose name is relative to the folder of another.
func readBeside(file, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), name))
	return string(text), err
}
