// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/marker"
)

// longest has names as long as Vault could have them, in letters that become longer in upper case.
var longest = commentData{
	RoleName: strings.Repeat("r", 1<<20), DisplayName: strings.Repeat("ɐ", 1<<19), EntityName: strings.Repeat("\xff", 1<<20),
	RequestID: "00000000-0000-0000-0000-000000000000", MountPath: strings.Repeat("January 2 ", 1<<17),
}

// samples are those of a role with a usual name.
var samples = templateSamples("etl", "databricks/")

func TestTemplates(t *testing.T) {
	t.Parallel()
	data := commentData{RoleName: "etl", DisplayName: "token-ci"}
	for text, want := range map[string]string{
		defaultComment:                                                       "Vault role etl for token-ci",
		"{{.RoleName | uppercase}}":                                          "ETL",
		"{{if .EntityName}}x{{end}}none":                                     "none",
		"{{with .EntityName}}x{{else}}{{$.RoleName}}{{end}}":                 "etl",
		"{{$x := .RoleName}}{{$x = base64 $x}}{{$x}}":                        "ZXRs",
		"{{/* nothing */}}{{- lowercase `ETL` -}}":                           "etl",
		`{{.DisplayName | replace "-" "_" | truncate 7}}`:                    "token_c",
		`{{.DisplayName | replace "-" ""}}`:                                  "tokenci",
		`{{replace "" "." "ab"}}`:                                            ".a.b.",
		"{{sha256 .RoleName}}":                                               hexSHA256("etl"),
		"{{truncate_sha256 9 `0123456789`}}":                                 "0" + hexSHA256("123456789")[:8],
		"{{truncate_sha256 10 `0123456789`}}":                                "0123456789",
		"{{slice .RoleName 0 2}}{{index .RoleName 0}}{{len .RoleName}}":      "et1013",
		"{{if and (eq .RoleName `etl`) (not .EntityName) (gt 2 1)}}y{{end}}": "y",
		"{{(timestamp `2006-01-02T15`) | len}}":                              "13",
		"{{len uuid}} {{len (random 64)}} {{len (random 1)}}":                "36 64 1",
		"{{len unix_time}} {{len unix_time_millis}}":                         "10 13",
	} {
		require.NoError(t, checkTemplate(text, samples), text)
		compiled, err := parseTemplate(text)
		require.NoError(t, err, text)
		got, err := compiled.execute(data)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

// nested are templates of 1,024 bytes that are as deep as they can be.
func nested() []string {
	nest := func(start, open, middle, end, finish string) string {
		n := (maxTemplate - len(start+middle+finish)) / len(open+end)
		return start + strings.Repeat(open, n) + middle + strings.Repeat(end, n) + finish
	}
	return []string{
		nest("", "{{if true}}", "x", "{{end}}", ""),
		nest("", "{{with $.DisplayName}}", "{{.}}", "{{end}}", ""),
		nest("{{", "(", "1", ")", "}}"),
		nest("{{lowercase ", "(uppercase ", ".DisplayName", ")", "}}"),
	}
}

// swelling has templates of 1,024 bytes that make as much of their input as they can.
func swelling() []string {
	fill := func(start, part, end string) string {
		return start + strings.Repeat(part, (maxTemplate-len(start)-len(end))/len(part)) + end
	}
	return append(nested(),
		"{{.RoleName"+strings.Repeat("|base64", 66)+"}}",
		fill("{{.DisplayName", "|base64", "}}"),
		fill("{{`1`", "|timestamp", "}}"),
		fill("{{`Jan`", "|timestamp|base64", "}}"),
		fill("{{`January Monday MST -07:00:00 .000000000`", "|timestamp|base64|uppercase", "}}"),
		fill("{{.RoleName", `|replace "" .DisplayName`, "}}"),
		fill("{{.MountPath", "|replace `` $.MountPath|timestamp", "}}"),
		fill("{{$x := .DisplayName}}", "{{$x = replace `a` $x $x}}{{$x = uppercase $x}}", "{{$x}}"),
		fill("", "{{.DisplayName}}", ""),
		fill("", "{{.}}", ""),
		fill("", "{{uuid}}", ""),
		fill("{{if .RoleName}}", "{{random 64}}", "{{end}}"),
		fill("{{or ", ".EntityName ", "}}"),
		fill("{{", "1e308 ", "}}"),
		"{{1e999999999}}", "{{index .RoleName 1000000000}}", "{{slice .RoleName 3 2}}", "{{index . 1000000}}", "{{truncate 9223372036854775807 .RoleName}}",
		"{{truncate -1 .RoleName}}", "{{random 1000000000}}", "{{truncate_sha256 9223372036854775807 .RoleName}}", "{{timestamp `"+strings.Repeat("1", 900)+"`}}",
	)
}

func TestDeepTemplatesExecute(t *testing.T) {
	t.Parallel()
	for _, text := range nested() {
		require.Greater(t, len(text), maxTemplate-50)
		compiled, err := parseTemplate(text)
		require.NoError(t, err, text)
		got, err := compiled.execute(longest)
		require.NoError(t, err, text)
		require.NotEmpty(t, got, text)
	}
}

// TestTemplatesCostLittle measures one template after the other, so it can't run beside other tests.
func TestTemplatesCostLittle(t *testing.T) {
	for _, text := range append(swelling(), "", "{{.RoleName}}") {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		requireBounded(t, text, longest, time.Now())
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), "bytes allocated by %s", text)
	}
}

// TestTemplatesSwellNowhere tries chains of all functions, more of them than a fuzz run has as its seeds.
func TestTemplatesSwellNowhere(t *testing.T) {
	skipLong(t)
	t.Parallel()
	draw := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		requireBounded(t, chain(draw), longest, time.Date(2026, time.Month(1+draw.IntN(12)), 1+draw.IntN(28), draw.IntN(24), 59, 59, 0, time.UTC))
	}
}

// chain draws a template that uses all functions on each other's results.
func chain(draw *rand.Rand) string {
	calls := map[string]string{
		"replace": `replace "" "aaaaaaaaaa"`, "random": "len | random", "truncate": "truncate 1000", "truncate_sha256": "truncate_sha256 500",
		"slice": "slice (base64 $.RoleName) 1 | lowercase", "index": "len | index $.RoleName", "eq": "eq $.RoleName", "ne": "ne $.RoleName", "lt": "lt $.RoleName",
		"le": "le $.RoleName", "gt": "gt $.RoleName", "ge": "ge $.RoleName", "or": "or $.EntityName", "and": "and $.EntityName", "not": "not", "len": "len",
		"uuid": "len | eq 1 | or uuid", "unix_time": "len | eq 1 | or unix_time", "unix_time_millis": "len | eq 1 | or unix_time_millis",
	}
	var names []string
	for _, name := range templateNames {
		if draw.IntN(8) > 0 && calls[name] != "" && strings.Contains("random index eq ne lt le gt ge not len", name) {
			continue // these don't give a text, so that most chains would end there
		}
		names = append(names, name)
	}
	text := fmt.Sprintf("{{.%s", []string{"RoleName", "DisplayName", "EntityName", "MountPath"}[draw.IntN(4)])
	for {
		name := names[draw.IntN(len(names))]
		call := calls[name]
		if call == "" {
			call = name
		}
		if len(text)+len(call)+5 > maxTemplate {
			return text + "}}"
		}
		text += "|" + call
	}
}

// requireBounded executes a template as it is when it is written, and as it is in a mint at some time, if it is accepted.
func requireBounded(t *testing.T, text string, data commentData, at time.Time) {
	t.Helper()
	checked := checkTemplate(text, samples)
	compiled, err := parseTemplate(text)
	if err != nil {
		require.Error(t, checked, "what is checked can be used: %q", text)
		return
	}
	later, err := compileTemplate(text, func() time.Time { return at }, func(_, value string) (string, error) { return cutText(value), nil })
	require.NoError(t, err)
	for _, template := range []*textTemplate{compiled, later} {
		got, err := template.execute(data)
		if err != nil {
			require.Less(t, len(err.Error()), 4*maxTemplate)
			continue
		}
		require.LessOrEqual(t, len(got), maxTemplateValue, text)
	}
}

func FuzzTemplate(f *testing.F) {
	draw := rand.New(rand.NewPCG(3, 4))
	for _, text := range swelling() {
		f.Add(text, "etl", "token-ci", "alice", int64(0))
	}
	for range 100 {
		f.Add(chain(draw), "etl", strings.Repeat("ɐ", 600), "", draw.Int64N(4e9))
	}
	for _, text := range []string{"{{range 9}}{{end}}", "{{define `x`}}{{end}}", "{{block `x` .}}{{end}}", "{{template `template` .}}", "{{printf `%1000000d` 1}}", "{{call .RoleName}}", "{{$x := 1}}{{break}}", "{{(.RoleName).X}}", "{{.RoleName.X}}", "{{nil}}", "{{1i}}"} {
		f.Add(text, "etl", "token-ci", "", int64(1))
	}
	f.Fuzz(func(t *testing.T, text, role, display, entity string, at int64) {
		requireBounded(t, text, commentData{RoleName: role, DisplayName: display, EntityName: entity, MountPath: "databricks/"}, time.Unix(at, 0))
	})
}

func TestTextsAreCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		text := strings.Repeat("x", n) + strings.Repeat("語", maxTemplateValue)
		got := cutText(text)
		require.True(t, utf8.ValidString(got))
		require.LessOrEqual(t, len(got), maxTemplateValue)
		require.Greater(t, len(got), maxTemplateValue-3)
		require.True(t, strings.HasPrefix(text, got))
	}
	require.Len(t, cutText(strings.Repeat("\x80", 2000)), maxTemplateValue-utf8.UTFMax)
	require.Equal(t, "short", cutText("short"))
}

// TestTemplateCheckKnowsNoDate shows that a template is accepted in each month or in none.
func TestTemplateCheckKnowsNoDate(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkTemplate("{{timestamp `January`}}", samples))
	for _, text := range []string{"{{`1`" + strings.Repeat("|timestamp", 50) + "}}", "{{`January 2`" + strings.Repeat("|timestamp|base64", 20) + "}}"} {
		require.ErrorContains(t, checkTemplate(text, samples), "would return more than 1024 bytes")
	}
}

// TestSwellingTemplatesAreRefused sends them to every field that takes a template.
func TestSwellingTemplatesAreRefused(t *testing.T) {
	t.Parallel()
	m := ready(t)
	for text, word := range map[string]string{
		"{{.RoleName" + strings.Repeat("|base64", 66) + "}}":  "base64 would return more than 1024 bytes",
		"{{`1`" + strings.Repeat("|timestamp", 66) + "}}":     "timestamp would return more than 1024 bytes",
		strings.Repeat("{{random 64}}", 17):                   "would be more than 1024 bytes long",
		"{{if .EntityName}}x{{else}}{{printf `%d` 1}}{{end}}": "printf is not available",
		"{{print 1}}":               "print is not available",
		"{{println 1}}":             "println is not available",
		"{{html 1}}":                "html is not available",
		"{{js 1}}":                  "js is not available",
		"{{urlquery 1}}":            "urlquery is not available",
		"{{call .RoleName}}":        "call is not available",
		"{{block `x` .}}{{end}}":    "may not loop",
		"{{define `x`}}y{{end}}":    "may not loop",
		"{{template `template` .}}": "may not loop",
		"{{range .RoleName}}{{break}}{{continue}}x{{end}}":              "may not loop",
		"{{if true}}{{with 1}}{{else}}{{range 9}}{{end}}{{end}}{{end}}": "may not loop",
		"{{- range 9}}x{{end}}":                                         "may not loop",
	} {
		for path, data := range map[string]map[string]any{
			"roles/x":        {"credential_type": "pat", "comment": text},
			"roles/y":        {"credential_type": "service_principal", "display_name_template": text},
			"static-roles/z": {"credential_type": "pat", "comment": text},
		} {
			field := "comment"
			if data[field] == nil {
				field = "display_name_template"
			}
			resp, err := m.do(logical.UpdateOperation, path, data)
			m.refused(resp, err, field+": ", word)
		}
	}
	require.Empty(t, m.minted(), "no static role was made")
}

// TestSwellingTemplatesOfVersion010 reads roles as version 0.1.0 stored them.
func TestSwellingTemplatesOfVersion010(t *testing.T) {
	t.Parallel()
	m := ready(t)
	store := func(key, value string) {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}))
	}
	swells := "{{.RoleName" + strings.Repeat("|base64", 66) + "}}"
	store("role/swells", fmt.Sprintf(`{"credential_type":"pat","ttl":600,"comment":%q}`, swells))
	comment := m.mint("swells").Data["comment"].(string)
	require.LessOrEqual(t, len(comment), 255)
	require.Contains(t, comment, "Vm0wd", "base64 of base64 of …")
	require.Empty(t, m.read("roles/swells").Warnings, "it does not fail")
	m.write("roles/swells", map[string]any{"ttl": "5m"})
	m.write("roles/swells", map[string]any{"comment": swells})
	resp, err := m.do(logical.UpdateOperation, "roles/swells", map[string]any{"comment": swells + "x"})
	m.refused(resp, err, "comment: ", "base64 would return more than")

	// A branch that was not tried when it was written can have what is no longer allowed.
	const gone = "{{if .EntityName}}x{{else}}{{printf .RoleName}}{{end}}"
	store("role/gone", `{"credential_type":"pat","ttl":600,"comment":"`+gone+`"}`)
	read := m.read("roles/gone")
	require.EqualValues(t, 600, read.Data["ttl"])
	require.Contains(t, strings.Join(read.Warnings, "\n"), "comment: this template fails for some callers or for all")
	minted := m.mint("gone")
	require.Contains(t, minted.Data["comment"], "Vault role gone for alice vault:")
	require.Contains(t, strings.Join(minted.Warnings, "\n"), "comment: the role's template failed, so the default one was used; write the role with another template: printf is not available")
	require.Contains(t, strings.Join(m.write("roles/gone", map[string]any{"ttl": "10m"}).Warnings, "\n"), "comment: this template fails")
	resp, err = m.do(logical.UpdateOperation, "roles/new", map[string]any{"credential_type": "pat", "comment": gone})
	m.refused(resp, err, "comment: printf is not available")
	require.Empty(t, m.write("roles/gone", map[string]any{"comment": "for {{.RoleName}}", "max_ttl": "1h"}).Warnings[1:], "but of the admin")
	require.Contains(t, m.mint("gone").Data["comment"], "for gone")

	// Its leases can still be renewed.
	creds := m.mint("gone")
	store("role/gone", `{"credential_type":"pat","ttl":600,"comment":"{{if .EntityName}}x{{else}}{{printf .RoleName}}{{end}}"}`)
	m.backend.InvalidateKey(t.Context(), "role/gone")
	m.renewed(creds.Secret, 10*time.Minute)
	resp, err = m.do(logical.DeleteOperation, "roles/gone", nil)
	m.requireOK(resp, err)
}

// TestTemplatesMustDoForEveryCaller writes templates that work only for callers with an entity, or with a long name.
func TestTemplatesMustDoForEveryCaller(t *testing.T) {
	t.Parallel()
	m := ready(t)
	for text, words := range map[string][]string{
		"{{slice .EntityName 0 3}}":                                {"index out of range", "must do for a caller with no entity"},
		"{{slice .EntityName 0 1}}":                                {"index out of range", "no entity"},
		"{{index .DisplayName 5}}":                                 {"index out of range", "no display name"},
		"{{if .DisplayName}}{{index .DisplayName 5}}{{end}}":       {"index out of range", "a short name"},
		"{{if .EntityName}}e{{else}}{{.Nope}}{{end}}":              {"can't evaluate field Nope; the fields are .RoleName, "},
		"{{if .EntityName}}a{{else}}{{random 100}}{{end}}":         {"random takes 1 to 64, not 100"},
		"{{if or .EntityName .DisplayName}}a{{else}}{{.X}}{{end}}": {"can't evaluate field X", "no entity and no display name"},
		"{{.RoleName.X}}":                                          {"can't evaluate field X"},
		"{{lowercase .}}":                                          {"expected string; got all fields together"},
		"{{if}}":                                                   {"missing value for if"},
		"{{nope .RoleName}}":                                       {`function "nope" not defined`},
		"{{slice .RoleName 0 9}}":                                  {"index out of range"},
	} {
		for path, data := range map[string]map[string]any{
			"roles/x":        {"credential_type": "pat", "comment": text},
			"roles/y":        {"credential_type": "service_principal", "display_name_template": text},
			"static-roles/z": {"credential_type": "pat", "comment": text},
		} {
			resp, err := m.do(logical.UpdateOperation, path, data)
			m.refused(resp, err, words...)
			for _, word := range []string{"template: template", "in type", "executing", "databricks."} {
				require.NotContains(t, resp.Error().Error(), word)
			}
		}
	}
	// What only a scheduled rotation lacks.
	const byRequest = "{{slice .RequestID 0 8}}"
	resp, err := m.do(logical.UpdateOperation, "static-roles/z", map[string]any{"credential_type": "pat", "comment": byRequest})
	m.refused(resp, err, "comment: ", "as in a scheduled rotation")
	require.Empty(t, m.minted())
	m.write("roles/x", map[string]any{"credential_type": "pat", "comment": byRequest})

	// The names of the role and the mount are known.
	m.write("roles/long-name", map[string]any{"credential_type": "pat", "comment": "{{slice .RoleName 0 9}}{{slice .MountPath 0 4}}{{truncate 3 .EntityName}}"})
	require.Contains(t, m.mint("long-name").Data["comment"], "long-namedataali")
	m.write("static-roles/long-name", map[string]any{"credential_type": "pat", "comment": "{{slice .RoleName 0 9}}{{truncate 3 .EntityName}}"})
}

// TestMintsGoOnWithoutATemplateThatFails has templates of version 0.1.0 which do for some callers.
func TestMintsGoOnWithoutATemplateThatFails(t *testing.T) {
	t.Parallel()
	m := ready(t)
	const failed = "the template of a role failed"
	for key, row := range map[string]struct{ stored, field string }{
		"pat":       {`{"credential_type":"pat","ttl":600,"comment":"{{slice .EntityName 0 3}}"}`, "comment"},
		"principal": {`{"credential_type":"service_principal","ttl":600,"display_name_template":"{{slice .EntityName 0 3}}"}`, "display_name"},
	} {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "role/" + key, Value: []byte(row.stored)}))
		m.system.EntityVal.Name = "alice"
		creds := m.mint(key)
		require.Contains(t, creds.Data[row.field], "ali vault:")
		require.NotContains(t, strings.Join(creds.Warnings, "\n"), "template")
		require.Contains(t, strings.Join(m.read("roles/"+key).Warnings, "\n"), "this template fails for some callers or for all", "also before it does")
		before := len(m.logged(failed))

		m.system.EntityVal.Name = ""
		for range 3 {
			creds := m.mint(key)
			text := creds.Data[row.field].(string)
			require.Contains(t, text, "Vault role "+key+" for token-ci vault:")
			_, marked := marker.Parse(text)
			require.True(t, marked)
			require.Contains(t, strings.Join(creds.Warnings, "\n"), "the role's template failed, so the default one was used")
			m.end(creds.Secret)
		}
		require.Equal(t, before+1, len(m.logged(failed)), "one line for all mints")
		m.write("roles/"+key, map[string]any{"ttl": "5m"})
		m.mint(key)
		require.Equal(t, before+2, len(m.logged(failed)), "and one more when the role was written")
	}
	require.Contains(t, m.read("creds/pat").Data["comment"], "Vault role pat for token-ci")
	resp := m.write("creds/pat", map[string]any{"comment": "OPS-1"})
	require.Contains(t, resp.Data["comment"], "for token-ci: OPS-1 vault:", "the caller's own comment stays")
}

// TestRotationsGoOnWithoutATemplateThatFails rotates by hand and by schedule, where there are no names.
func TestRotationsGoOnWithoutATemplateThatFails(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "comment": "{{.EntityName}}", "rotation_period": "24h"})
	entry, err := m.storage.Get(t.Context(), "static/bi")
	require.NoError(t, err)
	entry.Value = []byte(strings.Replace(string(entry.Value), "{{.EntityName}}", "{{slice .EntityName 0 3}}", 1))
	require.NoError(t, m.storage.Put(t.Context(), entry))
	m.restart()
	require.Contains(t, strings.Join(m.read("static-roles/bi").Warnings, "\n"), "comment: this template fails for some callers or for all")
	require.NotContains(t, m.read("static-creds/bi").Data["comment"], "Vault static role")

	before := m.read("static-roles/bi").Data["credential_id"]
	for range 3 {
		c.advance(25 * time.Hour)
		_, _ = m.rollback()
		require.Contains(t, m.read("static-creds/bi").Data["comment"], "Vault static role bi vault:")
	}
	role := m.read("static-roles/bi").Data
	require.NotEqual(t, before, role["credential_id"])
	require.EqualValues(t, 0, role["rotation_failures"])
	require.Len(t, m.logged("the template of a static role failed"), 1)
	require.Contains(t, strings.Join(m.write("rotate-role/bi", nil).Warnings, "\n"), "comment: this template fails", "though it did for this caller")
	require.Contains(t, m.read("static-creds/bi").Data["comment"], "ali vault:")
}

// TestStaticRolesOfVersion010RotateWithSwellingTemplates changes the comment behind the engine's back.
func TestStaticRolesOfVersion010RotateWithSwellingTemplates(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "comment": "{{.RoleName}}"})
	entry, err := m.storage.Get(t.Context(), "static/bi")
	require.NoError(t, err)
	entry.Value = []byte(strings.Replace(string(entry.Value), "{{.RoleName}}", "{{.RoleName"+strings.Repeat("|base64", 66)+"}}", 1))
	require.NoError(t, m.storage.Put(t.Context(), entry))
	m.restart()
	m.write("rotate-role/bi", nil)
	require.LessOrEqual(t, len(m.read("static-creds/bi").Data["comment"].(string)), 255)
}

// TestLongNamesAreCut mints for a caller whose names are as long as Vault allows.
func TestLongNamesAreCut(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.system.EntityVal.Name = strings.Repeat("語", 1<<20)
	m.write("roles/etl", map[string]any{"comment": "{{.EntityName | base64 | base64 | replace `` `xx` | timestamp}}"})
	require.LessOrEqual(t, len(m.mint("etl").Data["comment"].(string)), 255)
}
