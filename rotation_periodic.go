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

// rotationBudget is how long one call of periodic goes on beginning rotations: it should be as short as rollbackBudget, for the same
// reason, and the rollback comes after it.
const rotationBudget = 10 * time.Second

// nextRunLife is how long a nextRun is relied on: the clock that it goes by may be set back.
const nextRunLife = time.Hour

// nextRun is when the mount's rotations have something to do next, so that a periodic call with nothing due costs nothing.
type nextRun struct {
	mu      sync.Mutex
	at      time.Time // zero for never
	checked time.Time // by the real clock, which is monotonic
	known   bool
	changes uint64
}

// begin reports whether it is time to look, and returns what finish must be given.
func (n *nextRun) begin(now time.Time) (due bool, changes uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.known || !n.at.IsZero() && !now.Before(n.at) || time.Since(n.checked) > nextRunLife, n.changes
}

// finish sets the next time, unless something was changed since begin.
func (n *nextRun) finish(at time.Time, changes uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changes == changes {
		n.at, n.known, n.checked = at, true, time.Now()
	}
}

// touch makes the next periodic call look.
func (n *nextRun) touch() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = false
	n.changes++
}

// periodic is what Vault calls about once a minute. What fails in one part doesn't hold up the others.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	b.credentials.forget(b.now())
	errs := []error{b.sweepACLRecords(ctx, req)}
	if b.WriteSafeReplicationState() && !b.System().Tainted() {
		errs = append(errs, b.rotateDue(ctx, req), b.tidyPeriodic(ctx, req))
	}
	return errors.Join(errs...)
}

// rotateDue does what is due of the engine's own credential and of static roles. A failure of one of them is recorded with it, and
// only what can't be recorded is an error.
func (b *backend) rotateDue(ctx context.Context, req *logical.Request) error {
	start := time.Now()
	look, changes := b.nextRun.begin(b.now())
	if !look || b.splitBrain.Load() != nil {
		return nil
	}
	names, err := req.Storage.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	type work struct {
		it    rotationItem
		since time.Time
	}
	var works []work
	var times []time.Time
	var errs []error
	consider := func(it rotationItem, v rotationView) {
		next := v.next()
		if v.ready(b.now()) || v.correct(b.now()) {
			works = append(works, work{it, next})
		} else {
			times = append(times, next)
		}
	}
	config, err := readConfig(ctx, req.Storage)
	if config != nil {
		consider(&rootItem{b: b, req: req}, config.rotationView())
	}
	errs = append(errs, err)
	if err == nil {
		next, err := b.reconcileRetained(ctx, req.Storage)
		times, errs = append(times, next), append(errs, err)
	}
	own := len(works) // the engine's own credential comes before all others
	for _, name := range names {
		e, err := b.static(ctx, req.Storage, name)
		switch {
		case isUnreadable(err):
			// It will be as unreadable in a minute.
			b.reportUnreadable(staticStoragePrefix+name, "a static role is not rotated", err)
		case err != nil:
			errs = append(errs, err)
		case e != nil:
			b.unreadable.Delete(staticStoragePrefix + name)
			consider(&staticItem{b: b, req: req, name: name}, e.clone().rotationView())
		}
	}
	// What has waited longest comes first, so that nothing waits for ever.
	slices.SortFunc(works[own:], func(a, b work) int { return a.since.Compare(b.since) })
	for i, w := range works {
		if i >= own && time.Since(start) > rotationBudget {
			b.Logger().Info("not all static roles could be rotated within one periodic call; the next one continues", "left", len(works)-i)
			times = append(times, w.since)
			break
		}
		if b.rotationLocks.Waiting(w.it.labels().key) > 0 {
			times = append(times, w.since) // a request is at work on it, which may take as long as Databricks does
			continue
		}
		err := b.safely("rotation of "+w.it.labels().kind, func() error {
			next, err := b.reconcile(ctx, w.it)
			times = append(times, next)
			return err
		})
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.nextRun.finish(earliest(times...), changes)
	return nil
}
