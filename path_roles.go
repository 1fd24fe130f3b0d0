// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/template"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const roleStoragePrefix = "role/"

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
)

// roleEntry says what may be minted and for how long. Durations are whole seconds, 0 for unset.
type roleEntry struct {
	CredentialType string   `json:"credential_type"`
	Scopes         []string `json:"scopes"`
	TTL            int64    `json:"ttl"`
	MaxTTL         int64    `json:"max_ttl"`
	Comment        string   `json:"comment"`

	// Both ids name the same service principal. One is given, the other looked up.
	ServicePrincipalID string `json:"service_principal_id"`
	ApplicationID      string `json:"application_id"`

	Groups              []string `json:"groups"`
	Entitlements        []string `json:"entitlements"`
	DisplayNameTemplate string   `json:"display_name_template"`

	// text is the compiled template of the comment, or of the display name.
	text *template.StringTemplate
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
					Description:   `What is minted: "pat", a personal access token of the engine's own identity; "obo_token", one on behalf of a service principal; "oauth_secret", an OAuth secret of a service principal; "oauth_token", an OAuth access token of the engine's identity or of a service principal; "service_principal", a service principal of the lease's own with an OAuth secret.`,
					Required:      true,
					AllowedValues: []any{credentialPAT, credentialOBO, credentialOAuthSecret, credentialOAuthToken, credentialServicePrincipal},
				},
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
					Description: "Display names of the groups that a service_principal is made a member of.",
				},
				keyEntitlements: {
					Type:        framework.TypeCommaStringSlice,
					Description: "Entitlements of a service_principal, for example workspace-access,databricks-sql-access.",
				},
				keyDisplayNameTemplate: {
					Type:        framework.TypeString,
					Description: "Template of the display name of a service_principal, with the fields that comment has.",
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

	keyServicePrincipalID:  {Type: framework.TypeString, Required: true, Description: "Numeric id of the service principal."},
	keyApplicationID:       {Type: framework.TypeString, Required: true, Description: "Application id of the service principal."},
	keyGroups:              {Type: framework.TypeStringSlice, Required: true, Description: "Groups of a service_principal."},
	keyEntitlements:        {Type: framework.TypeStringSlice, Required: true, Description: "Entitlements of a service_principal."},
	keyDisplayNameTemplate: {Type: framework.TypeString, Required: true, Description: "Template of the display name of a service_principal."},
}

func (r *roleEntry) response() *logical.Response {
	return &logical.Response{Data: map[string]any{
		keyCredentialType:      r.CredentialType,
		keyScopes:              append([]string{}, r.Scopes...),
		keyTTL:                 r.TTL,
		keyMaxTTL:              r.MaxTTL,
		keyComment:             r.Comment,
		keyServicePrincipalID:  r.ServicePrincipalID,
		keyApplicationID:       r.ApplicationID,
		keyGroups:              append([]string{}, r.Groups...),
		keyEntitlements:        append([]string{}, r.Entitlements...),
		keyDisplayNameTemplate: r.DisplayNameTemplate,
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
		if err := role.compile(); err != nil {
			return nil, false, fmt.Errorf("the template of the stored role %q cannot be used: %s", name, err)
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
	if err != nil && err != error(errNotConfigured) {
		return nil, err
	}
	wanted := role.lookedUp()
	if err := role.settle(ctx, conn, old); err != nil {
		return nil, err
	}
	if role, err = b.saveRole(ctx, req, data, key, wanted, role); err != nil {
		return nil, err
	}
	b.event(ctx, "role-write", req.Path, "name", name, "credential_type", role.CredentialType)

	resp := role.response()
	b.addRoleWarnings(resp, conn, role)
	return resp, nil
}

// mergeRole lays the request's fields over the stored role and checks the result.
func mergeRole(ctx context.Context, req *logical.Request, data *framework.FieldData, key string) (old, role *roleEntry, err error) {
	entry, err := req.Storage.Get(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	old, role = new(roleEntry), new(roleEntry)
	if entry == nil && req.Operation == logical.PatchOperation {
		return nil, nil, logical.CodedError(http.StatusNotFound, fmt.Sprintf("there is no role %q; write it first", data.Get(keyName)))
	}
	if entry != nil {
		if err := entry.DecodeJSON(old); err != nil {
			return nil, nil, fmt.Errorf("the stored role %q cannot be read: %w", data.Get(keyName), err)
		}
	}
	if err := mergeFields(data, old, role, keyName); err != nil {
		return nil, nil, err
	}
	role.forgetOtherID(data)
	return old, role, role.check()
}

// named tells whether the role is for a named service principal.
func (r *roleEntry) named() bool { return r.ServicePrincipalID != "" || r.ApplicationID != "" }

// lookedUp are the fields of a role that are looked up at Databricks.
func (r *roleEntry) lookedUp() string {
	return strings.Join(append([]string{r.CredentialType, r.ServicePrincipalID, r.ApplicationID}, r.Groups...), "\x00")
}

// saveRole merges once more, now in the lock, and stores the role with the ids that were looked up for it.
func (b *backend) saveRole(ctx context.Context, req *logical.Request, data *framework.FieldData, key, wanted string, settled *roleEntry) (*roleEntry, error) {
	b.roleWrite.Lock()
	defer b.roleWrite.Unlock()
	_, role, err := mergeRole(ctx, req, data, key)
	if err != nil {
		return nil, err
	}
	if role.lookedUp() != wanted {
		return nil, logical.CodedError(http.StatusConflict, "the role was changed by somebody else at the same time; nothing was stored, read it and write again")
	}
	role.ServicePrincipalID, role.ApplicationID = settled.ServicePrincipalID, settled.ApplicationID
	entry, err := logical.StorageEntryJSON(key, role)
	if err != nil {
		return nil, err
	}
	if err := req.Storage.Put(ctx, entry); err != nil {
		b.roles.drop(key) // it may have been stored all the same
		return nil, err
	}
	b.roles.put(key, role)
	return role, nil
}

// forgetOtherID drops the id that was stored when the request names only the other one, so that it is looked up anew.
func (r *roleEntry) forgetOtherID(data *framework.FieldData) {
	switch {
	case given(data, keyServicePrincipalID) && !given(data, keyApplicationID):
		r.ApplicationID = ""
	case given(data, keyApplicationID) && !given(data, keyServicePrincipalID):
		r.ServicePrincipalID = ""
	}
}

// check refuses a role that could never mint what it says, and compiles its template.
func (r *roleEntry) check() error {
	credential, ok := credentialTypes[r.CredentialType]
	if !ok {
		problem := fmt.Sprintf("%q is unknown", r.CredentialType)
		if r.CredentialType == "" {
			problem = "is missing"
		}
		return badField(keyCredentialType, "%s; use one of: %s", problem, strings.Join(credentialTypeNames(), ", "))
	}
	if err := r.checkNeeds(credential.needs()); err != nil {
		return err
	}
	var err error
	if r.Scopes, err = cleanScopes(r.Scopes); err != nil {
		return err
	}
	for field, values := range map[string][]string{keyGroups: r.Groups, keyEntitlements: r.Entitlements} {
		for _, value := range values {
			if strings.TrimSpace(value) == "" || len(value) > maxPrincipal || strings.ContainsFunc(value, unicode.IsControl) {
				return badField(field, "%q can't be one", value)
			}
		}
	}
	if err := r.compile(); err != nil {
		return err
	}
	return checkTTLs(r.TTL, r.MaxTTL)
}

// checkNeeds refuses fields that the credential type has no use for, misses those that it needs, and tells ids apart.
func (r *roleEntry) checkNeeds(needs needs) error {
	for _, f := range []struct {
		field string
		set   bool
		may   bool
	}{
		{keyServicePrincipalID, r.ServicePrincipalID != "", needs.principal != never},
		{keyApplicationID, r.ApplicationID != "", needs.principal != never},
		{keyGroups, len(r.Groups) > 0, needs.groups},
		{keyEntitlements, len(r.Entitlements) > 0, needs.groups},
		{keyDisplayNameTemplate, r.DisplayNameTemplate != "", needs.displayName},
		{keyComment, r.Comment != "", needs.comment},
	} {
		if f.set && !f.may {
			return badField(f.field, "has no meaning for credential_type %s; leave it out, or send it empty if the role has it from before", r.CredentialType)
		}
	}
	if needs.principal == required && !r.named() {
		return badField(keyServicePrincipalID, "is missing; credential_type %s needs it or %s", r.CredentialType, keyApplicationID)
	}
	if id := r.ServicePrincipalID; id != "" && strings.Trim(id, "0123456789") != "" {
		if applicationIDForm.MatchString(id) {
			return badField(keyServicePrincipalID, "%q is an application id; send it as %s", id, keyApplicationID)
		}
		return badField(keyServicePrincipalID, "%q is not a number", id)
	}
	if id := r.ApplicationID; id != "" && !applicationIDForm.MatchString(id) {
		if strings.Trim(id, "0123456789") == "" {
			return badField(keyApplicationID, "%q is the numeric id; send it as %s", id, keyServicePrincipalID)
		}
		return badField(keyApplicationID, "%q is not a UUID", id)
	}
	return nil
}

var applicationIDForm = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// settle holds a role against the connection, which is nil when there is none yet: whether its type works there, who its
// service principal is, and whether its groups exist.
func (r *roleEntry) settle(ctx context.Context, conn *connection, old *roleEntry) error {
	needs := credentialTypes[r.CredentialType].needs()
	if conn == nil {
		if r.named() || len(r.Groups) > 0 {
			return badField("config", "a role that names a service principal or groups is looked up at Databricks; write the connection first")
		}
		return nil
	}
	if err := conn.fits(r); err != nil {
		return err
	}
	if needs.principal != never && r.named() && (r.ServicePrincipalID != old.ServicePrincipalID || r.ApplicationID != old.ApplicationID) {
		if err := r.lookUp(ctx, conn); err != nil {
			return err
		}
	}
	if !slices.Equal(r.Groups, old.Groups) {
		conn.forgetGroups()
		if _, err := conn.groupIDs(ctx, r.Groups); err != nil {
			return err
		}
	}
	return nil
}

// lookUp completes the ids of the service principal, or refuses those that don't belong together.
func (r *roleEntry) lookUp(ctx context.Context, conn *connection) error {
	var found *client.ServicePrincipal
	var err error
	field, value := keyServicePrincipalID, r.ServicePrincipalID
	if value != "" {
		found, err = conn.client.GetServicePrincipal(ctx, value)
	} else {
		field, value = keyApplicationID, r.ApplicationID
		found, err = conn.client.FindServicePrincipal(ctx, value)
	}
	if isGone(err) {
		return badField(field, "there is no service principal %q at %s; add it there, or correct it: %s", value, conn.config.Host, err)
	}
	if err != nil {
		return explainPrincipal(err, value)
	}
	if r.ApplicationID != "" && !strings.EqualFold(r.ApplicationID, found.ApplicationID) {
		return badField(keyApplicationID, "%q does not belong to service principal %s, whose application id is %s; send one of them", r.ApplicationID, found.ID, found.ApplicationID)
	}
	r.ServicePrincipalID, r.ApplicationID = found.ID, found.ApplicationID
	return nil
}

// compile makes the template ready of what the credential's comment or display name says.
func (r *roleEntry) compile() error {
	field, text := keyComment, r.Comment
	if r.DisplayNameTemplate != "" {
		field, text = keyDisplayNameTemplate, r.DisplayNameTemplate
	}
	var err error
	if r.text, err = parseComment(text); err != nil {
		return badField(field, "%s", err)
	}
	return nil
}

func (b *backend) addRoleWarnings(resp *logical.Response, conn *connection, role *roleEntry) {
	longest := b.System().MaxLeaseTTL()
	for _, f := range []struct {
		field string
		value int64
	}{{keyTTL, role.TTL}, {keyMaxTTL, role.MaxTTL}} {
		if seconds(f.value) > longest {
			resp.AddWarning(fmt.Sprintf("%s of %s is more than the mount's maximum of %s, which caps it.", f.field, seconds(f.value), longest))
		}
	}
	var identity *client.Identity
	if conn != nil {
		identity = conn.knownIdentity()
	}
	for _, warning := range credentialTypes[role.CredentialType].warnings(identity, role) {
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

  vault write databricks/roles/job credential_type=oauth_token application_id=6f5ccf28-…
  vault write databricks/roles/app credential_type=service_principal groups=readers ttl=1h max_ttl=8h

A credential lives at Databricks for max_ttl and one minute, so that it dies even if
Vault can't revoke it. Databricks can't extend one: renewing a lease never
goes past that. An oauth_token lives for its hour and can be neither revoked nor
renewed.
`
