// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

// staticStoragePrefix is seal-wrapped; the trailing slash makes it a prefix.
const staticStoragePrefix = "static/"

// staticTypes are the credential types that a static role can have.
var staticTypes = []string{credentialPAT, credentialOBO, credentialOAuthSecret}

// defaultStaticComment is the comment of a static role's credentials: nobody in particular asked for them.
const defaultStaticComment = "Vault static role {{.RoleName}}"

// defaultGrace is how long a replaced credential lives on where the role doesn't say, if its period is not shorter.
const defaultGrace = time.Hour

// staticRole is what the user says of a static role. Durations are whole seconds.
type staticRole struct {
	CredentialType     string   `json:"credential_type"`
	ServicePrincipalID string   `json:"service_principal_id"`
	ApplicationID      string   `json:"application_id"`
	Scopes             []string `json:"scopes"`
	Comment            string   `json:"comment"`
	schedule
	Grace        int64  `json:"rotation_grace_period"`
	Lifetime     int64  `json:"lifetime"` // at Databricks; 0 for what the schedule needs
	DeliverScope string `json:"deliver_scope"`
	DeliverKey   string `json:"deliver_key"`
}

// mints is the role in the form in which credential types take it.
func (r *staticRole) mints() *roleEntry {
	comment := r.Comment
	if comment == "" && credentialTypes[r.CredentialType] != nil && credentialTypes[r.CredentialType].needs().comment {
		comment = defaultStaticComment
	}
	return &roleEntry{
		CredentialType: r.CredentialType, ServicePrincipalID: r.ServicePrincipalID, ApplicationID: r.ApplicationID,
		Scopes: r.Scopes, Comment: comment,
	}
}

// place is where the credential is delivered to; nil for nowhere.
func (r *staticRole) place() *secretPlace {
	if r.DeliverScope == "" {
		return nil
	}
	return &secretPlace{Scope: r.DeliverScope, Key: r.DeliverKey}
}

// sameCredentials tells whether both roles want credentials that can stand for each other.
func (r *staticRole) sameCredentials(other *staticRole) bool {
	mine, others := slices.Sorted(slices.Values(r.Scopes)), slices.Sorted(slices.Values(other.Scopes))
	return r.CredentialType == other.CredentialType && r.ServicePrincipalID == other.ServicePrincipalID && slices.Equal(mine, others)
}

// lifetimeFrom is how long a credential made now shall live at Databricks.
func (r *staticRole) lifetimeFrom(now time.Time) time.Duration {
	longest := maxLifetime - maxLifetimeOffset*time.Second
	switch {
	case r.Lifetime > 0:
		return min(seconds(r.Lifetime), longest)
	case !r.automatic():
		return longest
	default:
		return min(r.need(now)+seconds(r.Grace), longest)
	}
}

// keptCopy is a copy of a credential in a secret scope. It is written down before it is put.
type keptCopy struct {
	secretIntent
	Nonce   string    `json:"nonce"` // of the credential
	Started time.Time `json:"started"`
	Updated time.Time `json:"updated,omitzero"` // as Databricks says; zero while it isn't certain that it was put
}

// staticEntry is a static role as it is stored, with its credential.
type staticEntry struct {
	staticRole
	State staticState `json:"state"`
}

// staticState is what the engine knows of a static role's credentials.
type staticState struct {
	progress
	Current kept           `json:"current,omitzero"`
	Answer  map[string]any `json:"answer,omitempty"` // what static-creds answers besides the secret part
	Field   string         `json:"field"`            // the name of the secret part in that answer
	Retired []retired      `json:"retired,omitempty"`

	// Copies are all that may be in secret scopes of what the role has made: at the place where it delivers to now, and at
	// places that it has left.
	Copies []keptCopy `json:"copies,omitempty"`

	// Deleting is set when the role is being deleted: all that is left to do is to remove what it made.
	Deleting bool `json:"deleting,omitempty"`

	// Trouble is why something after a rotation could not be done yet, and Again when it is tried again.
	Trouble string    `json:"trouble,omitempty"`
	Tried   int       `json:"tried,omitempty"`
	Again   time.Time `json:"again,omitzero"`

	Secret client.Secret `json:"-"`
}

// sealedStatic is staticEntry as it is stored: with the secret, which staticEntry itself never shows.
type sealedStatic struct {
	staticEntry
	Secret string `json:"secret"`
}

// all are the credentials that the role answers for.
func (s *staticState) all() []kept {
	var all []kept
	if s.Current.ID != "" {
		all = append(all, s.Current)
	}
	for _, old := range s.Retired {
		all = append(all, old.kept)
	}
	return all
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
	return e.undelivered() && slices.ContainsFunc(e.State.Copies, func(c keptCopy) bool {
		return e.deliveredAt(&c) && c.Nonce == old.Nonce
	})
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
	changed := e.State.progress.corrected(e.schedule, now)
	changed = e.State.Current.corrected(now) || changed
	for i := range e.State.Retired {
		changed = e.State.Retired[i].corrected(now) || changed
	}
	if e.State.Again.After(now.Add(longestRetry)) {
		e.State.Again, changed = time.Time{}, true
	}
	return changed
}

func (e *staticEntry) clone() *staticEntry {
	c := *e
	c.Scopes = slices.Clone(e.Scopes)
	c.State.Answer = maps.Clone(e.State.Answer)
	c.State.Retired = slices.Clone(e.State.Retired)
	c.State.Copies = slices.Clone(e.State.Copies)
	return &c
}

// unreadableStatic is that the entry of a static role can't be read.
type unreadableStatic struct {
	name string
	why  error
}

func (u *unreadableStatic) Error() string {
	return fmt.Sprintf("the stored static role %q cannot be read (was it written by another version of the plugin?); force=true deletes it: %s", u.name, u.why)
}

// isUnreadable tells whether the error says no more than that the entry of a static role can't be read.
func isUnreadable(err error) bool {
	var unreadable *unreadableStatic
	return errors.As(err, &unreadable)
}

// decodeStatic answers nil when there is no such static role. It doesn't ask whether the entry makes sense.
func decodeStatic(ctx context.Context, s logical.Storage, key string) (*staticEntry, error) {
	entry, err := s.Get(ctx, key)
	if err != nil || entry == nil {
		return nil, err
	}
	sealed := new(sealedStatic)
	if err := entry.DecodeJSON(sealed); err != nil {
		return nil, &unreadableStatic{strings.TrimPrefix(key, staticStoragePrefix), err}
	}
	e := sealed.staticEntry
	e.State.Secret = client.Secret(sealed.Secret)
	return &e, nil
}

// readStatic answers nil when there is no such static role, and refuses an entry that nothing can be done with.
func readStatic(ctx context.Context, s logical.Storage, key string) (*staticEntry, error) {
	e, err := decodeStatic(ctx, s, key)
	if err != nil || e == nil {
		return nil, err
	}
	switch {
	case !slices.Contains(staticTypes, e.CredentialType):
		err = fmt.Errorf("unknown credential_type %q", e.CredentialType)
	case !e.State.Deleting && (e.State.Current.ID == "" || e.State.Answer == nil || e.State.Field == ""):
		err = errors.New("it has no credential")
	}
	for _, k := range e.State.all() {
		if credentialTypes[k.Type] == nil {
			err = errors.Join(err, fmt.Errorf("it has a credential of the unknown type %q", k.Type))
		}
	}
	if err != nil {
		return nil, &unreadableStatic{strings.TrimPrefix(key, staticStoragePrefix), err}
	}
	return e, nil
}

// static answers nil when there is no such static role. What it answers is shared and must not be changed.
func (b *backend) static(ctx context.Context, s logical.Storage, name string) (*staticEntry, error) {
	key := staticStoragePrefix + name
	return b.statics.get(key, func() (*staticEntry, bool, error) {
		e, err := readStatic(ctx, s, key)
		return e, e != nil, err
	})
}

// saveStatic stores the role. Whoever changes one has its turn.
func (b *backend) saveStatic(ctx context.Context, s logical.Storage, name string, e *staticEntry) error {
	key := staticStoragePrefix + name
	entry, err := logical.StorageEntryJSON(key, &sealedStatic{staticEntry: *e, Secret: e.State.Secret.Reveal()})
	if err != nil {
		return err
	}
	defer b.agenda.touch()
	if err := s.Put(ctx, entry); err != nil {
		b.statics.drop(key) // it may have been stored all the same
		return err
	}
	b.statics.put(key, e.clone())
	return nil
}

// rotateStatic makes a new credential for the role, as it shall be, and saves both. The one before goes on for the role's grace
// period. The caller has the role's turn.
func (b *backend) rotateStatic(ctx context.Context, req *logical.Request, conn *connection, name string, old *staticEntry, role *staticRole) (*staticEntry, error) {
	mints := role.mints()
	if err := mints.compile(); err != nil {
		return nil, err
	}
	if err := conn.fits(mints); err != nil {
		return nil, err
	}
	text, err := "", error(nil)
	if credentialTypes[role.CredentialType].needs().comment {
		if text, err = b.commentText(req, name, mints, ""); err != nil {
			return nil, err
		}
	}
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
	defer cancel()
	now := b.now()
	lifetime := role.lifetimeFrom(now)
	u, k, token, err := b.makeKept(lasting, req.Storage, conn, staticStoragePrefix+name, name, mints, text, lifetime)
	if isKind(err, client.Refused) {
		return nil, fmt.Errorf("a credential that lives for %s was asked for; if the workspace allows less, set %s, or a schedule that needs less: %w", lifetime, keyLifetime, err)
	}
	if err != nil {
		return nil, err
	}
	defer u.end(lasting)

	e := &staticEntry{staticRole: *role}
	if old != nil {
		e.State = old.clone().State
		e.State.Retired = append(e.State.Retired, old.State.Current.retire(now, seconds(role.Grace)))
	}
	e.State.Current = *k
	e.State.Secret, e.State.Field = client.Secret(token.data[token.secret].(string)), token.secret
	e.State.Answer = maps.Clone(token.data)
	delete(e.State.Answer, token.secret)
	e.State.succeeded(role.schedule, now)
	e.State.troubled(now, nil)
	err = u.saveKept(lasting, func() error {
		if err := b.saveStatic(lasting, req.Storage, name, e); err != nil {
			return &uncertain{err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	replaced := ""
	if old != nil {
		replaced = old.State.Current.ID
	}
	b.Logger().Info("a static role was rotated", "name", name, "credential_type", k.Type, "id", k.ID, "replaced", replaced)
	b.event(lasting, "static-rotate", "rotate-role/"+name, "name", name, "credential_type", k.Type, "id", k.ID, "replaced", replaced, "expiry_time", rfc3339(k.Expires))
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
	if e.leftCopies() && !e.undelivered() {
		changed = true
		errs = append(errs, b.removeCopies(ctx, conn, e, func(c *keptCopy) bool { return !e.deliveredAt(c) }))
	}
	var stay []retired
	for i := range e.State.Retired {
		old := &e.State.Retired[i]
		if !b.now().Before(old.Until) && !e.pinned(old) {
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

// deliverStatic puts the current secret part where the role says, over whatever is there. What is put is written down before.
func (b *backend) deliverStatic(ctx context.Context, s logical.Storage, conn *connection, name string, e *staticEntry) error {
	place := *e.place()
	leave, err := b.secretTurns.take(ctx, place.folded())
	if err != nil {
		return err
	}
	defer leave()
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
		if hadNoEffect(err) {
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

// answered tells whether Databricks answered the request that failed, so that what it does of it is done by now.
func answered(err error) bool {
	var remote *client.Error
	return errors.As(err, &remote) && remote.Status != 0
}

// removeCopies removes those copies that go says, if they are still ours. What can't be removed stays in the list.
func (b *backend) removeCopies(ctx context.Context, conn *connection, e *staticEntry, goes func(*keptCopy) bool) error {
	var stay []keptCopy
	var errs []error
	for i := range e.State.Copies {
		c := &e.State.Copies[i]
		if goes(c) {
			err := b.removeCopy(ctx, conn, c)
			if err == nil || isGone(err) {
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
	leave, err := b.secretTurns.take(ctx, c.folded())
	if err != nil {
		return err
	}
	defer leave()
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
	if err := b.removeCopies(ctx, conn, e, func(*keptCopy) bool { return true }); err != nil {
		return err
	}
	// What is removed is forgotten, so that the rest can be removed over another connection.
	var errs []error
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
	leave, err := b.rotationTurns.take(ctx, staticStoragePrefix+name)
	if err != nil {
		return time.Time{}, err
	}
	defer leave()
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
	case p.missed(e.schedule, now):
		b.Logger().Warn("a rotation of a static role was left out, because its window has passed", "name", name, "scheduled", rfc3339(p.Next))
		b.event(ctx, "static-rotate-fail", "rotate-role/"+name, "name", name, "missed", rfc3339(p.Next))
		e = e.clone()
		e.State.skip(e.schedule, now)
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
	settled, err := b.settleStatic(ctx, req.Storage, conn, name, e)
	if err != nil {
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
