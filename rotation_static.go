// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/schedule"
)

// rotateStatic makes a new credential for the role, as it shall be, and saves both. The one before goes on for the role's grace
// period. The caller has the role's turn.
func (b *backend) rotateStatic(ctx context.Context, req *logical.Request, conn *connection, name string, old *staticEntry, role *staticRole) (*staticEntry, error) {
	mints := role.mints()
	if err := mints.compile(); err != nil {
		return nil, err
	}
	if err := conn.fits(role.CredentialType, mints.spec()); err != nil {
		return nil, err
	}
	text, err := "", error(nil)
	if credential.Lookup(role.CredentialType).Traits().Comment {
		if text, err = b.commentText(req, name, mints, ""); err != nil {
			return nil, err
		}
	}
	now := b.now()
	want := storedRequest{
		key: staticStoragePrefix + name, role: name, credentialType: role.CredentialType, spec: mints.spec(), text: text, lifetime: role.lifetimeFrom(now),
	}
	e := &staticEntry{staticRole: *role}
	err = b.makeStored(ctx, req.Storage, conn, want, func(ctx context.Context, k *kept, token *credential.Credential) error {
		if old != nil {
			e.State = old.clone().State
			e.State.Retired = append(e.State.Retired, old.State.Current.retire(now, seconds(role.Grace)))
		}
		e.State.Current = *k
		e.State.Secret, e.State.Field = token.SecretPart(), token.Secret
		e.State.Answer = maps.Clone(token.Data)
		delete(e.State.Answer, token.Secret)
		e.State.succeeded(role.Schedule, now)
		e.State.troubled(now, nil)
		if err := b.saveStatic(ctx, req.Storage, name, e); err != nil {
			return &uncertain{err}
		}
		return nil
	})
	if client.IsKind(err, client.Refused) {
		return nil, fmt.Errorf("a credential that lives for %s was asked for; if the workspace allows less, set %s, or a schedule that needs less: %w", want.lifetime, keyLifetime, err)
	}
	if err != nil {
		return nil, err
	}
	k := &e.State.Current
	replaced := ""
	if old != nil {
		replaced = old.State.Current.ID
	}
	b.Logger().Info("a static role was rotated", "name", name, "credential_type", k.Type, "id", k.ID, "replaced", replaced)
	b.event(context.WithoutCancel(ctx), "static-rotate", "rotate-role/"+name, "name", name, "credential_type", k.Type, "id", k.ID, "replaced", replaced, "expiry_time", rfc3339(k.Expires))
	return e, nil
}

// settleStatic does what is still to be done after a rotation or a deletion: deliver, remove copies at places that the role has
// left, and remove what has had its grace. It saves each step, so that whoever comes next goes on where it stopped. It answers the
// role as saved, nil when it is gone. The caller has the role's turn.
func (b *backend) settleStatic(ctx context.Context, s logical.Storage, conn *connection, name string, e *staticEntry) (*staticEntry, error) {
	e = e.clone()
	if e.State.Deleting {
		return b.removeStatic(ctx, s, conn, name, e)
	}
	var errs []error
	changed := false
	if e.undelivered() {
		changed = true
		if err := b.deliverStatic(ctx, s, conn, name, e); err != nil {
			errs = append(errs, fmt.Errorf("deliver the credential to %s: %w", e.place(), err))
		}
	}
	if e.leftCopies() {
		// Until the new place has its copy, one that works is better than none at the place before.
		changed = true
		errs = append(errs, b.removeCopies(ctx, conn, e, func(c *keptCopy) bool {
			return !e.deliveredAt(c) && (!e.undelivered() || !e.alive(c.Nonce, b.now()))
		}))
	}
	var stay []retired
	for i := range e.State.Retired {
		old := &e.State.Retired[i]
		if !b.now().Before(old.Until) && (!e.pinned(old) || b.now().After(old.Expires)) {
			changed = true
			err := b.revokeKept(ctx, conn, &old.kept)
			if err == nil {
				continue
			}
			errs = append(errs, err)
		}
		stay = append(stay, *old)
	}
	e.State.Retired = stay
	trouble := errors.Join(errs...)
	if !changed && e.State.Trouble == "" {
		return e, nil
	}
	e.State.troubled(b.now(), trouble)
	return e, errors.Join(trouble, b.saveStatic(context.WithoutCancel(ctx), s, name, e))
}

// troubled takes note of why something could not be done, and when it is tried again; nil says that all is well.
func (s *staticState) troubled(now time.Time, why error) {
	if why == nil {
		s.Trouble, s.Tried, s.Again = "", 0, time.Time{}
		return
	}
	var p progress
	p.Failures = s.Tried
	p.failed(now, why)
	s.Trouble, s.Tried, s.Again = p.Error, p.Failures, p.Retry
}

// removeStatic removes what a role has made, and then the role.
func (b *backend) removeStatic(ctx context.Context, s logical.Storage, conn *connection, name string, e *staticEntry) (*staticEntry, error) {
	err := b.removeMade(ctx, conn, e)
	if err != nil {
		e.State.troubled(b.now(), err)
		return e, errors.Join(err, b.saveStatic(context.WithoutCancel(ctx), s, name, e))
	}
	if err := b.forgetStatic(ctx, s, name); err != nil {
		return e, err
	}
	return nil, nil
}

// removeMade removes what a role has made: copies in secret scopes first, so that nobody finds a dead credential there.
func (b *backend) removeMade(ctx context.Context, conn *connection, e *staticEntry) error {
	// A dead credential in a scope is better than a live one.
	errs := []error{b.removeCopies(ctx, conn, e, func(*keptCopy) bool { return true })}
	// What is removed is forgotten, so that the rest can be removed over another connection.
	var stay []retired
	for _, old := range e.State.Retired {
		if err := b.revokeKept(ctx, conn, &old.kept); err != nil {
			errs, stay = append(errs, err), append(stay, old)
		}
	}
	e.State.Retired = stay
	if e.State.Current.ID != "" {
		err := b.revokeKept(ctx, conn, &e.State.Current)
		if err == nil {
			e.State.Current = kept{}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forgetStatic deletes the role from the storage.
func (b *backend) forgetStatic(ctx context.Context, s logical.Storage, name string) error {
	key := staticStoragePrefix + name
	err := s.Delete(ctx, key)
	b.statics.drop(key) // even after an error it may be gone
	b.agenda.touch()
	return err
}

// tendStatic does what is due of a static role, and answers when there is more to do. What fails is recorded with the role.
func (b *backend) tendStatic(ctx context.Context, req *logical.Request, name string) (time.Time, error) {
	unlock, err := b.rotationLocks.Lock(ctx, staticStoragePrefix+name)
	if err != nil {
		return time.Time{}, err
	}
	defer unlock()
	e, err := b.static(ctx, req.Storage, name)
	if err != nil || e == nil {
		return time.Time{}, err
	}
	now := b.now()
	conn, err := b.connection(ctx, req.Storage)
	if err == error(errNotConfigured) {
		return time.Time{}, nil // until there is a config, whose write makes us look again
	}
	if err != nil {
		return time.Time{}, err
	}
	if corrected := e.clone(); corrected.correct(now) {
		b.Logger().Warn("dates of a static role lay further ahead than can be, so they are corrected; was the clock set back?", "name", name)
		e = corrected
		if err := b.saveStatic(ctx, req.Storage, name, e); err != nil {
			return time.Time{}, err
		}
	}
	if at := e.at(); at.IsZero() || at.After(now) {
		return at, nil
	}
	p, scheduled := &e.State.progress, e.rotateAt()
	switch {
	case e.State.Deleting || scheduled.IsZero() || scheduled.After(now):
	case p.missed(e.Schedule, now):
		b.Logger().Warn("a rotation of a static role was left out, because its window has passed", "name", name, "scheduled", rfc3339(p.Next))
		b.event(ctx, "static-rotate-fail", "rotate-role/"+name, "name", name, "missed", rfc3339(p.Next))
		e = e.clone()
		e.State.skip(e.Schedule, now)
		err = b.saveStatic(ctx, req.Storage, name, e)
	default:
		// What has had its grace makes room for the new one. What fails here is tried again below.
		if settled, settleErr := b.settleStatic(ctx, req.Storage, conn, name, e); settleErr == nil {
			e = settled
		} else if e, err = readStatic(ctx, req.Storage, staticStoragePrefix+name); err != nil || e == nil {
			return time.Time{}, err
		}
		e, err = b.rotateStaticInTime(ctx, req, conn, name, e)
	}
	if err != nil {
		return e.at(), err
	}
	before := e.State.Trouble
	settled, err := b.settleStatic(ctx, req.Storage, conn, name, e)
	if err != nil && settled != nil && sameReason(before, settled.State.Trouble) {
		b.Logger().Debug("what a static role has to do at Databricks after a rotation still can't be done", "name", name, "next_attempt", rfc3339(settled.State.Again))
	} else if err != nil {
		b.Logger().Error("what a static role has to do at Databricks after a rotation could not be done yet; it is tried again", "name", name, "next_attempt", rfc3339(settled.State.Again), "error", err)
		b.event(ctx, "static-rotate-fail", "rotate-role/"+name, "name", name, "next_attempt", rfc3339(settled.State.Again))
	}
	if settled == nil {
		b.event(ctx, "static-role-delete", "static-roles/"+name, "name", name)
		return time.Time{}, nil
	}
	return settled.at(), nil
}

// rotateStaticInTime rotates, or records why that failed.
func (b *backend) rotateStaticInTime(ctx context.Context, req *logical.Request, conn *connection, name string, e *staticEntry) (*staticEntry, error) {
	rotated, why := b.rotateStatic(ctx, req, conn, name, e, &e.staticRole)
	if why == nil {
		return rotated, nil
	}
	// The storage may have the new credential, after an error that left that uncertain. The failure is recorded even if there is
	// no time left for anything else.
	ctx = context.WithoutCancel(ctx)
	stored, err := readStatic(ctx, req.Storage, staticStoragePrefix+name)
	if err != nil {
		return e, err
	}
	if stored == nil {
		return e, why
	}
	if stored.State.Current.Nonce != e.State.Current.Nonce {
		return stored, nil
	}
	stored.State.failed(b.now(), why)
	err = b.saveStatic(ctx, req.Storage, name, stored)
	b.rotationFailed(ctx, "static-rotate", "rotate-role/"+name, "static role "+name, &stored.State.progress, why)
	return stored, err
}

// ttl is after how many seconds it is worth to read the credential again; at least 1, so that nobody reads without a pause
// what is overdue.
func (e *staticEntry) ttl(now time.Time) int64 {
	next := e.rotateAt()
	if next.IsZero() {
		next = e.State.Current.Expires
		if !now.Before(next) {
			return int64(schedule.MinPeriod / time.Second)
		}
	}
	return max(1, int64(next.Sub(now)/time.Second))
}

// abandonStatic takes a new role back whose credential could not be delivered.
func (b *backend) abandonStatic(ctx context.Context, s logical.Storage, conn *connection, name string, e *staticEntry, why error) error {
	e = e.clone()
	e.State.Deleting = true
	if err := b.saveStatic(ctx, s, name, e); err != nil {
		return fmt.Errorf("the static role was stored, but could neither be completed nor taken back; it is completed within minutes, read it then, and delete it if it is not wanted: %w", errors.Join(why, err))
	}
	if _, err := b.settleStatic(ctx, s, conn, name, e); err != nil {
		return fmt.Errorf("the static role was not created, and what was made of it is removed within minutes: %w", errors.Join(why, err))
	}
	return fmt.Errorf("the static role was not created, and nothing is left of it: %w", why)
}

// keptCopy is a copy of a credential in a secret scope. It is written down before it is put.
type keptCopy struct {
	secretIntent
	Nonce   string    `json:"nonce"` // of the credential
	Started time.Time `json:"started"`
	Updated time.Time `json:"updated,omitzero"` // as Databricks says; zero while it isn't certain that it was put
}

// deliveredAt tells whether the copy is, or may be, where the role delivers to.
func (e *staticEntry) deliveredAt(c *keptCopy) bool {
	place := e.place()
	return place != nil && place.folded() == c.folded()
}

// undelivered tells whether the current credential is still to be put where the role says.
func (e *staticEntry) undelivered() bool {
	return e.place() != nil && !slices.ContainsFunc(e.State.Copies, func(c keptCopy) bool {
		return e.deliveredAt(&c) && c.Nonce == e.State.Current.Nonce && !c.Updated.IsZero()
	})
}

// leftCopies tells whether there are copies at places that the role has left.
func (e *staticEntry) leftCopies() bool {
	return slices.ContainsFunc(e.State.Copies, func(c keptCopy) bool { return !e.deliveredAt(&c) })
}

// pinned tells whether a replaced credential must stay, because it is what is delivered: its consumers could not have taken up the
// new one.
func (e *staticEntry) pinned(old *retired) bool {
	return e.undelivered() && slices.ContainsFunc(e.State.Copies, func(c keptCopy) bool { return c.Nonce == old.Nonce })
}

// alive tells whether the role still has the credential with the nonce, and it has not ended.
func (e *staticEntry) alive(nonce string, now time.Time) bool {
	return slices.ContainsFunc(e.State.all(), func(k kept) bool { return k.Nonce == nonce && now.Before(k.Expires) })
}

// margin is how much of a credential's life must be left when it is replaced.
func (e *staticEntry) margin() time.Duration { return seconds(e.Grace) }

// next is when the current credential is due.
func (e *staticEntry) next() time.Time { return e.State.progress.due(&e.State.Current, e.margin()) }

// rotateAt is when the next attempt is made to replace it.
func (e *staticEntry) rotateAt() time.Time { return e.State.progress.at(&e.State.Current, e.margin()) }

// at is when there is something to do for the role; zero for never.
func (e *staticEntry) at() time.Time {
	chores := time.Time{}
	if e.State.Deleting || e.undelivered() || e.leftCopies() {
		chores = time.Unix(0, 0).UTC() // at once
	}
	for i := range e.State.Retired {
		if old := &e.State.Retired[i]; !e.pinned(old) {
			chores = earliest(chores, old.Until)
		}
	}
	if !chores.IsZero() && chores.Before(e.State.Again) {
		chores = e.State.Again
	}
	if e.State.Deleting {
		return chores
	}
	return earliest(chores, e.rotateAt())
}

// correct takes back what was decided while the clock was ahead, and tells whether there was such a thing.
func (e *staticEntry) correct(now time.Time) bool {
	changed := e.State.progress.corrected(e.Schedule, now)
	changed = e.State.Current.corrected(now) || changed
	for i := range e.State.Retired {
		changed = e.State.Retired[i].corrected(now) || changed
	}
	if e.State.Again.After(now.Add(schedule.LongestRetry)) {
		e.State.Again, changed = time.Time{}, true
	}
	return changed
}
