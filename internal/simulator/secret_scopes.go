// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// defaultScopeLimit is the number of secret scopes in one workspace, and
	// defaultSecretLimit that of secrets in one scope (Databricks secret
	// management guide).
	defaultScopeLimit  = 1000
	defaultSecretLimit = 1000

	// reservedScopePrefix begins the names, in either case, that are refused as
	// reserved. Databricks doesn't publish which ones it reserves: this prefix is
	// the simulator's own.
	reservedScopePrefix = "databricks-reserved"

	backendDatabricks    = "DATABRICKS"
	backendAzureKeyVault = "AZURE_KEYVAULT"
)

// scopeName is what scopes may be called. The REST reference has no "@", the
// secret management guide has.
var scopeName = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,128}$`)

// secretKey is what keys may be called. No documentation has the slash, but the
// Databricks Terraform provider admits it (secrets/resource_secret.go), and real
// workspaces have such keys. Whether there are rules about where it stands is
// not known: here there are none.
var secretKey = regexp.MustCompile(`^[A-Za-z0-9_.@/-]{1,128}$`)

// WithScopeLimit sets how many secret scopes the workspace may have, 1000 if
// unset.
func WithScopeLimit(n int) Option { return func(s *settings) { s.scopeLimit = n } }

// WithSecretLimit sets how many secrets one scope may have, 1000 if unset.
func WithSecretLimit(n int) Option { return func(s *settings) { s.secretLimit = n } }

// WithLastSpelling shows a secret under the spelling of the last write of its
// key. Keys ignore case (Azure Databricks guide "Secret management"), but which
// spelling is shown after a write in another one is not documented: by default it
// is that of the first write.
func WithLastSpelling() Option { return func(s *settings) { s.lastSpelling = true } }

// WithoutPremium takes the Premium plan away: secret scopes can then be created
// with initial_manage_principal "users" only. Nothing else changes.
func WithoutPremium() Option { return func(s *settings) { s.withoutPremium = true } }

// WithAzureKeyVault lets any caller create scopes that are backed by an Azure
// Key Vault. The real service, and the simulator without this option, wants a
// Microsoft Entra ID token for that, and refuses its own kinds of token.
func WithAzureKeyVault() Option { return func(s *settings) { s.azureKeyVault = true } }

// Scope is a secret scope as it is stored.
type Scope struct {
	Name        string            // as it was created; names ignore case
	BackendType string            // "DATABRICKS" or "AZURE_KEYVAULT"
	Secrets     map[string]Secret // by key, as it is shown; keys ignore case
	ACLs        map[string]string // principal to "READ", "WRITE" or "MANAGE"
}

// Secret is a secret of a scope.
type Secret struct {
	Value   []byte
	Updated time.Time // UTC, in whole milliseconds
}

// secretScope is guarded by the workspace's mutex.
type secretScope struct {
	name      string
	keyVault  *keyVault              // nil for scopes of Databricks' own
	secrets   map[string]keyedSecret // by key in lower case; values are replaced, never changed in place
	acls      map[string]permission
	staleACLs map[string]permission // what the next staleReads reads of the ACLs show
	// staleReads is 0 when acls is what reads show.
	staleReads int
}

// keyedSecret is a secret with its key in the spelling that is shown.
type keyedSecret struct {
	key string
	Secret
}

// keyVault is AzureKeyVaultSecretScopeMetadata of the Databricks SDK, with the
// tenant_id that only the example in the REST reference has.
type keyVault struct {
	ResourceID string `json:"resource_id"`
	DNSName    string `json:"dns_name"`
	TenantID   string `json:"tenant_id,omitempty"`
}

func newSecretScope(name, manager string) *secretScope {
	return &secretScope{name: name, secrets: map[string]keyedSecret{}, acls: map[string]permission{manager: permissionManage}}
}

func (s *secretScope) backendType() string {
	if s.keyVault != nil {
		return backendAzureKeyVault
	}
	return backendDatabricks
}

// AddScope adds a secret scope by hand, with MANAGE for manager alone: no limit,
// rule about names, plan, fault or log is in the way. It panics if the name is taken.
func (w *Workspace) AddScope(name string, manager Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mustFind(manager)
	if w.scopes[strings.ToLower(name)] != nil {
		panic(fmt.Sprintf("simulator: scope name %q is taken", name))
	}
	w.scopes[strings.ToLower(name)] = newSecretScope(name, manager.UserName)
}

// Scopes lists all secret scopes by name. The result is a deep copy. ACLs are
// those that are enforced, even while reads of them are still stale.
func (w *Workspace) Scopes() []Scope {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Scope
	for _, name := range slices.Sorted(maps.Keys(w.scopes)) {
		s := w.scopes[name]
		scope := Scope{Name: s.name, BackendType: s.backendType(), Secrets: map[string]Secret{}, ACLs: map[string]string{}}
		for _, secret := range s.secrets {
			scope.Secrets[secret.key] = Secret{Value: bytes.Clone(secret.Value), Updated: secret.Updated}
		}
		for principal, p := range s.acls {
			scope.ACLs[principal] = p.String()
		}
		list = append(list, scope)
	}
	return list
}

// mustFindScope panics if there is no such scope. The caller holds the mutex.
func (w *Workspace) mustFindScope(name string) *secretScope {
	s := w.scopes[strings.ToLower(name)]
	if s == nil {
		panic(fmt.Sprintf("simulator: no scope %q in this workspace", name))
	}
	return s
}

// openScope finds the scope that a request names and checks that the caller has
// a permission on it, which workspace admins always have. That a scope doesn't
// exist is told to everybody: names are readable by all users. The caller holds
// the mutex.
func (w *Workspace) openScope(r *request, name string, needed permission) (*secretScope, *refusal) {
	if name == "" {
		return nil, missingField("scope")
	}
	s := w.scopes[strings.ToLower(name)]
	if s == nil {
		return nil, refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", fmt.Sprintf("Scope %s does not exist!", name))
	}
	if !r.caller.Admin && s.permissionOf(r.caller) < needed {
		return nil, refuse(http.StatusForbidden, "PERMISSION_DENIED",
			fmt.Sprintf("User %s does not have %s permission on scope %s to perform this action.", r.caller.UserName, needed, name))
	}
	return s, nil
}

func missingField(name string) *refusal {
	return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Missing required field: "+name)
}

func invalidName(field, name string) *refusal {
	return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
		fmt.Sprintf("Invalid %s %q: it must have 1 to 128 alphanumeric characters, dashes, underscores, @ signs and periods.", field, name))
}

// createScope makes the caller the scope's manager, or all users if asked to.
// The status of RESOURCE_LIMIT_EXCEEDED is not known: it is sent with 400.
func (w *Workspace) createScope(r *request) (any, *refusal) {
	var body struct {
		Scope                  string   `json:"scope"`
		InitialManagePrincipal string   `json:"initial_manage_principal"`
		ScopeBackendType       string   `json:"scope_backend_type"`
		BackendAzureKeyvault   keyVault `json:"backend_azure_keyvault"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	manager := r.caller.aclName()
	switch {
	case !scopeName.MatchString(body.Scope):
		return nil, invalidName("scope name", body.Scope)
	case isReserved(body.Scope):
		return nil, refuse(http.StatusUnauthorized, "CUSTOMER_UNAUTHORIZED",
			fmt.Sprintf("Scope name %s is reserved for internal usage.", body.Scope))
	case body.InitialManagePrincipal == usersName:
		manager = usersName
	case body.InitialManagePrincipal != "":
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
			fmt.Sprintf("Invalid initial_manage_principal %q: the only supported principal is the group users.", body.InitialManagePrincipal))
	case w.settings.withoutPremium:
		return nil, refuse(http.StatusBadRequest, "BAD_REQUEST",
			`Premium Tier is disabled in this workspace. Secret scopes can only be created with initial_manage_principal "users".`)
	}
	created := newSecretScope(body.Scope, manager)
	switch strings.ToUpper(body.ScopeBackendType) {
	case "", backendDatabricks:
	case backendAzureKeyVault:
		if refused := w.checkKeyVault(r, &body.BackendAzureKeyvault); refused != nil {
			return nil, refused
		}
		created.keyVault = &body.BackendAzureKeyvault
	default:
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
			fmt.Sprintf("Invalid scope_backend_type %q: it must be DATABRICKS or AZURE_KEYVAULT.", body.ScopeBackendType))
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.scopes[strings.ToLower(body.Scope)] != nil {
		return nil, refuse(http.StatusBadRequest, "RESOURCE_ALREADY_EXISTS", fmt.Sprintf("Scope %s already exists!", body.Scope))
	}
	if len(w.scopes) >= w.settings.scopeLimit {
		return nil, refuse(http.StatusBadRequest, "RESOURCE_LIMIT_EXCEEDED",
			fmt.Sprintf("The limit of %d secret scopes in this workspace has been reached.", w.settings.scopeLimit))
	}
	w.scopes[strings.ToLower(body.Scope)] = created
	return nil, nil
}

func isReserved(name string) bool {
	return strings.HasPrefix(strings.ToLower(name), reservedScopePrefix)
}

// checkKeyVault refuses the tokens that can't reach a key vault, as observed,
// and metadata without the members that the SDK requires, in a form of the
// simulator's own.
func (w *Workspace) checkKeyVault(r *request, v *keyVault) *refusal {
	if !w.settings.azureKeyVault && r.kind != KindEntra {
		return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Scope with Azure KeyVault must have userAADToken defined!")
	}
	if v.ResourceID == "" || v.DNSName == "" {
		return refuse(http.StatusBadRequest, "BAD_REQUEST",
			"Scope with Azure KeyVault must have resource_id and dns_name defined in backend_azure_keyvault!")
	}
	return nil
}

// deleteScope takes the scope's secrets and ACLs along. A reserved scope, which
// only [Workspace.AddScope] can have made, stays.
func (w *Workspace) deleteScope(r *request) (any, *refusal) {
	var body struct {
		Scope string `json:"scope"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, refused := w.openScope(r, body.Scope, permissionManage); refused != nil {
		return nil, refused
	}
	if isReserved(body.Scope) {
		return nil, refuse(http.StatusBadRequest, "BAD_REQUEST", fmt.Sprintf("Scope %s is internal and can't be deleted.", body.Scope))
	}
	delete(w.scopes, strings.ToLower(body.Scope))
	return nil, nil
}

// listScopes shows all scopes to everybody, by name. The real order is unknown.
func (w *Workspace) listScopes(*request) (any, *refusal) {
	type metadata struct {
		Name        string    `json:"name"`
		BackendType string    `json:"backend_type"`
		KeyVault    *keyVault `json:"keyvault_metadata,omitempty"`
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []metadata
	for _, name := range slices.Sorted(maps.Keys(w.scopes)) {
		s := w.scopes[name]
		list = append(list, metadata{s.name, s.backendType(), s.keyVault})
	}
	return listOf("scopes", list), nil
}
