// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func revokeNow(secret *api.Secret) *api.RevokeOptions {
	return &api.RevokeOptions{LeaseID: secret.LeaseID, Sync: true}
}

// orphanPatience is how long an orphan may live: the entry in the write-ahead log must be 2 minutes old, Vault looks
// every minute, and a busy machine gets some more.
const orphanPatience = 4*time.Minute + 30*time.Second

func TestOrphanOfALostReplyIsRemoved(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	before := m.mint("etl")
	m.workspace.ResetCalls()
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: "/api/2.0/token/create", Times: 1, AfterEffect: true, Reset: true})
	_, err := m.tryMint("etl", nil)
	requireRefused(t, err, 502)
	require.Equal(t, 1, m.workspace.Count("POST", "/api/2.0/token/create"), "a create of unknown outcome is not repeated")
	after := m.mint("etl")
	require.Len(t, m.minted(), 3, "two with a lease and the orphan")

	require.Eventually(t, func() bool { return len(m.minted()) == 2 }, orphanPatience, time.Second)
	require.True(t, m.works(tokenOf(before)))
	require.True(t, m.works(tokenOf(after)))
	require.True(t, m.works(m.token))
}

func TestDisablingTheMountRemovesAnOrphanAtOnce(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: "/api/2.0/token/create", Times: 1, AfterEffect: true, Reset: true})
	_, err := m.tryMint("etl", nil)
	requireRefused(t, err, 502)
	require.Len(t, m.minted(), 1)
	require.NoError(t, m.client.Sys().Unmount(m.path), "the write-ahead log goes with the mount, so it is worked off before")
	require.Empty(t, m.minted())
}

func TestRefusalOfDatabricksIsA400ThatKeepsItsDetails(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	principal := m.workspace.AddServicePrincipal("engine", false)
	_, secret := m.workspace.AddOAuthSecret(principal, 0)
	server.secret(secret, "the configured client secret of "+t.Name())
	m.write("config", data{"host": m.workspace.URL(), "client_id": principal.ApplicationID, "client_secret": secret})
	m.write("roles/etl", data{"credential_type": "pat"})
	m.workspace.SetTokenPermission(principal, false)
	m.workspace.ResetCalls()
	_, err := m.tryMint("etl", nil)
	calls := m.workspace.Calls()
	require.Len(t, calls, 1)
	require.Equal(t, http.StatusForbidden, calls[0].Status)
	requireRefused(t, err, 400, "PERMISSION_DENIED", "403", calls[0].RequestID)
}

func TestFailuresOfDatabricksHaveStatusesOfTheirOwn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault  simulator.Fault
		status int
		parts  []string
	}{
		"throttled":        {simulator.Fault{Status: 429, Header: http.Header{"Retry-After": {"3600"}}, ErrorCode: "RESOURCE_EXHAUSTED", Message: "slow down"}, 429, nil},
		"broken":           {simulator.Fault{Status: 500, ErrorCode: "INTERNAL_ERROR", Message: "oops"}, 502, []string{"INTERNAL_ERROR"}},
		"refused":          {simulator.Fault{Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "no such scope"}, 400, []string{"INVALID_PARAMETER_VALUE", "no such scope"}},
		"quota":            {simulator.Fault{Status: 400, ErrorCode: "QUOTA_EXCEEDED", Message: "too many tokens"}, 400, []string{"QUOTA_EXCEEDED", "600"}},
		"connection reset": {simulator.Fault{Reset: true}, 502, nil},
		"no answer":        {simulator.Fault{Close: true}, 502, nil},
		"login page":       {simulator.Fault{HTML: true}, 502, nil},
		"half an answer":   {simulator.Fault{Truncate: true}, 502, nil},
		"too slow":         {simulator.Fault{Delay: time.Minute}, 504, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			m.write("config", data{"host": m.workspace.URL(), "token": m.token, "max_retries": 0, "request_timeout": "2s"})
			m.write("roles/etl", data{"credential_type": "pat"})
			fault := tt.fault
			fault.Method, fault.Path = "POST", "/api/2.0/token/create"
			m.workspace.Inject(fault)
			_, err := m.tryMint("etl", nil)
			requireRefused(t, err, tt.status, tt.parts...)
		})
	}
}

func TestOwnTokenThatDiedIsSaidSo(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	require.True(t, m.workspace.RevokeToken(m.tokenID))
	_, err := m.tryMint("etl", nil)
	// Never a 403: Vault's clients would take that for a word about their own token.
	requireRefused(t, err, 400, "config")
}

func TestRevocationThatFailsIsRepeatedByVault(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("config", data{"max_retries": 0})
	secret := m.mint("etl")
	fault := m.workspace.Inject(simulator.Fault{Method: "POST", Path: "/api/2.0/token/delete", Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE", Message: "come back"})
	require.Error(t, m.client.Sys().RevokeWithOptions(revokeNow(secret)))
	require.True(t, m.works(tokenOf(secret)))
	require.Equal(t, 1, fault.Hits())
	m.workspace.ClearFaults()
	require.NoError(t, m.client.Sys().RevokeWithOptions(revokeNow(secret)))
	require.False(t, m.works(tokenOf(secret)))
}
