// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/pluginidentityutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keyHost             = "host"
	keyAuthType         = "auth_type"
	keyToken            = "token"
	keyClientID         = "client_id"
	keyClientSecret     = "client_secret"
	keyWorkspaceID      = "workspace_id"
	keyCACert           = "ca_cert"
	keyTTL              = "ttl"
	keyMaxTTL           = "max_ttl"
	keyRequestTimeout   = "request_timeout"
	keyMaxRetries       = "max_retries"
	keyRateLimit        = "rate_limit"
	keyVerifyConnection = "verify_connection"

	keyAccountID                = "account_id"
	keyAzureTenantID            = "azure_tenant_id"
	keyAzureClientID            = "azure_client_id"
	keyAzureClientSecret        = "azure_client_secret"
	keyAzureWorkspaceResourceID = "azure_workspace_resource_id"
	keyIdentityTokenAudience    = "identity_token_audience"
	keyIdentityTokenTTL         = "identity_token_ttl"
)

func pathConfig() []*framework.Path {
	write := []framework.Response{{Description: "The config as stored, without secrets.", Fields: configResponseFields}}
	return []*framework.Path{{
		Pattern: "config",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
		},
		Fields: configFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: writeOperation((*backend).writeConfig, "Connect the mount to a workspace.", write,
				framework.RequestExample{
					Description: "Connect with a personal access token.",
					Data:        map[string]any{keyHost: "https://dbc-a1b2c3d4-e5f6.cloud.databricks.com", keyToken: "dapi…"},
				}),
			logical.UpdateOperation: writeOperation((*backend).writeConfig, "Change the connection; fields that are not named keep their values.", write),
			logical.PatchOperation:  writeOperation((*backend).writeConfig, "Change the connection; null resets a field.", write),
			logical.DeleteOperation: deleteOperation((*backend).deleteConfig, "Remove the connection. It is retained for the revocation of leases, unless force is sent.", keyForce),
			logical.ReadOperation:   readOperation((*backend).handleReadConfig, "Read the connection, without its secrets.", configResponseFields),
		},
		ExistenceCheck: func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
			entry, err := req.Storage.Get(ctx, configStorageKey)
			return entry != nil, err
		},
		HelpSynopsis:    "The connection to a Databricks workspace.",
		HelpDescription: strings.TrimSpace(configHelp),
	}}
}

func configFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		keyHost: {
			Type:        framework.TypeString,
			Description: "URL of the workspace, for example https://dbc-a1b2c3d4-e5f6.cloud.databricks.com. Only the origin: no path, query or user part. https only, except for loopback addresses. Changing it requires the secret to be sent again.",
			Required:    true,
		},
		keyAuthType: {
			Type:          framework.TypeString,
			Description:   `How the engine authenticates: "pat", "oauth-m2m", "azure-client-secret" or "oidc". Inferred from the credential that is sent.`,
			AllowedValues: []any{client.AuthPAT, client.AuthOAuthM2M, client.AuthAzureClientSecret, client.AuthOIDC},
		},
		keyToken: {
			Type:         framework.TypeString,
			Description:  "Personal access token of the engine's own identity, for auth_type pat. Never shown again.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		keyClientID: {
			Type:        framework.TypeString,
			Description: "Application id of the engine's own service principal, for auth_type oauth-m2m, and for oidc with a federation policy of that service principal.",
		},
		keyClientSecret: {
			Type:         framework.TypeString,
			Description:  "OAuth secret of that service principal, for auth_type oauth-m2m. Never shown again.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		keyAzureTenantID: {
			Type:        framework.TypeString,
			Description: "Entra tenant, for auth_type azure-client-secret.",
		},
		keyAzureClientID: {
			Type:        framework.TypeString,
			Description: "Client id of the Entra application, for auth_type azure-client-secret.",
		},
		keyAzureClientSecret: {
			Type:         framework.TypeString,
			Description:  "Client secret of the Entra application, for auth_type azure-client-secret. Never shown again.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		keyAzureWorkspaceResourceID: {
			Type:        framework.TypeString,
			Description: "Azure resource id of the workspace, where the Entra application has rights on the resource but isn't in the workspace yet.",
		},
		keyAccountID: {
			Type:        framework.TypeString,
			Description: "Databricks account, for a mount of an account console.",
		},
		keyWorkspaceID: {
			Type:        framework.TypeString,
			Description: "Numeric id of the workspace. Needed only where one host serves several workspaces.",
		},
		keyCACert: {
			Type:        framework.TypeString,
			Description: "PEM certificates to trust besides the system's. Nothing but certificates may be in it; a read shows it.",
			DisplayAttrs: &framework.DisplayAttributes{
				EditType: "file",
			},
		},
		keyTTL: {
			Type:        framework.TypeDurationSecond,
			Description: "Lease duration for roles that set none. 0 means the mount's default.",
		},
		keyMaxTTL: {
			Type:        framework.TypeDurationSecond,
			Description: "Longest lease for roles that set none. 0 means the mount's maximum.",
		},
		keyRequestTimeout: {
			Type:        framework.TypeDurationSecond,
			Description: fmt.Sprintf("How long one attempt of a request to Databricks may take, 1 to %d seconds.", maxRequestTimeout),
			Default:     int(client.DefaultRequestTimeout / time.Second),
		},
		keyMaxRetries: {
			Type:        framework.TypeInt,
			Description: fmt.Sprintf("How often a request is repeated at most, 0 to %d. A create is repeated only where it can't have happened. A repetition at the time that Databricks asked for (Retry-After) counts half.", maxMaxRetries),
			Default:     client.DefaultMaxRetries,
		},
		keyRateLimit: {
			Type:        framework.TypeFloat,
			Description: fmt.Sprintf("Requests per second to Databricks at most, %d to %d. 0 means no ceiling of our own.", minRateLimit, maxRateLimit),
			Default:     0.0,
		},
		keyVerifyConnection: {
			Type:        framework.TypeBool,
			Description: "Verify the connection before it is stored, by asking Databricks who the credential belongs to. Set false to write the config while Databricks is out of reach.",
			Default:     true,
		},
		keyForce: {
			Type:        framework.TypeBool,
			Description: "On a delete: even if there are static roles, which need the connection, or leases of what never ends by itself, and without retaining the connection for revocations.",
			Query:       true,
		},
	}
	pluginidentityutil.AddPluginIdentityTokenFieldsWithGroup(fields, "Workload identity federation")
	fields[keyIdentityTokenAudience].Description = "Audience of the token that is exchanged, for auth_type oidc, as in the federation policy. Required where Vault makes the token. A token file of the operator has its audience in it."
	fields[keyIdentityTokenTTL].Description = "Life of the token that is exchanged, where Vault makes it. 0 means an hour."
	fields[keyIdentityTokenTTL].Default = nil // what is stored is 0, which means an hour
	maps.Copy(fields, rotationFields())
	return fields
}

// configStoredFields are in answers for a config; those of an auth type only where it is the config's.
var configStoredFields = func() map[string]*framework.FieldSchema {
	fields := storedFields(configFields(), keyForce)
	for field := range new(configEntry).authValues() {
		if fields[field] != nil {
			fields[field].Required = false
		}
	}
	return fields
}()

func (c *configEntry) response() *logical.Response {
	data := storedData(c, configStoredFields)
	for field := range c.authValues() {
		if !c.uses(field) {
			delete(data, field)
		}
	}
	c.addRotation(data)
	return &logical.Response{Data: data}
}

func (b *backend) handleReadConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	config, err := readConfig(ctx, req.Storage)
	if err != nil || config == nil {
		return nil, err
	}
	b.refreshNextRotation(ctx, config)
	resp := config.response()
	addRootWarnings(resp, req.MountPoint, config, b.now(), false)
	return resp, nil
}

// writeConfig validates, verifies the connection, saves and swaps, in this order: what is refused changes nothing, neither
// in storage nor in memory.
func (b *backend) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	before, err := req.Storage.Get(ctx, configStorageKey)
	if err != nil {
		return nil, err
	}
	if before == nil && req.Operation == logical.PatchOperation {
		return nil, logical.CodedError(http.StatusNotFound, errNotConfigured.Error())
	}
	old := newConfig()
	if before != nil {
		if old, err = decodeConfig(before); err != nil {
			return nil, err
		}
	}
	config, err := mergeConfig(old, data)
	if err != nil {
		return nil, err
	}
	if err := config.checkRotation(b.now()); err != nil {
		return nil, err
	}
	conn, err := b.connect(ctx, config)
	if err != nil {
		return nil, badField("config", "%s", err)
	}
	if subject := b.subjectToken(config); subject != nil {
		if _, err := subject(ctx); err != nil {
			return nil, err
		}
	}
	if config.VerifyConnection {
		identity, err := conn.whoami(ctx)
		if err != nil {
			return nil, unverified(config, err)
		}
		config.Identity, config.Verified = identity, b.now().UTC()
	}

	given, unknownEnd := b.findEnd(ctx, req, conn, old)
	unlock, err := b.jobLocks.Lock(ctx, configStorageKey)
	if err != nil {
		return nil, err
	}
	defer unlock()
	managed, next, err := b.registerRotationJob(ctx, req.MountPoint, old, config)
	if err != nil {
		return nil, err
	}
	config.Rotation.Managed = managed
	if err := b.swapConfig(ctx, req.Storage, before, conn, given, next); err != nil {
		if managed {
			b.Logger().Warn("Vault's rotation manager may have a schedule that was not stored; write the config again", "error", err)
		}
		return nil, err
	}
	previous := old
	if kept, err := readRetained(ctx, req.Storage); before == nil && err == nil && kept != nil {
		previous = kept.Config
	}
	b.event("config-write", req.Path, "host", config.Host, "auth_type", config.AuthType)

	resp := config.response()
	if old.Rotation.Managed && !managed {
		b.deregisterRotationJob(ctx, resp, req.MountPoint)
	}
	if unknownEnd != "" {
		resp.AddWarning(unknownEnd)
	}
	if !config.VerifyConnection {
		resp.AddWarning("The connection was stored without being proved, because verify_connection is false.")
	}
	b.warnOfMove(ctx, req, resp, previous, config)
	b.warnOfLookups(ctx, req, resp, previous, config)
	b.removeLeftBehind(ctx, req, resp, old, config)
	b.warnOfAdmin(ctx, req, resp, previous, config)
	b.replaceRetained(ctx, req, resp)
	addPlaneWarning(resp, conn)
	addRootWarnings(resp, req.MountPoint, config, b.now(), false)
	return resp, nil
}

const configHelp = `
Connects the mount to one Databricks workspace. A write is validated, verified by
asking Databricks who the credential belongs to, stored, and only then used; a
write that is refused changes nothing. Fields that a write does not name keep
their values. Secrets are never shown again.

With a personal access token:

  vault write databricks/config \
      host=https://dbc-a1b2c3d4-e5f6.cloud.databricks.com token=dapi…

As a service principal, with an OAuth secret:

  vault write databricks/config \
      host=https://dbc-a1b2c3d4-e5f6.cloud.databricks.com \
      client_id=6f5ccf28-… client_secret=dose…

As an Entra application, on Azure:

  vault write databricks/config host=https://adb-….azuredatabricks.net \
      azure_tenant_id=… azure_client_id=… azure_client_secret=…

Without any stored secret, by a federation policy:

  vault write databricks/config host=https://… auth_type=oidc \
      client_id=6f5ccf28-… identity_token_audience=…

On Vault Community, the operator registers the plugin with a file that another
program keeps such a token in, DATABRICKS_OIDC_TOKEN_FILEPATH, and with the hosts
that it may be sent to, DATABRICKS_OIDC_TOKEN_HOSTS. It needs no audience:

  vault write databricks/config host=https://… auth_type=oidc client_id=6f5ccf28-…

Nothing else is used to connect: neither other DATABRICKS_* variables of the Vault
server, nor ~/.databrickscfg, nor the cloud's metadata service.

With rotation_period or rotation_schedule (cron, UTC), Vault replaces a token or
client_secret automatically; config/rotate-root does it at once.

A deleted config is retained, to revoke the leases of the mount and for nothing else,
until none can live any more; see retained_until_time in status. It is not deleted
without force while there are static roles, leased secrets, leased permissions or
delivered copies. To drop what is retained at once:

  vault delete databricks/config force=true
`
