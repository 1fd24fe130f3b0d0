// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/schedule"
)

const (
	// rootGrace is how long the engine's credential lives on when it has a successor: for requests under way, and for nodes that
	// have not heard of it yet.
	rootGrace = 5 * time.Minute

	// prepareBudget is how long the calls before the create may take.
	prepareBudget = 40 * time.Second

	// expirySoon is how long before the end of a credential that nothing replaces every answer warns of it.
	expirySoon = 30 * 24 * time.Hour

	// rootLife is how long the engine's credential should live at least where it is rotated by itself: when it ends before Vault
	// is back from an outage, an operator has to make one by hand.
	rootLife = 90 * 24 * time.Hour
)

// rootRotation is what is stored with the config about the rotation of its credential.
type rootRotation struct {
	progress

	// Credential is the config's, if a rotation made it. ID is empty when it was made by hand.
	Credential kept      `json:"credential,omitzero"`
	Retired    []retired `json:"retired,omitempty"`

	// HandMade are ids of credentials that were made by hand and have been replaced since. The engine leaves them alone: only
	// the operator knows who else uses them.
	HandMade []string `json:"hand_made,omitempty"`

	// Trouble is why a credential that was replaced could not be removed yet, and Again when that is tried again.
	Trouble string    `json:"trouble,omitempty"`
	Again   time.Time `json:"again,omitzero"`

	// Managed is set where Vault's own rotation manager keeps the schedule.
	Managed bool `json:"managed,omitempty"`
}

// all are the credentials that the config answers for.
func (r *rootRotation) all() []kept {
	var all []kept
	if r.Credential.ID != "" {
		all = append(all, r.Credential)
	}
	for _, old := range r.Retired {
		all = append(all, old.kept)
	}
	return all
}

// rootMargin is how much of the credential's life must be left when it is replaced.
const rootMargin = time.Hour

// next is when the credential is due.
func (r *rootRotation) next() time.Time { return r.due(&r.Credential, rootMargin) }

// rotateAt is when the engine's next attempt is made to replace it. Where Vault's rotation manager follows the schedule, that is
// in time before the credential ends, if that is known.
func (r *rootRotation) rotateAt() time.Time {
	if !r.Managed || r.Next.IsZero() {
		return r.progress.at(&r.Credential, rootMargin)
	}
	at := r.Credential.latest(rootMargin)
	if !at.IsZero() && r.Retry.After(at) {
		return r.Retry
	}
	return at
}

// at is when there is something to do; zero for never.
func (r *rootRotation) at() time.Time {
	at := r.rotateAt()
	for _, old := range r.Retired {
		until := old.Until
		if r.Again.After(until) {
			until = r.Again
		}
		at = earliest(at, until)
	}
	return at
}

// correct takes back what was decided while the clock was ahead, and tells whether there was such a thing.
func (r *rootRotation) correct(s schedule.Schedule, now time.Time) bool {
	changed := !r.Managed && r.progress.corrected(s, now)
	changed = r.Credential.corrected(now) || changed
	for i := range r.Retired {
		changed = r.Retired[i].corrected(now) || changed
	}
	if r.Again.After(now.Add(schedule.LongestRetry)) {
		r.Again, changed = time.Time{}, true
	}
	return changed
}

// cloneRotation makes the rotation the config's alone, and answers it.
func (c *configEntry) cloneRotation() *rootRotation {
	c.Rotation.Retired, c.Rotation.HandMade = slices.Clone(c.Rotation.Retired), slices.Clone(c.Rotation.HandMade)
	return &c.Rotation
}

// retire puts the present credential, which a rotation made, among those to be removed.
func (r *rootRotation) retire(config *configEntry, now time.Time) {
	grace := rootGrace
	if config.Automatic() {
		// An OAuth secret in its grace takes one of few places.
		shortest, _ := config.Spans(1, now)
		grace = min(grace, shortest/2)
	}
	r.Retired = append(r.Retired, r.Credential.retire(now, grace))
	r.Credential = kept{}
}

// rotateRoot replaces the engine's own credential: it makes a new one, proves it by use, saves it, and only then uses it. What it
// replaces is removed after rootGrace if a rotation made it. Until the new one is saved, the old one is as good as ever. A
// wanted that answers false, once it is our turn, ends it without an error.
func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, wanted func(*configEntry) bool) (now *configEntry, unrecognised string, err error) {
	unlock, err := b.rotationLocks.Lock(ctx, configStorageKey)
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	config, err := readConfig(ctx, req.Storage)
	if err != nil {
		return nil, "", err
	}
	switch {
	case config == nil:
		return nil, "", errNotConfigured
	case wanted != nil && !wanted(config):
		return config, "", nil
	case !rotates(config.AuthType):
		return nil, "", notRotated(keyAuthType, config.AuthType)
	}
	conn, done, err := b.connectionOf(ctx, req.Storage, config)
	if err != nil {
		return nil, "", err
	}
	defer done()
	prepared, cancel := context.WithTimeout(ctx, prepareBudget)
	defer cancel()
	identity, err := conn.whoami(prepared)
	if err != nil {
		return nil, "", fmt.Errorf("ask who the present credential belongs to: %w", err)
	}
	old, err := b.recogniseRoot(prepared, req, conn, identity)
	if err != nil {
		return nil, "", err
	}

	var k *kept
	err = b.makeRoot(ctx, req, conn, identity, old, func(ctx context.Context, made *kept, token *credential.Credential) error {
		k = made
		renewed := *config
		if config.AuthType == client.AuthPAT {
			renewed.Token = token.SecretPart()
		} else {
			renewed.ClientSecret = token.SecretPart()
		}
		if err := b.proveRoot(ctx, &renewed, identity); err != nil {
			return err
		}
		renewed.Identity, renewed.Verified = identity, b.now().UTC()
		now, err = b.saveRoot(ctx, req.Storage, config, &renewed, k, old)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	b.Logger().Info("the engine's own credential was replaced", "auth_type", now.AuthType, "id", k.ID, "expires", rfc3339(k.Expires), "replaced", old.id)
	b.event(context.WithoutCancel(ctx), "root-rotate", "config/rotate-root", "auth_type", now.AuthType, "id", k.ID, "replaced", old.id, "expiry_time", rfc3339(k.Expires))
	return now, old.unrecognised, nil
}

// makeRoot makes the new credential, and has save save it. It asks for a long life, and where the workspace refuses that, for one that
// it is known to give, or that suffices.
func (b *backend) makeRoot(ctx context.Context, req *logical.Request, conn *connection, identity *client.Identity, old *rootFound, save func(context.Context, *kept, *credential.Credential) error) error {
	want := storedRequest{
		key: configStorageKey, credentialType: credential.PAT, spec: credential.Spec{Scopes: old.scopes},
		text: "Vault's own, for the mount " + req.MountPoint,
	}
	if conn.config.AuthType == client.AuthOAuthM2M {
		want.credentialType = credential.OAuthSecret
		want.spec = credential.Spec{ServicePrincipalID: identity.ID, ApplicationID: conn.config.ClientID}
	}
	var err error
	for i, lifetime := range rootLifetimes(conn.config, old.lifetime, b.now()) {
		if i > 0 {
			b.Logger().Info("Databricks refused the engine's own credential, so one with a shorter life is asked for", "lifetime", lifetime.String(), "error", err)
		}
		want.lifetime = lifetime
		made := false
		err = b.makeStored(ctx, req.Storage, conn, want, func(ctx context.Context, k *kept, token *credential.Credential) error {
			made = true
			return save(ctx, k, token)
		})
		switch {
		case err == nil, made:
			return err
		case !client.IsKind(err, client.Refused) || !credential.NotApplied(err):
			return fmt.Errorf("make a new credential: %w", err)
		}
	}
	return fmt.Errorf("make a new credential: %w", err)
}

// rootLifetimes are how long the new credential should live, in the order of trying.
func rootLifetimes(config *configEntry, granted time.Duration, now time.Time) []time.Duration {
	longest := maxLifetime - maxLifetimeOffset*time.Second
	lives := []time.Duration{rootLife, expirySoon}
	if s := config.effectiveSchedule(); s.Automatic() {
		need := min(s.Need(now)+rootGrace, longest)
		lives = append(lives, max(need, rootLife), need)
		for _, shorter := range []time.Duration{14 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour} {
			if shorter > need {
				lives = append(lives, shorter)
			}
		}
	} else {
		lives = append(lives, longest)
	}
	if granted = granted.Truncate(time.Second); granted > 0 {
		lives = append(lives, min(granted, longest))
	}
	slices.SortFunc(lives, func(a, b time.Duration) int { return cmp.Compare(b, a) })
	return slices.Compact(lives)
}

// proveRoot uses the new credential, and requires that it is of the same identity.
func (b *backend) proveRoot(ctx context.Context, config *configEntry, identity *client.Identity) error {
	config.Identity = nil
	conn, err := b.connect(ctx, config)
	if err != nil {
		return err
	}
	defer conn.client.Close()
	who, err := conn.client.Me(ctx)
	if err != nil {
		return fmt.Errorf("the new credential does not work, so it is removed and the old one stays: %w", err)
	}
	if who.ID != identity.ID {
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the new credential belongs to %s rather than to %s, so it is removed and the old one stays", who.UserName, identity.UserName))
	}
	return nil
}

// saveRoot makes the new credential the stored config's and the mount's, unless the config has got another credential since.
func (b *backend) saveRoot(ctx context.Context, s logical.Storage, before, renewed *configEntry, k *kept, old *rootFound) (*configEntry, error) {
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	now, err := readConfig(ctx, s)
	if err != nil {
		return nil, err
	}
	if now == nil || !now.sameCredential(before) {
		return nil, logical.CodedError(http.StatusConflict, "the config was changed by somebody else during the rotation; what was written is in force, and the new credential is removed")
	}
	now.Token, now.ClientSecret = renewed.Token, renewed.ClientSecret
	now.Identity, now.Verified = renewed.Identity, renewed.Verified
	r := &now.Rotation
	if r.Credential.ID != "" {
		r.retire(now, b.now())
	} else if old.id != "" {
		r.HandMade = append(r.HandMade, old.id)
	}
	r.HandMade = slices.DeleteFunc(r.HandMade, func(id string) bool { return !old.live[id] })
	r.Credential = *k
	r.succeeded(now.effectiveSchedule(), b.now())
	defer b.agenda.touch()
	if err := putConfig(ctx, s, now); err != nil {
		b.dropConnection()
		return nil, &uncertain{err}
	}
	conn, err := b.connect(ctx, now)
	if err != nil {
		b.dropConnection()
		return now, nil
	}
	if last, ok := b.connections.put(configStorageKey, conn); ok {
		last.client.Close()
	}
	return now, nil
}

// changeRotation changes what is stored about the rotation, if there is a config. The connection goes on as it is.
func (b *backend) changeRotation(ctx context.Context, s logical.Storage, change func(*configEntry)) error {
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	config, err := readConfig(ctx, s)
	if err != nil || config == nil {
		return err
	}
	change(config)
	return putConfig(ctx, s, config)
}

// carryRotation takes the state of the rotation over from the stored config, which this one is to replace.
func (c *configEntry) carryRotation(stored *configEntry, given kept, now, managedNext time.Time) {
	managed := c.Rotation.Managed
	c.Rotation = stored.Rotation
	r := &c.Rotation
	r.Retired, r.HandMade = slices.Clone(r.Retired), slices.Clone(r.HandMade)
	replaced := c.replaces(stored)
	if replaced {
		// By hand: what a rotation made is no longer needed.
		if r.Credential.ID != "" {
			r.retire(stored, now)
		}
		r.HandMade = nil
	}
	if r.Credential.ID == "" && (replaced || given.Lifetime > 0) {
		r.Credential = given
	}
	switch s := c.effectiveSchedule(); {
	case replaced:
		r.restart(s, now)
	case s != stored.effectiveSchedule():
		r.reschedule(s, now)
	}
	if r.Managed = managed; managed && !managedNext.IsZero() {
		r.Next = managedNext
	}
}

// checkRotation refuses a schedule that can't be kept.
func (c *configEntry) checkRotation(now time.Time) error {
	if err := checkSchedule(c.Schedule, now); err != nil {
		return err
	}
	if !c.Automatic() {
		return nil
	}
	field := keyRotationPeriod
	if c.Cron != "" {
		field = keyRotationSchedule
	}
	if !rotates(c.AuthType) {
		return notRotated(field, c.AuthType)
	}
	if next := c.After(now); next.Sub(now) > maxLifetime/2 || c.After(next).Sub(next) > maxLifetime/2 {
		return badField(field, "has more than 365 days from one rotation to the next; a credential lives for 730 days at most, so one that is late must still be possible")
	}
	return nil
}

// removeRoot removes the credentials that rotations made for a config that is gone, the one that it connects with last.
func (b *backend) removeRoot(ctx context.Context, resp *logical.Response, config *configEntry) {
	all := config.Rotation.all()
	slices.Reverse(all)
	conn, connErr := b.connect(ctx, config)
	if connErr == nil {
		defer conn.client.Close()
	}
	for _, k := range all {
		b.Logger().Info("removing a credential of the engine, since its config was deleted", "credential_type", k.Type, "id", k.ID, "host", k.Host)
		err := connErr
		if err == nil {
			err = b.revokeKept(ctx, conn, &k)
		}
		if err != nil {
			resp.AddWarning(fmt.Sprintf("The engine's own %s %s may be left at %s; it ends by itself at %s (%s)", k.Type, k.ID, k.Host, rfc3339(k.Expires), err))
		}
	}
}

func (r *rootRotation) retiredIDs() []string {
	ids := []string{}
	for _, old := range r.Retired {
		ids = append(ids, old.ID)
	}
	return ids
}

// rotates tells whether the auth type has a credential that the engine can replace.
func rotates(authType string) bool {
	return authType == client.AuthPAT || authType == client.AuthOAuthM2M
}

// notRotated says why the credential of an auth type can't be replaced, and what to do instead.
func notRotated(field, authType string) error {
	switch authType {
	case client.AuthAzureClientSecret:
		return badField(field, "auth_type %s has a secret of Entra ID, which is rotated there; write the new one to config, or use %s", authType, client.AuthOIDC)
	default:
		return badField(field, "auth_type %s has no stored secret, so there is nothing to rotate", authType)
	}
}

// tendRoot does what is due of the engine's own credential, and answers when there is more to do.
func (b *backend) tendRoot(ctx context.Context, req *logical.Request) (time.Time, error) {
	config, err := readConfig(ctx, req.Storage)
	if err != nil || config == nil {
		return time.Time{}, err
	}
	now := b.now()
	if probe := *config; probe.cloneRotation().correct(config.effectiveSchedule(), now) {
		b.Logger().Warn("dates of the rotation of the engine's own credential lay further ahead than can be, so they are corrected; was the clock set back?")
		err := b.changeRotation(ctx, req.Storage, func(c *configEntry) { c.Rotation.correct(c.effectiveSchedule(), now) })
		if err != nil {
			return time.Time{}, err
		}
		if config, err = readConfig(ctx, req.Storage); err != nil || config == nil {
			return time.Time{}, err
		}
	}
	s, r := config.effectiveSchedule(), &config.Rotation
	if at := r.at(); at.IsZero() || at.After(now) {
		return at, nil
	}
	switch scheduled := r.rotateAt(); {
	case scheduled.IsZero() || scheduled.After(now):
	case !r.Managed && r.missed(s, now):
		b.Logger().Warn("a rotation of the engine's own credential was left out, because its window has passed", "scheduled", rfc3339(r.Next))
		b.event(ctx, "root-rotate-fail", "config/rotate-root", "missed", rfc3339(r.Next))
		err = b.changeRotation(ctx, req.Storage, func(c *configEntry) { c.Rotation.skip(c.effectiveSchedule(), now) })
	default:
		err = b.rotateRootInTime(ctx, req)
	}
	if err == nil {
		err = b.tendRetiredRoot(ctx, req)
	}
	if err != nil {
		return time.Time{}, err
	}
	if config, err = readConfig(ctx, req.Storage); err != nil || config == nil {
		return time.Time{}, err
	}
	return config.Rotation.at(), nil
}

// rotateRootInTime rotates, or records why that failed.
func (b *backend) rotateRootInTime(ctx context.Context, req *logical.Request) error {
	var before *configEntry
	_, unrecognised, err := b.rotateRoot(ctx, req, func(c *configEntry) bool {
		before = c
		at := c.Rotation.rotateAt()
		return !at.IsZero() && !at.After(b.now())
	})
	if unrecognised != "" {
		b.Logger().Warn(unrecognised)
	}
	if err == nil {
		return nil
	}
	_, err = b.recordRootFailure(ctx, req.Storage, before, err, true)
	return err
}

// recordRootFailure records why the credential of before could not be replaced, even if there is no time left for anything else. It
// doesn't when the storage has another credential by now: after an error that left open whether the new one was saved, or because
// somebody wrote the config meanwhile. Again tells whether the engine tries again, or leaves that to Vault's rotation manager.
func (b *backend) recordRootFailure(ctx context.Context, s logical.Storage, before *configEntry, why error, again bool) (replaced bool, err error) {
	ctx = context.WithoutCancel(ctx)
	if before == nil {
		b.Logger().Debug("a rotation was not begun", "error", why)
		return false, nil // there was no turn to do so, or no config
	}
	var p progress
	err = b.changeRotation(ctx, s, func(c *configEntry) {
		if replaced = !c.sameCredential(before); !replaced {
			c.Rotation.failed(b.now(), why)
			if !again {
				c.Rotation.Retry = time.Time{}
			}
		}
		p = c.Rotation.progress
	})
	if replaced {
		b.agenda.touch()
		b.Logger().Warn("a rotation of the engine's own credential ended with an error, but the config has another credential by now", "error", why)
		return true, err
	}
	b.rotationFailed(ctx, "root-rotate", "config/rotate-root", "the engine's own credential", &p, why)
	return false, err
}

// tendRetiredRoot removes what was replaced and has had its grace. What can't be removed now is tried again in an hour.
func (b *backend) tendRetiredRoot(ctx context.Context, req *logical.Request) error {
	unlock, err := b.rotationLocks.Lock(ctx, configStorageKey)
	if err != nil {
		return err
	}
	defer unlock()
	config, err := readConfig(ctx, req.Storage)
	if err != nil || config == nil {
		return err
	}
	now := b.now()
	if now.Before(config.Rotation.Again) || !slices.ContainsFunc(config.Rotation.Retired, func(r retired) bool { return !now.Before(r.Until) }) {
		return nil
	}
	conn, done, err := b.connectionOf(ctx, req.Storage, config)
	if err != nil {
		return err
	}
	defer done()
	why := b.removeRetiredRoot(ctx, req, conn)
	if why == nil && config.Rotation.Trouble == "" {
		return nil
	}
	if _, said := b.reported.LoadOrStore("retired "+requestID.ReplaceAllString(fmt.Sprint(why), ""), true); why != nil && !said {
		b.Logger().Error("a credential of the engine that was replaced could not be removed; it is tried again every hour", "error", why)
		b.event(ctx, "root-rotate-fail", "config/rotate-root", "next_attempt", rfc3339(now.Add(schedule.LongestRetry)))
	}
	return b.changeRotation(context.WithoutCancel(ctx), req.Storage, func(c *configEntry) {
		c.Rotation.Trouble, c.Rotation.Again = "", time.Time{}
		if why != nil {
			c.Rotation.Trouble, c.Rotation.Again = why.Error(), b.now().UTC().Add(schedule.LongestRetry).Truncate(time.Second)
		}
	})
}

// removeRetiredRoot removes what was replaced and has had its grace. The caller has the turn. What can't be removed stays
// recorded until it has ended by itself.
func (b *backend) removeRetiredRoot(ctx context.Context, req *logical.Request, conn *connection) error {
	var done []string
	var errs []error
	for _, old := range conn.config.Rotation.Retired {
		if b.now().Before(old.Until) {
			continue
		}
		if err := b.revokeKept(ctx, conn, &old.kept); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, old.ID)
	}
	if len(done) == 0 {
		return errors.Join(errs...)
	}
	err := b.changeRotation(context.WithoutCancel(ctx), req.Storage, func(c *configEntry) {
		c.Rotation.Retired = slices.DeleteFunc(c.Rotation.Retired, func(r retired) bool { return slices.Contains(done, r.ID) })
	})
	return errors.Join(append(errs, err)...)
}
