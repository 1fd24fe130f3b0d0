// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// maxValue is the longest value of a secret in bytes.
const maxValue = 128 << 10

// withScope is newConfiguredMount with a scope named etl.
func withScope(t *testing.T) *mount {
	t.Helper()
	m := newConfiguredMount(t)
	m.write("scopes/etl", data{})
	return m
}

// requireLogged waits for a line of Vault's log that has all the parts.
func requireLogged(t *testing.T, parts ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		log, err := os.ReadFile(server.logPath)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(log)) {
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				return true
			}
		}
		return false
	}, patience, 100*time.Millisecond, "no line of Vault's log has all of %q", parts)
}

// loginWith creates a token that has just this policy, and answers a client with it.
func (m *mount) loginWith(policy string) *api.Client {
	m.t.Helper()
	require.NoError(m.t, m.client.Sys().PutPolicy(m.path, policy))
	login, err := m.client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{m.path}})
	require.NoError(m.t, err)
	client, err := server.client(login.Auth.ClientToken)
	require.NoError(m.t, err)
	return client
}

func TestSecretIsWrittenReadListedAndDeleted(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.requireAbsent("secrets/etl/api-key")
	require.Empty(t, m.keys("secrets/etl"))

	first := server.secret("the-first-value-of-a-secret", "a secret")
	written := m.write("secrets/etl/api-key", data{"string_value": first})
	require.Equal(t, data{"scope": "etl", "key": "api-key"}, written.Data)
	require.Empty(t, written.LeaseID, "without a ttl there is no lease")
	read := m.read("secrets/etl/api-key")
	require.Equal(t, first, read["string_value"])
	require.Equal(t, base64.StdEncoding.EncodeToString([]byte(first)), read["bytes_value"])
	require.WithinDuration(t, time.Now(), timeOf(t, read["last_updated_timestamp"]), patience)

	second := server.secret("the-second-value-of-a-secret", "a secret")
	m.write("secrets/etl/api-key", data{"string_value": second})
	require.Equal(t, second, m.read("secrets/etl/api-key")["string_value"])

	m.write("secrets/etl/other", data{"string_value": server.secret("the-value-of-another-secret", "a secret")})
	require.Equal(t, []string{"api-key", "other"}, m.keys("secrets/etl"))
	info, ok := m.details("secrets/etl")["api-key"].(map[string]any)
	require.True(t, ok)
	require.WithinDuration(t, time.Now(), timeOf(t, info["last_updated_timestamp"]), patience)

	m.delete("secrets/etl/api-key")
	m.requireAbsent("secrets/etl/api-key")
	require.Equal(t, []string{"other"}, m.keys("secrets/etl"))
}

func TestSecretOfAnyBytesRoundTripsExactly(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	random := rand.NewChaCha8([32]byte{1})
	long := make([]byte, maxValue)
	_, _ = random.Read(long)
	for name, value := range map[string][]byte{"every": every, "empty": {}, "zero": {0}, "long": long} {
		encoded := base64.StdEncoding.EncodeToString(value)
		m.write("secrets/etl/"+name, data{"bytes_value": encoded})
		stored, ok := m.value("etl", name)
		require.True(t, ok, name)
		require.Equal(t, value, []byte(stored), name)
		require.Equal(t, encoded, m.read("secrets/etl/" + name)["bytes_value"], name)
	}
	require.NotContains(t, m.read("secrets/etl/every"), "string_value", "bytes that are no text are not shown as one")

	text := strings.Repeat("grüße, 世界! \t\r\n\x00\"\\&<> ", maxValue/31)
	text += strings.Repeat("x", maxValue-len(text))
	for name, value := range map[string]string{"text": text, "no-text": "", "line": "ends in a new line\n", "blanks": "  \t ", "json": `{"a":[1,"b"]}`} {
		m.write("secrets/etl/"+name, data{"string_value": value})
		stored, ok := m.value("etl", name)
		require.True(t, ok, name)
		require.Equal(t, value, stored, name)
		require.Equal(t, value, m.read("secrets/etl/" + name)["string_value"], name)
	}

	m.workspace.ResetCalls()
	for field, body := range map[string]data{
		"string_value: has 131073 bytes": {"string_value": text + "x"},
		"bytes_value: has 131073 bytes":  {"bytes_value": base64.StdEncoding.EncodeToString(append(long, 0))},
		"bytes_value: is not base64":     {"bytes_value": "not base64!"},
		"exactly one of":                 {},
		"bytes_value: can't be sent":     {"string_value": "a", "bytes_value": "YQ=="},
		"password_policy: can't be sent": {"string_value": "a", "password_policy": "strong"},
	} {
		_, err := m.tryWrite("secrets/etl/refused", body)
		requireRefused(t, err, 400, field)
	}
	require.Zero(t, m.workspace.Count("POST", "*"), "what is wrong is told without asking Databricks")
	_, stored := m.value("etl", "refused")
	require.False(t, stored)
}

// TestKeyWithSlashesIsAddressedInEveryWay that Vault's clients have, also percent-encoded.
func TestKeyWithSlashesIsAddressedInEveryWay(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	first, second := server.secret("of-a-key-with-slashes", "a secret"), server.secret("of-the-same-key-again", "a secret")
	require.Equal(t, data{"scope": "etl", "key": "team/db/password"}, m.write("secrets/etl/team/db/password", data{"string_value": first}).Data)
	m.write("secrets/ETL/Team/DB/Password", data{"string_value": second})
	// As it is on the wire: Vault's API client and browsers would tidy some paths up.
	raw := func(method, path string) (status int, body string) {
		request, err := http.NewRequest(method, server.addr+"/v1/"+m.path+"/"+path, strings.NewReader(`{"string_value":"`+first+`"}`))
		require.NoError(t, err)
		request.Header.Set("X-Vault-Token", server.rootToken)
		response, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(text)
	}
	for _, path := range []string{"secrets/etl/team/db/password", "secrets/etl/TEAM/db/password/"} {
		require.Equal(t, second, m.read(path)["string_value"], path)
	}
	status, body := raw(http.MethodGet, "secrets/etl/team%2FDB%2fpassword")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, second)
	m.write("secrets/etl/plain", data{"string_value": first})
	require.Equal(t, []string{"plain", "team/db/password"}, m.keys("secrets/etl"))
	require.Equal(t, []string{"db/password"}, m.keys("secrets/etl/team"))
	require.Equal(t, []string{"password"}, m.keys("secrets/etl/TEAM/db/"))
	require.Contains(t, m.details("secrets/etl/team")["db/password"], "last_updated_time")
	require.Nil(t, m.keys("secrets/etl/none"))

	above := m.write("secrets/etl/team/leased", data{"string_value": first, "ttl": "1h"})
	below := m.write("secrets/etl/team/leased/below", data{"string_value": second, "ttl": "1h"})
	require.True(t, strings.HasPrefix(below.LeaseID, m.path+"/secrets/etl/team/leased/below/"), below.LeaseID)
	_, err := m.client.Sys().Renew(below.LeaseID, 7200)
	require.NoError(t, err)
	m.revoke(above)
	require.NotContains(t, m.stored("etl"), "team/leased")
	require.Contains(t, m.stored("etl"), "team/leased/below")
	require.NoError(t, m.client.Sys().RevokePrefix(m.path+"/secrets/etl/team"))
	require.NotContains(t, m.stored("etl"), "team/leased/below")

	pushed := m.write("secrets/etl", data{"secrets": data{"TEAM/db/password": first, "team/new": second}, "prune": true})
	require.Equal(t, data{"written": []any{"TEAM/db/password", "team/new"}, "deleted": []any{"plain"}, "kept": []any{}}, pushed.Data)
	require.Equal(t, map[string]any{"team/db/password": first, "team/new": second}, m.stored("etl"))
	_, err = m.tryWrite("secrets/etl", data{"secrets": data{"team/new": first, "Team/New": second}})
	requireRefused(t, err, 400, "secrets: ", `"Team/New" and "team/new" are two spellings`)
	m.delete("secrets/etl/team/DB/password")
	m.delete("secrets/etl/team/new/")
	require.Empty(t, m.stored("etl"))
	m.requireAbsent("secrets/etl/team/new")

	for _, path := range []string{"secrets/etl/team/new/", "secrets/etl/team//new", "secrets/etl/team/./new", "secrets/etl/a/../new", "secrets/etl/%2Fnew", "secrets/etl/a%2F..%2Fnew"} {
		for _, method := range []string{http.MethodPut, http.MethodGet, http.MethodDelete} {
			status, body := raw(method, path)
			require.GreaterOrEqual(t, status, 300, "%s %s", method, path)
			t.Log(method, path, status, strings.TrimSpace(body))
			require.Empty(t, m.stored("etl"), "%s %s", method, path)
		}
	}
}

func TestGeneratedSecretIsSeenByNobody(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	_, err := m.client.Logical().Write("sys/policies/password/"+m.path, data{"policy": "length = 40\nrule \"charset\" { charset = \"bcdfghjkmnpqrstvwxz\" }"})
	require.NoError(t, err)
	written := m.write("secrets/etl/db", data{"password_policy": m.path})
	require.Equal(t, data{"scope": "etl", "key": "db"}, written.Data, "the answer has no value")
	value, ok := m.value("etl", "db")
	require.True(t, ok)
	require.Regexp(t, `^[bcdfghjkmnpqrstvwxz]{40}$`, value)
	server.secret(value, "a generated secret")

	m.write("secrets/etl/db", data{"password_policy": m.path})
	again, _ := m.value("etl", "db")
	require.NotEqual(t, value, again, "every write makes a new value")
	server.secret(again, "a generated secret")
	_, err = m.tryWrite("secrets/etl/db", data{"password_policy": "no-such-policy"})
	requireRefused(t, err, 400, "password_policy", "no-such-policy")
}

func TestSecretIsAddedOnlyIfAbsent(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	value := server.secret("added-if-it-was-absent", "a secret")
	m.workspace.ResetCalls()
	m.write("secrets/etl/plain", data{"string_value": value})
	m.write("secrets/etl/plain", data{"string_value": value})
	require.Equal(t, 2, m.workspace.Count("", "*"), "a plain write is one call, whether there is one or not")
	for key, ttl := range map[string]string{"once": "", "leased": "1h"} {
		body := data{"string_value": value, "if_absent": true}
		if ttl != "" {
			body["ttl"] = ttl
		}
		m.workspace.ResetCalls()
		m.write("secrets/etl/"+key, body)
		require.Equal(t, map[string]int{"once": 2, "leased": 3}[key], m.workspace.Count("", "*"))
		body["string_value"] = "another value"
		for _, path := range []string{"secrets/etl/" + key, "secrets/ETL/" + strings.ToUpper(key)} {
			_, err := m.tryWrite(path, body)
			requireRefused(t, err, 400, "if_absent: ", "exists")
		}
		stored, _ := m.value("etl", key)
		require.Equal(t, value, stored)
	}
	require.Equal(t, 1, m.workspace.Count("", "/api/2.0/secrets/put"), "of the last one")

	// Where Databricks can't be asked whether there is a secret, there might be one.
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/list", Status: 400, ErrorCode: "BAD_REQUEST"})
	_, err := m.tryWrite("secrets/etl/new", data{"string_value": value, "if_absent": true})
	requireRefused(t, err, 400, "BAD_REQUEST")
	require.NotContains(t, m.stored("etl"), "new")
}

// TestNameThatVaultCantKeepIsRefusedBeforeAnyCall: Vault finds out only after the answer that it can't store such a lease, and revokes
// what was made, which would delete the durable value.
func TestNameThatVaultCantKeepIsRefusedBeforeAnyCall(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddScope("e..l", m.admin)
	m.workspace.AddGroup("a..b@x")
	durable := server.secret("durable-with-two-dots", "a secret")
	m.write("secrets/etl/db..password", data{"string_value": durable})
	m.write("acls/etl/a..b@x", data{"permission": "READ"})
	refused := server.secret("leased-with-two-dots", "a secret that was refused")
	calls := func() int { return m.workspace.Count("", "*") }
	before := calls()
	for path, field := range map[string]string{
		"secrets/etl/db..password": "key", "secrets/etl/...": "key", "secrets/e..l/key": "scope", "acls/etl/a..b@x": "principal", "acls/e..l/users": "scope",
	} {
		kind, _, _ := strings.Cut(path, "/")
		send := data{"ttl": "1h", "string_value": refused}
		if kind == "acls" {
			send = data{"ttl": "1h", "permission": "WRITE"}
		}
		_, err := m.tryWrite(path, send)
		requireRefused(t, err, 400, field+": ", "two consecutive dots")
	}
	role := data{"credential_type": "pat", "rotation_period": "24h"}
	for path, field := range map[string]string{"roles/a..b": "name", "creds/a..b": "role", "static-roles/a..b": "name", "static-creds/a..b": "name", "rotate-role/a..b": "name"} {
		for _, try := range []func() error{
			func() error { _, err := m.tryWrite(path, role); return err }, func() error { return reading(path)(m) }, func() error { return deleting(path)(m) },
		} {
			err := try()
			requireRefused(t, err, 400, field+`: "a..b" has two consecutive dots`)
		}
	}
	for _, row := range []struct {
		path, field string
		body        data
	}{
		{"creds/etl", "deliver_key", data{"deliver_scope": "etl", "deliver_key": ".."}},
		{"static-roles/bi", "deliver_key", data{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "."}},
		{"secrets/etl", "secrets", data{"secrets": data{"..": "x"}}},
	} {
		_, err := m.tryWrite(row.path, row.body)
		requireRefused(t, err, 400, row.field+": ", "no valid name")
	}
	require.Equal(t, before, calls())
	stored, _ := m.value("etl", "db..password")
	require.Equal(t, durable, stored)
	require.Equal(t, "READ", m.permission("etl", "a..b@x"))
	require.Equal(t, durable, m.read("secrets/etl/db..password")["string_value"])
	m.delete("secrets/etl/db..password")
	m.delete("acls/etl/a..b@x")
	require.Empty(t, m.stored("etl"))
	require.Empty(t, m.permission("etl", "a..b@x"))

	// The lease of a credential has the path of its role, so that its copy may have such a name.
	m.write("creds/etl", data{"deliver_scope": "e..l", "deliver_key": "to..ken"})
	require.Contains(t, m.stored("e..l"), "to..ken")
}

// TestMountWithTwoDotsMakesNoLeases: the id of a lease begins with the path of the mount.
func TestMountWithTwoDotsMakesNoLeases(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	path := m.path + "..b"
	require.NoError(t, m.client.Sys().Mount(path, &api.MountInput{Type: pluginName}))
	t.Cleanup(func() { require.NoError(t, m.client.Sys().Unmount(path)) })
	write := func(name string, body data) error {
		_, err := m.client.Logical().Write(path+"/"+name, body)
		return err
	}
	require.NoError(t, write("config", data{"host": m.workspace.URL(), "token": m.token}))
	require.NoError(t, write("roles/etl", data{"credential_type": "pat"}))
	tokens := len(m.workspace.Tokens())
	_, err := m.client.Logical().Read(path + "/creds/etl")
	requireRefused(t, err, 400, "mount: ", path, "two consecutive dots", "vault secrets move")
	require.Len(t, m.workspace.Tokens(), tokens)
	requireRefused(t, write("secrets/etl/k", data{"string_value": "x", "ttl": "1h"}), 400, "mount: ")
	requireRefused(t, write("acls/etl/users", data{"permission": "READ", "ttl": "1h"}), 400, "mount: ")
	require.NoError(t, write("secrets/etl/k", data{"string_value": "x"}))
	require.NoError(t, write("acls/etl/users", data{"permission": "READ"}))
}

// TestPruneKeepsWhatLeasesAndStaticRolesHold, on a scope that has all there is.
func TestPruneKeepsWhatLeasesAndStaticRolesHold(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	leased := m.write("secrets/etl/leased", data{"string_value": server.secret("leased-beside-a-push", "a leased secret"), "ttl": "1h"})
	delivered := m.write("creds/etl", data{"deliver_scope": "ETL", "deliver_key": "delivered"})
	m.write("static-roles/bi", data{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "static"})
	m.write("secrets/etl/surplus", data{"string_value": "surplus"})
	for _, key := range []string{"delivered", "static"} {
		token, _ := m.value("etl", key)
		server.secret(token, "a delivered token")
	}
	push := data{"secrets": data{"sent": "value"}, "prune": true, "dry_run": true}
	want := data{"written": []any{"sent"}, "deleted": []any{"surplus"}, "kept": []any{"delivered", "leased", "static"}}
	require.Equal(t, want, m.write("secrets/etl", push).Data)
	require.Len(t, m.stored("etl"), 4)
	delete(push, "dry_run")
	require.Equal(t, want, m.write("secrets/etl", push).Data)
	for _, key := range []string{"delivered", "static"} {
		token, _ := m.value("etl", key)
		require.True(t, m.works(token), key)
	}

	// They end as if there had been no push.
	require.NoError(t, m.client.Sys().RevokeWithOptions(revokeNow(leased)))
	require.NoError(t, m.client.Sys().RevokeWithOptions(revokeNow(delivered)))
	m.delete("static-roles/bi")
	require.Equal(t, map[string]any{"sent": "value"}, m.stored("etl"))
}

// thousand makes a full scope's worth of values.
func thousand(prefix string) map[string]any {
	values := make(map[string]any, 1000)
	for i := range 1000 {
		values[fmt.Sprintf("key-%03d", i)] = fmt.Sprintf("%s-value-%03d", prefix, i)
	}
	return values
}

// stored is what a scope holds.
func (m *mount) stored(scope string) map[string]any {
	values := map[string]any{}
	for key, secret := range m.scope(scope).Secrets {
		values[key] = string(secret.Value)
	}
	return values
}

func TestThousandSecretsArePushedTriedOutAndPruned(t *testing.T) {
	t.Parallel()
	notOnOpenBao(t, "its listener takes 1,000 strings in a JSON at most, unless max_request_json_strings is raised")
	m := newConfiguredMount(t)
	scope := m.path // the log names scopes, not mounts
	m.write("scopes/"+scope, data{})
	values := thousand("bulk")
	server.secret("bulk-value-", "the values of a bulk push")

	tried := m.write("secrets/"+scope, data{"secrets": values, "prune": true, "dry_run": true})
	require.Len(t, tried.Data["written"], 1000)
	require.Empty(t, tried.Data["deleted"])
	require.Zero(t, m.workspace.Count("POST", "/api/2.0/secrets/put"), "dry_run changes nothing")

	pushed := m.write("secrets/"+scope, data{"secrets": values})
	require.Equal(t, tried.Data, pushed.Data)
	require.Equal(t, values, m.stored(scope))
	require.Equal(t, 1000, m.workspace.Count("POST", "/api/2.0/secrets/put"))
	requireLogged(t, "[INFO]", "pushed secrets", "scope="+scope, "written=1000", "of=1000")

	// The scope is made equal to what is sent: some stay, some change, one is bytes, the rest goes.
	values["key-000"] = server.secret("bulk-value-changed", "a secret")
	for i := 10; i < 1000; i++ {
		delete(values, fmt.Sprintf("key-%03d", i))
	}
	tried = m.write("secrets/"+scope, data{"secrets": values, "prune": true, "dry_run": true})
	require.Len(t, tried.Data["deleted"], 990)
	require.Len(t, m.stored(scope), 1000)
	for key := range values {
		if key > "key-003" {
			delete(values, key)
		}
	}
	binary := data{"key-004": base64.StdEncoding.EncodeToString([]byte{0, 255, 128})}
	pushed = m.write("secrets/"+scope, data{"secrets": values, "bytes": binary, "prune": true})
	require.Equal(t, []any{"key-000", "key-001", "key-002", "key-003", "key-004"}, pushed.Data["written"])
	require.Len(t, pushed.Data["deleted"], 995)
	values["key-004"] = "\x00\xff\x80"
	require.Equal(t, values, m.stored(scope))
}

func TestBulkPushThatCannotBeMeantIsRefusedWhole(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("secrets/etl/kept", data{"string_value": server.secret("kept-by-refused-pushes", "a secret")})
	tooMany := thousand("refused")
	tooMany["one-more"] = "x"
	m.workspace.ResetCalls()
	for part, body := range map[string]data{
		"prune: with no secrets":   {"prune": true},
		"secrets: is missing":      {},
		"1001 keys":                {"secrets": tooMany},
		"letters, digits":          {"secrets": data{"good": "x", "not good": "x"}},
		"is in both":               {"secrets": data{"a": "x"}, "bytes": data{"a": "eA=="}},
		"send a string":            {"secrets": data{"a": data{"nested": "x"}}},
		"is not base64":            {"bytes": data{"good": "eA==", "bad": "%"}},
		`"long": has 131073 bytes`: {"secrets": data{"long": strings.Repeat("x", maxValue+1)}},
	} {
		_, err := m.tryWrite("secrets/etl", body)
		requireRefused(t, err, 400, part)
	}
	require.Zero(t, m.workspace.Count("", "*"))
	_, err := m.tryWrite("secrets/absent", data{"secrets": data{"a": "x"}})
	requireRefused(t, err, 400, "RESOURCE_DOES_NOT_EXIST", "write scopes/absent")
}

// keyOf is the key that a call to secrets/put or secrets/delete was about.
func keyOf(t *testing.T, call simulator.Call) string {
	t.Helper()
	var body struct {
		Key string `json:"key"`
	}
	require.NoError(t, json.Unmarshal(call.Body, &body))
	return body.Key
}

func TestPartialFailureNamesTheKeysAndARepetitionFinishes(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("secrets/etl/surplus", data{"string_value": "surplus"})
	values := thousand("partial")
	delete(values, "key-999") // so that it is no more than a scope can hold, surplus included
	m.workspace.ResetCalls()
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", Offset: 100, Every: 100, Times: 5, Status: 400, ErrorCode: "BAD_REQUEST", Message: "a bad day"})

	_, err := m.tryWrite("secrets/etl", data{"secrets": values, "prune": true})
	requireRefused(t, err, 400, "5 of 1000 keys failed", "994 were written", "0 deleted", "BAD_REQUEST", "a bad day", "write the same again")
	failed := 0
	for _, call := range m.workspace.Calls() {
		if call.Fault {
			failed++
			require.Contains(t, err.Error(), keyOf(t, call))
		}
	}
	require.Equal(t, 5, failed)
	require.NotContains(t, err.Error(), "partial-value")
	require.Len(t, m.stored("etl"), 995)
	require.Contains(t, m.stored("etl"), "surplus", "nothing is deleted before all is written")

	m.write("secrets/etl", data{"secrets": values, "prune": true})
	require.Equal(t, values, m.stored("etl"))
}

func TestFullScopeIsMadeEqualToOtherKeys(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	before := thousand("full")
	m.write("secrets/etl", data{"secrets": before})
	after := thousand("renamed")
	after["new-key"] = after["key-000"]
	delete(after, "key-000")
	m.write("secrets/etl", data{"secrets": after, "prune": true})
	require.Equal(t, after, m.stored("etl"))
}

func TestCancelledPushStopsAndARepetitionFinishes(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	scope := m.path // the log names scopes, not mounts
	m.write("scopes/"+scope, data{})
	values := thousand("cancelled")
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", Offset: 100, Hold: make(chan struct{})})
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := m.client.Logical().WriteWithContext(ctx, m.path+"/secrets/"+scope, data{"secrets": values})
		result <- err
	}()
	const held = 100 + 16 // that many at once are on their way
	require.Eventually(t, func() bool { return m.workspace.Count("POST", "/api/2.0/secrets/put") == held }, patience, 10*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	requireLogged(t, "pushed secrets", "scope="+scope, "written=100", "of=1000")
	require.Equal(t, held, m.workspace.Count("POST", "/api/2.0/secrets/put"), "nothing is sent for a caller who is gone")
	require.Len(t, m.stored(scope), 100)

	m.workspace.ClearFaults()
	m.write("secrets/"+scope, data{"secrets": values})
	require.Equal(t, values, m.stored(scope))
}

func TestPushWithoutPermissionEndsAtOnce(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	engine := m.workspace.AddServicePrincipal("engine", false)
	m.configureAs(engine)
	m.workspace.AddScope("foreign", m.admin)
	m.workspace.PutACL("foreign", engine.UserName, "READ")
	_, err := m.tryWrite("secrets/foreign", data{"secrets": thousand("denied")})
	requireRefused(t, err, 400, "PERMISSION_DENIED", "needs WRITE")
	require.LessOrEqual(t, m.workspace.Count("POST", "/api/2.0/secrets/put"), 16)
}

func TestLeasedSecretIsDeletedWhenItExpires(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	value := server.secret("alive-for-two-seconds", "a leased secret")
	secret := m.write("secrets/etl/brief", data{"string_value": value, "ttl": "2s"})
	require.NotEmpty(t, secret.LeaseID)
	require.Equal(t, 2, secret.LeaseDuration)
	require.True(t, secret.Renewable)
	require.WithinDuration(t, time.Now(), timeOf(t, secret.Data["last_updated_timestamp"]), patience)
	require.NotContains(t, fmt.Sprint(secret.Data), value)
	require.Eventually(t, func() bool { _, ok := m.value("etl", "brief"); return !ok }, patience, 100*time.Millisecond)
}

func TestLeasedSecretIsDeletedWhenRevokedUnlessItWasOverwritten(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	body := func(value string) data {
		return data{"string_value": server.secret(value, "a leased secret"), "ttl": "1h"}
	}
	revoked, overwritten := m.write("secrets/etl/revoked", body("leased-and-revoked")), m.write("secrets/etl/overwritten", body("leased-and-overwritten"))
	gone, again := m.write("secrets/etl/gone", body("leased-and-deleted")), m.write("secrets/etl/again", body("leased-at-first"))
	m.workspace.PutSecret("etl", "overwritten", []byte("by somebody else"))
	m.delete("secrets/etl/gone")
	later := m.write("secrets/etl/again", body("leased-once-more"))

	for _, secret := range []*api.Secret{revoked, overwritten, gone, again} {
		m.revoke(secret)
	}
	require.Equal(t, map[string]any{"overwritten": "by somebody else", "again": "leased-once-more"}, m.stored("etl"))
	requireLogged(t, "[WARN]", "overwritten since", "key=overwritten")
	m.revoke(later)
	require.NotContains(t, m.stored("etl"), "again")

	for range 3 {
		m.write("secrets/etl/many", body("leased-and-ended-with-the-mount"))
	}
	require.NoError(t, m.client.Sys().RevokePrefix(m.path+"/secrets/etl/many"))
	require.NotContains(t, m.stored("etl"), "many")
}

func TestLeasedSecretIsRenewedUpToTheMountsMaximum(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	require.NoError(t, m.client.Sys().TuneMountAllowNil(m.path, api.TuneMountConfigInput{MaxLeaseTTL: ptr("2h")}))
	secret := m.write("secrets/etl/renewed", data{"string_value": server.secret("leased-and-renewed", "a leased secret"), "ttl": "1h"})
	before := m.scope("etl").Secrets["renewed"].Updated
	renewed, err := m.client.Sys().Renew(secret.LeaseID, int((30 * time.Hour).Seconds()))
	require.NoError(t, err)
	require.LessOrEqual(t, renewed.LeaseDuration, 7200)
	require.Greater(t, renewed.LeaseDuration, 3600)
	require.Equal(t, before, m.scope("etl").Secrets["renewed"].Updated, "a renewal writes nothing")

	capped := m.write("secrets/etl/capped", data{"string_value": server.secret("leased-and-capped", "a leased secret"), "ttl": "50h"})
	require.Equal(t, 7200, capped.LeaseDuration)
	require.NotEmpty(t, capped.Warnings, "whoever shortens a ttl says so")
}

func TestPushIsSlowedDownNotBrokenByThrottling(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	throttled := m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", Times: 5, Status: 429, Header: http.Header{"Retry-After": {"1"}}})
	values := data{}
	for i := range 50 {
		values[fmt.Sprintf("key-%02d", i)] = fmt.Sprintf("throttled-value-%02d", i)
	}
	pushed := m.write("secrets/etl", data{"secrets": values})
	require.Len(t, pushed.Data["written"], 50)
	require.Equal(t, 5, throttled.Hits())
	require.Equal(t, values, m.stored("etl"))
}
