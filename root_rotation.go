// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
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

// managedPatience is how late Vault's rotation manager may be. Then the engine takes over: the manager may have lost the schedule, as
// when the storage was restored elsewhere.
const managedPatience = time.Hour

// next is when the credential is due.
func (r *rootRotation) next() time.Time { return r.due(&r.Credential, rootMargin) }

// rotateAt is when the engine's next attempt is made to replace it.
func (r *rootRotation) rotateAt(s schedule) time.Time {
	if !r.Managed || r.Next.IsZero() {
		return r.progress.at(&r.Credential, rootMargin)
	}
	at := earliest(r.Next.Add(managedPatience+seconds(s.Window)), r.Credential.latest(rootMargin))
	if r.Retry.After(at) {
		return r.Retry
	}
	return at
}

// at is when there is something to do; zero for never.
func (r *rootRotation) at(s schedule) time.Time {
	at := r.rotateAt(s)
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
func (r *rootRotation) correct(s schedule, now time.Time) bool {
	changed := !r.Managed && r.progress.corrected(s, now)
	changed = r.Credential.corrected(now) || changed
	for i := range r.Retired {
		changed = r.Retired[i].corrected(now) || changed
	}
	if r.Again.After(now.Add(longestRetry)) {
		r.Again, changed = time.Time{}, true
	}
	return changed
}

// cloneRotation makes the rotation the config's alone, and answers it.
func (c *configEntry) cloneRotation() *rootRotation {
	c.Rotation.Retired, c.Rotation.HandMade = slices.Clone(c.Rotation.Retired), slices.Clone(c.Rotation.HandMade)
	return &c.Rotation
}

// effectiveSchedule is the schedule that the engine itself keeps.
func (c *configEntry) effectiveSchedule() schedule {
	if c.DisableRotation {
		return schedule{}
	}
	return c.schedule
}

// sameCredential tells whether both configs connect to the same place as the same one.
func (c *configEntry) sameCredential(other *configEntry) bool {
	return c.Host == other.Host && c.AuthType == other.AuthType && c.AccountID == other.AccountID && c.WorkspaceID == other.WorkspaceID &&
		c.ClientID == other.ClientID && c.Token == other.Token && c.ClientSecret == other.ClientSecret && c.AzureClientSecret == other.AzureClientSecret &&
		c.AzureTenantID == other.AzureTenantID && c.AzureClientID == other.AzureClientID
}

// retire puts the present credential, which a rotation made, among those to be removed.
func (r *rootRotation) retire(config *configEntry, now time.Time) {
	grace := rootGrace
	if config.automatic() {
		// An OAuth secret in its grace takes one of few places.
		shortest, _ := config.spans(1, now)
		grace = min(grace, shortest/2)
	}
	r.Retired = append(r.Retired, r.Credential.retire(now, grace))
	r.Credential = kept{}
}

// rotateRoot replaces the engine's own credential: it makes a new one, proves it by use, saves it, and only then uses it. What it
// replaces is removed after rootGrace if a rotation made it. Until the new one is saved, the old one is as good as ever. A
// wanted that answers false, once it is our turn, ends it without an error.
func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, wanted func(*configEntry) bool) (now *configEntry, unrecognised string, err error) {
	leave, err := b.rotationTurns.take(ctx, configStorageKey)
	if err != nil {
		return nil, "", err
	}
	defer leave()
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

	lasting, end := context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
	defer end()
	u, k, token, err := b.makeRoot(lasting, req, conn, identity, old)
	if err != nil {
		return nil, "", fmt.Errorf("make a new credential: %w", err)
	}
	defer u.end(lasting)
	renewed := *config
	secret := client.Secret(token.data[token.secret].(string))
	if config.AuthType == client.AuthPAT {
		renewed.Token = secret
	} else {
		renewed.ClientSecret = secret
	}
	if err := b.proveRoot(lasting, &renewed, identity); err != nil {
		return nil, "", err
	}
	renewed.Identity, renewed.Verified = identity, b.now().UTC()
	err = u.saveKept(lasting, func() error {
		now, err = b.saveRoot(lasting, req.Storage, config, &renewed, k, old)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	b.Logger().Info("the engine's own credential was replaced", "auth_type", now.AuthType, "id", k.ID, "expires", rfc3339(k.Expires), "replaced", old.id)
	b.event(lasting, "root-rotate", "config/rotate-root", "auth_type", now.AuthType, "id", k.ID, "replaced", old.id, "expiry_time", rfc3339(k.Expires))
	return now, old.unrecognised, nil
}

// makeRoot makes the new credential. It asks for a long life, and where the workspace refuses that, for one that it is known to
// give, or that suffices.
func (b *backend) makeRoot(ctx context.Context, req *logical.Request, conn *connection, identity *client.Identity, old *rootFound) (*undertaking, *kept, *minted, error) {
	role := &roleEntry{CredentialType: credentialPAT, Scopes: old.scopes}
	if conn.config.AuthType == client.AuthOAuthM2M {
		role = &roleEntry{CredentialType: credentialOAuthSecret, ServicePrincipalID: identity.ID, ApplicationID: conn.config.ClientID}
	}
	var err error
	for i, lifetime := range rootLifetimes(conn.config, old.lifetime, b.now()) {
		if i > 0 {
			b.Logger().Info("Databricks refused the engine's own credential, so one with a shorter life is asked for", "lifetime", lifetime.String(), "error", err)
		}
		var u *undertaking
		var k *kept
		var token *minted
		u, k, token, err = b.makeKept(ctx, req.Storage, conn, configStorageKey, "", role, "Vault's own, for the mount "+req.MountPoint, lifetime)
		if err == nil {
			return u, k, token, nil
		}
		if !isKind(err, client.Refused) || !hadNoEffect(err) {
			break
		}
	}
	return nil, nil, nil, err
}

// rootLifetimes are how long the new credential should live, in the order of trying.
func rootLifetimes(config *configEntry, granted time.Duration, now time.Time) []time.Duration {
	longest := maxLifetime - maxLifetimeOffset*time.Second
	lives := []time.Duration{rootLife, expirySoon}
	if s := config.effectiveSchedule(); s.automatic() {
		need := min(s.need(now)+rootGrace, longest)
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

// putConfig stores the config.
func putConfig(ctx context.Context, s logical.Storage, config *configEntry) error {
	entry, err := logical.StorageEntryJSON(configStorageKey, config.seal())
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
