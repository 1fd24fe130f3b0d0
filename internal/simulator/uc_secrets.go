// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Secrets in Unity Catalog are GA in the REST reference and a preview in some
// guides. What is not documented, and chosen here: the order of checks, the texts
// and most codes, the precision of times (microseconds), and that whoever has a
// privilege on a secret sees it without its value.

const (
	defaultUCSecretLimit = 1000 // in a schema
	maxUCSecretSize      = 60 << 10
	maxUCPage            = 1000
	defaultUCMetastore   = "5b2c7e0e-7d35-4f0e-9f4b-1f4f8c0a6d11"
)

// UCSecret is a secret in Unity Catalog.
type UCSecret struct {
	Value, Comment, Owner string
	Created, Updated      time.Time
}

// ucSchema is a schema of Unity Catalog that secrets can be in.
type ucSchema struct {
	owner    string
	creators map[string]bool // who has CREATE SECRET, and may use the schema
	secrets  map[string]*ucSecret
}

type ucSecret struct {
	UCSecret
	name       string
	createdBy  string
	updatedBy  string
	expireTime string
	grants     map[string]map[string]bool // privileges by principal
}

// Privileges on secrets (Databricks guide "Unity Catalog privileges").
const (
	PrivilegeReadSecret  = "READ SECRET"
	PrivilegeWriteSecret = "WRITE SECRET"
	PrivilegeManage      = "MANAGE"
)

// WithoutUCSecrets makes the workspace answer as one that has no such API yet.
func WithoutUCSecrets() Option { return func(s *settings) { s.noUCSecrets = true } }

// WithUCSecretLimit sets how many secrets a schema can have, 1000 if unset.
func WithUCSecretLimit(n int) Option { return func(s *settings) { s.ucSecretLimit = n } }

// WithUCPage sets how many secrets a page of a list has at most, 1000 if unset.
func WithUCPage(n int) Option { return func(s *settings) { s.ucPage = n } }

// WithUCTimes makes the workspace tell the times of secrets in Unity Catalog in
// multiples of the unit, such as a second. Two writes in one then have the same
// time. Unset, times are in microseconds, and no write has that of the one before.
func WithUCTimes(unit time.Duration) Option { return func(s *settings) { s.ucTimes = unit } }

// AttachUCMetastore attaches the workspace to another metastore, which has the
// same catalogs, schemas and secrets but for the id.
func (w *Workspace) AttachUCMetastore(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ucMetastore = id
}

// AddUCSchema adds a schema, with its catalog, that belongs to a principal.
func (w *Workspace) AddUCSchema(catalog, schema string, owner Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ucSchemas[ucKey(catalog, schema)] = &ucSchema{owner: owner.UserName, creators: map[string]bool{}, secrets: map[string]*ucSecret{}}
}

// DropUCSchema drops a schema with all that is in it.
func (w *Workspace) DropUCSchema(catalog, schema string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ucSchemas, ucKey(catalog, schema))
}

// GrantCreateUCSecret lets a principal create secrets in a schema. It panics if there is no such schema.
func (w *Workspace) GrantCreateUCSecret(catalog, schema string, to Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ucSchemas[ucKey(catalog, schema)].creators[to.UserName] = true
}

// PutUCSecret writes a secret behind everyone's back, in the name of its owner. It panics if there is no such schema.
func (w *Workspace) PutUCSecret(fullName, value string, owner Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	schema, key := w.mustFindUCSchema(fullName)
	s := schema.secrets[key]
	if s == nil {
		s = &ucSecret{name: key, createdBy: owner.UserName, grants: map[string]map[string]bool{}}
		s.Owner, s.Created = owner.UserName, w.ucNow(time.Time{})
		schema.secrets[key] = s
	}
	s.Value, s.updatedBy, s.Updated = value, owner.UserName, w.ucNow(s.Updated)
}

// GrantOnUCSecret gives a principal a privilege on a secret. It panics if there is no such secret.
func (w *Workspace) GrantOnUCSecret(fullName, privilege string, to Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	schema, key := w.mustFindUCSchema(fullName)
	s := schema.secrets[key]
	if s.grants[to.UserName] == nil {
		s.grants[to.UserName] = map[string]bool{}
	}
	s.grants[to.UserName][privilege] = true
}

// UCSecrets returns the secrets of a schema by name, nil if there is no such schema.
func (w *Workspace) UCSecrets(catalog, schema string) map[string]UCSecret {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.ucSchemas[ucKey(catalog, schema)]
	if found == nil {
		return nil
	}
	secrets := map[string]UCSecret{}
	for name, s := range found.secrets {
		secrets[name] = s.UCSecret
	}
	return secrets
}

func (w *Workspace) mustFindUCSchema(fullName string) (schema *ucSchema, key string) {
	parts := strings.Split(fullName, ".")
	if len(parts) != 3 || w.ucSchemas[ucKey(parts[0], parts[1])] == nil {
		panic(fmt.Sprintf("simulator: no schema of Unity Catalog for %q", fullName))
	}
	return w.ucSchemas[ucKey(parts[0], parts[1])], strings.ToLower(parts[2])
}

// ucKey is how objects are kept: Unity Catalog stores all names in lower case
// (Databricks guide "Names").
func ucKey(catalog, schema string) string { return strings.ToLower(catalog + "." + schema) }

// ucNow is the time of a write, later than the one before unless [WithUCTimes]
// says otherwise.
func (w *Workspace) ucNow(before time.Time) time.Time {
	if unit := w.settings.ucTimes; unit > 0 {
		return w.settings.now().UTC().Truncate(unit)
	}
	now := w.settings.now().UTC().Truncate(time.Microsecond)
	if !now.After(before) {
		now = before.Add(time.Microsecond)
	}
	return now
}

// shown is a secret on the wire. The owner of its own is also the effective one.
func (s *ucSecret) shown(w *Workspace, schema string, withValue bool) map[string]any {
	catalog, schemaName, _ := strings.Cut(schema, ".")
	fields := map[string]any{
		"name": s.name, "catalog_name": catalog, "schema_name": schemaName, "full_name": schema + "." + s.name,
		"owner": s.Owner, "effective_owner": s.Owner, "metastore_id": w.ucMetastore,
		"create_time": s.Created.Format(time.RFC3339Nano), "created_by": s.createdBy,
		"update_time": s.Updated.Format(time.RFC3339Nano), "updated_by": s.updatedBy,
	}
	if s.Comment != "" {
		fields["comment"] = s.Comment
	}
	if s.expireTime != "" {
		fields["expire_time"] = s.expireTime
	}
	if withValue {
		fields["effective_value"] = s.Value
	}
	return fields
}

// has reports whether a caller owns the secret or has one of the privileges on it.
func (s *ucSecret) has(caller *principal, privileges ...string) bool {
	return s.Owner == caller.UserName || slices.ContainsFunc(privileges, func(p string) bool { return s.grants[caller.UserName][p] })
}

// ucServed puts a handler behind the availability of the API.
func ucServed(handle handler) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		if w.settings.noUCSecrets {
			return nil, noEndpoint(r)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return handle(w, r)
	}
}

func noUCSchema(key string) *refusal {
	return refuse(http.StatusNotFound, "SCHEMA_DOES_NOT_EXIST", fmt.Sprintf("Schema '%s' does not exist.", key))
}

func ucDenied(r *request, need, on string) *refusal {
	return refuse(http.StatusForbidden, "PERMISSION_DENIED", fmt.Sprintf("User %s does not have %s on '%s'.", r.caller.UserName, need, on))
}

// ucWrite is the body of a create and of an update.
type ucWrite struct {
	Name        string  `json:"name"`
	CatalogName string  `json:"catalog_name"`
	SchemaName  string  `json:"schema_name"`
	Value       *string `json:"value"`
	Comment     string  `json:"comment"`
	Owner       string  `json:"owner"`
	ExpireTime  string  `json:"expire_time"`
}

func (body *ucWrite) check(w *Workspace) *refusal {
	if body.Value != nil && len(*body.Value) > maxUCSecretSize {
		return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "The secret value exceeds the maximum size of 60 KiB.")
	}
	if body.Owner != "" && w.byName[body.Owner] == nil && w.groupsByName[groupName{false, body.Owner}] == nil {
		return refuse(http.StatusNotFound, "PRINCIPAL_DOES_NOT_EXIST", fmt.Sprintf("Could not find principal with name %s.", body.Owner))
	}
	return nil
}

func (w *Workspace) createUCSecret(r *request) (any, *refusal) {
	var body ucWrite
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	for _, f := range [][2]string{{"name", body.Name}, {"catalog_name", body.CatalogName}, {"schema_name", body.SchemaName}} {
		if f[1] == "" {
			return nil, missingField(f[0])
		}
		if len([]rune(f[1])) > 255 || strings.ContainsFunc(f[1], func(c rune) bool { return strings.ContainsRune("./ ", c) || unicode.IsControl(c) }) {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("Invalid %s.", f[0]))
		}
	}
	if body.Value == nil {
		return nil, missingField("value")
	}
	key := ucKey(body.CatalogName, body.SchemaName)
	schema := w.ucSchemas[key]
	if schema == nil {
		return nil, noUCSchema(key)
	}
	if schema.owner != r.caller.UserName && !schema.creators[r.caller.UserName] {
		return nil, ucDenied(r, "CREATE SECRET", key)
	}
	if refused := body.check(w); refused != nil {
		return nil, refused
	}
	name := strings.ToLower(body.Name)
	if schema.secrets[name] != nil {
		return nil, refuse(http.StatusConflict, "RESOURCE_ALREADY_EXISTS", fmt.Sprintf("Secret '%s.%s' already exists.", key, name))
	}
	if len(schema.secrets) >= w.settings.ucSecretLimit {
		return nil, refuse(http.StatusBadRequest, "RESOURCE_LIMIT_EXCEEDED", fmt.Sprintf("Schema '%s' has reached its limit of %d secrets.", key, w.settings.ucSecretLimit))
	}
	now := w.ucNow(time.Time{})
	s := &ucSecret{
		UCSecret: UCSecret{Value: *body.Value, Comment: body.Comment, Owner: cmp.Or(body.Owner, r.caller.UserName), Created: now, Updated: now},
		name:     name, createdBy: r.caller.UserName, updatedBy: r.caller.UserName, expireTime: body.ExpireTime, grants: map[string]map[string]bool{},
	}
	schema.secrets[name] = s
	return s.shown(w, key, false), nil
}

// openUCSecret finds the secret that the path names.
func (w *Workspace) openUCSecret(r *request) (key string, schema *ucSchema, s *ucSecret, refused *refusal) {
	full := strings.ToLower(r.PathValue("full_name"))
	parts := strings.Split(full, ".")
	if len(parts) != 3 {
		return "", nil, nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "The full name of a secret has three parts.")
	}
	key = ucKey(parts[0], parts[1])
	if schema = w.ucSchemas[key]; schema == nil {
		return "", nil, nil, noUCSchema(key)
	}
	if s = schema.secrets[parts[2]]; s == nil {
		return "", nil, nil, refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", fmt.Sprintf("Secret '%s' does not exist.", full))
	}
	return key, schema, s, nil
}

func (w *Workspace) getUCSecret(r *request) (any, *refusal) {
	key, _, s, refused := w.openUCSecret(r)
	if refused != nil {
		return nil, refused
	}
	if !r.caller.Admin && !s.has(r.caller, PrivilegeManage, PrivilegeReadSecret, PrivilegeWriteSecret) {
		return nil, ucDenied(r, "MANAGE", key+"."+s.name)
	}
	withValue := r.URL.Query().Get("include_value") == "true"
	if withValue && !s.has(r.caller, PrivilegeReadSecret) {
		return nil, ucDenied(r, PrivilegeReadSecret, key+"."+s.name)
	}
	return s.shown(w, key, withValue), nil
}

func (w *Workspace) listUCSecrets(r *request) (any, *refusal) {
	query := r.URL.Query()
	key := ucKey(query.Get("catalog_name"), query.Get("schema_name"))
	size, err := strconv.Atoi(cmp.Or(query.Get("page_size"), "0"))
	if query.Get("catalog_name") == "" || query.Get("schema_name") == "" || err != nil || size < 0 {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "catalog_name, schema_name or page_size is invalid.")
	}
	if size == 0 || size > w.settings.ucPage {
		size = w.settings.ucPage
	}
	schema := w.ucSchemas[key]
	if schema == nil {
		return nil, noUCSchema(key)
	}
	var page []map[string]any
	next := ""
	for _, name := range slices.Sorted(maps.Keys(schema.secrets)) {
		s := schema.secrets[name]
		if name <= query.Get("page_token") || !r.caller.Admin && !s.has(r.caller, PrivilegeManage, PrivilegeReadSecret, PrivilegeWriteSecret) {
			continue
		}
		if len(page) == size {
			next = page[size-1]["name"].(string)
			break
		}
		page = append(page, s.shown(w, key, false))
	}
	answer := map[string]any{}
	if len(page) > 0 {
		answer["secrets"] = page
	}
	if next != "" {
		answer["next_page_token"] = next
	}
	return answer, nil
}

// updateUCSecret lets the owner change everything, whoever has WRITE SECRET the value, and an admin only the owner.
func (w *Workspace) updateUCSecret(r *request) (any, *refusal) {
	key, _, s, refused := w.openUCSecret(r)
	if refused != nil {
		return nil, refused
	}
	var body ucWrite
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if refused := body.check(w); refused != nil {
		return nil, refused
	}
	mask := strings.Split(r.URL.Query().Get("update_mask"), ",")
	if slices.Equal(mask, []string{"*"}) {
		mask = []string{"value", "comment", "owner", "expire_time"}
	}
	for _, field := range mask {
		switch {
		case !slices.Contains([]string{"value", "comment", "owner", "expire_time"}, field):
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("update_mask: %q can't be updated.", field))
		case s.has(r.caller), field == "value" && s.has(r.caller, PrivilegeWriteSecret), field == "owner" && r.caller.Admin:
		default:
			return nil, ucDenied(r, PrivilegeWriteSecret, key+"."+s.name)
		}
	}
	for _, field := range mask {
		switch field {
		case "value":
			if body.Value == nil {
				return nil, missingField("value")
			}
			s.Value = *body.Value
		case "comment":
			s.Comment = body.Comment
		case "owner":
			s.Owner = cmp.Or(body.Owner, s.Owner)
		case "expire_time":
			s.expireTime = body.ExpireTime
		}
	}
	s.Updated, s.updatedBy = w.ucNow(s.Updated), r.caller.UserName
	return s.shown(w, key, false), nil
}

func (w *Workspace) deleteUCSecret(r *request) (any, *refusal) {
	key, schema, s, refused := w.openUCSecret(r)
	if refused != nil {
		return nil, refused
	}
	if !s.has(r.caller) && !r.caller.Admin {
		return nil, ucDenied(r, "ownership", key+"."+s.name)
	}
	delete(schema.secrets, s.name)
	return nil, nil
}
