// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommentTemplates(t *testing.T) {
	t.Parallel()
	data := commentData{RoleName: "etl", DisplayName: "token-ci"}
	for template, want := range map[string]string{
		"":                               "Vault role etl for token-ci",
		"{{.RoleName | uppercase}}":      "ETL",
		"{{if .EntityName}}x{{end}}none": "none",
	} {
		compiled, err := parseComment(template)
		require.NoError(t, err, template)
		got, err := compiled.Generate(data)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	compiled, err := parseComment("{{random 64}}")
	require.NoError(t, err)
	got, err := compiled.Generate(data)
	require.NoError(t, err)
	require.Len(t, got, 64)
}
