// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// updateDocs makes TestGeneratedDocs write what it otherwise compares: go test -run TestGeneratedDocs -update ., which is make docs.
var updateDocs = flag.Bool("update", false, "write the generated pages of docs/")

const generatedNote = "<!-- Generated from the code by `make docs`. Don't edit. -->\n\n"

// TestGeneratedDocs fails when a page that is generated from the code is not up to date.
func TestGeneratedDocs(t *testing.T) {
	t.Parallel()
	pages := map[string]string{"docs/api.md": generatedNote + apiPage(t), "docs/events.md": generatedNote + eventsPage()}
	const operations = "docs/operations.md"
	manual, err := os.ReadFile(operations)
	require.NoError(t, err)
	const begin, end = "<!-- Generated from the code by `make docs`: -->\n", "<!-- end -->\n"
	before, rest, found := strings.Cut(string(manual), begin)
	require.True(t, found, operations)
	_, after, found := strings.Cut(rest, end)
	require.True(t, found, operations)
	pages[operations] = before + begin + reasonsTable() + end + after
	for page, text := range pages {
		if *updateDocs {
			require.NoError(t, os.WriteFile(page, []byte(text), 0o644))
			continue
		}
		written, err := os.ReadFile(page)
		require.NoError(t, err, "run: make docs")
		require.Equal(t, text, string(written), "%s is stale; run: make docs", page)
	}
}

// TestLogLinesOfTheManualAreLogged: who alerts on a line must not wait for one that was reworded.
func TestLogLinesOfTheManualAreLogged(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(manual), "\n## Log lines\n")
	require.True(t, found)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var source strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		source.Write(text)
	}
	rows := regexp.MustCompile(`(?m)^\| (?:error|warn) \| (.+) \| .+ \|$`).FindAllStringSubmatch(section, -1)
	require.Greater(t, len(rows), 5)
	for _, row := range rows {
		for _, line := range strings.Split(row[1], ", `") {
			require.Contains(t, source.String(), `"`+strings.Trim(line, "`"))
		}
	}
}

// table writes a table of Markdown.
func table(header []string, rows [][]string) string {
	var text strings.Builder
	line := func(cells []string) {
		for _, cell := range cells {
			fmt.Fprintf(&text, "| %s ", strings.ReplaceAll(cell, "|", `\|`))
		}
		text.WriteString("|\n")
	}
	line(header)
	text.WriteString(strings.Repeat("|---", len(header)) + "|\n")
	for _, row := range rows {
		line(row)
	}
	return text.String()
}

func code(text string) string { return "`" + text + "`" }

// reasonsTable describes the reasons of a verdict.
func reasonsTable() string {
	var rows [][]string
	for _, rule := range verdictRules {
		rows = append(rows, []string{code(rule.reason), rule.severity, inMarkdown(rule.when), inMarkdown(rule.advice)})
	}
	return table([]string{"Reason", "Verdict", "When", "What to do"}, rows)
}

// eventsPage describes the events.
func eventsPage() string {
	var page strings.Builder
	page.WriteString(strings.TrimLeft(`
# Events

The engine sends an event to Vault's event bus for what it has done. Vault Enterprise lets clients subscribe:

`+"```console"+`
$ vault events subscribe 'databricks/*'
`+"```"+`

An event has ids and names, and never a value. Its type is `+"`databricks/`"+` and the name below. Besides the fields below, its metadata has `+"`path`, the"+`
path below the mount, and `+"`modified`, which is `true`"+`; Vault adds which mount it is from. All values are strings.

What failed, or was undone because nobody got it, sends none, except where the name says so (`+"`-fail`, `-rollback`"+`). No request waits for its event. Events
are no proof that nothing else happened: `+"`events_dropped` in `databricks/status`"+` counts those that the bus did not get, and Vault's audit log has every request.

`, "\n"))
	var rows [][]string
	for _, e := range eventTypes {
		rows = append(rows, []string{fmt.Sprintf("[`%s`](#%s)", e.kind, e.kind), e.when})
	}
	page.WriteString(table([]string{"Event", "When"}, rows))
	for _, e := range eventTypes {
		fmt.Fprintf(&page, "\n## %s\n\n%s\n", e.kind, e.when)
		if len(e.fields) > 0 {
			rows = nil
			for _, field := range e.fields {
				text := field.text
				if field.sometimes {
					text += ". May be absent"
				}
				rows = append(rows, []string{code(field.name), text})
			}
			page.WriteString("\n" + table([]string{"Field", "Meaning"}, rows))
		}
		example := []string{fmt.Sprintf("%q: %q", "path", e.path), `"modified": "true"`}
		for i, field := range e.fields {
			if e.example[i] != "" {
				example = append(example, fmt.Sprintf("%q: %q", field.name, e.example[i]))
			}
		}
		fmt.Fprintf(&page, "\n```json\n{%q: %q, \"metadata\": {%s}}\n```\n", "event_type", "databricks/"+e.kind, strings.Join(example, ", "))
	}
	return page.String()
}
