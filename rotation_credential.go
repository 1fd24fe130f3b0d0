// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/logical"
)

// storedCredential is a credential that a storage entry holds instead of a lease: the config, or a static role.
// It holds no secret.
type storedCredential struct {
	origin
	Type               string    `json:"credential_type"`
	ID                 string    `json:"id"`
	Nonce              string    `json:"nonce"`
	ServicePrincipalID string    `json:"service_principal_id,omitempty"`
	Scopes             []string  `json:"scopes,omitempty"`
	Created            time.Time `json:"created"`  // by Vault's clock
	Lifetime           int64     `json:"lifetime"` // seconds, as granted
	Expires            time.Time `json:"expires"`  // by Databricks' clock
}

// uncertainError is the failure of a write to the storage which may have been done all the same, or be done yet.
type uncertainError struct{ error }

func (u *uncertainError) Unwrap() error { return u.error }

// storedRequest is a credential to be created for a storage entry.
type storedRequest struct {
	key            string // of the storage entry that will hold it
	role           string // name of the static role, for messages; empty for the engine's own
	credentialType string
	spec           credential.Spec
	text           string // what its comment says before the mark
	lifetime       time.Duration
}

// makeStored creates a credential, and has save store the entry that holds it from then on. What the entry has is kept, and what it
// hasn't is removed: at once when save fails, or by the rollback, which asks the storage. When save returns an uncertain error,
// nothing is undone until a rollback has read the storage.
func (b *backend) makeStored(ctx context.Context, s logical.Storage, conn *connection, want storedRequest, save func(ctx context.Context, k *storedCredential, made *credential.Credential) error) error {
	if err := b.alone(); err != nil {
		return err
	}
	in, err := b.newIntent(ctx, conn)
	if err != nil {
		return err
	}
	in.OwnerKey = want.key
	in.Credential = &credentialIntent{Type: want.credentialType, Role: want.role}
	kind := credential.Lookup(want.credentialType)
	r := credential.Request{Spec: want.spec, Text: want.text, Lifetime: want.lifetime}
	if err := b.nameIntent(ctx, s, conn, kind, &r, &in, true); err != nil {
		return err
	}
	return b.perform(ctx, s, in, func(ctx context.Context, op *pendingOperation) error {
		token, err := b.createCredential(ctx, op, conn, kind, r)
		if err != nil {
			return err
		}
		if token.Lifetime <= 0 {
			return logical.CodedError(http.StatusBadGateway, "Databricks made a credential that never ends, although a lifetime was asked for, so it is removed again")
		}
		switch {
		case token.Warning == "":
		case in.OwnerKey == configStorageKey: // a rotation must not give the engine more than the operator did
			return logical.CodedError(http.StatusBadGateway, "the new credential is removed again: "+token.Warning)
		default:
			b.Logger().Warn(token.Warning, append(in.fields(), "id", token.ID)...)
		}
		k := &storedCredential{
			origin: in.origin, Type: want.credentialType, ID: token.ID, Nonce: in.Nonce, ServicePrincipalID: token.ServicePrincipalID,
			Scopes: want.spec.Scopes, Created: in.Started, Lifetime: int64(token.Lifetime / time.Second), Expires: token.Expires,
		}
		err = save(ctx, k, token)
		var maybe *uncertainError
		if errors.As(err, &maybe) {
			op.uncertain = true
			return fmt.Errorf("the new credential could not be saved for certain; within minutes the rollback finds out and removes it if it was not: %w", maybe.error)
		}
		return err
	})
}

// revokeStored ends the credential at Databricks. It asks for that even if it should have ended by itself: our clock may be wrong.
func (b *backend) revokeStored(ctx context.Context, conn *connection, k *storedCredential) error {
	kind := credential.Lookup(k.Type)
	if kind == nil {
		return fmt.Errorf("unknown credential type %q of %s; was it made by a newer version of the plugin?", k.Type, k.ID)
	}
	access, err := conn.accessTo(ctx, k.origin)
	if err != nil {
		return err
	}
	if access == credential.AccessNone && b.now().After(k.Expires.Add(clockFar)) {
		return nil // the clock of that workspace can't be asked
	}
	if access == credential.AccessNone {
		return badField(keyHost, "%s %s was made at %s, but the mount is now connected to %s; connect it to the first again, or wait until it ends by itself at %s", k.Type, k.ID, k.Host, conn.config.Host, rfc3339(k.Expires))
	}
	err = kind.Revoke(ctx, conn, access, credential.Ref{ID: k.ID, ServicePrincipalID: k.ServicePrincipalID})
	if ended, _ := conn.passed(b.now(), k.Expires.Add(clockFar)); ended && client.IsKind(err, client.PermissionDenied, client.ScopeMissing) {
		return nil // nobody needs to be asked for the right to remove what has ended
	}
	if err != nil {
		return fmt.Errorf("remove %s %s: %w", k.Type, k.ID, err)
	}
	return nil
}

// storedUnder answers the credentials that the storage entry under key answers for. A retained config is part of the config here.
func storedUnder(ctx context.Context, s logical.Storage, key string) ([]storedCredential, error) {
	if key == configStorageKey {
		config, err := readConfig(ctx, s)
		if err != nil {
			return nil, err
		}
		kept, err := readRetained(ctx, s)
		if err != nil {
			return nil, err
		}
		var all []storedCredential
		if config != nil {
			all = config.Rotation.all()
		}
		if kept != nil {
			all = append(all, kept.Config.Rotation.all()...)
		}
		return all, nil
	}
	e, err := readStatic(ctx, s, key)
	if err != nil || e == nil {
		return nil, err
	}
	return e.State.all(), nil
}

// eachStored shows the credentials that the config and the static roles answer for, by the keys of their entries. An entry that can't
// be read keeps none of the others from being shown, and is an error in the end.
func eachStored(ctx context.Context, s logical.Storage, show func(key string, all []storedCredential)) error {
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	keys := []string{configStorageKey}
	for _, name := range names {
		keys = append(keys, staticStoragePrefix+name)
	}
	var errs []error
	for _, key := range keys {
		var all []storedCredential
		if key == configStorageKey {
			all, err = storedUnder(ctx, s, key)
		} else {
			var e *staticEntry
			if e, err = decodeStatic(ctx, s, key); e != nil {
				all = e.State.all() // even if the rest makes no sense
			}
		}
		if err != nil && !isUnreadable(err) {
			return err
		}
		show(key, all)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ownedNonces returns the nonces of all open entries of the write-ahead log, and of all credentials that the config or a static role
// holds. The log is read first: what is committed there meanwhile is saved by then.
func (b *backend) ownedNonces(ctx context.Context, s logical.Storage) (map[string]bool, error) {
	if err := b.intents.update(ctx, s, b.now()); err != nil {
		return nil, err
	}
	owned := b.intents.nonces()
	return owned, eachStored(ctx, s, func(_ string, all []storedCredential) {
		for _, k := range all {
			owned[k.Nonce] = true
		}
	})
}
