// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const ucPath = "/api/2.1/unity-catalog/secrets"

// withSchema is ready with the schema main.app, which belongs to the engine's identity.
func withSchema(t *testing.T, opts ...simulator.Option) *mount {
	t.Helper()
	m := ready(t, opts...)
	m.workspace.AddUCSchema("main", "app", m.admin)
	return m
}

// uc returns a secret of main.app, and whether there is one.
func (m *mount) uc(name string) (simulator.UCSecret, bool) {
	s, found := m.workspace.UCSecrets("main", "app")[name]
	return s, found
}

func TestUCSecretIsWrittenReadListedAndDeleted(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	resp := m.write("uc-secrets/main/app/api-key", map[string]any{"string_value": "canary-first", "comment": "of the billing API"})
	names := map[string]any{"catalog": "main", "schema": "app", "name": "api-key", "full_name": "main.app.api-key"}
	require.Equal(t, names, resp.Data)
	require.Nil(t, resp.Secret)
	m.write("uc-secrets/main/app/api-key", map[string]any{"bytes_value": base64.StdEncoding.EncodeToString([]byte("canary-sécond"))})
	stored, _ := m.uc("api-key")
	require.Equal(t, "canary-sécond", stored.Value)
	require.Equal(t, "of the billing API", stored.Comment, "left out, it stays")

	m.workspace.ResetCalls()
	read := m.read("uc-secrets/MAIN/App/API-key").Data
	require.Equal(t, []string{"GET " + ucPath + "/MAIN.App.API-key"}, m.requests(), "a read is one call")
	require.Equal(t, map[string]any{
		"catalog": "MAIN", "schema": "App", "name": "API-key", "full_name": "MAIN.App.API-key", "comment": "of the billing API", "owner": m.admin.UserName,
		"string_value": "canary-sécond", "bytes_value": base64.StdEncoding.EncodeToString([]byte("canary-sécond")),
		"last_updated_timestamp": rfc3339(stored.Updated), "last_updated_time": rfc3339(stored.Updated),
	}, read)

	m.write("uc-secrets/main/app/other", map[string]any{"string_value": "", "comment": ""})
	listed, err := m.do(logical.ListOperation, "uc-secrets/main/app/", nil)
	m.requireOK(listed, err)
	require.Equal(t, []string{"api-key", "other"}, listed.Data["keys"])
	require.Equal(t, "of the billing API", listed.Data["key_info"].(map[string]any)["api-key"].(map[string]any)["comment"])
	require.NotContains(t, fmt.Sprint(listed.Data), "canary")

	m.write("uc-secrets/main/app/api-key", map[string]any{"string_value": "canary-third", "comment": ""})
	stored, _ = m.uc("api-key")
	require.Empty(t, stored.Comment, "an empty one removes it")
	for range 2 {
		resp, err := m.do(logical.DeleteOperation, "uc-secrets/main/app/api-key", nil)
		m.requireOK(resp, err)
	}
	gone, err := m.do(logical.ReadOperation, "uc-secrets/main/app/api-key", nil)
	require.NoError(t, err)
	require.Nil(t, gone)
	gone, err = m.do(logical.ListOperation, "uc-secrets/main/none", nil)
	require.NoError(t, err)
	require.Nil(t, gone)

	require.Len(t, m.told("uc-secret-write"), 4)
	require.Len(t, m.told("uc-secret-delete"), 2)
	status := m.read("status")
	require.Contains(t, fmt.Sprint(status.Data), "uc-secrets/update")
}

func TestAWriteOfAUCSecretIsOneCallWhereItExists(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	write := func(name string, data map[string]any) []string {
		m.workspace.ResetCalls()
		data["string_value"] = "canary-value"
		m.write("uc-secrets/main/app/"+name, data)
		return m.requests()
	}
	update, create := "PATCH "+ucPath+"/main.app.k", "POST "+ucPath
	require.Equal(t, []string{update, create}, write("k", map[string]any{}))
	require.Equal(t, []string{update}, write("k", map[string]any{}))
	require.Equal(t, "value", m.workspace.Calls()[0].Query.Get("update_mask"))
	require.Equal(t, []string{update}, write("k", map[string]any{"comment": "c", "owner": m.admin.UserName}))
	require.Equal(t, "value,comment,owner", m.workspace.Calls()[0].Query.Get("update_mask"))
	require.Equal(t, []string{create}, write("new", map[string]any{"if_absent": true}))

	m.workspace.ResetCalls()
	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/app/NEW", map[string]any{"string_value": "canary-other", "if_absent": true})
	m.refused(resp, err, "main.app.NEW already exists and was not overwritten")
	require.Equal(t, []string{create}, m.requests())
	stored, _ := m.uc("new")
	require.Equal(t, "canary-value", stored.Value)
}

// Somebody else may create a secret, or delete it, between the two calls of a write.
func TestAWriteOfAUCSecretIsNotLostInARace(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.PutUCSecret("main.app.k", "canary-theirs", m.admin)
	m.workspace.Inject(simulator.Fault{Method: "PATCH", Path: ucPath + "/main.app.k", Status: 404, Body: `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Secret does not exist."}`, Times: 1})
	m.write("uc-secrets/main/app/k", map[string]any{"string_value": "canary-ours"})
	require.Equal(t, []string{"PATCH " + ucPath + "/main.app.k", "POST " + ucPath, "PATCH " + ucPath + "/main.app.k"}, m.requests())
	stored, _ := m.uc("k")
	require.Equal(t, "canary-ours", stored.Value)

	// A create whose answer was lost is repeated, and finds what the first one made.
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Reset: true, AfterEffect: true, Times: 1})
	m.write("uc-secrets/main/app/new", map[string]any{"string_value": "canary-ours"})
	stored, _ = m.uc("new")
	require.Equal(t, "canary-ours", stored.Value)
}

// A write that gives a secret away may have been carried out before its repetition is refused, which the error says.
func TestAUCWriteThatGaveTheSecretAway(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	owner := m.workspace.AddUser("owner@example.com", false)
	data := map[string]any{"string_value": "canary-value", "owner": owner.UserName}
	for name, fault := range map[string]simulator.Fault{
		"created": {Method: "POST", Path: ucPath, Status: 503, AfterEffect: true, Times: 1},
		"updated": {Method: "PATCH", Path: ucPath + "/main.app.updated", Status: 503, AfterEffect: true, Times: 1},
	} {
		if name == "updated" {
			m.workspace.PutUCSecret("main.app.updated", "v", m.admin)
		}
		m.workspace.Inject(fault)
		resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/app/"+name, data)
		m.refused(resp, err, "An earlier attempt of this write may have stored the value and given main.app."+name+" to owner@example.com", "PERMISSION_DENIED")
		stored, _ := m.uc(name)
		require.Equal(t, "canary-value", stored.Value)
		require.Equal(t, owner.UserName, stored.Owner)
	}
}

func TestUCSecretsRefuseBadInput(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	value := func(more ...any) map[string]any {
		data := map[string]any{"string_value": "canary-value"}
		for i := 0; i < len(more); i += 2 {
			data[more[i].(string)] = more[i+1]
		}
		return data
	}
	for name, c := range map[string]struct {
		path  string
		data  map[string]any
		words []string
	}{
		"period in a name":       {"main/app/a.b", value(), []string{"name", "periods"}},
		"period in a catalog":    {"ma.in/app/k", value(), []string{"catalog"}},
		"space":                  {"main/a pp/k", value(), []string{"schema", "spaces"}},
		"control character":      {"main/app/a\x7fb", value(), []string{"name"}},
		"long name":              {"main/app/" + strings.Repeat("x", 256), value(), []string{"name", "255"}},
		"slash":                  {"main/app/a/b", value(), []string{"uc-secrets/<catalog>/<schema>/<name>"}},
		"no schema":              {"main", value(), []string{"uc-secrets/<catalog>/<schema>/<name>"}},
		"no value":               {"main/app/k", map[string]any{"comment": "c"}, []string{"string_value", "exactly one"}},
		"two values":             {"main/app/k", value("bytes_value", "AAAA"), []string{"can't be sent together"}},
		"large value":            {"main/app/k", map[string]any{"string_value": strings.Repeat("v", 61441)}, []string{"string_value", "61440", "60 KiB"}},
		"bytes that are none":    {"main/app/k", map[string]any{"bytes_value": "?"}, []string{"bytes_value", "base64"}},
		"bytes that aren't text": {"main/app/k", map[string]any{"bytes_value": "AP8="}, []string{"bytes_value", "UTF-8", "string_value"}},
		"misspelt":               {"main/app/k", value("tll", "1h"), []string{"tll"}},
		"number":                 {"main/app/k", map[string]any{"string_value": 7}, []string{"string_value", "string"}},
		"no owner":               {"main/app/k", value("owner", ""), []string{"owner", "empty"}},
		"owner of a lease":       {"main/app/k", value("owner", "users", "ttl", "1h"), []string{"owner", "ttl"}},
		"ttl of nothing":         {"main/app/k", value("ttl", 0), []string{"ttl"}},
		"null":                   {"main/app/k", value("if_absent", nil), []string{"if_absent"}},
		"broken text":            {"main/app/k", map[string]any{"string_value": "a\ufffdb"}, []string{"U+FFFD"}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := m.do(logical.UpdateOperation, "uc-secrets/"+c.path, c.data)
			m.refused(resp, err, c.words...)
		})
	}
	require.Empty(t, m.workspace.Calls(), "all of it before any call")
	m.write("uc-secrets/main/app/k", map[string]any{"string_value": strings.Repeat("v", 61440)})
}

func TestUCSecretsErrorsShowTheWayOut(t *testing.T) {
	t.Parallel()
	missing := ready(t, simulator.WithoutUCSecrets())
	for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation, logical.ListOperation} {
		path, data := "uc-secrets/main/app/k", map[string]any(nil)
		switch op {
		case logical.ListOperation:
			path = "uc-secrets/main/app"
		case logical.UpdateOperation:
			data = map[string]any{"string_value": "canary-value"}
		}
		resp, err := missing.do(op, path, data)
		missing.refused(resp, err, "this workspace has no secrets in Unity Catalog", "preview", "ENDPOINT_NOT_FOUND")
	}

	m := ready(t, simulator.WithUCSecretLimit(1))
	owner := m.workspace.AddUser("owner@example.com", false)
	m.workspace.AddUCSchema("main", "theirs", owner)
	value := map[string]any{"string_value": "canary-value"}
	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/none/k", value)
	m.refused(resp, err, "there is no schema main.none", "SCHEMA_DOES_NOT_EXIST")
	resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/theirs/k", value)
	m.refused(resp, err, "CREATE SECRET", "main.theirs", "PERMISSION_DENIED")
	m.workspace.GrantCreateUCSecret("main", "theirs", m.admin)
	m.write("uc-secrets/main/theirs/mine", value)
	resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/theirs/k", value)
	m.refused(resp, err, "as many secrets as a schema can have")
	resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/theirs/mine", map[string]any{"string_value": "canary-value", "owner": "nobody@example.com"})
	m.refused(resp, err, "PRINCIPAL_DOES_NOT_EXIST")
	m.write("uc-secrets/main/theirs/mine", map[string]any{"string_value": "canary-value", "owner": owner.UserName})
	resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/theirs/mine", value)
	m.refused(resp, err, "WRITE SECRET", "main.theirs.mine")
	resp, err = m.do(logical.ReadOperation, "uc-secrets/main/theirs/mine", nil)
	m.refused(resp, err, "READ SECRET", "main.theirs.mine")
	m.workspace.GrantOnUCSecret("main.theirs.mine", simulator.PrivilegeReadSecret, m.admin)
	m.workspace.GrantOnUCSecret("main.theirs.mine", simulator.PrivilegeWriteSecret, m.admin)
	m.write("uc-secrets/main/theirs/mine", map[string]any{"string_value": "canary-written"})
	require.Equal(t, "canary-written", m.read("uc-secrets/main/theirs/mine").Data["string_value"])

	m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucPath + "/main.theirs.mine", Status: 200, Body: `{"name":"mine","catalog_name":"main","schema_name":"theirs"}`, Times: 1})
	resp, err = m.do(logical.ReadOperation, "uc-secrets/main/theirs/mine", nil)
	m.coded(http.StatusBadRequest, resp, err, "without a value: either it is empty, or the engine's identity lacks READ SECRET")

	m.workspace.AddUCSchema("main", "app", m.admin)
	m.workspace.Inject(simulator.Fault{Path: ucPath, Status: 400, Body: `{"error_code":"INVALID_PARAMETER_VALUE","message":"canary-value is no value"}`, Times: 1})
	resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/app/k", value)
	m.refused(resp, err, "check the names")
}

func TestUCSecretsAreListedPageByPage(t *testing.T) {
	t.Parallel()
	m := withSchema(t, simulator.WithUCPage(2))
	for i := range 5 {
		m.workspace.PutUCSecret(fmt.Sprint("main.app.k", i), "v", m.admin)
	}
	listed, err := m.do(logical.ListOperation, "uc-secrets/main/app", nil)
	m.requireOK(listed, err)
	require.Equal(t, []string{"k0", "k1", "k2", "k3", "k4"}, listed.Data["keys"])
	require.Equal(t, 3, m.workspace.Count("GET", ucPath))
}

func TestUCSecretOfAnyName(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	for _, name := range []string{"100%", "a?b#c", "größe", "a+b&c=d", "~"} {
		m.write("uc-secrets/main/app/"+name, map[string]any{"string_value": "canary-of-" + name})
		require.Equal(t, "canary-of-"+name, m.read("uc-secrets/main/app/" + name).Data["string_value"], name)
		resp, err := m.do(logical.DeleteOperation, "uc-secrets/main/app/"+name, nil)
		m.requireOK(resp, err)
		require.Empty(t, m.workspace.UCSecrets("main", "app"), name)
	}
}

func TestUCSecretByPasswordPolicy(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.system.PasswordPolicies = map[string]logical.PasswordGenerator{"strong": func() (string, error) { return "canary-generated", nil }}
	resp := m.write("uc-secrets/main/app/k", map[string]any{"password_policy": "strong"})
	require.NotContains(t, fmt.Sprint(resp.Data), "canary")
	stored, _ := m.uc("k")
	require.Equal(t, "canary-generated", stored.Value)
	require.WithinDuration(t, time.Now(), stored.Updated, time.Minute)
}
