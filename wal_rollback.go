// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/logical"
)

// rollbackBudget limits one pass of the rollback. While a call of Vault is in progress, a plugin process that dies keeps its mounts shut
// until the repeated call has ended.
const rollbackBudget = 15 * time.Second

// rollback undoes the operations that were not committed, and what leases left that Vault has lost. Vault calls it about once a minute. It
// reads only the entries of the log that are due. What fails is reported once, and tried again by the next calls.
func (b *backend) rollback(ctx context.Context, req *logical.Request) error {
	if !b.mayWrite() {
		return nil // the active node does
	}
	if b.splitBrain.Load() != nil {
		return nil // which was reported
	}
	start := time.Now()
	// A mount that is being disabled loses its log, so that this is the last chance for all entries, whatever their age.
	last := b.System().Tainted()
	if !last {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rollbackBudget)
		defer cancel()
	}
	errs := []error{b.intents.update(ctx, req.Storage, b.now())}
	_, immediate := req.Data["immediate"] // the framework's word for not waiting until a pending operation has a certain age
	ids := b.intents.due(b.now(), immediate, last)
	p := newPass(b)
	for i, id := range ids {
		if ctx.Err() != nil {
			b.Logger().Info("not all entries of the write-ahead log could be rolled back at once; the next call goes on", "left", len(ids)-i, "of", len(ids), "took", time.Since(start).Round(time.Millisecond).String())
			break
		}
		errs = append(errs, b.safely("rollback", func() error { return b.rollbackEntry(ctx, req, p, id) }))
	}
	return errors.Join(errs...)
}

// errNotDue says that the lease of a record has not ended for long enough.
var errNotDue = errors.New("the lease has not ended")

// rollbackEntry undoes the operations of an entry, and deletes the entry. After an error the entry stays, with what is left to undo.
func (b *backend) rollbackEntry(ctx context.Context, req *logical.Request, p *pass, id string) error {
	// In this order: an operation that ends between the two has committed what is read then.
	busy := b.shared.inUse(id) || b.intents.busy(id, &b.inFlight)
	intents, err := readIntents(ctx, req.Storage, id)
	now := b.now()
	switch {
	case errors.Is(err, errUnreadableIntent):
		b.intents.attempted(id, now, now.Add(intentRetry))
		b.reportOnce(id, &intent{}, err)
		return err
	case err != nil:
		return err
	case len(intents) == 0:
		b.intents.remove(id)
		return nil
	case busy || slices.ContainsFunc(intents, func(in *intent) bool { return b.isInFlight(in.Nonce) }):
		return errors.New("the request that wrote an entry is still in progress")
	}
	_, immediate := req.Data["immediate"]
	young := func(in *intent) bool {
		return !in.dueTime().passed(now, b.intents.startedAt()) && !(immediate && in.Until.IsZero())
	}
	if slices.ContainsFunc(intents, young) && !b.System().Tainted() {
		// It was renewed, or committed a moment ago, or written again since it was indexed, by another process.
		b.intents.put(id, intents...)
		return nil
	}
	if len(intents) > 1 {
		return b.rollbackShared(ctx, req, p, id, intents)
	}
	in := intents[0]
	b.attempt(id, in.dueTime().at)
	err = b.rollbackOne(ctx, req, p, id, in)
	if errors.Is(err, errNotDue) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.endEntry(ctx, req.Storage, id, in)
}

// attempt records that an entry is tried, which was due at that time.
func (b *backend) attempt(id string, due time.Time) {
	now := b.now()
	var next time.Time
	if now.Sub(due) > intentLife {
		next = now.Add(intentRetry)
	}
	b.intents.attempted(id, now, next)
}

// rollbackShared is rollbackEntry for an entry with the intents of several operations, none of which is in flight. What could not be undone
// of one keeps no other from being undone.
func (b *backend) rollbackShared(ctx context.Context, req *logical.Request, p *pass, id string, intents []*intent) error {
	latest := slices.MaxFunc(intents, func(a, b *intent) int { return a.dueTime().at.Compare(b.dueTime().at) })
	b.attempt(id, latest.dueTime().at)
	var errs []error
	var left []*sharedIntent
	for _, in := range intents {
		err := ctx.Err() // what has come too late for this pass is left
		if err == nil {
			err = b.safely("rollback", func() error { return b.rollbackOne(ctx, req, p, id, in) })
		}
		if err == nil {
			continue
		}
		errs = append(errs, err)
		text, err := json.Marshal(in)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		left = append(left, &sharedIntent{intent: in, text: text})
	}
	if len(left) < len(intents) {
		// The time of the pass may be over by now, which must not lose what was done in it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
		defer cancel()
		errs = append(errs, b.putShared(ctx, req.Storage, id, left))
	}
	return errors.Join(errs...)
}

// rollbackOne undoes one operation. It returns nil when nothing is left to undo of it, or when it gives up.
func (b *backend) rollbackOne(ctx context.Context, req *logical.Request, p *pass, id string, in *intent) error {
	p.look(in)
	over, err := p.isOver(ctx, req.Storage, in)
	if err == nil && (!over || !in.endsByItself()) {
		err = b.rollbackIntent(ctx, req, p, id, in, over)
	}
	if err == nil || errors.Is(err, errNotDue) {
		return err
	}
	if over && !in.lasts() {
		b.reportOnce(id, in, fmt.Errorf("the rollback gives up: %w", err))
		return nil
	}
	if ctx.Err() == nil { // else the entry has only come too late for this pass
		b.reportOnce(id, in, err) // Vault logs no errors of rollbacks
	}
	return fmt.Errorf("roll back an entry of the write-ahead log: %w", err)
}

// isInFlight reports whether a request of this process is at work on the operation with the nonce.
func (b *backend) isInFlight(nonce string) bool {
	_, busy := b.inFlight.Load(nonce)
	return busy
}

// endEntry deletes an entry whose operation was undone. The record of a lease that was renewed meanwhile stays.
func (b *backend) endEntry(ctx context.Context, s logical.Storage, id string, in *intent) error {
	if !in.Until.IsZero() {
		unlock, err := b.recordLocks.Lock(ctx, id)
		if err != nil {
			return err
		}
		defer unlock()
		record, err := readIntent(ctx, s, id)
		if err != nil || record != nil && record.Until.After(in.Until) {
			return err
		}
	}
	return b.deleteIntent(ctx, s, id)
}

// rollbackIntent undoes what is left of the intent. What can't be undone of one part keeps no other from being undone. It can be
// repeated after a failure at any point. over says that a credential has ended by itself.
func (b *backend) rollbackIntent(ctx context.Context, req *logical.Request, p *pass, id string, in *intent, over bool) error {
	conn, err := b.endingConnection(ctx, req.Storage)
	if err != nil {
		return err
	}
	access, err := p.accessTo(ctx, conn, in.origin)
	if err != nil {
		return err
	}
	if access == credential.AccessNone {
		return fmt.Errorf("it was done at %s, but the mount is now connected to another workspace, %s", in.Host, conn.config.Host)
	}
	if !in.Until.IsZero() && !b.System().Tainted() {
		if err := p.leaseEnded(ctx, conn, in); err != nil {
			return err
		}
	}
	var errs []error
	undone := false
	if in.Credential != nil {
		errs = append(errs, b.rollbackCredential(ctx, req, p, conn, access, in, over))
	}
	if ref := in.ref(); ref != nil {
		removed, err := b.rollbackSecret(ctx, req.Storage, p, conn, id, *ref)
		undone, errs = undone || removed, append(errs, err)
	}
	if in.Grant != nil {
		ended, err := b.endACLLease(ctx, req.Storage, conn, in.origin, *in.Grant)
		undone, errs = undone || ended, append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || in.Until.IsZero() || !undone {
		return err
	}
	b.Logger().Warn("a lease has ended without a revocation, so what it left was undone", append(in.fields(), "lease_end", rfc3339(in.Until))...)
	if in.Grant != nil {
		b.event("lease-rollback", req.Path, "scope", in.Grant.Scope, "principal", in.Grant.Principal)
	} else {
		b.event("lease-rollback", req.Path, in.Written.names()...)
	}
	return nil
}

// rollbackCredential removes the credential of an operation that was not completed, or a duplicate of it.
func (b *backend) rollbackCredential(ctx context.Context, req *logical.Request, p *pass, conn *connection, access credential.Access, in *intent, over bool) error {
	kind := credential.Lookup(in.Credential.Type)
	if kind == nil {
		return fmt.Errorf("unknown credential type %q; was the entry written by a newer version of the plugin?", in.Credential.Type)
	}
	if over && !kind.Traits().Lasting {
		return nil
	}
	lost, err := p.lostCredential(ctx, req.Storage, conn, in)
	if err != nil {
		return err
	}
	removed, err := kind.Undo(ctx, conn, access, p, lost)
	for _, id := range removed {
		b.Logger().Warn("removed a credential whose creation was not completed", append(in.fields(), "id", id)...)
		b.event("creds-rollback", req.Path, "credential_type", in.Credential.Type, "id", id)
	}
	// A stored credential is long-lived, and the leases that it can't be distinguished from may end earlier, so retrying can help.
	if errors.Is(err, credential.ErrAmbiguous) && in.OwnerKey == "" {
		b.Logger().Error("a credential whose creation was not completed may be left", append(in.fields(), "error", err)...)
		return nil
	}
	return err
}

// rollbackSecret deletes a secret whose write was not completed, or whose lease was lost, unless it was written since. The entry is read
// again under the secret's lock: a later write through this mount has taken the secret out of it. It reports whether there was something to
// delete.
func (b *backend) rollbackSecret(ctx context.Context, s logical.Storage, p *pass, conn *connection, id string, ref secretRef) (removed bool, err error) {
	unlock, err := b.secretLocks.Lock(ctx, ref.canonical())
	if err != nil {
		return false, err
	}
	defer unlock()
	in, err := readIntent(ctx, s, id)
	if err != nil || in == nil || in.ref() == nil {
		return false, err
	}
	seen, err := p.lookAt(ctx, conn, ref)
	if err != nil {
		return false, err
	}
	switch {
	case seen == nil:
		return false, nil
	case in.Written != nil:
		return in.Written.isSeen(seen), b.removeSeen(ctx, conn, in.Written, seen)
	case seen.updated.IsZero():
		return false, errNoTimestamp(ref)
	case seen.updated.Equal(in.Secret.Before):
		return false, nil
	case in.Secret.unproven(seen):
		b.leaveSecret(in.Secret, true)
		return false, nil
	}
	put, err := conn.writeWindow(p.b.now(), in.Started, in.StartedRemote)
	if err != nil {
		return false, err
	}
	if !in.Secret.matches(seen, put) {
		b.leaveSecret(in.Secret, false)
		return false, nil
	}
	return true, b.removeSeen(ctx, conn, ref.writtenAs(seen), seen)
}

// reportOnce logs at error level, once per entry of the log and reason, what could not be undone, so that an operator can remove it if the
// reason stays.
func (b *backend) reportOnce(id string, in *intent, why error) {
	if !b.intents.report(id, in.Nonce+" "+reasonOf(why), why.Error()) {
		return
	}
	advice := "it is tried again until it succeeds"
	if !in.lasts() && !in.Expires.IsZero() {
		advice = "it is tried again until " + rfc3339(in.Expires) + ", then remove it manually"
	}
	b.Logger().Error("something may be left at Databricks that could not be undone yet: a credential bears the nonce in its comment, a secret or permission is named here; "+advice,
		append(in.fields(), "error", why)...)
}
