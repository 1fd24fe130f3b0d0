// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// awaitTidy waits until tidy has ended, and answers how.
func (m *mount) awaitTidy() map[string]any {
	m.t.Helper()
	var status map[string]any
	require.Eventually(m.t, func() bool {
		status = m.read("tidy/status")
		return status["state"] != "running"
	}, patience, 50*time.Millisecond)
	return status
}

// TestTidyRemovesWhatThisMountLeft litters a workspace, with what this mount has left, with what is still in use, with what others
// made and with what only looks alike, and tidies it up.
func TestTidyRemovesWhatThisMountLeft(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	require.Equal(t, "idle", m.read("tidy/status")["state"])
	id := m.read("status")["mount_id"].(string)
	mark := func(mount string, until time.Time) string {
		return fmt.Sprintf("Vault role etl for somebody vault:%s:%032x:%d", mount, until.UnixNano(), until.Unix())
	}
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	left := m.workspace.AddServicePrincipal(mark(id, past), false)
	m.workspace.AddOAuthSecret(left, time.Hour)
	other := m.workspace.AddUser("somebody@example.com", false)
	_, token := m.workspace.AddToken(other, mark(id, past), 0)

	stay := map[string]bool{}
	for _, name := range []string{"made by hand", mark(id, future), mark("another-mount", past), mark(id, past) + " copied", "vault:" + id} {
		stay[m.workspace.AddServicePrincipal(name, false).ID] = true
		_, tokenID := m.workspace.AddToken(m.admin, name, 0)
		stay[tokenID] = true
	}
	lease := m.mint("etl")
	m.write("static-roles/bi", data{"credential_type": "pat", "rotation_period": "24h"})
	static := m.creds("bi")
	m.write("config/rotate-root", nil)

	m.write("tidy", data{"dry_run": true})
	for _, dryRun := range []bool{true, false} {
		if !dryRun {
			m.write("tidy", nil)
		}
		status := m.awaitTidy()
		require.Equal(t, "finished", status["state"], status["last_error"])
		require.Equal(t, dryRun, status["dry_run"])
		require.Equal(t, []any{token}, status["tokens"])
		require.Equal(t, []any{left.ID}, status["service_principals"])
		require.EqualValues(t, "2", fmt.Sprint(status["found"]))
		require.Equal(t, map[bool]string{true: "0", false: "2"}[dryRun], fmt.Sprint(status["deleted"]))
	}
	have := map[string]bool{}
	for _, sp := range m.workspace.ServicePrincipals() {
		have[sp.ID] = true
	}
	for _, token := range m.workspace.Tokens() {
		have[token.ID] = true
	}
	require.False(t, have[left.ID] || have[token], "what was left is gone")
	for id := range stay {
		require.True(t, have[id], id)
	}
	require.True(t, m.works(tokenOf(lease)))
	require.True(t, m.works(static.secret))
	require.True(t, m.works(tokenOf(m.mint("etl"))), "the engine's own")

	m.write("tidy", nil)
	require.Equal(t, "0", fmt.Sprint(m.awaitTidy()["found"]), "nothing is left for another run")
	answer := m.write("tidy", data{"cancel": true})
	require.Contains(t, strings.Join(answer.Warnings, ""), "No run is under way")
}
