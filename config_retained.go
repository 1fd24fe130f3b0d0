// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// A config that is deleted is retained, for nothing but ending what the mount made: leases are revoked and the write-ahead log is rolled
// back over it. Otherwise whoever deletes the config before the mount, as `terraform destroy` does, could no longer disable the mount,
// since Vault has to revoke its leases first. To everything else the mount has no connection. It is dropped as soon as no lease can live
// any more, by a delete with force, and by the next config.

// retainedStorageKey is below the seal-wrapped prefix, and none that v0.1.0 reads.
const retainedStorageKey = configStoragePrefix + "retained"

const (
	// retainedSlack is how long after the end of the longest lease a config is retained: Vault revokes a little late, and the engine undoes
	// what lost leases left recordGrace after their end.
	retainedSlack = time.Hour

	// retainedRetry is how long the drop of a retained config is put off when a credential that a rotation made can't be removed at
	// Databricks, and retainedPatience for how long that is tried.
	retainedRetry    = time.Hour
	retainedPatience = 24 * time.Hour

	// retainedLeast is for how long a config is retained at least. It is Vault's default of the longest lease: the mount's may have been
	// lowered since there are leases.
	retainedLeast = 768 * time.Hour

	// retainedBudget is how long a delete or a drop waits for Databricks, each time that it replaces or removes credentials there.
	retainedBudget = 20 * time.Second
)

// retainedConfig is a config that was deleted. The secrets of Config are in Sealed when it is stored.
type retainedConfig struct {
	Config  *configEntry  `json:"-"`
	Sealed  *sealedConfig `json:"config"`
	Deleted time.Time     `json:"deleted_time"` // by Vault's clock
	Until   time.Time     `json:"until_time"`   // it is dropped from then on
}

// errUnreadableRetained says that the entry of a retained config makes no sense.
var errUnreadableRetained = errors.New("the retained config cannot be read")

// readRetained returns nil when no config is retained.
func readRetained(ctx context.Context, s logical.Storage) (*retainedConfig, error) {
	entry, err := s.Get(ctx, retainedStorageKey)
	if err != nil || entry == nil {
		return nil, err
	}
	kept := &retainedConfig{Sealed: newConfig().seal()}
	if err := entry.DecodeJSON(kept); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadableRetained, err)
	}
	kept.Config, kept.Sealed = kept.Sealed.open(), nil
	return kept, nil
}

func putRetained(ctx context.Context, s logical.Storage, kept *retainedConfig) error {
	stored := *kept
	stored.Sealed = kept.Config.seal()
	entry, err := logical.StorageEntryJSON(retainedStorageKey, &stored)
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// Fields of status that show a retained config.
const (
	keyRetainedHost  = "retained_host"
	keyRetainedUntil = "retained_until_time"
	keyRetainedError = "retained_error"
)

// addRetained shows a retained config in an answer.
func (b *backend) addRetained(ctx context.Context, s logical.Storage, data map[string]any) error {
	kept, err := readRetained(ctx, s)
	switch {
	case errors.Is(err, errUnreadableRetained):
		data[keyRetainedError] = err.Error()
		return nil
	case err != nil || kept == nil:
		return err
	}
	data[keyRetainedHost], data[keyRetainedUntil] = kept.Config.Host, rfc3339(kept.Until)
	return nil
}

// retainedNow returns the retained config and the config, nil for none, as they are at one moment.
func (b *backend) retainedNow(ctx context.Context, s logical.Storage) (kept *retainedConfig, config *configEntry, err error) {
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	if kept, err = readRetained(ctx, s); err != nil && !errors.Is(err, errUnreadableRetained) {
		return nil, nil, err
	}
	config, configErr := readConfig(ctx, s)
	return kept, config, errors.Join(err, configErr)
}

// retainedUntil returns until when a config that is deleted now may be needed: no lease is longer than the mount's maximum, and no
// credential lives for longer than Databricks allows.
func (b *backend) retainedUntil() time.Time {
	longest := min(max(b.System().MaxLeaseTTL(), retainedLeast), maxLifetime-lifetimeSkew)
	return b.now().UTC().Add(longest + lifetimeSkew + retainedSlack).Truncate(time.Second)
}

// endingConnection returns the connection for ending what the mount made: the mount's, or else that of a retained config, or else
// errNotConfigured. Nothing else may be done over it.
func (b *backend) endingConnection(ctx context.Context, s logical.Storage) (*connection, error) {
	conn, err := b.connection(ctx, s)
	if !errors.Is(err, errNotConfigured) {
		return conn, err
	}
	return b.connections.get(retainedStorageKey, func() (*connection, bool, error) {
		kept, err := readRetained(ctx, s)
		if err != nil {
			return nil, false, err
		}
		if kept == nil {
			return nil, false, errNotConfigured
		}
		conn, err := b.connect(ctx, kept.Config)
		return conn, err == nil, err
	})
}

// dropRetainedConnection makes the next request read the retained config again.
func (b *backend) dropRetainedConnection() {
	b.connections.drop(retainedStorageKey)
}

// retainConfig deletes the config and retains it until the time given. The retained one is stored first and counts only while there is no
// config, so that a crash leaves either the config as it was or the retained one. The caller holds configWrite.
func (b *backend) retainConfig(ctx context.Context, s logical.Storage, config *configEntry, until time.Time) (*retainedConfig, error) {
	defer b.nextRun.touch()
	kept := &retainedConfig{Config: config, Deleted: b.now().UTC(), Until: until}
	b.dropRetainedConnection()
	if err := putRetained(ctx, s, kept); err != nil {
		return nil, err
	}
	if err := b.eraseConfig(ctx, s); err != nil {
		b.dropConnection() // it may yet be gone
		return nil, err
	}
	// The connection goes on as it is, with what it knows of the identity and of Databricks' clock.
	if conn, ok := b.connections.drop(configStorageKey); ok && conn.config.sameCredential(config) {
		b.connections.put(retainedStorageKey, conn)
	}
	return kept, nil
}

// eraseConfig deletes the config from the storage. A deletion that failed but has happened all the same is none that failed.
func (b *backend) eraseConfig(ctx context.Context, s logical.Storage) error {
	err := s.Delete(ctx, configStorageKey)
	if err == nil {
		return nil
	}
	if entry, againErr := s.Get(ctx, configStorageKey); againErr != nil || entry != nil {
		return err
	}
	b.Logger().Warn("the config is gone, although its deletion failed", "error", err)
	return nil
}

// obsoleteCredentials returns the credentials that rotations made for the retained config, and that are no longer needed once it is
// dropped: none of those that the present config, nil for none, has, too, as after a delete that failed halfway.
func (kept *retainedConfig) obsoleteCredentials(config *configEntry) []storedCredential {
	all := kept.Config.Rotation.all()
	if config == nil {
		return all
	}
	if config.sameSecret(kept.Config) {
		return nil
	}
	held := config.Rotation.all()
	return slices.DeleteFunc(all, func(k storedCredential) bool {
		return slices.ContainsFunc(held, func(other storedCredential) bool { return other.ID == k.ID })
	})
}

// sameSecret reports whether both configs have the same secret to connect with.
func (c *configEntry) sameSecret(other *configEntry) bool {
	return c.Token != "" && c.Token == other.Token || c.ClientSecret != "" && c.ClientSecret == other.ClientSecret
}

// dropRetained removes at Databricks the credentials that rotations made for the retained config, the one that it connects with last,
// and then forgets it. What could not be removed is a warning; with keepOnFailure, the retained config stays then.
func (b *backend) dropRetained(ctx context.Context, s logical.Storage, keepOnFailure bool) (warnings []string, err error) {
	ctx = context.WithoutCancel(ctx)
	for {
		kept, config, err := b.retainedNow(ctx, s)
		switch {
		case errors.Is(err, errUnreadableRetained):
			warnings = []string{fmt.Sprintf("The retained connection could not be read, so a credential that a rotation made for it may be left at Databricks, until it ends or a tidy finds it: %s", err)}
		case err != nil || kept == nil:
			return nil, err
		default:
			warnings = b.removeObsolete(ctx, kept, config)
			if len(warnings) > 0 && keepOnFailure {
				return warnings, nil
			}
		}
		if done, err := b.forgetRetained(ctx, s, kept); done {
			return warnings, err
		}
	}
}

// removeObsolete removes the credentials that nobody needs once the retained config is dropped, and returns warnings of those that are left.
func (b *backend) removeObsolete(ctx context.Context, kept *retainedConfig, config *configEntry) (warnings []string) {
	ctx, cancel := context.WithTimeout(ctx, retainedBudget)
	defer cancel()
	_, warnings = b.removeCredentials(ctx, kept.Config, kept.obsoleteCredentials(config))
	return warnings
}

// forgetRetained deletes the retained config, which is as given, nil for one that can't be read. It returns false where it has got another
// credential meanwhile, which is to be removed first.
func (b *backend) forgetRetained(ctx context.Context, s logical.Storage, kept *retainedConfig) (done bool, err error) {
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	if kept != nil {
		now, err := readRetained(ctx, s)
		switch {
		case err != nil || now == nil || !now.Deleted.Equal(kept.Deleted):
			return true, err // another config was deleted meanwhile, and is needed
		case now.Config.Rotation.Credential.ID != kept.Config.Rotation.Credential.ID:
			return false, nil
		}
	}
	defer b.nextRun.touch()
	err = s.Delete(ctx, retainedStorageKey)
	b.dropRetainedConnection() // even after an error it may be gone
	if err == nil {
		b.event("config-drop", "config")
	}
	return true, err
}

// fitRetained replaces the credential that a rotation made for the retained config, if it ends before that is dropped, or lives for much
// longer: when the mount is disabled before, nothing removes it. It returns what is retained then. That it can't be replaced is no error: the
// answer says when the one that there is ends.
func (b *backend) fitRetained(ctx context.Context, req *logical.Request, kept *retainedConfig) *retainedConfig {
	current, lasts := kept.Config.Rotation.Credential, kept.Until.Add(retainedPatience)
	fits := !current.Expires.Before(kept.Until) && !current.Expires.After(lasts.Add(retainedPatience))
	if current.ID == "" || !rotates(kept.Config.AuthType) || fits {
		return kept
	}
	ctx, cancel := context.WithTimeout(ctx, retainedBudget)
	defer cancel()
	conn, err := b.endingConnection(ctx, req.Storage)
	var identity *client.Identity
	if err == nil {
		identity, err = conn.whoami(ctx)
	}
	if err == nil {
		want := rootRequest(req, kept.Config, identity, current.Scopes)
		want.lifetime = lasts.Sub(b.now()).Truncate(time.Second)
		err = b.makeStored(ctx, req.Storage, conn, want, func(ctx context.Context, k *storedCredential, made *credential.Credential) error {
			shorter, err := b.adoptRetained(ctx, req.Storage, kept, identity, k, made.SecretPart())
			if err == nil {
				kept = shorter
			}
			return err
		})
	}
	if err != nil {
		b.Logger().Warn("the credential of a deleted config could not be replaced by one that ends when it is dropped", "id", current.ID, "expires", rfc3339(current.Expires), "error", err)
	}
	return kept
}

// adoptRetained verifies a new credential by use, and makes it that of the retained config.
func (b *backend) adoptRetained(ctx context.Context, s logical.Storage, kept *retainedConfig, identity *client.Identity, k *storedCredential, secret client.Secret) (*retainedConfig, error) {
	next, config := *kept, *kept.Config
	next.Config = &config
	config.setSecret(secret)
	config.Identity = nil
	if err := b.verifyRoot(ctx, &config, identity); err != nil {
		return nil, err
	}
	config.Identity = identity
	config.Rotation.Retired = slices.Clone(config.Rotation.Retired)
	config.Rotation.retire(&config, b.now())
	config.Rotation.Credential = *k
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	now, err := readRetained(ctx, s)
	if err != nil {
		return nil, err
	}
	if now == nil || !now.Deleted.Equal(kept.Deleted) {
		return nil, errors.New("the config was written again meanwhile")
	}
	defer b.dropRetainedConnection()
	if err := putRetained(ctx, s, &next); err != nil {
		return nil, &uncertainError{err}
	}
	return &next, nil
}

// removeRetiredOf removes at Databricks the credentials of the retained config that already had a successor: nobody needs their grace
// any more. What can't be removed now is removed when the retained config is dropped.
func (b *backend) removeRetiredOf(ctx context.Context, s logical.Storage, config *configEntry) {
	if len(config.Rotation.Retired) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	conn, err := b.endingConnection(ctx, s)
	var gone []string
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, retainedBudget)
		defer cancel()
		gone, err = b.removeRetired(bounded, conn, config.Rotation.Retired, func(*retired) bool { return true })
	}
	if len(gone) > 0 {
		b.configWrite.Lock()
		defer b.configWrite.Unlock()
		kept, readErr := readRetained(ctx, s)
		if err = errors.Join(err, readErr); kept != nil {
			kept.Config.Rotation.forget(gone)
			err = errors.Join(err, putRetained(ctx, s, kept))
		}
	}
	if err != nil {
		b.Logger().Warn("a credential of the engine that was replaced could not be removed; it is removed together with the retained connection", "error", err)
	}
}

// reconcileRetained drops the retained config when it is no longer needed, and returns when to look again, zero for never. What ended
// while no engine ran is Vault's to revoke first, so it isn't dropped soon after the start.
func (b *backend) reconcileRetained(ctx context.Context, s logical.Storage) (next time.Time, err error) {
	kept, config, err := b.retainedNow(ctx, s)
	unreadable := errors.Is(err, errUnreadableRetained)
	switch {
	case unreadable && config == nil:
		b.reportUnreadable(retainedStorageKey, "a deleted config can't be used to revoke leases", err)
		return time.Time{}, nil
	case err != nil && !unreadable, kept == nil && !unreadable:
		return time.Time{}, err
	}
	now, since := b.now(), b.intents.startedAt()
	patient := false
	switch {
	case config != nil: // a crash has left it between two steps of a delete or of a write
		patient = kept != nil && now.Before(kept.Deleted.Add(retainedPatience))
	case now.Before(kept.Until):
		return kept.Until, nil
	case since.IsZero() || now.Sub(since) < recordGrace:
		return now.Add(recordGrace), nil
	default:
		if over, err := b.retentionOver(ctx, s, kept); err != nil || !over {
			b.Logger().Info("the retained connection is not dropped yet", "host", kept.Config.Host, "error", err)
			return now.Add(retainedRetry), nil
		}
		patient = now.Before(kept.Until.Add(retainedPatience))
	}
	warnings, err := b.dropRetained(ctx, s, patient)
	for _, warning := range warnings {
		b.Logger().Warn(warning)
	}
	if len(warnings) > 0 && patient {
		next = now.Add(retainedRetry)
	}
	return next, err
}

// retentionOver reports whether the retention has ended by Databricks' clock, too: a clock of Vault's that is ahead for a moment must not
// end it. It asks Databricks if its time isn't known.
func (b *backend) retentionOver(ctx context.Context, s logical.Storage, kept *retainedConfig) (bool, error) {
	conn, err := b.endingConnection(ctx, s)
	if err != nil {
		return false, err
	}
	over, err := conn.passed(b.now(), kept.Until)
	if unknown := (*clockError)(nil); errors.As(err, &unknown) {
		ctx, cancel := context.WithTimeout(ctx, retainedBudget)
		defer cancel()
		_, _ = conn.client.Me(ctx) // whatever it answers, the answer has the time
		over, err = conn.passed(b.now(), kept.Until)
	}
	return over, err
}
