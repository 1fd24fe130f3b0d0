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

// maxInGrace is how many replaced credentials of a role may be alive at once: an identity has few places for tokens.
const maxInGrace = 50

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
