// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/template"
	"github.com/hashicorp/vault/sdk/logical"
)

const roleStoragePrefix = "role/"

const (
	keyName           = "name"
	keyCredentialType = "credential_type"
	keyScopes         = "scopes"
	keyComment        = "comment"
)

// roleEntry says what may be minted and for how long. Durations are whole seconds, 0 for unset.
type roleEntry struct {
	CredentialType string   `json:"credential_type"`
	Scopes         []string `json:"scopes"`
	TTL            int64    `json:"ttl"`
	MaxTTL         int64    `json:"max_ttl"`
	Comment        string   `json:"comment"`

	commentTemplate *template.StringTemplate
}

func (b *backend) pathRoles() []*framework.Path {
	write := []framework.Response{{Description: "The role as stored.", Fields: roleResponseFields}}
	return []*framework.Path{
		{
			Pattern: "roles/?",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "roles",
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback: b.listRoles,
					Summary:  "List the names of the roles.",
					Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"keys": {Type: framework.TypeStringSlice, Description: "Names of the roles."},
					}}}},
				},
			},
			HelpSynopsis:    "List the roles of the mount.",
			HelpDescription: "Lists the names of the roles:\n\n  vault list databricks/roles",
		},
		{
			Pattern: "roles/" + framework.GenericNameRegex(keyName),
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "role",
			},
			Fields: map[string]*framework.FieldSchema{
				keyName: {
					Type:        framework.TypeString,
					Description: "Name of the role.",
					Required:    true,
				},
				keyCredentialType: {
					Type:          framework.TypeString,
					Description:   `What is minted: "pat", a personal access token of the engine's own identity.`,
					Required:      true,
					AllowedValues: []any{credentialPAT},
				},
				keyScopes: {
					Type:        framework.TypeCommaStringSlice,
					Description: "API scopes of what is minted, for example sql,clusters. Empty leaves them to Databricks, which gives all. Callers may name a subset.",
				},
				keyTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Lease duration. 0 means the config's, or else the mount's default.",
				},
				keyMaxTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Longest lease, renewals included; the credential lives a minute longer at Databricks. 0 means the config's, or else the mount's maximum.",
				},
				keyComment: {
					Type:        framework.TypeString,
					Description: "Template of the comment on what is minted, with {{.RoleName}}, {{.DisplayName}}, {{.EntityName}}, {{.RequestID}} and {{.MountPath}}. Empty means one that names role and entity.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.writeOperation(b.writeRole, "Create a role.", write,
					framework.RequestExample{
						Description: "Tokens for a quarter of an hour, an hour at most.",
						Data:        map[string]any{keyCredentialType: credentialPAT, keyTTL: "15m", keyMaxTTL: "1h"},
					}),
				logical.UpdateOperation: b.writeOperation(b.writeRole, "Change a role; fields that are not named keep their values.", write),
				logical.PatchOperation:  b.writeOperation(b.writeRole, "Change a role; null resets a field.", write),
				logical.DeleteOperation: b.writeOperation(b.deleteRole, "Delete a role. Its leases can't be renewed any more, but go on until they end and can be revoked.",
					[]framework.Response{{Description: "Deleted.", Fields: map[string]*framework.FieldSchema{}}}),
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.handleReadRole,
					Summary:   "Read a role.",
					Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: roleResponseFields}}},
				},
			},
			ExistenceCheck: func(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
				role, err := b.role(ctx, req.Storage, data.Get(keyName).(string))
				return role != nil, err
			},
			HelpSynopsis:    "What may be minted, and for how long.",
			HelpDescription: strings.TrimSpace(rolesHelp),
		},
	}
}

var roleResponseFields = map[string]*framework.FieldSchema{
	keyCredentialType: {Type: framework.TypeString, Required: true, Description: "What is minted."},
	keyScopes:         {Type: framework.TypeStringSlice, Required: true, Description: "API scopes of what is minted."},
	keyTTL:            {Type: framework.TypeInt64, Required: true, Description: "Lease duration in seconds."},
	keyMaxTTL:         {Type: framework.TypeInt64, Required: true, Description: "Longest lease in seconds."},
	keyComment:        {Type: framework.TypeString, Required: true, Description: "Template of the comment."},
}

func (r *roleEntry) response() *logical.Response {
	scopes := r.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	return &logical.Response{Data: map[string]any{
		keyCredentialType: r.CredentialType,
		keyScopes:         scopes,
		keyTTL:            r.TTL,
		keyMaxTTL:         r.MaxTTL,
		keyComment:        r.Comment,
	}}
}

// role answers nil when there is no such role. What it answers is shared and must not be changed.
func (b *backend) role(ctx context.Context, s logical.Storage, name string) (*roleEntry, error) {
	key := roleStoragePrefix + name
	return b.roles.get(key, func() (*roleEntry, bool, error) {
		entry, err := s.Get(ctx, key)
		if err != nil || entry == nil {
			return nil, false, err
		}
		role := new(roleEntry)
		if err := entry.DecodeJSON(role); err != nil {
			return nil, false, fmt.Errorf("the stored role %q cannot be read: %w", name, err)
		}
		if role.commentTemplate, err = parseComment(role.Comment); err != nil {
			return nil, false, fmt.Errorf("the comment template of the stored role %q cannot be used: %w", name, err)
		}
		return role, true, nil
	})
}

func (b *backend) handleReadRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := b.role(ctx, req.Storage, data.Get(keyName).(string))
	if err != nil || role == nil {
		return nil, err
	}
	return role.response(), nil
}

func (b *backend) listRoles(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	key := roleStoragePrefix + name
	b.roleWrite.Lock()
	defer b.roleWrite.Unlock()

	old, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if old == nil {
		if req.Operation == logical.PatchOperation {
			return nil, logical.CodedError(http.StatusNotFound, fmt.Sprintf("there is no role %q; write it first", name))
		}
		old = new(roleEntry)
	}
	role := new(roleEntry)
	if err := mergeFields(data, old, role, keyName); err != nil {
		return nil, err
	}
	if err := role.check(); err != nil {
		return nil, err
	}
	entry, err := logical.StorageEntryJSON(key, role)
	if err != nil {
		return nil, err
	}
	if err := req.Storage.Put(ctx, entry); err != nil {
		b.roles.drop(key) // it may have been stored all the same
		return nil, err
	}
	b.roles.put(key, role)
	b.event(ctx, "role-write", req.Path, "name", name, "credential_type", role.CredentialType)

	resp := role.response()
	b.addRoleWarnings(ctx, req.Storage, resp, role)
	return resp, nil
}

// check refuses a role that could never mint what it says, and compiles its template.
func (r *roleEntry) check() error {
	if r.CredentialType == "" {
		return badField(keyCredentialType, "is missing; use one of: %s", strings.Join(credentialTypeNames(), ", "))
	}
	if _, ok := credentialTypes[r.CredentialType]; !ok {
		return badField(keyCredentialType, "%q is unknown; use one of: %s", r.CredentialType, strings.Join(credentialTypeNames(), ", "))
	}
	var err error
	if r.Scopes, err = cleanScopes(r.Scopes); err != nil {
		return err
	}
	if r.commentTemplate, err = parseComment(r.Comment); err != nil {
		return badField(keyComment, "%s", err)
	}
	return checkTTLs(r.TTL, r.MaxTTL)
}

func (b *backend) addRoleWarnings(ctx context.Context, s logical.Storage, resp *logical.Response, role *roleEntry) {
	longest := b.System().MaxLeaseTTL()
	for _, f := range []struct {
		field string
		value int64
	}{{keyTTL, role.TTL}, {keyMaxTTL, role.MaxTTL}} {
		if seconds(f.value) > longest {
			resp.AddWarning(fmt.Sprintf("%s of %s is more than the mount's maximum of %s, which caps it.", f.field, seconds(f.value), longest))
		}
	}
	// A role may be written before the connection, and a warning must never fail the write that has happened.
	conn, err := b.connection(ctx, s)
	if err != nil {
		return
	}
	for _, warning := range credentialTypes[role.CredentialType].warnings(conn.knownIdentity(), role) {
		resp.AddWarning(warning)
	}
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyName).(string)
	key := roleStoragePrefix + name
	b.roleWrite.Lock()
	defer b.roleWrite.Unlock()
	err := req.Storage.Delete(ctx, key)
	b.roles.drop(key) // even after an error it may be gone
	if err != nil {
		return nil, err
	}
	b.event(ctx, "role-delete", req.Path, "name", name)
	return &logical.Response{}, nil
}

// scopeForm is what an API scope may look like (Databricks REST reference, API scopes): words joined by dashes, dots and
// colons.
var scopeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

// cleanScopes drops repeated scopes and refuses malformed ones. The empty list stays empty.
func cleanScopes(scopes []string) ([]string, error) {
	var clean []string
	for _, scope := range scopes {
		if !scopeForm.MatchString(scope) {
			return nil, badField(keyScopes, "%q is no API scope; they look like sql, all-apis or unity-catalog", scope)
		}
		if !slices.Contains(clean, scope) {
			clean = append(clean, scope)
		}
	}
	return clean, nil
}

// narrowScopes answers the scopes to mint with: the role's, unless the caller asks for fewer. No input widens a role.
func narrowScopes(allowed, asked []string) ([]string, error) {
	asked, err := cleanScopes(asked)
	if err != nil {
		return nil, err
	}
	if len(asked) == 0 {
		return allowed, nil
	}
	if len(allowed) == 0 {
		return asked, nil
	}
	for _, scope := range asked {
		if !slices.Contains(allowed, scope) {
			return nil, badField(keyScopes, "%q is not among the role's scopes; ask for some of: %s", scope, strings.Join(allowed, ", "))
		}
	}
	return asked, nil
}

const rolesHelp = `
A role says what may be minted and for how long. Whoever may read creds/<name>
gets it, so give each team a role of its own.

  vault write databricks/roles/etl credential_type=pat ttl=15m max_ttl=1h
  vault write databricks/roles/bi credential_type=pat scopes=sql ttl=8h max_ttl=8h \
      comment='BI for {{.EntityName}}, request {{.RequestID}}'

A token lives at Databricks for max_ttl and one minute, so that it dies even if
Vault can't revoke it. Databricks can't extend a token: renewing a lease never
goes past that.
`
