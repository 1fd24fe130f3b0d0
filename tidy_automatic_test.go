// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// idleTick is a tick that must not begin anything.
func (m *mount) idleTick() {
	m.t.Helper()
	before := m.tidyStatus()
	m.workspace.ResetCalls()
	require.NoError(m.t, m.tickErr())
	status := m.tidyStatus()
	require.Equal(m.t, before["started"], status["started"])
	require.Equal(m.t, before["state"], status["state"])
	require.Empty(m.t, m.workspace.Calls())
}

// busyTick is a tick that begins a run, and answers how it went.
func (m *mount) busyTick() map[string]any {
	m.t.Helper()
	m.workspace.ResetCalls()
	require.NoError(m.t, m.tickErr())
	status := m.awaitTidy()
	require.Equal(m.t, true, status["automatic"])
	require.Positive(m.t, m.workspace.Count(http.MethodGet, "*"))
	return status
}

func TestTidyByItself(t *testing.T) {
	t.Parallel()
	clock := new(testClock)
	m := newMount(t, simulator.WithClock(clock.now))
	m.tidies(clock)
	m.idleTick()
	require.Empty(t, m.tidyStatus()["next_automatic"], "not before the mount is connected")
	m.connect()
	m.litter(2*tidyPerTick + 7)
	_, token := m.workspace.AddToken(m.admin, mark(1, -time.Hour, false), 0)
	m.idleTick()
	next := func(d time.Duration) {
		t.Helper()
		require.WithinDuration(t, clock.now().Add(d), m.moment(m.tidyStatus()["next_automatic"]), time.Minute)
	}
	next(time.Hour)
	clock.move(59 * time.Minute)
	m.idleTick()

	clock.move(2 * time.Minute)
	requireTidy(t, m.busyTick(), "finished", 2*tidyPerTick+7, tidyPerTick, 0)
	next(0)
	clock.move(time.Minute)
	requireTidy(t, m.busyTick(), "finished", tidyPerTick+7, tidyPerTick, 0)
	next(0)
	clock.move(time.Minute)
	requireTidy(t, m.busyTick(), "finished", 7, 7, 0)
	next(24 * time.Hour)
	require.Empty(t, m.workspace.ServicePrincipals())
	require.Equal(t, token, m.minted()[0].ID, "tokens end by themselves")
	require.Zero(t, m.workspace.Count("", managedPath+"*"))
	m.idleTick()

	// What a person begins moves nothing.
	due := m.tidyStatus()["next_automatic"]
	requireTidy(t, m.tidyUp(), "finished", 1, 1, 0)
	require.Equal(t, due, m.tidyStatus()["next_automatic"])

	clock.move(24*time.Hour + time.Second)
	requireTidy(t, m.busyTick(), "finished", 0, 0, 0)
	next(24 * time.Hour)

	// When that was is remembered over a restart.
	b, err := Factory(t.Context(), m.config())
	require.NoError(t, err)
	m.backend = b
	m.tidies(clock)
	m.idleTick()
	next(24 * time.Hour)
}

func TestTidyByItselfFails(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	m.impatient()
	m.litter(2)
	next := func(d time.Duration) {
		t.Helper()
		require.WithinDuration(t, clock.now().Add(d), m.moment(m.tidyStatus()["next_automatic"]), time.Minute)
		clock.move(d + time.Second)
	}
	m.idleTick()
	next(time.Hour)

	fault := m.workspace.Inject(simulator.Fault{Path: principalsPath, Status: 500})
	requireTidy(t, m.busyTick(), "failed", 0, 0, 0, "500")
	m.idleTick()
	next(time.Hour)
	fault.Clear()

	fault = m.workspace.Inject(simulator.Fault{Path: principalsPath, Status: 403})
	requireTidy(t, m.busyTick(), "failed", 0, 0, 0, "PERMISSION_DENIED")
	next(24 * time.Hour)
	fault.Clear()

	fault = m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Status: 500, Times: 1})
	requireTidy(t, m.busyTick(), "finished", 2, 1, 1, "500")
	next(time.Hour)
	fault.Clear()

	hold := make(chan struct{})
	fault = m.workspace.Inject(simulator.Fault{Path: principalsPath, Hold: hold})
	require.NoError(t, m.tickErr(), "a tick does not wait")
	hits(t, fault, 1)
	requireTidy(t, m.write("tidy", map[string]any{"cancel": true}).Data, "cancelled", 0, 0, 0)
	next(time.Hour)
	fault.Clear()
	close(hold)

	m.storage.onEach(func(op, key string) error {
		if op == "put" && key == tidyStorageKey {
			return errors.New("disk full")
		}
		return nil
	})
	require.ErrorContains(t, m.tickErr(), "disk full")
	m.storage.onEach(nil)
	requireTidy(t, m.busyTick(), "finished", 1, 1, 0)
	next(24 * time.Hour)

	// A mount that is being disabled begins nothing, and neither does one that has lost its connection.
	m.litter(1)
	m.system.TaintedVal = true
	m.idleTick()
	m.system.TaintedVal = false
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	m.idleTick()
	m.storage.onEach(func(op, key string) error {
		if op == "get" && key == configStorageKey {
			return errors.New("no such disk")
		}
		return nil
	})
	require.ErrorContains(t, m.tickErr(), "no such disk")
	m.storage.onEach(nil)
	m.connect()
	requireTidy(t, m.busyTick(), "finished", 1, 1, 0)
}

func TestTidyByItselfOnAnAccount(t *testing.T) {
	t.Parallel()
	clock := new(testClock)
	m, _ := accountReady(t, simulator.WithClock(clock.now))
	m.tidies(clock)
	m.idleTick()
	sp := m.workspace.AddServicePrincipal(mark(1, -time.Hour, false), false)
	m.workspace.SetWorkspaceMember(sp, false)
	clock.move(time.Hour + time.Second)
	requireTidy(t, m.busyTick(), "finished", 1, 1, 0)
}

// TestTidyByItselfWhereStorageIsReadOnly shows that only a node that may write does anything by itself.
func TestTidyByItselfWhereStorageIsReadOnly(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	m.idleTick()
	m.litter(1)
	clock.move(2 * time.Hour)
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary} {
		m.system.ReplicationStateVal = state
		m.workspace.ResetCalls()
		m.storage.onEach(func(op, key string) error {
			if strings.HasPrefix(key, "tidy/") {
				t.Errorf("%s %s", op, key)
			}
			return nil
		})
		_ = m.tickErr()
		m.storage.onEach(nil)
		m.system.ReplicationStateVal = 0
		require.False(t, m.backend.(*backend).tidy.inFlight())
		require.Empty(t, m.workspace.Calls())
	}

	// A secondary's own mount is its own to write.
	m.system.ReplicationStateVal = consts.ReplicationPerformanceSecondary
	m.system.LocalMountVal = true
	requireTidy(t, m.busyTick(), "finished", 1, 1, 0)
}

func TestTidyTickReadsNoStorage(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	require.NoError(t, m.tickErr())
	var read []string
	m.storage.onEach(func(op, key string) error {
		if !strings.HasPrefix(key, framework.WALPrefix) {
			read = append(read, op+" "+key)
		}
		return nil
	})
	for range 3 {
		require.NoError(t, m.tickErr())
	}
	require.Empty(t, read)

	// Another node may have decided since.
	m.storage.onEach(nil)
	m.backend.InvalidateKey(t.Context(), tidyStorageKey)
	status := tidyStatus{State: tidyFinished, NextAutomatic: clock.now().Add(-time.Minute), Deleted: 77}
	entry, err := logical.StorageEntryJSON(tidyStorageKey, status)
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(t.Context(), entry))
	require.Equal(t, 77, m.tidyStatus()["deleted"])
	requireTidy(t, m.busyTick(), "finished", 0, 0, 0)
}
