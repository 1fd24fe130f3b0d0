// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/marker"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// principalReady is a connected mount with the role "job" for service principals in two groups.
func principalReady(t *testing.T, opts ...simulator.Option) *mount {
	m := ready(t, opts...)
	m.workspace.AddGroup("readers")
	m.workspace.AddGroup("data, and more")
	m.write("roles/job", map[string]any{
		"credential_type": "service_principal", "groups": []string{"readers", "data, and more"}, "entitlements": "workspace-access,databricks-sql-access",
		"scopes": "sql,jobs", "ttl": "10m", "max_ttl": "1h",
	})
	m.workspace.ResetCalls()
	return m
}

func TestServicePrincipal(t *testing.T) {
	t.Parallel()
	m := principalReady(t)
	creds := m.mint("job")
	require.Equal(t, []string{"POST " + principalsPath, "POST " + secretsPath + "…/secrets"}, m.requests(), "a mint is two calls, groups included")
	made := m.workspace.ServicePrincipals()[0]
	sent := m.body(0)
	require.Len(t, sent["groups"], 2)
	require.Len(t, sent["entitlements"], 2)
	require.Equal(t, []string{"readers", "data, and more"}, made.Groups)
	require.Equal(t, []string{"workspace-access", "databricks-sql-access"}, made.Entitlements)
	require.False(t, made.Admin)
	require.Regexp(t, `^Vault role job for alice vault:`+testMountID+`:[0-9a-f]{32}:\d+$`, made.DisplayName)
	require.Equal(t, map[string]any{"lifetime": "3660s", "scopes": []any{"sql", "jobs"}}, m.body(1))

	secret := m.workspace.OAuthSecrets(made)[0]
	value := m.hidden(creds, "client_secret")
	require.Equal(t, map[string]any{
		"host": m.workspace.URL(), "client_id": made.ApplicationID, "client_secret": value, "secret_id": secret.ID, "expiry_time": rfc3339(secret.Expires),
		"scopes": []string{"sql", "jobs"}, "application_id": made.ApplicationID, "service_principal_id": made.ID, "display_name": made.DisplayName,
	}, creds.Data)
	access := m.login(grantPath, made.ApplicationID, value)
	state := m.workspace.Introspect(access)
	require.True(t, state.Live)
	require.Equal(t, made.ID, state.Owner.ID)
	require.Equal(t, []string{"sql", "jobs"}, state.Scopes)
	require.Equal(t, 10*time.Minute, creds.Secret.TTL)
	require.Equal(t, time.Hour, creds.Secret.MaxTTL)
	require.True(t, creds.Secret.Renewable)
	require.Empty(t, m.walEntries())
	m.renewed(creds.Secret, 10*time.Minute)

	narrow := m.write("creds/job", map[string]any{"scopes": "jobs", "comment": "OPS-1"})
	require.Contains(t, narrow.Data["display_name"], "alice: OPS-1 vault:")
	require.Equal(t, []string{"jobs"}, m.workspace.OAuthSecrets(m.workspace.ServicePrincipals()[1])[0].Scopes)
	require.NotEqual(t, creds.Data["client_id"], narrow.Data["client_id"])
	resp, err := m.do(logical.UpdateOperation, "creds/job", map[string]any{"scopes": "all-apis"})
	m.refused(resp, err, `scopes: "all-apis" is not among the role's`)

	for range 2 {
		m.workspace.ResetCalls()
		m.end(creds.Secret)
		require.Equal(t, []string{"DELETE " + secretsPath + "…/secrets/…", "DELETE " + principalsPath + "/…"}, m.requests(), "a revoke is two calls, and gone is success")
		require.Len(t, m.workspace.ServicePrincipals(), 1)
		require.Empty(t, m.login(grantPath, made.ApplicationID, value))
		require.False(t, m.workspace.Introspect(access).Live)
	}
}

func TestServicePrincipalFaults(t *testing.T) {
	t.Parallel()
	const secrets = secretsPath + "*"
	rows := lateCreate(http.MethodPost, principalsPath)
	noDelete := simulator.Fault{Method: http.MethodDelete, Path: principalsPath + "/*", Status: 503}
	twin := simulator.Fault{Method: http.MethodPost, Path: principalsPath, Status: 429, Times: 1, AfterEffect: true}
	secretFault := func(f simulator.Fault) simulator.Fault {
		f.Method, f.Path = http.MethodPost, secrets
		return f
	}
	forbidden := secretFault(simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED"})
	lost := secretFault(simulator.Fault{Reset: true, AfterEffect: true})
	for name, row := range map[string]mintFault{
		"secret refused":                          {[]simulator.Fault{forbidden}, 400, "its secret was not", false, 0, 1},
		"secret refused, and it stays":            {[]simulator.Fault{forbidden, noDelete}, 400, "its secret was not", true, 1, 1},
		"secret refused, with a twin":             {[]simulator.Fault{twin, forbidden}, 400, "its secret was not", true, 1, 2},
		"secret refused, with a twin, both stay":  {[]simulator.Fault{twin, forbidden, noDelete}, 400, "its secret was not", true, 2, 2},
		"secret broken":                           {[]simulator.Fault{secretFault(simulator.Fault{Status: 500})}, 502, "oauth-secrets/create", false, 0, 1},
		"secret lost":                             {[]simulator.Fault{lost}, 502, "oauth-secrets/create", false, 0, 1},
		"secret lost, and it stays":               {[]simulator.Fault{lost, noDelete}, 502, "oauth-secrets/create", true, 1, 1},
		"secret lost, and secrets can't be seen":  {[]simulator.Fault{lost, {Method: http.MethodGet, Path: secrets, Status: 500}}, 502, "oauth-secrets/create", true, 1, 1},
		"secret lost, and secrets are forbidden":  {[]simulator.Fault{lost, {Method: http.MethodGet, Path: secrets, Status: 403}}, 502, "oauth-secrets/create", false, 0, 1},
		"secret lost, and stays":                  {[]simulator.Fault{lost, {Method: http.MethodDelete, Path: secrets, Status: 503}}, 502, "oauth-secrets/create", true, 1, 1},
		"secret throttled once":                   {[]simulator.Fault{secretFault(simulator.Fault{Status: 429, Times: 1, AfterEffect: true})}, 0, "", false, 0, 1},
		"secret throttled for long":               {[]simulator.Fault{secretFault(simulator.Fault{Status: 429, Header: http.Header{"Retry-After": {"3600"}}})}, 429, "oauth-secrets/create", false, 0, 1},
		"secret as a page":                        {[]simulator.Fault{secretFault(simulator.Fault{HTML: true})}, 502, "web page", false, 0, 1},
		"secret cut in the middle":                {[]simulator.Fault{secretFault(simulator.Fault{Truncate: true, AfterEffect: true})}, 502, "", false, 0, 1},
		"SCIM is busy":                            {[]simulator.Fault{{Method: http.MethodPost, Path: principalsPath, Status: 500, Message: "REQUEST_LIMIT_EXCEEDED: Workspace"}}, 429, "scim", true, 0, 1},
		"an answer without ids":                   {[]simulator.Fault{{Method: http.MethodPost, Path: principalsPath, Status: 201, Body: `{"displayName":"x"}`, AfterEffect: true}}, 502, "", true, 1, 1},
		"the name is taken, whatever that may be": {[]simulator.Fault{{Method: http.MethodPost, Path: principalsPath, Status: 409, Message: "already exists"}}, 400, "already exists", false, 0, 1},
	} {
		rows[name] = row
	}
	mintFaults(t, rows,
		func(t *testing.T) *mount { return principalReady(t) },
		func(m *mount) int { return len(m.workspace.ServicePrincipals()) },
		func(m *mount) int { return m.workspace.Count(http.MethodPost, principalsPath) }, 1,
		func(m *mount, resp *logical.Response) {
			value := m.hidden(resp, "client_secret")
			access := m.login(grantPath, resp.Data["client_id"].(string), value)
			require.Equal(m.t, resp.Data["service_principal_id"], m.workspace.Introspect(access).Owner.ID)
		})
}

// TestServicePrincipalRollback removes by name what a lost reply has left, and nothing that looks like it.
func TestServicePrincipalRollback(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T, opts ...simulator.Option) *mount {
		m := principalReady(t, opts...)
		m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: principalsPath, Reset: true, AfterEffect: true, Times: 1})
		m.failure(m.do(logical.ReadOperation, "creds/job", nil))
		require.Len(t, m.workspace.ServicePrincipals(), 1)
		return m
	}

	t.Run("by name", func(t *testing.T) {
		t.Parallel()
		m := setup(t)
		lost := m.workspace.ServicePrincipals()[0]
		mark, ok := marker.Parse(lost.DisplayName)
		require.True(t, ok)
		m.workspace.AddServicePrincipal(lost.DisplayName+" (copied by an operator)", false)
		m.workspace.AddServicePrincipal("nonce "+mark.Nonce, false)
		m.workspace.AddServicePrincipal(strings.Replace(lost.DisplayName, mark.Nonce, strings.Repeat("0", 32), 1), false)
		m.mint("job")
		m.rolledBack()
		left := m.workspace.ServicePrincipals()
		require.Len(t, left, 4)
		for _, sp := range left {
			require.NotEqual(t, lost.ID, sp.ID)
		}
		require.Contains(t, m.log.String(), lost.ID)
	})

	t.Run("a service principal has no end of its own", func(t *testing.T) {
		t.Parallel()
		m := setup(t)
		_, in := m.walIntent()
		require.WithinDuration(t, time.Now().Add(intentLife), in.Expires, time.Minute)
		mark, _ := marker.Parse(m.workspace.ServicePrincipals()[0].DisplayName)
		require.WithinDuration(t, time.Now().Add(61*time.Minute+mintBudget), mark.Until, time.Minute, "but a tidy need not wait as long")
	})

	t.Run("fails and is repeated", func(t *testing.T) {
		t.Parallel()
		m := setup(t)
		m.write("config", map[string]any{"max_retries": 0})
		for _, fault := range []simulator.Fault{
			{Method: http.MethodGet, Path: principalsPath, Status: 503}, {Method: http.MethodGet, Path: secretsPath + "*", Status: 503}, {Method: http.MethodDelete, Path: principalsPath + "/*", Status: 503},
		} {
			injected := m.workspace.Inject(fault)
			resp, err := m.rollback()
			require.NoError(t, err)
			require.ErrorContains(t, resp.Error(), "503")
			require.Equal(t, 1, injected.Hits())
			require.Len(t, m.walEntries(), 1)
			injected.Clear()
		}
		m.rolledBack()
		require.Empty(t, m.workspace.ServicePrincipals())
	})

	t.Run("gone meanwhile", func(t *testing.T) {
		t.Parallel()
		m := setup(t)
		m.workspace.Inject(simulator.Fault{Path: principalsPath + "/*", Status: 404, AfterEffect: true})
		m.rolledBack()
	})
}

// TestServicePrincipalPastItsSecret revokes a lease after its secret has ended by itself: its service principal has not.
func TestServicePrincipalPastItsSecret(t *testing.T) {
	t.Parallel()
	m := principalReady(t)
	creds := m.mint("job")
	for _, field := range []string{"dead", "expires"} {
		creds.Secret.InternalData[field] = time.Now().Add(-time.Minute).Format(time.RFC3339Nano)
	}
	m.workspace.RevokeOAuthSecret(creds.Data["secret_id"].(string))
	m.end(creds.Secret)
	require.Empty(t, m.workspace.ServicePrincipals())
}

func TestServicePrincipalRevokeFails(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]simulator.Fault{
		"the secret stays":            {Method: http.MethodDelete, Path: secretsPath + "*", Status: 503},
		"the service principal stays": {Method: http.MethodDelete, Path: principalsPath + "/*", Status: 503},
		"a page":                      {Method: http.MethodDelete, Path: principalsPath + "/*", HTML: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := principalReady(t)
			creds := m.mint("job")
			m.write("config", map[string]any{"max_retries": 0})
			m.workspace.Inject(fault)
			resp, err := m.revoke(creds.Secret)
			m.coded(http.StatusBadGateway, resp, err, "revoke service_principal")
			require.Len(t, m.workspace.ServicePrincipals(), 1)
			m.workspace.ClearFaults()
			m.end(creds.Secret)
			require.Empty(t, m.workspace.ServicePrincipals())
		})
	}
}

// TestServicePrincipalOfAFederatedWorkspace shows that what the account keeps has no secrets, whatever went wrong.
func TestServicePrincipalOfAFederatedWorkspace(t *testing.T) {
	t.Parallel()
	account := simulator.WithAccount("4cb2f9a8-0000-4000-8000-000000000001")
	m := principalReady(t, account)
	creds := m.mint("job")
	made := m.workspace.ServicePrincipals()[0]
	m.end(creds.Secret)
	require.Empty(t, m.workspace.ServicePrincipals())
	require.Empty(t, m.workspace.OAuthSecrets(made))

	// The secret's reply is lost, and at once or later the service principal is removed.
	for _, later := range []bool{false, true} {
		m.write("config", map[string]any{"max_retries": 0})
		hold := make(chan struct{})
		injected := m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: secretsPath + "*", Hold: hold, Reset: true, AfterEffect: true, Times: 1})
		if later {
			m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: secretsPath + "*", Status: 503, Times: 1})
		}
		failed := make(chan error)
		go func() {
			_, err := m.do(logical.ReadOperation, "creds/job", nil)
			failed <- err
		}()
		require.Eventually(t, func() bool { return injected.Hits() == 1 }, 10*time.Second, time.Millisecond)
		made = m.workspace.ServicePrincipals()[0]
		require.Eventually(t, func() bool { return len(m.workspace.OAuthSecrets(made)) == 1 }, 10*time.Second, time.Millisecond)
		close(hold)
		require.Error(t, <-failed)
		require.Equal(t, later, len(m.walEntries()) == 1)
		m.rolledBack()
		require.Empty(t, m.workspace.ServicePrincipals())
		require.Empty(t, m.workspace.OAuthSecrets(made))
	}
}

func TestServicePrincipalNames(t *testing.T) {
	t.Parallel()
	m := principalReady(t)
	m.write("roles/job", map[string]any{"display_name_template": "{{.MountPath}} {{.RoleName}} {{.DisplayName}} {{.EntityName}} {{.RequestID}}"})
	creds := m.mint("job")
	require.Regexp(t, `^databricks/ job token-ci alice 11111111-2222-3333-4444-555555555555 vault:`+testMountID+`:[0-9a-f]{32}:\d+$`, creds.Data["display_name"])
	require.Equal(t, creds.Data["display_name"], m.workspace.ServicePrincipals()[0].DisplayName)

	m.write("roles/job", map[string]any{"display_name_template": strings.Repeat("é", 400) + "{{.RoleName}}"})
	name := m.mint("job").Data["display_name"].(string)
	require.LessOrEqual(t, len(name), marker.MaxComment)
	require.Contains(t, name, "é... vault:")
	_, ok := marker.Parse(name)
	require.True(t, ok, "the marker is never cut")

	// Quotes and backslashes are no way into the filter by which the rollback finds it.
	m.write("roles/job", map[string]any{"display_name_template": `x" or displayName co "e\`})
	m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: principalsPath, Reset: true, AfterEffect: true, Times: 1})
	m.failure(m.do(logical.ReadOperation, "creds/job", nil))
	require.Len(t, m.workspace.ServicePrincipals(), 3)
	m.rolledBack()
	require.Len(t, m.workspace.ServicePrincipals(), 2)

	resp, err := m.do(logical.UpdateOperation, "roles/job", map[string]any{"display_name_template": `{{slice .EntityName 7}}`})
	m.refused(resp, err, "display_name_template: ", "out of range")
}

func TestServicePrincipalGroups(t *testing.T) {
	t.Parallel()
	m := principalReady(t)
	resp, err := m.do(logical.UpdateOperation, "roles/job", map[string]any{"groups": "readers,nobody"})
	m.refused(resp, err, `groups: there is no group "nobody"`)
	require.Len(t, m.read("roles/job").Data["groups"], 2)

	// A group that was made anew is found after one refusal.
	delete_ := func(name string) {
		for _, group := range m.workspace.Groups() {
			if group.Name == name {
				req, err := http.NewRequest(http.MethodDelete, m.workspace.URL()+groupsPath+"/"+group.ID, nil)
				require.NoError(t, err)
				req.Header.Set("Authorization", "Bearer "+m.token)
				resp, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
		}
	}
	delete_("readers")
	resp, err = m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, "Group with id")
	resp, err = m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, `groups: there is no group "readers"`)
	require.Empty(t, m.walEntries())
	m.workspace.AddGroup("readers")
	m.mint("job")

	// After a while, names are looked up again.
	conn, err := m.backend.(*backend).connection(t.Context(), m.storage)
	require.NoError(t, err)
	m.workspace.ResetCalls()
	m.mint("job")
	require.Zero(t, m.workspace.Count("", groupsPath))
	conn.mu.Lock()
	conn.since = time.Now().Add(-groupMemory - time.Second)
	conn.mu.Unlock()
	m.mint("job")
	require.Equal(t, 2, m.workspace.Count("", groupsPath))

	m.forgetThrottling()
	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: groupsPath, Status: 503})
	resp, err = m.do(logical.ReadOperation, "creds/job", nil)
	m.coded(http.StatusBadGateway, resp, err, "scim/groups")
	require.Empty(t, m.walEntries(), "nothing was made")
	require.Len(t, m.workspace.ServicePrincipals(), 3)
	resp, err = m.do(logical.UpdateOperation, "roles/job", map[string]any{"groups": "readers"})
	m.coded(http.StatusBadGateway, resp, err)
}

func TestServicePrincipalPreconditions(t *testing.T) {
	t.Parallel()
	m := principalReady(t)
	m.write("roles/job", map[string]any{"entitlements": "workspace-access,workspace-consume"})
	resp, err := m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, "exclude each other")
	require.Empty(t, m.walEntries())

	m.reconnectAs("modest@example.com")
	resp, err = m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, "only a workspace admin", "the engine's identity isn't one")
	require.Empty(t, m.walEntries())

	full := principalReady(t, simulator.WithPrincipalLimit(1))
	resp, err = full.do(logical.ReadOperation, "creds/job", nil)
	full.refused(resp, err, "10,000 users and service principals", "shorten max_ttl", "oauth_token", "QUOTA_EXCEEDED")
	require.Empty(t, full.walEntries())

	// No groups, no entitlements, no scopes: what Databricks gives everybody.
	m = ready(t)
	m.write("roles/job", map[string]any{"credential_type": "service_principal"})
	creds := m.mint("job")
	require.Empty(t, m.workspace.ServicePrincipals()[0].Groups)
	require.Equal(t, []string{}, creds.Data["scopes"])
	require.Contains(t, m.write("roles/job", map[string]any{"scopes": "authentication"}).Warnings[0], `scope "authentication"`)
}

func TestServicePrincipalDelivered(t *testing.T) {
	t.Parallel()
	m := principalReady(t)
	m.workspace.AddScope("etl", m.admin)
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403, Times: 1})
	m.failure(m.do(logical.UpdateOperation, "creds/job", delivered))
	require.Empty(t, m.workspace.ServicePrincipals(), "a failed delivery leaves no credential")
	require.Empty(t, m.walEntries())

	creds := m.write("creds/job", delivered)
	require.NotContains(t, creds.Data, "client_secret")
	value, _ := m.has("k")
	require.NotEmpty(t, m.login(grantPath, creds.Data["client_id"].(string), value))
	m.end(creds.Secret)
	_, there := m.has("k")
	require.False(t, there)
	require.Empty(t, m.workspace.ServicePrincipals())
}
