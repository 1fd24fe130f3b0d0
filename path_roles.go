// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/duration"
)

const (
	keyName           = "name"
	keyCredentialType = "credential_type"
	keyScopes         = "scopes"
	keyComment        = "comment"

	keyServicePrincipalID  = "service_principal_id"
	keyApplicationID       = "application_id"
	keyGroups              = "groups"
	keyEntitlements        = "entitlements"
	keyDisplayNameTemplate = "display_name_template"
	keyAssumeGroup         = "assume_group"
	keyAssumeGroupID       = "assume_group_id"

	keyDatabaseEndpoint  = "database_endpoint"
	keyDatabaseInstances = "database_instances"
	keyDatabaseHost      = "database_host"
	keyClaims            = "claims"
)

func pathRoles() []*framework.Path {
	write := []framework.Response{{Description: "The role as stored.", Fields: roleResponseFields}}
	return []*framework.Path{
		pathNames("roles", roleStoragePrefix, "List the names of the roles, with credential_type, ttl and max_ttl of each in key_info.", rolesHelp, (*backend).roleInfo),
		{
			Pattern: "roles/" + framework.GenericNameRegex(keyName),
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "role",
			},
			Fields: roleFields,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: writeOperation((*backend).writeRole, "Create a role.", write,
					framework.RequestExample{
						Description: "Tokens for 15 minutes, renewable up to one hour.",
						Data:        map[string]any{keyCredentialType: credential.PAT, keyTTL: "15m", keyMaxTTL: "1h"},
					}),
				logical.UpdateOperation: writeOperation((*backend).writeRole, "Change a role; fields that are not named keep their values.", write),
				logical.PatchOperation:  writeOperation((*backend).writeRole, "Change a role; null resets a field.", write),
				logical.DeleteOperation: deleteOperation((*backend).deleteRole, "Delete a role. Its leases can't be renewed any more; they stay until they end or are revoked."),
				logical.ReadOperation:   readOperation((*backend).handleReadRole, "Read a role.", roleResponseFields),
			},
			ExistenceCheck: func(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
				role, err := mountOf(ctx).role(ctx, req.Storage, data.Get(keyName).(string))
				return role != nil, err
			},
			HelpSynopsis:    "Define which credentials can be minted, and for how long.",
			HelpDescription: strings.TrimSpace(rolesHelp),
		},
	}
}

var roleFields = map[string]*framework.FieldSchema{
	keyName: {
		Type:        framework.TypeString,
		Description: "Name of the role.",
		Required:    true,
	},
	keyCredentialType: credential.Field(credential.Names(nil)),
	keyServicePrincipalID: {
		Type:        framework.TypeString,
		Description: "Numeric id of the service principal to mint for. This or application_id is enough.",
	},
	keyApplicationID: {
		Type:        framework.TypeString,
		Description: "Application id (a UUID, also called client id) of the service principal to mint for. This or service_principal_id is enough.",
	},
	keyGroups: {
		Type:        framework.TypeCommaStringSlice,
		Description: "Display names of the groups that a service_principal is made a member of. In admins it is a workspace admin.",
	},
	keyAssumeGroup: {
		Type:        framework.TypeString,
		Description: "Display name or numeric id of a group of the workspace whose rights an oauth_token has instead of its identity's. A name or an id that is sent without the other is looked up. The identity must be a member of the group or have the Assume permission on it. Callers can't change it.",
	},
	keyAssumeGroupID: {
		Type:        framework.TypeString,
		Description: "Numeric id of assume_group, which is enough.",
	},
	keyEntitlements: {
		Type:        framework.TypeCommaStringSlice,
		Description: "Entitlements of a service_principal, for example workspace-access,databricks-sql-access.",
	},
	keyDisplayNameTemplate: {
		Type:        framework.TypeString,
		Description: "Template of the display name of a service_principal, with the fields and functions that comment has.",
	},
	keyDatabaseEndpoint: {
		Type:        framework.TypeString,
		Description: "Endpoint of a Lakebase project that a database_credential is for, as projects/P/branches/B/endpoints/E. This or database_instances.",
	},
	keyDatabaseInstances: {
		Type:        framework.TypeCommaStringSlice,
		Description: "Names of the Lakebase instances that a database_credential is for. This or database_endpoint.",
	},
	keyDatabaseHost: {
		Type:        framework.TypeString,
		Description: "Host name of the database, for the answer. Looked up when the role is written, unless it is sent; of several instances, only what is sent is known. The database must exist in either case.",
	},
	keyClaims: {
		Type:        framework.TypeCommaStringSlice,
		Description: "Full names of Unity Catalog tables, as catalog.schema.table, that a database_credential may read besides, by claims of the permission set READ_ONLY. They take no right in Postgres away. The identity needs the right to them. Empty means no claims.",
	},
	keyScopes: {
		Type:        framework.TypeCommaStringSlice,
		Description: "API scopes of what is minted, for example sql,clusters. Empty leaves them to Databricks, which gives all. Callers may name a subset. A token or OAuth secret that Databricks makes with more is removed again, and such an access token is not handed out; one of which it answers none gives a warning.",
	},
	keyTTL: {
		Type:        framework.TypeDurationSecond,
		Description: "Duration of a lease until its first renewal; 0 means the config's, or else the mount's default. It does not shorten the life of the credential at Databricks; max_ttl does. Other rules hold for two types: of a database_credential for an endpoint it is the credential's own life, 5m to 1h, 1h if neither role nor config has one, and an oauth_token lives for its hour.",
	},
	keyMaxTTL: {
		Type:        framework.TypeDurationSecond,
		Description: "Longest lease, renewals included, and so the credential's own life at Databricks, which is a minute longer: if Vault can't revoke it, it lives that long. 0 means the config's, or else the mount's maximum, 768h unless tuned. Of a database_credential it limits ttl; of an oauth_token it has no effect.",
	},
	keyComment: {
		Type:        framework.TypeString,
		Description: fmt.Sprintf("Template of the comment on what is minted, with {{.RoleName}}, {{.DisplayName}}, {{.EntityName}}, {{.RequestID}} and {{.MountPath}}, if, with, and the functions %s. %d bytes at most. Empty means one that names role and entity.", strings.Join(templateNames, ", "), maxTemplate),
	},
}

var roleResponseFields = storedFields(roleFields, keyName)

func (r *roleEntry) response() *logical.Response {
	return &logical.Response{Data: storedData(r, roleResponseFields)}
}

// roleInfo returns what a list shows of a role, nil when there is none any more.
func (b *backend) roleInfo(ctx context.Context, s logical.Storage, name string) (map[string]any, error) {
	role, err := b.peekRole(ctx, s, name)
	if err != nil || role == nil {
		return nil, err
	}
	return map[string]any{keyCredentialType: role.CredentialType, keyTTL: role.TTL, keyMaxTTL: role.MaxTTL}, nil
}

func (b *backend) handleReadRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := b.role(ctx, req.Storage, data.Get(keyName).(string))
	if err != nil || role == nil {
		return nil, err
	}
	resp := role.response()
	role.addTemplateWarning(resp, templateSamples(data.Get(keyName).(string), req.MountPoint))
	return resp, nil
}

// writeRole checks a role, looks up what Databricks has to say about it, and stores it. No lock is held over the calls: what
// was looked up counts only if the role that is then stored still asks for the same.
func (b *backend) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	key := roleStoragePrefix + name
	old, role, err := mergeRole(ctx, req, data, key)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil && !errors.Is(err, errNotConfigured) {
		return nil, err
	}
	wanted := role.lookedUp()
	known, err := role.resolve(ctx, conn, old)
	if err != nil {
		return nil, err
	}
	if role, err = b.saveRole(ctx, req, data, key, wanted, role); err != nil {
		return nil, err
	}
	b.reportedTemplates.Delete(key)
	b.event("role-write", req.Path, "name", name, "credential_type", role.CredentialType)

	resp := role.response()
	b.addRoleWarnings(resp, conn, role, known)
	role.addTemplateWarning(resp, templateSamples(name, req.MountPoint))
	return resp, nil
}

// addRoleWarnings warns of durations that the mount caps, and of what the author of such a role should know. conn may be nil.
func (b *backend) addRoleWarnings(resp *logical.Response, conn *connection, role *roleEntry, known credential.Known) {
	longest := b.System().MaxLeaseTTL()
	for _, f := range []struct {
		field string
		value int64
	}{{keyTTL, role.TTL}, {keyMaxTTL, role.MaxTTL}} {
		if seconds(f.value) > longest {
			resp.AddWarning(fmt.Sprintf("%s of %s is more than the mount's maximum of %s, which caps it.", f.field, duration.Seconds(f.value), duration.Text(longest)))
		}
	}
	config := new(configEntry)
	if conn != nil {
		config = conn.config
	}
	if warning := lifetimeWarning(b.System(), config, role); warning != "" {
		resp.AddWarning(warning)
	}
	kind := credential.Lookup(role.CredentialType)
	if warning := role.lifeWarning(b.System(), config); kind.Traits().Database && warning != "" {
		resp.AddWarning(warning)
	}
	for _, warning := range kind.Warnings(known, role.spec()) {
		resp.AddWarning(warning)
	}
	if warning := kind.Traits().LeaseWarning; warning != "" {
		resp.AddWarning(warning)
	}
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	key := roleStoragePrefix + name
	b.roleWrite.Lock()
	defer b.roleWrite.Unlock()
	err := req.Storage.Delete(ctx, key)
	b.roles.drop(key) // it may have been deleted despite an error
	b.reportedTemplates.Delete(key)
	if err != nil {
		return nil, err
	}
	b.event("role-delete", req.Path, "name", name)
	return &logical.Response{}, nil
}

const rolesHelp = `
A role defines which credentials can be minted, and for how long. Every caller with
access to creds/<name> can get them, so use a separate role for each team.

  vault write databricks/roles/etl credential_type=pat ttl=15m max_ttl=1h
  vault write databricks/roles/bi credential_type=pat scopes=sql ttl=8h max_ttl=8h \
      comment='BI for {{.EntityName}}, request {{.RequestID}}'

  vault list databricks/roles

  vault write databricks/roles/job credential_type=oauth_token application_id=6f5ccf28-…
  vault write databricks/roles/team credential_type=oauth_token assume_group=analysts
  vault write databricks/roles/db credential_type=database_credential ttl=15m \
      database_endpoint=projects/shop/branches/production/endpoints/primary
  vault write databricks/roles/app credential_type=service_principal groups=readers ttl=1h max_ttl=8h

A credential expires at Databricks one minute after max_ttl, even if Vault can't
revoke it. ttl, and that of a caller, shortens only the lease: without max_ttl,
credentials live as long as the mount's maximum allows. Databricks can't extend a
credential, so no renewal goes past that. Two types have a life of their own, end by
themselves and can be neither revoked nor renewed: an oauth_token lives for one hour,
whatever ttl and max_ttl say, and a database_credential for ttl, 5 minutes to an hour
(for instances always an hour). Connections that it has opened outlive it.

With assume_group an oauth_token has the rights of that group instead of those of its
identity, over the OAuth of a workspace only. Give such a role scopes, without
authentication: else its tokens may be able to create personal access tokens.
`
