// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// requireSameByPlainForm requires that the plain form of a template, if it has one, does what text/template does, and reports whether it has.
func requireSameByPlainForm(t *testing.T, text string, data commentData) bool {
	t.Helper()
	compiled, err := parseTemplate(text)
	if err != nil || compiled.plain == nil {
		return false
	}
	got, err := compiled.execute(data)
	require.NoError(t, err, text)
	compiled.plain = nil
	want, err := compiled.execute(data)
	require.NoError(t, err, text)
	require.Equal(t, want, got, text)
	return true
}

func TestPlainTemplates(t *testing.T) {
	t.Parallel()
	for text, plain := range map[string]bool{
		defaultComment:         true,
		defaultStaticComment:   true,
		"":                     true,
		"text":                 true,
		"{{/* a comment */}}x": true,
		" {{- .RoleName -}} x{{.DisplayName}}{{.EntityName}}{{.RequestID}}{{.MountPath}}": true,
		"{{`x`}}{{\"\\u00fc\"}}":            true,
		"{{or .EntityName}}":                true,
		"{{or .EntityName ``}}":             true,
		"{{or `` .EntityName .MountPath}}":  true,
		"{{or}}":                            false,
		"{{or .EntityName | or .RoleName}}": false,
		"{{or (uppercase .RoleName) `x`}}":  false,
		"{{or .EntityName 1}}":              false,
		"{{.RoleName | uppercase}}":         false,
		"{{$x := .RoleName}}":               false,
		"{{.}}":                             false,
		"{{.Nothing}}":                      false,
		"{{.RoleName.Nothing}}":             false,
		"{{if .RoleName}}x{{end}}":          false,
		"{{and .RoleName `x`}}":             false,
		"{{nil}}":                           false,
		"{{true}}":                          false,
	} {
		for _, data := range append(templateSamples("etl", "databricks/"), longest, commentData{}) {
			require.Equal(t, plain, requireSameByPlainForm(t, text, data), text)
		}
	}
}

func FuzzPlainTemplate(f *testing.F) {
	f.Add(defaultComment, "etl", "token-ci", "alice")
	f.Add("{{or .EntityName `x`}} {{.DisplayName}}", "\xff", "語", "")
	f.Fuzz(func(t *testing.T, text, role, display, entity string) {
		requireSameByPlainForm(t, text, commentData{RoleName: role, DisplayName: display, EntityName: entity, MountPath: "databricks/"})
	})
}
