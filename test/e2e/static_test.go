// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// usable tells whether a static credential does what it is for.
func (m *mount) usable(c *sharedCredential) bool {
	m.t.Helper()
	if id, ok := c.answer["client_id"].(string); ok {
		access := m.buy(id, c.secret, false)
		if access != "" {
			m.server.secret(access, "an access token of "+m.t.Name())
		}
		return access != ""
	}
	return m.works(c.secret)
}

// sharedMount has a service principal that may have tokens, and a scope named etl.
func sharedMount(t *testing.T) (*mount, simulator.Principal) {
	t.Helper()
	m := withScope(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.workspace.SetTokenPermission(sp, true)
	return m, sp
}

// TestStaticRoleOfEveryType: one credential that all share, which is replaced with an overlap, kept in a secret scope, and removed
// with its role.
func TestStaticRoleOfEveryType(t *testing.T) {
	t.Parallel()
	for _, credentialType := range []string{"pat", "obo_token", "oauth_secret"} {
		t.Run(credentialType, func(t *testing.T) {
			t.Parallel()
			m, sp := sharedMount(t)
			role := data{"credential_type": credentialType, "rotation_period": "24h", "rotation_grace_period": "1h", "deliver_scope": "etl", "deliver_key": "bi"}
			fields := []string{"host", "token_value", "token_id", "comment", "creation_time", "expiry_time", "scopes"}
			if credentialType != "pat" {
				role["application_id"] = sp.ApplicationID
			}
			if credentialType == "oauth_secret" {
				fields = []string{"host", "client_id", "client_secret", "secret_id", "expiry_time", "scopes"}
			}
			written := m.write("static-roles/bi", role)
			require.NotContains(t, written.Data, "token_value")
			require.NotContains(t, written.Data, "client_secret")
			require.Equal(t, true, written.Data["delivered"])
			require.Equal(t, 24*time.Hour, seconds(t, written.Data["rotation_period"]))
			require.Equal(t, []string{"bi"}, m.keys("static-roles"))

			first := m.creds("bi")
			var got []string
			for field := range first.answer {
				got = append(got, field)
			}
			require.ElementsMatch(t, append(fields, "ttl", "rotation_period", "last_vault_rotation", "last_vault_rotation_time"), got)
			require.InDelta(t, 24*time.Hour, seconds(t, first.answer["ttl"]), float64(patience))
			require.Equal(t, 24*time.Hour, seconds(t, first.answer["rotation_period"]))
			require.WithinDuration(t, time.Now(), timeOf(t, first.answer["last_vault_rotation"]), patience)
			require.Greater(t, time.Until(timeOf(t, first.answer["expiry_time"])), 48*time.Hour, "it lives to see a successor that is late")
			require.True(t, m.usable(first))
			stored, _ := m.value("etl", "bi")
			require.Equal(t, first.secret, stored)

			m.workspace.ResetCalls()
			again := m.creds("bi")
			require.Equal(t, first.secret, again.secret, "all get the same")
			require.Empty(t, m.workspace.Calls(), "reading asks nothing of Databricks")

			rotated := m.write("rotate-role/bi", nil)
			second := m.creds("bi")
			require.NotEqual(t, first.id, second.id)
			require.Equal(t, second.id, rotated.Data["credential_id"])
			require.Equal(t, []any{first.id}, rotated.Data["retired_ids"])
			require.True(t, m.usable(first), "whoever read it a minute ago goes on working")
			require.True(t, m.usable(second))
			stored, _ = m.value("etl", "bi")
			require.Equal(t, second.secret, stored)

			// With no grace, the one before goes at once.
			m.write("static-roles/bi", data{"rotation_grace_period": 0})
			m.write("rotate-role/bi", nil)
			third := m.creds("bi")
			require.False(t, m.usable(second))
			require.True(t, m.usable(first), "what was promised before stays")
			require.True(t, m.usable(third))

			m.delete("static-roles/bi")
			require.False(t, m.usable(first))
			require.False(t, m.usable(third))
			require.Empty(t, m.stored("etl"), "the copy goes, too")
			require.Empty(t, m.keys("static-roles"))
			require.Empty(t, m.minted())
			require.Empty(t, m.workspace.OAuthSecrets(sp))
			_, err := m.client.Logical().Read(m.path + "/static-creds/bi")
			requireRefused(t, err, 400, `there is no static role "bi"`)
			m.delete("static-roles/bi")
		})
	}
}

// TestStaticRoleIsRotatedOnVaultsTick waits for Vault to replace a credential, and to remove the one before when its grace is over.
func TestStaticRoleIsRotatedOnVaultsTick(t *testing.T) {
	t.Parallel()
	m, sp := sharedMount(t)
	m.write("static-roles/bi", data{
		"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "60s", "rotation_grace_period": "30s",
		"deliver_scope": "etl", "deliver_key": "bi",
	})
	first := m.creds("bi")
	require.LessOrEqual(t, seconds(t, first.answer["ttl"]), time.Minute)
	var second *sharedCredential
	require.Eventually(t, func() bool {
		second = m.creds("bi")
		return second.id != first.id
	}, oneRotation, 200*time.Millisecond)
	require.True(t, m.usable(first), "the one before is in its grace")
	require.True(t, m.usable(second))
	require.Eventually(t, func() bool {
		stored, _ := m.value("etl", "bi")
		return stored == second.secret
	}, patience, 100*time.Millisecond)
	require.Eventually(t, func() bool { return !m.usable(first) }, oneRotation, 500*time.Millisecond)
	require.LessOrEqual(t, len(m.workspace.OAuthSecrets(sp)), 2)
}

// TestFailedRotationIsShownAndTheCredentialGoesOn: what can't be rotated works on, and says why.
func TestFailedRotationIsShownAndTheCredentialGoesOn(t *testing.T) {
	t.Parallel()
	m, sp := sharedMount(t)
	m.write("static-roles/bi", data{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "60s", "rotation_grace_period": "30s"})
	first := m.creds("bi")
	for range 4 {
		m.workspace.AddOAuthSecret(sp, 0)
	}
	require.Eventually(t, func() bool { return m.read("static-roles/bi")["last_rotation_error"] != "" }, oneRotation, 200*time.Millisecond)
	role := m.read("static-roles/bi")
	require.Contains(t, role["last_rotation_error"], "5 OAuth secrets")
	require.Equal(t, json.Number("1"), role["rotation_failures"])
	require.WithinDuration(t, time.Now().Add(time.Minute), timeOf(t, role["next_rotation_attempt"]), patience)
	require.Equal(t, first.id, m.creds("bi").id)
	require.True(t, m.usable(first))

	// Somebody makes room.
	for _, secret := range m.workspace.OAuthSecrets(sp) {
		if secret.ID != first.id {
			m.workspace.RevokeOAuthSecret(secret.ID)
		}
	}
	require.Eventually(t, func() bool { return m.creds("bi").id != first.id }, oneRotation, 200*time.Millisecond)
	role = m.read("static-roles/bi")
	require.Equal(t, json.Number("0"), role["rotation_failures"])
	require.Empty(t, role["last_rotation_error"])
	require.Nil(t, role["next_rotation_attempt"])
}

func TestConfigThatStaticRolesNeedIsDeletedByForceOnly(t *testing.T) {
	t.Parallel()
	m, _ := sharedMount(t)
	m.write("static-roles/bi", data{"credential_type": "pat"})
	shared := m.creds("bi")
	_, err := m.client.Logical().Delete(m.path + "/config")
	requireRefused(t, err, 400, "force", "bi")
	require.Equal(t, m.workspace.URL(), m.read("config")["host"])

	_, err = m.client.Logical().DeleteWithData(m.path+"/config", map[string][]string{"force": {"true"}})
	require.NoError(t, err)
	m.requireAbsent("config")
	require.Equal(t, shared.secret, m.creds("bi").secret, "it is still good, and known")
	require.True(t, m.works(shared.secret))
	_, err = m.client.Logical().Delete(m.path + "/static-roles/bi")
	requireRefused(t, err, 400, "config")

	m.configure()
	m.delete("static-roles/bi")
	require.False(t, m.works(shared.secret))
	m.delete("config")
}

func TestStaticRoleWithoutAScopeToDeliverToIsNotCreated(t *testing.T) {
	t.Parallel()
	m, _ := sharedMount(t)
	_, err := m.tryWrite("static-roles/bi", data{"credential_type": "pat", "deliver_scope": "absent", "deliver_key": "bi"})
	requireRefused(t, err, 400, "absent", "write scopes/absent")
	require.Empty(t, m.keys("static-roles"))
	require.Empty(t, m.minted())
}

// TestAnswersOfTheCommandLine: scripts get numbers where numbers are meant.
func TestAnswersOfTheCommandLine(t *testing.T) {
	t.Parallel()
	m, _ := sharedMount(t)
	m.write("static-roles/bi", data{"credential_type": "pat", "rotation_period": "24h"})
	shared := m.creds("bi")
	out, err := m.vault("read -format=json " + m.path + "/static-creds/bi")
	require.NoError(t, err, out)
	var answer struct {
		LeaseID string         `json:"lease_id"`
		Data    map[string]any `json:"data"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &answer))
	require.Empty(t, answer.LeaseID)
	require.IsType(t, float64(0), answer.Data["ttl"])
	require.Equal(t, float64(86400), answer.Data["rotation_period"])
	require.Equal(t, shared.secret, answer.Data["token_value"])
	out, err = m.vault("read -field=token_value " + m.path + "/static-creds/bi")
	require.NoError(t, err, out)
	require.Equal(t, shared.secret, strings.TrimSpace(out))
	out, err = m.vault("write -f " + m.path + "/rotate-role/bi")
	require.NoError(t, err, out)
	require.NotContains(t, out, m.creds("bi").secret)
}

// TestVaultAgentRendersEachStaticCredential runs a Vault Agent with the template of docs/rotation.md: the file follows the rotations.
func TestVaultAgentRendersEachStaticCredential(t *testing.T) {
	t.Parallel()
	m, sp := sharedMount(t)
	m.write("static-roles/dash", data{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "60s"})
	dir := t.TempDir()
	rendered := filepath.Join(dir, "databricks.env")
	manual, err := os.ReadFile("../../docs/rotation.md")
	require.NoError(t, err)
	_, stanza, found := strings.Cut(string(manual), "```hcl\ntemplate {")
	require.True(t, found, "docs/rotation.md has a template")
	stanza, _, _ = strings.Cut("template {"+stanza, "```")
	stanza = strings.ReplaceAll(strings.ReplaceAll(stanza, "databricks/", m.path+"/"), "/run/databricks.env", rendered)
	require.Contains(t, stanza, rendered)

	agent := m.loginWith(`path "` + m.path + `/static-creds/dash" { capabilities = ["read"] }`)
	tokenFile, config := filepath.Join(dir, "token"), filepath.Join(dir, "agent.hcl")
	require.NoError(t, os.WriteFile(tokenFile, []byte(agent.Token()), 0o600))
	require.NoError(t, os.WriteFile(config, []byte(`
		vault { address = "`+m.server.addr+`" }
		auto_auth {
			method "token_file" {
				config = { token_file_path = "`+tokenFile+`" }
			}
		}
		`+stanza), 0o600))
	cmd := exec.Command(m.server.vault, "agent", "-config="+config)
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	output, err := os.Create(filepath.Join(dir, "agent.log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = output, output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		output.Close()
		if t.Failed() {
			log, _ := os.ReadFile(output.Name())
			t.Logf("Vault Agent said:\n%s", log)
		}
	})
	shows := func(c *sharedCredential) bool {
		text, err := os.ReadFile(rendered)
		return err == nil && strings.Contains(string(text), "DATABRICKS_CLIENT_SECRET="+c.secret+"\n")
	}
	first := m.creds("dash")
	require.Eventually(t, func() bool { return shows(first) }, patience, 100*time.Millisecond)
	require.Eventually(t, func() bool {
		now := m.creds("dash")
		return now.id != first.id && shows(now)
	}, oneRotation+time.Minute, 200*time.Millisecond)
}
