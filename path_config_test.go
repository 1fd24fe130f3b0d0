// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const mePath = "/api/2.0/preview/scim/v2/Me"

func TestConfig(t *testing.T) {
	t.Parallel()
	m := newMount(t)

	resp, err := m.do(logical.ReadOperation, "config", nil)
	require.NoError(t, err)
	require.Nil(t, resp, "an absent config is a 404")

	written := m.connect(map[string]any{"ttl": "15m", "max_ttl": "2h"})
	want := map[string]any{
		"host": m.workspace.URL(), "auth_type": "pat", "workspace_id": "", "ca_cert": "", "ttl": int64(900), "max_ttl": int64(7200),
		"request_timeout": int64(20), "max_retries": 4, "rate_limit": 0.0, "verify_connection": true, "last_vault_rotation": nil, "next_vault_rotation": nil,
		"last_vault_rotation_time": nil, "next_vault_rotation_time": nil, "next_rotation_attempt_time": nil, "next_pending_attempt_time": nil, "account_id": "",
		"rotation_period": int64(0), "rotation_policy": "", "rotation_schedule": "", "rotation_window": int64(0), "disable_automated_rotation": false, "rotation_failures": 0,
		"last_rotation_error": "", "next_rotation_attempt": nil, "credential_id": "", "expiry_time": nil, "pending_error": "", "next_pending_attempt": nil, "retired_ids": []string{}, "hand_made_credentials": []string{},
	}
	require.Equal(t, want, written.Data)
	require.Equal(t, want, m.read("config").Data)
	require.Equal(t, 1, m.workspace.Count(http.MethodGet, mePath), "one call proves the connection")

	// A write keeps the fields that it does not name.
	m.write("config", map[string]any{"ttl": "20m", "rate_limit": 5.5})
	want["ttl"], want["rate_limit"] = int64(1200), 5.5
	require.Equal(t, want, m.read("config").Data)

	// PATCH does too, and null resets.
	resp, err = m.do(logical.PatchOperation, "config", map[string]any{"ttl": nil, "rate_limit": nil, "max_retries": 2, "request_timeout": nil})
	m.requireOK(resp, err)
	want["ttl"], want["rate_limit"], want["max_retries"] = int64(0), 0.0, 2
	require.Equal(t, want, m.read("config").Data)

	resp, err = m.do(logical.PatchOperation, "config", map[string]any{"auth_type": nil})
	m.requireOK(resp, err)
	require.Equal(t, want, m.read("config").Data, "only pat fits what is stored")

	// The stored entry is under the seal-wrapped prefix, and has the only copy of the secret.
	keys, err := m.storage.List(t.Context(), configStoragePrefix)
	require.NoError(t, err)
	require.Equal(t, []string{"connection"}, keys)

	resp, err = m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	resp, err = m.do(logical.ReadOperation, "config", nil)
	require.NoError(t, err)
	require.Nil(t, resp)
	resp, err = m.do(logical.PatchOperation, "config", map[string]any{"ttl": "1m"})
	m.coded(http.StatusNotFound, resp, err)
	resp, err = m.do(logical.ListOperation, "tokens", nil)
	m.refused(resp, err, "config", "vault write databricks/config")
	resp, err = m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
}

func TestConfigRefusesBadInput(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	good := map[string]any{"host": m.workspace.URL(), "token": m.token}
	for name, row := range map[string]struct {
		set   map[string]any
		words []string
	}{
		"no host":                     {map[string]any{"host": ""}, []string{"host: is missing", "https://"}},
		"host with a path":            {map[string]any{"host": "https://example.com/login"}, []string{"host: "}},
		"host with a query":           {map[string]any{"host": "https://example.com/?o=1"}, []string{"host: "}},
		"host with a user":            {map[string]any{"host": "https://me:pw@example.com"}, []string{"host: "}},
		"plain http":                  {map[string]any{"host": "http://example.com"}, []string{"host: ", "https"}},
		"another scheme":              {map[string]any{"host": "ftp://example.com"}, []string{"host: "}},
		"account console":             {map[string]any{"host": "https://accounts.cloud.databricks.com"}, []string{"account_id: is missing", "account console", "workspace"}},
		"no credential":               {map[string]any{"token": ""}, []string{"auth_type: can't be inferred"}},
		"pat without token":           {map[string]any{"token": nil, "auth_type": "pat"}, []string{"token: is missing"}},
		"token with a newline":        {map[string]any{"token": "dapi\n123"}, []string{"token: ", "control characters"}},
		"token with umlaut":           {map[string]any{"token": "däpi"}, []string{"token: "}},
		"two credentials":             {map[string]any{"client_id": "a", "client_secret": "b"}, []string{"auth_type: ", "several types", "client_secret, token"}},
		"another type's field":        {map[string]any{"auth_type": "pat", "client_id": "a"}, []string{"client_id: does not belong to auth_type pat"}},
		"unknown auth type":           {map[string]any{"auth_type": "basic"}, []string{`auth_type: "basic" is unknown`, "oauth-m2m"}},
		"m2m without secret":          {map[string]any{"token": nil, "client_id": "a"}, []string{"client_secret: is missing"}},
		"m2m without id":              {map[string]any{"token": nil, "client_secret": "a"}, []string{"client_id: is missing"}},
		"workspace id in words":       {map[string]any{"workspace_id": "prod"}, []string{`workspace_id: "prod" is not a number`}},
		"ttl over max_ttl":            {map[string]any{"ttl": "2h", "max_ttl": "1h"}, []string{"ttl: 2h is longer than max_ttl, 1h"}},
		"ttl for ever":                {map[string]any{"ttl": "87600h"}, []string{"ttl: ", "730d"}},
		"max_ttl for ever":            {map[string]any{"max_ttl": "87600h"}, []string{"max_ttl: ", "730d"}},
		"negative ttl":                {map[string]any{"ttl": -5}, []string{"ttl: "}},
		"ttl in words":                {map[string]any{"ttl": "soon"}, []string{"ttl: "}},
		"no time for a request":       {map[string]any{"request_timeout": 0}, []string{"request_timeout: 0s is out of range"}},
		"too long for a request":      {map[string]any{"request_timeout": "5m"}, []string{"request_timeout: 5m is out of range"}},
		"negative retries":            {map[string]any{"max_retries": -1}, []string{"max_retries: -1 is out of range"}},
		"too many retries":            {map[string]any{"max_retries": 11}, []string{"max_retries: 11 is out of range"}},
		"a rate that stops the mount": {map[string]any{"rate_limit": 1e-9}, []string{"rate_limit: 1e-09 is out of range; send 1 to 1000 requests per second, or 0"}},
		"negative rate":               {map[string]any{"rate_limit": -1}, []string{"rate_limit: -1 is out of range"}},
		"infinite rate":               {map[string]any{"rate_limit": "+Inf"}, []string{"rate_limit: ", "finite"}},
		"rate that isn't one":         {map[string]any{"rate_limit": "NaN"}, []string{"rate_limit: ", "finite"}},
		"a certificate that is none":  {map[string]any{"ca_cert": "hello"}, []string{"ca_cert: ", "BEGIN CERTIFICATE"}},
		"a token that is not known":   {map[string]any{"token": "dapi00000000000000000000000000000000"}, []string{"token: ", "nothing was stored", "request id"}},
		"a secret that is not known":  {map[string]any{"token": nil, "client_id": "a", "client_secret": "b"}, []string{"client_secret: ", "nothing was stored"}},
		"the token in the wrong case": {map[string]any{"token": strings.ToUpper(m.token)}, []string{"token: "}},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string]any{}
			for k, v := range good {
				data[k] = v
			}
			for k, v := range row.set {
				data[k] = v
			}
			resp, err := m.do(logical.UpdateOperation, "config", data)
			m.refused(resp, err, row.words...)
			keys, err := m.storage.List(t.Context(), "")
			require.NoError(t, err)
			require.Empty(t, keys, "nothing is stored")
		})
	}
}

func TestConfigChangeThatIsRefusedChangesNothing(t *testing.T) {
	t.Parallel()
	m := ready(t)
	before := m.read("config").Data

	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"token": "dapi11111111111111111111111111111111"})
	m.refused(resp, err, "token")
	m.workspace.Inject(simulator.Fault{Path: mePath, Status: http.StatusInternalServerError, ErrorCode: "INTERNAL_ERROR", Times: 5})
	resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "1m"})
	m.coded(http.StatusBadGateway, resp, err, "verify_connection=false", "INTERNAL_ERROR")
	m.storage.onEach(func(op, _ string) error {
		if op == "put" {
			return errors.New("disk full")
		}
		return nil
	})
	other, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", false), "the engine's own", 0)
	_, err = m.do(logical.UpdateOperation, "config", map[string]any{"token": other})
	require.ErrorContains(t, err, "disk full")
	m.storage.onEach(nil)

	require.Equal(t, before, m.read("config").Data)
	require.Equal(t, "engine@example.com", m.read("status").Data["identity"].(map[string]any)["user_name"])
	m.mint("etl")
	require.Equal(t, m.admin.ID, m.minted()[0].Owner)
}

func TestConfigHostChange(t *testing.T) {
	t.Parallel()
	m := ready(t)
	elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
	t.Cleanup(elsewhere.Close)
	token, _ := elsewhere.AddToken(elsewhere.AddUser("engine@example.com", false), "", 0)

	// The stored secret must not reach a host that it was not meant for.
	for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
		for _, data := range []map[string]any{{"host": elsewhere.URL()}, {"host": elsewhere.URL(), "token": ""}, {"host": elsewhere.URL(), "verify_connection": false}} {
			resp, err := m.do(op, "config", data)
			require.NoError(t, err)
			require.True(t, resp.IsError())
		}
	}
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": elsewhere.URL()})
	m.refused(resp, err, "host: ", "token to be sent again")
	require.Empty(t, elsewhere.Calls())

	resp = m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), m.workspace.URL())
	// The same host in another spelling is no change.
	m.write("config", map[string]any{"host": strings.ToUpper(elsewhere.URL()) + "/"})
}

func TestConfigAuthTypes(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.connect()
	sp := m.workspace.AddServicePrincipal("engine", false)
	_, secret := m.workspace.AddOAuthSecret(sp, time.Hour)

	// The credential that is sent says which type is meant, and the other type's secret is forgotten.
	resp := m.write("config", map[string]any{"client_id": sp.ApplicationID, "client_secret": secret})
	require.Equal(t, "oauth-m2m", resp.Data["auth_type"])
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "identity changed")
	entry, err := m.storage.Get(t.Context(), configStorageKey)
	require.NoError(t, err)
	require.NotContains(t, string(entry.Value), m.token)

	m.write("roles/etl", map[string]any{"credential_type": "pat"})
	m.mint("etl")
	require.Equal(t, sp.ID, m.minted()[0].Owner)
	status := m.read("status").Data["identity"].(map[string]any)
	require.Equal(t, map[string]any{"id": sp.ID, "user_name": sp.ApplicationID, "display_name": "engine", "service_principal": true, "admin": false}, status)

	// A field of the type that is in use may be changed alone.
	_, newer := m.workspace.AddOAuthSecret(sp, time.Hour)
	require.Equal(t, "oauth-m2m", m.write("config", map[string]any{"client_secret": newer}).Data["auth_type"])
	resp = m.write("config", map[string]any{"token": m.token})
	require.Equal(t, "pat", resp.Data["auth_type"])
	require.NotContains(t, resp.Data, "client_id", "a field of another type")
}

func TestConfigWithoutVerification(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	outage := m.workspace.Inject(simulator.Fault{Path: "*", Reset: true})
	resp := m.connect(map[string]any{"verify_connection": false})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "without being proved")
	require.Nil(t, m.read("status").Data["identity"])
	require.Empty(t, m.workspace.Calls())

	m.write("config", map[string]any{"max_retries": 0})
	resp = m.write("roles/etl", map[string]any{"credential_type": "pat"})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "isn't known whether the engine's identity is an admin")
	failed, err := m.do(logical.ReadOperation, "creds/etl", nil)
	m.coded(http.StatusBadGateway, failed, err)
	require.Empty(t, m.walEntries(), "nothing is written down before the engine knows who it is")

	outage.Clear()
	m.workspace.ResetCalls()
	m.mint("etl")
	m.mint("etl")
	require.Equal(t, 1, m.workspace.Count("", mePath), "who the engine is gets asked once")
	require.Equal(t, 2, m.workspace.Count("", "/api/2.0/token/create"))
	require.Equal(t, "engine@example.com", m.read("status").Data["identity"].(map[string]any)["user_name"])
}

func TestConfigWritesAtOnce(t *testing.T) {
	t.Parallel()
	m := ready(t)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: mePath, Hold: hold, Times: 1})
	type answer struct {
		resp *logical.Response
		err  error
	}
	slow := make(chan answer)
	go func() {
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "1m"})
		slow <- answer{resp, err}
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	m.mint("etl") // no lock is held while a write is being verified
	m.write("config", map[string]any{"ttl": "2m"})
	close(hold)
	late := <-slow
	m.coded(http.StatusConflict, late.resp, late.err, "changed by somebody else")
	require.EqualValues(t, 120, m.read("config").Data["ttl"])
}

func TestConfigWithBrokenStorage(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.backend.InvalidateKey(t.Context(), configStorageKey)
	m.storage.onEach(func(op, key string) error {
		if strings.HasPrefix(key, configStoragePrefix) {
			return errors.New("no quorum")
		}
		return nil
	})
	for path, op := range map[string]logical.Operation{
		"config": logical.ReadOperation, "status": logical.ReadOperation, "creds/etl": logical.ReadOperation, "tokens": logical.ListOperation, "tokens/x": logical.DeleteOperation,
	} {
		_, err := m.do(op, path, nil)
		require.ErrorContains(t, err, "no quorum", path)
	}
	for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
		data := map[string]any{"ttl": "1m"}
		if op == logical.DeleteOperation {
			data = nil
		}
		_, err := m.do(op, "config", data)
		require.ErrorContains(t, err, "no quorum", op)
	}

	m.storage.onEach(nil)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: configStorageKey, Value: []byte("{")}))
	for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
		_, err := m.do(op, "config", map[string]any{})
		require.ErrorContains(t, err, "cannot be read", op)
	}
	_, err := m.do(logical.ReadOperation, "creds/etl", nil)
	require.ErrorContains(t, err, "cannot be read")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	status := m.read("status").Data
	require.Subset(t, status, map[string]any{
		"configured": false, "plugin_version": Version, "mount_id": testMountID, "calls": map[string]any{},
		"calls_total": int64(0), "calls_failed": int64(0), "calls_retried": int64(0), "calls_throttled": int64(0), "events_dropped": int64(0), "last_error": "", "last_error_time": nil,
	})

	m.makeReady()
	m.mint("etl")
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/list", Status: http.StatusServiceUnavailable, ErrorCode: "TEMPORARILY_UNAVAILABLE", Times: 1})
	_, err := m.do(logical.ListOperation, "tokens", nil)
	require.NoError(t, err)
	m.workspace.ResetCalls()
	status = m.read("status").Data
	require.Empty(t, m.workspace.Calls(), "reading the status makes no call")
	require.Equal(t, true, status["configured"])
	require.Equal(t, m.workspace.URL(), status["host"])
	require.Equal(t, m.workspace.ID(), status["workspace_id"])
	require.Equal(t, "pat", status["auth_type"])
	for _, field := range []string{"verified_time", "last_success_time"} {
		when, err := time.Parse(time.RFC3339, status[field].(string))
		require.NoError(t, err, field)
		require.WithinDuration(t, time.Now(), when, time.Minute, field)
	}
	calls := status["calls"].(map[string]any)
	require.EqualValues(t, 1, calls["token/create"].(map[string]any)["calls"])
	require.EqualValues(t, 0, calls["token/create"].(map[string]any)["errors"])
	require.EqualValues(t, 2, calls["token/list"].(map[string]any)["calls"], "one when the config was written, for the end of its token")
	require.EqualValues(t, 1, calls["token/list"].(map[string]any)["retries"])

	// Counters outlive a change of the config.
	m.write("config", map[string]any{"ttl": "5m"})
	require.EqualValues(t, 1, m.read("status").Data["calls"].(map[string]any)["token/create"].(map[string]any)["calls"])
}

// TestAFinalLineEndIsCut shows that a credential may come from a shell's echo, in every field with one, but not with more than that.
func TestAFinalLineEndIsCut(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	for _, end := range []string{"\n", "\r\n", ""} {
		m.connect(map[string]any{"token": m.token + end})
		require.Equal(t, m.token, m.storedConfig().Token.Reveal())
	}
	for _, token := range []string{m.token + "\n\n", "\n" + m.token, m.token[:8] + "\n" + m.token[8:], m.token + " ", m.token + "\r", "\n"} {
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"token": token})
		m.refused(resp, err, "token: ")
		require.Equal(t, m.token, m.storedConfig().Token.Reveal())
	}
	principal := newMount(t)
	sp := principal.workspace.AddServicePrincipal("engine", true)
	_, secret := principal.workspace.AddOAuthSecret(sp, 0)
	principal.write("config", map[string]any{"host": principal.workspace.URL() + "\n", "auth_type": "oauth-m2m\n", "client_id": sp.ApplicationID + "\n", "client_secret": principal.unlogged(secret) + "\r\n"})
	require.Equal(t, secret, principal.storedConfig().ClientSecret.Reveal())
}

// TestAStoredRateIsRaisedToTheFloor shows that a mount of v0.1.0 with a rate that stops it goes on.
func TestAStoredRateIsRaisedToTheFloor(t *testing.T) {
	t.Parallel()
	m := ready(t)
	config := m.storedConfig()
	config.RateLimit = 1e-9
	require.NoError(t, putConfig(t.Context(), m.storage, config))
	m.backend.InvalidateKey(t.Context(), configStorageKey)
	m.mint("etl")
	require.Equal(t, 1.0, m.read("config").Data["rate_limit"])
	m.write("config", map[string]any{"ttl": "10m"})
}

// storedConfig returns the config as it is stored.
func (m *mount) storedConfig() *configEntry {
	m.t.Helper()
	config, err := readConfig(m.t.Context(), m.storage)
	require.NoError(m.t, err)
	return config
}
