// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
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
