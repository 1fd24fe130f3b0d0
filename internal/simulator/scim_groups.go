// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
)

var groupNames = []string{"id", "displayname", "externalid"}

func (g *group) attribute(name string) string {
	switch name {
	case "id":
		return g.id
	case "displayname":
		return g.name
	default:
		return g.externalID
	}
}

// showGroup is a group with its members, which the account's list leaves out.
// The caller holds the mutex.
func (w *Workspace) showGroup(g *group, members bool) map[string]any {
	kind := "WorkspaceGroup"
	if g.account {
		kind = "Group"
	}
	resource := map[string]any{
		"schemas": []string{schemaGroup}, "id": g.id, "displayName": g.name, "meta": map[string]any{"resourceType": kind},
	}
	if g.externalID != "" {
		resource["externalId"] = g.externalID
	}
	addValues(resource, "entitlements", g.entitlements)
	addValues(resource, "roles", g.roles)
	if !members {
		return resource
	}
	var list []map[string]any
	for _, p := range w.membersInOrder(g) {
		ref := "Users/" + p.ID
		if p.ApplicationID != "" {
			ref = "ServicePrincipals/" + p.ID
		}
		list = append(list, map[string]any{"value": p.ID, "display": p.DisplayName, "$ref": ref})
	}
	if len(list) > 0 {
		resource["members"] = list
	}
	return resource
}

// listGroups shows members in the workspace only: the account's list has none
// (Databricks REST reference, Account Groups API).
func (w *Workspace) listGroups(r *request) (any, *refusal) {
	account := underAccount(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	return listResources(r, w.groupsInOrder(account), (*group).attribute, groupNames, func(g *group) map[string]any {
		return w.showGroup(g, !account)
	})
}

// groupOn finds the group with a SCIM id on the plane of r, or returns nil. The
// caller holds the mutex.
func (w *Workspace) groupOn(r *request, id string) *group {
	if g := w.groups[id]; g != nil && g.account == underAccount(r) {
		return g
	}
	return nil
}

func (w *Workspace) getGroup(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.groupOn(r, r.PathValue("id"))
	if g == nil {
		return nil, noResource("Group", r.PathValue("id"))
	}
	return r.project(w.showGroup(g, true)), nil
}

func newGroupDraft() *draft {
	return &draft{lists: map[string][]string{"members": {}, "entitlements": {}, "roles": {}}}
}

func (w *Workspace) createGroup(r *request) (any, *refusal) {
	d := newGroupDraft()
	if refused := d.write(r); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if refused := w.checkGroup(r, nil, d); refused != nil {
		return nil, refused
	}
	g := w.addGroup(d.displayName, underAccount(r))
	w.applyToGroup(g, d)
	r.status = http.StatusCreated
	return w.showGroup(g, true), nil
}

// replaceGroup takes away what the body leaves out.
func (w *Workspace) replaceGroup(r *request) (any, *refusal) {
	d := newGroupDraft()
	if refused := d.write(r); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g, refused := w.updateGroup(r, func(*group) (*draft, *refusal) { return d, nil })
	if refused != nil {
		return nil, refused
	}
	return w.showGroup(g, true), nil
}

// patchGroup answers 204, one of the two forms of RFC 7644.
func (w *Workspace) patchGroup(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, refused := w.updateGroup(r, func(g *group) (*draft, *refusal) {
		d := newGroupDraft()
		d.displayName, d.externalID = g.name, g.externalID
		d.lists["entitlements"] = append(d.lists["entitlements"], g.entitlements...)
		d.lists["roles"] = append(d.lists["roles"], g.roles...)
		for p := range g.members {
			d.lists["members"] = append(d.lists["members"], p.ID)
		}
		return d, d.patch(r)
	})
	r.status = http.StatusNoContent
	return nil, refused
}

// updateGroup replaces the group that the path names. The caller holds the mutex.
func (w *Workspace) updateGroup(r *request, by func(*group) (*draft, *refusal)) (*group, *refusal) {
	g := w.groupOn(r, r.PathValue("id"))
	if g == nil {
		return nil, noResource("Group", r.PathValue("id"))
	}
	if g == w.users {
		return nil, systemGroup(g)
	}
	d, refused := by(g)
	if refused != nil {
		return nil, refused
	}
	if refused := w.checkGroup(r, g, d); refused != nil {
		return nil, refused
	}
	w.applyToGroup(g, d)
	return g, nil
}

// systemGroup refuses in a form of the simulator's own.
func systemGroup(g *group) *refusal {
	return refuseSCIM(http.StatusBadRequest, "mutability", fmt.Sprintf("Group %s is a system group.", g.name))
}

// checkGroup refuses what the group, nil for a new one, can't be. Groups can't be
// members here. The caller holds the mutex.
func (w *Workspace) checkGroup(r *request, g *group, d *draft) *refusal {
	if d.displayName == "" {
		return refuseSCIM(http.StatusBadRequest, "invalidValue", "displayName is required.")
	}
	if g == w.admins && d.displayName != g.name {
		return systemGroup(g)
	}
	if other := w.groupsByName[groupName{underAccount(r), d.displayName}]; other != nil && other != g {
		return refuseSCIM(http.StatusConflict, "uniqueness", fmt.Sprintf("Group with name %s already exists.", d.displayName))
	}
	for _, id := range d.lists["members"] {
		if p := w.principals[id]; p == nil || !p.inWorkspace && !underAccount(r) {
			return refuseSCIM(http.StatusBadRequest, "invalidValue", fmt.Sprintf("Member with id %s not found.", id))
		}
	}
	return checkEntitlements(r, d)
}

// applyToGroup makes g what d says. The caller holds the mutex.
func (w *Workspace) applyToGroup(g *group, d *draft) {
	delete(w.groupsByName, groupName{g.account, g.name})
	g.name, g.externalID = d.displayName, d.externalID
	w.groupsByName[groupName{g.account, g.name}] = g
	g.roles, g.entitlements = d.lists["roles"], d.lists["entitlements"]
	wanted := make(map[*principal]bool, len(d.lists["members"]))
	for _, id := range d.lists["members"] {
		p := w.principals[id]
		wanted[p] = true
		g.join(p)
	}
	for p := range g.members {
		if !wanted[p] {
			g.leave(p)
		}
	}
}

func (w *Workspace) deleteGroup(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.groupOn(r, r.PathValue("id"))
	switch g {
	case nil:
		return nil, noResource("Group", r.PathValue("id"))
	case w.users, w.admins:
		return nil, systemGroup(g)
	}
	for p := range g.members {
		g.leave(p)
	}
	delete(w.groups, g.id)
	delete(w.groupsByName, groupName{g.account, g.name})
	r.status = http.StatusNoContent
	return nil, nil
}
