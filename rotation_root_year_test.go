// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// rootFault is something that goes wrong at one step of a rotation.
type rootFault struct {
	name   string
	inject func(r *rootMount) (acted func() bool)
	crash  bool
}

// rootSteps are what a rotation does to the storage and at Databricks, in this order.
type rootSteps struct {
	storage []string // operation and key
	calls   []string
}

// record runs act without faults and answers its steps.
func (r *rootMount) record(act func()) rootSteps {
	var steps rootSteps
	r.workspace.ResetCalls()
	r.storage.onEach(func(op, key string) error {
		steps.storage = append(steps.storage, op+" "+key)
		return nil
	})
	act()
	r.storage.onEach(nil)
	steps.calls = r.requests()
	return steps
}

// faults is the table of everything that can go wrong: each step, each fault, and a crash before and after it.
func (steps rootSteps) faults() []rootFault {
	var table []rootFault
	for i, step := range steps.storage {
		i := i
		writes := strings.HasPrefix(step, "put ") || strings.HasPrefix(step, "delete ")
		for _, after := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				if after && !writes {
					continue
				}
				what := map[bool]string{false: "fails", true: "crash"}[crash] + map[bool]string{false: " before", true: " after"}[after]
				table = append(table, rootFault{name: fmt.Sprintf("%02d %s: %s", i, step, what), crash: crash, inject: func(r *rootMount) func() bool {
					return r.breakStorage(i, after, crash)
				}})
			}
		}
	}
	for i, call := range steps.calls {
		for what, fault := range map[string]simulator.Fault{
			"500 before":         {Status: 500},
			"500 after":          {Status: 500, AfterEffect: true},
			"the reply is lost":  {Reset: true, AfterEffect: true},
			"throttled":          {Status: 429},
			"permission is lost": {Status: 403},
		} {
			fault.Offset, fault.Times = i, 1
			table = append(table, rootFault{name: fmt.Sprintf("%02d %s: %s", i, call, what), inject: func(r *rootMount) func() bool {
				injected := r.workspace.Inject(fault)
				return func() bool { return injected.Hits() > 0 }
			}})
		}
		for _, after := range []bool{false, true} {
			what := map[bool]string{false: "crash before", true: "crash after"}[after]
			table = append(table, rootFault{name: fmt.Sprintf("%02d %s: %s", i, call, what), crash: true, inject: func(r *rootMount) func() bool {
				return r.breakConnection(i, after)
			}})
		}
	}
	slices.SortFunc(table, func(a, b rootFault) int { return strings.Compare(a.name, b.name) })
	return table
}

// breakStorage lets the operation number i fail, before it is done or, for others to see, after it; with a crash, all that come
// after it fail, too.
func (r *rootMount) breakStorage(i int, after, crash bool) (acted func() bool) {
	n, hit := 0, false
	fail := func() error {
		hit = true
		if crash {
			r.die()
		}
		return errors.New("the leader stepped down")
	}
	r.storage.onEach(func(string, string) error {
		n++
		if n == i+1 && !after {
			return fail()
		}
		return nil
	})
	r.storage.afterEach(func(string, string) error {
		if n == i+1 && after {
			return fail()
		}
		return nil
	})
	return func() bool { return hit }
}

// breakConnection ends the process when it makes the call number i, before or after Databricks has done what it asks for.
func (r *rootMount) breakConnection(i int, after bool) (acted func() bool) {
	r.workspace.ResetCalls()
	if after {
		r.workspace.Inject(simulator.Fault{Offset: i, Times: 1, Reset: true, AfterEffect: true})
	}
	fault := r.workspace.Inject(simulator.Fault{Offset: i, Reset: true})
	r.storage.onEach(func(string, string) error {
		if len(r.workspace.Calls()) > i {
			return logical.ErrReadOnly
		}
		return nil
	})
	return func() bool { return fault.Hits() > 0 || len(r.workspace.Calls()) > i }
}

// suffer lets act run into the fault, and brings the mount back afterwards.
func (r *rootMount) suffer(fault rootFault, act func()) {
	r.t.Helper()
	acted := fault.inject(r)
	act()
	require.True(r.t, acted(), "the fault was met")
	for _, id := range r.openEntries() {
		entry, err := r.storage.Storage.Get(context.Background(), id)
		require.NoError(r.t, err)
		require.NotRegexp(r.t, `dapi[0-9a-f]{32}|dose[0-9a-f]{32}`, string(entry.Value))
	}
	r.storage.onEach(nil)
	r.storage.afterEach(nil)
	r.workspace.ClearFaults()
	if fault.crash {
		r.revive(r.clock)
	}
}

// openEntries are the keys of the write-ahead log, whatever the storage answers the engine.
func (r *rootMount) openEntries() []string {
	r.t.Helper()
	ids, err := r.storage.Storage.List(context.Background(), "wal/")
	require.NoError(r.t, err)
	for i := range ids {
		ids[i] = "wal/" + ids[i]
	}
	return ids
}

// TestRootRotationWalk lets the first rotation, the second one, and one by hand without a schedule run into every fault at every
// step. Whatever happens, the saved credential works, nothing that the engine made is left besides it, and nothing is gone that it
// didn't make.
func TestRootRotationWalk(t *testing.T) {
	skipLong(t)
	t.Parallel()
	for name, walk := range map[string]struct {
		config   map[string]any
		rotated  bool // before
		rotation func(r *rootMount)
	}{
		"the first by schedule": {map[string]any{"rotation_period": "24h"}, false, func(r *rootMount) { r.clock.advance(24 * time.Hour); _, _ = r.rollback() }},
		"a later one by hand":   {nil, true, func(r *rootMount) { _, _ = r.tryRotate() }},
		"the first by hand":     {nil, false, func(r *rootMount) { _, _ = r.tryRotate() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachRootKind(t, func(t *testing.T, kind string) {
				begin := func(t *testing.T) *rootMount {
					r := newRootMount(t, kind, walk.config)
					if walk.rotated {
						r.rotate()
					}
					r.addByHand("vault:" + unknownUUID + ":" + strings.Repeat("ab", 16) + ":1:kept")
					if kind == "pat" {
						r.addByHand("the engine's own")
						r.addByHand("")
					}
					r.pass(10*time.Minute, time.Minute)
					return r
				}
				act := func(r *rootMount) func() {
					return func() {
						walk.rotation(r)
						r.clock.advance(6 * time.Minute)
						_, _ = r.rollback()
					}
				}
				model := begin(t)
				steps := model.record(act(model))
				model.sound()
				require.NotNil(t, model.stored().Rotation.Credential.ID)
				table := steps.faults()
				require.Greater(t, len(table), 40)
				for _, fault := range table {
					t.Run(fault.name, func(t *testing.T) {
						r := begin(t)
						r.suffer(fault, act(r))
						r.pass(2*time.Minute, time.Minute)
						r.pass(2*time.Hour, 10*time.Minute)
						r.sound()
						if walk.config != nil {
							require.NotEmpty(t, r.made(), "what failed was tried again")
							require.Zero(t, r.stored().Rotation.Failures)
						}
						resp, err := r.do(logical.DeleteOperation, "config", map[string]any{"force": true})
						r.requireOK(resp, err)
						require.Empty(t, r.made())
						require.Subset(t, r.live(), r.byHand)
					})
				}
			})
		})
	}
}

// TestRootRotationYear rotates every day of a year. Every day, something else goes wrong.
func TestRootRotationYear(t *testing.T) {
	skipLong(t)
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_schedule": "0 3 * * *"})
		r.addByHand("vault:" + unknownUUID + ":" + strings.Repeat("ab", 16) + ":1:kept")
		if kind == "pat" {
			r.addByHand("the engine's own")
			r.addByHand("")
		}
		toNext := func() {
			r.clock.advance(r.stored().Rotation.Next.Sub(r.clock.now()))
		}
		act := func() {
			_, _ = r.rollback()
			r.clock.advance(6 * time.Minute)
			_, _ = r.rollback()
		}
		toNext()
		act()
		var steps rootSteps
		for range 2 {
			toNext()
			r.serves()
			steps = r.record(act)
			r.sound()
		}
		table := steps.faults()
		require.Less(t, len(table), 363, "each is met within the year")
		secrets := map[string]bool{}
		for day := range 363 {
			fault := table[day%len(table)]
			toNext()
			due := r.stored().Rotation.Next
			r.workspace.ResetCalls()
			r.suffer(fault, act)
			r.pass(2*time.Minute, time.Minute)
			r.pass(2*time.Hour, 10*time.Minute)
			if t.Failed() {
				return
			}
			config := r.stored()
			require.Zero(t, config.Rotation.Failures, fault.name)
			require.False(t, config.Rotation.Last.Before(due), "%s: it was rotated today", fault.name)
			require.Equal(t, due.Add(24*time.Hour), config.Rotation.Next, "%s: it goes on tomorrow", fault.name)
			require.NotPanics(t, r.sound, fault.name)
			secret := r.secretOf(config)
			require.False(t, secrets[secret], "%s: a new one every day", fault.name)
			secrets[secret] = true
		}
		text := r.log.String()
		for secret := range secrets {
			require.NotContains(t, text, secret)
		}
	})
}

// TestRootRotationThrottled shows that a call which is repeated after a 429 or 503 leaves no twin, wherever it is in the rotation.
func TestRootRotationThrottled(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, map[string]any{"rotation_period": "24h", "max_retries": 1})
		r.rotate()
		for _, after := range []bool{false, true} {
			r.pass(10*time.Minute, time.Minute)
			r.clock.advance(r.stored().Rotation.Next.Sub(r.clock.now()))
			old := r.stored().Rotation.Credential.ID
			fault := r.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: r.createPathOf(), Status: 503, Times: 1, AfterEffect: after})
			r.tick()
			require.Equal(t, 1, fault.Hits())
			now := r.stored().Rotation.Credential.ID
			require.NotEqual(t, old, now)
			if after && kind == "pat" {
				require.Empty(t, r.walEntries(), "the same tick has looked for the twin")
			}
			require.ElementsMatch(t, []string{old, now}, r.made())
			r.pass(6*time.Minute, time.Minute)
			r.sound()
		}
	})
}
