// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
)

// errHeld says that a secret was not deleted because the mount holds it.
var errHeld = errors.New("the mount holds it")

// holdsSecret reports whether the mount itself keeps the secret at Databricks: for a lease, or for a static role. It is certain only while
// the caller holds the secret's lock by lockForWrite.
func (b *backend) holdsSecret(ctx context.Context, s logical.Storage, conn *connection, ref secretRef) (bool, error) {
	leased, err := b.isLeased(ctx, s, conn, ref)
	if err != nil || leased {
		return leased, err
	}
	delivered, err := b.staticDeliveries(ctx, s)
	return delivered[ref.canonical()], err
}

// isLeased reports whether a lease put the secret there, as a secret of its own or as the copy of a credential, by the record of the
// lease. Nothing is known of leases of v0.1.0 that were not renewed since: they have no record, and only Vault knows them.
func (b *backend) isLeased(ctx context.Context, s logical.Storage, conn *connection, ref secretRef) (bool, error) {
	for _, id := range b.intents.of(ref, &b.inFlight) {
		in, err := readIntent(ctx, s, id)
		if err != nil {
			return false, err
		}
		if in == nil || in.Written == nil {
			continue // what a pending operation stored will be removed
		}
		access, err := conn.accessTo(ctx, in.origin)
		if err != nil {
			return false, err
		}
		if access != credential.AccessNone {
			return true, nil
		}
	}
	return false, nil
}

// checkNotStatic returns a fieldError for a secret that a static role delivers to: the end of a lease would take its copy away.
func (b *backend) checkNotStatic(ctx context.Context, s logical.Storage, field string, ref secretRef) error {
	places, err := b.staticDeliveries(ctx, s)
	if isUnreadable(err) {
		return nil
	}
	if err == nil && places[ref.canonical()] {
		err = badField(field, "%s is where a static role delivers its credential to; use another", ref)
	}
	return err
}

// staticDeliveries returns where the static roles deliver to, and where the copies are that a pending delivery is to replace, by the canonical
// form of the secrets. It fails if a role can't be read.
func (b *backend) staticDeliveries(ctx context.Context, s logical.Storage) (map[string]bool, error) {
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return nil, err
	}
	places := make(map[string]bool)
	for _, name := range names {
		e, err := b.static(ctx, s, name)
		if isUnreadable(err) {
			// Where it delivers to may be readable all the same.
			e, err = decodeStatic(ctx, s, staticStoragePrefix+name)
		}
		if err != nil {
			return nil, fmt.Errorf("which secrets the static roles hold: %w", err)
		}
		if e == nil || e.State.Deleting {
			continue
		}
		if ref := e.delivery(); ref != nil {
			places[ref.canonical()] = true
		}
		if e.undelivered() {
			for _, c := range e.State.Copies {
				places[c.canonical()] = true // its consumers have it until the new place has its copy
			}
		}
	}
	return places, nil
}
