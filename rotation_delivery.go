// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// storedCopy is a copy of a credential in a secret scope. It is stored before the secret is written.
type storedCopy struct {
	secretIntent
	Nonce   string    `json:"nonce"`   // of the credential
	Started time.Time `json:"started"` // by Vault's clock

	// StartedRemote is Started by Databricks' clock, zero where its offset was not known.
	StartedRemote time.Time `json:"started_remote,omitzero"`

	Updated time.Time `json:"updated,omitzero"` // as Databricks says; zero while it isn't certain that it was written

	// UpdatedBy and Metastore are set with Updated, as in writtenSecret.
	UpdatedBy string `json:"updated_by,omitempty"`
	Metastore string `json:"metastore_id,omitempty"`

	// Made is where the credential was made, and so the copy; zero for copies of v0.1.0.
	Made origin `json:"made,omitzero"`
}

// madeAt returns where the copy is, zero where that isn't known.
func (e *staticEntry) madeAt(c *storedCopy) origin {
	if c.Made != (origin{}) {
		return c.Made
	}
	for _, k := range e.State.all() {
		if k.Nonce == c.Nonce {
			return k.origin
		}
	}
	return origin{}
}

// matches reports whether what is seen, nil for nothing, can be what the delivery stored. It fails with a clockError where that isn't certain.
func (c *storedCopy) matches(conn *connection, now time.Time, seen *seenSecret) (bool, error) {
	put, err := conn.writeWindow(now, c.Started, c.StartedRemote)
	if err != nil || seen == nil {
		return false, err
	}
	return c.secretIntent.matches(seen, put), nil
}

// deliveredAt reports whether the copy is, or may be, where the role delivers to: a config that leads elsewhere has another place of that
// name.
func (e *staticEntry) deliveredAt(c *storedCopy) bool {
	ref, made := e.delivery(), e.madeAt(c)
	return ref != nil && ref.canonical() == c.canonical() && (made == origin{} || made.sameWorkspace(e.State.Current.origin))
}

// undelivered reports whether the current credential is still to be delivered.
func (e *staticEntry) undelivered() bool {
	return e.delivery() != nil && !slices.ContainsFunc(e.State.Copies, func(c storedCopy) bool {
		return e.deliveredAt(&c) && c.Nonce == e.State.Current.Nonce && !c.Updated.IsZero()
	})
}

// staleCopies reports whether there are copies where the role no longer delivers to.
func (e *staticEntry) staleCopies() bool {
	return slices.ContainsFunc(e.State.Copies, func(c storedCopy) bool { return !e.deliveredAt(&c) })
}

// pinned reports whether a retired credential must stay because it is the one that is delivered: its consumers can't have read the
// new one yet.
func (e *staticEntry) pinned(old *retired) bool {
	return e.undelivered() && slices.ContainsFunc(e.State.Copies, func(c storedCopy) bool { return c.Nonce == old.Nonce })
}

// alive reports whether the role has the credential with the nonce, and it has not ended.
func (e *staticEntry) alive(nonce string, ended func(end time.Time) bool) bool {
	return slices.ContainsFunc(e.State.all(), func(k storedCredential) bool { return k.Nonce == nonce && !ended(k.Expires) })
}

// deliver writes the secret part of the current credential to where the role delivers to, over whatever is there. The copy is
// stored before, so that it is known after a crash.
func (i *staticItem) deliver(ctx context.Context, e *staticEntry) error {
	b, conn := i.b, i.conn
	if err := conn.delivers(*e.delivery()); err != nil {
		return err
	}
	// A credential goes nowhere but to where it was made, whatever the config leads to now.
	access, err := conn.accessTo(ctx, e.State.Current.origin)
	if err != nil {
		return err
	}
	if access == credential.AccessNone {
		return fmt.Errorf("the current credential is of %s, to which this mount is no longer connected; rotate-role makes one where it is, which is then delivered", e.State.Current.origin.describe())
	}
	ref := *e.delivery()
	unlock, err := b.lockForWrite(ctx, i.req.Storage, ref)
	if err != nil {
		return err
	}
	defer unlock()
	write := secretIntent{secretRef: ref}
	before, err := b.prepareWrite(ctx, i.req.Storage, conn, &write)
	if err != nil {
		return err
	}
	// A copy that is no longer there can be forgotten, and so can an earlier write whose outcome is unknown, when it is certain that what is
	// there now can't be it.
	earlier := slices.DeleteFunc(slices.Clone(e.State.Copies), func(c storedCopy) bool {
		if !c.Updated.IsZero() {
			return e.deliveredAt(&c) && before == nil
		}
		possibly, err := c.matches(conn, b.now(), before)
		return e.deliveredAt(&c) && err == nil && !possibly
	})
	put := storedCopy{secretIntent: write, Nonce: e.State.Current.Nonce, Started: b.now().UTC(), Made: e.State.Current.origin}
	put.StartedRemote = conn.remote(put.Started, b.now())
	e.State.Copies = append(slices.Clone(earlier), put)
	if err := b.saveStatic(ctx, i.req.Storage, i.name, e); err != nil {
		return err
	}
	known := mayExist
	if before == nil {
		known = wasAbsent
	}
	stored, err := (secretValue{text: e.State.Secret}).put(ctx, conn, ref, known)
	if err != nil {
		if credential.NotApplied(err) {
			e.State.Copies = earlier
			return err
		}
		put.Contested = ref.UC != "" && client.IsTurnedAway(err)
		e.State.Copies[len(earlier)] = put
		seen, lookErr := lookAtValue(ctx, conn, ref)
		changed := seen != nil && !seen.updated.Equal(write.Before)
		unproven := changed && put.unproven(seen)
		written := changed && !unproven && put.stored(seen, e.State.Secret)
		if lookErr == nil && !written && !unproven && hasResponse(err) {
			e.State.Copies = earlier
		}
		if lookErr != nil || !written {
			return err
		}
		// It was written all the same.
	}
	// It has replaced any earlier copy there.
	e.State.Copies = append(slices.DeleteFunc(slices.Clone(earlier), func(c storedCopy) bool { return e.deliveredAt(&c) }), put)
	written, err := confirmWrite(ctx, conn, &put.secretIntent, stored)
	if err == nil {
		err = b.supersede(context.WithoutCancel(ctx), i.req.Storage, conn, ref)
	}
	if err != nil {
		return err
	}
	done := &e.State.Copies[len(e.State.Copies)-1]
	done.Updated, done.UpdatedBy, done.Metastore = written.Updated, written.UpdatedBy, written.Metastore
	// For consumers that have read the previous credential here, its grace begins now.
	for n := range e.State.Retired {
		old := &e.State.Retired[n]
		if slices.ContainsFunc(earlier, func(c storedCopy) bool { return e.deliveredAt(&c) && c.Nonce == old.Nonce }) {
			until := old.storedCredential.retire(b.now(), seconds(e.Grace)).Until
			if until.After(old.Until) {
				old.Until = until
			}
		}
	}
	return nil
}

// removeCopies removes the copies for which goes is true, if they are still ours. Those that can't be removed stay in the list.
func (i *staticItem) removeCopies(ctx context.Context, e *staticEntry, goes func(*storedCopy) bool) error {
	var stay []storedCopy
	var errs []error
	for n := range e.State.Copies {
		c := &e.State.Copies[n]
		if goes(c) {
			err := i.checkCopyHere(ctx, e.madeAt(c))
			if err == nil {
				value := client.Secret("")
				if c.Nonce == e.State.Current.Nonce {
					value = e.State.Secret
				}
				err = i.b.removeCopy(ctx, i.conn, c, value)
			}
			if err == nil || client.IsGone(err) {
				continue
			}
			errs = append(errs, fmt.Errorf("remove the copy in %s: %w", c.secretRef, err))
		}
		stay = append(stay, *c)
	}
	e.State.Copies = stay
	return errors.Join(errs...)
}

// checkCopyHere returns an error for a copy that is, as far as known, where the mount is no longer connected.
func (i *staticItem) checkCopyHere(ctx context.Context, made origin) error {
	if made == (origin{}) {
		return nil
	}
	access, err := i.conn.accessTo(ctx, made)
	if err == nil && access == credential.AccessNone {
		err = fmt.Errorf("it is at %s, to which this mount is no longer connected", made.describe())
	}
	return err
}

// removeCopy removes a copy, unless another value was written there since. Where it isn't certain that it was written, it goes by the
// time of what is there now and, where that doesn't do, by its value, "" if that isn't known any more.
func (b *backend) removeCopy(ctx context.Context, conn *connection, c *storedCopy, value client.Secret) error {
	if err := conn.delivers(c.secretRef); err != nil {
		return err
	}
	unlock, err := b.secretLocks.Lock(ctx, c.canonical())
	if err != nil {
		return err
	}
	defer unlock()
	if !c.Updated.IsZero() {
		return b.removeWrittenLocked(ctx, conn, &writtenSecret{secretRef: c.secretRef, Updated: c.Updated, UpdatedBy: c.UpdatedBy, Metastore: c.Metastore})
	}
	look := lookAt
	if c.Contested && value != "" {
		look = lookAtValue
	}
	seen, err := look(ctx, conn, c.secretRef)
	if err != nil {
		return c.explain(err, permissionRead)
	}
	if seen != nil && !seen.updated.Equal(c.Before) && c.unproven(seen) {
		b.leaveSecret(&c.secretIntent, true)
		return nil
	}
	if ours, err := c.matches(conn, b.now(), seen); err != nil || !ours || !c.stored(seen, value) {
		return err
	}
	return b.removeSeen(ctx, conn, c.writtenAs(seen), seen)
}
