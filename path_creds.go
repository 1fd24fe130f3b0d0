// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keyRole         = "role"
	keyTokenValue   = "token_value"
	keyTokenID      = "token_id"
	keyCreationTime = "creation_time"
	keyExpiryTime   = "expiry_time"
	keyDeliverScope = "deliver_scope"
	keyDeliverKey   = "deliver_key"
	keyDeliverUC    = "deliver_uc"
	keySecretID     = "secret_id"
	keyAccessToken  = "access_token"
	keyTokenType    = "token_type"
	keyDisplayName  = "display_name"

	secretTypeCredential = "databricks_credential"

	mintPrefix = "creds/"
)

func pathCreds() []*framework.Path {
	operation := func(suffix, summary string, examples ...framework.RequestExample) *framework.PathOperation {
		return &framework.PathOperation{
			// A read mints, too, so it refuses what it does not know.
			Callback:                  exactly(on((*backend).mint), nil),
			DisplayAttrs:              &framework.DisplayAttributes{OperationSuffix: suffix},
			Summary:                   summary,
			Examples:                  examples,
			Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "The credential, as a lease.", Fields: credsResponseFields}}},
			ForwardPerformanceStandby: true,
		}
	}
	return []*framework.Path{{
		Pattern: mintPrefix + framework.GenericNameRegex(keyRole),
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationVerb:   "generate",
		},
		Fields: map[string]*framework.FieldSchema{
			keyRole: {
				Type:        framework.TypeString,
				Description: "Name of the role.",
				Required:    true,
			},
			keyTTL: {
				Type:        framework.TypeDurationSecond,
				Description: "Lease duration, instead of the role's. A value above max_ttl is capped, with a warning. It does not shorten the credential's own life at Databricks, which max_ttl decides, except that of a database_credential for an endpoint, which is this ttl, 5m at least. An oauth_token lives for its hour.",
				Query:       true,
			},
			keyScopes: {
				Type:        framework.TypeCommaStringSlice,
				Description: "API scopes of the credential: a subset of the role's, or any if the role has none. A database_credential has none.",
				Query:       true,
			},
			keyComment: {
				Type:        framework.TypeString,
				Description: fmt.Sprintf("Added to the role's comment, for example a ticket number. %d bytes at most.", maxCallerComment),
				Query:       true,
			},
			keyDeliverScope: {
				Type:        framework.TypeString,
				Description: "Secret scope to store the secret part of the credential in, as a string, instead of returning it. Revoking removes it again. Needs deliver_key.",
			},
			keyDeliverKey: {
				Type:        framework.TypeString,
				Description: "Key in deliver_scope. It may have slashes. An existing secret is overwritten, in whatever case its key is written.",
			},
			keyDeliverUC: {
				Type:        framework.TypeString,
				Description: "Secret in Unity Catalog to store the secret part of the credential in, instead of returning it: <catalog>.<schema>.<name>. Who has READ SECRET on it can use the credential. Not together with deliver_scope and deliver_key.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation("credentials", "Mint a credential."),
			logical.UpdateOperation: operation("credentials-with-parameters", "Mint a credential with less access or a shorter lease than the role allows.",
				framework.RequestExample{
					Description: "A token for five minutes that can only run SQL.",
					Data:        map[string]any{keyTTL: "5m", keyScopes: "sql", keyComment: "OPS-1234"},
				}),
		},
		HelpSynopsis:    "Mint a credential as a lease.",
		HelpDescription: strings.TrimSpace(credsHelp),
	}}
}

// credentialFields returns the response fields for credentials of the types.
func credentialFields(types []string) map[string]*framework.FieldSchema {
	fields := credential.AnswerFields(types)
	host := &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Origin of the workspace."}
	if slices.Contains(types, credential.Database) {
		host.Required, host.Description = false, "Origin of the workspace; of a "+credential.Database+" the database's host name, where that is known."
	}
	fields[keyHost] = host
	fields[keyExpiryTime] = &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "When the credential expires at Databricks, RFC 3339."}
	return fields
}

var credsResponseFields = func() map[string]*framework.FieldSchema {
	fields := credentialFields(credential.Names(nil))
	for _, schema := range fields {
		if schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive {
			schema.Description += " Absent if it was delivered to a secret."
		}
	}
	fields[keyExpiryTime].Description += " The lease ends earlier, but that of an oauth_token or a database_credential ends with it."
	fields[keyDeliverScope] = &framework.FieldSchema{Type: framework.TypeString, Description: "Secret scope that the credential was delivered to."}
	fields[keyDeliverKey] = &framework.FieldSchema{Type: framework.TypeString, Description: "Key that the credential was delivered to."}
	fields[keyDeliverUC] = &framework.FieldSchema{Type: framework.TypeString, Description: "Secret in Unity Catalog that the credential was delivered to."}
	return fields
}()

const credsHelp = `
Mints a credential of the role and returns it once, as a lease. Revoking the
lease, or letting it end, deletes the credential at Databricks.

  vault read databricks/creds/etl
  vault write databricks/creds/etl ttl=5m scopes=sql comment=OPS-1234
  vault write databricks/creds/etl deliver_scope=etl deliver_key=token
  vault write databricks/creds/etl deliver_uc=main.app.token
  vault lease revoke databricks/creds/etl/…
  vault lease revoke -prefix databricks/creds/etl

A caller can only narrow what the role allows. The credential expires at Databricks one
minute after the lease's longest duration, even if Vault is lost.

An oauth_token is an exception: Databricks can't revoke it. It expires after an hour, its
lease is as long and can't be renewed, and revoking that does nothing.

So is a database_credential: username and password log in to the database at host and
port, over TLS, until expiry_time, which ttl decides. Connections that are open then, or
when the lease is revoked, stay open: the password is checked at the login only. The lease
can't be renewed; read another one.
`
