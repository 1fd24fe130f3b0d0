// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// deleteConfigByForce deletes the config, and what is retained of it.
func (m *mount) deleteConfigByForce() *api.Secret {
	m.t.Helper()
	answer, err := m.client.Logical().DeleteWithData(m.path+"/config", map[string][]string{"force": {"true"}})
	require.NoError(m.t, err)
	return answer
}

// TestMountIsDisabledAfterItsConfig deletes the config before the mount, as terraform destroy does: the leases are revoked all the same.
func TestMountIsDisabledAfterItsConfig(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/secret", data{"credential_type": "oauth_secret", "service_principal_id": sp.ID, "ttl": "1h"})
	m.write("roles/own", data{"credential_type": "service_principal", "ttl": "1h"})
	for _, role := range []string{"etl", "secret", "own"} {
		m.mint(role)
	}
	require.Len(t, m.minted(), 1)
	require.Len(t, m.workspace.OAuthSecrets(sp), 1)
	require.Len(t, m.workspace.ServicePrincipals(), 2)

	answer, err := m.client.Logical().Delete(m.path + "/config")
	require.NoError(t, err)
	require.Contains(t, strings.Join(answer.Warnings, "\n"), "is retained until")
	m.requireAbsent("config")
	status := m.read("status")
	require.Equal(t, false, status["configured"])
	require.Equal(t, m.workspace.URL(), status["retained_host"])
	require.Greater(t, time.Until(timeOf(t, status["retained_until_time"])), 24*time.Hour)
	_, err = m.tryMint("etl", nil)
	requireRefused(t, err, 400, "no connection yet")

	require.NoError(t, m.client.Sys().Unmount(m.path))
	require.Empty(t, m.minted())
	require.Empty(t, m.workspace.OAuthSecrets(sp))
	require.Equal(t, []simulator.Principal{sp}, m.workspace.ServicePrincipals())
}

// TestRotatedCredentialEndsSoonAfterTheConfig: what a rotation made is needed for revocations, but not for years.
func TestRotatedCredentialEndsSoonAfterTheConfig(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("config/rotate-root", nil)
	m.workspace.RevokeToken(m.tokenID)
	lease := m.mint("etl")
	m.delete("config")
	require.NoError(t, m.client.Sys().Unmount(m.path))
	require.False(t, m.works(tokenOf(lease)))
	left := m.workspace.Tokens()
	require.Len(t, left, 1)
	require.Less(t, time.Until(left[0].Expires), 35*24*time.Hour)

	second := newMountOn(t, server, pluginName)
	second.configure()
	second.write("config/rotate-root", nil)
	second.deleteConfigByForce()
	require.Equal(t, []string{second.tokenID}, second.tokenIDs(), "by force it goes at once")
}

func (m *mount) tokenIDs() []string {
	var ids []string
	for _, token := range m.workspace.Tokens() {
		ids = append(ids, token.ID)
	}
	return ids
}

// TestMountIsDisabledAfterItsCredentialsExpired: what has ended needs no revocation, and so no config.
func TestMountIsDisabledAfterItsCredentialsExpired(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/brief", data{"credential_type": "pat", "ttl": "2s", "max_ttl": "2s"})
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Status: 503})
	lease := m.mint("brief")
	require.Eventually(t, func() bool { return !m.works(tokenOf(lease)) }, 2*patience, 200*time.Millisecond, "it ends by itself")
	m.deleteConfigByForce()
	m.workspace.Close()
	require.NoError(t, m.client.Sys().Unmount(m.path))
}

// TestConfigIsNotDeletedWhileASecretIsLeased types the commands of the refusal.
func TestConfigIsNotDeletedWhileASecretIsLeased(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	m.write("secrets/etl/leased", data{"string_value": server.secret("leased-while-deleting", "a secret"), "ttl": "1h"})
	m.write("acls/etl/engineers", data{"permission": "READ", "ttl": "1h"})
	delivered, err := m.tryMint("etl", data{"deliver_scope": "etl", "deliver_key": "delivered"})
	require.NoError(t, err)
	require.NotEmpty(t, delivered.LeaseID)
	out, err := m.vault("delete " + m.path + "/config")
	require.Error(t, err)
	said := strings.Join(strings.Fields(out), " ")
	require.Contains(t, said, "1 leased secret, 1 leased permission and 1 delivered copy of a credential")
	_, commands, found := strings.Cut(said, "Revoke them first: ")
	require.True(t, found, said)
	commands, _, found = strings.Cut(commands, " (")
	require.True(t, found, said)
	require.Equal(t, m.workspace.URL(), m.read("config")["host"])

	for command := range strings.SplitSeq(commands, "; ") {
		out, err := m.vault(strings.TrimPrefix(command, "vault "))
		require.NoError(t, err, out)
	}
	require.Empty(t, m.stored("etl"))
	require.Empty(t, m.permission("etl", "engineers"))
	out, err = m.vault("delete " + m.path + "/config")
	require.NoError(t, err, out)
	out, err = m.vault("delete " + m.path + "/config force=true")
	require.NoError(t, err, out)
	require.NotContains(t, m.read("status"), "retained_host")
	require.NoError(t, m.client.Sys().Unmount(m.path))
	require.Empty(t, m.minted())
}
