// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// pass is one run of Vault's rollback over the entries of the write-ahead log that are due. It caches what they have in common (lists
// of tokens, OAuth secrets and secrets, stored credentials, a failed lookup of the identity), so that a run with many entries after an
// outage stays within its time limit. It is not safe for concurrent use.
type pass struct {
	b          *backend
	began      time.Time
	busy       map[string]bool // nonces of the operations that were in flight when it began
	tokens     map[credential.Access]func() ([]client.TokenInfo, error)
	principals map[string]func() ([]client.OAuthSecret, error)
	scopes     map[string]*listedScope
	unknown    error // why the engine's identity is not known
	noTime     error // why the time at Databricks is not known
	kept       []storedCredential
	storedRead bool
}

// listedScope is a list of a scope's secrets.
type listedScope struct {
	secrets []client.SecretInfo
	err     error
	at      time.Time
}

const (
	// clockCalls is how many answers make an offset stable after a step of a clock.
	clockCalls = 3

	// usualCreate is how long a create takes that isn't repeated. One that a dead process began is looked for within that time.
	usualCreate = 10 * time.Second

	// createTolerance is what is allowed for the clocks where a credential is identified by the time of its creation.
	createTolerance = 2 * time.Second

	// shortLife is the lifetime of a credential that is left to its own end where it is not certain which it is.
	shortLife = time.Hour
)

// listedScopeLife is how long a list of a scope is relied on: somebody may write its secrets directly at Databricks meanwhile.
const listedScopeLife = 5 * time.Second

func newPass(b *backend) *pass {
	p := &pass{b: b, began: b.now(), busy: make(map[string]bool), scopes: make(map[string]*listedScope)}
	b.inFlight.Range(func(nonce, _ any) bool {
		p.busy[nonce.(string)] = true
		return true
	})
	p.forgetCredentials()
	return p
}

// forgetCredentials makes the pass list credentials anew.
func (p *pass) forgetCredentials() {
	p.tokens = make(map[credential.Access]func() ([]client.TokenInfo, error))
	p.principals = make(map[string]func() ([]client.OAuthSecret, error))
}

// look is called before the intent is looked at. The lists that the pass has may be from before the operation's end, as it may have begun
// since, or have been in flight.
func (p *pass) look(in *intent) {
	if in.Credential != nil && (p.busy[in.Nonce] || in.Started.After(p.began)) {
		p.forgetCredentials()
	}
}

// isOver reports whether the credential of the intent has ended at Databricks by itself. Where the time there isn't known, it asks.
func (p *pass) isOver(ctx context.Context, s logical.Storage, in *intent) (bool, error) {
	now := p.b.now()
	if in.Credential == nil && in.lasts() || !now.After(in.Expires) {
		return false, nil
	}
	conn, err := p.b.connection(ctx, s)
	if errors.Is(err, errNotConfigured) {
		return now.After(in.Expires.Add(clockFar)), nil
	}
	if err != nil {
		return false, err
	}
	offset, err := p.clockOffset(ctx, conn, in.Expires)
	return err == nil && now.Add(offset).After(in.Expires), err
}

// leaseEnded returns errNotDue unless the end of the lease has passed by Databricks' clock as well, or an error when that can't be found
// out: Vault's clock may be ahead for a moment, and the lease would live on when it is right again.
func (p *pass) leaseEnded(ctx context.Context, conn *connection, in *intent) error {
	end := in.UntilRemote
	if end.IsZero() {
		end = in.Until
	}
	offset, err := p.clockOffset(ctx, conn, in.Until)
	if err == nil && !p.b.now().Add(offset).After(end.Add(recordGrace)) {
		err = errNotDue
	}
	return err
}

// clockOffset is connection.clockOffset. While the offset isn't known, it makes calls, since each answer tells the time: as many as it takes
// after a step of a clock. Once that has failed, it fails for the rest of the pass. Where Databricks answers without a time, Vault's clock
// has to do when the end of what it is needed for has passed by clockFar.
func (p *pass) clockOffset(ctx context.Context, conn *connection, end time.Time) (time.Duration, error) {
	offset, err := conn.clockOffset(p.b.now())
	for range clockCalls {
		if err == nil || p.noTime != nil {
			break
		}
		if _, p.noTime = conn.client.Me(ctx); p.noTime == nil {
			offset, err = conn.clockOffset(p.b.now())
		}
	}
	if err == nil {
		return offset, nil
	}
	p.noTime = cmp.Or(p.noTime, err)
	if mistake := new(clockError); errors.As(p.noTime, &mistake) && !conn.client.Clock().Known && p.b.now().After(end.Add(clockFar)) {
		return 0, nil
	}
	return 0, p.noTime
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

// lookAt is the function of that name, with the lists of the pass.
func (p *pass) lookAt(ctx context.Context, conn *connection, ref secretRef) (*seenSecret, error) {
	if ref.UC != "" {
		seen, err := lookAt(ctx, conn, ref)
		return seen, ref.explain(err, permissionRead)
	}
	listed, err := p.secrets(ctx, conn, ref.Scope)
	if err != nil {
		return nil, err
	}
	return ref.in(listed), nil
}

// secrets lists a scope. Of a scope that does not exist, the list is empty.
func (p *pass) secrets(ctx context.Context, conn *connection, scope string) ([]client.SecretInfo, error) {
	name := strings.ToLower(scope)
	list := p.scopes[name]
	if list == nil || time.Since(list.at) > listedScopeLife {
		list = &listedScope{at: time.Now()}
		list.secrets, list.err = conn.client.ListSecrets(ctx, scope)
		if client.IsGone(list.err) {
			list.err = nil
		}
		p.scopes[name] = list
	}
	return list.secrets, explainSecrets(list.err, scope, permissionRead)
}

// Tokens implements credential.Lists. It returns the tokens as of the first call of the pass.
func (p *pass) Tokens(ctx context.Context, conn credential.Conn, access credential.Access) ([]client.TokenInfo, error) {
	if p.tokens[access] == nil {
		p.tokens[access] = sync.OnceValues(func() (tokens []client.TokenInfo, err error) {
			if access == credential.AccessAdmin {
				tokens, err = conn.Client().ListManagedTokens(ctx)
			} else {
				tokens, err = conn.Client().ListTokens(ctx)
			}
			if err == nil {
				err = p.b.checkAlone(ctx, conn.(*connection), tokens)
			}
			return tokens, err
		})
	}
	return p.tokens[access]()
}

// OAuthSecrets implements credential.Lists. It returns the secrets as of the first call of the pass.
func (p *pass) OAuthSecrets(ctx context.Context, conn credential.Conn, principalID string) ([]client.OAuthSecret, error) {
	if p.principals[principalID] == nil {
		p.principals[principalID] = sync.OnceValues(func() ([]client.OAuthSecret, error) {
			return conn.Client().ListOAuthSecrets(ctx, principalID)
		})
	}
	return p.principals[principalID]()
}

// lostCredential returns the credential that the intent was to create. Credentials that storage entries hold must be kept, under the
// intent's owner key as elsewhere: an OAuth secret can't carry a nonce that would identify it. It fails if the entry under the
// owner key can't be read, or if the credential is identified by its time and the time at Databricks isn't known.
func (p *pass) lostCredential(ctx context.Context, s logical.Storage, conn *connection, in *intent) (credential.Lost, error) {
	c := in.Credential
	lost := credential.Lost{
		Nonce: in.Nonce, Keep: c.KeepID, Spared: make(map[string]bool), Expires: in.Expires,
		ServicePrincipalID: c.ServicePrincipalID, Lifetime: seconds(c.Lifetime),
	}
	if lost.Lifetime > 0 {
		// The list tells the time at Databricks, too.
		if _, err := p.OAuthSecrets(ctx, conn, c.ServicePrincipalID); err != nil && !client.IsGone(err) {
			return lost, err
		}
		if err := p.identify(conn, in, &lost); err != nil {
			return lost, err
		}
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

// identify decides when a credential without text must have been created to be the lost one for certain. Another mount or an operator
// may have created a secret of the same lifetime at about the same time, while the one that was asked for never came to be.
func (p *pass) identify(conn *connection, in *intent, lost *credential.Lost) error {
	put, err := conn.writeWindow(p.b.now(), in.Started, in.StartedRemote)
	if err != nil {
		return err
	}
	started := put.from.Add(clockTolerance)
	lost.Earliest, lost.Possibly = started.Add(-createTolerance), put.to
	var took time.Duration
	switch {
	case !in.Ended.IsZero():
		took = in.Ended.Sub(in.Started)
	case lost.Lifetime <= shortLife:
		// The process died, and it isn't known when. The credential dies soon, too, so it is not worth a mistake.
		lost.Latest = lost.Earliest
		return nil
	default:
		took = usualCreate
	}
	lost.Latest = started.Add(took + createTolerance)
	return nil
}
