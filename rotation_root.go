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
	"vault-plugin-secrets-databricks/internal/duration"
	"vault-plugin-secrets-databricks/internal/schedule"
)

const (
	// rootGrace is how long the engine's credential lives on when it has a successor: for requests in flight, and for nodes that
	// have not read the new config yet.
	rootGrace = 5 * time.Minute

	// prepareBudget is how long the calls before the create may take.
	prepareBudget = 40 * time.Second

	// expirySoon is how long before its end answers begin to warn of a credential that is not rotated automatically.
	expirySoon = 30 * 24 * time.Hour

	// rootLife is how long the engine's credential should live at least where it is rotated automatically: when it ends before
	// Vault is back from an outage, an operator has to create another one.
	rootLife = 90 * 24 * time.Hour
)

// rootMargin is how much of the credential's life must be left when it is replaced.
const rootMargin = time.Hour

// rootRotation is what is stored with the config about the rotation of its credential.
type rootRotation struct {
	rotationState

	// Credential is the config's, if a rotation made it. ID is empty when an operator created it.
	Credential storedCredential `json:"credential,omitzero"`

	// OperatorCreated are ids of credentials that an operator created and that have been replaced since. The engine leaves them alone:
	// only the operator knows who else uses them.
	OperatorCreated []string `json:"hand_made,omitempty"`

	// Managed is set where Vault's own rotation manager follows the schedule.
	Managed bool `json:"managed,omitempty"`
}

// all returns the credentials that the config holds.
func (r *rootRotation) all() []storedCredential { return r.rotationState.all(&r.Credential) }

// retire puts the current credential, which a rotation made, among those to be removed.
func (r *rootRotation) retire(config *configEntry, now time.Time) {
	grace := rootGrace
	if config.Automatic() {
		// An OAuth secret in its grace takes one of few places.
		shortest, _ := config.Spans(1, now)
		grace = min(grace, shortest/2)
	}
	r.Retired = append(r.Retired, r.Credential.retire(now, grace))
	r.Credential = storedCredential{}
}

func (c *configEntry) rotationView() rotationView {
	r := &c.Rotation
	return rotationView{rotationState: &r.rotationState, current: &r.Credential, schedule: c.effectiveSchedule(), margin: rootMargin, managed: r.Managed}
}

// rootItem is the engine's own credential as one that is rotated.
type rootItem struct {
	b      *backend
	req    *logical.Request
	config *configEntry
	byHand bool // somebody asks for the rotation
}

// lockRoot takes the lock of the engine's own credential and loads it. The caller must call unlock, even after an error.
func (b *backend) lockRoot(ctx context.Context, req *logical.Request) (root *rootItem, unlock func(), err error) {
	if unlock, err = b.rotationLocks.Lock(ctx, configStorageKey); err != nil {
		return nil, func() {}, err
	}
	root = &rootItem{b: b, req: req}
	found, err := root.load(ctx)
	if err == nil && !found {
		err = errNotConfigured
	}
	return root, unlock, err
}

func (r *rootItem) labels() rotationLabels {
	return rotationLabels{
		key: configStorageKey, kind: "the engine's own credential", what: "the engine's own credential",
		event: "root-rotate", path: "config/rotate-root",
		pending: "a credential of the engine that was replaced could not be removed; it is tried again every hour",
	}
}

func (r *rootItem) load(ctx context.Context) (found bool, err error) {
	r.config, err = readConfig(ctx, r.req.Storage)
	return r.config != nil, err
}

func (r *rootItem) view() rotationView { return r.config.rotationView() }

// change goes by the credential that the config has, which an operator may replace at any time.
func (r *rootItem) change(ctx context.Context, change func(rotationView)) (done bool, err error) {
	config := r.config
	err = r.b.changeRotation(ctx, r.req.Storage, func(stored *configEntry) {
		if done = stored.sameCredential(r.config); done {
			change(stored.rotationView())
			config = stored
		}
	})
	if err == nil {
		r.config = config
	}
	return done, err
}

func (r *rootItem) rotate(ctx context.Context) error {
	unidentified, err := r.replace(ctx)
	if unidentified != "" {
		r.b.Logger().Warn(unidentified)
	}
	return err
}

// followUp removes what has had its grace. What can't be removed now is tried again in an hour.
func (r *rootItem) followUp(ctx context.Context) error {
	pending := r.view().nextPending()
	if pending.IsZero() || pending.After(r.b.now()) {
		return nil
	}
	conn, err := r.b.connectionOf(ctx, r.req.Storage, r.config)
	if err != nil {
		return err
	}
	gone, why := r.removeRetired(ctx, conn)
	return r.recordPending(ctx, gone, why)
}

// removeRetired removes what has had its grace, and returns the ids of what is gone, and why the rest is not.
func (r *rootItem) removeRetired(ctx context.Context, conn *connection) (gone []string, why error) {
	now := r.b.now()
	return r.b.removeRetired(ctx, conn, r.config.Rotation.Retired, func(old *retired) bool { return !now.Before(old.Until) })
}

// forget records that retired credentials are gone.
func (r *rootItem) forget(ctx context.Context, gone []string) error {
	if len(gone) == 0 {
		return nil
	}
	return r.b.changeRotation(context.WithoutCancel(ctx), r.req.Storage, func(c *configEntry) { c.Rotation.forget(gone) })
}

// recordPending records which retired credentials are gone, and why others are not.
func (r *rootItem) recordPending(ctx context.Context, gone []string, why error) error {
	hourly := func(int) time.Duration { return schedule.LongestRetry }
	done, err := r.change(context.WithoutCancel(ctx), func(v rotationView) {
		v.forget(gone)
		v.pending(r.b.now(), why, hourly)
	})
	if err == nil && !done {
		err = r.forget(ctx, gone) // what is gone is gone, whatever credential the config has by now
	}
	return errors.Join(why, err)
}

// replace replaces the engine's own credential: it creates a new one, verifies it by use, saves it, and only then uses it. What it
// replaces is removed after rootGrace if a rotation made it. Until the new one is saved, the old one is as good as ever. Where that
// can't be told from others at Databricks, unidentified says what to tell the operator.
func (r *rootItem) replace(ctx context.Context) (unidentified string, err error) {
	b, config := r.b, r.config
	if !rotates(config.AuthType) {
		return "", notRotated(keyAuthType, config.AuthType)
	}
	conn, err := b.connectionOf(ctx, r.req.Storage, config)
	if err != nil {
		return "", err
	}
	if err := r.makeRoom(ctx, conn); err != nil {
		return "", err
	}
	prepared, cancel := context.WithTimeout(ctx, prepareBudget)
	defer cancel()
	identity, err := conn.whoami(prepared)
	if err != nil {
		return "", fmt.Errorf("ask who the present credential belongs to: %w", err)
	}
	old, err := r.find(prepared, conn, identity)
	if err != nil {
		return "", err
	}
	want := rootRequest(r.req, config, identity, old.scopes)
	// A long life is asked for, and where the workspace refuses that, one that it is known to give, or that suffices.
	for i, lifetime := range rootLifetimes(config, old.lifetime, b.now()) {
		if i > 0 {
			b.Logger().Info("Databricks refused the engine's own credential, so one with a shorter life is asked for", "lifetime", duration.Text(lifetime), "error", err)
		}
		created := false
		want.lifetime = lifetime
		err = b.makeStored(ctx, r.req.Storage, conn, want, func(ctx context.Context, k *storedCredential, token *credential.Credential) error {
			created = true
			return r.adopt(ctx, identity, old, k, token.SecretPart())
		})
		switch {
		case err == nil:
			k := &r.config.Rotation.Credential
			b.Logger().Info("the engine's own credential was replaced", "auth_type", config.AuthType, "id", k.ID, "expires", rfc3339(k.Expires), "replaced", old.id)
			b.event("root-rotate", "config/rotate-root", "auth_type", config.AuthType, "id", k.ID, "replaced", old.id, "expiry_time", rfc3339(k.Expires))
			return old.unidentified, nil
		case created:
			return "", err
		case !client.IsKind(err, client.Refused) || !credential.NotApplied(err):
			return "", fmt.Errorf("make a new credential: %w", err)
		}
	}
	return "", fmt.Errorf("make a new credential: %w", err)
}

// rootRequest returns the request for another credential of the config's identity, with the API scopes of the present one.
func rootRequest(req *logical.Request, config *configEntry, identity *client.Identity, scopes []string) storedRequest {
	want := storedRequest{key: configStorageKey, text: "Vault's own, for the mount " + req.MountPoint}
	if config.AuthType == client.AuthPAT {
		want.credentialType, want.spec = credential.PAT, credential.Spec{Scopes: scopes, Stored: true}
	} else {
		want.credentialType, want.spec = credential.OAuthSecret, credential.Spec{ServicePrincipalID: identity.ID, ApplicationID: config.ClientID, Scopes: scopes, Stored: true}
	}
	return want
}

// adopt verifies the new credential by use, and makes it the stored config's and the mount's, unless the config has got another
// credential since.
func (r *rootItem) adopt(ctx context.Context, identity *client.Identity, old *rootFound, k *storedCredential, secret client.Secret) error {
	b := r.b
	probe := *r.config
	probe.Identity = nil
	probe.setSecret(secret)
	if err := b.verifyRoot(ctx, &probe, identity); err != nil {
		return err
	}
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	config, err := readConfig(ctx, r.req.Storage)
	if err != nil {
		return err
	}
	if config == nil || !config.sameCredential(r.config) {
		return logical.CodedError(http.StatusConflict, "the config was changed by somebody else during the rotation; what was written is in force, and the new credential is removed")
	}
	config.setSecret(secret)
	config.Identity, config.Verified = identity, b.now().UTC()
	rotation := &config.Rotation
	if rotation.Credential.ID != "" {
		rotation.retire(config, b.now())
	} else if old.id != "" {
		rotation.OperatorCreated = append(rotation.OperatorCreated, old.id)
	}
	rotation.OperatorCreated = slices.DeleteFunc(rotation.OperatorCreated, func(id string) bool { return !old.live[id] })
	rotation.Credential = *k
	rotation.succeeded(config.effectiveSchedule(), b.now())
	conn, err := b.connect(ctx, config)
	if err != nil {
		return err
	}
	if err := b.putConnection(ctx, r.req.Storage, conn); err != nil {
		return &uncertainError{err}
	}
	r.config = config
	return nil
}

// verifyRoot uses the new credential, and returns an error unless it belongs to the same identity.
func (b *backend) verifyRoot(ctx context.Context, config *configEntry, identity *client.Identity) error {
	conn, err := b.connect(ctx, config)
	if err != nil {
		return err
	}
	who, err := conn.client.Me(ctx)
	switch {
	case client.IsKind(err, client.Unauthenticated):
		return fmt.Errorf("the new credential does not work, so it is removed and the old one stays: %w", err)
	case err != nil:
		return fmt.Errorf("the new credential could not be verified, so it is removed and the old one stays: %w", err)
	}
	if who.ID != identity.ID {
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the new credential belongs to %s rather than to %s, so it is removed and the old one stays", who.UserName, identity.UserName))
	}
	return nil
}

// rootLifetimes returns how long the new credential should live, in the order of trying. Granted is how long the current one was made
// to live, 0 for unknown.
func rootLifetimes(config *configEntry, granted time.Duration, now time.Time) []time.Duration {
	longest := maxLifetime - minLifetimeOffset
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

// changeRotation changes what is stored about the rotation, if there is a config. The connection stays as it is.
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

// removeCredentials removes credentials that rotations made for a config that is no longer needed, the one that it connects with last. It
// returns the ids of those that are gone, and what to tell the operator about the others.
func (b *backend) removeCredentials(ctx context.Context, config *configEntry, all []storedCredential) (gone, warnings []string) {
	if len(all) == 0 {
		return nil, nil
	}
	all = slices.Clone(all)
	slices.Reverse(all)
	conn, connErr := b.connect(ctx, config)
	for _, k := range all {
		b.Logger().Info("removing a credential of the engine, since its config is no longer used", "credential_type", k.Type, "id", k.ID, "host", k.Host)
		err := connErr
		if err == nil {
			err = b.revokeStored(ctx, conn, &k)
		}
		if k.ID == config.Rotation.Credential.ID && client.IsKind(err, client.Unauthenticated) {
			err = nil // it is the one to connect with, so it is gone
		}
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("The engine's own %s %s may be left at %s; it ends by itself at %s (%s)", k.Type, k.ID, k.Host, rfc3339(k.Expires), err))
		} else {
			gone = append(gone, k.ID)
		}
	}
	return gone, warnings
}

// rotates reports whether the auth type has a credential that the engine can replace.
func rotates(authType string) bool {
	return authType == client.AuthPAT || authType == client.AuthOAuthM2M
}

// notRotated returns the error for an auth type whose credential can't be replaced, which says what to do instead.
func notRotated(field, authType string) error {
	switch authType {
	case client.AuthAzureClientSecret:
		return badField(field, "auth_type %s has a secret of Entra ID, which is rotated there; write the new one to config, or use %s", authType, client.AuthOIDC)
	default:
		return badField(field, "auth_type %s has no stored secret, so there is nothing to rotate", authType)
	}
}
