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

const (
	oboPath        = "/api/2.0/token-management/on-behalf-of/tokens"
	principalsPath = "/api/2.0/preview/scim/v2/ServicePrincipals"
	groupsPath     = "/api/2.0/preview/scim/v2/Groups"
	secretsPath    = "/api/2.0/accounts/servicePrincipals/"
	grantPath      = "/oidc/v1/token"
)

// oboReady is a connected mount with the role "job" of a service principal.
func oboReady(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	m := ready(t, opts...)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/job", map[string]any{"credential_type": "obo_token", "application_id": sp.ApplicationID, "scopes": "sql,jobs", "ttl": "10m", "max_ttl": "1h"})
	m.workspace.ResetCalls()
	return m, sp
}

func TestOBO(t *testing.T) {
	t.Parallel()
	m, sp := oboReady(t)
	creds := m.mint("job")
	require.Equal(t, []string{"POST " + oboPath}, m.requests(), "a mint is one call")
	sent := m.body(0)
	require.Regexp(t, `^Vault role job for alice vault:`+testMountID+`:[0-9a-f]{32}:\d+$`, sent["comment"])
	require.Equal(t, map[string]any{"application_id": sp.ApplicationID, "lifetime_seconds": 3660.0, "scopes": []any{"sql", "jobs"}, "comment": sent["comment"]}, sent)

	state := m.workspace.Introspect(m.hidden(creds, "token_value"))
	require.True(t, state.Live)
	require.Equal(t, simulator.KindPAT, state.Kind)
	require.Equal(t, sp.ID, state.Owner.ID)
	require.Equal(t, []string{"sql", "jobs"}, state.Scopes)
	token := m.minted()[0]
	require.Equal(t, map[string]any{
		"host": m.workspace.URL(), "token_value": creds.Data["token_value"], "token_id": token.ID, "comment": sent["comment"],
		"creation_time": rfc3339(token.Created), "expiry_time": rfc3339(token.Expires), "scopes": []string{"sql", "jobs"},
	}, creds.Data)
	require.Equal(t, 3660*time.Second, token.Expires.Sub(token.Created))
	require.Equal(t, 10*time.Minute, creds.Secret.TTL)
	require.Equal(t, time.Hour, creds.Secret.MaxTTL)
	require.True(t, creds.Secret.Renewable)
	require.Empty(t, m.walEntries())
	m.renewed(creds.Secret, 10*time.Minute)

	for range 2 {
		m.workspace.ResetCalls()
		m.end(creds.Secret)
		require.Equal(t, []string{"DELETE /api/2.0/token-management/tokens/" + token.ID}, m.requests(), "a revoke is one call, and gone is success")
		require.Empty(t, m.minted())
	}

	creds = m.write("creds/job", map[string]any{"scopes": "jobs", "comment": "OPS-1", "ttl": "1m"})
	require.Equal(t, []string{"jobs"}, m.workspace.Introspect(creds.Data["token_value"].(string)).Scopes)
	require.Contains(t, creds.Data["comment"], "alice: OPS-1 vault:")
	resp, err := m.do(logical.UpdateOperation, "creds/job", map[string]any{"scopes": "jobs,all-apis"})
	m.refused(resp, err, `scopes: "all-apis" is not among the role's`)
}

func TestOBOFaults(t *testing.T) {
	t.Parallel()
	mintFaults(t, lateCreate(http.MethodPost, oboPath),
		func(t *testing.T) *mount { m, _ := oboReady(t); return m },
		func(m *mount) int { return len(m.minted()) },
		func(m *mount) int { return m.workspace.Count(http.MethodPost, oboPath) }, 1,
		func(m *mount, resp *logical.Response) {
			require.True(m.t, m.workspace.Introspect(resp.Data["token_value"].(string)).Live)
		})
}

func TestOBOPreconditions(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		opts   []simulator.Option
		break_ func(*mount, simulator.Principal)
		words  []string
	}{
		"not an admin": {nil, func(m *mount, _ simulator.Principal) { m.reconnectAs("modest@example.com") },
			[]string{"must be a workspace admin", "CAN_USE", "PERMISSION_DENIED"}},
		"no CAN_USE": {nil, func(m *mount, sp simulator.Principal) { m.workspace.SetTokenPermission(sp, false) },
			[]string{"needs CAN_USE on tokens", "PERMISSION_DENIED"}},
		"Azure": {[]simulator.Option{simulator.WithCloud("azure")}, func(*mount, simulator.Principal) {},
			[]string{"Azure never does", "oauth_token", "oauth_secret"}},
		"not of the workspace": {nil, func(m *mount, sp simulator.Principal) { m.workspace.SetWorkspaceMember(sp, false) },
			[]string{"is no service principal of this workspace", "correct the role"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, sp := oboReady(t, row.opts...)
			row.break_(m, sp)
			resp, err := m.do(logical.ReadOperation, "creds/job", nil)
			m.refused(resp, err, row.words...)
			require.Equal(t, 1, m.workspace.Count("", oboPath))
			require.Empty(t, m.walEntries())
			require.Empty(t, m.minted())
		})
	}

	t.Run("a host of Azure", func(t *testing.T) {
		t.Parallel()
		for _, host := range []string{"https://adb-1.2.azuredatabricks.net", "https://adb-1.2.databricks.azure.us:8443", "https://adb-1.2.databricks.azure.cn"} {
			m := newMount(t)
			m.connect(map[string]any{"host": host, "verify_connection": false})
			resp, err := m.do(logical.UpdateOperation, "roles/job", map[string]any{"credential_type": "obo_token", "service_principal_id": "1"})
			m.refused(resp, err, "credential_type: Azure Databricks makes no tokens on behalf of service principals", "oauth_token")
		}
	})
}

func TestOBOAtQuota(t *testing.T) {
	t.Parallel()
	m, sp := oboReady(t, simulator.WithTokenQuota(2))
	m.mint("job")
	m.workspace.AddToken(sp, "by hand", 0)
	resp, err := m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, "600 live tokens", "service principal "+sp.ApplicationID+" it has 2, of which this mount made 1", "vault lease revoke -prefix", "oauth_token", "QUOTA_EXCEEDED")
	require.Empty(t, m.walEntries())
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token-management/tokens", Status: 400})
	resp, err = m.do(logical.ReadOperation, "creds/job", nil)
	m.refused(resp, err, "QUOTA_EXCEEDED", "could not be counted")
}

// TestOBOOverAnotherIdentity shows that what counts is whether the engine is an admin, not who made the token.
func TestOBOOverAnotherIdentity(t *testing.T) {
	t.Parallel()
	m, _ := oboReady(t)
	creds := m.mint("job")
	m.workspace.Inject(simulator.Fault{Path: oboPath, AfterEffect: true, Reset: true})
	m.failure(m.do(logical.ReadOperation, "creds/job", nil))
	require.Len(t, m.minted(), 2)

	m.reconnectAs("modest@example.com")
	resp, err := m.revoke(creds.Secret)
	m.refused(resp, err, "PERMISSION_DENIED", "revoke obo_token")
	resp, err = m.rollback()
	require.NoError(t, err)
	require.ErrorContains(t, resp.Error(), "PERMISSION_DENIED")
	require.Len(t, m.walEntries(), 1)

	token, _ := m.workspace.AddToken(m.workspace.AddUser("boss@example.com", true), "the engine's own", 0)
	m.write("config", map[string]any{"token": token})
	m.rolledBack()
	require.Len(t, m.minted(), 1)
	m.end(creds.Secret)
	require.Empty(t, m.minted())
}

// TestTwinOfAnUndoneMint lets a create be repeated and the request fail after that: the twin is nobody's, too.
func TestTwinOfAnUndoneMint(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*mount){
		"not accounted for": func(m *mount) {
			puts := 0
			m.storage.onEach(func(op, key string) error {
				if op == "put" && strings.HasPrefix(key, "wal/") {
					if puts++; puts == 2 {
						return errors.New("disk full")
					}
				}
				return nil
			})
		},
		"not delivered": func(m *mount) { m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.workspace.Inject(simulator.Fault{Path: createPath, Status: 429, Times: 1, AfterEffect: true})
			break_(m)
			m.failure(m.do(logical.UpdateOperation, "creds/etl", delivered))
			require.Len(t, m.minted(), 1, "the twin")
			require.Len(t, m.walEntries(), 1)
			m.storage.onEach(nil)
			m.workspace.ClearFaults()
			m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
			m.rolledBack()
			require.Empty(t, m.minted())
			value, _ := m.has("k")
			require.Equal(t, "somebody else's", value)
		})
	}
}
