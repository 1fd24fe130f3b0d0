// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/logical"
)

// rollbackSecret deletes a secret whose write was not completed, unless a later write has superseded the intent. It is the
// engine's if its timestamp changed, and changed about when the engine wrote; a later one is somebody else's.
func (b *backend) rollbackSecret(ctx context.Context, s logical.Storage, conn *connection, in *intent) error {
	unlock, err := b.secretLocks.Lock(ctx, in.Secret.canonical())
	if err != nil {
		return err
	}
	defer unlock()
	open := false
	err = eachIntent(ctx, s, func(_ string, other *intent) error {
		open = open || other.Nonce == in.Nonce && other.Secret != nil
		return nil
	})
	if err != nil || !open {
		return err
	}
	updated, err := secretUpdated(ctx, conn, in.Secret.secretRef)
	if err != nil {
		return err
	}
	if updated.IsZero() || updated.Equal(in.Secret.Before) {
		return nil
	}
	if !in.Secret.matches(updated, in.Started) {
		b.Logger().Warn("a secret whose write was not completed was written by somebody else since, so it is left alone", "scope", in.Secret.Scope, "key", in.Secret.Key)
		return nil
	}
	return b.removeWrittenLocked(ctx, conn, &writtenSecret{secretRef: in.Secret.secretRef, Updated: updated})
}

// rollback undoes an operation that was not committed. Vault calls it about once a minute for every entry older than walMinAge,
// and deletes the entry if it returns nil. An error leaves the entry for the next call, until the intent expires.
func (b *backend) rollback(ctx context.Context, req *logical.Request, kind string, data any) error {
	if !b.mayWrite() {
		return logical.ErrReadOnly
	}
	var in intent
	if err := decodeMap(data, &in); err != nil || kind != walKind {
		err = errors.Join(err, fmt.Errorf("an entry of kind %q of the write-ahead log can't be read; was it written by another version of the plugin?", kind))
		b.reportOnce(in, err)
		return err
	}
	if _, busy := b.inFlight.Load(in.Nonce); busy {
		return errors.New("the request that wrote the entry is still in progress")
	}
	now := b.now()
	last := now.After(in.Expires)
	if last && in.endsByItself() {
		b.lastAttempt.Delete(in.Nonce)
		return nil
	}
	if tried, ok := b.lastAttempt.Load(in.Nonce); ok && !last && now.Sub(in.Started) > intentLife && now.Sub(tried.(time.Time)) < time.Hour && !b.System().Tainted() {
		return errors.New("after a day of attempts, the next ones are made once an hour")
	}
	b.lastAttempt.Store(in.Nonce, now)
	err := b.rollbackIntent(ctx, req, passOf(ctx), &in)
	if err == nil || last {
		b.lastAttempt.Delete(in.Nonce)
	}
	if last && err != nil {
		b.reportOnce(in, fmt.Errorf("the rollback gives up: %w", err))
		return nil
	}
	if err != nil {
		// The framework returns errors of rollbacks to Vault in a form that is never logged.
		b.reportOnce(in, err)
	}
	return err
}

// endsByItself reports whether what the intent leaves ends at Databricks without anybody's doing.
func (in *intent) endsByItself() bool {
	return in.Secret == nil && in.Grant == nil && (in.Credential == nil || credential.Lookup(in.Credential.Type) == nil || !credential.Lookup(in.Credential.Type).Traits().Lasting)
}

// rollbackIntent undoes what is left of the intent. It can be repeated after a failure at any point.
func (b *backend) rollbackIntent(ctx context.Context, req *logical.Request, p *pass, in *intent) error {
	conn, err := b.connection(ctx, req.Storage)
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
	if in.Credential != nil {
		kind := credential.Lookup(in.Credential.Type)
		if kind == nil {
			return fmt.Errorf("unknown credential type %q; was the entry written by a newer version of the plugin?", in.Credential.Type)
		}
		lost, err := p.lostCredential(ctx, req.Storage, in)
		if err != nil {
			return err
		}
		removed, err := kind.Undo(ctx, conn, access, p, lost)
		for _, id := range removed {
			b.Logger().Warn("removed a credential whose creation was not completed", append(in.fields(), "id", id)...)
			b.event(ctx, "creds-rollback", req.Path, "credential_type", in.Credential.Type, "id", id)
		}
		if errors.Is(err, credential.ErrAmbiguous) {
			if in.OwnerKey != "" {
				return err // it is long-lived, and the leases that it can't be distinguished from may end earlier, so retrying can help
			}
			b.Logger().Error("a credential whose creation was not completed may be left", append(in.fields(), "error", err)...)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	if in.Secret != nil {
		if err := b.rollbackSecret(ctx, req.Storage, conn, in); err != nil {
			return err
		}
	}
	if in.Grant != nil {
		return b.endACLLease(ctx, req.Storage, conn, in.origin, *in.Grant)
	}
	return nil
}

// lostCredential returns the credential that the intent was to create. Credentials that storage entries hold must be kept, under the
// intent's owner key as elsewhere: an OAuth secret can't carry a nonce that would identify it. It fails if the entry under the
// owner key can't be read.
func (p *pass) lostCredential(ctx context.Context, s logical.Storage, in *intent) (credential.Lost, error) {
	c := in.Credential
	lost := credential.Lost{
		Nonce: in.Nonce, Keep: c.KeepID, Spared: make(map[string]bool), Expires: in.Expires,
		ServicePrincipalID: c.ServicePrincipalID, Lifetime: seconds(c.Lifetime),
		Earliest: in.Started.Add(-clockSkew), Latest: in.Started.Add(mintBudget + clockSkew),
	}
	var all []storedCredential
	var err error
	if c.ServicePrincipalID != "" {
		if all, err = p.allStored(ctx, s); err != nil {
			return lost, err
		}
	}
	if in.OwnerKey != "" {
		own, err := storedUnder(ctx, s, in.OwnerKey)
		if err != nil {
			return lost, fmt.Errorf("check whether the credential was saved: %w", err)
		}
		all = append(slices.Clone(all), own...)
	}
	for _, k := range all {
		lost.Spared[k.ID] = true
		if k.Nonce == in.Nonce {
			lost.Keep = k.ID
		}
	}
	return lost, nil
}

// reportOnce logs at error level, once per intent and reason, what could not be undone, so that an operator can remove it if the
// reason stays.
func (b *backend) reportOnce(in intent, why error) {
	if _, said := b.reported.LoadOrStore(in.Nonce+" "+withoutRequestIDs(why.Error()), true); said {
		return
	}
	b.Logger().Error("something may be left at Databricks that could not be undone yet: a credential bears the nonce in its comment, a secret or permission is named here; it is tried again until the time given, then remove it manually",
		append(in.fields(), "until", rfc3339(in.Expires), "error", why)...)
}

// pass is one run of Vault's rollback over all entries of the write-ahead log. It caches what the entries have in common (token
// lists, stored credentials, a failed lookup of the identity), so that a run with many entries after an outage stays within its
// time limit. It is not safe for concurrent use.
type pass struct {
	listings   map[credential.Access]func() ([]client.TokenInfo, error)
	unknown    error // why the engine's identity is not known
	kept       []storedCredential
	storedRead bool
}

type passKey struct{}

func newPass() *pass {
	return &pass{listings: make(map[credential.Access]func() ([]client.TokenInfo, error))}
}

// withPass starts a pass. The context is the only way through the framework, which calls rollback for each entry.
func withPass(ctx context.Context) context.Context {
	return context.WithValue(ctx, passKey{}, newPass())
}

// passOf returns the pass that the context belongs to, or one for a single entry.
func passOf(ctx context.Context) *pass {
	if p, ok := ctx.Value(passKey{}).(*pass); ok {
		return p
	}
	return newPass()
}

// accessTo is connection.accessTo. Once the identity could not be looked up, it fails for the rest of the pass without a call.
func (p *pass) accessTo(ctx context.Context, conn *connection, made origin) (credential.Access, error) {
	if p.unknown != nil {
		return credential.AccessNone, p.unknown
	}
	access, err := conn.accessTo(ctx, made)
	p.unknown = err
	return access, err
}

// allStored returns the credentials that the config and the static roles hold. Those of an entry that can't be read are not known.
func (p *pass) allStored(ctx context.Context, s logical.Storage) ([]storedCredential, error) {
	if p.storedRead {
		return p.kept, nil
	}
	p.kept = nil
	err := eachStored(ctx, s, func(_ string, all []storedCredential) { p.kept = append(p.kept, all...) })
	if err != nil && !isUnreadable(err) {
		return nil, fmt.Errorf("check which credentials were saved: %w", err)
	}
	p.storedRead = true
	return p.kept, nil
}

// Tokens implements credential.Tokens. It returns the tokens as of the first call of the pass.
func (p *pass) Tokens(ctx context.Context, conn credential.Conn, access credential.Access) ([]client.TokenInfo, error) {
	if p.listings[access] == nil {
		p.listings[access] = sync.OnceValues(func() ([]client.TokenInfo, error) {
			if access == credential.AccessAdmin {
				return conn.Client().ListManagedTokens(ctx)
			}
			return conn.Client().ListTokens(ctx)
		})
	}
	return p.listings[access]()
}
