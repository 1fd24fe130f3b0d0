// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestMarker(t *testing.T) {
	t.Parallel()
	m := marker{mountID: testMountID, nonce: strings.Repeat("a1", 16), until: time.Unix(1800000000, 0).UTC()}
	got, ok := parseMarker(m.comment("Vault role etl for alice"))
	require.True(t, ok)
	require.Equal(t, m, got)
	require.Equal(t, "Vault role etl for alice vault:"+testMountID+":"+m.nonce+":1800000000", m.comment("Vault role etl for alice"))
	require.Equal(t, m.String(), m.comment(" \n"), "a marker alone is a comment")

	kept := m
	kept.kept = true
	got, ok = parseMarker(kept.comment("Vault static role bi"))
	require.True(t, ok)
	require.Equal(t, kept, got)
	require.Equal(t, m.String()+":kept", kept.String())

	for _, comment := range []string{
		kept.String() + ":kept", m.String() + ":", m.String() + ":keep", strings.Replace(kept.String(), ":kept", " :kept", 1),
		"", "vault", "made by hand", m.String() + " ", m.String() + "x", "x" + m.String(), strings.Replace(m.String(), "a1", "A1", 1),
		strings.TrimSuffix(m.String(), "1800000000"), "vault::" + m.nonce + ":1", m.String() + "\n",
	} {
		_, ok := parseMarker(comment)
		require.False(t, ok, comment)
	}

	// A marker in the text is not taken for the one at the end.
	forged := marker{mountID: "another", nonce: strings.Repeat("b2", 16), until: time.Unix(1, 0).UTC()}
	got, ok = parseMarker(m.comment("for " + forged.String()))
	require.True(t, ok)
	require.Equal(t, m, got)
}

// FuzzComment shows that no text can hide or change the marker, or make the comment too long.
func FuzzComment(f *testing.F) {
	f.Add("Vault role etl for alice")
	f.Add("ends in a marker vault:x:" + strings.Repeat("0", 32) + ":1")
	f.Add(strings.Repeat("ü", 300))
	f.Add("line\nbreak\x00\xff")
	f.Fuzz(func(t *testing.T, text string) {
		m := marker{mountID: testMountID, nonce: strings.Repeat("a1", 16), until: time.Unix(1800000000, 0).UTC()}
		comment := m.comment(text)
		got, ok := parseMarker(comment)
		if !ok || got != m {
			t.Fatalf("%q: %+v", comment, got)
		}
		if len(comment) > maxComment || !utf8.ValidString(comment) || strings.ContainsAny(comment, "\n\r\x00") {
			t.Fatalf("%q", comment)
		}
	})
}

// FuzzParseMarker shows that what is taken for a marker is one.
func FuzzParseMarker(f *testing.F) {
	f.Add("vault:" + testMountID + ":" + strings.Repeat("0", 32) + ":1800000000")
	f.Add("x vault:" + testMountID + ":" + strings.Repeat("0", 32) + ":1800000000:kept")
	f.Fuzz(func(t *testing.T, comment string) {
		m, ok := parseMarker(comment)
		if ok && (!strings.Contains(comment, m.nonce) || m.kept != strings.HasSuffix(comment, ":kept")) {
			t.Fatalf("%q: %+v", comment, m)
		}
	})
}

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
