// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func pathUCSchema() *framework.Path {
	return &framework.Path{
		Pattern: "uc-secrets/(?P<" + keyCatalog + ">[^/]+)/(?P<" + keySchema + ">[^/]+)/?",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationSuffix: "unity-catalog-secrets",
		},
		Fields: map[string]*framework.FieldSchema{
			keyCatalog: {Type: framework.TypeString, Description: "Name of the catalog.", Required: true},
			keySchema:  {Type: framework.TypeString, Description: "Name of the schema in the catalog.", Required: true},
			keySecrets: {
				Type:         framework.TypeMap,
				Description:  "Strings to store, by name. 1,000 names at most.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			keyBytes: {
				Type:         framework.TypeMap,
				Description:  "The same in base64, by name. What it encodes must be UTF-8. Together with secrets 1,000 names at most.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			keyPrune: {
				Type:        framework.TypeBool,
				Description: "Delete the secrets of the schema that were not sent, as far as the engine's identity sees them. What this mount itself holds is kept: leased secrets, the copies of leased credentials, and those of static roles.",
			},
			keyDryRun: {
				Type:        framework.TypeBool,
				Description: "Only report what would be written, deleted and kept.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: readOperation((*backend).listUCSecrets, "List the secrets of a schema in Unity Catalog.", listResponseFields),
			logical.UpdateOperation: writeOperation((*backend).pushSecrets, "Store many secrets of a schema in Unity Catalog at once.", []framework.Response{pushResponse},
				framework.RequestExample{
					Description: "Make the schema equal to what is sent.",
					Data:        map[string]any{keySecrets: map[string]any{"user": "etl", "password": "s3cr3t"}, keyPrune: true},
				}),
		},
		HelpSynopsis:    "List the secrets of a schema in Unity Catalog, or store many at once.",
		HelpDescription: strings.TrimSpace(ucSchemaHelp),
	}
}

const ucSchemaHelp = `
Lists the secrets of a schema that the engine's identity may see, with owner, comment and
the time of the last change, or stores many in one call, several at a time. With
prune=true the schema then holds exactly what was sent, and what this mount itself keeps
there, as secrets/<scope> does. dry_run=true only reports what would happen.

When some names fail, the call fails and says which and why; repeating it finishes the
work. To delete a secret, the engine's identity has to own it.

  vault list -detailed databricks/uc-secrets/main/app
  vault write databricks/uc-secrets/main/app - <<< '{"secrets": {"user": "etl", "password": "…"}, "prune": true}'
`
