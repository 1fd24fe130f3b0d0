// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"net/url"
)

// AllowAssume lets p assume the rights of a group without being a member of it.
// It panics if there is no such group in the workspace.
func (w *Workspace) AllowAssume(groupID string, p Principal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.groups[groupID]
	if g == nil || g.account {
		panic(fmt.Sprintf("simulator: no group with id %q in this workspace", groupID))
	}
	g.assumable[w.mustFind(p)] = true
}

// assume is the group whose rights the form asks for instead of the owner's, nil
// if none (Databricks guide "Role-based access control": members may assume a
// group, and those who were given the permission to). How a refusal looks is not
// documented; one of a group that may not be assumed is access_denied here. The
// caller holds the mutex.
func (w *Workspace) assume(form url.Values, account bool, owner *principal) (*group, *refusal) {
	id := form.Get("assume_group")
	if id == "" {
		return nil, nil
	}
	if account {
		return nil, refuse(http.StatusBadRequest, "invalid_request", "assume_group is not supported for accounts.")
	}
	g := w.groups[id]
	if g == nil || g.account {
		return nil, refuse(http.StatusBadRequest, "invalid_request", fmt.Sprintf("Group %q does not exist.", id))
	}
	if g != w.users && !g.members[owner] && !g.assumable[owner] {
		return nil, refuse(http.StatusForbidden, "access_denied", fmt.Sprintf("Principal %s does not have the Assume permission on group %s.", owner.UserName, id))
	}
	return g, nil
}

// actingAs is p with the rights of the group instead of its own: its name, but no
// rights that were given to that, and no personal access tokens. That it can't
// create one is an assumption: neither Databricks' documentation nor a recorded
// answer says so. The caller holds the mutex.
func (p *principal) actingAs(g *group) *principal {
	acting := &principal{Principal: p.Principal, active: true, inWorkspace: true, assumed: g, managers: map[*principal]bool{}}
	acting.Admin, acting.AccountAdmin = g.isAdmins(), false
	acting.entitlements = g.entitlements
	if g.name != usersName {
		acting.groups = []*group{g}
	}
	return acting
}

// aclName is what scopes know the rights of p by.
func (p *principal) aclName() string {
	if p.assumed != nil {
		return p.assumed.name
	}
	return p.UserName
}
