// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func pathUCSecrets() []*framework.Path {
	write := []framework.Response{{Description: "Names of the secret. With a ttl it is a lease.", Fields: ucSecretWriteFields}}
	return []*framework.Path{
		pathUCSchema(),
		{
			Pattern: "uc-secrets/(?P<" + keyCatalog + ">[^/]+)/(?P<" + keySchema + ">[^/]+)/(?P<" + keyName + ">[^/]+)",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "unity-catalog-secret",
			},
			Fields: map[string]*framework.FieldSchema{
				keyCatalog: {Type: framework.TypeString, Description: "Name of the catalog.", Required: true},
				keySchema:  {Type: framework.TypeString, Description: "Name of the schema in the catalog.", Required: true},
				keyName:    {Type: framework.TypeString, Description: "Name of the secret in the schema. Databricks ignores the case of all three.", Required: true},
				keyStringValue: {
					Type:         framework.TypeString,
					Description:  "The value, 60 KiB at most. Exactly one of string_value, bytes_value and password_policy must be sent.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				keyBytesValue: {
					Type:         framework.TypeString,
					Description:  "The value in base64. What it encodes must be UTF-8, since Unity Catalog holds texts.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				keyPasswordPolicy: {
					Type:        framework.TypeString,
					Description: "Name of a password policy by which Vault generates the value. The value is not returned, but who has READ SECRET on the secret can read it.",
				},
				keyComment: {
					Type:        framework.TypeString,
					Description: "Comment that Databricks keeps with the secret and shows to whoever may see it. An empty one removes it; left out, it stays.",
				},
				keyOwner: {
					Type:        framework.TypeString,
					Description: "Principal that is to own the secret: a user name, the name of a group or the application id of a service principal. Left out, the owner stays, and that of a new secret is the engine's identity. Only the owner can delete it, so it can't be sent together with ttl.",
				},
				keyIfAbsent: {
					Type:        framework.TypeBool,
					Description: "Refuse to overwrite: store the value only if there is no such secret. A policy can require it. Databricks decides it in one step.",
				},
				keyTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Makes the secret a lease of this duration. When the lease ends, the secret is deleted, unless somebody has changed it since. A value above the mount's maximum is capped, with a warning.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: writeOperation((*backend).writeSecret, "Store a secret in Unity Catalog, over the value that it has.", write,
					framework.RequestExample{Description: "A string.", Data: map[string]any{keyStringValue: "s3cr3t", keyComment: "of the billing API"}},
					framework.RequestExample{Description: "A generated value, for a day.", Data: map[string]any{keyPasswordPolicy: "strong", keyTTL: "24h"}},
				),
				logical.DeleteOperation: deleteOperation((*backend).deleteSecret, "Delete a secret in Unity Catalog."),
				logical.ReadOperation:   readOperation((*backend).readUCSecret, "Read a secret in Unity Catalog, where the engine's identity may.", ucSecretReadFields),
			},
			ExistenceCheck:  existsAtDatabricks,
			HelpSynopsis:    "A secret in Unity Catalog.",
			HelpDescription: strings.TrimSpace(ucSecretsHelp),
		},
	}
}

var ucNameFields = map[string]*framework.FieldSchema{
	keyCatalog:  {Type: framework.TypeString, Required: true, Description: "Name of the catalog."},
	keySchema:   {Type: framework.TypeString, Required: true, Description: "Name of the schema."},
	keyName:     {Type: framework.TypeString, Required: true, Description: "Name of the secret."},
	keyFullName: {Type: framework.TypeString, Required: true, Description: "The three with periods between them, by which notebooks and SQL name the secret."},
}

var ucSecretWriteFields = withFields(ucNameFields, map[string]*framework.FieldSchema{
	keyUpdatedTime: secretWriteFields[keyUpdatedTime],
	keyLastUpdated: secretWriteFields[keyLastUpdated],
})

var ucSecretReadFields = withFields(ucNameFields, map[string]*framework.FieldSchema{
	keyStringValue: {Type: framework.TypeString, Required: true, Description: "The value.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	keyBytesValue:  secretReadFields[keyBytesValue],
	keyComment:     {Type: framework.TypeString, Required: true, Description: "Comment of the secret; empty for none."},
	keyOwner:       {Type: framework.TypeString, Required: true, Description: "Principal that owns the secret."},
	keyUpdatedTime: secretReadFields[keyUpdatedTime],
	keyLastUpdated: secretReadFields[keyLastUpdated],
})

// readUCSecret reads value and description in one call.
func (b *backend) readUCSecret(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := secretRefOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	secret, err := conn.client.GetUCSecret(ctx, ref.UC, true)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explainUC(err, ref.UC)
	}
	if secret.Value == nil {
		return nil, logical.CodedError(http.StatusBadRequest, "Databricks returned "+ref.UC+" without a value: either it is empty, or the engine's identity lacks READ SECRET on it")
	}
	answer := updatedTimes(secret.Updated)
	for field, value := range ref.answer() {
		answer[field] = value
	}
	answer[keyStringValue] = secret.Value.Reveal()
	answer[keyBytesValue] = base64.StdEncoding.EncodeToString([]byte(secret.Value.Reveal()))
	answer[keyComment], answer[keyOwner] = secret.Comment, secret.Owner
	return &logical.Response{Data: answer}, nil
}

// listUCSecrets lists the secrets of a schema that the engine's identity may see.
func (b *backend) listUCSecrets(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	catalog, schema := data.Get(keyCatalog).(string), data.Get(keySchema).(string)
	if err := checkUCName(keyCatalog, catalog); err != nil {
		return nil, err
	}
	if err := checkUCName(keySchema, schema); err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	secrets, err := conn.client.ListUCSecrets(ctx, catalog, schema)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explainUC(err, catalog+"."+schema)
	}
	names, infos := make([]string, 0, len(secrets)), make(map[string]any, len(secrets))
	for _, secret := range secrets {
		info := updatedTimes(secret.Updated)
		info[keyComment], info[keyOwner] = secret.Comment, secret.Owner
		names = append(names, secret.Name)
		infos[secret.Name] = info
	}
	return logical.ListResponseWithInfo(names, infos), nil
}

const ucSecretsHelp = `
Manages a secret in Unity Catalog, <catalog>.<schema>.<name>. It is governed by Unity
Catalog's privileges, and unlike a secret in a scope it can be read by REST: who has
READ SECRET on it, on its schema or on its catalog sees the value, in notebooks and
outside. Values are texts of 60 KiB at most. Databricks ignores the case of names, which
have no periods, slashes and spaces.

  vault write databricks/uc-secrets/main/app/api-key string_value=- comment="billing"
  vault write databricks/uc-secrets/main/app/db password_policy=strong ttl=24h
  vault write databricks/uc-secrets/main/app/new string_value=- if_absent=true
  vault list -detailed databricks/uc-secrets/main/app
  vault read databricks/uc-secrets/main/app/api-key
  vault delete databricks/uc-secrets/main/app/api-key

With a ttl the secret is a lease: when it ends, the secret is deleted, unless somebody
has changed it since. Unity Catalog secrets are a preview on some clouds; where they are
missing, an error says so.

A write needs the capability "update" in a policy, whether the secret exists or not. With
if_absent=true it refuses to overwrite.
`
