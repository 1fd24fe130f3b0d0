// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/logical"
)

// deliverStatic puts the current secret part where the role says, over whatever is there. What is put is written down before.
func (b *backend) deliverStatic(ctx context.Context, s logical.Storage, conn *connection, name string, e *staticEntry) error {
	place := *e.place()
	unlock, err := b.secretLocks.Lock(ctx, place.folded())
	if err != nil {
		return err
	}
	defer unlock()
	before, err := secretUpdated(ctx, conn, place)
	if err != nil {
		return explainSecrets(err, place.Scope, permissionRead)
	}
	// An earlier put of which it wasn't certain can be forgotten when what is there now can't be it.
	earlier := slices.DeleteFunc(slices.Clone(e.State.Copies), func(c keptCopy) bool {
		return e.deliveredAt(&c) && c.Updated.IsZero() && !c.mayBe(before, c.Started)
	})
	put := keptCopy{secretIntent: secretIntent{secretPlace: place, Before: before}, Nonce: e.State.Current.Nonce, Started: b.now().UTC()}
	e.State.Copies = append(slices.Clone(earlier), put)
	if err := b.saveStatic(ctx, s, name, e); err != nil {
		return err
	}
	if err := (secretValue{text: e.State.Secret}).put(ctx, conn, place); err != nil {
		if credential.NotApplied(err) {
			e.State.Copies = earlier
			return err
		}
		updated, lookErr := secretUpdated(ctx, conn, place)
		if lookErr == nil && updated.Equal(before) && answered(err) {
			e.State.Copies = earlier
		}
		if lookErr != nil || updated.Equal(before) {
			return err
		}
		// It was put all the same.
	}
	// It is over whatever was there of ours.
	e.State.Copies = append(slices.DeleteFunc(slices.Clone(earlier), func(c keptCopy) bool { return e.deliveredAt(&c) }), put)
	written, err := stamped(ctx, conn, &put.secretIntent)
	if err == nil {
		err = b.supersede(context.WithoutCancel(ctx), s, conn, place)
	}
	if err != nil {
		return err
	}
	e.State.Copies[len(e.State.Copies)-1].Updated = written.Updated
	// Those who have read the one before it here begin to have their grace now.
	for i := range e.State.Retired {
		old := &e.State.Retired[i]
		if slices.ContainsFunc(earlier, func(c keptCopy) bool { return e.deliveredAt(&c) && c.Nonce == old.Nonce }) {
			until := old.kept.retire(b.now(), seconds(e.Grace)).Until
			if until.After(old.Until) {
				old.Until = until
			}
		}
	}
	return nil
}

// removeCopies removes those copies that go says, if they are still ours. What can't be removed stays in the list.
func (b *backend) removeCopies(ctx context.Context, conn *connection, e *staticEntry, goes func(*keptCopy) bool) error {
	var stay []keptCopy
	var errs []error
	for i := range e.State.Copies {
		c := &e.State.Copies[i]
		if goes(c) {
			err := b.removeCopy(ctx, conn, c)
			if err == nil || client.IsGone(err) {
				continue
			}
			errs = append(errs, fmt.Errorf("remove the copy in %s: %w", c.secretPlace, err))
		}
		stay = append(stay, *c)
	}
	e.State.Copies = stay
	return errors.Join(errs...)
}

// removeCopy removes a copy, unless somebody has written another value there since. Where it isn't certain that it was put, the
// time of what is there now must tell.
func (b *backend) removeCopy(ctx context.Context, conn *connection, c *keptCopy) error {
	unlock, err := b.secretLocks.Lock(ctx, c.folded())
	if err != nil {
		return err
	}
	defer unlock()
	written := &writtenSecret{secretPlace: c.secretPlace, Updated: c.Updated}
	if c.Updated.IsZero() {
		updated, err := secretUpdated(ctx, conn, c.secretPlace)
		if err != nil {
			return explainSecrets(err, c.Scope, permissionRead)
		}
		if updated.IsZero() || !c.mayBe(updated, c.Started) {
			return nil
		}
		written.Updated = updated
	}
	return b.removeWritten(ctx, conn, written)
}
