// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

const (
	walKind = "intent"

	// ucKind is the kind of pending writes to Unity Catalog without a credential. v0.1.0, which may run on another node, would look for them in
	// a scope without a name, find none, and delete the entry. It doesn't know the kind: it logs an error, and keeps the entry.
	ucKind = "uc-intent"

	// recordKind is the kind of entries that record a lease. It differs from walKind so that v0.1.0 does not undo them.
	recordKind = "lease"

	// walMinAge is how old a pending operation must be before a rollback touches it: more than the longest operation takes, so that
	// no rollback undoes one that is in flight on another node. Vault rolls back about once a minute, so what was orphaned is
	// removed within about 4 minutes.
	walMinAge = 2 * time.Minute

	// mintBudget is how long an operation takes at most to do what it does, even after its caller is gone.
	mintBudget = client.CallBudget + 10*time.Second

	// undoBudget limits the end of an operation: its commit, or its immediate undo.
	undoBudget = 25 * time.Second

	// intentLife is how long a rollback tries to undo what tidy would remove later, and after how long it tries to undo anything else
	// only once every intentRetry.
	intentLife  = 24 * time.Hour
	intentRetry = time.Hour
)

// An operation, its commit and its undoing end before a rollback on another node would undo it.
const _ = uint(walMinAge - mintBudget - 2*undoBudget)

// pendingOperation is something that is being done at Databricks. Between begin and release it has an entry in the write-ahead log,
// by which a rollback undoes it if the process dies.
type pendingOperation struct {
	b       *backend
	storage logical.Storage
	id      string       // of an entry of its own
	shared  *sharedEntry // the entry that it shares, nil for one of its own
	intent  intent       // as a rollback is to find it if the operation fails

	// undo is set as soon as it is known what was done. It is called at most once.
	undo func(ctx context.Context) error

	// uncertain is set when it isn't known what was done, or may be done yet, so that only the rollback can tell, later.
	uncertain bool

	// duplicate is set where other objects may bear the nonce, which the rollback removes, and keep is the id that it must keep then.
	duplicate bool
	keep      string

	// record is what the commit leaves in the log under recordID, nil for nothing: the record of a lease of the given ttl.
	record   *intent
	recordID string
	ttl      time.Duration
	conn     *connection

	released bool
}

// perform carries an operation from the write-ahead log to what holds its outcome, a lease or, where the intent has an owner key, a
// storage entry. It alone owns the order of steps that crash safety depends on:
//
//  1. begin: the intent is in the log before anything is done at Databricks;
//  2. do: creates and delivers, sets op.undo to what reverts that, and makes the answer, so that nothing is left to do between
//     commit and release. For a storage entry, saving it is the last step;
//  3. commit: the entry is deleted from the log, or becomes the record of the lease, or stays only for a duplicate;
//  4. release: the lease is returned to the caller, if that is still connected. Only then has the event of the operation happened, so
//     the caller of perform sends it once that has returned nil: that takes no time and can't fail.
//
// However else it ends, by an error, a panic or because the caller is gone, what is known to have been done is undone at once, and
// what is not, or can't be undone now, is left in the log for the rollback. The context of do ends after mintBudget and
// not with the caller's, so that no cancellation separates a create from its record.
func (b *backend) perform(ctx context.Context, s logical.Storage, in intent, do func(ctx context.Context, op *pendingOperation) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
	defer cancel()
	op, err := b.begin(lasting, s, in)
	if err != nil {
		return err
	}
	defer op.end(lasting)
	err = do(lasting, op)
	op.intent.Ended = b.now().UTC()
	if err != nil {
		switch {
		case op.uncertain || op.undo != nil:
		case credential.NotApplied(err):
			op.discard(lasting)
		default:
			op.noteFailure(lasting)
		}
		return err
	}
	if in.OwnerKey != "" {
		op.released = true
		if !op.duplicate { // else the rollback looks for the duplicate, and keeps what the storage entry holds
			op.discard(lasting)
		}
		return nil
	}
	if err := op.commit(lasting); err != nil {
		return fmt.Errorf("%s but could not be recorded, so it is undone; try again: %w", in.what(), err)
	}
	// If the caller has disconnected, nobody would receive the lease, so the deferred end undoes the operation.
	if err := ctx.Err(); err != nil {
		return err
	}
	op.released = true
	return nil
}

// begin writes the intent to the log, into an entry of its own or a shared one.
func (b *backend) begin(ctx context.Context, s logical.Storage, in intent) (op *pendingOperation, err error) {
	b.inFlight.Store(in.Nonce, true)
	defer func() {
		if op == nil { // after a panic, too
			b.inFlight.Delete(in.Nonce)
		}
	}()
	begun := &pendingOperation{b: b, storage: s, id: b.newNonce(), intent: in}
	if in.shares() {
		begun.shared, err = b.beginShared(ctx, s, &in)
	} else {
		err = b.putIntent(ctx, s, begun.id, &in)
	}
	if err != nil {
		return nil, err
	}
	return begun, nil
}

// keepRecord makes the commit leave a record of the lease, with its ttl and either a secret or a permission, and returns the record's
// id. The record takes the place of the entry, so that it costs no further write, unless a duplicate needs that.
func (op *pendingOperation) keepRecord(conn *connection, ttl time.Duration, written *writtenSecret, grant *aclLeaseID) (id string) {
	op.recordID = op.id
	if op.duplicate {
		op.recordID = op.b.newNonce()
	}
	op.ttl, op.conn = ttl, conn
	op.record = &intent{origin: op.intent.origin, Nonce: op.intent.Nonce, Started: op.intent.Started, Written: written, Grant: grant, Delivered: op.intent.Credential != nil}
	return op.recordID
}

// commit says that a lease will hold what was done. Where there may be a duplicate, the entry is replaced in one write by one that
// keeps the lease's, so that no crash can leave one by which a rollback removes it. It has its own timeout, so that a slow create isn't
// undone for lack of time.
func (op *pendingOperation) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if op.record != nil {
		op.record.setUntil(op.b.now().Add(op.ttl), op.b.now(), op.conn)
		if err := op.b.putIntent(ctx, op.storage, op.recordID, op.record); err != nil {
			return err
		}
	}
	switch {
	case op.duplicate:
		kept := op.intent
		created := *kept.Credential
		created.KeepID = op.keep
		kept.Credential, kept.Secret = &created, nil
		if err := op.b.putIntent(ctx, op.storage, op.id, &kept); err != nil || op.shared == nil {
			return err
		}
		return op.remove(ctx)
	case op.record != nil:
		return nil
	default:
		return op.remove(ctx)
	}
}

// remove takes the intent out of the log.
func (op *pendingOperation) remove(ctx context.Context) error {
	if op.shared != nil {
		return op.b.removeShared(ctx, op.storage, op.shared, op.intent.Nonce)
	}
	return op.b.deleteIntent(ctx, op.storage, op.id)
}

// noteFailure adds to the entry when the operation failed, if what it left can be identified by its time only: nothing that was
// created later is its.
func (op *pendingOperation) noteFailure(ctx context.Context) {
	if op.intent.reservation().lifetime == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if err := op.b.putIntent(ctx, op.storage, op.id, &op.intent); err != nil {
		op.b.Logger().Warn("the time of a failure could not be added to the write-ahead log", append(op.intent.fields(), "error", err)...)
	}
}

// discard takes an intent by which a rollback would find nothing to undo out of the log, so that a failure to do so is not an error. It has
// its own timeout: the operation's time may be over, which must not make a write fail that other operations share.
func (op *pendingOperation) discard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	op.discardWithin(ctx)
}

func (op *pendingOperation) discardWithin(ctx context.Context) {
	remove := op.remove
	if op.shared != nil {
		remove = func(ctx context.Context) error {
			return op.b.discardShared(ctx, op.storage, op.shared, op.intent.Nonce)
		}
	}
	if err := remove(ctx); err != nil {
		op.b.Logger().Warn("an entry of the write-ahead log was left behind; the rollback will find nothing to undo", "error", err)
	}
}

// leave leaves the intent to the rollback. If others share the entry, it gets one of its own, so that the rollback need not wait for them. If
// that fails, it stays where it is.
func (op *pendingOperation) leave(ctx context.Context) {
	if op.shared == nil || !op.b.shared.othersShare(op.shared, op.intent.Nonce) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if err := op.b.putIntent(ctx, op.storage, op.id, &op.intent); err != nil {
		op.b.Logger().Warn("the rollback of an operation waits for others in its entry of the write-ahead log", append(op.intent.fields(), "error", err)...)
		return
	}
	op.discardWithin(ctx)
}

// end undoes what is known to have been done, unless that was released. It must be deferred, so that it runs after a panic,
// too.
func (op *pendingOperation) end(ctx context.Context) {
	defer op.b.inFlight.Delete(op.intent.Nonce)
	if op.shared != nil {
		defer op.b.endShared(ctx, op.storage, op.shared, op.intent.Nonce)
	}
	if op.released {
		return
	}
	if op.uncertain || op.undo == nil {
		op.leave(ctx)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	err := op.undo(ctx)
	if op.record != nil && op.recordID != op.id {
		op.b.closeRecord(ctx, op.storage, op.recordID)
	}
	if err == nil && !op.duplicate {
		op.discardWithin(ctx)
		return
	}
	left := op.intent
	if err == nil {
		left.Secret = nil // it was removed by undo, and only a duplicate of the credential may be left
	}
	// The entry may have been deleted, or changed to keep a credential that was not released.
	if putErr := op.b.putIntent(ctx, op.storage, op.id, &left); putErr != nil {
		op.b.reportOnce(op.id, &left, errors.Join(err, putErr))
		return
	}
	if op.shared != nil {
		op.discardWithin(ctx) // the operation has an entry of its own now
	}
	if err != nil {
		op.b.Logger().Warn("what a failed request did at Databricks could not be undone immediately; the rollback will", append(op.intent.fields(), "error", err)...)
	}
}
