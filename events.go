// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// maxEvents is how many events may wait to be sent. Further ones are dropped.
	maxEvents = 4096

	// eventsPerSender is how many events may wait before a second goroutine sends them, twice as many before a third does, and so on. With
	// one, their order is kept. It can't send as many as a storm of revocations makes, of which Vault's own bus doesn't keep the order either.
	eventsPerSender = 256

	// eventTimeout limits sending one event.
	eventTimeout = 5 * time.Second

	// eventFlushPatience is how long unloading a mount waits for the events that are left. Vault takes them in milliseconds. The SDK holds up
	// the requests of all mounts of the process meanwhile, so where Vault doesn't answer, the events are given up soon.
	eventFlushPatience = time.Second
)

// eventQueue holds the events that wait to be sent, in their order. It takes no memory and has no goroutine while none waits, so an idle mount
// costs nothing. The zero value is ready to use.
type eventQueue struct {
	mu      sync.Mutex
	waiting []queuedEvent
	senders int         // goroutines that send: one for each eventsPerSender that wait
	sending *eventsSent // what they share; nil while there are none
	full    bool        // an event was dropped since the queue was last empty
	closed  bool        // the mount was unloaded
	dropped int64
	lost    time.Time // when the latest was dropped, zero for never
}

// queuedEvent is an event that waits. It doesn't hold the context of its request: Vault knows by the connection which mount an event is from, and
// a context would keep the request in memory.
type queuedEvent struct {
	kind  string
	pairs []string // its own: the caller may go on to change the ones it gave
}

// eventsSent are the events that are sent until none waits.
type eventsSent struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when all are sent
}

// event tells Vault's event bus of a change, without waiting for it. It must be called after the change has been made; pairs are metadata keys
// and values, never secrets. It can't fail: an event that can't be sent must not undo what has happened.
func (b *backend) event(kind, path string, pairs ...string) {
	pairs = append(slices.Clip(pairs), logical.EventMetadataPath, path, logical.EventMetadataModified, "true")
	another, overflows := b.events.add(queuedEvent{kind, pairs})
	if another != nil {
		go b.sendEvents(another.ctx)
	}
	if overflows {
		b.Logger().Warn("Vault takes events too slowly, so some are dropped; events_dropped in status counts them", "event", kind)
	}
}

// add adds an event, or drops it when too many wait. It returns what another sender is to take part in, which the caller must start, nil for
// none, and whether this is the first drop since the queue was empty.
func (q *eventQueue) add(e queuedEvent) (another *eventsSent, overflows bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.dropLocked(1)
		return nil, false
	}
	if len(q.waiting) >= maxEvents {
		q.dropLocked(1)
		overflows, q.full = !q.full, true
		return nil, overflows
	}
	q.waiting = append(q.waiting, e)
	if len(q.waiting) <= q.senders*eventsPerSender {
		return nil, false
	}
	if q.senders++; q.senders == 1 {
		q.sending = &eventsSent{done: make(chan struct{})}
		q.sending.ctx, q.sending.cancel = context.WithCancel(context.Background())
	}
	return q.sending, false
}

// next takes the event that has waited longest, for a sender. When there are too few for it, the sender must end.
func (q *eventQueue) next() (e queuedEvent, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) <= (q.senders-1)*eventsPerSender {
		if q.senders--; q.senders == 0 {
			q.sending.cancel()
			close(q.sending.done)
			q.waiting, q.sending, q.full = nil, nil, false
		}
		return queuedEvent{}, false
	}
	e, q.waiting[0] = q.waiting[0], queuedEvent{} // the array must not hold what was sent
	q.waiting = q.waiting[1:]
	return e, true
}

// sendEvents sends events until there are too few.
func (b *backend) sendEvents(ctx context.Context) {
	for {
		e, ok := b.events.next()
		if !ok {
			return
		}
		// A panic in this goroutine would crash every mount of the process.
		err := b.safely("event", func() error {
			ctx, cancel := context.WithTimeout(ctx, eventTimeout)
			defer cancel()
			return logical.SendEvent(ctx, b, "databricks/"+e.kind, e.pairs...)
		})
		if err != nil && !errors.Is(err, framework.ErrNoEvents) { // a host without an event bus misses nothing
			b.events.drop(1)
			b.Logger().Debug("an event was not sent", "event", e.kind, "error", err)
		}
	}
}

// drop counts events that were not sent.
func (q *eventQueue) drop(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(n)
}

func (q *eventQueue) dropLocked(n int) {
	q.dropped += int64(n)
	q.lost = time.Now()
}

// droppedSoFar returns how many events were not sent, and when the latest of them was dropped.
func (q *eventQueue) droppedSoFar() (int64, time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped, q.lost
}

// stopEvents sends the events that wait, for eventFlushPatience at most, and drops what is left then and all that come later. Those that
// are being sent are cancelled, and the senders end with them.
func (b *backend) stopEvents() {
	q := &b.events
	q.mu.Lock()
	q.closed = true
	sending := q.sending
	q.mu.Unlock()
	if sending == nil {
		return
	}
	timer := time.NewTimer(eventFlushPatience)
	defer timer.Stop()
	select {
	case <-sending.done:
		return
	case <-timer.C:
	}
	q.mu.Lock()
	left := len(q.waiting)
	q.waiting, q.dropped = nil, q.dropped+int64(left)
	q.mu.Unlock()
	sending.cancel()
	b.Logger().Warn("Vault did not take all events before the mount was unloaded, so some are dropped", "dropped", left)
}
