// SPDX-License-Identifier: MPL-2.0

package examples

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/zclconf/go-cty/cty"
)

// parseAgent reads the templates of a configuration of Vault Agent. Agent itself checks the rest, in the end-to-end tests.
func parseAgent(file string, body *hclsyntax.Body) ([]Request, error) {
	var requests []Request
	for _, block := range body.Blocks {
		if block.Type != "template" && block.Type != "env_template" {
			continue
		}
		contents := literal(block.Body.Attributes, "contents")
		if contents == "" {
			return nil, fmt.Errorf("%s has no contents", block.Type)
		}
		read, err := parseTemplate(contents)
		if err != nil {
			return nil, err
		}
		requests = append(requests, read...)
		if path.Ext(literal(block.Body.Attributes, "destination")) != ".json" {
			continue
		}
		write, err := parseRendered(file, contents, block.Body)
		if err != nil {
			return nil, err
		}
		requests = append(requests, write)
	}
	if len(requests) == 0 {
		return nil, errors.New("has no template")
	}
	return requests, nil
}

// parseTemplate returns what a template of Agent reads: {{ with secret "path" }}…{{ .Data.field }}…{{ end }}.
func parseTemplate(text string) ([]Request, error) {
	trees, err := parseTrees(text)
	if err != nil {
		return nil, err
	}
	var requests []Request
	for _, tree := range trees {
		for _, node := range tree.Root.Nodes {
			with, ok := node.(*parse.WithNode)
			if !ok {
				if _, isText := node.(*parse.TextNode); !isText {
					return nil, fmt.Errorf("%s: only text and {{ with secret … }} are expected at the top of a template", node)
				}
				continue
			}
			request := Request{Operation: logical.ReadOperation}
			command := with.Pipe.Cmds[0].Args
			name, isSecret := command[0].(*parse.IdentifierNode)
			argument, isText := command[len(command)-1].(*parse.StringNode)
			if !isSecret || name.Ident != "secret" || !isText || len(command) != 2 {
				return nil, fmt.Errorf("%s: expected secret with a path", with.Pipe)
			}
			request.Path = argument.Text
			for _, inner := range with.List.Nodes {
				action, ok := inner.(*parse.ActionNode)
				if !ok {
					continue
				}
				field, ok := action.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
				if !ok || len(field.Ident) < 2 || field.Ident[0] != "Data" {
					return nil, fmt.Errorf("%s: expected a field of .Data", action)
				}
				request.Answer = append(request.Answer, field.Ident[1])
			}
			requests = append(requests, request)
		}
	}
	return requests, nil
}

func parseTrees(text string) (map[string]*parse.Tree, error) {
	tree := parse.New("template")
	tree.Mode = parse.SkipFuncCheck
	trees := make(map[string]*parse.Tree)
	_, err := tree.Parse(text, "{{", "}}", trees)
	return trees, err
}

// parseRendered returns the write of a JSON that Agent renders from a KV secret, by the script that it runs.
func parseRendered(file, contents string, body *hclsyntax.Body) (Request, error) {
	rendered, err := renderKV(contents)
	if err != nil {
		return Request{}, err
	}
	var data map[string]any
	if err := json.Unmarshal(rendered, &data); err != nil {
		return Request{}, fmt.Errorf("renders no JSON: %w: %s", err, rendered)
	}
	for _, block := range body.Blocks {
		attribute := block.Body.Attributes["command"]
		if block.Type != "exec" || attribute == nil {
			continue
		}
		command, diagnostics := attribute.Expr.Value(nil)
		if diagnostics.HasErrors() || command.LengthInt() == 0 {
			return Request{}, fmt.Errorf("command: %w", diagnostics)
		}
		script := command.Index(cty.NumberIntVal(0)).AsString()
		text, err := readBeside(file, path.Base(script))
		if err != nil {
			return Request{}, err
		}
		commands, err := parseCommands(text)
		if err != nil {
			return Request{}, err
		}
		for _, r := range commands {
			if r.Operation == logical.UpdateOperation && strings.HasPrefix(r.Path, mountPrefix) {
				r.Data = data
				return r, nil
			}
		}
	}
	return Request{}, errors.New("the JSON is written nowhere")
}

// renderKV renders a template as Agent does, with a secret of two keys.
func renderKV(contents string) ([]byte, error) {
	type secret struct{ Data map[string]any }
	t, err := template.New("template").Option("missingkey=error").Funcs(template.FuncMap{
		"secret": func(string) secret {
			return secret{Data: map[string]any{"data": map[string]any{"user": "etl", "password": "s3cr3t"}}}
		},
		"toJSON": func(value any) (string, error) {
			text, err := json.Marshal(value)
			return string(text), err
		},
	}).Parse(contents)
	if err != nil {
		return nil, err
	}
	var rendered bytes.Buffer
	err = t.Execute(&rendered, nil)
	return rendered.Bytes(), err
}
