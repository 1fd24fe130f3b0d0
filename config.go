// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/duration"
	"vault-plugin-secrets-databricks/internal/schedule"
)

// sameConfig reports whether a stored config, nil for none, is as it was, whatever has become of its rotation. It returns the
// current one, or the default.
func sameConfig(before, now *logical.StorageEntry) (same bool, stored *configEntry, err error) {
	if before == nil || now == nil {
		return before == now, newConfig(), nil
	}
	then, err := decodeConfig(before)
	if err != nil {
		return false, nil, err
	}
	if stored, err = decodeConfig(now); err != nil {
		return false, nil, err
	}
	a, b := *then, *stored
	a.Rotation, b.Rotation = rootRotation{}, rootRotation{}
	return reflect.DeepEqual(a, b), stored, nil
}

// replaces reports whether the config has another credential than the stored one.
func (c *configEntry) replaces(stored *configEntry) bool {
	return stored.Host != "" && (c.AuthType != stored.AuthType || c.ClientID != stored.ClientID || c.Token != stored.Token || c.ClientSecret != stored.ClientSecret)
}

const (
	// configStoragePrefix is seal-wrapped; the trailing slash makes it a prefix.
	configStoragePrefix = "config/"
	configStorageKey    = configStoragePrefix + "connection"
)

// Limits of config fields.
const (
	maxRequestTimeout = 50   // seconds, the budget of a whole call
	maxMaxRetries     = 10   // a revoke must end well before Vault gives up on it
	maxRateLimit      = 1000 // requests per second
	minRateLimit      = 1    // requests per second; a slower client could not even revoke what ends
)

// configEntry is the connection of a mount. Durations are whole seconds.
type configEntry struct {
	Host             string  `json:"host"`
	AuthType         string  `json:"auth_type"`
	ClientID         string  `json:"client_id"`
	AccountID        string  `json:"account_id"`
	WorkspaceID      string  `json:"workspace_id"`
	CACert           string  `json:"ca_cert"`
	TTL              int64   `json:"ttl"`
	MaxTTL           int64   `json:"max_ttl"`
	RequestTimeout   int64   `json:"request_timeout"`
	MaxRetries       int     `json:"max_retries"`
	RateLimit        float64 `json:"rate_limit"`
	VerifyConnection bool    `json:"verify_connection"`

	AzureTenantID            string `json:"azure_tenant_id"`
	AzureClientID            string `json:"azure_client_id"`
	AzureWorkspaceResourceID string `json:"azure_workspace_resource_id"`

	IdentityTokenAudience string `json:"identity_token_audience"`
	IdentityTokenTTL      int64  `json:"identity_token_ttl"`

	schedule.Schedule
	DisableRotation bool         `json:"disable_automated_rotation"`
	RotationPolicy  string       `json:"rotation_policy,omitempty"` // for Vault's rotation manager
	Rotation        rootRotation `json:"rotation"`

	// Identity is who the credential belongs to, as Databricks said at Verified; nil when it was never asked.
	Identity *client.Identity `json:"identity,omitempty"`
	Verified time.Time        `json:"verified,omitzero"`

	Token             client.Secret `json:"-"`
	ClientSecret      client.Secret `json:"-"`
	AzureClientSecret client.Secret `json:"-"`
}

// sealedConfig is configEntry as it is stored: with its secrets, which configEntry itself never shows.
type sealedConfig struct {
	configEntry
	Token             string `json:"token"`
	ClientSecret      string `json:"client_secret"`
	AzureClientSecret string `json:"azure_client_secret"`
}

func (c *configEntry) seal() *sealedConfig {
	return &sealedConfig{configEntry: *c, Token: c.Token.Reveal(), ClientSecret: c.ClientSecret.Reveal(), AzureClientSecret: c.AzureClientSecret.Reveal()}
}

func (s *sealedConfig) open() *configEntry {
	c := s.configEntry
	c.Token, c.ClientSecret, c.AzureClientSecret = client.Secret(s.Token), client.Secret(s.ClientSecret), client.Secret(s.AzureClientSecret)
	return &c
}

// setSecret replaces the secret of an auth type that rotates.
func (c *configEntry) setSecret(secret client.Secret) {
	if c.AuthType == client.AuthPAT {
		c.Token = secret
	} else {
		c.ClientSecret = secret
	}
}

// newConfig returns the defaults of every field.
func newConfig() *configEntry {
	return &configEntry{
		RequestTimeout:   int64(client.DefaultRequestTimeout / time.Second),
		MaxRetries:       client.DefaultMaxRetries,
		VerifyConnection: true,
	}
}

// errUnreadableConfig says that the stored config makes no sense.
var errUnreadableConfig = errors.New("the stored config cannot be read")

// readConfig returns nil when the mount has no config.
func readConfig(ctx context.Context, s logical.Storage) (*configEntry, error) {
	entry, err := s.Get(ctx, configStorageKey)
	if err != nil || entry == nil {
		return nil, err
	}
	return decodeConfig(entry)
}

func decodeConfig(entry *logical.StorageEntry) (*configEntry, error) {
	sealed := newConfig().seal()
	if err := entry.DecodeJSON(sealed); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadableConfig, err)
	}
	config := sealed.open()
	// What v0.1.0 let through.
	if certificates, only := certificatesIn(config.CACert); !only {
		config.CACert = certificates
	}
	if config.RateLimit > 0 {
		config.RateLimit = max(config.RateLimit, minRateLimit)
	}
	return config, nil
}

// swapConfig saves the connection's config and makes it the mount's, unless the stored config is no longer what it was
// when the connection was made from it.
func (b *backend) swapConfig(ctx context.Context, s logical.Storage, before *logical.StorageEntry, conn *connection, given storedCredential, managedNext time.Time) error {
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	now, err := s.Get(ctx, configStorageKey)
	if err != nil {
		return err
	}
	same, stored, err := sameConfig(before, now)
	if err != nil {
		return err
	}
	if !same {
		return logical.CodedError(http.StatusConflict, "the config was changed by somebody else while this write was being verified; nothing was stored, read it and write again")
	}
	conn.config.carryRotation(stored, given, b.now(), managedNext)
	return b.putConnection(ctx, s, conn)
}

// putConnection stores the connection's config and makes the connection the mount's. After an error, the config may have been
// stored all the same. The caller holds configWrite.
func (b *backend) putConnection(ctx context.Context, s logical.Storage, conn *connection) error {
	defer b.nextRun.touch() // when it is stored: who looks before would find the old schedule
	if err := putConfig(ctx, s, conn.config); err != nil {
		b.dropConnection()
		return err
	}
	b.connections.put(configStorageKey, conn)
	return nil
}

// mergeConfig lays the request's fields over the old config and checks the result.
func mergeConfig(old *configEntry, data *framework.FieldData) (*configEntry, error) {
	cutLineEnds(data)
	sealed := newConfig().seal()
	if err := mergeFields(data, old.seal(), sealed); err != nil {
		return nil, err
	}
	config := sealed.open()
	config.Identity, config.Verified = nil, time.Time{}
	forgetWindow(&config.Schedule, data)

	if config.Host == "" {
		return nil, badField(keyHost, "is missing; send the workspace's URL, for example https://dbc-a1b2c3d4-e5f6.cloud.databricks.com")
	}
	host, err := client.ParseHost(config.Host)
	if err != nil {
		return nil, badField(keyHost, "%s", err)
	}
	config.Host = host
	if err := config.resolveAuth(data); err != nil {
		return nil, err
	}
	if secret := config.secretField(); old.Host != "" && config.Host != old.Host && secret != "" && !given(data, secret) {
		return nil, badField(keyHost, "changing it from %q to %q requires %s to be sent again, so that the stored secret can't be sent to another host", old.Host, config.Host, secret)
	}
	switch {
	case client.IsAccountHost(host) && config.AccountID == "":
		return nil, badField(keyAccountID, "is missing; %q is an account console. For a workspace send its own URL as host", host)
	case client.IsAccountHost(host) && config.AuthType == client.AuthPAT:
		return nil, badField(keyAuthType, "personal access tokens don't work on an account console; use %s", client.AuthOAuthM2M)
	case config.AccountID != "" && !applicationIDForm.MatchString(config.AccountID):
		return nil, badField(keyAccountID, "%q is not a UUID; it is shown in the account console, under the user's name", config.AccountID)
	case strings.Trim(config.WorkspaceID, "0123456789") != "":
		return nil, badField(keyWorkspaceID, "%q is not a number; it is the id after ?o= in the workspace's URL", config.WorkspaceID)
	case config.RequestTimeout < 1 || config.RequestTimeout > maxRequestTimeout:
		return nil, badField(keyRequestTimeout, "%s is out of range; send 1s to %s", duration.Seconds(config.RequestTimeout), duration.Seconds(maxRequestTimeout))
	case config.MaxRetries < 0 || config.MaxRetries > maxMaxRetries:
		return nil, badField(keyMaxRetries, "%d is out of range; send 0 to %d", config.MaxRetries, maxMaxRetries)
	case config.RateLimit != 0 && !(config.RateLimit >= minRateLimit && config.RateLimit <= maxRateLimit):
		return nil, badField(keyRateLimit, "%v is out of range; send %d to %d requests per second, or 0 for no ceiling", config.RateLimit, minRateLimit, maxRateLimit)
	case given(data, keyAzureWorkspaceResourceID) && !azureWorkspaceForm.MatchString(config.AzureWorkspaceResourceID):
		return nil, badField(keyAzureWorkspaceResourceID, "%q is not the resource id of a workspace; it is /subscriptions/…/resourceGroups/…/providers/Microsoft.Databricks/workspaces/…", config.AzureWorkspaceResourceID)
	}
	if given(data, keyCACert) {
		if err := checkCertificates(config.CACert); err != nil {
			return nil, badField(keyCACert, "%s", err)
		}
	}
	return config, checkTTLs(config.TTL, config.MaxTTL)
}

// azureWorkspaceForm matches the Azure resource id of a Databricks workspace. Azure ignores the case.
var azureWorkspaceForm = regexp.MustCompile(`^(?i)/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Databricks/workspaces/[^/\s]+$`)

// cutLineEnds cuts one final line end off every field that is sent in a text, but ca_cert: shells add one (echo "$TOKEN" | …).
func cutLineEnds(data *framework.FieldData) {
	for field, schema := range data.Schema {
		if text, ok := data.Raw[field].(string); ok && schema.Type == framework.TypeString && field != keyCACert {
			text, _ = strings.CutSuffix(text, "\n")
			if data.Raw[field] != text {
				data.Raw[field] = strings.TrimSuffix(text, "\r")
			}
		}
	}
}

// effectiveSchedule returns the schedule that is followed: none where rotation is suspended.
func (c *configEntry) effectiveSchedule() schedule.Schedule {
	if c.DisableRotation {
		return schedule.Schedule{}
	}
	return c.Schedule
}

// carryRotation takes over the state of the rotation from the stored config, which this one is to replace. Given is the end of a
// credential that an operator created, if it was looked up, and managedNext when Vault's rotation manager will rotate, if it told.
func (c *configEntry) carryRotation(stored *configEntry, given storedCredential, now, managedNext time.Time) {
	managed := c.Rotation.Managed
	c.Rotation = stored.Rotation
	r := &c.Rotation
	r.Retired, r.OperatorCreated = slices.Clone(r.Retired), slices.Clone(r.OperatorCreated)
	replaced := c.replaces(stored)
	if replaced {
		// An operator did: what a rotation made is no longer needed.
		if r.Credential.ID != "" {
			r.retire(stored, now)
		}
		r.OperatorCreated = nil
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

// checkRotation returns an error for a schedule that can't be followed.
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
		return badField(field, "has more than %s from one rotation to the next; a credential lives for %s at most, so one that is late must still be possible", duration.Text(maxLifetime/2), duration.Text(maxLifetime))
	}
	return nil
}

// sameCredential reports whether both configs connect to the same place as the same one.
func (c *configEntry) sameCredential(other *configEntry) bool {
	return c.Host == other.Host && c.AuthType == other.AuthType && c.AccountID == other.AccountID && c.WorkspaceID == other.WorkspaceID &&
		c.ClientID == other.ClientID && c.Token == other.Token && c.ClientSecret == other.ClientSecret && c.AzureClientSecret == other.AzureClientSecret &&
		c.AzureTenantID == other.AzureTenantID && c.AzureClientID == other.AzureClientID
}

// putConfig stores the config.
func putConfig(ctx context.Context, s logical.Storage, config *configEntry) error {
	entry, err := logical.StorageEntryJSON(configStorageKey, config.seal())
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
