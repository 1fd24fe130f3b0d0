// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-databricks/internal/keylock"
)

// intentReads is how many entries of the write-ahead log are read at once when they are indexed.
const intentReads = 16

// intentIndex is what this process knows of the entries of the write-ahead log, so that no request and no rollback reads all of
// them: after an outage there may be thousands. It is safe for concurrent use; mu is never held over a storage operation.
type intentIndex struct {
	mu      sync.Mutex
	entries map[string]*indexedIntent  // by the entry's id
	secrets map[string]map[string]bool // ids of entries, by the canonical ref of the secret that they are of
	read    bool                       // the log has been read since the process started
	since   time.Time                  // when that was, by Vault's clock

	// reading has one key, which is held while the log is read, so that only one request does so.
	reading keylock.Map
}

// indexedIntent is what the index has of one entry. What was reported and attempted is forgotten with the entry.
type indexedIntent struct {
	nonces   []string
	due      dueTime
	attempt  time.Time // when the entry was last tried, zero for never
	next     time.Time // not to be tried before, zero for any time
	secret   string    // canonical ref of the secret that was written, empty for none
	lifetime reservation
	reported map[string]bool // reasons that were logged
	failure  string          // why it could not be undone the last time
}

// put adds or replaces an entry with at least one intent.
func (x *intentIndex) put(id string, intents ...*intent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.putLocked(id, intents)
}

// add adds an entry of which it isn't known whether it was written. One that is there stays as it is, as it may be in the log.
func (x *intentIndex) add(id string, intents ...*intent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries[id] == nil {
		x.putLocked(id, intents)
	}
}

func (x *intentIndex) putLocked(id string, intents []*intent) {
	e := &indexedIntent{due: intents[0].dueTime()}
	for _, in := range intents {
		e.nonces = append(e.nonces, in.Nonce)
		if due := in.dueTime(); due.at.After(e.due.at) {
			e.due = due // the youngest operation may be in flight on another node
		}
	}
	if len(intents) == 1 { // those that share an entry have neither
		e.lifetime = intents[0].reservation()
		if ref := intents[0].ref(); ref != nil {
			e.secret = ref.canonical()
		}
	}
	if old := x.entries[id]; old != nil {
		e.attempt, e.next, e.reported, e.failure = old.attempt, old.next, old.reported, old.failure
		x.removeLocked(id)
	}
	if x.entries == nil {
		x.entries, x.secrets = make(map[string]*indexedIntent), make(map[string]map[string]bool)
	}
	x.entries[id] = e
	if e.secret != "" {
		if x.secrets[e.secret] == nil {
			x.secrets[e.secret] = make(map[string]bool)
		}
		x.secrets[e.secret][id] = true
	}
}

// remove forgets an entry.
func (x *intentIndex) remove(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(id)
}

func (x *intentIndex) removeLocked(id string) {
	e := x.entries[id]
	if e == nil {
		return
	}
	delete(x.entries, id)
	if ids := x.secrets[e.secret]; ids != nil {
		delete(ids, id)
		if len(ids) == 0 {
			delete(x.secrets, e.secret)
		}
	}
}

// update reads from the log what the index does not have yet, and forgets what is no longer there: entries may have been written by
// an earlier process or on another node, and the outcome of a storage operation may be unknown. One entry that can't be read keeps no
// other from being indexed.
func (x *intentIndex) update(ctx context.Context, s logical.Storage, now time.Time) error {
	unlock, err := x.reading.Lock(ctx, "")
	if err != nil {
		return err
	}
	defer unlock()
	return x.updateLocked(ctx, s, now)
}

// load is update for a process that has not read the whole log yet. It does nothing otherwise.
func (x *intentIndex) load(ctx context.Context, s logical.Storage, now time.Time) error {
	if x.loaded() {
		return nil
	}
	unlock, err := x.reading.Lock(ctx, "")
	if err != nil {
		return err
	}
	defer unlock()
	if x.loaded() {
		return nil
	}
	return x.updateLocked(ctx, s, now)
}

func (x *intentIndex) loaded() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.read
}

func (x *intentIndex) updateLocked(ctx context.Context, s logical.Storage, now time.Time) error {
	x.mu.Lock()
	if x.since.IsZero() || x.since.After(now) {
		x.since = now
	}
	gone := maps.Clone(x.entries) // what is added from now on may be missing in the list
	x.mu.Unlock()
	ids, err := framework.ListWAL(ctx, s)
	if err != nil {
		return fmt.Errorf("read the write-ahead log: %w", err)
	}
	var unknown []string
	for _, id := range ids {
		if _, known := gone[id]; !known {
			unknown = append(unknown, id)
		}
		delete(gone, id)
	}
	x.mu.Lock()
	for id, e := range gone {
		if x.entries[id] == e {
			x.removeLocked(id)
		}
	}
	x.mu.Unlock()
	if err := x.readAll(ctx, s, unknown); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.read = true
	return nil
}

// readAll reads entries and adds them. It returns an error if some could not be read.
func (x *intentIndex) readAll(ctx context.Context, s logical.Storage, ids []string) error {
	var group errgroup.Group // its Wait returns one of the errors, and none of them stops the others
	group.SetLimit(intentReads)
	for _, id := range ids {
		group.Go(func() error {
			intents, err := readIntents(ctx, s, id)
			switch {
			case errors.Is(err, errUnreadableIntent):
				intents = []*intent{{}} // due at once, so that the rollback reports it
			case err != nil || len(intents) == 0:
				return err
			}
			x.add(id, intents...)
			return nil
		})
	}
	return group.Wait()
}

// due returns the ids of the entries that are due, those first that were not tried for the longest time. With young it includes pending
// operations of any age, and with all every entry, records last.
func (x *intentIndex) due(now time.Time, young, all bool) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, e := range x.entries {
		wait := now.Before(e.next) && !now.Before(e.attempt) // else the clock was set back since
		if all || !wait && (e.due.passed(now, x.since) || young && !e.due.record) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		one, other := x.entries[a], x.entries[b]
		if all && one.due.record != other.due.record {
			return map[bool]int{false: -1, true: 1}[one.due.record]
		}
		if c := one.attempt.Compare(other.attempt); c != 0 {
			return c
		}
		return one.due.at.Compare(other.due.at)
	})
	return ids
}

// busy reports whether an operation of the entry is in flight.
func (x *intentIndex) busy(id string, inFlight *sync.Map) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[id]
	return e != nil && e.busy(inFlight)
}

func (e *indexedIntent) busy(inFlight *sync.Map) bool {
	return slices.ContainsFunc(e.nonces, func(nonce string) bool {
		_, busy := inFlight.Load(nonce)
		return busy
	})
}

// startedAt returns when this process began to watch the log, and zero before that.
func (x *intentIndex) startedAt() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.since
}

// attempted records an attempt to undo the entry, and before which time there is no other.
func (x *intentIndex) attempted(id string, now, next time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[id]; e != nil {
		e.attempt, e.next = now, next
	}
}

// report reports whether the reason is a new one for the entry, and remembers it for as long as there is the entry, and the latest failure.
func (x *intentIndex) report(id, reason, failure string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[id]
	if e == nil {
		return true
	}
	e.failure = failure
	if e.reported == nil {
		e.reported = make(map[string]bool)
	}
	seen := e.reported[reason]
	e.reported[reason] = true
	return !seen
}

// of returns the ids of the entries of the secret, without those of operations that are in flight.
func (x *intentIndex) of(ref secretRef, inFlight *sync.Map) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id := range x.secrets[ref.canonical()] {
		if !x.entries[id].busy(inFlight) {
			ids = append(ids, id)
		}
	}
	return ids
}

// nonces returns the nonces of all entries.
func (x *intentIndex) nonces() map[string]bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make(map[string]bool, len(x.entries))
	for _, e := range x.entries {
		for _, nonce := range e.nonces {
			all[nonce] = true
		}
	}
	return all
}

// reservations returns the lifetimes that pending operations asked for.
func (x *intentIndex) reservations() []reservation {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []reservation
	for _, e := range x.entries {
		if e.lifetime.lifetime > 0 {
			all = append(all, e.lifetime)
		}
	}
	return all
}

// backlog is what is left to undo, of entries that are due.
type backlog struct {
	failing int       // entries of which something could not be undone
	failure string    // why, of the one that is due for the longest time
	oldest  time.Time // when that was due
	late    int       // other entries that are due for longer than undoLate
	records int       // leases with a record, whether due or not
}

// undoLate is how long after its time an entry that was not undone shows that the rollback does not keep up, or does not run.
const undoLate = 15 * time.Minute

// backlog returns what is left to undo, and false until the log was read on this node.
func (x *intentIndex) backlog(now time.Time) (backlog, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var left backlog
	for _, e := range x.entries {
		if e.due.record {
			left.records++
		}
		switch {
		case !e.due.passed(now, x.since):
		case e.failure != "":
			left.failing++
			if left.oldest.IsZero() || e.due.at.Before(left.oldest) {
				left.oldest, left.failure = e.due.at, e.failure
			}
		case e.due.passed(now.Add(-undoLate), x.since):
			left.late++
		}
	}
	return left, x.read
}

// records returns the ids of the records of leases.
func (x *intentIndex) records() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, e := range x.entries {
		if e.due.record {
			ids = append(ids, id)
		}
	}
	return ids
}
