// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/base64"
	"strings"
	"unicode/utf8"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keyKey            = "key"
	keyStringValue    = "string_value"
	keyBytesValue     = "bytes_value"
	keyPasswordPolicy = "password_policy"
	keyLastUpdated    = "last_updated_timestamp"
)

func (b *backend) pathSecrets() []*framework.Path {
	write := []framework.Response{{Description: "Scope and key of the secret. With a ttl it is a lease.", Fields: secretWriteFields}}
	return []*framework.Path{
		{
			Pattern: "secrets/?",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "secret-scopes",
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: readOperation(b.listScopes, "List the secret scopes of the workspace.", listResponseFields),
			},
			HelpSynopsis:    "List the secret scopes of the workspace.",
			HelpDescription: "Lists the scopes, as scopes/ does:\n\n  vault list databricks/secrets",
		},
		b.pathSecretsBulk(),
		{
			Pattern: "secrets/(?P<" + keyScope + ">[^/]+)/(?P<" + keyKey + ">[^/]+)",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "secret",
			},
			Fields: map[string]*framework.FieldSchema{
				keyScope: {
					Type:        framework.TypeString,
					Description: "Name of the scope.",
					Required:    true,
				},
				keyKey: {
					Type:        framework.TypeString,
					Description: "Key of the secret.",
					Required:    true,
				},
				keyStringValue: {
					Type:         framework.TypeString,
					Description:  "The value as a string, 128 KB at most. Exactly one of string_value, bytes_value and password_policy must be sent.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				keyBytesValue: {
					Type:         framework.TypeString,
					Description:  "The value as bytes, in base64.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				keyPasswordPolicy: {
					Type:        framework.TypeString,
					Description: "Name of a password policy by which Vault generates the value. The value is not returned.",
				},
				keyTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Makes the secret a lease of this duration. When the lease ends, the secret is deleted, unless somebody has overwritten it since. A value above the mount's maximum is capped, with a warning.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.writeOperation(b.writeSecret, "Store a secret.", write,
					framework.RequestExample{Description: "A string.", Data: map[string]any{keyStringValue: "s3cr3t"}},
					framework.RequestExample{Description: "A generated value, for a day.", Data: map[string]any{keyPasswordPolicy: "strong", keyTTL: "24h"}},
				),
				logical.UpdateOperation: b.writeOperation(b.writeSecret, "Overwrite a secret.", write),
				logical.DeleteOperation: b.deleteOperation(b.deleteSecret, "Delete a secret."),
				logical.ReadOperation:   readOperation(b.readSecret, "Read a secret, where the workspace gives values to REST clients.", secretReadFields),
			},
			ExistenceCheck:  b.secretExists,
			HelpSynopsis:    "A secret in a scope.",
			HelpDescription: strings.TrimSpace(secretsHelp),
		},
	}
}

var secretWriteFields = map[string]*framework.FieldSchema{
	keyScope:       {Type: framework.TypeString, Required: true, Description: "Name of the scope."},
	keyKey:         {Type: framework.TypeString, Required: true, Description: "Key of the secret."},
	keyLastUpdated: {Type: framework.TypeString, Description: "When it was written, RFC 3339, as Databricks reports it. Only for a lease."},
}

var secretReadFields = map[string]*framework.FieldSchema{
	keyKey:         {Type: framework.TypeString, Required: true, Description: "Key of the secret."},
	keyBytesValue:  {Type: framework.TypeString, Required: true, Description: "The value in base64.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	keyStringValue: {Type: framework.TypeString, Description: "The value as a string, where the bytes are UTF-8.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	keyLastUpdated: {Type: framework.TypeString, Required: true, Description: "When it was last written, RFC 3339."},
}

// secretExists distinguishes create from update, so that a policy can allow adding secrets but not overwriting them.
func (b *backend) secretExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	ref, err := secretRefOf(data)
	if err != nil {
		return false, nil
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return false, remoteCheck(err)
	}
	_, found, err := secretUpdated(ctx, conn, ref)
	if err != nil {
		// Counts as an update: a policy that allows only create must not overwrite a secret that could not be looked up.
		return true, remoteCheck(err)
	}
	return found, nil
}

func (b *backend) writeSecret(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := secretRefOf(data)
	if err != nil {
		return nil, err
	}
	value, err := b.valueOf(ctx, data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	requested, err := requestedTTL(data)
	if err != nil {
		return nil, err
	}
	if requested > 0 {
		return b.leaseSecret(ctx, req, conn, ref, value, requested)
	}
	if err := b.putUnleased(ctx, req.Storage, conn, ref, value); err != nil {
		return nil, err
	}
	b.event(ctx, "secret-write", req.Path, "scope", ref.Scope, "key", ref.Key)
	return &logical.Response{Data: map[string]any{keyScope: ref.Scope, keyKey: ref.Key}}, nil
}

func (b *backend) readSecret(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := secretRefOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	value, err := conn.client.GetSecret(ctx, ref.Scope, ref.Key)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explainSecrets(err, ref.Scope, permissionRead)
	}
	updated, _, err := secretUpdated(ctx, conn, ref)
	if err != nil {
		return nil, explainSecrets(err, ref.Scope, permissionRead)
	}
	answer := map[string]any{
		keyKey:         ref.Key,
		keyBytesValue:  base64.StdEncoding.EncodeToString(value),
		keyLastUpdated: rfc3339(updated),
	}
	if utf8.Valid(value) {
		answer[keyStringValue] = string(value)
	}
	return &logical.Response{Data: answer}, nil
}

func (b *backend) deleteSecret(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := secretRefOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := conn.client.DeleteSecret(ctx, ref.Scope, ref.Key); err != nil && !client.IsGone(err) {
		return nil, explainSecrets(err, ref.Scope, permissionWrite)
	}
	b.event(ctx, "secret-delete", req.Path, "scope", ref.Scope, "key", ref.Key)
	return &logical.Response{}, nil
}

const secretsHelp = `
Manages a secret in a scope, which notebooks and jobs can read. Values have 128 KB at
most; names consist of letters, digits, dashes, underscores, periods and @.

  vault write databricks/secrets/etl/api-key string_value=-
  vault write databricks/secrets/etl/keystore bytes_value=@keystore.b64
  vault write databricks/secrets/etl/db password_policy=strong ttl=24h
  vault list -detailed databricks/secrets/etl
  vault read databricks/secrets/etl/api-key
  vault delete databricks/secrets/etl/api-key

With a ttl the secret is a lease: when it ends, the secret is deleted, unless
somebody has overwritten it since. Many workspaces don't return values to REST
clients; reading then fails with an error that says so.
`
