// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// tickBudget is how long a tick goes on beginning new work: Vault gives one 90 seconds, and the rollback has to have its share.
const tickBudget = 30 * time.Second

// agenda is when the mount's rotations have something to do next, so that a tick with nothing due costs nothing.
type agenda struct {
	mu      sync.Mutex
	at      time.Time // zero for never
	looked  time.Time // by a clock that nobody can set
	known   bool
	changes uint64
}

// agendaPause is how long an agenda is believed: the clock that it goes by may be set back.
const agendaPause = time.Hour

// begin answers whether it is time to look, and what finish must be told.
func (a *agenda) begin(now time.Time) (due bool, changes uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.known || !a.at.IsZero() && !now.Before(a.at) || time.Since(a.looked) > agendaPause, a.changes
}

// finish takes note of the next time, unless something was changed since begin.
func (a *agenda) finish(at time.Time, changes uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changes == changes {
		a.at, a.known, a.looked = at, true, time.Now()
	}
}

// touch makes the next tick look.
func (a *agenda) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = false
	a.changes++
}

// tick is what Vault calls about once a minute. What fails in one part doesn't hold up the others.
func (b *backend) tick(ctx context.Context, req *logical.Request) error {
	errs := []error{b.sweepGrants(ctx, req)}
	if b.WriteSafeReplicationState() && !b.System().Tainted() {
		errs = append(errs, b.rotateDue(ctx, req), b.tidyTick(ctx, req))
	}
	return errors.Join(errs...)
}

// rotateDue does what is due of the root credential and of static roles. A failure of one of them is recorded with it, and
// only what can't be recorded is an error of the tick.
func (b *backend) rotateDue(ctx context.Context, req *logical.Request) error {
	start := time.Now()
	due, changes := b.agenda.begin(b.now())
	if !due {
		return nil
	}
	names, err := req.Storage.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	var at time.Time
	err = b.safely("rotation of the engine's own credential", func() (err error) {
		at, err = b.tendRoot(ctx, req)
		return err
	})
	times, errs := []time.Time{at}, []error{err}
	type work struct {
		name string
		at   time.Time
	}
	var works []work
	for _, name := range names {
		e, err := b.static(ctx, req.Storage, name)
		if isUnreadable(err) {
			// It will be as unreadable in a minute.
			if _, said := b.reported.LoadOrStore(err.Error(), true); !said {
				b.Logger().Error("a static role is not rotated", "error", err)
			}
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if e == nil {
			continue
		}
		if at := e.at(); (at.IsZero() || at.After(b.now())) && !e.clone().correct(b.now()) {
			times = append(times, at)
		} else {
			works = append(works, work{name, at})
		}
	}
	// Who has waited longest comes first, so that nobody waits for ever.
	slices.SortFunc(works, func(a, b work) int { return a.at.Compare(b.at) })
	for i, w := range works {
		if time.Since(start) > tickBudget {
			b.Logger().Info("not all static roles could be rotated within one tick; the next one goes on", "left", len(works)-i)
			times = append(times, w.at)
			break
		}
		var at time.Time
		err := b.safely("rotation of a static role", func() (err error) {
			at, err = b.tendStatic(ctx, req, w.name)
			return err
		})
		times, errs = append(times, at), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.agenda.finish(earliest(times...), changes)
	return nil
}
