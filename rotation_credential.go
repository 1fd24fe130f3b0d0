// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"time"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/logical"
)

// kept is a credential that no lease answers for, but an entry of the mount's storage: the config, or that of a static role.
// It holds no secret.
type kept struct {
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

// latest is when a successor must be there, by Vault's clock: a quarter of the credential's life before its end, a week at most, but
// the margin at least. The zero time is for a credential that is not known to end.
func (k *kept) latest(margin time.Duration) time.Time {
	life := seconds(k.Lifetime)
	if life <= 0 {
		return time.Time{}
	}
	lead := min(max(min(life/4, longestLead), margin), life/2)
	return k.Created.Add(life - lead).UTC().Truncate(time.Second)
}

// retired is a credential that has a successor, and lives on for those who still have it.
type retired struct {
	kept
	Until time.Time `json:"until"`
	Grace int64     `json:"grace"` // seconds that it was to live on at first
}

// retire ends the grace of a credential in due course.
func (k kept) retire(now time.Time, grace time.Duration) retired {
	return retired{kept: k, Until: now.UTC().Add(grace).Truncate(time.Second), Grace: int64(grace / time.Second)}
}

// corrected takes back a date of a credential that was made while the clock was ahead, and tells whether there was one.
func (k *kept) corrected(now time.Time) bool {
	if !k.Created.After(now) {
		return false
	}
	k.Created = now.UTC()
	return true
}

// corrected takes back a date that was set while the clock was ahead, and tells whether there was one.
func (r *retired) corrected(now time.Time) bool {
	latest := now.UTC().Add(seconds(r.Grace) + longestRetry).Truncate(time.Second)
	if !r.Until.After(latest) {
		return false
	}
	r.Until = latest
	return true
}

// uncertain is the failure of a write to the storage which may have been done all the same, or be done yet.
type uncertain struct{ error }

func (u *uncertain) Unwrap() error { return u.error }

// makeKept makes a credential for the storage entry under key. From the moment that it is written down in the write-ahead log,
// the storage entry decides: what it has is kept, what it hasn't is removed, by the caller's saveKept or else by the rollback.
// The caller must defer end, and the context must not end with the request's.
func (b *backend) makeKept(ctx context.Context, s logical.Storage, conn *connection, key, name string, role *roleEntry, text string, lifetime time.Duration) (*undertaking, *kept, *minted, error) {
	in, err := b.newIntent(ctx, conn)
	if err != nil {
		return nil, nil, nil, err
	}
	in.Credential = &credentialIntent{Type: role.CredentialType, Role: name}
	in.Keeper = key
	o := order{role: role, text: text, scopes: role.Scopes, lifetime: lifetime}
	if role.CredentialType == credentialOAuthSecret {
		if err := b.tellApart(ctx, s, role, &in, &o); err != nil {
			return nil, nil, nil, err
		}
	}
	in.Expires = in.Started.Add(o.lifetime + mintBudget)
	o.marker = marker{mountID: b.mountID, nonce: in.Nonce, until: in.Expires, kept: true}
	u, err := b.undertake(ctx, s, in)
	if err != nil {
		return nil, nil, nil, err
	}
	made := false
	defer func() {
		if !made {
			u.end(ctx)
		}
	}()
	credential := credentialTypes[role.CredentialType]
	token, err := credential.mint(ctx, conn, o)
	if err != nil {
		u.failed(ctx, err)
		return nil, nil, nil, err
	}
	k := &kept{
		origin: in.origin, Type: role.CredentialType, ID: token.id, Nonce: in.Nonce, ServicePrincipalID: token.servicePrincipalID,
		Scopes: role.Scopes, Created: in.Started, Lifetime: int64(token.lifetime / time.Second), Expires: token.expires,
	}
	if k.Expires.IsZero() {
		k.Expires = in.Started.Add(token.lifetime)
	}
	u.twin = token.twin
	u.undo = func(ctx context.Context) error { return credential.revoke(ctx, conn, reachOwn, k.lease()) }
	if token.lifetime <= 0 {
		return nil, nil, nil, logical.CodedError(502, "Databricks made a credential that never ends, although a lifetime was asked for, so it is removed again")
	}
	made = true
	return u, k, token, nil
}

// saveKept saves the entry that answers for the credential of the undertaking, by save. When the outcome of that is uncertain,
// nothing is undone: the rollback looks at the storage when it has settled.
func (u *undertaking) saveKept(ctx context.Context, save func() error) error {
	if err := save(); err != nil {
		var maybe *uncertain
		if errors.As(err, &maybe) {
			u.undo = nil
			return fmt.Errorf("the new credential could not be saved for certain; within minutes the rollback finds out and removes it if it was not: %w", maybe.error)
		}
		return err
	}
	u.handedOver = true
	if u.twin {
		return nil // the rollback looks for it, and keeps what the storage has
	}
	if err := u.settle(ctx); err != nil {
		u.b.Logger().Warn("an entry of the write-ahead log was left behind; the rollback will find the credential saved", "error", err)
	}
	return nil
}

// lease is the credential in the form in which credential types revoke.
func (k *kept) lease() *lease {
	return &lease{origin: k.origin, CredentialType: k.Type, ID: k.ID, ServicePrincipalID: k.ServicePrincipalID}
}

// revokeKept ends the credential at Databricks. It asks for that even if it should have ended by itself: our clock may be wrong.
func (b *backend) revokeKept(ctx context.Context, conn *connection, k *kept) error {
	credential, ok := credentialTypes[k.Type]
	if !ok {
		return fmt.Errorf("unknown credential type %q of %s; was it made by a newer version of the plugin?", k.Type, k.ID)
	}
	how, err := conn.reaches(ctx, k.origin)
	if err != nil {
		return err
	}
	if how == reachNone && b.now().After(k.Expires.Add(24*time.Hour)) {
		return nil
	}
	if how == reachNone {
		return badField(keyHost, "%s %s was made at %s, but the mount is now connected to %s; connect it to the first again, or wait until it ends by itself at %s", k.Type, k.ID, k.Host, conn.config.Host, rfc3339(k.Expires))
	}
	err = credential.revoke(ctx, conn, how, k.lease())
	if isKind(err, client.PermissionDenied) && b.now().After(k.Expires.Add(24*time.Hour)) {
		return nil // nobody needs to be asked for the right to remove what has ended
	}
	if err != nil {
		return fmt.Errorf("remove %s %s: %w", k.Type, k.ID, err)
	}
	return nil
}

// keptUnder answers the credentials that the storage entry under key answers for.
func keptUnder(ctx context.Context, s logical.Storage, key string) ([]kept, error) {
	if key == configStorageKey {
		config, err := readConfig(ctx, s)
		if err != nil || config == nil {
			return nil, err
		}
		return config.Rotation.all(), nil
	}
	e, err := readStatic(ctx, s, key)
	if err != nil || e == nil {
		return nil, err
	}
	return e.State.all(), nil
}

// eachKept shows the credentials that the config and the static roles answer for, by the keys of their entries. An entry that can't
// be read keeps none of the others from being shown, and is an error in the end.
func eachKept(ctx context.Context, s logical.Storage, show func(key string, all []kept)) error {
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
		var all []kept
		if key == configStorageKey {
			all, err = keptUnder(ctx, s, key)
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

// ownedNonces answers every nonce that the write-ahead log, the config or a static role still answers for. The log is read
// first: what is settled there while we read is saved by then.
func (b *backend) ownedNonces(ctx context.Context, s logical.Storage) (map[string]bool, error) {
	owned := make(map[string]bool)
	err := eachIntent(ctx, s, func(_ string, in *intent) error {
		owned[in.Nonce] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return owned, eachKept(ctx, s, func(_ string, all []kept) {
		for _, k := range all {
			owned[k.Nonce] = true
		}
	})
}
