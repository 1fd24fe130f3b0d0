// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
	"unicode/utf8"
)

const (
	// maxTemplate limits the text of a template, in bytes.
	maxTemplate = 1024

	// maxTemplateValue limits every value in the execution of a template, and its result, in bytes. Comments and display names end
	// at 255.
	maxTemplateValue = 1024
)

// commentData has the fields that a template can use.
type commentData struct {
	RoleName, DisplayName, EntityName, RequestID, MountPath string
}

// textTemplate is the template of a comment or display name. Whatever its text, one execution costs no more than a few KiB at a time:
// it has no loops, and fields, results of functions and the whole result are cut at maxTemplateValue bytes. It is safe for
// concurrent use.
type textTemplate struct {
	parsed *template.Template

	// plain is the whole template, where it has nothing but text, fields and "or", as most have; else nil. It gives the same result as
	// parsed, whose reflection takes more time than all the rest that a mint decides.
	plain plainTemplate
}

// parseTemplate compiles a template, and refuses what templates may not do. It accepts all templates that checkTemplate accepts.
func parseTemplate(text string) (*textTemplate, error) {
	return compileTemplate(text, time.Now, cutResult)
}

// checkTemplate returns an error for a template that can't be parsed, or that fails or is cut with one of the samples. Its outcome does not
// depend on the date. The error describes the mistake and is for a fieldError.
func checkTemplate(text string, samples []commentData) error {
	return tryTemplate(text, samples, func(function, value string) (string, error) {
		if len(value) > maxTemplateValue {
			return "", fmt.Errorf("%s would return more than %d bytes", function, maxTemplateValue)
		}
		return value, nil
	}, fmt.Errorf("would be more than %d bytes long with short names; shorten it", maxTemplateValue))
}

// templateFails returns an error for a template that can't be parsed, or that fails with one of the samples in a mint, where what is too
// long is cut.
func templateFails(text string, samples []commentData) error {
	return tryTemplate(text, samples, cutResult, nil)
}

// tryTemplate executes a template with all samples. full is the error for a result that is too long.
func tryTemplate(text string, samples []commentData, limit func(function, value string) (string, error), full error) error {
	// At one of these, each part of a layout is as long as it can be.
	for _, month := range []time.Month{time.September, time.December} {
		date := func() time.Time { return time.Date(2026, month, 30, 23, 59, 59, 999999999, time.UTC) }
		compiled, err := compileTemplate(text, date, limit)
		if err != nil {
			return err
		}
		for _, sample := range samples {
			var result boundedText
			err = compiled.parsed.Execute(&result, sample)
			switch {
			case errors.Is(err, errTextFull):
				err = full
			case err != nil && strings.Contains(err.Error(), "can't evaluate field"):
				err = fmt.Errorf("%w; the fields are .RoleName, .DisplayName, .EntityName, .RequestID and .MountPath", plainTemplateError(err))
			case err != nil:
				err = plainTemplateError(err)
			}
			if err == nil {
				continue
			}
			if missing := sample.missing(); missing != "" && !errors.Is(err, full) {
				return fmt.Errorf("%w; it must do for a caller with %s, too", err, missing)
			}
			return err
		}
	}
	return nil
}

// templateSamples returns the names that callers of a role can have. Those of the role and of the mount are certain.
func templateSamples(role, mount string) []commentData {
	var samples []commentData
	for _, entity := range []string{"entity", "", "e"} {
		for _, display := range []string{"display-name", "", "d"} {
			samples = append(samples, commentData{
				RoleName: role, DisplayName: display, EntityName: entity, RequestID: "00000000-0000-0000-0000-000000000000", MountPath: mount,
			})
		}
	}
	return samples
}

// staticSamples is templateSamples of a static role, with those of a scheduled rotation, which nobody in particular asks for.
func staticSamples(role, mount string) []commentData {
	return append(templateSamples(role, mount), commentData{RoleName: role, MountPath: mount})
}

// missing says what a sample is short of, "" for nothing.
func (d *commentData) missing() string {
	switch {
	case d.RequestID == "":
		return "no names at all, as in a scheduled rotation"
	case d.EntityName == "" && d.DisplayName == "":
		return "no entity and no display name"
	case d.EntityName == "":
		return "no entity"
	case d.DisplayName == "":
		return "no display name"
	case len(d.EntityName) == 1 || len(d.DisplayName) == 1:
		return "a short name"
	default:
		return ""
	}
}

var (
	// templateErrorStart is where Go says in which template and line a mistake is, and what it was doing; templateErrorType is which of its
	// own types it met.
	templateErrorStart = regexp.MustCompile(`^template: template:\d+(:\d+)?: (executing "template" at )?`)
	templateErrorType  = regexp.MustCompile(` in type [\w.*\[\]]+`)
)

// plainTemplateError leaves of an error of package text/template what its user can read.
func plainTemplateError(err error) error {
	text := templateErrorStart.ReplaceAllString(err.Error(), "")
	text = templateErrorType.ReplaceAllString(text, "")
	return errors.New(strings.ReplaceAll(text, "databricks.commentData", "all fields together"))
}

// cutResult is the limit of functions in a mint.
func cutResult(_, value string) (string, error) { return cutText(value), nil }

// execute returns the result of the template, cut at maxTemplateValue bytes.
func (t *textTemplate) execute(data commentData) (string, error) {
	for _, field := range []*string{&data.RoleName, &data.DisplayName, &data.EntityName, &data.RequestID, &data.MountPath} {
		*field = cutText(*field)
	}
	if t.plain != nil {
		return t.plain.execute(&data), nil
	}
	var result boundedText
	if err := t.parsed.Execute(&result, data); err != nil && !errors.Is(err, errTextFull) {
		return "", plainTemplateError(err)
	}
	return cutText(result.String()), nil
}

func compileTemplate(text string, now func() time.Time, limit func(function, value string) (string, error)) (*textTemplate, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("is %d bytes long; the limit is %d", len(text), maxTemplate)
	}
	parsed, err := template.New("template").Funcs(templateFunctions(now, limit)).Parse(text)
	if err != nil {
		return nil, plainTemplateError(err)
	}
	for _, t := range parsed.Templates() {
		if t != parsed {
			return nil, errTemplateLoops // a definition
		}
	}
	if err := checkNodes(parsed.Tree.Root); err != nil {
		return nil, err
	}
	return &textTemplate{parsed, plainForm(parsed.Root)}, nil
}

// templateFunctions returns the functions of Vault's username templates, each of which passes its result to limit where that can be
// longer than a constant. Fields and constants are short, so no call has a longer argument than limit lets pass.
func templateFunctions(now func() time.Time, limit func(function, value string) (string, error)) template.FuncMap {
	return template.FuncMap{
		"base64": func(text string) (string, error) {
			return limit("base64", base64.StdEncoding.EncodeToString([]byte(text)))
		},
		"lowercase": func(text string) (string, error) { return limit("lowercase", strings.ToLower(text)) },
		"uppercase": func(text string) (string, error) { return limit("uppercase", strings.ToUpper(text)) },
		"replace": func(find, replacement, text string) (string, error) {
			// So many replacements exceed the limit, so that what the others would change is cut.
			most := maxTemplateValue/max(1, len(replacement)) + 1
			return limit("replace", strings.Replace(text, find, replacement, most))
		},
		"random": func(length int) (string, error) {
			if length < 1 || length > 64 {
				return "", fmt.Errorf("random takes 1 to 64, not %d", length)
			}
			var text strings.Builder
			for text.Len() < length {
				text.WriteString(rand.Text())
			}
			return text.String()[:length], nil
		},
		"sha256": hexSHA256,
		"timestamp": func(layout string) (string, error) {
			return limit("timestamp", now().UTC().Format(layout)) // at most about three times as long as the layout
		},
		"truncate": func(length int, text string) (string, error) {
			if length < 1 {
				return "", fmt.Errorf("truncate takes 1 or more, not %d", length)
			}
			return text[:min(length, len(text))], nil
		},
		"truncate_sha256": func(length int, text string) (string, error) {
			const digits = 8
			if length <= digits {
				return "", fmt.Errorf("truncate_sha256 takes more than %d, not %d", digits, length)
			}
			if len(text) <= length {
				return text, nil
			}
			start := length - digits
			return text[:start] + hexSHA256(text[start:])[:digits], nil
		},
		"unix_time":        func() string { return strconv.FormatInt(now().Unix(), 10) },
		"unix_time_millis": func() string { return strconv.FormatInt(now().UnixMilli(), 10) },
		"uuid": func() string {
			var raw [16]byte
			rand.Read(raw[:]) // never fails
			return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
		},
	}
}

func hexSHA256(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// templateBuiltins are the functions of package text/template that templates can use. Their results are numbers, booleans, parts of an
// argument or one of the arguments. The others can make longer ones.
var templateBuiltins = []string{"and", "eq", "ge", "gt", "index", "le", "len", "lt", "ne", "not", "or", "slice"}

// templateNames has the names of all functions that templates can use.
var templateNames = append(slices.Sorted(maps.Keys(templateFunctions(nil, nil))), templateBuiltins...)

var errTemplateLoops = errors.New("may not loop; use plain fields, functions and if")

// checkNodes refuses functions that are not listed, and actions with which a template could run for long or call itself.
func checkNodes(node parse.Node) error {
	var inner []parse.Node
	switch n := node.(type) {
	case *parse.ListNode:
		if n != nil { // an absent else
			inner = n.Nodes
		}
	case *parse.ActionNode:
		inner = []parse.Node{n.Pipe}
	case *parse.IfNode:
		inner = []parse.Node{n.Pipe, n.List, n.ElseList}
	case *parse.WithNode:
		inner = []parse.Node{n.Pipe, n.List, n.ElseList}
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			inner = append(inner, command)
		}
	case *parse.CommandNode:
		inner = n.Args
	case *parse.ChainNode:
		inner = []parse.Node{n.Node}
	case *parse.IdentifierNode:
		if !slices.Contains(templateNames, n.Ident) {
			return fmt.Errorf("%s is not available in templates; the functions are %s", n.Ident, strings.Join(templateNames, ", "))
		}
	case *parse.TextNode, *parse.CommentNode, *parse.BoolNode, *parse.DotNode, *parse.FieldNode, *parse.NilNode, *parse.NumberNode,
		*parse.StringNode, *parse.VariableNode:
	default:
		return errTemplateLoops
	}
	for _, n := range inner {
		if err := checkNodes(n); err != nil {
			return err
		}
	}
	return nil
}

// errTextFull ends the execution of a template whose result is long enough.
var errTextFull = errors.New("the text is as long as it can be")

// boundedText collects the result of a template until it is longer than maxTemplateValue.
type boundedText struct{ strings.Builder }

func (b *boundedText) Write(p []byte) (int, error) {
	room := maxTemplateValue - b.Len()
	if len(p) > room {
		b.Builder.Write(p[:room])
		return room, errTextFull
	}
	return b.Builder.Write(p)
}

// cutText returns the text, cut at maxTemplateValue bytes, between two characters.
func cutText(text string) string {
	if len(text) <= maxTemplateValue {
		return text
	}
	end := maxTemplateValue
	for end > maxTemplateValue-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}
