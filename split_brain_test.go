// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/marker"
)

// copied is the mount of another Vault that runs on a copy of the storage.
func (m *mount) copied(c *clock) *mount {
	m.t.Helper()
	system := *m.system
	twin := &mount{
		t: m.t, routes: m.routes, workspace: m.workspace, admin: m.admin, token: m.token, system: &system,
		storage: &hookedStorage{Storage: new(logical.InmemStorage)}, events: logical.NewMockEventSender(), log: newLog(),
	}
	keys, err := logical.CollectKeys(m.t.Context(), m.storage)
	require.NoError(m.t, err)
	for _, key := range keys {
		entry, err := m.storage.Get(m.t.Context(), key)
		require.NoError(m.t, err)
		require.NoError(m.t, twin.storage.Put(m.t.Context(), entry))
	}
	b, err := Factory(context.Background(), twin.config())
	require.NoError(m.t, err)
	b.(*backend).clock = c.vault
	twin.backend = b
	return twin
}

// A copy of the storage that runs beside the original stops as soon as it sees the original at work, so that the original's credentials live
// on.
func TestACopyOfTheStorageStops(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(m *mount) error{
		"by rotating":           func(m *mount) error { return m.failure(m.do(logical.UpdateOperation, "config/rotate-root", nil)) },
		"by a scheduled tick":   func(m *mount) error { m.youngTick(); return m.backend.(*backend).alone() },
		"by tidying":            func(m *mount) error { return m.failureOfTidy() },
		"by what it rolls back": func(m *mount) error { m.fillWithALostToken(); return m.failure(m.rollback()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.makeReady()
			m.write("config", map[string]any{"rotation_period": "24h"})
			m.write("config/rotate-root", nil)
			m.write("static-roles/a", map[string]any{"credential_type": "pat", "rotation_period": "24h"})
			twin := m.copied(c)
			twin.youngTick()
			m.pass(c, 20*time.Minute)
			m.mint("etl")
			if name == "by a scheduled tick" {
				c.advance(day)
				m.youngTick()
			}
			require.ErrorContains(t, look(twin), "another Vault uses the mount, too")
			require.Equal(t, 1, twin.errorsSaid("rotation, tidy and rollback have stopped"))
			require.Len(t, twin.told("split-brain"), 1)
			require.Contains(t, twin.read("status").Data["split_brain"], "vault plugin reload")

			// Whatever becomes due there now, nothing is rotated, tidied or rolled back.
			c.advance(3 * day)
			before := len(m.workspace.Calls())
			twin.youngTick()
			require.Len(t, m.workspace.Calls(), before)
			for _, path := range []string{"config/rotate-root", "rotate-role/a", "tidy"} {
				twin.refused2(path)
			}
			m.goOn(c, 10*time.Minute, time.Minute)
			require.Equal(t, http.StatusOK, m.whoami(m.read("static-creds/a").Data["token_value"].(string)))
			m.requireRoot()
			require.Empty(t, m.read("status").Data["split_brain"])

			// Once the other is gone, a reload of the plugin makes it go on.
			twin.restartAt(c)
			twin.write("config", map[string]any{"token": m.token})
			require.Empty(t, twin.read("status").Data["split_brain"])
			twin.write("rotate-role/a", nil)
		})
	}
}

// refused2 requires that an update of the path is refused for the other engine.
func (m *mount) refused2(path string) {
	m.t.Helper()
	resp, err := m.do(logical.UpdateOperation, path, nil)
	m.refused(resp, err, "mount_id", "another Vault uses the mount, too")
}

// failureOfTidy runs tidy and returns why it failed.
func (m *mount) failureOfTidy() error {
	m.t.Helper()
	m.write("tidy", nil)
	<-m.backend.(*backend).tidy.run.done
	require.Equal(m.t, "failed", m.read("tidy/status").Data["state"])
	return m.backend.(*backend).alone()
}

// fillWithALostToken adds a pending operation that created nothing.
func (m *mount) fillWithALostToken() {
	m.fillLog(1, func(int) intent {
		now := m.backend.(*backend).now()
		return intent{Started: now.Add(-time.Hour), Expires: now.Add(time.Hour), Credential: &credentialIntent{Type: "pat", Role: "etl"}}
	})
}

// What the engine before has just finished, on another node or in another process, stops nothing: it is waited for.
func TestTheEngineBeforeIsNotAnother(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.write("config/rotate-root", nil)
	next := m.copied(c)
	next.youngTick()
	c.advance(time.Minute)
	m.mint("etl")
	require.ErrorContains(t, next.failure(next.do(logical.UpdateOperation, "config/rotate-root", nil)), "put off until that is certain")
	require.Empty(t, next.read("status").Data["split_brain"])
	next.pass(c, 10*time.Minute)
	next.write("config/rotate-root", nil)
	require.Empty(t, next.read("status").Data["split_brain"])
}

// A cluster with performance replication has the same mount on each of its Vaults.
func TestAReplicatedMountIsNoCopy(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.write("config/rotate-root", nil)
	secondary := m.copied(c)
	c.advance(20 * time.Minute)
	secondary.mint("etl")
	m.system.ReplicationStateVal = consts.ReplicationPerformancePrimary
	m.write("config/rotate-root", nil)
	require.Empty(t, m.read("status").Data["split_brain"])
}

// Anybody may copy the mark into a comment of a token of their own.
func TestAForgedMarkIsNoCopy(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.youngTick()
	m.pass(c, 20*time.Minute)
	somebody := m.workspace.AddUser("somebody@example.com", false)
	m.workspace.AddToken(somebody, marker.Mark{MountID: testMountID, Nonce: marker.NewNonce(), Until: c.vault().Add(time.Hour)}.String(), time.Hour)
	m.write("tidy", nil)
	<-m.backend.(*backend).tidy.run.done
	require.Equal(t, "finished", m.read("tidy/status").Data["state"])
	require.Empty(t, m.read("status").Data["split_brain"])
}

// An engine that has waited as a standby begins when it becomes active.
func TestAStandbyIsNoCopy(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	standby := m.copied(c)
	standby.storage = m.storage
	standby.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	for range 20 {
		c.advance(time.Minute)
		m.youngTick()
		standby.rawTick()
	}
	m.mint("etl")
	standby.system.ReplicationStateVal = 0
	c.advance(time.Minute)
	standby.youngTick()
	standby.fillWithALostToken()
	standby.rolledBack()
	require.Empty(t, standby.read("status").Data["split_brain"])
}
