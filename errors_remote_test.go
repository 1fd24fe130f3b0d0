// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// everyKind is a mount with a scope "etl", the schema main.app, a role of each credential type and a static role. The service principal is whom they name.
func everyKind(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	t.Helper()
	m := withScope(t, opts...)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.workspace.AddUCSchema("main", "app", m.admin)
	m.write("config", map[string]any{"max_retries": 1})
	for _, kind := range []string{"pat", "obo_token", "oauth_secret", "oauth_token", "service_principal", "database_credential"} {
		role := map[string]any{"credential_type": kind, "ttl": "10m", "max_ttl": "1h"}
		if kind == "database_credential" {
			m.workspace.AddDatabaseEndpoint(shopEndpoint, shopHost)
			role["database_endpoint"] = shopEndpoint
		}
		if kind != "pat" && kind != "service_principal" {
			role["application_id"] = sp.ApplicationID
		}
		m.write("roles/"+kind, role)
	}
	m.write("static-roles/dash", map[string]any{"credential_type": "obo_token", "application_id": sp.ApplicationID, "rotation_period": "24h"})
	m.workspace.ResetCalls()
	return m, sp
}

// attempt is a request that asks something of Databricks.
type attempt struct {
	op   logical.Operation
	path string
	data map[string]any
}

// attempts are requests of every kind. Each has one call at least.
var attempts = []attempt{
	{logical.UpdateOperation, "config", map[string]any{"ttl": "1m"}},
	{logical.UpdateOperation, "config/rotate-root", nil},
	{logical.ReadOperation, "creds/pat", nil},
	{logical.ReadOperation, "creds/obo_token", nil},
	{logical.ReadOperation, "creds/oauth_secret", nil},
	{logical.ReadOperation, "creds/oauth_token", nil},
	{logical.ReadOperation, "creds/service_principal", nil},
	{logical.ReadOperation, "creds/database_credential", nil},
	{logical.UpdateOperation, "creds/pat", map[string]any{"deliver_scope": "etl", "deliver_key": "delivered"}},
	{logical.UpdateOperation, "creds/pat", map[string]any{"deliver_uc": "main.app.delivered"}},
	{logical.UpdateOperation, "rotate-role/dash", nil},
	{logical.ListOperation, "tokens", nil},
	{logical.DeleteOperation, "tokens/0123456789", nil},
	{logical.UpdateOperation, "scopes/new", nil},
	{logical.DeleteOperation, "scopes/etl", nil},
	{logical.ReadOperation, "secrets/etl/key", nil},
	{logical.UpdateOperation, "secrets/etl/key", map[string]any{"string_value": "a value of a test"}},
	{logical.UpdateOperation, "secrets/etl/leased", map[string]any{"string_value": "a value of a test", "ttl": "5m"}},
	{logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"a": "a value of a test", "b": "another of a test"}, "prune": true}},
	{logical.DeleteOperation, "secrets/etl/key", nil},
	{logical.ListOperation, "uc-secrets/main/app", nil},
	{logical.ReadOperation, "uc-secrets/main/app/kept", nil},
	{logical.UpdateOperation, "uc-secrets/main/app/key", map[string]any{"string_value": "a value of a test"}},
	{logical.UpdateOperation, "uc-secrets/main/app/new", map[string]any{"string_value": "a value of a test", "if_absent": true}},
	{logical.UpdateOperation, "uc-secrets/main/app/leased", map[string]any{"string_value": "a value of a test", "ttl": "5m"}},
	{logical.UpdateOperation, "uc-secrets/main/app", map[string]any{"secrets": map[string]any{"a": "a value of a test"}, "prune": true}},
	{logical.DeleteOperation, "uc-secrets/main/app/kept", nil},
	{logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ"}},
	{logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "WRITE", "ttl": "5m"}},
	{logical.DeleteOperation, "acls/etl/users", nil},
}

// leasesOfEachKind mints each type, and leases a secret and a permission.
func (m *mount) leasesOfEachKind() map[string]*logical.Secret {
	m.t.Helper()
	leases := map[string]*logical.Secret{}
	for _, kind := range []string{"pat", "obo_token", "oauth_secret", "service_principal"} {
		leases[kind] = m.mint(kind).Secret
	}
	leases["secret"] = m.write("secrets/etl/kept", map[string]any{"string_value": "a value of a test", "ttl": "5m"}).Secret
	leases["secret in Unity Catalog"] = m.write("uc-secrets/main/app/kept", map[string]any{"string_value": "a value of a test", "ttl": "5m"}).Secret
	leases["permission"] = m.write("acls/etl/users", map[string]any{"permission": "READ", "ttl": "5m"}).Secret
	return leases
}

// TestNothingIsLostWhileNobodyIsLetIn has an address that the workspace blocks, and authentication that is down for good, in the middle of
// a mount's life: each request ends with a readable error, nothing is taken for gone, and afterwards everything can be ended.
func TestNothingIsLostWhileNobodyIsLetIn(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		begin, end func(*simulator.Workspace)
		status     int
		requests   int // of one call
		words      []string
	}{
		"address": {
			func(w *simulator.Workspace) { w.SetIPAccessList("203.0.113.0/24") }, func(w *simulator.Workspace) { w.SetIPAccessList() },
			http.StatusBadRequest, 1,
			[]string{"does not admit calls from this network", "127.0.0.1 is blocked by Databricks IP ACL", "IP access list"},
		},
		"authentication": {
			func(w *simulator.Workspace) { w.SetAuthenticationDown(simulator.KindPAT, simulator.KindOAuth) }, func(w *simulator.Workspace) { w.SetAuthenticationDown() },
			http.StatusBadGateway, 2,
			[]string{"TEMPORARILY_UNAVAILABLE (HTTP 503)", "Authentication is temporarily unavailable", "use another auth_type"},
		},
	} {
		for _, authType := range []string{"pat", "oauth-m2m"} {
			t.Run(name+" "+authType, func(t *testing.T) {
				t.Parallel()
				m, sp := everyKind(t)
				if authType == "oauth-m2m" {
					engine := m.workspace.AddServicePrincipal("engine", true)
					m.workspace.GrantCreateUCSecret("main", "app", engine)
					_, secret := m.workspace.AddOAuthSecret(engine, day)
					m.write("config", map[string]any{"client_id": engine.ApplicationID, "client_secret": m.unlogged(secret)})
				}
				leases := m.leasesOfEachKind()
				tokens, secrets := m.workspace.Tokens(), m.workspace.OAuthSecrets(sp)
				scopes, principals := m.workspace.Scopes(), m.workspace.ServicePrincipals()
				ucs := m.workspace.UCSecrets("main", "app")

				row.begin(m.workspace)
				requireEnded := func(what string, resp *logical.Response, err error) {
					t.Helper()
					if row.status == http.StatusBadRequest {
						m.refused(resp, err, row.words...)
					} else {
						m.coded(row.status, resp, err, row.words...)
					}
					for _, word := range aboutTheCredential {
						require.NotContains(t, m.failure(resp, err).Error(), word, what)
					}
				}
				for _, a := range attempts {
					resp, err := m.do(a.op, a.path, a.data)
					requireEnded(fmt.Sprint(a.op, " ", a.path), resp, err)
				}
				for kind, lease := range leases {
					resp, err := m.revoke(lease)
					requireEnded("revoke "+kind, resp, err)
				}
				m.workspace.ResetCalls()
				resp, err := m.do(logical.ReadOperation, "creds/pat", nil)
				requireEnded("one create", resp, err)
				require.Len(t, m.workspace.Calls(), row.requests, "the retries end")
				require.Equal(t, "failed", m.tidyUp()["state"])
				_, _ = m.rollback()
				require.Equal(t, tokens, m.workspace.Tokens())
				require.Equal(t, secrets, m.workspace.OAuthSecrets(sp))
				require.Equal(t, scopes, m.workspace.Scopes())
				require.Equal(t, ucs, m.workspace.UCSecrets("main", "app"))
				require.Equal(t, principals, m.workspace.ServicePrincipals())

				row.end(m.workspace)
				m.restart()
				m.rolledBack()
				require.ElementsMatch(t, tokens, m.workspace.Tokens(), "what was tried has left nothing")
				for _, lease := range leases {
					m.end(lease)
				}
				m.write("rotate-role/dash", nil)
				require.Empty(t, m.workspace.OAuthSecrets(sp))
				require.Empty(t, m.scope("etl").Secrets)
				require.Empty(t, m.workspace.UCSecrets("main", "app"))
				require.Empty(t, m.acl("users"))
				require.Empty(t, m.records())
			})
		}
	}
}

// TestAbsenceAndExistenceGoByTheCode: whatever status they come with, what is gone is gone, and what exists may be what was asked for.
func TestAbsenceAndExistenceGoByTheCode(t *testing.T) {
	t.Parallel()
	apart := func(absent, exists int) map[string]int {
		return map[string]int{"RESOURCE_DOES_NOT_EXIST": absent, "NOT_FOUND": absent, "SCHEMA_DOES_NOT_EXIST": absent, "SCIM_404": absent, "RESOURCE_ALREADY_EXISTS": exists}
	}
	for name, statuses := range map[string]map[string]int{
		"as the codes go by": nil, "absent at 400, existing at 409": apart(400, 409), "absent at 403, existing at 404": apart(403, 404),
		"absent at 409, existing at 500": apart(409, 500), "absent at 500, existing at 403": apart(500, 403),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, sp := everyKind(t, simulator.WithStatuses(statuses))
			absent := func(path string) { require.Nil(t, m.absent(path), path) }
			done := func(op logical.Operation, path string) *logical.Response {
				t.Helper()
				resp, err := m.do(op, path, nil)
				m.requireOK(resp, err)
				return resp
			}

			// Scopes, secrets and permissions.
			m.write("scopes/etl", nil)
			resp, err := m.do(logical.UpdateOperation, "scopes/etl", map[string]any{
				"scope_backend_type": "AZURE_KEYVAULT", "keyvault_resource_id": "/x", "keyvault_dns_name": "https://x.vault.azure.net/",
			})
			require.Error(t, m.failure(resp, err), "another form of the scope is no success")
			for _, path := range []string{"secrets/etl/none", "acls/etl/users", "scopes/none", "uc-secrets/main/app/none", "uc-secrets/main/none/key"} {
				absent(path)
				done(logical.DeleteOperation, path)
			}
			for _, path := range []string{"secrets/none/key", "acls/none/users"} {
				done(logical.DeleteOperation, path)
			}
			resp, err = m.do(logical.UpdateOperation, "secrets/none/key", map[string]any{"string_value": "a value of a test"})
			m.refused(resp, err, `there is no scope "none"`)
			resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/none/key", map[string]any{"string_value": "a value of a test"})
			m.refused(resp, err, "there is no schema main.none")
			for range 2 {
				m.write("uc-secrets/main/app/key", map[string]any{"string_value": "a value of a test"})
			}
			resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/app/key", map[string]any{"string_value": "another of a test", "if_absent": true})
			m.refused(resp, err, "already exists", "not overwritten")

			// Leases whose object is gone.
			leases := m.leasesOfEachKind()
			for _, token := range m.minted() {
				if token.ID != m.read("static-creds/dash").Data["token_id"] {
					m.workspace.RevokeToken(token.ID)
				}
			}
			for _, secret := range m.workspace.OAuthSecrets(sp) {
				m.workspace.RevokeOAuthSecret(secret.ID)
			}
			for _, made := range m.workspace.ServicePrincipals() {
				if made.ID != sp.ID {
					require.Equal(t, http.StatusNoContent, m.asAdmin(http.MethodDelete, principalsPath+"/"+made.ID, ""))
				}
			}
			require.Equal(t, http.StatusOK, m.asAdmin(http.MethodPost, "/api/2.0/secrets/scopes/delete", `{"scope":"etl"}`))
			m.workspace.DropUCSchema("main", "app")
			for _, kind := range slices.Sorted(maps.Keys(leases)) {
				m.end(leases[kind])
			}
			m.rolledBack()
			require.Empty(t, m.records())

			// Tokens, and what roles name.
			require.NotEmpty(t, done(logical.DeleteOperation, "tokens/0123456789").Warnings, "nobody has it")
			absent("tokens/0123456789")
			resp, err = m.do(logical.UpdateOperation, "roles/app", map[string]any{"credential_type": "oauth_secret", "service_principal_id": "42"})
			m.refused(resp, err, "service_principal_id: there is no service principal")
			done(logical.DeleteOperation, "static-roles/dash")
			require.Empty(t, m.minted())
		})
	}
}

// TestARefusalIsNoAbsence has refusals with the status of absence: nothing that still exists is taken for gone.
func TestARefusalIsNoAbsence(t *testing.T) {
	t.Parallel()
	m, sp := everyKind(t, simulator.WithStatuses(map[string]int{
		"PERMISSION_DENIED": 404, "INVALID_PARAMETER_VALUE": 404, "BAD_REQUEST": 404, "SCIM_403": 404, "SCIM_400": 404,
	}))
	leases := m.leasesOfEachKind()
	m.write("secrets/etl/plain", map[string]any{"string_value": "a value of a test"})
	scopes, secrets, principals := m.workspace.Scopes(), m.workspace.OAuthSecrets(sp), m.workspace.ServicePrincipals()
	modest := m.reconnectAs("modest@example.com")
	for _, made := range principals {
		if made.ID != sp.ID {
			m.workspace.SetManager(made, modest) // so that its secret can be deleted, and then it can't
		}
	}
	token := "tokens/" + m.minted()[0].ID
	for _, path := range []string{"secrets/etl/plain", "acls/etl/users", "scopes/etl", "uc-secrets/main/app/kept", token} {
		resp, err := m.do(logical.DeleteOperation, path, nil)
		require.Error(t, m.failure(resp, err), path)
	}
	for _, path := range []string{"acls/etl/users", "uc-secrets/main/app/kept", token} {
		resp, err := m.do(logical.ReadOperation, path, nil)
		require.Error(t, m.failure(resp, err), path)
	}
	for kind, lease := range leases {
		if kind != "pat" { // whose owner's token is no longer configured, so that it is looked for
			_, err := m.revoke(lease)
			require.Error(t, err, kind)
		}
	}
	require.Equal(t, scopes, m.workspace.Scopes())
	require.Equal(t, secrets, m.workspace.OAuthSecrets(sp))
	require.Equal(t, principals, m.workspace.ServicePrincipals())

	m.write("config", map[string]any{"token": m.token})
	for _, lease := range leases {
		m.end(lease)
	}
	require.Len(t, m.workspace.ServicePrincipals(), 1)
	require.Empty(t, m.workspace.OAuthSecrets(sp))
}

// TestAMissingScopeIsNeitherABadCredentialNorAMissingRight: Databricks refuses it with the number that it refuses a bad credential with.
func TestAMissingScopeIsNeitherABadCredentialNorAMissingRight(t *testing.T) {
	t.Parallel()
	m, _ := everyKind(t)
	m.write("roles/limited", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	limited := func(scopes string) string {
		return m.unlogged(m.write("creds/limited", map[string]any{"scopes": scopes}).Data["token_value"].(string))
	}
	lease := m.mint("service_principal").Secret
	reading, secrets, nothing := limited("scim"), limited("scim,secrets"), limited("sql")
	words := []string{"does not have required scopes", "the credential in the config is good, but limited to API scopes"}
	missing := func(resp *logical.Response, err error, scope string) {
		t.Helper()
		m.refused(resp, err, append(words, "required scopes: "+scope)...)
		for _, word := range aboutTheCredential {
			require.NotContains(t, m.failure(resp, err).Error(), word)
		}
	}
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"token": nothing})
	missing(resp, err, "scim")
	require.ErrorContains(t, m.failure(resp, err), "nothing was stored")

	m.write("config", map[string]any{"token": reading})
	for _, kind := range []string{"pat", "obo_token", "oauth_secret", "oauth_token"} {
		resp, err := m.do(logical.ReadOperation, "creds/"+kind, nil)
		missing(resp, err, "authentication")
	}
	resp, err = m.do(logical.UpdateOperation, "config/rotate-root", nil)
	missing(resp, err, "authentication")
	resp, err = m.do(logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"a": "a value of a test", "b": "another of a test"}})
	missing(resp, err, "secrets")
	resp, err = m.do(logical.UpdateOperation, "uc-secrets/main/app", map[string]any{"secrets": map[string]any{"a": "a value of a test"}})
	missing(resp, err, "unity-catalog")
	principals := len(m.workspace.ServicePrincipals())
	resp, err = m.revoke(lease)
	missing(resp, err, "authentication")
	require.Len(t, m.workspace.ServicePrincipals(), principals, "a service principal stays while its secrets can't be ended")

	m.write("config", map[string]any{"token": secrets})
	m.write("secrets/etl/key", map[string]any{"string_value": "a value of a test"})
	m.write("config", map[string]any{"token": m.token})
	m.end(lease)
}

// asAdmin sends a request to the workspace as the admin, behind the mount's back, and answers the status.
func (m *mount) asAdmin(method, path, body string) int {
	m.t.Helper()
	req, err := http.NewRequest(method, m.workspace.URL()+path, strings.NewReader(body))
	require.NoError(m.t, err)
	req.Header.Set("Authorization", "Bearer "+m.token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	require.NoError(m.t, resp.Body.Close())
	return resp.StatusCode
}
