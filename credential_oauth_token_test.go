// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// m2mReady is a mount that is connected as a service principal, an admin, with an OAuth secret.
func m2mReady(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	m := newMount(t, opts...)
	engine := m.workspace.AddServicePrincipal("engine", true)
	_, secret := m.workspace.AddOAuthSecret(engine, time.Hour)
	t.Cleanup(func() { require.NotContains(t, m.log.String(), secret) })
	m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": secret})
	m.workspace.ResetCalls()
	return m, engine
}

// tokenReady is a connected mount with the role "job" for tokens of a service principal.
func tokenReady(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	m := ready(t, opts...)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/job", map[string]any{"credential_type": "oauth_token", "application_id": sp.ApplicationID, "scopes": "sql,jobs", "ttl": "10m", "max_ttl": "20m"})
	m.workspace.ResetCalls()
	return m, sp
}

// endsByItself requires that the lease is that of an access token, which nobody can end.
func (m *mount) endsByItself(creds *logical.Response) {
	m.t.Helper()
	require.InDelta(m.t, time.Hour, creds.Secret.TTL, float64(5*time.Second))
	require.LessOrEqual(m.t, creds.Secret.TTL, time.Hour)
	require.Equal(m.t, creds.Secret.TTL, creds.Secret.MaxTTL)
	require.False(m.t, creds.Secret.Renewable)
	require.WithinDuration(m.t, time.Now().Add(time.Hour), m.moment(creds.Data["expiry_time"]), 5*time.Second)
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	m.workspace.ResetCalls()
	m.end(creds.Secret)
	require.Empty(m.t, m.workspace.Calls(), "revoking makes no call and needs no connection")
	require.True(m.t, m.workspace.Introspect(creds.Data["access_token"].(string)).Live, "as is honestly said")
}

func TestOAuthTokenOfTheEngine(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	resp := m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "can't revoke access tokens")
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "who is a workspace admin")
	creds := m.mint("own")
	require.Equal(t, []string{"POST " + grantPath}, m.requests(), "a mint is one call")
	value := m.hidden(creds, "access_token")
	require.Equal(t, map[string]any{
		"host": m.workspace.URL(), "access_token": value, "token_type": "Bearer", "expiry_time": creds.Data["expiry_time"], "scopes": []string{"all-apis"},
	}, creds.Data)
	state := m.workspace.Introspect(value)
	require.Equal(t, engine.ID, state.Owner.ID)
	require.Equal(t, []string{"all-apis"}, state.Scopes)
	require.WithinDuration(t, state.Expires, m.moment(creds.Data["expiry_time"]), 2*time.Second)
	require.NotEqual(t, value, m.mint("own").Data["access_token"])
	for _, call := range m.workspace.Calls() {
		require.NotEqual(t, "Bearer "+value, call.Header.Get("Authorization"), "never the engine's own")
	}

	narrow := m.write("creds/own", map[string]any{"scopes": "sql"})
	require.Equal(t, []string{"sql"}, narrow.Data["scopes"])
	require.Equal(t, []string{"sql"}, m.workspace.Introspect(narrow.Data["access_token"].(string)).Scopes)
	require.Empty(t, m.walEntries())

	for name, row := range map[string]struct {
		data map[string]any
		word string
	}{
		"a shorter ttl": {map[string]any{"ttl": "5m"}, "live for 1h and can't be revoked, so the lease is as long, although ttl is 5m"},
		"a longer ttl":  {map[string]any{"ttl": "3h"}, "although ttl is 3h"},
		"beyond all":    {map[string]any{"ttl": "300h"}, "although ttl is 300h"},
		"a comment":     {map[string]any{"comment": "OPS-1"}, "comment was left out"},
	} {
		creds := m.write("creds/own", row.data)
		require.Contains(t, strings.Join(creds.Warnings, "\n"), row.word, name)
		require.NotContains(t, strings.Join(creds.Warnings, "\n"), "capped", name)
		require.InDelta(t, time.Hour, creds.Secret.TTL, float64(5*time.Second), name)
	}
	m.endsByItself(creds)
}

func TestOAuthTokenNeedsOAuth(t *testing.T) {
	t.Parallel()
	m, _ := m2mReady(t)
	m.write("roles/own", map[string]any{"credential_type": "oauth_token", "scopes": "sql"})
	m.connect()
	m.workspace.ResetCalls()
	resp, err := m.do(logical.ReadOperation, "creds/own", nil)
	m.refused(resp, err, "credential_type: the mount is connected with a personal access token")
	resp, err = m.do(logical.UpdateOperation, "roles/other", map[string]any{"credential_type": "oauth_token"})
	m.refused(resp, err, "credential_type: ", "name a service principal, or connect the mount with OAuth")
	require.Empty(t, m.workspace.Calls())
	require.Empty(t, m.walEntries())
	require.Nil(t, m.absent("roles/other"))

	// Of a service principal that is named by either id, it works over any connection.
	sp := m.workspace.AddServicePrincipal("job", false)
	for _, id := range []map[string]any{{"application_id": sp.ApplicationID}, {"service_principal_id": sp.ID}} {
		id["credential_type"] = "oauth_token"
		m.write("roles/job", id)
		require.Equal(t, sp.ID, m.workspace.Introspect(m.mint("job").Data["access_token"].(string)).Owner.ID)
	}

	// Before there is a connection, nobody can tell.
	early := newMount(t)
	early.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	early.connect()
	resp, err = early.do(logical.ReadOperation, "creds/own", nil)
	early.refused(resp, err, "credential_type: ")
}

// absent reads what must not be there.
func (m *mount) absent(path string) *logical.Response {
	m.t.Helper()
	resp, err := m.do(logical.ReadOperation, path, nil)
	require.NoError(m.t, err)
	return resp
}

func TestOAuthTokenOfAServicePrincipal(t *testing.T) {
	t.Parallel()
	m, sp := tokenReady(t)
	creds := m.mint("job")
	require.Equal(t, []string{"POST " + secretsPath + "…/secrets", "POST " + grantPath, "DELETE " + secretsPath + "…/secrets/…"}, m.requests())
	lifetime, err := time.ParseDuration(m.body(0)["lifetime"].(string))
	require.NoError(t, err)
	require.GreaterOrEqual(t, lifetime, credential.Lookup(credential.OAuthToken).Traits().Lifetime)
	require.Less(t, lifetime, credential.Lookup(credential.OAuthToken).Traits().Lifetime+time.Minute, "seconds, should its deletion fail")
	require.Equal(t, []any{"sql", "jobs"}, m.body(0)["scopes"])
	require.Empty(t, m.workspace.OAuthSecrets(sp))
	state := m.workspace.Introspect(m.hidden(creds, "access_token"))
	require.Equal(t, sp.ID, state.Owner.ID)
	require.Equal(t, []string{"sql", "jobs"}, state.Scopes)
	require.Equal(t, []string{"sql", "jobs"}, creds.Data["scopes"])
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "although ttl is 10m")
	require.Empty(t, m.walEntries())

	resp, err := m.do(logical.UpdateOperation, "creds/job", map[string]any{"scopes": "all-apis"})
	m.refused(resp, err, `scopes: "all-apis" is not among the role's`)
	require.Equal(t, []string{"jobs"}, m.write("creds/job", map[string]any{"scopes": "jobs"}).Data["scopes"])
	m.endsByItself(creds)
}

func TestOAuthTokenFaults(t *testing.T) {
	t.Parallel()
	const secrets = secretsPath + "*"
	rows := lateCreate(http.MethodPost, secrets)
	grantFault := func(f simulator.Fault) simulator.Fault {
		f.Path = grantPath
		return f
	}
	noDelete := simulator.Fault{Method: http.MethodDelete, Path: secrets, Status: 503}
	twin := simulator.Fault{Method: http.MethodPost, Path: secrets, Status: 429, Times: 1, AfterEffect: true}
	for name, row := range map[string]mintFault{
		"token refused":                     {[]simulator.Fault{grantFault(simulator.Fault{Status: 400, ErrorCode: "invalid_scope"})}, 400, "make an access token of service principal", false, 0, 1},
		"token refused, secret stays":       {[]simulator.Fault{grantFault(simulator.Fault{Status: 400, ErrorCode: "invalid_scope"}), noDelete}, 400, "oauth-secrets/delete", true, 1, 1},
		"token refused, with a twin":        {[]simulator.Fault{twin, grantFault(simulator.Fault{Status: 400, ErrorCode: "invalid_scope"})}, 400, "invalid_scope", true, 1, 2},
		"secret not known for long":         {[]simulator.Fault{grantFault(simulator.Fault{Status: 401})}, 400, "refused the secret of the service principal", false, 0, 1},
		"secret not known at first":         {[]simulator.Fault{grantFault(simulator.Fault{Status: 401, Times: 1})}, 0, "", false, 0, 1},
		"token broken":                      {[]simulator.Fault{grantFault(simulator.Fault{Status: 500})}, 502, "oidc/token", false, 0, 1},
		"token lost":                        {[]simulator.Fault{grantFault(simulator.Fault{Reset: true, AfterEffect: true})}, 502, "oidc/token", false, 0, 1},
		"token lost, secret stays":          {[]simulator.Fault{grantFault(simulator.Fault{Reset: true, AfterEffect: true}), noDelete}, 502, "oidc/token", true, 1, 1},
		"token lost once":                   {[]simulator.Fault{grantFault(simulator.Fault{Reset: true, AfterEffect: true, Times: 1})}, 0, "", false, 0, 1},
		"token throttled for long":          {[]simulator.Fault{grantFault(simulator.Fault{Status: 429, Header: http.Header{"Retry-After": {"3600"}}})}, 429, "oidc/token", false, 0, 1},
		"token as a page":                   {[]simulator.Fault{grantFault(simulator.Fault{HTML: true})}, 502, "web page", false, 0, 1},
		"secret stays":                      {[]simulator.Fault{noDelete}, 0, "", true, 1, 1},
		"secret stays, refused":             {[]simulator.Fault{{Method: http.MethodDelete, Path: secrets, Status: 403}}, 0, "", true, 1, 1},
		"reply to the deletion lost":        {[]simulator.Fault{{Method: http.MethodDelete, Path: secrets, Reset: true, AfterEffect: true, Times: 1}}, 0, "", false, 0, 1},
		"reply to the deletion lost always": {[]simulator.Fault{{Method: http.MethodDelete, Path: secrets, Reset: true, AfterEffect: true}}, 0, "", true, 0, 1},
		"secret gone already":               {[]simulator.Fault{{Method: http.MethodDelete, Path: secrets, Status: 404, ErrorCode: "NOT_FOUND", AfterEffect: true}}, 0, "", false, 0, 1},
	} {
		rows[name] = row
	}
	mintFaults(t, rows,
		func(t *testing.T) *mount { m, _ := tokenReady(t); return m },
		func(m *mount) int { return len(m.workspace.OAuthSecrets(m.only("job"))) },
		func(m *mount) int { return m.workspace.Count(http.MethodPost, secrets) }, 0,
		func(m *mount, resp *logical.Response) {
			require.True(m.t, m.workspace.Introspect(m.hidden(resp, "access_token")).Live)
		})

	t.Run("secret and its twin stay", func(t *testing.T) {
		t.Parallel()
		m, sp := tokenReady(t)
		m.write("config", map[string]any{"max_retries": 1})
		m.workspace.Inject(twin)
		m.workspace.Inject(noDelete)
		m.mint("job")
		require.Len(t, m.workspace.OAuthSecrets(sp), 2)
		m.workspace.ClearFaults()
		m.rolledBack()
		require.Len(t, m.workspace.OAuthSecrets(sp), 2, "nothing tells them from others; they live for seconds")
		require.Contains(t, m.log.String(), "2 OAuth secrets of service principal "+sp.ID)
	})

	for name, fault := range map[string]simulator.Fault{"reset": {Reset: true}, "broken": {Status: 500}} {
		t.Run("of the engine itself: "+name, func(t *testing.T) {
			t.Parallel()
			m, _ := m2mReady(t)
			m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
			m.write("config", map[string]any{"max_retries": 0})
			m.workspace.Inject(grantFault(fault))
			_, err := m.do(logical.ReadOperation, "creds/own", nil)
			m.coded(http.StatusBadGateway, nil, err, "oidc/token")
			m.workspace.ClearFaults()
			m.workspace.ResetCalls()
			m.rolledBack()
			require.Empty(t, m.requests(), "there is nothing to look for")
		})
	}
}

// TestOAuthTokenDelivered shows that what is still to be done about the secret in between doesn't end what was delivered.
func TestOAuthTokenDelivered(t *testing.T) {
	t.Parallel()
	m, sp := tokenReady(t)
	m.workspace.AddScope("etl", m.admin)
	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: secretsPath + "*", Status: 503, Times: 1})
	creds := m.write("creds/job", delivered)
	require.NotContains(t, creds.Data, "access_token")
	require.Len(t, m.workspace.OAuthSecrets(sp), 1)
	m.restart()
	m.rolledBack()
	require.Empty(t, m.workspace.OAuthSecrets(sp))
	value, there := m.has("k")
	require.True(t, there)
	require.Equal(t, sp.ID, m.workspace.Introspect(value).Owner.ID)

	m.workspace.ResetCalls()
	m.end(creds.Secret)
	_, there = m.has("k")
	require.False(t, there, "the copy is removed")

	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403})
	m.failure(m.do(logical.UpdateOperation, "creds/job", delivered))
	require.Empty(t, m.workspace.OAuthSecrets(sp))
	require.Empty(t, m.walEntries())
}

// TestOAuthTokensAtOnce asks for more tokens at once than a service principal can have secrets.
func TestOAuthTokensAtOnce(t *testing.T) {
	t.Parallel()
	m, sp := tokenReady(t)
	for range credential.MaxOAuthSecrets - credential.Lookup(credential.OAuthToken).Traits().Slots {
		m.workspace.AddOAuthSecret(sp, time.Hour)
	}
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if resp, err := m.do(logical.ReadOperation, "creds/job", nil); err != nil || resp.IsError() {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
	wg.Wait()
	require.Len(t, m.workspace.OAuthSecrets(sp), credential.MaxOAuthSecrets-credential.Lookup(credential.OAuthToken).Traits().Slots)
	require.Empty(t, m.walEntries())
}

func TestOAuthTokenWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	m, sp := tokenReady(t)
	b := m.backend.(*backend)
	for lane := range credential.Lookup(credential.OAuthToken).Traits().Slots {
		unlock, err := b.slotLocks.Map.Lock(t.Context(), fmt.Sprint(sp.ID, " ", lane))
		require.NoError(t, err)
		defer unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := m.send(ctx, logical.ReadOperation, "creds/job", nil)
	m.coded(http.StatusGatewayTimeout, nil, err)
	require.Empty(t, m.requests())
	require.Empty(t, m.walEntries())
}

func TestOAuthTokenAtTheSecretLimit(t *testing.T) {
	t.Parallel()
	m, sp := tokenReady(t)
	for range credential.MaxOAuthSecrets {
		m.workspace.AddOAuthSecret(sp, time.Hour)
	}
	resp, err := m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, "can have 5 OAuth secrets", "service_principal")
	require.Empty(t, m.walEntries())
}
