// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// apiAreas are the sections of docs/api.md: paths that begin with one of the words belong to it.
var apiAreas = []struct {
	title string
	words []string
}{
	{"Connection", []string{"config"}},
	{"Roles and credentials", []string{"roles", "creds"}},
	{"Rotated credentials", []string{"static-roles", "static-creds", "rotate-role"}},
	{"Personal access tokens", []string{"tokens"}},
	{"Secret scopes", []string{"scopes"}},
	{"Secrets in scopes", []string{"secrets"}},
	{"Permissions on scopes", []string{"acls"}},
	{"Secrets in Unity Catalog", []string{"uc-secrets"}},
	{"State of the mount", []string{"status"}},
	{"Cleaning up", []string{"tidy"}},
}

// apiOperations are the operations in the order of the page, with how they are asked for.
var apiOperations = []struct {
	op         logical.Operation
	name, http string
}{
	{logical.ListOperation, "list", "LIST"},
	{logical.ReadOperation, "read", "GET"},
	{logical.CreateOperation, "create", "POST"},
	{logical.UpdateOperation, "write", "POST"},
	{logical.PatchOperation, "patch", "PATCH"},
	{logical.DeleteOperation, "delete", "DELETE"},
}

// apiPage describes every path, from what the engine tells Vault of it.
func apiPage(t *testing.T) string {
	var page, toc, body strings.Builder
	paths := newPaths()
	seen := 0
	for _, area := range apiAreas {
		var rows [][]string
		helped := map[string]bool{}
		fmt.Fprintf(&body, "\n## %s\n", area.title)
		for _, path := range paths {
			name := readablePath(path.Pattern)
			word, _, _ := strings.Cut(name, "/")
			if !slices.Contains(area.words, word) {
				continue
			}
			seen++
			var ops []string
			for _, o := range apiOperations {
				if path.Operations[o.op] != nil && (o.op != logical.CreateOperation || path.Operations[logical.UpdateOperation] == nil) {
					ops = append(ops, o.name)
				}
			}
			rows = append(rows, []string{fmt.Sprintf("[`%s`](#%s)", name, anchor(name)), strings.Join(ops, ", "), inMarkdown(path.HelpSynopsis)})
			fmt.Fprintf(&body, "\n### `%s`\n\n%s\n", name, inMarkdown(path.HelpSynopsis))
			if !helped[path.HelpDescription] {
				helped[path.HelpDescription] = true
				body.WriteString("\n" + helpInMarkdown(path.HelpDescription))
			}
			body.WriteString(describePath(t, path))
		}
		require.NotEmpty(t, rows, area.title)
		fmt.Fprintf(&toc, "\n**[%s](#%s)**\n\n%s", area.title, anchor(area.title), table([]string{"Path", "Operations", "What it is"}, rows))
	}
	require.Equal(t, len(paths), seen, "every path has its area")
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^##+ (.+)$`).FindAllStringSubmatch(body.String(), -1) {
		require.False(t, anchors[anchor(heading[1])], "two headings have the same link: %s", heading[1])
		anchors[anchor(heading[1])] = true
	}
	page.WriteString("# API\n\n" + inMarkdown(`Every path of the engine, mounted at databricks/, as it tells Vault's OpenAPI and help of it (vault path-help databricks/<path>).
Times are RFC 3339 in UTC, durations in answers whole seconds. A duration in a request is a number of seconds or a text such as 15m. Fields in the path are
required. A parameter that a path doesn't know is refused.`) + "\n\n")
	var rows [][]string
	for _, o := range apiOperations {
		if o.op != logical.CreateOperation {
			rows = append(rows, []string{o.name, code(o.http), map[logical.Operation]string{
				logical.ListOperation: "`list`", logical.ReadOperation: "`read`", logical.UpdateOperation: "`update`; `create` too for a config or a role that does not exist yet",
				logical.PatchOperation: "`patch`", logical.DeleteOperation: "`delete`",
			}[o.op]})
		}
	}
	page.WriteString(table([]string{"Operation", "HTTP method", "Capability in a policy"}, rows))
	return page.String() + toc.String() + body.String()
}

// describePath describes operations, fields and examples of a path.
func describePath(t *testing.T, path *framework.Path) string {
	var text strings.Builder
	var rows [][]string
	type answer struct {
		names  []string
		fields map[string]*framework.FieldSchema
	}
	var answers []answer
	for _, o := range apiOperations {
		handler := path.Operations[o.op]
		if handler == nil || o.op == logical.CreateOperation && path.Operations[logical.UpdateOperation] != nil {
			continue
		}
		properties := handler.Properties()
		require.NotEmpty(t, properties.Summary, "%s %s", path.Pattern, o.name)
		rows = append(rows, []string{o.name, inMarkdown(properties.Summary)})
		for _, status := range slices.Sorted(maps.Keys(properties.Responses)) {
			for _, response := range properties.Responses[status] {
				if len(response.Fields) == 0 {
					continue
				}
				same := slices.IndexFunc(answers, func(a answer) bool { return fieldRows(a.fields, nil) == fieldRows(response.Fields, nil) })
				if same < 0 {
					answers = append(answers, answer{fields: response.Fields})
					same = len(answers) - 1
				}
				if !slices.Contains(answers[same].names, o.name) {
					answers[same].names = append(answers[same].names, o.name)
				}
			}
		}
	}
	text.WriteString("\n" + table([]string{"Operation", "What it does"}, rows))
	if len(path.Fields) > 0 {
		text.WriteString("\nParameters:\n\n" + fieldRows(path.Fields, inPath(path.Pattern)))
	}
	for _, a := range answers {
		fmt.Fprintf(&text, "\nAnswer of %s:\n\n%s", strings.Join(a.names, ", "), answerRows(a.fields, path.Fields))
	}
	for _, o := range apiOperations {
		handler := path.Operations[o.op]
		if handler == nil || o.op == logical.CreateOperation {
			continue
		}
		for _, example := range handler.Properties().Examples {
			data, err := json.Marshal(example.Data)
			require.NoError(t, err)
			fmt.Fprintf(&text, "\n%s\n\n```json\n%s\n```\n", strings.TrimSuffix(inMarkdown(example.Description), ".")+" ("+o.name+"):", data)
		}
	}
	return text.String()
}

// fieldRows is the table of fields, those in the path first. A nil list of these is for an answer.
func fieldRows(fields map[string]*framework.FieldSchema, inPath []string) string {
	var rows [][]string
	names := slices.SortedFunc(maps.Keys(fields), func(a, b string) int {
		x, y := slices.Index(inPath, a), slices.Index(inPath, b)
		if x != y && (x < 0 || y < 0) {
			return cmp.Compare(y, x)
		}
		if x != y {
			return cmp.Compare(x, y)
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		field := fields[name]
		notes := []string{inMarkdown(field.Description)}
		if len(field.AllowedValues) > 0 {
			var allowed []string
			for _, value := range field.AllowedValues {
				if value != "" {
					allowed = append(allowed, code(fmt.Sprint(value)))
				}
			}
			notes = append(notes, "One of "+strings.Join(allowed, ", ")+".")
		}
		if field.Default != nil && field.Default != "" {
			notes = append(notes, "Default: "+code(fmt.Sprint(field.Default))+".")
		}
		if field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive {
			notes = append(notes, "**Secret.**")
		}
		kind := fieldType(field.Type)
		if slices.Contains(inPath, name) {
			kind += ", in the path"
		}
		rows = append(rows, []string{code(name), kind, strings.Join(notes, " ")})
	}
	return table([]string{"Field", "Type", "Meaning"}, rows)
}

// answerRows is fieldRows for an answer. What shows a parameter as it is stored is only named.
func answerRows(fields, parameters map[string]*framework.FieldSchema) string {
	more := maps.Clone(fields)
	var stored []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if p := parameters[name]; p != nil && p.Description == fields[name].Description {
			stored = append(stored, code(name))
			delete(more, name)
		}
	}
	text := ""
	if len(stored) > 0 {
		text = "The parameters as they are stored, durations in whole seconds: " + strings.Join(stored, ", ") + ".\n"
	}
	if len(more) > 0 && text != "" {
		text += "\n"
	}
	if len(more) > 0 {
		text += fieldRows(more, nil)
	}
	return text
}

func fieldType(kind framework.FieldType) string {
	switch kind {
	case framework.TypeDurationSecond, framework.TypeSignedDurationSecond:
		return "duration"
	case framework.TypeCommaStringSlice:
		return "list, or text with commas"
	case framework.TypeStringSlice, framework.TypeSlice:
		return "list"
	case framework.TypeKVPairs, framework.TypeMap:
		return "map"
	case framework.TypeInt, framework.TypeInt64:
		return "integer"
	case framework.TypeFloat:
		return "number"
	default:
		return kind.String()
	}
}

var groupName = regexp.MustCompile(`\(\?P<(\w+)>`)

// inPath are the names of the fields in a path, in their order.
func inPath(pattern string) []string {
	names := []string{}
	for _, found := range groupName.FindAllStringSubmatch(pattern, -1) {
		names = append(names, found[1])
	}
	return names
}

// readablePath is the pattern of a path as people write it: secrets/<scope>/<key>.
func readablePath(pattern string) string {
	pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "^"), "$")
	var path strings.Builder
	for pattern != "" {
		at := groupName.FindStringSubmatchIndex(pattern)
		if at == nil {
			path.WriteString(pattern)
			break
		}
		path.WriteString(pattern[:at[0]] + "<" + pattern[at[2]:at[3]] + ">")
		depth, end := 1, at[1]
		for ; depth > 0; end++ {
			switch pattern[end] {
			case '(':
				depth++
			case ')':
				depth--
			}
		}
		pattern = pattern[end:]
	}
	return strings.ReplaceAll(path.String(), "/?", "/")
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9_ -]`)

func anchor(heading string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// Words that are code in a sentence: paths, fields with an underscore, assignments, patterns in angle brackets, commands.
var asCode = regexp.MustCompile(`\bvault (?:read|write|list|delete|lease|secrets|plugin|path-help)\b[^.;,)]*(?:[.;,][^\s.;,)][^.;,)]*)*|[\w./-]*<[\w./<>-]+>[\w./]*|\{\{[^}]*\}\}|\b[a-z0-9]+(?:_[a-z0-9]+)+(?:=[\w.…/-]+)?|\b[a-z]+=[\w.…/-]+|~/\.\w+|\b[A-Z]+(?:_[A-Z]+)+\b\*?|\b(?:config|creds|roles|tokens|scopes|secrets|acls|status|tidy|static-roles|static-creds|rotate-role|databricks|sys)/[\w./…<>-]*`)

// inMarkdown quotes what would be markup, and sets code as code.
func inMarkdown(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	var out strings.Builder
	for {
		at := asCode.FindStringIndex(text)
		if at == nil {
			return out.String() + quoteMarkup(text)
		}
		found := strings.TrimRight(text[at[0]:at[1]], " ")
		rest := strings.TrimRight(found, ".:")
		out.WriteString(quoteMarkup(text[:at[0]]) + code(rest))
		text = text[at[0]+len(rest):]
	}
}

func quoteMarkup(text string) string { return strings.NewReplacer("*", `\*`, "<", `\<`).Replace(text) }

// helpInMarkdown makes paragraphs of a help text, and console blocks of its indented lines.
func helpInMarkdown(help string) string {
	var out strings.Builder
	for _, part := range strings.Split(strings.TrimSpace(help), "\n\n") {
		if !strings.HasPrefix(part, "  ") {
			out.WriteString(inMarkdown(part) + "\n\n")
			continue
		}
		out.WriteString("```console\n")
		for line := range strings.Lines(part) {
			line = strings.TrimPrefix(strings.TrimRight(line, "\n"), "  ")
			if !strings.HasPrefix(line, " ") {
				line = "$ " + line
			}
			out.WriteString(line + "\n")
		}
		out.WriteString("```\n\n")
	}
	return strings.TrimRight(strings.ReplaceAll(out.String(), "```\n\n```console\n", ""), "\n") + "\n"
}
