// SPDX-License-Identifier: MPL-2.0

package databricks

import "text/template/parse"

// plainTemplate is a template that has nothing but text, fields and "or".
type plainTemplate []templatePart

// templatePart stands for the first of its choices that isn't empty.
type templatePart []templateChoice

// templateChoice is a text or a field.
type templateChoice struct {
	text  string
	field func(*commentData) string // nil for a text
}

var templateFields = map[string]func(*commentData) string{
	"RoleName":    func(d *commentData) string { return d.RoleName },
	"DisplayName": func(d *commentData) string { return d.DisplayName },
	"EntityName":  func(d *commentData) string { return d.EntityName },
	"RequestID":   func(d *commentData) string { return d.RequestID },
	"MountPath":   func(d *commentData) string { return d.MountPath },
}

// plainForm returns the template in its plain form, nil where it has none.
func plainForm(list *parse.ListNode) plainTemplate {
	plain := plainTemplate{}
	for _, node := range list.Nodes {
		part := plainPart(node)
		if part == nil {
			return nil
		}
		plain = append(plain, part)
	}
	return plain
}

func plainPart(node parse.Node) templatePart {
	if text, ok := node.(*parse.TextNode); ok {
		return templatePart{{text: string(text.Text)}}
	}
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Cmds) != 1 || len(action.Pipe.Decl) > 0 {
		return nil
	}
	choices := action.Pipe.Cmds[0].Args
	if name, ok := choices[0].(*parse.IdentifierNode); ok && name.Ident == "or" {
		choices = choices[1:]
	} else if len(choices) > 1 {
		return nil
	}
	var part templatePart
	for _, choice := range choices {
		switch choice := choice.(type) {
		case *parse.StringNode:
			part = append(part, templateChoice{text: choice.Text})
		case *parse.FieldNode:
			field := templateFields[choice.Ident[0]]
			if field == nil || len(choice.Ident) > 1 {
				return nil
			}
			part = append(part, templateChoice{field: field})
		default:
			return nil
		}
	}
	return part
}

// execute returns the result, cut at maxTemplateValue bytes.
func (t plainTemplate) execute(data *commentData) string {
	text := make([]byte, 0, 128)
	for _, part := range t {
		text = append(text, part.value(data)...)
		if len(text) > maxTemplateValue {
			return string(text[:maxTemplateValue])
		}
	}
	return string(text)
}

func (p templatePart) value(data *commentData) string {
	for _, choice := range p {
		if choice.field == nil && choice.text != "" {
			return choice.text
		}
		if choice.field != nil {
			if value := choice.field(data); value != "" {
				return value
			}
		}
	}
	return ""
}
