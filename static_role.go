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

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/duration"
	"vault-plugin-secrets-databricks/internal/schedule"
)

// staticStoragePrefix is seal-wrapped; the trailing slash makes it a prefix.
const staticStoragePrefix = "static/"

// defaultStaticComment is the comment of a static role's credentials, which no caller in particular asks for.
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
	schedule.Schedule
	Grace        int64  `json:"rotation_grace_period"`
	Lifetime     int64  `json:"lifetime"` // at Databricks; 0 for what the schedule needs
	DeliverScope string `json:"deliver_scope"`
	DeliverKey   string `json:"deliver_key"`
	DeliverUC    string `json:"deliver_uc,omitempty"` // full name of a secret in Unity Catalog, instead of the two

	// LookedUp says where the ids were looked up, as in roleEntry. What is stored without it was where its credential was made.
	LookedUp *origin `json:"looked_up,omitempty"`
}

// mints returns the role in the form in which credentials are minted for it.
func (r *staticRole) mints() *roleEntry {
	comment := r.Comment
	if comment == "" && credential.Lookup(r.CredentialType) != nil && credential.Lookup(r.CredentialType).Traits().Comment {
		comment = defaultStaticComment
	}
	return &roleEntry{
		CredentialType: r.CredentialType, ServicePrincipalID: r.ServicePrincipalID, ApplicationID: r.ApplicationID,
		Scopes: r.Scopes, Comment: comment, LookedUp: r.LookedUp, stored: true,
	}
}

// delivery returns where the credential is delivered to, nil for nowhere.
func (r *staticRole) delivery() *secretRef {
	if r.DeliverUC != "" {
		return &secretRef{UC: r.DeliverUC}
	}
	if r.DeliverScope == "" {
		return nil
	}
	return &secretRef{Scope: r.DeliverScope, Key: r.DeliverKey}
}

// sameCredentials reports whether a credential for one of the roles does for the other.
func (r *staticRole) sameCredentials(other *staticRole) bool {
	mine, others := slices.Sorted(slices.Values(r.Scopes)), slices.Sorted(slices.Values(other.Scopes))
	return r.CredentialType == other.CredentialType && r.ServicePrincipalID == other.ServicePrincipalID && slices.Equal(mine, others)
}

// lifetimeFrom returns how long a credential created now is to live at Databricks.
func (r *staticRole) lifetimeFrom(now time.Time) time.Duration {
	longest := maxLifetime - minLifetimeOffset
	switch {
	case r.Lifetime > 0:
		return min(seconds(r.Lifetime), longest)
	case !r.Automatic():
		return longest
	default:
		return min(r.Need(now)+seconds(r.Grace), longest)
	}
}

// staticEntry is a static role as it is stored, with its credential.
type staticEntry struct {
	staticRole
	State staticState `json:"state"`
}

// staticState is what the engine knows of a static role's credentials.
type staticState struct {
	rotationState
	Current storedCredential `json:"current,omitzero"`
	Answer  map[string]any   `json:"answer,omitempty"` // what static-creds answers besides the secret part
	Field   string           `json:"field"`            // the name of the secret part in that answer

	// Copies are all copies of the role's credentials that may be in secret scopes: where it delivers to now, and where it did.
	Copies []storedCopy `json:"copies,omitempty"`

	// Deleting is set when the role is being deleted: all that is left to do is to remove what it made.
	Deleting bool `json:"deleting,omitempty"`

	Secret client.Secret `json:"-"`
}

// sealedStatic is staticEntry as it is stored: with the secret, which staticEntry itself never shows.
type sealedStatic struct {
	staticEntry
	Secret string `json:"secret"`
}

// all returns the credentials that the role holds.
func (s *staticState) all() []storedCredential { return s.rotationState.all(&s.Current) }

func (e *staticEntry) clone() *staticEntry {
	c := *e
	c.Scopes = slices.Clone(e.Scopes)
	c.State.Answer = maps.Clone(e.State.Answer)
	c.State.Retired = slices.Clone(e.State.Retired)
	c.State.Copies = slices.Clone(e.State.Copies)
	return &c
}

// unreadableRoleError is the error for an entry of a static role that can't be read.
type unreadableRoleError struct {
	name string
	why  error
}

func (u *unreadableRoleError) Error() string {
	return fmt.Sprintf("the stored static role %q cannot be read (was it written by another version of the plugin?); force=true deletes it: %s", u.name, u.why)
}

// isUnreadable reports whether the error is that the entry of a static role can't be read.
func isUnreadable(err error) bool {
	var unreadable *unreadableRoleError
	return errors.As(err, &unreadable)
}

// decodeStatic reads a static role without checking it. It returns nil when there is none.
func decodeStatic(ctx context.Context, s logical.Storage, key string) (*staticEntry, error) {
	entry, err := s.Get(ctx, key)
	if err != nil || entry == nil {
		return nil, err
	}
	sealed := new(sealedStatic)
	if err := entry.DecodeJSON(sealed); err != nil {
		return nil, &unreadableRoleError{strings.TrimPrefix(key, staticStoragePrefix), err}
	}
	e := sealed.staticEntry
	e.State.Secret = client.Secret(sealed.Secret)
	return &e, nil
}

// readStatic reads a static role, and returns an unreadableRoleError for an entry that nothing can be done with. It returns nil when there
// is none.
func readStatic(ctx context.Context, s logical.Storage, key string) (*staticEntry, error) {
	e, err := decodeStatic(ctx, s, key)
	if err != nil || e == nil {
		return nil, err
	}
	switch {
	case !slices.Contains(credential.Names(credential.Static), e.CredentialType):
		err = fmt.Errorf("unknown credential_type %q", e.CredentialType)
	case !e.State.Deleting && (e.State.Current.ID == "" || e.State.Answer == nil || e.State.Field == ""):
		err = errors.New("it has no credential")
	}
	for _, k := range e.State.all() {
		if credential.Lookup(k.Type) == nil {
			err = errors.Join(err, fmt.Errorf("it has a credential of the unknown type %q", k.Type))
		}
	}
	if err != nil {
		return nil, &unreadableRoleError{strings.TrimPrefix(key, staticStoragePrefix), err}
	}
	if made := e.State.Current.origin; e.LookedUp == nil && made != (origin{}) {
		e.LookedUp = &made
	}
	return e, nil
}

// static returns a static role from memory where it can, nil when there is none. It is shared and must not be changed.
func (b *backend) static(ctx context.Context, s logical.Storage, name string) (*staticEntry, error) {
	key := staticStoragePrefix + name
	return b.statics.get(key, func() (*staticEntry, bool, error) {
		e, err := readStatic(ctx, s, key)
		return e, e != nil, err
	})
}

// lockStatic takes the lock of a static role and reads it, nil when there is none. The caller must call unlock, even after an error.
func (b *backend) lockStatic(ctx context.Context, s logical.Storage, name string) (e *staticEntry, unlock func(), err error) {
	unlock, err = b.rotationLocks.Lock(ctx, staticStoragePrefix+name)
	if err != nil {
		return nil, func() {}, err
	}
	e, err = readStatic(ctx, s, staticStoragePrefix+name)
	return e, unlock, err
}

// usable returns an error when there is no such static role, or none any more.
func (e *staticEntry) usable(name string) error {
	switch {
	case e == nil:
		return badField(keyName, "there is no static role %q; list them at static-roles/", name)
	case e.State.Deleting:
		return badField(keyName, "static role %q is being deleted", name)
	}
	return nil
}

// saveStatic stores the role. The caller holds its lock. After an error it may have been stored all the same.
func (b *backend) saveStatic(ctx context.Context, s logical.Storage, name string, e *staticEntry) error {
	key := staticStoragePrefix + name
	entry, err := logical.StorageEntryJSON(key, &sealedStatic{staticEntry: *e, Secret: e.State.Secret.Reveal()})
	if err != nil {
		return err
	}
	defer b.nextRun.touch()
	if err := s.Put(ctx, entry); err != nil {
		b.statics.drop(key) // it may have been stored all the same
		return err
	}
	b.statics.put(key, e.clone())
	return nil
}

// mergeStatic lays the request's fields over the stored role, nil for none, and checks what can be checked without asking.
func mergeStatic(req *logical.Request, data *framework.FieldData, old *staticEntry, now time.Time) (*staticRole, error) {
	before, role := new(staticRole), new(staticRole)
	if old != nil {
		before = &old.staticRole
	}
	if err := mergeFields(data, before, role, keyName, keyForce, keyEndOldest); err != nil {
		return nil, err
	}
	ids := &roleEntry{ServicePrincipalID: role.ServicePrincipalID, ApplicationID: role.ApplicationID}
	ids.forgetOtherID(data)
	role.ServicePrincipalID, role.ApplicationID = ids.ServicePrincipalID, ids.ApplicationID
	role.forgetOtherPlace(data)
	forgetWindow(&role.Schedule, data)
	if err := checkSchedule(role.Schedule, now); err != nil {
		return nil, err
	}
	usual := graceOf(role.Schedule, now)
	switch sent, named := data.Raw[keyGrace]; {
	case named && sent != nil && sent != "":
	case named || old == nil:
		role.Grace = usual
	case role.Schedule != old.Schedule && role.Grace == graceOf(old.Schedule, now):
		role.Grace = min(role.Grace, usual) // nobody has sent it, so that it must not stand in the way of another schedule
	}
	if err := role.check(before, now); err != nil {
		return nil, err
	}
	mints := role.mints()
	if err := mints.check(); err != nil {
		return nil, err
	}
	role.Scopes = mints.Scopes
	return role, mints.checkTemplate(before.mints(), staticSamples(data.Get(keyName).(string), req.MountPoint))
}

// graceOf returns the grace, in seconds, of a role with the schedule that doesn't set one.
func graceOf(s schedule.Schedule, now time.Time) int64 {
	if !s.Automatic() {
		return int64(defaultGrace / time.Second)
	}
	shortest, _ := s.Spans(1, now)
	return int64(min(defaultGrace, shortest) / time.Second)
}

// resolve looks up what the role names at Databricks, and checks that it can deliver. I.e is the role as it is stored, nil for none.
// The caller holds the lock of the place where the role is to deliver to.
func (i *staticItem) resolve(ctx context.Context, role *staticRole) error {
	before := new(staticRole)
	if i.e != nil {
		before = &i.e.staticRole
	}
	mints := role.mints()
	if to := role.delivery(); to != nil {
		if err := i.conn.delivers(*to); err != nil {
			return err
		}
	}
	var err error
	if i.known, err = mints.resolve(ctx, i.conn, before.mints()); err != nil {
		return err
	}
	role.ServicePrincipalID, role.ApplicationID, role.LookedUp = mints.ServicePrincipalID, mints.ApplicationID, mints.LookedUp
	ref := role.delivery()
	if ref == nil || before.delivery() != nil && *before.delivery() == *ref {
		return nil
	}
	if err := i.b.checkDeliveryFree(ctx, i.req.Storage, i.name, *ref); err != nil {
		return err
	}
	if ref.UC != "" {
		return i.checkSchema(ctx, *ref)
	}
	_, err = i.conn.client.ListSecrets(ctx, ref.Scope)
	if client.IsGone(err) {
		return badField(keyDeliverScope, "there is no secret scope %q at %s; write scopes/%s first", ref.Scope, i.conn.config.Host, ref.Scope)
	}
	return explainSecrets(err, ref.Scope, permissionRead)
}

// checkDeliveryFree returns an error when another static role delivers to the place: each would overwrite the other's copy.
func (b *backend) checkDeliveryFree(ctx context.Context, s logical.Storage, name string, ref secretRef) error {
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	for _, other := range names {
		if other == name {
			continue
		}
		e, err := b.static(ctx, s, other)
		if err != nil && !isUnreadable(err) {
			return err
		}
		if e != nil && e.delivery() != nil && e.delivery().canonical() == ref.canonical() {
			return badField(ref.deliverField(), "%s is where static role %q delivers to; choose another", ref, other)
		}
	}
	return nil
}

// check returns an error for a role that can't be static, or whose lifetime and grace don't go with its schedule, which was checked. Before
// is the stored role, or an empty one: a place for deliveries that it has already is not refused.
func (r *staticRole) check(before *staticRole, now time.Time) error {
	if !slices.Contains(credential.Names(credential.Static), r.CredentialType) {
		problem := fmt.Sprintf("%q can't be static", r.CredentialType)
		if r.CredentialType == "" {
			problem = "is missing"
		}
		return badField(keyCredentialType, "%s; use one of: %s", problem, strings.Join(credential.Names(credential.Static), ", "))
	}
	longest := int64((maxLifetime - minLifetimeOffset) / time.Second)
	switch {
	case r.Grace < 0 || r.Grace > longest:
		return badField(keyGrace, "%s is out of range; send 0 to %s", duration.Seconds(r.Grace), duration.Seconds(longest))
	case r.Lifetime < 0 || r.Lifetime > longest:
		return badField(keyLifetime, "%s is out of range; send 0 (as long as the schedule needs) to %s", duration.Seconds(r.Lifetime), duration.Seconds(longest))
	case r.Lifetime > 0 && r.Lifetime < int64(schedule.MinPeriod/time.Second):
		return badField(keyLifetime, "%s is too short; send at least %s", duration.Seconds(r.Lifetime), duration.Text(schedule.MinPeriod))
	case r.DeliverUC != "" && (r.DeliverScope != "" || r.DeliverKey != ""):
		return badField(keyDeliverUC, "can't be sent together with %s and %s; send one place", keyDeliverScope, keyDeliverKey)
	case r.DeliverScope == "" && r.DeliverKey != "":
		return badField(keyDeliverScope, "is missing; %s needs it", keyDeliverKey)
	case r.DeliverScope != "" && r.DeliverKey == "":
		return badField(keyDeliverKey, "is missing; %s needs it", keyDeliverScope)
	}
	if ref, was := r.delivery(), before.delivery(); ref != nil && (was == nil || *was != *ref) {
		if err := ref.checkDelivery(); err != nil {
			return err
		}
	}
	if !r.Automatic() {
		return nil
	}
	// A credential must live from one rotation to the next, and through its grace.
	_, gap := r.Spans(1, now)
	least := int64(gap/time.Second) + r.Window + r.Grace
	limit := credential.Lookup(r.CredentialType).Traits().Limit
	room := maxLifetime
	if limit > 0 {
		room, _ = r.Spans(limit-2, now) // one place is for the current credential, one for its successor
	}
	crowd, _ := r.Spans(maxInGrace, now)
	switch {
	case r.Lifetime > 0 && r.Lifetime < least:
		return badField(keyLifetime, "%s is too short; between two rotations and with %s and %s, a credential must live for %s", duration.Seconds(r.Lifetime), keyRotationWindow, keyGrace, duration.Seconds(least))
	case int64(gap/time.Second)+r.Window > longest:
		return badField(keyRotationSchedule, "%q leaves more time from one rotation to the next than a credential can live, %s", r.Cron, duration.Seconds(longest))
	case least > longest:
		return badField(keyGrace, "%s is too long; with the schedule, credentials would have to live for %s, and %s is the most that Databricks gives", duration.Seconds(r.Grace), duration.Seconds(least), duration.Seconds(longest))
	case seconds(r.Grace) > crowd:
		return badField(keyGrace, "%s is too long; with this schedule, more than %d replaced credentials would be alive at once. It can be %s at most", duration.Seconds(r.Grace), maxInGrace, duration.Text(crowd))
	case seconds(r.Grace) > room:
		return badField(keyGrace, "%s is too long; a service principal can have %d OAuth secrets, so with this schedule it can be %s at most", duration.Seconds(r.Grace), limit, duration.Text(room))
	}
	return nil
}
