// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// made tells what each credential was made for that has been asked of the workspace, in the order of the requests: a static
// role's name, "root", or the path of the request where it carries no comment.
func (m *mount) made() []string {
	list := []string{}
	for _, call := range m.workspace.Calls() {
		create := strings.HasSuffix(call.Path, "/token/create") || strings.HasSuffix(call.Path, "/on-behalf-of/tokens") || strings.HasSuffix(call.Path, "/credentials/secrets")
		if call.Method != "POST" || !create {
			continue
		}
		what := call.Path
		if _, rest, found := bytes.Cut(call.Body, []byte("Vault static role ")); found {
			what, _, _ = strings.Cut(string(rest), " ")
		} else if bytes.Contains(call.Body, []byte("Vault's own")) || bytes.Contains(call.Body, []byte(`Vault\u0027s own`)) {
			what = "root"
		}
		list = append(list, what)
	}
	return list
}

// schedules is what must not change by itself: which credentials there are, and when each is replaced.
func (m *mount) schedules(roles ...string) map[string]any {
	m.t.Helper()
	all := map[string]any{}
	note := func(path string, fields ...string) {
		answer := m.read(path)
		for _, field := range fields {
			all[path+" "+field] = answer[field]
		}
	}
	note("config", "credential_id", "expiry_time", "last_vault_rotation", "next_vault_rotation", "rotation_failures", "retired_ids")
	for _, role := range roles {
		note("static-roles/"+role, "credential_id", "expiry_time", "last_vault_rotation", "next_vault_rotation", "rotation_failures", "retired_ids", "delivered")
		all["static-creds/"+role] = m.creds(role).secret
	}
	return all
}

// TestRestartedVaultKeepsItsSchedules kills a real Vault server between two rotations and starts it again: nothing is rotated
// because of that, what became due meanwhile is rotated once, and all goes on as it was planned. The same holds when only the
// plugin's process is killed, and when Vault is sealed and unsealed.
func TestRestartedVaultKeepsItsSchedules(t *testing.T) {
	t.Parallel()
	s := newOwnServer(t)
	m := newMountOn(t, s.vaultServer, pluginName)
	m.configure()
	m.write("config", data{"rotation_period": "24h"})
	m.write("config/rotate-root", nil)
	m.write("scopes/etl", data{})
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.workspace.SetTokenPermission(sp, true)
	far := time.Now().UTC().Add(12 * time.Hour)
	m.write("static-roles/period", data{
		"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "24h",
		"deliver_scope": "etl", "deliver_key": "bi",
	})
	m.write("static-roles/cron", data{
		"credential_type": "obo_token", "application_id": sp.ApplicationID,
		"rotation_schedule": fmt.Sprintf("%d %d * * *", far.Minute(), far.Hour()), "rotation_window": "2h",
	})
	m.write("static-roles/by-hand", data{"credential_type": "pat"})
	m.write("rotate-role/period", nil)
	lease := m.mint("etl")
	quiet := []string{"period", "cron", "by-hand"}
	planned := m.schedules(quiet...)
	require.Equal(t, far.Truncate(time.Minute), timeOf(t, planned["static-roles/cron next_vault_rotation"]))
	require.Len(t, planned["static-roles/period retired_ids"], 1, "the one before is still in its grace")

	m.write("static-roles/soon", data{"credential_type": "pat", "rotation_period": "60s", "rotation_grace_period": "60s"})
	first := m.creds("soon")
	due := timeOf(t, m.read("static-roles/soon")["next_vault_rotation"])
	m.workspace.ResetCalls()

	restart := s.kill()
	require.Eventually(t, func() bool { return time.Now().After(due) }, patience+time.Minute, 100*time.Millisecond)
	require.Empty(t, m.workspace.Calls(), "Vault is down")
	restart()
	require.Equal(t, planned, m.schedules(quiet...), "after a restart of Vault")

	m.killPlugin(pluginName)
	require.Equal(t, planned, m.schedules(quiet...), "after the end of the plugin's process")

	require.NoError(t, m.client.Sys().Seal())
	s.unseal()
	require.Equal(t, planned, m.schedules(quiet...), "after Vault was sealed and unsealed")

	// Vault's tick does what became due while it was down.
	var second *sharedCredential
	require.Eventually(t, func() bool {
		second = m.creds("soon")
		return second.id != first.id
	}, 3*patience, 200*time.Millisecond)
	require.Equal(t, []string{"soon"}, m.made(), "once, however long it was due, and nothing else")
	require.True(t, m.works(first.secret), "the one before is in its grace")
	require.True(t, m.works(second.secret))
	require.Equal(t, planned, m.schedules(quiet...), "after a tick")

	// It goes on.
	var third *sharedCredential
	require.Eventually(t, func() bool {
		third = m.creds("soon")
		return third.id != second.id
	}, 3*patience, 200*time.Millisecond)
	require.Equal(t, []string{"soon", "soon"}, m.made())
	require.True(t, m.works(third.secret))
	require.Equal(t, planned, m.schedules(quiet...), "after all")

	stored, _ := m.value("etl", "bi")
	require.Equal(t, planned["static-creds/period"], stored)
	m.revoke(lease)
	require.False(t, m.works(tokenOf(lease)), "a lease that is older than the restart ends at Databricks")
}

// sharedCredential is what static-creds answers.
type sharedCredential struct {
	answer map[string]any
	id     string
	secret string
}

// creds reads static-creds/<role>.
func (m *mount) creds(role string) *sharedCredential {
	m.t.Helper()
	secret, err := m.client.Logical().Read(m.path + "/static-creds/" + role)
	require.NoError(m.t, err)
	require.NotNil(m.t, secret)
	require.Empty(m.t, secret.LeaseID, "a static credential is no lease")
	c := &sharedCredential{answer: secret.Data, secret: secretPartOf(secret)}
	require.NotEmpty(m.t, c.secret)
	m.server.secret(c.secret, "a static credential of "+m.t.Name())
	for _, field := range []string{"token_id", "secret_id"} {
		if id, ok := secret.Data[field].(string); ok {
			c.id = id
		}
	}
	require.NotEmpty(m.t, c.id)
	_, isNumber := secret.Data["ttl"].(json.Number)
	require.True(m.t, isNumber, "ttl is %T", secret.Data["ttl"])
	return c
}
