// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// oneRotation is how long a test waits for a rotation that is due within a minute: Vault's tick comes once a minute, and may
// have looked just before.
const oneRotation = 3 * time.Minute

// engineCredentials are the ids of the live credentials by which the engine can be connected.
func (m *connected) engineCredentials() []string {
	ids := []string{}
	if m.authType == "pat" {
		for _, token := range m.workspace.Tokens() {
			if !strings.HasPrefix(token.Comment, "Vault role ") {
				ids = append(ids, token.ID)
			}
		}
		return ids
	}
	for _, secret := range m.workspace.OAuthSecrets(m.engine) {
		ids = append(ids, secret.ID)
	}
	return ids
}

// TestRootRotation goes through two rotations by hand and one by Vault's own tick.
func TestRootRotation(t *testing.T) {
	t.Parallel()
	for _, authType := range []string{"pat", "oauth-m2m"} {
		t.Run(authType, func(t *testing.T) {
			t.Parallel()
			m := connect(t, connection{authType: authType})
			m.write("config", data{"rotation_period": "60s"})
			m.write("roles/etl", data{"credential_type": "pat", "ttl": "1h", "max_ttl": "2h"})
			lease := m.mint("etl")
			handMade := m.engineCredentials()
			require.Len(t, handMade, 1)

			config := m.read("config")
			require.Empty(t, config["credential_id"])
			require.Nil(t, config["last_vault_rotation"])
			due := timeOf(t, config["next_vault_rotation"])
			require.WithinDuration(t, time.Now().Add(time.Minute), due, patience)
			require.Equal(t, "engine", m.read("status")["rotated_by"], "Vault Community has no rotation manager")

			// The credential that was made by hand is replaced, and left to the operator.
			answer := m.write("config/rotate-root", nil)
			first := answer.Data["credential_id"].(string)
			require.Equal(t, []any{handMade[0]}, answer.Data["hand_made_credentials"])
			require.Empty(t, answer.Data["retired_ids"])
			require.ElementsMatch(t, []string{handMade[0], first}, m.engineCredentials())
			require.WithinDuration(t, time.Now(), timeOf(t, answer.Data["last_vault_rotation"]), patience)
			require.Greater(t, time.Until(timeOf(t, answer.Data["expiry_time"])), 89*24*time.Hour)
			require.Equal(t, first, m.read("config")["credential_id"])
			m.workspace.ResetCalls()
			m.deleteHandMade(answer, handMade[0])
			require.Equal(t, []string{first}, m.engineCredentials())

			// The next one is removed by the engine itself, after a grace of half the period.
			answer = m.write("config/rotate-root", nil)
			second := answer.Data["credential_id"].(string)
			require.Equal(t, []any{first}, answer.Data["retired_ids"])
			require.Empty(t, answer.Data["hand_made_credentials"], "it was deleted")
			require.Empty(t, answer.Warnings)
			require.ElementsMatch(t, []string{first, second}, m.engineCredentials())
			require.True(t, m.works(tokenOf(m.mint("etl"))))
			m.revoke(lease)
			require.False(t, m.works(tokenOf(lease)), "a lease of before the rotations ends at Databricks")
			require.Eventually(t, func() bool { return !slices.Contains(m.engineCredentials(), first) }, oneRotation, 200*time.Millisecond)

			// And another comes by itself.
			require.Eventually(t, func() bool { return m.read("config")["credential_id"] != second }, oneRotation, 200*time.Millisecond)
			config = m.read("config")
			require.Contains(t, m.engineCredentials(), config["credential_id"])
			require.GreaterOrEqual(t, timeOf(t, config["last_vault_rotation"]).Sub(timeOf(t, answer.Data["last_vault_rotation"])), time.Minute)
			require.True(t, m.works(tokenOf(m.mint("etl"))))
		})
	}
}

// deleteHandMade follows the warning about a credential that was made by hand.
func (m *connected) deleteHandMade(answer *api.Secret, id string) {
	m.t.Helper()
	require.Len(m.t, answer.Warnings, 1)
	warning, command, found := strings.Cut(answer.Warnings[0], "delete it: ")
	require.True(m.t, found, warning)
	require.Contains(m.t, warning, id)
	if m.authType == "oauth-m2m" {
		require.Equal(m.t, "databricks service-principal-secrets-proxy delete "+m.engine.ID+" "+id, command)
		m.workspace.RevokeOAuthSecret(id)
		return
	}
	require.True(m.t, m.works(m.token))
	out, err := m.vault(strings.TrimPrefix(command, "vault "))
	require.NoError(m.t, err, out)
	require.False(m.t, m.works(m.token))
}

// vault runs a command of Vault's CLI, without the word vault.
func (m *mount) vault(command string) (string, error) {
	cmd := exec.Command(m.server.vault, strings.Fields(command)...)
	cmd.Env = []string{"HOME=" + m.t.TempDir(), "VAULT_ADDR=" + m.server.addr, "VAULT_TOKEN=" + m.server.rootToken}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRootRotationThatFailsChangesNothing: what has no room or can't be rotated says so, and the engine goes on.
func TestRootRotationThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	t.Run("no room for a sixth secret", func(t *testing.T) {
		t.Parallel()
		m := connect(t, connection{authType: "oauth-m2m"})
		for range 4 {
			m.workspace.AddOAuthSecret(m.engine, 0)
		}
		_, err := m.tryWrite("config/rotate-root", nil)
		requireRefused(t, err, 400, "client_secret", "has 5 OAuth secrets", "no room", m.engineCredentials()[4])
		require.Len(t, m.engineCredentials(), 5)
		require.Empty(t, m.read("config")["credential_id"])
		m.write("roles/etl", data{"credential_type": "pat"})
		require.True(t, m.works(tokenOf(m.mint("etl"))))
	})
	for authType, why := range map[string]string{"azure-client-secret": "rotated there", "oidc": "no stored secret"} {
		t.Run(authType, func(t *testing.T) {
			t.Parallel()
			m := connect(t, connection{authType: authType})
			_, err := m.tryWrite("config/rotate-root", nil)
			requireRefused(t, err, 400, "auth_type", why)
			_, err = m.tryWrite("config", data{"rotation_period": "24h"})
			requireRefused(t, err, 400, "rotation_period", why)
		})
	}
	t.Run("several secrets made by hand", func(t *testing.T) {
		t.Parallel()
		m := connect(t, connection{authType: "oauth-m2m"})
		m.workspace.AddOAuthSecret(m.engine, 0)
		handMade := m.engineCredentials()
		answer := m.write("config/rotate-root", nil)
		require.Len(t, m.engineCredentials(), 3, "nothing is removed that can't be told apart")
		require.Contains(t, strings.Join(answer.Warnings, "\n"), strings.Join(handMade, ", "))
	})
}
