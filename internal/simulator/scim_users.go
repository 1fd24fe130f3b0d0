// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"slices"
	"strconv"
)

var userAttributes = []string{"id", "username", "displayname", "externalid", "active"}

func (p *principal) userAttribute(name string) string {
	switch name {
	case "id":
		return p.ID
	case "username":
		return p.UserName
	case "displayname":
		return p.DisplayName
	case "externalid":
		return p.externalID
	default:
		return strconv.FormatBool(p.active)
	}
}

// showUser shows no more than the display name and the id to those who are no
// admins (Databricks REST reference, Users API). The caller holds the mutex.
func (w *Workspace) showUser(r *request, p *principal) map[string]any {
	user := map[string]any{"schemas": []string{schemaUser}, "id": p.ID, "displayName": p.DisplayName}
	if !r.caller.Admin {
		return user
	}
	user["userName"], user["active"], user["groups"] = p.UserName, p.active, w.groupRefs(p, false)
	user["emails"] = emailOf(p)
	addValues(user, "entitlements", p.entitlements)
	addValues(user, "roles", p.roles)
	return user
}

func emailOf(p *principal) []map[string]any {
	return []map[string]any{{"type": "work", "value": p.UserName, "primary": true}}
}

func (w *Workspace) listUsers(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.DeleteFunc(w.membersInOrder(w.users), func(p *principal) bool { return p.ApplicationID != "" })
	return listResources(r, all, (*principal).userAttribute, userAttributes, func(p *principal) map[string]any { return w.showUser(r, p) })
}

func (w *Workspace) getUser(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.principals[r.PathValue("id")]
	if p == nil || p.ApplicationID != "" || !p.inWorkspace {
		return nil, noResource("User", r.PathValue("id"))
	}
	return r.project(w.showUser(r, p)), nil
}
