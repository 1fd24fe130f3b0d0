// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/schedule"
)

// staticItem is a static role as one that is rotated.
type staticItem struct {
	b    *backend
	req  *logical.Request
	name string
	conn *connection
	e    *staticEntry // as it is stored, nil for none; shared, so it must not be changed

	known          credential.Known // of the identities of a role that is written
	templateFailed string           // what to say of a template that failed in this rotation; empty for nothing

	byHand    bool // somebody asks for the rotation
	endOldest bool // and lets it end the grace of the oldest replaced credentials, if there are too many
}

func (i *staticItem) labels() rotationLabels {
	return rotationLabels{
		key: staticStoragePrefix + i.name, kind: "a static role", what: "static role " + i.name,
		event: "static-rotate", path: "rotate-role/" + i.name, pairs: []string{"name", i.name},
		pending: "what a static role has to do at Databricks after a rotation could not be done yet; it is tried again",
	}
}

func (i *staticItem) load(ctx context.Context) (found bool, err error) {
	i.conn, err = i.b.connection(ctx, i.req.Storage)
	if errors.Is(err, errNotConfigured) {
		return false, nil // until there is a config, whose write makes the engine look again
	}
	if err == nil {
		// From storage: memory may have an entry from before a save that was applied late.
		i.e, err = readStatic(ctx, i.req.Storage, staticStoragePrefix+i.name)
	}
	return err == nil && i.e != nil, err
}

func (i *staticItem) view() rotationView {
	if i.e == nil {
		return rotationView{rotationState: new(rotationState), current: new(storedCredential)} // of which nothing is due
	}
	return i.e.clone().rotationView()
}

// change goes by the current credential's nonce: a save that was said to have failed may have stored another one.
func (i *staticItem) change(ctx context.Context, change func(rotationView)) (done bool, err error) {
	stored, err := readStatic(ctx, i.req.Storage, staticStoragePrefix+i.name)
	if err != nil || stored == nil || stored.State.Current.Nonce != i.e.State.Current.Nonce {
		return false, err
	}
	change(stored.rotationView())
	if err := i.b.saveStatic(ctx, i.req.Storage, i.name, stored); err != nil {
		return false, err
	}
	i.e = stored
	return true, nil
}

func (i *staticItem) rotate(ctx context.Context) error {
	// What has had its grace makes room for the new credential. What fails here is tried again afterwards.
	if err := i.followUp(ctx); err != nil {
		i.b.Logger().Warn("what a static role had to do before a rotation could not be done", "name", i.name, "error", err)
	}
	e, err := readStatic(ctx, i.req.Storage, staticStoragePrefix+i.name)
	if err == nil {
		err = e.usable(i.name)
	}
	if err != nil {
		return err
	}
	i.e = e
	here, err := i.conn.origin(ctx)
	if err == nil {
		err = e.mints().fitsPlace(i.name, here)
	}
	if err != nil {
		return err
	}
	if err := i.makeRoom(ctx, &e.staticRole); err != nil {
		return err
	}
	return i.create(ctx, &i.e.staticRole)
}

// create creates a credential for the role as it is to be, and saves both. The credential that it had lives on for the grace period.
func (i *staticItem) create(ctx context.Context, role *staticRole) error {
	b, old := i.b, i.e
	mints := role.mints()
	mints.compile()
	if err := i.conn.fits(role.CredentialType, mints.spec()); err != nil {
		return err
	}
	text, err := "", error(nil)
	if credential.Lookup(role.CredentialType).Traits().Comment {
		if text, i.templateFailed, err = b.commentText(i.req, i.name, mints, ""); err != nil {
			return err
		}
	}
	now := b.now()
	want := storedRequest{
		key: staticStoragePrefix + i.name, role: i.name, credentialType: role.CredentialType, spec: mints.spec(), text: text, lifetime: role.lifetimeFrom(now),
	}
	e := &staticEntry{staticRole: *role}
	err = b.makeStored(ctx, i.req.Storage, i.conn, want, func(ctx context.Context, k *storedCredential, token *credential.Credential) error {
		if old != nil {
			e.State = old.clone().State
			e.State.Retired = append(e.State.Retired, old.State.Current.retire(now, seconds(role.Grace)))
		}
		e.State.Current = *k
		e.State.Secret, e.State.Field = token.SecretPart(), token.Secret
		e.State.Answer = maps.Clone(token.Data)
		delete(e.State.Answer, token.Secret)
		e.State.succeeded(role.Schedule, now)
		e.State.pending(now, nil, schedule.Backoff)
		if err := b.saveStatic(ctx, i.req.Storage, i.name, e); err != nil {
			return &uncertainError{err}
		}
		return nil
	})
	if err != nil {
		return explainLifetime(err, want.lifetime, fmt.Sprintf("set %s of static role %q to less, or a schedule that needs less", keyLifetime, i.name))
	}
	i.e = e
	k := &e.State.Current
	replaced := ""
	if old != nil {
		replaced = old.State.Current.ID
	}
	b.Logger().Info("a static role was rotated", "name", i.name, "credential_type", k.Type, "id", k.ID, "replaced", replaced)
	b.event("static-rotate", "rotate-role/"+i.name, "name", i.name, "credential_type", k.Type, "id", k.ID, "replaced", replaced, "expiry_time", rfc3339(k.Expires))
	return nil
}

// followUp does what is left to do after a rotation: deliver, remove copies where the role no longer delivers to, and remove what has
// had its grace. For a role that is being deleted, it removes all that was made, and then the role: copies first, so that nobody finds
// a dead credential there. It saves what it did, so that the next call goes on where it stopped.
func (i *staticItem) followUp(ctx context.Context) error {
	err := i.settle(ctx)
	if i.e == nil {
		i.b.event("static-role-delete", "static-roles/"+i.name, "name", i.name)
	}
	return err
}

// settle is followUp without an event. When the role is gone, i.e is nil.
func (i *staticItem) settle(ctx context.Context) error {
	b, e := i.b, i.e.clone()
	i.e = e
	deleting, changed := e.State.Deleting, e.State.Deleting || e.State.PendingError != ""
	// A credential whose end isn't certain counts as alive.
	ended := func(end time.Time) bool {
		passed, err := i.conn.passed(b.now(), end)
		return err == nil && passed
	}
	var errs []error
	if !deleting && e.undelivered() {
		changed = true
		if err := i.deliver(ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("deliver the credential to %s: %w", e.delivery(), err))
		}
	}
	if deleting || e.staleCopies() {
		// Until the new place has its copy, one that works is better than none at the place before.
		changed = true
		errs = append(errs, i.removeCopies(ctx, e, func(c *storedCopy) bool {
			return deleting || !e.deliveredAt(c) && (!e.undelivered() || !e.alive(c.Nonce, ended))
		}))
	}
	// A dead credential in a scope is better than a live one, so these go even if a copy can't be removed.
	gone, err := b.removeRetired(ctx, i.conn, e.State.Retired, func(old *retired) bool {
		return deleting || !b.now().Before(old.Until) && (!e.pinned(old) || ended(old.Expires))
	})
	e.State.forget(gone)
	errs = append(errs, err)
	if deleting && e.State.Current.ID != "" {
		err := b.revokeStored(ctx, i.conn, &e.State.Current)
		if err == nil {
			e.State.Current = storedCredential{}
		}
		errs = append(errs, err)
	}
	why := errors.Join(errs...)
	switch {
	case deleting && why == nil:
		if err := b.forgetStatic(ctx, i.req.Storage, i.name); err != nil {
			return err
		}
		i.e = nil
		return nil
	case !changed && why == nil && len(gone) == 0:
		return nil
	}
	e.State.pending(b.now(), why, schedule.Backoff)
	return errors.Join(why, b.saveStatic(context.WithoutCancel(ctx), i.req.Storage, i.name, e))
}

// abandon removes a new role whose credential could not be delivered, and returns what to tell the user.
func (i *staticItem) abandon(ctx context.Context, why error) error {
	e := i.e.clone()
	e.State.Deleting = true
	if err := i.b.saveStatic(ctx, i.req.Storage, i.name, e); err != nil {
		return fmt.Errorf("the static role was stored, but could neither be completed nor taken back; it is completed within minutes, read it then, and delete it if it is not wanted: %w", errors.Join(why, err))
	}
	i.e = e
	if err := i.settle(ctx); err != nil {
		return fmt.Errorf("the static role was not created, and what was made of it is removed within minutes: %w", errors.Join(why, err))
	}
	return fmt.Errorf("the static role was not created, and nothing is left of it: %w", why)
}

// forgetStatic deletes the role from the storage.
func (b *backend) forgetStatic(ctx context.Context, s logical.Storage, name string) error {
	key := staticStoragePrefix + name
	err := s.Delete(ctx, key)
	b.statics.drop(key) // even after an error it may be gone
	b.unreadable.Delete(key)
	b.reportedTemplates.Delete(key)
	b.nextRun.touch()
	return err
}

// ttl returns after how many seconds the credential should be read again: at least 1, so that no reader polls without a pause for one
// that is overdue.
func (e *staticEntry) ttl(now time.Time) int64 {
	next := e.rotationView().nextAttempt()
	if next.IsZero() {
		next = e.State.Current.Expires
		if !now.Before(next) {
			return int64(schedule.MinPeriod / time.Second)
		}
	}
	return max(1, int64(next.Sub(now)/time.Second))
}

func (e *staticEntry) rotationView() rotationView {
	return rotationView{
		rotationState: &e.State.rotationState, current: &e.State.Current, schedule: e.Schedule, margin: seconds(e.Grace),
		deleting: e.State.Deleting, urgent: e.State.Deleting || e.undelivered() || e.staleCopies(), mustStay: e.pinned,
	}
}
