// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// newImpatientPlugin registers a plugin that waits for seconds instead of minutes until it ends what a lease has left, and returns its name.
func newImpatientPlugin(t *testing.T) string {
	t.Helper()
	name := pluginName + "-impatient"
	args := []string{"build", "-buildvcs=false", "-ldflags", "-X vault-plugin-secrets-databricks.leaseRecordGrace=5s", "-o", filepath.Join(server.pluginDir, name)}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../../cmd/"+pluginName)...).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, server.register(name, name))
	return name
}

// TestForgottenLeasesEnd forgets leases whose revocation Databricks refuses, as an operator does with `vault lease revoke -force`: the engine
// ends what they left as soon as it can. A lease that was renewed keeps what it has.
func TestForgottenLeasesEnd(t *testing.T) {
	t.Parallel()
	m := newMountOn(t, server, newImpatientPlugin(t))
	m.configure()
	m.write("scopes/etl", data{})
	m.workspace.AddGroup("engineers")
	m.workspace.AddGroup("analysts")

	for _, key := range []string{"forgotten", "renewed"} {
		secret := m.write("secrets/etl/"+key, data{"string_value": "canary-" + key, "ttl": "20s"})
		if key == "renewed" {
			_, err := m.client.Sys().Renew(secret.LeaseID, 3600)
			require.NoError(t, err)
		}
	}
	m.write("acls/etl/engineers", data{"permission": "MANAGE", "ttl": "20s"})
	renewed := m.write("acls/etl/analysts", data{"permission": "READ", "ttl": "20s"})
	_, err := m.client.Sys().Renew(renewed.LeaseID, 3600)
	require.NoError(t, err)
	m.write("creds/etl", data{"ttl": "20s", "deliver_scope": "etl", "deliver_key": "delivered"})

	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/*", Status: 503})
	for _, prefix := range []string{"/secrets/etl/forgotten", "/acls/etl/engineers", "/creds/etl"} {
		require.NoError(t, m.client.Sys().RevokeForce(m.path+prefix))
	}
	left, err := m.client.Logical().List("sys/leases/lookup/" + m.path + "/creds/etl")
	require.NoError(t, err)
	require.Nil(t, left, "Vault has forgotten the lease")
	m.workspace.ClearFaults()
	require.Contains(t, m.scope("etl").Secrets, "forgotten")
	require.Equal(t, "MANAGE", m.permission("etl", "engineers"))

	require.Eventually(t, func() bool {
		scope := m.scope("etl")
		_, forgotten := scope.Secrets["forgotten"]
		_, delivered := scope.Secrets["delivered"]
		return !forgotten && !delivered && scope.ACLs["engineers"] == ""
	}, 4*time.Minute, time.Second, "%v", m.scope("etl"))
	require.Contains(t, m.scope("etl").Secrets, "renewed")
	require.Equal(t, "READ", m.permission("etl", "analysts"))
}
