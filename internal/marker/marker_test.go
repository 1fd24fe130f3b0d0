// SPDX-License-Identifier: MPL-2.0

package marker

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const mountID = "5c9cf6b5-8f0b-4b3e-9d6e-0c2b2d3e4f50"

func TestMark(t *testing.T) {
	t.Parallel()
	m := Mark{MountID: mountID, Nonce: strings.Repeat("a1", 16), Until: time.Unix(1800000000, 0).UTC()}
	got, ok := Parse(m.Comment("Vault role etl for alice"))
	require.True(t, ok)
	require.Equal(t, m, got)
	require.Equal(t, "Vault role etl for alice vault:"+mountID+":"+m.Nonce+":1800000000", m.Comment("Vault role etl for alice"))
	require.Equal(t, m.String(), m.Comment(" \n"), "a marker alone is a comment")

	stored := m
	stored.Stored = true
	got, ok = Parse(stored.Comment("Vault static role bi"))
	require.True(t, ok)
	require.Equal(t, stored, got)
	require.Equal(t, m.String()+":kept", stored.String())

	for _, comment := range []string{
		stored.String() + ":kept", m.String() + ":", m.String() + ":keep", strings.Replace(stored.String(), ":kept", " :kept", 1),
		"", "vault", "made by hand", m.String() + " ", m.String() + "x", "x" + m.String(), strings.Replace(m.String(), "a1", "A1", 1),
		strings.TrimSuffix(m.String(), "1800000000"), "vault::" + m.Nonce + ":1", m.String() + "\n",
	} {
		_, ok := Parse(comment)
		require.False(t, ok, comment)
	}

	// A marker in the text is not taken for the one at the end.
	forged := Mark{MountID: "another", Nonce: strings.Repeat("b2", 16), Until: time.Unix(1, 0).UTC()}
	got, ok = Parse(m.Comment("for " + forged.String()))
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
		m := Mark{MountID: mountID, Nonce: strings.Repeat("a1", 16), Until: time.Unix(1800000000, 0).UTC()}
		comment := m.Comment(text)
		got, ok := Parse(comment)
		if !ok || got != m {
			t.Fatalf("%q: %+v", comment, got)
		}
		if len(comment) > MaxComment || !utf8.ValidString(comment) || strings.ContainsAny(comment, "\n\r\x00") {
			t.Fatalf("%q", comment)
		}
	})
}

// FuzzParse shows that what is taken for a marker is one.
func FuzzParse(f *testing.F) {
	f.Add("vault:" + mountID + ":" + strings.Repeat("0", 32) + ":1800000000")
	f.Add("x vault:" + mountID + ":" + strings.Repeat("0", 32) + ":1800000000:kept")
	f.Fuzz(func(t *testing.T, comment string) {
		m, ok := Parse(comment)
		if ok && (!strings.Contains(comment, m.Nonce) || m.Stored != strings.HasSuffix(comment, ":kept")) {
			t.Fatalf("%q: %+v", comment, m)
		}
	})
}
