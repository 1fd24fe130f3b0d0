// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestATakeoverFromAForgetfulManagerIsTriedAgain shows that a takeover which fails is tried again when it is said to be, although the
// manager, which had lost the schedule, has been told of it again meanwhile.
func TestATakeoverFromAForgetfulManagerIsTriedAgain(t *testing.T) {
	t.Parallel()
	m, c, h := managedFor(t, 0, map[string]any{"rotation_period": "24h"})
	h.lose(false)
	m.workspace.Inject(simulator.Fault{Path: createPath, Status: 403, Times: 1})
	for len(m.told("root-rotate-fail")) == 0 {
		m.goOn(c, time.Minute, time.Minute)
	}
	state := m.read("config").Data
	require.Equal(t, 1, state["rotation_failures"])
	require.WithinDuration(t, c.now().Add(firstRetry), m.moment(state["next_rotation_attempt"]), 2*time.Second)
	begin := c.now()
	for range 26 * 60 {
		m.goOn(c, time.Minute, time.Minute)
		if len(m.told("root-rotate")) > 0 {
			break
		}
	}
	require.Less(t, c.now().Sub(begin), 5*time.Minute, "when it was to be tried again")
	m.requireRoot()
}

// TestACopyThatWaitsToMoveIsNeverDead shows that a place where the engine may not write leaves no dead credential at the place before
// it, where the engine may, however long that lasts.
func TestACopyThatWaitsToMoveIsNeverDead(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	plain := m.workspace.AddUser("plain@example.com", false)
	token, _ := m.workspace.AddToken(plain, "the engine's own", 0)
	m.canaries.add(token)
	m.workspace.AddScope("etl", plain)
	m.workspace.AddScope("theirs", m.admin)
	m.workspace.PutACL("theirs", plain.UserName, "READ")
	m.connect(map[string]any{"token": token, "max_retries": 0})
	m.write("static-roles/a", daily("first", "rotation_grace_period", "1h"))
	require.NotEmpty(t, m.patch("static-roles/a", map[string]any{"deliver_scope": "theirs"}).Warnings)
	for range 3 * 24 * 6 {
		m.goOn(c, 10*time.Minute, 10*time.Minute)
		value, there := m.has("first")
		require.True(t, !there || m.whoami(value) == http.StatusOK, "a dead credential at %s", c.now())
	}
}
