// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestConsumerOfOneRoleMayDoNothingElse(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/other", data{"credential_type": "pat"})
	require.NoError(t, m.client.Sys().PutPolicy(m.path, fmt.Sprintf(`path "%s/creds/etl" { capabilities = ["read"] }`, m.path)))
	login, err := m.client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{m.path}})
	require.NoError(t, err)
	consumer, err := server.client(login.Auth.ClientToken)
	require.NoError(t, err)

	secret, err := consumer.Logical().Read(m.path + "/creds/etl")
	require.NoError(t, err)
	server.secret(tokenOf(secret), "a token minted by "+t.Name())

	m.workspace.ResetCalls()
	_, err = consumer.Logical().Write(m.path+"/creds/etl", data{"ttl": "1m"})
	requireRefused(t, err, 403)
	for _, path := range []string{"config", "roles/etl", "creds/other", "tokens/" + tokenIDOf(secret), "status"} {
		_, err := consumer.Logical().Read(m.path + "/" + path)
		requireRefused(t, err, 403)
	}
	for _, path := range []string{"roles", "tokens"} {
		_, err := consumer.Logical().List(m.path + "/" + path)
		requireRefused(t, err, 403)
	}
	_, err = consumer.Logical().Delete(m.path + "/tokens/" + tokenIDOf(secret))
	requireRefused(t, err, 403)
	require.Empty(t, m.workspace.Calls())
}

func TestNoPathAnswersWithoutAToken(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	stranger, err := server.client("")
	require.NoError(t, err)
	m.workspace.ResetCalls()
	for _, path := range []string{"config", "roles/etl", "creds/etl", "tokens/x", "scopes/x", "secrets/x/y", "acls/x/y", "status"} {
		_, err := stranger.Logical().Read(m.path + "/" + path)
		requireRefused(t, err, 403)
	}
	require.Empty(t, m.workspace.Calls())
}

func TestTokensAreListedReadAndDeletedOutOfBand(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret, kept := m.mint("etl"), m.mint("etl")
	id := tokenIDOf(secret)

	list, err := m.client.Logical().List(m.path + "/tokens")
	require.NoError(t, err)
	require.ElementsMatch(t, []any{m.tokenID, id, tokenIDOf(kept)}, list.Data["keys"])
	info, ok := list.Data["key_info"].(map[string]any)[id].(map[string]any)
	require.True(t, ok, "key_info describes the token: %v", list.Data["key_info"])
	require.Equal(t, secret.Data["comment"], info["comment"])
	require.Equal(t, secret.Data["expiry_time"], info["expiry_time"])
	require.NotContains(t, fmt.Sprint(list.Data), tokenOf(secret))

	token := m.read("tokens/" + id)
	require.Equal(t, secret.Data["comment"], token["comment"])
	require.WithinDuration(t, time.Now(), timeOf(t, token["creation_time"]), patience)
	m.requireAbsent("tokens/0000000000000000000000000000000000000000000000000000000000000000")

	_, err = m.client.Logical().Delete(m.path + "/tokens/" + id)
	require.NoError(t, err)
	require.False(t, m.works(tokenOf(secret)))
	require.True(t, m.works(tokenOf(kept)))
	_, err = m.client.Logical().Delete(m.path + "/tokens/" + id)
	require.NoError(t, err, "deleting what is absent succeeds")
	m.revoke(secret)
}

// TestDeletingATokenByTheCLIIsNoFalseSuccess is what an operator types in an incident.
func TestDeletingATokenByTheCLIIsNoFalseSuccess(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.workspace.SetTokenPermission(sp, true)
	m.write("roles/obo", data{"credential_type": "obo_token", "application_id": sp.ApplicationID})
	secret, other := m.mint("obo"), m.mint("obo")
	out, err := m.vault("delete " + m.path + "/tokens/" + tokenIDOf(secret))
	require.NoError(t, err, out)
	require.False(t, m.works(tokenOf(secret)))
	out, err = m.vault("delete " + m.path + "/tokens/" + tokenIDOf(secret))
	require.NoError(t, err, out)
	require.Contains(t, strings.Join(strings.Fields(out), " "), "Nobody at "+m.workspace.URL()+" has a token with the id "+tokenIDOf(secret))

	modest, _ := m.workspace.AddToken(m.workspace.AddUser("modest@example.com", false), "of no admin", 0)
	m.write("config", data{"token": server.secret(modest, "the token of no admin")})
	out, err = m.vault("delete " + m.path + "/tokens/" + tokenIDOf(other))
	require.Error(t, err, "the exit status tells it")
	require.Contains(t, out, "Code: 404")
	require.Contains(t, out, "may have this id and still work")
	require.Contains(t, out, "databricks token-management delete "+tokenIDOf(other))
	require.True(t, m.works(tokenOf(other)))
	m.write("config", data{"token": m.token}) // revokes what is left
}

// TestTheCLIPrintsTheStatus shows that the status is a table, and that it and the log say why mints fail.
func TestTheCLIPrintsTheStatus(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/create", Status: 400, ErrorCode: "QUOTA_EXCEEDED", Message: "The quota has been reached by " + m.path})
	_, err := m.client.Logical().Read(m.path + "/creds/etl")
	requireRefused(t, err, 400, "QUOTA_EXCEEDED")
	out, err := m.vault("read " + m.path + "/status summary=true")
	require.NoError(t, err, out)
	require.NotContains(t, out, "map[")
	require.Regexp(t, `(?m)^user_name +`+m.admin.UserName, out)
	require.Regexp(t, `(?m)^last_error +token/create: .*QUOTA_EXCEEDED`, out)
	require.Regexp(t, `(?m)^last_error_time +20`, out)
	require.Regexp(t, `(?m)^last_vault_rotation_time +<nil>`, out)

	log, err := os.ReadFile(m.server.logPath)
	require.NoError(t, err)
	lines := 0
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "a mint failed") && strings.Contains(line, "reached by "+m.path) {
			require.Contains(t, line, "[WARN]")
			lines++
		}
	}
	require.Equal(t, 1, lines)
}

func TestStatusSaysWhoWeAreAndWhatWasCalled(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.mint("etl")
	status := fmt.Sprint(m.read("status"))
	require.Contains(t, status, m.admin.UserName)
	require.Contains(t, status, "token/create")
	require.Contains(t, status, "pat")
	require.NotContains(t, status, m.token)
}

func TestEveryPathHasHelp(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	for _, path := range []string{"", "config", "roles/", "roles/x", "creds/x", "tokens/", "tokens/x", "scopes/", "scopes/x",
		"secrets/", "secrets/x", "secrets/x/y", "acls/x", "acls/x/y/z", "status"} {
		help, err := m.client.Help(m.path + "/" + path)
		require.NoError(t, err, "%q", path)
		require.Greater(t, len(help.Help), 100, "%q: %s", path, help.Help)
		require.NotContains(t, help.Help, "<no description>", "%q", path)
	}
}

func TestVaultKnowsTheRunningVersion(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	mounts, err := m.client.Sys().ListMounts()
	require.NoError(t, err)
	mounted, ok := mounts[m.path+"/"]
	require.True(t, ok)
	require.Regexp(t, `^v\d+\.\d+\.\d+`, mounted.RunningVersion)
}
