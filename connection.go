// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// connection is a config and the client made from it. A change of the config replaces the connection. It is safe for concurrent
// use, and config must not be modified.
type connection struct {
	config  *configEntry
	client  *client.Client
	account bool // connected to an account rather than to a workspace
	logger  hclog.Logger

	mu       sync.Mutex
	identity *client.Identity
	asking   singleflight.Group
	groups   map[string]string // ids by display name; dropped groupMemory after since
	since    time.Time
}

var _ credential.Conn = (*connection)(nil)

// Client returns the Databricks client.
func (c *connection) Client() *client.Client { return c.client }

// Host returns the origin of the workspace, or of the account console.
func (c *connection) Host() string { return c.config.Host }

// AuthType returns how the engine authenticates, one of client.Auth….
func (c *connection) AuthType() string { return c.config.AuthType }

// Account reports whether the connection is to an account.
func (c *connection) Account() bool { return c.account }

// UserName returns the name of the engine's identity, by a call only where it isn't known yet.
func (c *connection) UserName(ctx context.Context) (string, error) {
	who, err := c.whoami(ctx)
	if err != nil {
		return "", err
	}
	return who.UserName, nil
}

// Warn logs what an operator should know.
func (c *connection) Warn(message string, args ...any) { c.logger.Warn(message, args...) }

// groupMemory is how long the id of a group is cached by its name. Groups can be renamed.
const groupMemory = 5 * time.Minute

// fits returns a fieldError if the connection can't create credentials of the type with the spec. name must be a known type.
func (c *connection) fits(name string, spec credential.Spec) error {
	kind := credential.Lookup(name)
	switch {
	case c.account && kind.Traits().Workspace:
		return badField(keyCredentialType, "%s needs a workspace, and the mount is connected to an account; use another type, or a mount of the workspace", name)
	case c.account && len(spec.Entitlements)+len(spec.Groups) > 0:
		return badField(keyGroups, "and %s are given in a workspace, and the mount is connected to an account; use a mount of the workspace", keyEntitlements)
	}
	err := kind.Fits(c, spec)
	if mistake, ok := errors.AsType[*credential.FieldError](err); ok {
		return badField(mistake.Field, "%s", mistake.Reason)
	}
	return err
}

// GroupIDs returns the ids of the groups. They are remembered for groupMemory, or until ForgetGroups.
func (c *connection) GroupIDs(ctx context.Context, names []string) ([]string, error) {
	var ids []string
	for _, name := range names {
		c.mu.Lock()
		if time.Since(c.since) > groupMemory {
			c.groups = nil
		}
		id, known := c.groups[name]
		c.mu.Unlock()
		if !known {
			var err error
			// mu is not held during the call, so two requests may look up the same name. Both get the same id.
			if id, err = c.client.GroupID(ctx, name); client.IsGone(err) {
				return nil, badField(keyGroups, "there is no group %q at %s", name, c.config.Host)
			} else if err != nil {
				return nil, err
			}
			c.mu.Lock()
			if c.groups == nil {
				c.groups, c.since = make(map[string]string), time.Now()
			}
			c.groups[name] = id
			c.mu.Unlock()
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// ForgetGroups makes the next GroupIDs ask again, since a group may have been recreated.
func (c *connection) ForgetGroups() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups = nil
}

// whoami returns who the engine is at Databricks. It costs a call only where the config was stored without verification,
// and only once, however many requests wait for it: the call continues when one of them gives up.
func (c *connection) whoami(ctx context.Context) (*client.Identity, error) {
	if known := c.cachedIdentity(); known != nil {
		return known, nil
	}
	answered := c.asking.DoChan("", func() (answer any, err error) {
		// A panic in this goroutine would crash every mount of the process.
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("the lookup of the engine's identity failed: %T", v)
			}
		}()
		if known := c.cachedIdentity(); known != nil {
			return known, nil
		}
		identity, err := c.client.Me(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.identity = identity
		return identity, nil
	})
	select {
	case answer := <-answered:
		if answer.Err != nil {
			return nil, answer.Err
		}
		return answer.Val.(*client.Identity), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cachedIdentity returns the identity if it is known without a call, else nil.
func (c *connection) cachedIdentity() *client.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.identity
}

// known returns what the author of a role should know of the connection, as far as it is known without a call.
func (c *connection) known() credential.Known {
	return credential.Known{Account: c.account, Identity: c.cachedIdentity()}
}

// connection returns the mount's connection, making it from storage when needed, or with errNotConfigured.
func (b *backend) connection(ctx context.Context, s logical.Storage) (*connection, error) {
	return b.connections.get(configStorageKey, func() (*connection, bool, error) {
		config, err := readConfig(ctx, s)
		if err != nil {
			return nil, false, err
		}
		if config == nil {
			return nil, false, errNotConfigured
		}
		conn, err := b.connect(ctx, config)
		return conn, err == nil, err
	})
}

// connect creates a connection from a config, without a call to Databricks.
func (b *backend) connect(ctx context.Context, config *configEntry) (*connection, error) {
	settings := client.Config{
		Host:         config.Host,
		AuthType:     config.AuthType,
		Token:        config.Token,
		ClientID:     config.ClientID,
		ClientSecret: config.ClientSecret,
		AccountID:    config.AccountID,
		WorkspaceID:  config.WorkspaceID,

		AzureTenantID:            config.AzureTenantID,
		AzureClientID:            config.AzureClientID,
		AzureClientSecret:        config.AzureClientSecret,
		AzureWorkspaceResourceID: config.AzureWorkspaceResourceID,
		SubjectToken:             b.subjectToken(config),

		CACert:         config.CACert,
		RequestTimeout: time.Duration(config.RequestTimeout) * time.Second,
		MaxRetries:     config.MaxRetries,
		RateLimit:      config.RateLimit,
		UserAgent:      b.userAgent(ctx, config.AuthType),
		Counters:       &b.counters,
		Now:            b.now,
	}
	c, err := client.New(settings)
	if err != nil {
		return nil, err
	}
	return &connection{config: config, client: c, account: config.account(), logger: b.Logger(), identity: config.Identity}, nil
}

// account reports whether the config connects to an account rather than to a workspace.
func (c *configEntry) account() bool {
	return client.Config{Host: c.Host, AccountID: c.AccountID, WorkspaceID: c.WorkspaceID}.Account()
}

// dropConnection makes the next request read the config again. Calls in flight on the old connection continue.
func (b *backend) dropConnection() {
	b.connections.drop(configStorageKey)
}

// userAgent returns the plugin and Vault with their versions, in the form that Databricks parses: words of key/value.
func (b *backend) userAgent(ctx context.Context, authType string) string {
	vault := "unknown"
	env, err := b.System().PluginEnv(ctx)
	switch {
	case err != nil:
		b.Logger().Debug("Vault did not report its version, so the User-Agent goes without it", "error", err)
	case env != nil && env.VaultVersion != "":
		vault = env.VaultVersion
		if env.VaultVersionPrerelease != "" {
			vault += "-" + env.VaultVersionPrerelease
		}
		if env.VaultVersionMetadata != "" {
			vault += "+" + env.VaultVersionMetadata
		}
	}
	return fmt.Sprintf("%s/%s vault/%s go/%s os/%s auth/%s", pluginName, strings.TrimPrefix(Version, "v"), vault,
		strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, authType)
}
