// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Outline is what a workspace holds at one moment, in a form that may be shown
// to anyone: names, numbers and times. No value of a credential or secret is in
// it, and no hash of one: credentials go by the beginning of their id. Lists are
// cut to a limit, next to their true number.
type Outline struct {
	WorkspaceID string              `json:"workspace_id"`
	Cloud       string              `json:"cloud"`
	Credentials []OutlineCredential `json:"credentials"` // live ones, the newest first
	Principals  []OutlinePrincipal  `json:"principals"`  // service principals first, each in order of creation
	Groups      []OutlineGroup      `json:"groups"`      // without users, which has everybody
	Scopes      []OutlineScope      `json:"scopes"`      // by name
	Schemas     []OutlineSchema     `json:"schemas"`     // of Unity Catalog, by name
	Totals      OutlineTotals       `json:"totals"`
}

// OutlineTotals are the true numbers.
type OutlineTotals struct {
	Credentials int `json:"credentials"`
	Principals  int `json:"principals"`
	Groups      int `json:"groups"`
	Scopes      int `json:"scopes"`
	Secrets     int `json:"secrets"` // in scopes
	UCSecrets   int `json:"uc_secrets"`
}

// OutlineCredential is a live token or OAuth secret. Times are Unix
// milliseconds.
type OutlineCredential struct {
	ID      string `json:"id"`   // the first 12 hex digits
	Kind    string `json:"kind"` // [KindPAT], [KindOAuth], [KindEntra] or "oauth_secret"
	Comment string `json:"comment,omitempty"`
	Owner   string `json:"owner"`
	Created int64  `json:"created"`
	Expires int64  `json:"expires,omitempty"` // 0 = never
	Scopes  string `json:"scopes,omitempty"`  // "" = everything
}

// OutlinePrincipal is a user or a service principal.
type OutlinePrincipal struct {
	ID            string `json:"id"`
	Name          string `json:"name"`
	ApplicationID string `json:"application_id,omitempty"` // "" for a user
	Admin         bool   `json:"admin,omitempty"`
	Tokens        int    `json:"tokens"`        // live personal access tokens
	OAuthSecrets  int    `json:"oauth_secrets"` // live
	Groups        string `json:"groups,omitempty"`
}

// OutlineGroup is a group of the workspace.
type OutlineGroup struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`
	Count   int      `json:"count"`
}

// OutlineScope is a secret scope.
type OutlineScope struct {
	Name   string       `json:"name"`
	Vault  bool         `json:"key_vault,omitempty"` // its keys are in an Azure Key Vault
	Keys   []OutlineKey `json:"keys"`
	Count  int          `json:"count"`
	ACLs   []OutlineACL `json:"acls"`
	Access int          `json:"access"` // how many have a permission
}

// OutlineKey is a secret of a scope or of a schema, without its value.
type OutlineKey struct {
	Name    string `json:"name"`
	Updated int64  `json:"updated"` // Unix milliseconds
}

// OutlineACL is a permission on a scope.
type OutlineACL struct {
	Principal  string `json:"principal"`
	Permission string `json:"permission"`
}

// OutlineSchema is a schema of Unity Catalog that secrets can be in.
type OutlineSchema struct {
	Name  string       `json:"name"`
	Keys  []OutlineKey `json:"keys"`
	Count int          `json:"count"`
}

// Outline is what the workspace holds now, with at most limit entries in each
// list.
func (w *Workspace) Outline(limit int) Outline {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := Outline{WorkspaceID: w.settings.workspaceID, Cloud: w.settings.cloud}
	w.outlinePrincipals(&o, limit)
	w.outlineScopes(&o, limit)
	w.outlineSchemas(&o, limit)
	return o
}

// outlinePrincipals shows who there is, and who has which credential. The caller
// holds the mutex.
func (w *Workspace) outlinePrincipals(o *Outline, limit int) {
	now := w.settings.now()
	inOrder := slices.SortedFunc(maps.Values(w.principals), func(a, b *principal) int {
		user := func(p *principal) int { return min(1, len(p.ApplicationID)) }
		return cmp.Or(user(b)-user(a), int(numeric(a.ID)-numeric(b.ID)))
	})
	for _, p := range inOrder {
		tokens, secrets := p.tokens.live(now), w.liveSecrets(p)
		o.Totals.Credentials += len(tokens) + len(secrets)
		for _, t := range tokens[max(0, len(tokens)-limit):] {
			o.Credentials = append(o.Credentials, outlineCredential(KindPAT, t.id, t.comment, p, t.created, t.expires, t.scopes))
		}
		for _, s := range secrets {
			o.Credentials = append(o.Credentials, outlineCredential("oauth_secret", s.id, "", p, s.created, s.expires, s.scopes))
		}
		o.Totals.Principals++
		if len(o.Principals) < limit {
			shown := OutlinePrincipal{
				ID: p.ID, Name: p.DisplayName, ApplicationID: p.ApplicationID, Admin: p.Admin, Tokens: len(tokens), OAuthSecrets: len(secrets),
			}
			var groups []string
			for _, g := range first(p.groupsOn(false), limit) {
				groups = append(groups, g.name)
			}
			shown.Groups = strings.Join(groups, ", ")
			o.Principals = append(o.Principals, shown)
		}
	}
	for _, a := range w.unexpiredAccessTokens(now) {
		if w.isLive(a, now) {
			o.Totals.Credentials++
			o.Credentials = append(o.Credentials, outlineCredential(a.kind, a.id, "", a.owner, a.created, a.expires, a.scopes))
		}
	}
	slices.SortStableFunc(o.Credentials, func(a, b OutlineCredential) int {
		return cmp.Or(cmp.Compare(b.Created, a.Created), cmp.Compare(a.ID, b.ID))
	})
	o.Credentials = first(o.Credentials, limit)
	groups := w.groupsInOrder(false)
	groups = slices.DeleteFunc(groups, func(g *group) bool { return g == w.users })
	o.Totals.Groups = len(groups)
	for _, g := range first(groups, limit) {
		shown := OutlineGroup{Name: g.name, Members: []string{}, Count: len(g.members)}
		for _, p := range first(w.membersInOrder(g), limit) {
			shown.Members = append(shown.Members, p.DisplayName)
		}
		o.Groups = append(o.Groups, shown)
	}
}

func outlineCredential(kind, id, comment string, owner *principal, created, expires time.Time, scopes []string) OutlineCredential {
	shown := OutlineCredential{ID: id[:12], Kind: kind, Comment: comment, Owner: owner.DisplayName, Created: created.UnixMilli(), Scopes: strings.Join(scopes, " ")}
	if !expires.IsZero() {
		shown.Expires = expires.UnixMilli()
	}
	return shown
}

// outlineScopes shows the secret scopes. The caller holds the mutex.
func (w *Workspace) outlineScopes(o *Outline, limit int) {
	o.Totals.Scopes = len(w.scopes)
	for _, s := range w.scopes {
		o.Totals.Secrets += len(s.secrets)
	}
	for _, name := range first(slices.Sorted(maps.Keys(w.scopes)), limit) {
		s := w.scopes[name]
		shown := OutlineScope{Name: s.name, Vault: s.keyVault != nil, Keys: []OutlineKey{}, Count: len(s.secrets), ACLs: []OutlineACL{}, Access: len(s.acls)}
		for _, key := range first(slices.Sorted(maps.Keys(s.secrets)), limit) {
			shown.Keys = append(shown.Keys, OutlineKey{s.secrets[key].key, s.secrets[key].Updated.UnixMilli()})
		}
		for _, principal := range first(slices.Sorted(maps.Keys(s.acls)), limit) {
			shown.ACLs = append(shown.ACLs, OutlineACL{w.shownName(principal), s.acls[principal].String()})
		}
		o.Scopes = append(o.Scopes, shown)
	}
}

// outlineSchemas shows the secrets in Unity Catalog. The caller holds the mutex.
func (w *Workspace) outlineSchemas(o *Outline, limit int) {
	for _, schema := range w.ucSchemas {
		o.Totals.UCSecrets += len(schema.secrets)
	}
	for _, name := range first(slices.Sorted(maps.Keys(w.ucSchemas)), limit) {
		schema := w.ucSchemas[name]
		shown := OutlineSchema{Name: name, Keys: []OutlineKey{}, Count: len(schema.secrets)}
		for _, key := range first(slices.Sorted(maps.Keys(schema.secrets)), limit) {
			shown.Keys = append(shown.Keys, OutlineKey{key, schema.secrets[key].Updated.UnixMilli()})
		}
		o.Schemas = append(o.Schemas, shown)
	}
}

// shownName is the display name behind an application id, and any other name as
// it is. The caller holds the mutex.
func (w *Workspace) shownName(principal string) string {
	if p := w.byName[principal]; p != nil {
		return p.DisplayName
	}
	return principal
}

// first is the beginning of list.
func first[T any](list []T, limit int) []T { return list[:min(limit, len(list))] }
