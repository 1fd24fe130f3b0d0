// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"slices"
	"strconv"
)

const (
	// firstPrincipalID makes SCIM ids as long as real ones, while they still
	// survive a trip through a JSON float64.
	firstPrincipalID = 4180639275618001

	// defaultPrincipalLimit is the number of users and service principals in one
	// account (Databricks resource limits).
	defaultPrincipalLimit = 10000

	// accountAdminRole makes an account admin of a principal that has it on the
	// account (Databricks REST reference, Account Service Principals API).
	accountAdminRole = "account_admin"
)

// WithPrincipalLimit sets how many users and service principals there may be
// before the SCIM API refuses to create more, 10000 if unset.
func WithPrincipalLimit(n int) Option { return func(s *settings) { s.principalLimit = n } }

// Principal is a user or a service principal of the workspace.
type Principal struct {
	ID            string // numeric SCIM id
	UserName      string // user name, or the application id of a service principal
	ApplicationID string // empty for users
	DisplayName   string
	Admin         bool // workspace admin
	AccountAdmin  bool

	// Groups are the display names of the workspace's groups that it is a direct
	// member of, in the order of joining and without users, which has everybody.
	// Entitlements are those of its own. Both are filled in by
	// [Workspace.ServicePrincipals] alone.
	Groups, Entitlements []string
}

// principal is guarded by the workspace's mutex, but for its id, user name and
// application id, which never change.
type principal struct {
	Principal
	mayUseTokens bool
	active       bool
	inWorkspace  bool // everybody is in the account
	deleted      bool
	externalID   string
	entitlements []string
	roles        []string
	accountRoles []string
	tokens       tokenSet
	secrets      []*oauthSecret // neither deleted nor seen to be expired
	groups       []*group       // in the order of joining, without users
	managers     map[*principal]bool
	assumed      *group // whose rights it has instead of its own, nil but for a caller
}

// AddUser adds a user. It panics if the name is taken.
func (w *Workspace) AddUser(userName string, admin bool) Principal {
	return w.addByHand(Principal{UserName: userName, DisplayName: userName}, admin)
}

// AddServicePrincipal adds a service principal with an application id of its
// own, to the workspace and to the account if there is one. Display names need
// not be unique (Databricks REST reference, SCIM API).
func (w *Workspace) AddServicePrincipal(displayName string, admin bool) Principal {
	return w.ImportServicePrincipal(newUUID(), displayName, admin)
}

// ImportServicePrincipal is [Workspace.AddServicePrincipal] with an application
// id of the caller's choice. It panics if the id is taken.
func (w *Workspace) ImportServicePrincipal(applicationID, displayName string, admin bool) Principal {
	return w.addByHand(Principal{UserName: applicationID, ApplicationID: applicationID, DisplayName: displayName}, admin)
}

func (w *Workspace) addByHand(p Principal, admin bool) Principal {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byName[p.UserName] != nil {
		panic(fmt.Sprintf("simulator: user name %q is taken", p.UserName))
	}
	added := w.addPrincipal(p)
	added.inWorkspace = true
	if admin {
		w.admins.join(added)
	}
	return added.Principal
}

// addPrincipal adds one that is active, but neither in the workspace nor in a
// group. The caller holds the mutex.
func (w *Workspace) addPrincipal(p Principal) *principal {
	p.ID = strconv.Itoa(firstPrincipalID + w.addedPrincipals)
	w.addedPrincipals++
	added := &principal{Principal: p, mayUseTokens: true, active: true, managers: map[*principal]bool{}}
	w.principals[p.ID] = added
	w.byName[p.UserName] = added
	if p.ApplicationID != "" {
		w.servicePrincipals = append(w.servicePrincipals, added)
	}
	return added
}

// mustFind returns the state behind p. It panics if p is of another workspace,
// or has been deleted. The caller holds the mutex.
func (w *Workspace) mustFind(p Principal) *principal {
	found := w.byName[p.UserName]
	if found == nil || found.ID != p.ID {
		panic(fmt.Sprintf("simulator: no principal %q with id %q in this workspace", p.UserName, p.ID))
	}
	return found
}

func (w *Workspace) isAdmin(p *principal) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return p.Admin
}

// ServicePrincipals lists the service principals of the workspace, in the order
// of their creation. Those that only the account has are left out.
func (w *Workspace) ServicePrincipals() []Principal {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Principal
	for _, p := range w.servicePrincipals {
		if !p.inWorkspace {
			continue
		}
		shown := p.Principal
		shown.Entitlements = slices.Clone(p.entitlements)
		for _, g := range p.groupsOn(false) {
			shown.Groups = append(shown.Groups, g.name)
		}
		list = append(list, shown)
	}
	return list
}

// SetTokenPermission grants or takes away a principal's CAN_USE on tokens,
// which everybody has at first. Taking it away also ends the principal's live
// tokens, as at Databricks (token management guide), so a caller that shall be
// told PERMISSION_DENIED afterwards must come with an OAuth access token. It
// panics for an admin, whose CAN_MANAGE can't be taken away.
func (w *Workspace) SetTokenPermission(p Principal, allowed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.mustFind(p)
	if found.Admin && !allowed {
		panic(fmt.Sprintf("simulator: %q is a workspace admin, whose permission on tokens is irrevocable", p.UserName))
	}
	found.mayUseTokens = allowed
	if !allowed {
		w.deleteTokensOf(found)
	}
}

// deleteTokensOf ends all personal access tokens of p. The caller holds the
// mutex.
func (w *Workspace) deleteTokensOf(p *principal) {
	for _, t := range p.tokens.live(w.settings.now()) {
		p.tokens.delete(t)
	}
}

// AddAccountAdmin makes p an account admin, and returns it as it is then.
func (w *Workspace) AddAccountAdmin(p Principal) Principal {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.mustFind(p)
	if !found.AccountAdmin {
		found.setAccountRoles(append(slices.Clone(found.accountRoles), accountAdminRole))
	}
	return found.Principal
}

func (p *principal) setAccountRoles(roles []string) {
	p.accountRoles = roles
	p.AccountAdmin = slices.Contains(roles, accountAdminRole)
}

// SetManager gives manager the role Service Principal Manager on sp, with which
// it may handle the OAuth secrets of sp without being an admin. It panics if sp
// is a user.
func (w *Workspace) SetManager(sp, manager Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.mustFind(sp)
	if found.ApplicationID == "" {
		panic("simulator: only a service principal has managers")
	}
	found.managers[w.mustFind(manager)] = true
}

// SetWorkspaceMember takes p out of the workspace, and puts it back again. Out
// of it, it loses its groups and tokens there, but stays a principal of the
// account and keeps its OAuth secrets and Microsoft Entra ID apps.
func (w *Workspace) SetWorkspaceMember(p Principal, member bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.mustFind(p)
	if !member {
		w.leaveWorkspace(found)
	}
	found.inWorkspace = member
}

// leaveWorkspace takes p out of the workspace. The caller holds the mutex.
func (w *Workspace) leaveWorkspace(p *principal) {
	for _, g := range p.groupsOn(false) {
		g.leave(p)
	}
	w.deleteTokensOf(p)
	p.inWorkspace, p.entitlements, p.roles = false, nil, nil
}

// deletePrincipal deletes p and ends everything that would let it in. The caller
// holds the mutex.
func (w *Workspace) deletePrincipal(p *principal) {
	w.leaveWorkspace(p)
	for _, g := range p.groupsOn(true) {
		g.leave(p)
	}
	for _, s := range slices.Clone(p.secrets) {
		w.revokeSecret(s)
	}
	p.deleted = true
	delete(w.principals, p.ID)
	delete(w.byName, p.UserName)
	i := slices.Index(w.servicePrincipals, p)
	w.servicePrincipals = slices.Delete(w.servicePrincipals, i, i+1)
}
