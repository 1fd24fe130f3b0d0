// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Snapshot is what a workspace holds at one moment, in a form that can be kept
// as JSON: live tokens and OAuth secrets, principals, groups, and secret scopes.
// Tokens and OAuth secrets are in it as their hashes, so a value that was handed
// out before works after [Workspace.Restore], and none can be read from it but
// what secret scopes hold.
//
// It leaves out OAuth access tokens, groups of the account, federation policies,
// apps of Microsoft Entra ID, databases, Unity Catalog, external ids, roles but account_admin, key vaults
// behind scopes, settings, faults and calls.
type Snapshot struct {
	WorkspaceID  string                `json:"workspace_id"`
	AccountID    string                `json:"account_id,omitempty"`
	Principals   []SnapshotPrincipal   `json:"principals"`
	Groups       []SnapshotGroup       `json:"groups"`
	Tokens       []SnapshotToken       `json:"tokens"`
	OAuthSecrets []SnapshotOAuthSecret `json:"oauth_secrets"`
	Scopes       []SnapshotScope       `json:"scopes"`
}

// SnapshotPrincipal is a user or, with an application id, a service principal.
type SnapshotPrincipal struct {
	ID            string   `json:"id"`
	UserName      string   `json:"user_name"`
	ApplicationID string   `json:"application_id,omitempty"`
	DisplayName   string   `json:"display_name"`
	Entitlements  []string `json:"entitlements,omitempty"`
	Managers      []string `json:"managers,omitempty"` // ids
	AccountAdmin  bool     `json:"account_admin,omitempty"`
	OnlyInAccount bool     `json:"only_in_account,omitempty"` // and not in the workspace
}

// SnapshotGroup is a group of the workspace. The members of admins are its
// admins; users, which has everybody, is left out.
type SnapshotGroup struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Members []string `json:"members"` // ids
}

// SnapshotToken is a live personal access token.
type SnapshotToken struct {
	ID      string    `json:"id"` // the SHA-256 of its value
	Comment string    `json:"comment"`
	Owner   string    `json:"owner"`
	Creator string    `json:"creator"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Scopes  []string  `json:"scopes,omitempty"`
}

// SnapshotOAuthSecret is a live OAuth secret.
type SnapshotOAuthSecret struct {
	ID      string    `json:"id"`
	Hash    string    `json:"hash"` // the SHA-256 of its value
	Owner   string    `json:"owner"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Scopes  []string  `json:"scopes,omitempty"`
}

// SnapshotScope is a secret scope.
type SnapshotScope struct {
	Name    string                    `json:"name"`
	Secrets map[string]SnapshotSecret `json:"secrets"`
	ACLs    map[string]string         `json:"acls"` // principal to "READ", "WRITE" or "MANAGE"
}

// SnapshotSecret is a secret of a scope.
type SnapshotSecret struct {
	Value   []byte    `json:"value"`
	Updated time.Time `json:"updated"`
}

// Snapshot is what the workspace holds now.
func (w *Workspace) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	shot := Snapshot{WorkspaceID: w.settings.workspaceID, AccountID: w.settings.accountID}
	inOrder := slices.SortedFunc(maps.Values(w.principals), func(a, b *principal) int { return int(numeric(a.ID) - numeric(b.ID)) })
	for _, p := range inOrder {
		shown := SnapshotPrincipal{
			ID: p.ID, UserName: p.UserName, ApplicationID: p.ApplicationID, DisplayName: p.DisplayName, Entitlements: slices.Clone(p.entitlements),
			AccountAdmin: p.AccountAdmin, OnlyInAccount: !p.inWorkspace,
		}
		for manager := range p.managers {
			shown.Managers = append(shown.Managers, manager.ID)
		}
		slices.Sort(shown.Managers)
		shot.Principals = append(shot.Principals, shown)
		for _, s := range w.liveSecrets(p) {
			shot.OAuthSecrets = append(shot.OAuthSecrets, SnapshotOAuthSecret{
				ID: s.id, Hash: s.hash, Owner: p.ID, Created: s.created, Expires: s.expires, Scopes: slices.Clone(s.scopes),
			})
		}
	}
	for _, g := range w.groupsInOrder(false) {
		if g == w.users {
			continue
		}
		shown := SnapshotGroup{ID: g.id, Name: g.name, Members: []string{}}
		for _, p := range w.membersInOrder(g) {
			shown.Members = append(shown.Members, p.ID)
		}
		shot.Groups = append(shot.Groups, shown)
	}
	for _, t := range w.ordered {
		if t.liveAt(now) {
			shot.Tokens = append(shot.Tokens, SnapshotToken{
				ID: t.id, Comment: t.comment, Owner: t.owner.ID, Creator: t.creator.ID, Created: t.created, Expires: t.expires, Scopes: slices.Clone(t.scopes),
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.scopes)) {
		s := w.scopes[name]
		shown := SnapshotScope{Name: s.name, Secrets: map[string]SnapshotSecret{}, ACLs: map[string]string{}}
		for _, secret := range s.secrets {
			shown.Secrets[secret.key] = SnapshotSecret{Value: bytes.Clone(secret.Value), Updated: secret.Updated}
		}
		for principal, p := range s.acls {
			shown.ACLs[principal] = p.String()
		}
		shot.Scopes = append(shot.Scopes, shown)
	}
	return shot
}

// Restore makes the workspace hold what the snapshot has, and nothing else that
// a snapshot could have. Ids stay as they were, and new ones come after them. It
// panics if the snapshot is of another workspace or account, or names a principal
// that is not in it.
func (w *Workspace) Restore(shot Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if shot.WorkspaceID != w.settings.workspaceID || shot.AccountID != w.settings.accountID {
		panic(fmt.Sprintf("simulator: the snapshot is of workspace %q of account %q, not of %q of %q",
			shot.WorkspaceID, shot.AccountID, w.settings.workspaceID, w.settings.accountID))
	}
	w.principals, w.byName, w.servicePrincipals, w.addedPrincipals = map[string]*principal{}, map[string]*principal{}, nil, 0
	w.groups, w.groupsByName, w.addedGroups = map[string]*group{}, map[groupName]*group{}, 0
	w.tokens, w.ordered, w.access = map[string]*token{}, nil, map[string]*accessToken{}
	w.granted, w.grantedSwept = nil, 0
	w.secrets, w.addedSecrets, w.scopes = map[string]*oauthSecret{}, 0, map[string]*secretScope{}
	w.users = w.addGroup(usersName, false)
	find := func(id string) *principal {
		found := w.principals[id]
		if found == nil {
			panic(fmt.Sprintf("simulator: no principal with id %q in the snapshot", id))
		}
		return found
	}
	for _, p := range shot.Principals {
		w.addedPrincipals = int(numeric(p.ID)) - firstPrincipalID
		added := w.addPrincipal(Principal{UserName: p.UserName, ApplicationID: p.ApplicationID, DisplayName: p.DisplayName})
		added.inWorkspace, added.entitlements = !p.OnlyInAccount, slices.Clone(p.Entitlements)
		if p.AccountAdmin {
			added.setAccountRoles([]string{accountAdminRole})
		}
	}
	for _, p := range shot.Principals {
		for _, manager := range p.Managers {
			find(p.ID).managers[find(manager)] = true
		}
	}
	for _, g := range shot.Groups {
		w.addedGroups = int(numeric(g.ID)) - firstGroupID
		added := w.addGroup(g.Name, false)
		for _, member := range g.Members {
			added.join(find(member))
		}
	}
	w.admins = w.groupsByName[groupName{false, adminsName}]
	if w.admins == nil {
		panic("simulator: the snapshot has no group admins")
	}
	for _, t := range shot.Tokens {
		added := &token{id: t.ID, comment: t.Comment, owner: find(t.Owner), creator: find(t.Creator), created: t.Created, expires: t.Expires}
		added.setScopes(slices.Clone(t.Scopes))
		added.owner.tokens.add(added)
		w.tokens[t.ID] = added
		w.ordered = append(w.ordered, added)
	}
	for _, s := range shot.OAuthSecrets {
		added := &oauthSecret{
			id: s.ID, serial: w.addedSecrets, owner: find(s.Owner), hash: s.Hash, created: s.Created, expires: s.Expires, scopes: slices.Clone(s.Scopes),
		}
		w.addedSecrets++
		added.owner.secrets = append(added.owner.secrets, added)
		w.secrets[s.ID] = added
	}
	for _, s := range shot.Scopes {
		added := &secretScope{name: s.Name, secrets: map[string]keyedSecret{}, acls: map[string]permission{}}
		for key, secret := range s.Secrets {
			added.secrets[strings.ToLower(key)] = keyedSecret{key, Secret{Value: bytes.Clone(secret.Value), Updated: secret.Updated}}
		}
		for principal, permission := range s.ACLs {
			added.acls[principal] = parsePermission(permission)
		}
		w.scopes[strings.ToLower(s.Name)] = added
	}
}
