// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestScheduleFields shows which schedules are refused, and that such a write changes nothing.
func TestScheduleFields(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	before := m.read("config").Data
	for _, row := range []struct {
		data  map[string]any
		words []string
	}{
		{map[string]any{"rotation_period": 59}, []string{"rotation_period: ", "59s is too short", "at least 1m"}},
		{map[string]any{"rotation_period": 1}, []string{"rotation_period: "}},
		{map[string]any{"rotation_period": -60}, []string{"rotation_period", "negative"}},
		{map[string]any{"rotation_period": "-24h"}, []string{"rotation_period", "negative"}},
		{map[string]any{"rotation_period": "90.5s"}, []string{"rotation_period: ", "whole number of seconds"}},
		{map[string]any{"rotation_period": "61500ms"}, []string{"rotation_period: ", "whole number of seconds"}},
		{map[string]any{"rotation_period": "17521h"}, []string{"rotation_period: ", "730d"}},
		{map[string]any{"rotation_period": "8761h"}, []string{"rotation_period: ", "365d"}},
		{map[string]any{"rotation_period": "9223372036s"}, []string{"rotation_period: ", "out of range"}},
		{map[string]any{"rotation_period": "tomorrow"}, []string{"rotation_period"}},
		{map[string]any{"rotation_schedule": "0 3 * * *"}, []string{"rotation_schedule: ", "together with rotation_period"}},
		{map[string]any{"rotation_window": 3600}, []string{"rotation_window: ", "belongs to rotation_schedule"}},
		{map[string]any{"rotation_period": 0, "rotation_window": 3600}, []string{"rotation_window: ", "belongs to rotation_schedule"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * *", "rotation_window": 3599}, []string{"rotation_window: ", "1h to 730d"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * *", "rotation_window": -1}, []string{"rotation_window", "negative"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * *", "rotation_window": "17521h"}, []string{"rotation_window: ", "out of range"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * *", "rotation_window": "1h0.5s"}, []string{"rotation_window: ", "whole number"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "TZ=Europe/Berlin 0 3 * * *"}, []string{"rotation_schedule: ", "UTC"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "CRON_TZ=UTC 0 3 * * *"}, []string{"rotation_schedule: ", "UTC"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 0 3 * * *"}, []string{"rotation_schedule: ", "five fields"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * *"}, []string{"rotation_schedule: ", "five fields"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "@daily"}, []string{"rotation_schedule: "}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "60 3 * * *"}, []string{"rotation_schedule: "}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "weekly"}, []string{"rotation_schedule: "}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 31 2 *"}, []string{"rotation_schedule: ", "never comes"}},
		{map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 29 2 *"}, []string{"rotation_schedule: ", "730d"}},
	} {
		resp, err := m.do(logical.UpdateOperation, "config", row.data)
		m.refused(resp, err, row.words...)
		require.Equal(t, before, m.read("config").Data, "%v", row.data)
	}

	for _, data := range []map[string]any{
		{"rotation_period": 60}, {"rotation_period": "8760h"}, {"rotation_period": "1m"},
		{"rotation_period": 0}, {"rotation_period": 0, "rotation_window": 0},
		{"rotation_period": 0, "rotation_schedule": "*/5 * * * *"},
		{"rotation_schedule": "0 3 * * SAT", "rotation_window": 3600},
		{"rotation_schedule": "0 3 1 1 *"},
		{"rotation_schedule": "", "rotation_window": 0, "rotation_period": "24h"},
	} {
		m.write("config", data)
	}
}

// TestScheduleNext shows when the next rotation is, as the schedule changes.
func TestScheduleNext(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t) // begins at noon
	start := c.now().Truncate(time.Second)
	next := func() any { return m.read("config").Data["next_vault_rotation"] }
	m.connect()
	require.Nil(t, next())

	m.write("config", map[string]any{"rotation_schedule": "30 3 * * *"})
	require.Equal(t, "2026-03-02T03:30:00Z", next())
	require.Equal(t, next(), m.read("status").Data["next_vault_rotation"])
	require.Equal(t, "engine", m.read("status").Data["rotated_by"])

	resp, err := m.do(logical.PatchOperation, "config", map[string]any{"rotation_schedule": nil, "rotation_period": "24h"})
	m.requireOK(resp, err)
	require.WithinDuration(t, start.Add(24*time.Hour), m.moment(next()), 2*time.Second)
	resp, err = m.do(logical.PatchOperation, "config", map[string]any{"rotation_period": nil})
	m.requireOK(resp, err)
	require.Nil(t, next())
	require.Equal(t, int64(0), resp.Data["rotation_period"])

	// A period counts from the last rotation, so that switching it off and on puts nothing off.
	m.write("config", map[string]any{"rotation_period": "24h"})
	m.write("config/rotate-root", nil)
	rotated := m.moment(m.read("config").Data["last_vault_rotation"])
	require.Equal(t, rotated.Add(24*time.Hour), m.moment(next()))
	c.advance(10 * time.Hour)
	m.write("config", map[string]any{"disable_automated_rotation": true})
	require.Nil(t, next())
	require.Equal(t, "nobody", m.read("status").Data["rotated_by"])
	m.write("config", map[string]any{"disable_automated_rotation": false})
	require.Equal(t, rotated.Add(24*time.Hour), m.moment(next()))
	m.write("config", map[string]any{"rotation_period": "36h"})
	require.Equal(t, rotated.Add(36*time.Hour), m.moment(next()))

	// What has nothing to do with the schedule changes nothing about it, nor does a restart.
	m.write("config", map[string]any{"ttl": "10m", "max_retries": 1})
	m.write("config", map[string]any{"rotation_period": "36h"})
	m.restartAt(c)
	require.Equal(t, rotated.Add(36*time.Hour), m.moment(next()))
	require.Equal(t, rfc3339(rotated), m.read("config").Data["last_vault_rotation"])
}

// TestScheduleAfterARestart shows that a restart rotates nothing that is not due, and what is due once.
func TestScheduleAfterARestart(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_period": "24h"})
		r.pass(23*time.Hour, time.Hour)
		for range 3 {
			r.restartAt(r.clock)
			r.tick()
		}
		require.Empty(t, r.made())
		r.clock.advance(100 * time.Hour)
		r.restartAt(r.clock)
		require.Empty(t, r.made(), "not before Vault's tick")
		r.tick()
		require.Len(t, r.made(), 1)
		last := r.moment(r.read("config").Data["last_vault_rotation"])
		require.WithinDuration(t, r.clock.now(), last, 2*time.Second)
		for range 3 {
			r.restartAt(r.clock)
			r.pass(3*time.Minute, time.Minute)
		}
		require.Len(t, r.made(), 1, "what was missed is made up for once")
		require.Equal(t, last.Add(24*time.Hour), r.moment(r.read("config").Data["next_vault_rotation"]))
		r.sound()

		// The grace of what was replaced outlives a restart, too.
		r.clock.advance(24 * time.Hour)
		r.tick()
		require.Len(t, r.made(), 2)
		r.clock.advance(6 * time.Minute)
		r.restartAt(r.clock)
		r.tick()
		r.sound()
	})
}

// TestScheduleWindow shows that a time which was missed by more than the window is left out.
func TestScheduleWindow(t *testing.T) {
	t.Parallel()
	day := func(n int, clock string) time.Time {
		at, err := time.Parse(time.RFC3339, fmt.Sprintf("2026-03-%02dT%sZ", n, clock))
		require.NoError(t, err)
		return at
	}
	for name, row := range map[string]struct {
		window  string
		tick    time.Time
		rotates bool
		next    string
	}{
		"too early":                 {"1h", day(2, "02:59:59"), false, "2026-03-02T03:00:00Z"},
		"in time":                   {"1h", day(2, "03:00:00"), true, "2026-03-03T03:00:00Z"},
		"late, within the window":   {"1h", day(2, "03:59:59"), true, "2026-03-03T03:00:00Z"},
		"late, out of the window":   {"1h", day(2, "04:00:01"), false, "2026-03-03T03:00:00Z"},
		"days late":                 {"1h", day(5, "05:00:00"), false, "2026-03-06T03:00:00Z"},
		"days late, in the next":    {"2h", day(5, "03:30:00"), false, "2026-03-06T03:00:00Z"},
		"days late, without window": {"0", day(5, "05:00:00"), true, "2026-03-06T03:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, "pat", map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": row.window})
			r.tick()
			r.clock.advance(row.tick.Sub(r.clock.now()))
			r.restartAt(r.clock)
			r.tick()
			require.Equal(t, row.rotates, len(r.made()) == 1)
			config := r.read("config").Data
			require.Equal(t, row.next, config["next_vault_rotation"])
			require.Equal(t, row.rotates, config["last_vault_rotation"] != nil)
			if !row.rotates && row.tick.After(day(2, "03:00:00")) {
				require.Contains(t, r.log.String(), "left out")
			}
			r.clock.advance(r.moment(config["next_vault_rotation"]).Sub(r.clock.now()))
			r.tick()
			require.NotEmpty(t, r.made(), "the next time comes")
		})
	}
}

// TestScheduleSwitchedOff shows that nothing is rotated while it is.
func TestScheduleSwitchedOff(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", map[string]any{"rotation_period": "1h", "disable_automated_rotation": true})
	r.pass(10*time.Hour, 10*time.Minute)
	require.Empty(t, r.made())
	r.rotate() // by hand it is
	r.pass(10*time.Hour, 10*time.Minute)
	r.sound()
	require.Len(t, r.made(), 1)
	first := r.made()[0]
	r.write("config", map[string]any{"disable_automated_rotation": false})
	r.tick()
	require.NotEqual(t, first, r.stored().Rotation.Credential.ID, "it is overdue")
}

// TestScheduleBacksOff shows how a rotation that fails is tried again, and how that is seen.
func TestScheduleBacksOff(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_period": "24h"})
		r.rotate()
		r.pass(10*time.Minute, time.Minute)
		held := r.secretOf(r.stored())
		due := r.stored().Rotation.Next
		r.clock.advance(due.Sub(r.clock.now()))
		r.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: r.createPathOf(), Status: 500, Message: "boom"})
		r.workspace.ResetCalls()
		for range 6 * 60 {
			r.tick()
			r.clock.advance(time.Minute)
		}
		var waits []time.Duration
		last := due
		for _, call := range r.workspace.Calls() {
			if call.Method == http.MethodPost && call.Fault {
				waits = append(waits, call.Time.Sub(last).Round(time.Minute))
				last = call.Time
			}
		}
		m := time.Minute
		require.Equal(t, []time.Duration{0, m, 2 * m, 4 * m, 8 * m, 16 * m, 32 * m, 60 * m, 60 * m, 60 * m, 60 * m}, waits)
		for _, path := range []string{"config", "status"} {
			data := r.read(path).Data
			require.EqualValues(t, 11, data["rotation_failures"])
			require.Contains(t, data["last_rotation_error"], "boom")
			require.WithinDuration(t, last.Add(time.Hour), r.moment(data["next_rotation_attempt"]), 2*time.Second)
			require.Equal(t, rfc3339(due), data["next_vault_rotation"], "it is overdue since then")
		}
		failures := 0
		for _, event := range r.sent() {
			if event.Type == "databricks/root-rotate-fail" {
				failures++
				require.Equal(t, fmt.Sprint(failures), event.Event.GetMetadata().AsMap()["failures"])
			}
		}
		require.Equal(t, 11, failures)
		require.Contains(t, r.log.String(), "a rotation failed; it is tried again")
		require.True(t, r.works(held), "the old one stays")

		// A restart neither forgets it nor tries at once.
		r.restartAt(r.clock)
		r.workspace.ResetCalls()
		r.tick()
		require.Zero(t, r.workspace.Count(http.MethodPost, r.createPathOf()))
		require.EqualValues(t, 11, r.read("config").Data["rotation_failures"])

		r.workspace.ClearFaults()
		r.pass(time.Hour, time.Minute)
		data := r.read("status").Data
		require.EqualValues(t, 0, data["rotation_failures"])
		require.Empty(t, data["last_rotation_error"])
		require.Nil(t, data["next_rotation_attempt"])
		require.Equal(t, r.stored().Rotation.Last.Add(24*time.Hour), r.moment(data["next_vault_rotation"]))
		r.pass(10*time.Minute, time.Minute)
		r.sound()
	})
}

// TestScheduleRetiresInTime shows that a credential which can't be removed is tried again each hour, and visible until then.
func TestScheduleRetiresInTime(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	old := r.rotate().Data["credential_id"]
	r.rotate()
	fault := r.workspace.Inject(simulator.Fault{Path: deletePath, Status: 500})
	r.pass(3*time.Hour, time.Minute)
	require.InDelta(t, 3, fault.Hits(), 1)
	require.Equal(t, []string{old.(string)}, r.read("config").Data["retired_ids"])
	require.Contains(t, r.log.String(), "could not be removed; it is tried again every hour")
	fault.Clear()
	r.pass(time.Hour, time.Minute)
	r.sound()

	// With a short period, it does not outlive it.
	r.write("config", map[string]any{"rotation_period": "2m"})
	r.pass(time.Hour, 30*time.Second)
	require.LessOrEqual(t, len(r.made()), 2)
}

// TestScheduleOnReadOnlyNodes shows that rotations are left to the node that may write.
func TestScheduleOnReadOnlyNodes(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		state   consts.ReplicationState
		local   bool
		tainted bool
		rotates bool
	}{
		"the active node":                       {0, false, false, true},
		"a performance standby":                 {consts.ReplicationPerformanceStandby, false, false, false},
		"a performance standby, local mount":    {consts.ReplicationPerformanceStandby, true, false, false},
		"a DR secondary":                        {consts.ReplicationDRSecondary, false, false, false},
		"a performance secondary":               {consts.ReplicationPerformanceSecondary, false, false, false},
		"a local mount of a secondary":          {consts.ReplicationPerformanceSecondary, true, false, true},
		"a mount that is being disabled":        {0, false, true, false},
		"a disabled local mount of a secondary": {consts.ReplicationPerformanceSecondary, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, "pat", map[string]any{"rotation_period": "24h"})
			r.rotate()
			r.rotate()
			r.clock.advance(25 * time.Hour)
			r.restartAt(r.clock)
			before := r.live()
			r.workspace.ResetCalls()
			r.system.ReplicationStateVal, r.system.LocalMountVal, r.system.TaintedVal = row.state, row.local, row.tainted
			writes := 0
			r.storage.onEach(func(op, key string) error {
				if op == "put" || op == "delete" {
					writes++
				}
				return nil
			})
			r.tick()
			r.storage.onEach(nil)
			if row.rotates {
				require.NotEqual(t, before, r.live())
				return
			}
			require.Equal(t, before, r.live())
			require.Empty(t, r.workspace.Calls())
			require.Zero(t, writes)

			r.system.ReplicationStateVal, r.system.TaintedVal = 0, false
			r.tick()
			r.pass(6*time.Minute, time.Minute)
			r.sound()
			require.NotEqual(t, before, r.live(), "it is done as soon as it may be")
		})
	}
}

// TestScheduleIdleTick shows that a tick with nothing to rotate costs nothing.
func TestScheduleIdleTick(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]map[string]any{"no schedule": nil, "a schedule": {"rotation_period": "24h"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, "pat", config)
			r.rotate()
			r.pass(10*time.Minute, time.Minute)
			r.workspace.ResetCalls()
			var ops []string
			r.storage.onEach(func(op, key string) error {
				ops = append(ops, op+" "+key)
				return nil
			})
			r.pass(10*time.Minute, time.Minute)
			require.Equal(t, slices.Repeat([]string{"list wal/"}, 10), ops, "the write-ahead log is looked at anyway")
			require.Empty(t, r.workspace.Calls())
		})
	}
}

// TestScheduleHeedsAWriteDuringATick shows that a schedule which is being stored while a tick looks is not overlooked.
func TestScheduleHeedsAWriteDuringATick(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.tick()
	r.storage.onEach(func(op, key string) error {
		if op == "put" && key == configStorageKey {
			r.storage.onEach(nil)
			r.tick()
		}
		return nil
	})
	r.write("config", map[string]any{"rotation_period": "24h"})
	r.pass(25*time.Hour, time.Hour)
	require.Len(t, r.made(), 1)
}

// TestScheduleWithBrokenStorage shows that a tick which can't read or write says so, and that the next one does what it left.
func TestScheduleWithBrokenStorage(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"get " + configStorageKey, "put " + configStorageKey, "list " + staticStoragePrefix} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, "pat", map[string]any{"rotation_period": "24h"})
			r.tick()
			r.clock.advance(25 * time.Hour)
			r.storage.onEach(func(op, key string) error {
				if op+" "+key == broken {
					return errors.New("disk full")
				}
				return nil
			})
			resp, err := r.rollback()
			require.ErrorContains(t, errors.Join(err, resp.Error()), "disk full")
			require.True(t, r.works(r.secretOf(r.stored())))
			r.storage.onEach(nil)
			r.pass(5*time.Minute, time.Minute)
			r.sound()
			require.Len(t, r.made(), 1)
		})
	}
}

// TestScheduleWaitsItsTurn shows that a tick during a rotation by hand doesn't rotate once more.
func TestScheduleWaitsItsTurn(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", map[string]any{"rotation_period": "24h"})
	r.clock.advance(25 * time.Hour)
	hold := make(chan struct{})
	fault := r.workspace.Inject(simulator.Fault{Path: mePath, Hold: hold, Times: 1})
	rotated := make(chan error, 1)
	go func() {
		_, err := r.tryRotate()
		rotated <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	r.youngTick()
	close(hold)
	require.NoError(t, <-rotated)
	require.Len(t, r.made(), 1)
	r.pass(6*time.Minute, time.Minute)
	r.sound()
}

// TestScheduleWorksDuringAConfigWrite shows that what a tick does while a config write is being verified neither stops the write nor
// is undone by it.
func TestScheduleWorksDuringAConfigWrite(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.rotate()
	r.rotate()
	r.clock.advance(6 * time.Minute)
	hold := make(chan struct{})
	fault := r.workspace.Inject(simulator.Fault{Path: mePath, Hold: hold, Times: 1})
	done := make(chan error, 1)
	go func() {
		_, err := r.do(logical.UpdateOperation, "config", map[string]any{"ttl": "11m"})
		done <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	r.tick()
	require.Empty(t, r.stored().Rotation.Retired)
	close(hold)
	require.NoError(t, <-done)
	require.EqualValues(t, 660, r.stored().TTL)
	r.sound()
}

// TestAScheduleThatEndsTakesItsWindowAlong shows that no stored field which nobody sent stands in the way of another schedule.
func TestAScheduleThatEndsTakesItsWindowAlong(t *testing.T) {
	t.Parallel()
	cron := map[string]any{"rotation_schedule": "0 3 * * SAT", "rotation_window": "4h"}
	for path, base := range map[string]map[string]any{"config": {}, "static-roles/x": {"credential_type": "pat"}} {
		for name, row := range map[string]struct {
			op   logical.Operation
			data map[string]any
			want []any // period, schedule, window
		}{
			"a period instead":        {logical.UpdateOperation, map[string]any{"rotation_schedule": "", "rotation_period": "168h"}, []any{int64(604800), "", int64(0)}},
			"a period instead, patch": {logical.PatchOperation, map[string]any{"rotation_schedule": nil, "rotation_period": 604800}, []any{int64(604800), "", int64(0)}},
			"none":                    {logical.UpdateOperation, map[string]any{"rotation_schedule": ""}, []any{int64(0), "", int64(0)}},
			"none, patch":             {logical.PatchOperation, map[string]any{"rotation_schedule": nil}, []any{int64(0), "", int64(0)}},
			"none, all named":         {logical.UpdateOperation, map[string]any{"rotation_schedule": "", "rotation_window": 0, "rotation_period": 0}, []any{int64(0), "", int64(0)}},
			"another schedule":        {logical.UpdateOperation, map[string]any{"rotation_schedule": "0 4 * * *"}, []any{int64(0), "0 4 * * *", int64(14400)}},
			"the window only":         {logical.PatchOperation, map[string]any{"rotation_window": nil}, []any{int64(0), "0 3 * * SAT", int64(0)}},
		} {
			t.Run(path+", "+name, func(t *testing.T) {
				t.Parallel()
				m, _ := newTimedMount(t)
				m.connect()
				if path != "config" {
					m.write(path, base)
				}
				m.write(path, cron)
				resp, err := m.do(row.op, path, row.data)
				m.requireOK(resp, err)
				require.Equal(t, row.want, []any{resp.Data["rotation_period"], resp.Data["rotation_schedule"], resp.Data["rotation_window"]})

				// What was sent is still refused where it doesn't fit.
				m.write(path, map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * SAT", "rotation_window": "4h"})
				resp, err = m.do(logical.UpdateOperation, path, map[string]any{"rotation_schedule": "", "rotation_window": "4h"})
				m.refused(resp, err, "rotation_window: belongs to rotation_schedule")
				resp, err = m.do(logical.UpdateOperation, path, map[string]any{"rotation_period": "168h"})
				m.refused(resp, err, "rotation_schedule: can't be used together with rotation_period; send the other one as 0 or empty")
			})
		}
	}
}
