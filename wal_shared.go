// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// A mint costs two writes of the log, one before the create and one after it, and each is a round trip to Vault. Mints that are in flight
// together share them (group commit): an entry holds the intents of several operations, and while a write of it is in progress, the operations
// that begin or commit gather for the next one. A write always holds all that are pending, so that the entry is right after each. A lone mint
// waits for nobody, and its entry is the same as if it were not shared.
//
// What keeps this safe:
//   - There is one write of an entry at a time, so that none can overtake another.
//   - After a write whose outcome isn't known the entry is never written again, since the write may yet come into force after a later one. All its
//     operations fail and are undone, and new ones use another entry.
//   - An operation that leaves its intent for the rollback closes the entry: no other joins it, and it belongs to the rollback as soon as
//     the operations in it that are in flight have ended. The rollback never touches it before.
//
// The price is that a write which fails makes the operations of its entry fail, where it made one fail.

const (
	// sharedKind is the kind of entries with the intents of several operations. v0.1.0 does not know it, and leaves them: what their
	// operations made ends by itself.
	sharedKind = "intents"

	// maxSharing limits how many operations share an entry. Their intents take less than 1 KiB each, and no storage of Vault's refuses values
	// of 100 KiB.
	maxSharing = 100

	// sharedPatience is for how long a write may be in progress before new operations begin another entry.
	sharedPatience = 500 * time.Millisecond
)

// sharedLog has the shared entries of this process. It is safe for concurrent use; mu is not held over storage operations.
type sharedLog struct {
	mu      sync.Mutex
	open    []*sharedEntry          // those that operations may join; the first that can take one does
	entries map[string]*sharedEntry // by id: the open ones, and closed ones that have operations in flight

	patience time.Duration // sharedPatience; tests that hold up a write have more
}

// sharedEntry is an entry of the log that several operations share. Its fields are protected by sharedLog.mu.
type sharedEntry struct {
	id       string
	members  map[string]*sharedIntent // by nonce: what the next write holds, without what is leaving
	inFlight int                      // operations that have begun and not ended
	next     *sharedWrite             // gathers operations until it begins; nil while nobody needs a write
	last     *sharedWrite             // the one that began last
	err      error                    // of the first write that failed, after which there is no other
	closed   bool                     // takes no more operations
}

// sharedIntent is the intent of one operation.
type sharedIntent struct {
	intent  *intent
	text    json.RawMessage
	leaving bool // from the next write on it isn't in the entry; if that fails, there is none
}

// sharedWrite is one write of an entry, made by the request that joined first.
type sharedWrite struct {
	previous *sharedWrite
	began    time.Time
	done     chan struct{} // closed when it is over
	err      error         // valid then
}

// shares reports whether the operation may share its entry: what it leaves bears the nonce and ends by itself, and nothing but the operation
// and the rollback looks for its entry.
func (in *intent) shares() bool {
	return in.OwnerKey == "" && in.Credential != nil && in.Credential.ServicePrincipalID == "" && in.endsByItself()
}

// beginShared writes the intent into a shared entry. After an error no entry of this process holds it any more, though one in the log may, by
// which a rollback will find nothing to undo.
func (b *backend) beginShared(ctx context.Context, s logical.Storage, in *intent) (*sharedEntry, error) {
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	l := &b.shared
	l.mu.Lock()
	e := l.pick(b.newNonce)
	e.members[in.Nonce] = &sharedIntent{intent: in, text: text}
	e.inFlight++
	w, first := e.join()
	l.mu.Unlock()
	begun := false
	defer func() {
		if !begun { // after a panic, too
			l.mu.Lock()
			delete(e.members, in.Nonce)
			l.mu.Unlock()
			l.end(e, in.Nonce)
		}
	}()
	if err := b.writeShared(ctx, s, e, w, first); err != nil {
		return nil, err
	}
	begun = true
	return e, nil
}

// pick returns the entry for a new operation.
func (l *sharedLog) pick(newID func() string) *sharedEntry {
	for _, e := range l.open {
		if len(e.members) < maxSharing && !e.stuck(l.patience) {
			return e
		}
	}
	e := &sharedEntry{id: newID(), members: make(map[string]*sharedIntent)}
	if l.entries == nil {
		l.entries = make(map[string]*sharedEntry)
	}
	l.open, l.entries[e.id] = append(l.open, e), e
	return e
}

// stuck reports whether the write that began last has been in progress for longer than the patience.
func (e *sharedEntry) stuck(patience time.Duration) bool {
	return e.last != nil && !e.last.over() && time.Since(e.last.began) > patience
}

func (w *sharedWrite) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// close keeps others from joining the entry.
func (l *sharedLog) close(e *sharedEntry) {
	if !e.closed {
		e.closed = true
		l.open = slices.DeleteFunc(l.open, func(other *sharedEntry) bool { return other == e })
	}
}

// join returns the next write of the entry. first says that the caller has to make it, by writeShared.
func (e *sharedEntry) join() (w *sharedWrite, first bool) {
	if e.next == nil {
		e.next = &sharedWrite{previous: e.last, done: make(chan struct{})}
		return e.next, true
	}
	return e.next, false
}

// removeShared takes the intent out of the entry, so that a lease may hold what it was about. After an error the log may hold it or not.
func (b *backend) removeShared(ctx context.Context, s logical.Storage, e *sharedEntry, nonce string) error {
	l := &b.shared
	l.mu.Lock()
	member := e.members[nonce]
	if member == nil {
		l.mu.Unlock()
		return nil
	}
	member.leaving = true
	w, first := e.join()
	l.mu.Unlock()
	err := b.writeShared(ctx, s, e, w, first)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(e.members, nonce)
	}
	return err
}

// discardShared takes the intent of an operation that left nothing at Databricks out of the entry.
func (b *backend) discardShared(ctx context.Context, s logical.Storage, e *sharedEntry, nonce string) error {
	l := &b.shared
	l.mu.Lock()
	failed := e.err != nil
	if failed {
		delete(e.members, nonce)
	}
	l.mu.Unlock()
	if failed {
		return nil // see endShared
	}
	return b.removeShared(ctx, s, e, nonce)
}

// endShared ends an operation. If its intent is still in the entry, it is left for the rollback.
func (b *backend) endShared(ctx context.Context, s logical.Storage, e *sharedEntry, nonce string) {
	if !b.shared.end(e, nonce) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if err := b.deleteIntent(ctx, s, e.id); err != nil {
		b.Logger().Warn("an entry of the write-ahead log was left behind; the rollback will find nothing to undo", "error", err)
	}
}

// end says that the operation is over. useless reports that it was the last one of an entry that is not written any more and has nothing
// for the rollback, whichever of its writes came into force.
func (l *sharedLog) end(e *sharedEntry, nonce string) (useless bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.inFlight--
	if e.members[nonce] != nil || !e.closed && e.inFlight == 0 && e != l.open[0] { // further entries are for many operations at once
		l.close(e)
	}
	if !e.closed || e.inFlight > 0 {
		return false
	}
	delete(l.entries, e.id)
	return e.err != nil && len(e.members) == 0
}

// othersShare reports whether the entry has the intent, and operations in flight besides its own.
func (l *sharedLog) othersShare(e *sharedEntry, nonce string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.members[nonce] != nil && e.inFlight > 1
}

// inUse reports whether operations of this process share the entry, or may begin to.
func (l *sharedLog) inUse(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[id] != nil
}

// fail says that the content of the entry in the log isn't known any more.
func (l *sharedLog) fail(e *sharedEntry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
	l.close(e)
}

// writeShared makes the write if the caller is the first of it, and else waits for it.
func (b *backend) writeShared(ctx context.Context, s logical.Storage, e *sharedEntry, w *sharedWrite, first bool) error {
	if !first {
		select {
		case <-w.done:
			return w.err
		case <-ctx.Done():
			b.shared.fail(e, ctx.Err())
			return ctx.Err()
		}
	}
	w.err = errors.New("the write was interrupted") // unless it comes to its end
	defer func() {
		if w.err != nil {
			b.shared.fail(e, w.err)
		}
		w.previous = nil
		close(w.done)
	}()
	w.err = b.writeNext(ctx, s, e, w)
	return w.err
}

// writeNext writes what the entry is to hold as soon as the write before it is over.
func (b *backend) writeNext(ctx context.Context, s logical.Storage, e *sharedEntry, w *sharedWrite) error {
	var late error
	if w.previous != nil {
		select {
		case <-w.previous.done:
		case <-ctx.Done():
			late = ctx.Err()
		}
	}
	l := &b.shared
	l.mu.Lock()
	e.next, e.last, w.began = nil, w, time.Now() // who comes from now on needs another write
	if late == nil {
		late = e.err
	}
	pending := make([]*sharedIntent, 0, len(e.members))
	for _, member := range e.members {
		if !member.leaving {
			pending = append(pending, member)
		}
	}
	l.mu.Unlock()
	if late != nil {
		return late
	}
	return b.putShared(ctx, s, e.id, pending)
}

// putShared makes the entry hold the intents, or deletes it when there are none.
func (b *backend) putShared(ctx context.Context, s logical.Storage, id string, pending []*sharedIntent) error {
	if len(pending) == 0 {
		return b.deleteIntent(ctx, s, id)
	}
	intents, texts := make([]*intent, len(pending)), make([]json.RawMessage, len(pending))
	for i, member := range pending {
		intents[i], texts[i] = member.intent, member.text
	}
	entry := &framework.WALEntry{Kind: sharedKind, Data: texts, CreatedAt: b.now().UTC().Unix()}
	if len(pending) == 1 {
		entry.Kind, entry.Data = walKind, texts[0]
	}
	return b.putEntry(ctx, s, id, entry, intents...)
}
