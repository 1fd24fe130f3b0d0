// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// kinds are the kinds of the events so far.
func (m *mount) kinds() []string {
	var kinds []string
	for _, event := range m.sent() {
		kinds = append(kinds, strings.TrimPrefix(string(event.Type), "databricks/"))
	}
	return kinds
}

// heldBus is an event bus that takes nothing until it is released.
type heldBus struct {
	arrived atomic.Int64 // events that it was given
	release func()
}

// holdEvents makes the mount's event bus wait. It has one event, so that all others wait in the queue.
func (m *mount) holdEvents() *heldBus {
	m.t.Helper()
	m.sent()
	hold, bus := make(chan struct{}), new(heldBus)
	bus.release = sync.OnceFunc(func() { close(hold) })
	m.t.Cleanup(bus.release)
	m.onEvent(func(context.Context, string) error {
		bus.arrived.Add(1)
		<-hold
		return nil
	})
	m.backend.(*backend).event("held", "first")
	bus.await(m.t, 1)
	return bus
}

func (bus *heldBus) await(t *testing.T, events int64) {
	t.Helper()
	require.Eventually(t, func() bool { return bus.arrived.Load() == events }, 10*time.Second, time.Millisecond)
}

// eventsDropped is what status says.
func (m *mount) eventsDropped() any {
	m.t.Helper()
	return m.read("status").Data["events_dropped"]
}

// TestRequestsDoNotWaitForTheEventBus runs requests while the bus takes nothing. It gets all events later, and in their order if there are no more
// than one sender is for.
func TestRequestsDoNotWaitForTheEventBus(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ clients, rounds, senders int }{
		"in order": {eventsPerSender / 2, 1, 1},
		"a storm":  {200, 5, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			bus := m.holdEvents()
			var wg sync.WaitGroup
			for range test.clients {
				wg.Go(func() {
					// The harness is for one goroutine.
					do := func(req *logical.Request) *logical.Response {
						req.Storage, req.MountPoint = m.storage, "databricks/"
						resp, err := m.backend.HandleRequest(t.Context(), req)
						if err != nil || resp.IsError() {
							t.Error(resp, err)
						}
						return resp
					}
					for range test.rounds {
						creds := do(&logical.Request{Operation: logical.ReadOperation, Path: "creds/etl"})
						if creds == nil || creds.Secret == nil {
							return
						}
						do(&logical.Request{Operation: logical.RevokeOperation, Path: "creds/etl", Secret: creds.Secret})
					}
				})
			}
			wg.Wait()
			bus.await(t, int64(test.senders))
			m.events.Lock()
			require.Len(t, m.events.Events, 2, "what it has got is that the mount is ready")
			m.events.Unlock()
			bus.release()

			told := map[string][]string{}
			for _, event := range m.sent()[2:] {
				if kind := string(event.Type); kind != "databricks/held" {
					id := event.Event.GetMetadata().AsMap()["id"].(string)
					told[id] = append(told[id], kind)
				}
			}
			require.Len(t, told, test.clients*test.rounds)
			for _, kinds := range told {
				want := []string{"databricks/creds-create", "databricks/creds-revoke"}
				require.ElementsMatch(t, want, kinds)
				if test.senders == 1 {
					require.Equal(t, want, kinds)
				}
			}
			require.EqualValues(t, 0, m.eventsDropped())
			require.Nil(t, m.sending(), "an idle mount costs nothing")
			require.Nil(t, m.backend.(*backend).events.waiting)
			require.Zero(t, m.backend.(*backend).events.senders)
		})
	}
}

// TestAfterAStormEventsKeepTheirOrderAgain lets the bus take events one by one.
func TestAfterAStormEventsKeepTheirOrderAgain(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	b := m.backend.(*backend)
	const events = 3 * eventsPerSender
	passes := make(chan struct{}, events)
	m.onEvent(func(context.Context, string) error {
		<-passes
		return nil
	})
	for range events {
		b.event("x", "")
	}
	const few = 10
	pass := func(events, senders int) {
		t.Helper()
		for range events {
			passes <- struct{}{}
		}
		require.Eventually(t, func() bool {
			b.events.mu.Lock()
			defer b.events.mu.Unlock()
			return len(passes) == 0 && b.events.senders == senders
		}, 10*time.Second, time.Millisecond)
	}
	pass(0, 3)
	pass(events-eventsPerSender, 1)
	pass(eventsPerSender-few, 1)
	pass(few, 0)
	require.Len(t, m.sent(), events)
}

// TestEventsBeyondTheBoundAreDropped counts them exactly.
func TestEventsBeyondTheBoundAreDropped(t *testing.T) {
	t.Parallel()
	m := ready(t)
	b := m.backend.(*backend)
	const senders = maxEvents / eventsPerSender
	for round := 1; round <= 2; round++ {
		bus := m.holdEvents()
		before := len(m.events.Events)
		events := 0
		add := func(n int) {
			for range n {
				b.event("waiting", fmt.Sprint(events))
				events++
			}
		}
		add((senders-1)*eventsPerSender + senders)
		bus.await(t, senders)
		b.events.mu.Lock()
		room := maxEvents - len(b.events.waiting)
		b.events.mu.Unlock()
		add(room)
		require.Len(t, m.logged("[WARN]", "Vault takes events too slowly"), round-1)
		const workers, each = 10, 7
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					b.event("dropped", "")
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, round*workers*each, m.eventsDropped())
		require.Len(t, m.logged("[WARN]", "Vault takes events too slowly"), round, "it is said once, until everything is sent")
		require.EqualValues(t, senders, bus.arrived.Load(), "no more are sent at once")
		bus.release()
		sent := map[any]bool{}
		for _, event := range m.sent()[before:] {
			sent[event.Event.GetMetadata().AsMap()["path"]] = true
		}
		require.Len(t, sent, 1+events)
		for i := range events {
			require.True(t, sent[fmt.Sprint(i)], i)
		}
	}
}

// TestTheQueueOfEventsDoesNotGrow sends many events, of which there is always one more.
func TestTheQueueOfEventsDoesNotGrow(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	b := m.backend.(*backend)
	const events = 10 * maxEvents
	n, most := 0, 0
	m.onEvent(func(context.Context, string) error {
		if n++; n < events {
			b.event("next", fmt.Sprint(n))
		}
		b.events.mu.Lock()
		defer b.events.mu.Unlock()
		most = max(most, cap(b.events.waiting))
		return nil
	})
	b.event("next", "0")
	require.Len(t, m.sent(), events)
	require.LessOrEqual(t, most, 16)
}

// TestAnEventKeepsWhatItWasGiven shows that a caller may go on to use its slice.
func TestAnEventKeepsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	b := m.backend.(*backend)
	bus := m.holdEvents()
	pairs := make([]string, 2, 100)
	pairs[0], pairs[1] = "name", "etl"
	b.event("x", "p", append(pairs, "n", "1")...)
	b.event("x", "p", append(pairs, "n", "2")...)
	bus.release()
	for i, event := range m.sent()[1:] {
		require.Equal(t, map[string]any{"name": "etl", "n": fmt.Sprint(i + 1), "path": "p", "modified": "true"}, event.Event.GetMetadata().AsMap())
	}
}

// TestAnEventThatCannotBeSent is counted, and keeps no other from being sent.
func TestAnEventThatCannotBeSent(t *testing.T) {
	t.Parallel()
	for name, bus := range map[string]func() error{
		"a panic":  func() error { panic("dapi-in-a-panic") },
		"an error": func() error { return errors.New("no subscribers") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			m.onEvent(func(_ context.Context, kind string) error {
				if kind == "databricks/creds-create" {
					return bus()
				}
				return nil
			})
			m.end(m.mint("etl").Secret)
			require.Equal(t, []string{"config-write", "role-write", "creds-revoke"}, m.kinds())
			require.EqualValues(t, 1, m.eventsDropped())
			require.Len(t, m.logged("an event was not sent", "event=creds-create"), 1)
			require.NotContains(t, m.log.String(), "dapi-in-a-panic")
		})
	}
}

// TestAHostWithoutAnEventBus misses nothing.
func TestAHostWithoutAnEventBus(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	conf := m.config()
	conf.EventsSender = nil
	b, err := Factory(t.Context(), conf)
	require.NoError(t, err)
	m.backend = b
	m.makeReady()
	require.ErrorIs(t, b.(*backend).SendEvent(t.Context(), "databricks/x", nil), framework.ErrNoEvents)
	m.end(m.mint("etl").Secret)
	require.Empty(t, m.kinds())
	require.EqualValues(t, 0, m.eventsDropped())
	require.Empty(t, m.logged("event"))
}

// TestUnloadingSendsTheEventsThatAreLeft waits for a bus that is slow, and sends nothing afterwards.
func TestUnloadingSendsTheEventsThatAreLeft(t *testing.T) {
	t.Parallel()
	m := ready(t)
	b := m.backend.(*backend)
	bus := m.holdEvents()
	m.end(m.mint("etl").Secret)
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		b.Cleanup(context.Background())
	}()
	require.Eventually(t, func() bool {
		b.events.mu.Lock()
		defer b.events.mu.Unlock()
		return b.events.closed
	}, 10*time.Second, time.Millisecond)
	bus.release()
	<-cleaned
	require.Nil(t, m.sending())
	require.Equal(t, []string{"config-write", "role-write", "held", "creds-create", "creds-revoke"}, m.kinds())

	m.mint("etl")
	require.Nil(t, m.sending(), "nothing runs for a mount that was unloaded")
	require.Len(t, m.kinds(), 5)
	require.EqualValues(t, 1, m.eventsDropped())
}

// TestUnloadingGivesUpOnAHungBus does so whether or not the bus ends with the context, as one over gRPC does.
func TestUnloadingGivesUpOnAHungBus(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]bool{"that ends with the context": true, "that doesn't": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			b := m.backend.(*backend)
			m.sent()
			for range 2 {
				m.end(m.mint("etl").Secret)
			}
			m.sent()
			hung, hang := make(chan struct{}), make(chan struct{})
			m.onEvent(func(ctx context.Context, _ string) error {
				if hung <- struct{}{}; ends {
					<-ctx.Done()
					return ctx.Err()
				}
				<-hang
				return nil
			})
			for range 100 {
				b.event("left", "")
			}
			<-hung
			sending := m.sending()
			b.Cleanup(context.Background())
			require.Len(t, m.logged("[WARN]", "before the mount was unloaded", "dropped=99"), 1)
			begun := 0 // the bus has the one that it was given, if it kept it
			if !ends {
				begun = 1
				close(hang)
			}
			<-sending.done
			require.Equal(t, ends, len(m.logged("an event was not sent", "context canceled")) == 1, "its time is not waited for")
			require.Nil(t, m.sending())
			require.Len(t, m.told("left"), begun)
			require.EqualValues(t, 100-begun, m.eventsDropped())
		})
	}
}

// TestEventsOverTheWire shows that events need nothing of their requests' contexts, and are sent before Vault's connection ends.
func TestEventsOverTheWire(t *testing.T) {
	t.Parallel()
	m := newGRPCMount(t)
	m.makeReady()
	m.end(m.mint("etl").Secret)
	m.backend.Cleanup(t.Context())
	m.events.Lock()
	defer m.events.Unlock()
	var kinds []string
	for _, event := range m.events.Events {
		kinds = append(kinds, string(event.Type))
		require.NotEmpty(t, event.Event.GetMetadata().AsMap()["path"])
	}
	require.Equal(t, []string{"databricks/config-write", "databricks/role-write", "databricks/creds-create", "databricks/creds-revoke"}, kinds)
}

// TestAnEventTellsOnlyOfWhatHappened makes the end of each operation fail, and then succeed.
func TestAnEventTellsOnlyOfWhatHappened(t *testing.T) {
	t.Parallel()
	operations := map[string]struct {
		recorded
		event, owner string // owner is the storage entry that is to hold what is made
	}{
		"credential":      {recorded{path: "creds/etl"}, "creds-create", ""},
		"delivered copy":  {recordedLeases["delivered copy"], "creds-create", ""},
		"secret":          {recordedLeases["secret"], "secret-write", ""},
		"permission":      {recordedLeases["permission"], "acl-write", ""},
		"static role":     {recorded{path: "rotate-role/bi"}, "static-rotate", staticStoragePrefix},
		"engine's secret": {recorded{path: "config/rotate-root"}, "root-rotate", configStorageKey},
	}
	for name, o := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := recordMount(t)
			m.write("static-roles/bi", map[string]any{"credential_type": "pat"})
			before := len(m.told(o.event))
			fail := func() error { return errors.New("no quorum") }
			if o.owner == "" {
				m.onCommit(fail)
			} else {
				m.storage.onEach(func(op, key string) error {
					if op == "put" && strings.HasPrefix(key, o.owner) {
						return fail()
					}
					return nil
				})
			}
			m.failure(m.do(logical.UpdateOperation, o.path, o.data))
			m.storage.onEach(nil)
			require.Len(t, m.told(o.event), before)
			m.rolledBack()
			m.write(o.path, o.data)
			require.Len(t, m.told(o.event), before+1)
		})
	}
}
