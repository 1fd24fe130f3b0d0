// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keyDisableRotation = "disable_automated_rotation"
	keyHandMade        = "hand_made_credentials"
	keyCredentialID    = "credential_id"
	keyRetiredIDs      = "retired_ids"

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
const managedPatience = 24 * time.Hour

// next is when the credential is due.
func (r *rootRotation) next() time.Time { return r.due(&r.Credential, rootMargin) }

// rotateAt is when the engine's next attempt is made to replace it.
func (r *rootRotation) rotateAt(s schedule) time.Time {
	at := r.progress.at(&r.Credential, rootMargin)
	if !r.Managed || at.IsZero() || at.Before(r.Next) {
		return at // before, because the credential ends
	}
	return at.Add(managedPatience + seconds(s.Window))
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

func (b *backend) pathRotateRoot() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config/rotate-root",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationVerb:   "rotate",
			OperationSuffix: "root-credentials",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.writeOperation(b.handleRotateRoot, "Replace the engine's own credential.",
				[]framework.Response{{Description: "Replaced.", Fields: rootResponseFields}}, framework.RequestExample{Description: "Replace it now.", Data: map[string]any{}}),
		},
		HelpSynopsis:    "Replace the engine's own credential by one that only Vault knows.",
		HelpDescription: strings.TrimSpace(rotateRootHelp),
	}}
}

var rootResponseFields = map[string]*framework.FieldSchema{
	keyAuthType:     {Type: framework.TypeString, Required: true, Description: "How the engine authenticates."},
	keyCredentialID: {Type: framework.TypeString, Required: true, Description: "Id of the credential that the engine uses; empty while it is one that was made by hand."},
	keyExpiryTime:   {Type: framework.TypeString, Required: true, Description: "When it ends at Databricks, RFC 3339."},
	keyLastRotation: {Type: framework.TypeString, Required: true, Description: "When Vault last replaced the credential, RFC 3339."},
	keyNextRotation: {Type: framework.TypeString, Required: true, Description: "When Vault will next replace it, RFC 3339; null for never."},
	keyRetiredIDs:   {Type: framework.TypeStringSlice, Required: true, Description: "Ids of credentials that it replaced and that are removed within minutes."},
	keyHandMade:     {Type: framework.TypeStringSlice, Required: true, Description: "Ids of credentials that were made by hand and have been replaced, to be deleted by hand."},
}

func (b *backend) handleRotateRoot(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	config, unrecognised, err := b.rotateRoot(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	r := config.Rotation
	resp := &logical.Response{Data: map[string]any{
		keyAuthType:     config.AuthType,
		keyCredentialID: r.Credential.ID,
		keyExpiryTime:   rfc3339(r.Credential.Expires),
		keyLastRotation: rfc3339(r.Last),
		keyNextRotation: nil,
		keyRetiredIDs:   r.retiredIDs(),
		keyHandMade:     append([]string{}, r.HandMade...),
	}}
	if next := r.next(); !next.IsZero() {
		resp.Data[keyNextRotation] = rfc3339(next)
	}
	if unrecognised != "" {
		resp.AddWarning(unrecognised)
	}
	addRootWarnings(resp, req.MountPoint, config, b.now().Add(maxLifetime))
	return resp, nil
}

// addTrouble shows in an answer what could not be removed.
func (r *rootRotation) addTrouble(data map[string]any) {
	data[keyPendingError], data[keyPendingAttempt] = r.Trouble, nil
	if !r.Again.IsZero() {
		data[keyPendingAttempt] = rfc3339(r.Again)
	}
}

func (r *rootRotation) retiredIDs() []string {
	ids := []string{}
	for _, old := range r.Retired {
		ids = append(ids, old.ID)
	}
	return ids
}

// addRootWarnings tells what an operator has to do about the engine's own credential, if it ends before soon among the rest.
func addRootWarnings(resp *logical.Response, mountPoint string, config *configEntry, soon time.Time) {
	r := config.Rotation
	for _, id := range r.HandMade {
		how := fmt.Sprintf("vault delete %stokens/%s", mountPoint, id)
		if config.AuthType == client.AuthOAuthM2M {
			who := ""
			if config.Identity != nil {
				who = config.Identity.ID + " "
			}
			command := "service-principal-secrets-proxy"
			if r.Credential.AccountID != "" {
				command = "account service-principal-secrets"
			}
			how = fmt.Sprintf("databricks %s delete %s%s", command, who, id)
		}
		resp.AddWarning(fmt.Sprintf("Credential %s was made by hand and still works, although Vault has replaced it. If nobody else uses it, delete it: %s", id, how))
	}
	if r.Credential.ID != "" && r.Credential.Expires.Before(soon) && !config.effectiveSchedule().automatic() {
		resp.AddWarning(fmt.Sprintf("The engine's credential ends at %s, and nothing replaces it before; set rotation_period or rotation_schedule in config, or rotate again in time.", rfc3339(r.Credential.Expires)))
	}
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

// rootFound is what is known of the credential that is to be replaced.
type rootFound struct {
	id           string        // empty when it can't be told from others
	lifetime     time.Duration // that it was made with; 0 for unknown or endless
	scopes       []string
	live         map[string]bool // all credentials of its kind that the identity has
	unrecognised string          // what to tell the operator when id is empty
}

// connectionOf answers a connection with the stored config: the mount's own, if that has the same credential. Done must be called.
func (b *backend) connectionOf(ctx context.Context, s logical.Storage, config *configEntry) (conn *connection, done func(), err error) {
	if shared, err := b.connection(ctx, s); err == nil && shared.config.sameCredential(config) {
		return &connection{config: config, client: shared.client, account: shared.account, identity: shared.knownIdentity()}, func() {}, nil
	}
	if conn, err = b.connect(ctx, config); err != nil {
		return nil, nil, err
	}
	return conn, conn.client.Close, nil
}

// recogniseRoot looks for the present credential at Databricks, and refuses when there is no room for another.
func (b *backend) recogniseRoot(ctx context.Context, req *logical.Request, conn *connection, identity *client.Identity) (*rootFound, error) {
	if conn.config.AuthType == client.AuthPAT {
		return recogniseToken(ctx, req.MountPoint, conn, identity)
	}
	found, err := b.recogniseSecret(ctx, req.Storage, conn, identity)
	if err == nil || !errors.Is(err, errNoRoom) {
		return found, err
	}
	// What has had its grace makes room.
	if removeErr := b.removeRetiredRoot(ctx, req, conn); removeErr != nil {
		return nil, errors.Join(err, removeErr)
	}
	return b.recogniseSecret(ctx, req.Storage, conn, identity)
}

func recogniseToken(ctx context.Context, mountPoint string, conn *connection, identity *client.Identity) (*rootFound, error) {
	tokens, err := conn.client.ListTokens(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tokens of %s: %w", identity.UserName, err)
	}
	ours := conn.config.Rotation.Credential
	found := &rootFound{live: make(map[string]bool), id: ours.ID, scopes: ours.Scopes}
	if ours.ID == "" {
		found.id = tokenIDOf(conn.config.Token)
	}
	scoped := false
	for _, token := range tokens {
		found.live[token.TokenID] = true
		scoped = scoped || len(token.Scopes) > 0
		if token.TokenID == found.id {
			found.lifetime = grantedLife(token.CreationTime, token.ExpiryTime)
			if ours.ID == "" {
				found.scopes = token.Scopes
			}
		}
	}
	switch {
	case ours.ID != "" || found.live[found.id]:
	case scoped || len(tokens) == 0:
		return nil, badField(keyToken, "the present one can't be recognised among the %d tokens that %s is said to have, so it isn't known which API scopes a new one may have; try again, or make one by hand, and write it to config", len(tokens), identity.UserName)
	default:
		found.id = ""
		found.unrecognised = fmt.Sprintf("The token that was replaced can't be recognised among the %d tokens of %s, and still works; delete it by hand (vault list %stokens shows them).", len(tokens), identity.UserName, mountPoint)
	}
	return found, nil
}

// tokenIDOf is the id of a personal access token: the SHA-256 of it (Databricks SDK, UpdateTokenRequest).
func tokenIDOf(token client.Secret) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return hex.EncodeToString(sum[:])
}

func (b *backend) recogniseSecret(ctx context.Context, s logical.Storage, conn *connection, identity *client.Identity) (*rootFound, error) {
	secrets, err := conn.client.ListOAuthSecrets(ctx, identity.ID)
	if err != nil {
		return nil, fmt.Errorf("list the OAuth secrets of the engine's own service principal: %w", explainPrincipal(err, identity.ID))
	}
	ours := conn.config.Rotation.Credential
	found := &rootFound{live: make(map[string]bool), id: ours.ID}
	var all, unknown []string
	known := make(map[string]bool)
	err = eachKept(ctx, s, func(_ string, kept []kept) {
		for _, k := range kept {
			known[k.ID] = true
		}
	})
	if err != nil && !isUnreadable(err) {
		return nil, err
	}
	lives := make(map[string]time.Duration)
	for _, secret := range secrets {
		all = append(all, secret.ID)
		found.live[secret.ID] = true
		lives[secret.ID] = grantedLife(secret.CreateTime, secret.ExpireTime)
		if !known[secret.ID] {
			unknown = append(unknown, secret.ID)
		}
	}
	if len(secrets) >= maxOAuthSecrets {
		return nil, noRoom(conn.config, identity, all)
	}
	if ours.ID == "" {
		if len(unknown) == 1 {
			found.id = unknown[0]
		} else {
			found.unrecognised = fmt.Sprintf("The OAuth secret that was replaced can't be told from the others of service principal %s, so it still works. It is one of these, unless they belong to leases of this mount; delete it by hand: %s", identity.UserName, quoted(unknown))
		}
	}
	found.lifetime = lives[found.id]
	return found, nil
}

// errNoRoom is that a service principal has all the secrets that it can have.
var errNoRoom = errors.New("there is no room for a new one")

// noRoom refuses a rotation because the service principal has all the secrets that it can have.
func noRoom(config *configEntry, identity *client.Identity, ids []string) error {
	soon := ""
	for _, old := range config.Rotation.Retired {
		if slices.Contains(ids, old.ID) {
			soon = fmt.Sprintf("; %s is removed at %s anyway, so try again after that", old.ID, rfc3339(old.Until))
			break
		}
	}
	return fmt.Errorf("%w: %w", badField(keyClientSecret, "service principal %s has %d OAuth secrets, which is all it can have: %s. Delete one that is no longer needed, or revoke leases of roles for this service principal%s", identity.UserName, len(ids), quoted(ids), soon), errNoRoom)
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

// retire puts the present credential, which a rotation made, among those to be removed.
func (r *rootRotation) retire(config *configEntry, now time.Time) {
	grace := rootGrace
	if config.Period > 0 {
		grace = min(grace, seconds(config.Period)/2)
	}
	r.Retired = append(r.Retired, r.Credential.retire(now, grace))
	r.Credential = kept{}
}

// sameCredential tells whether both configs connect to the same place as the same one.
func (c *configEntry) sameCredential(other *configEntry) bool {
	return c.Host == other.Host && c.AuthType == other.AuthType && c.AccountID == other.AccountID && c.WorkspaceID == other.WorkspaceID &&
		c.ClientID == other.ClientID && c.Token == other.Token && c.ClientSecret == other.ClientSecret && c.AzureClientSecret == other.AzureClientSecret &&
		c.AzureTenantID == other.AzureTenantID && c.AzureClientID == other.AzureClientID
}

// effectiveSchedule is the schedule that the engine itself keeps.
func (c *configEntry) effectiveSchedule() schedule {
	if c.DisableRotation {
		return schedule{}
	}
	return c.schedule
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
	if at := r.at(s); at.IsZero() || at.After(now) {
		return at, nil
	}
	switch scheduled := r.rotateAt(s); {
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
	return config.Rotation.at(config.effectiveSchedule()), nil
}

// cloneRotation makes the rotation the config's alone, and answers it.
func (c *configEntry) cloneRotation() *rootRotation {
	c.Rotation.Retired, c.Rotation.HandMade = slices.Clone(c.Rotation.Retired), slices.Clone(c.Rotation.HandMade)
	return &c.Rotation
}

// rotateRootInTime rotates, or records why that failed.
func (b *backend) rotateRootInTime(ctx context.Context, req *logical.Request) error {
	var before *configEntry
	_, unrecognised, err := b.rotateRoot(ctx, req, func(c *configEntry) bool {
		before = c
		at := c.Rotation.rotateAt(c.effectiveSchedule())
		return !at.IsZero() && !at.After(b.now())
	})
	if unrecognised != "" {
		b.Logger().Warn(unrecognised)
	}
	if err == nil {
		return nil
	}
	_, saveErr := b.recordRootFailure(ctx, req.Storage, before, err, true)
	return saveErr
}

// recordRootFailure records why the credential of before could not be replaced, even if there is no time left for anything else. It
// doesn't when the storage has another credential by now: after an error that left open whether the new one was saved, or because
// somebody wrote the config meanwhile. Again tells whether the engine tries again, or leaves that to Vault's rotation manager.
func (b *backend) recordRootFailure(ctx context.Context, s logical.Storage, before *configEntry, why error, again bool) (replaced bool, err error) {
	ctx = context.WithoutCancel(ctx)
	var p progress
	err = b.changeRotation(ctx, s, func(c *configEntry) {
		if replaced = before != nil && !c.sameCredential(before); !replaced {
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
	leave, err := b.rotationTurns.take(ctx, configStorageKey)
	if err != nil {
		return err
	}
	defer leave()
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
	if _, said := b.complaints.LoadOrStore("retired "+requestID.ReplaceAllString(fmt.Sprint(why), ""), true); why != nil && !said {
		b.Logger().Error("a credential of the engine that was replaced could not be removed; it is tried again every hour", "error", why)
		b.event(ctx, "root-rotate-fail", "config/rotate-root", "next_attempt", rfc3339(now.Add(longestRetry)))
	}
	return b.changeRotation(context.WithoutCancel(ctx), req.Storage, func(c *configEntry) {
		c.Rotation.Trouble, c.Rotation.Again = "", time.Time{}
		if why != nil {
			c.Rotation.Trouble, c.Rotation.Again = why.Error(), b.now().UTC().Add(longestRetry).Truncate(time.Second)
		}
	})
}

const rotateRootHelp = `
Makes a new credential for the engine itself, proves it by use, saves it, and only
then uses it: a token for auth_type pat, an OAuth secret of its own service principal
for oauth-m2m. The one before is removed 5 minutes later, if a rotation made it. One
that was made by hand is left alone, and the answer says how to delete it.

  vault write -f databricks/config/rotate-root

To have it done by itself:

  vault write databricks/config rotation_period=720h
  vault write databricks/config rotation_schedule='0 3 * * SAT' rotation_window=4h
`
