// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const roleStoragePrefix = "role/"

// roleEntry is a stored role: which credentials can be minted, and for how long. Durations are whole seconds, 0 for unset.
type roleEntry struct {
	CredentialType string   `json:"credential_type"`
	Scopes         []string `json:"scopes"`
	TTL            int64    `json:"ttl"`
	MaxTTL         int64    `json:"max_ttl"`
	Comment        string   `json:"comment"`

	// Both ids name the same service principal. One is given, the other looked up.
	ServicePrincipalID string `json:"service_principal_id"`
	ApplicationID      string `json:"application_id"`

	// The display name and the id of the group whose rights credentials have instead of their identity's. Either was given for the name, and
	// both were looked up.
	AssumeGroup   string `json:"assume_group"`
	AssumeGroupID string `json:"assume_group_id"`

	// The database that logins are for: one of the first two. The host is sent or looked up; empty where it isn't known.
	DatabaseEndpoint  string   `json:"database_endpoint"`
	DatabaseInstances []string `json:"database_instances"`
	DatabaseHost      string   `json:"database_host"`
	Claims            []string `json:"claims"` // full names of tables

	// LookedUp says where the ids, the group and the host of the database were looked up, nil for nowhere and in roles of v0.1.0. Elsewhere the
	// same ids may be those of others.
	LookedUp *origin `json:"looked_up,omitempty"`

	Groups              []string `json:"groups"`
	Entitlements        []string `json:"entitlements"`
	DisplayNameTemplate string   `json:"display_name_template"`

	// text is the compiled template of the comment, or of the display name. If a stored one can't be used, it is nil, and unusable says why.
	text     *textTemplate
	unusable error

	// stored is set if the role is the form of a static role in which credentials are minted for it.
	stored bool
}

// role returns nil when there is no such role. The result is shared and must not be changed.
func (b *backend) role(ctx context.Context, s logical.Storage, name string) (*roleEntry, error) {
	return b.roles.get(roleStoragePrefix+name, func() (*roleEntry, bool, error) {
		role, err := readRole(ctx, s, name)
		if role != nil {
			role.compile()
		}
		return role, role != nil, err
	})
}

// peekRole is role without caching it, for a list of all. No credential can be minted from the result.
func (b *backend) peekRole(ctx context.Context, s logical.Storage, name string) (*roleEntry, error) {
	return b.roles.get(roleStoragePrefix+name, func() (*roleEntry, bool, error) {
		role, err := readRole(ctx, s, name)
		return role, false, err
	})
}

// readRole returns a role as it is stored, nil when there is none.
func readRole(ctx context.Context, s logical.Storage, name string) (*roleEntry, error) {
	entry, err := s.Get(ctx, roleStoragePrefix+name)
	if err != nil || entry == nil {
		return nil, err
	}
	role := new(roleEntry)
	if err := entry.DecodeJSON(role); err != nil {
		return nil, fmt.Errorf("the stored role %q cannot be read: %w", name, err)
	}
	return role, nil
}

// mergeRole applies the request's fields to the stored role and checks the result. old is the stored role, or an empty one.
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
	role.forgetHost(data, old)
	if err := role.check(); err != nil {
		return nil, nil, err
	}
	return old, role, role.checkTemplate(old, templateSamples(data.Get(keyName).(string), req.MountPoint))
}

// spec returns the role's settings for its credentials.
func (r *roleEntry) spec() credential.Spec {
	return credential.Spec{
		ServicePrincipalID: r.ServicePrincipalID, ApplicationID: r.ApplicationID, Scopes: r.Scopes, Groups: r.Groups, Entitlements: r.Entitlements, Stored: r.stored,
		Assumed:      client.Group{ID: r.AssumeGroupID, DisplayName: r.AssumeGroup},
		Database:     client.Database{Endpoint: r.DatabaseEndpoint, Instances: r.DatabaseInstances, Tables: r.Claims},
		DatabaseHost: r.DatabaseHost,
	}
}

// lookedUp returns the fields that are looked up at Databricks, as one string for comparison.
func (r *roleEntry) lookedUp() string {
	fields := []string{r.CredentialType, r.ServicePrincipalID, r.ApplicationID, r.AssumeGroup, r.AssumeGroupID, r.DatabaseEndpoint, r.DatabaseHost}
	return strings.Join(slices.Concat(fields, r.Groups, []string{""}, r.DatabaseInstances), "\x00")
}

// saveRole merges once more, now holding roleWrite, and stores the role with the ids that were looked up for it. If the
// looked-up fields are no longer the wanted ones, it stores nothing and fails with a 409.
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
	role.AssumeGroup, role.AssumeGroupID, role.DatabaseHost = settled.AssumeGroup, settled.AssumeGroupID, settled.DatabaseHost
	role.LookedUp = settled.LookedUp
	entry, err := logical.StorageEntryJSON(key, role)
	if err != nil {
		return nil, err
	}
	if err := req.Storage.Put(ctx, entry); err != nil {
		b.roles.drop(key) // it may have been stored despite the error
		return nil, err
	}
	b.roles.put(key, role)
	return role, nil
}

// forgetOtherID drops the id that was stored when the request names only the other one, so that it is looked up again; the same for the id and
// the display name of the group to assume.
func (r *roleEntry) forgetOtherID(data *framework.FieldData) {
	switch {
	case given(data, keyServicePrincipalID) && !given(data, keyApplicationID):
		r.ApplicationID = ""
	case given(data, keyApplicationID) && !given(data, keyServicePrincipalID):
		r.ServicePrincipalID = ""
	}
	_, named := data.Raw[keyAssumeGroup]
	_, numbered := data.Raw[keyAssumeGroupID]
	switch {
	case named && !given(data, keyAssumeGroupID):
		r.AssumeGroupID = ""
	case numbered && !given(data, keyAssumeGroup):
		r.AssumeGroup = ""
	}
}

// check validates a role, but for its template, which it compiles.
func (r *roleEntry) check() error {
	kind := credential.Lookup(r.CredentialType)
	if kind == nil {
		problem := fmt.Sprintf("%q is unknown", r.CredentialType)
		if r.CredentialType == "" {
			problem = "is missing"
		}
		return badField(keyCredentialType, "%s; use one of: %s", problem, strings.Join(credential.Names(nil), ", "))
	}
	if err := r.checkFields(kind.Traits()); err != nil {
		return err
	}
	if kind.Traits().Database {
		if err := r.checkDatabase(); err != nil {
			return err
		}
	}
	var err error
	if r.Scopes, err = cleanScopes(r.Scopes); err != nil {
		return err
	}
	texts := map[string][]string{keyGroups: r.Groups, keyEntitlements: r.Entitlements}
	if r.AssumeGroup != "" {
		texts[keyAssumeGroup] = []string{r.AssumeGroup}
	}
	for field, values := range texts {
		for _, value := range values {
			if strings.TrimSpace(value) == "" || len(value) > maxPrincipal || strings.ContainsFunc(value, unicode.IsControl) {
				return badField(field, "%q is not a valid value; send one without control characters, of %d bytes at most", value, maxPrincipal)
			}
		}
	}
	r.compile()
	return checkTTLs(r.TTL, r.MaxTTL)
}

// checkFields refuses fields that the credential type does not use, requires those that it needs, and checks the form of the
// ids.
func (r *roleEntry) checkFields(t *credential.Traits) error {
	for _, f := range []struct {
		field string
		set   bool
		may   bool
	}{
		{keyServicePrincipalID, r.ServicePrincipalID != "", t.Principal != credential.Never},
		{keyApplicationID, r.ApplicationID != "", t.Principal != credential.Never},
		{keyGroups, len(r.Groups) > 0, t.Groups},
		{keyEntitlements, len(r.Entitlements) > 0, t.Groups},
		{keyAssumeGroup, r.AssumeGroup != "", t.Assumes},
		{keyAssumeGroupID, r.AssumeGroupID != "", t.Assumes},
		{keyDatabaseEndpoint, r.DatabaseEndpoint != "", t.Database},
		{keyDatabaseInstances, len(r.DatabaseInstances) > 0, t.Database},
		{keyDatabaseHost, r.DatabaseHost != "", t.Database},
		{keyClaims, len(r.Claims) > 0, t.Database},
		{keyScopes, len(r.Scopes) > 0, !t.Database},
		{keyDisplayNameTemplate, r.DisplayNameTemplate != "", t.DisplayName},
		{keyComment, r.Comment != "", t.Comment},
	} {
		if f.set && !f.may {
			return badField(f.field, "has no meaning for credential_type %s; leave it out, or send it empty if the role has it from before", r.CredentialType)
		}
	}
	if t.Principal == credential.Required && !r.spec().Named() {
		return badField(keyServicePrincipalID, "is missing; credential_type %s needs it or %s", r.CredentialType, keyApplicationID)
	}
	if id := r.ServicePrincipalID; id != "" && strings.Trim(id, "0123456789") != "" {
		if applicationIDForm.MatchString(id) {
			return badField(keyServicePrincipalID, "%q is an application id; send it as %s", id, keyApplicationID)
		}
		return badField(keyServicePrincipalID, "%q is not a number", id)
	}
	if id := r.AssumeGroupID; strings.Trim(id, "0123456789") != "" {
		return badField(keyAssumeGroupID, "%q is not a number; send a display name as %s", id, keyAssumeGroup)
	}
	if id := r.ApplicationID; id != "" && !applicationIDForm.MatchString(id) {
		if strings.Trim(id, "0123456789") == "" {
			return badField(keyApplicationID, "%q is the numeric id; send it as %s", id, keyServicePrincipalID)
		}
		return badField(keyApplicationID, "%q is not a UUID", id)
	}
	return nil
}

// hintBudget limits what a write of a role asks Databricks for the sake of its warnings alone.
const hintBudget = 10 * time.Second

// resolve checks a role against the connection, which is nil if there is none yet: its type must work there, and its service
// principal and groups must exist. It completes the ids of the service principal. Only changed fields are looked up. It returns what is
// known of the role's identities then.
func (r *roleEntry) resolve(ctx context.Context, conn *connection, old *roleEntry) (credential.Known, error) {
	t := credential.Lookup(r.CredentialType).Traits()
	if conn == nil {
		if r.spec().Named() || len(r.Groups) > 0 || r.spec().Assumed != (client.Group{}) || t.Database {
			return credential.Known{}, badField("config", "a role that names a service principal, groups or a database is looked up at Databricks; write the connection first")
		}
		return credential.Known{Unknown: "there is no connection yet"}, nil
	}
	known := conn.known()
	if err := conn.fits(r.CredentialType, r.spec()); err != nil {
		return known, err
	}
	old = r.noteLookup(conn, old)
	changed := r.CredentialType != old.CredentialType || r.ServicePrincipalID != old.ServicePrincipalID || r.ApplicationID != old.ApplicationID
	if t.Principal != credential.Never && r.spec().Named() && changed {
		var err error
		if known.Principal, err = r.lookUp(ctx, conn); err != nil {
			return known, err
		}
	}
	if !slices.Equal(r.Groups, old.Groups) {
		conn.ForgetGroups()
		if _, err := conn.GroupIDs(ctx, r.Groups); err != nil {
			return known, err
		}
	}
	if err := r.lookUpAssumed(ctx, conn, old); err != nil {
		return known, err
	}
	if t.Database {
		if err := r.lookUpDatabase(ctx, conn, old, &known); err != nil {
			return known, err
		}
	}
	return r.hints(ctx, conn, known), nil
}

// hints completes what is known, as far as the role's warnings need it: who the engine is, and whether it may make OAuth secrets for the
// service principal that was looked up. What Databricks doesn't tell in time is left open.
func (r *roleEntry) hints(ctx context.Context, conn *connection, known credential.Known) credential.Known {
	ofPrincipal := credential.Lookup(r.CredentialType).Traits().Textless && r.spec().Named()
	if ofPrincipal && known.Principal == nil {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, hintBudget)
	defer cancel()
	if known.Identity == nil {
		var err error
		if known.Identity, err = conn.whoami(ctx); errors.Is(err, context.DeadlineExceeded) {
			known.Unknown = "Databricks did not answer in time"
		} else if err != nil {
			known.Unknown = err.Error()
		}
	}
	// A static role, whose first credential is made at once, needs no such warning. Of an admin the answer is known, and only a refusal
	// counts.
	if ofPrincipal && !r.stored && !known.Admin() {
		_, err := conn.client.ListOAuthSecrets(ctx, known.Principal.ID)
		known.Unmanaged = client.IsKind(err, client.PermissionDenied)
	}
	return known
}

// lookUp returns the service principal and completes its ids, or refuses two that belong to different ones.
func (r *roleEntry) lookUp(ctx context.Context, conn *connection) (*client.ServicePrincipal, error) {
	var found *client.ServicePrincipal
	var err error
	field, value := keyServicePrincipalID, r.ServicePrincipalID
	if value != "" {
		found, err = conn.client.GetServicePrincipal(ctx, value)
	} else {
		field, value = keyApplicationID, r.ApplicationID
		found, err = conn.client.FindServicePrincipal(ctx, value)
	}
	if client.IsGone(err) {
		return nil, badField(field, "there is no service principal %q at %s; add it there, or correct it: %s", value, conn.config.Host, err)
	}
	if err != nil {
		return nil, credential.ExplainPrincipal(err, value)
	}
	if r.ApplicationID != "" && !strings.EqualFold(r.ApplicationID, found.ApplicationID) {
		return nil, badField(keyApplicationID, "%q does not belong to service principal %s, whose application id is %s; send one of them", r.ApplicationID, found.ID, found.ApplicationID)
	}
	r.ServicePrincipalID, r.ApplicationID = found.ID, found.ApplicationID
	return found, nil
}

// scopeForm matches API scopes (Databricks REST reference, API scopes): words joined by dashes, dots and colons.
var scopeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

// cleanScopes drops repeated scopes and refuses malformed ones. The empty list stays empty.
func cleanScopes(scopes []string) ([]string, error) {
	var clean []string
	for _, scope := range scopes {
		if !scopeForm.MatchString(scope) {
			return nil, badField(keyScopes, "%q is not a valid API scope; they look like sql, all-apis or unity-catalog", scope)
		}
		if !slices.Contains(clean, scope) {
			clean = append(clean, scope)
		}
	}
	return clean, nil
}

// narrowScopes returns the scopes to mint with: the role's, unless the caller asks for fewer. No input widens a role.
func narrowScopes(allowed, requested []string) ([]string, error) {
	requested, err := cleanScopes(requested)
	if err != nil {
		return nil, err
	}
	if len(requested) == 0 {
		return allowed, nil
	}
	if len(allowed) == 0 {
		return requested, nil
	}
	for _, scope := range requested {
		if !slices.Contains(allowed, scope) {
			return nil, badField(keyScopes, "%q is not among the role's scopes; ask for some of: %s", scope, strings.Join(allowed, ", "))
		}
	}
	return requested, nil
}
