// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/base64"
	"strings"
	"time"
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
	keyIfAbsent       = "if_absent"
	keyLastUpdated    = "last_updated_timestamp" // Databricks' own word, which answers have beside ours
	keyUpdatedTime    = "last_updated_time"
)

func pathSecrets() []*framework.Path {
	write := []framework.Response{{Description: "Scope and key of the secret. With a ttl it is a lease.", Fields: secretWriteFields}}
	return []*framework.Path{
		{
			Pattern: "secrets/?",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "secret-scopes",
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: readOperation((*backend).listScopes, "List the secret scopes of the workspace.", listResponseFields),
			},
			HelpSynopsis:    "List the secret scopes of the workspace.",
			HelpDescription: "Lists the scopes, as scopes/ does:\n\n  vault list databricks/secrets",
		},
		pathSecretsBulk(),
		pathSecretsBelow(),
		{
			Pattern: "secrets/(?P<" + keyScope + ">[^/]+)/(?P<" + keyKey + ">.+)",
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
					Description: "Key of the secret. It may have slashes, and Databricks ignores its case.",
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
				keyIfAbsent: {
					Type:        framework.TypeBool,
					Description: "Refuse to overwrite: store the value only if the scope has no such key, in any spelling. A policy can require it. Databricks can't do this in one step, so it takes a second call, and a value written outside this mount at the same moment may be overwritten.",
				},
				keyTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Makes the secret a lease of this duration. When the lease ends, the secret is deleted, unless somebody has overwritten it since. A value above the mount's maximum is capped, with a warning.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: writeOperation((*backend).writeSecret, "Store a secret, over the value that the key has.", write,
					framework.RequestExample{Description: "A string.", Data: map[string]any{keyStringValue: "s3cr3t"}},
					framework.RequestExample{Description: "A generated value, for a day.", Data: map[string]any{keyPasswordPolicy: "strong", keyTTL: "24h"}},
					framework.RequestExample{Description: "A string, unless the key exists.", Data: map[string]any{keyStringValue: "s3cr3t", keyIfAbsent: true}},
				),
				logical.DeleteOperation: deleteOperation((*backend).deleteSecret, "Delete a secret."),
				logical.ReadOperation:   readOperation((*backend).readSecret, "Read a secret, where the workspace gives values to REST clients.", secretReadFields),
			},
			ExistenceCheck:  existsAtDatabricks,
			HelpSynopsis:    "A secret in a scope.",
			HelpDescription: strings.TrimSpace(secretsHelp),
		},
	}
}

var secretWriteFields = map[string]*framework.FieldSchema{
	keyScope:       {Type: framework.TypeString, Required: true, Description: "Name of the scope."},
	keyKey:         {Type: framework.TypeString, Required: true, Description: "Key of the secret."},
	keyUpdatedTime: {Type: framework.TypeString, Description: "When it was written, RFC 3339, as Databricks reports it. Only for a lease."},
	keyLastUpdated: {Type: framework.TypeString, Description: "The same, by Databricks' name."},
}

var secretReadFields = map[string]*framework.FieldSchema{
	keyScope:       {Type: framework.TypeString, Required: true, Description: "Name of the scope."},
	keyKey:         {Type: framework.TypeString, Required: true, Description: "Key of the secret."},
	keyBytesValue:  {Type: framework.TypeString, Required: true, Description: "The value in base64.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	keyStringValue: {Type: framework.TypeString, Description: "The value as a string, where the bytes are UTF-8.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	keyUpdatedTime: {Type: framework.TypeString, Required: true, Description: "When it was last written, RFC 3339; null where Databricks doesn't say."},
	keyLastUpdated: {Type: framework.TypeString, Required: true, Description: "The same, by Databricks' name; empty where it doesn't say."},
}

// updatedTimes returns the fields of the time of a secret's last write.
func updatedTimes(updated time.Time) map[string]any {
	times := map[string]any{keyLastUpdated: rfc3339(updated), keyUpdatedTime: nil}
	if !updated.IsZero() {
		times[keyUpdatedTime] = rfc3339(updated)
	}
	return times
}

func (b *backend) writeSecret(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := secretRefOf(data)
	if err != nil {
		return nil, err
	}
	value, err := b.valueOf(ctx, data, ref.rules())
	if err != nil {
		return nil, err
	}
	requested, err := requestedTTL(data)
	if err != nil {
		return nil, err
	}
	if requested > 0 {
		if err := checkLease(req, ref.Scope, keyKey, ref.Key); err != nil {
			return nil, err
		}
	}
	if ref.UC != "" {
		if err := value.addUC(data, requested > 0); err != nil {
			return nil, err
		}
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	ifAbsent := data.Get(keyIfAbsent).(bool)
	if requested > 0 {
		resp, err := b.leaseSecret(ctx, req, conn, ref, value, requested, ifAbsent)
		return resp, ref.explainMissing(ctx, conn, err)
	}
	known := mayExist
	if ifAbsent {
		known = mustBeAbsent
	}
	if err := b.putUnleased(ctx, req.Storage, conn, ref, value, known); err != nil {
		return nil, ref.explainMissing(ctx, conn, err)
	}
	b.event(ref.eventKind("write"), req.Path, ref.names()...)
	return &logical.Response{Data: ref.answer()}, nil
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
		return nil, checkSlashes(ctx, conn, ref.Scope, ref.Key)
	}
	if err != nil {
		return nil, explainSecrets(err, ref.Scope, permissionRead)
	}
	seen, err := lookAt(ctx, conn, ref)
	if err != nil {
		return nil, explainSecrets(err, ref.Scope, permissionRead)
	}
	var updated time.Time
	if seen != nil {
		updated = seen.updated
	}
	answer := updatedTimes(updated)
	answer[keyScope], answer[keyKey] = ref.Scope, ref.Key
	answer[keyBytesValue] = base64.StdEncoding.EncodeToString(value)
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
	err = ref.remove(ctx, conn, nil)
	if client.IsGone(err) {
		err = nil
		if ref.UC == "" {
			err = checkSlashes(ctx, conn, ref.Scope, ref.Key)
		}
	}
	if err != nil {
		return nil, ref.explain(err, permissionWrite)
	}
	b.event(ref.eventKind("delete"), req.Path, ref.names()...)
	return &logical.Response{}, nil
}

const secretsHelp = `
Manages a secret in a scope, which notebooks and jobs can read. Values have 128 KB at
most; names consist of letters, digits, dashes, underscores, periods and @, and keys
may have slashes. Databricks ignores the case of names.

  vault write databricks/secrets/etl/api-key string_value=-
  vault write databricks/secrets/etl/keystore bytes_value=@keystore.b64
  vault write databricks/secrets/etl/db password_policy=strong ttl=24h
  vault write databricks/secrets/etl/new string_value=- if_absent=true
  vault write databricks/secrets/etl/team/db string_value=-
  vault list -detailed databricks/secrets/etl
  vault list databricks/secrets/etl/team
  vault read databricks/secrets/etl/api-key
  vault delete databricks/secrets/etl/api-key

With a ttl the secret is a lease: when it ends, the secret is deleted, unless
somebody has overwritten it since. Many workspaces don't return values to REST
clients; reading then fails with an error that says so.

A write needs the capability "update" in a policy, whether the key exists or not. With
if_absent=true it refuses to overwrite.
`
