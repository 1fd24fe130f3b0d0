// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestFailedRenewalsAndRevocationsAreReadable: Vault prints an error response to them as Go prints the struct, with the text in the middle.
func TestFailedRenewalsAndRevocationsAreReadable(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret := m.mint("etl")
	readable := func(err error, begins string, parts ...string) {
		t.Helper()
		requireRefused(t, err, 400, parts...)
		require.NotContains(t, err.Error(), "logical.Response{")
		require.NotContains(t, err.Error(), "%!w")
		require.NotContains(t, err.Error(), "map[string]interface")
		require.Contains(t, err.Error(), "err: "+begins)
	}
	m.delete("roles/etl")
	_, err := m.client.Sys().Renew(secret.LeaseID, 60)
	readable(err, `role: "etl" was deleted, so its leases can't be renewed`, "stays valid until it ends")

	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Times: 1, Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "not yours"})
	err = m.client.Sys().RevokeWithOptions(revokeNow(secret))
	readable(err, "revoke pat "+tokenIDOf(secret), "PERMISSION_DENIED", "not yours", "request id")
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Times: 20, Status: 503})
	err = m.client.Sys().RevokeWithOptions(revokeNow(secret))
	readable(err, "revoke pat "+tokenIDOf(secret), "HTTP 503")
	m.workspace.ClearFaults()
	m.revoke(secret)
	require.False(t, m.works(tokenOf(secret)))
}
