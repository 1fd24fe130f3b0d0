// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// knownEntitlements are those of workspaces (Databricks guide to entitlements).
var knownEntitlements = []string{
	"workspace-access", "databricks-sql-access", "allow-cluster-create", "allow-instance-pool-create", consumeEntitlement,
}

// consumeEntitlement excludes the first two of knownEntitlements.
const consumeEntitlement = "workspace-consume"

var servicePrincipalNames = []string{"id", "displayname", "applicationid", "externalid", "active"}

func (p *principal) attribute(name string) string {
	switch name {
	case "id":
		return p.ID
	case "displayname":
		return p.DisplayName
	case "applicationid":
		return p.ApplicationID
	case "externalid":
		return p.externalID
	default:
		return strconv.FormatBool(p.active)
	}
}

// showServicePrincipal is a service principal as the plane of r has it. The
// caller holds the mutex.
func (w *Workspace) showServicePrincipal(r *request, p *principal) map[string]any {
	resource := map[string]any{
		"schemas": []string{schemaServicePrincipal}, "id": p.ID, "applicationId": p.ApplicationID,
		"displayName": p.DisplayName, "active": p.active,
	}
	if p.externalID != "" {
		resource["externalId"] = p.externalID
	}
	if refs := w.groupRefs(p, underAccount(r)); len(refs) > 0 {
		resource["groups"] = refs
	}
	if underAccount(r) {
		addValues(resource, "roles", p.accountRoles)
	} else {
		addValues(resource, "roles", p.roles)
		addValues(resource, "entitlements", p.entitlements)
	}
	return resource
}

func (w *Workspace) listServicePrincipals(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*principal
	for _, p := range w.servicePrincipals {
		if p.inWorkspace || underAccount(r) {
			all = append(all, p)
		}
	}
	return listResources(r, all, (*principal).attribute, servicePrincipalNames, func(p *principal) map[string]any {
		return w.showServicePrincipal(r, p)
	})
}

// servicePrincipalOn finds the service principal with a SCIM id on the plane of
// r, or returns nil. The caller holds the mutex.
func (w *Workspace) servicePrincipalOn(r *request, id string) *principal {
	if p := w.principals[id]; p != nil && p.ApplicationID != "" && (p.inWorkspace || underAccount(r)) {
		return p
	}
	return nil
}

func noResource(kind, id string) *refusal {
	return refuseSCIM(http.StatusNotFound, "", fmt.Sprintf("%s with id %s not found.", kind, id))
}

func (w *Workspace) getServicePrincipal(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.servicePrincipalOn(r, r.PathValue("id"))
	if p == nil {
		return nil, noResource("Service principal", r.PathValue("id"))
	}
	return r.project(w.showServicePrincipal(r, p)), nil
}

// newServicePrincipalDraft is one with nothing in it.
func newServicePrincipalDraft() *draft {
	return &draft{active: true, lists: map[string][]string{"entitlements": {}, "roles": {}, "groups": {}}}
}

// createServicePrincipal adds one to the plane of r: in the workspace, the
// account gets it, too, but not the other way round. The status of
// QUOTA_EXCEEDED is not known: it is sent with 400.
func (w *Workspace) createServicePrincipal(r *request) (any, *refusal) {
	d := newServicePrincipalDraft()
	if refused := d.write(r); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case d.applicationID == "":
		d.applicationID = newUUID()
	case w.settings.cloud != "azure":
		return nil, unparsable()
	case w.byName[d.applicationID] != nil:
		return nil, refuseSCIM(http.StatusConflict, "uniqueness",
			fmt.Sprintf("Service principal with application ID %s already exists.", d.applicationID))
	}
	if refused := w.checkServicePrincipal(r, d); refused != nil {
		return nil, refused
	}
	if len(w.principals) >= w.settings.principalLimit {
		return nil, refuse(http.StatusBadRequest, "QUOTA_EXCEEDED",
			fmt.Sprintf("Cannot have more than %d users and service principals in one account", w.settings.principalLimit))
	}
	p := w.addPrincipal(Principal{UserName: d.applicationID, ApplicationID: d.applicationID, DisplayName: d.displayName})
	p.inWorkspace = !underAccount(r)
	w.applyToServicePrincipal(r, p, d)
	r.status = http.StatusCreated
	return w.showServicePrincipal(r, p), nil
}

// replaceServicePrincipal takes away what the body leaves out. The real answer
// to it is not documented; here it is the resource.
func (w *Workspace) replaceServicePrincipal(r *request) (any, *refusal) {
	d := newServicePrincipalDraft()
	if refused := d.write(r); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, refused := w.updateServicePrincipal(r, func(*principal) (*draft, *refusal) { return d, nil })
	if refused != nil {
		return nil, refused
	}
	return w.showServicePrincipal(r, p), nil
}

// patchServicePrincipal answers 204, one of the two forms of RFC 7644.
func (w *Workspace) patchServicePrincipal(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, refused := w.updateServicePrincipal(r, func(p *principal) (*draft, *refusal) {
		d := w.draftOfServicePrincipal(r, p)
		return d, d.patch(r)
	})
	r.status = http.StatusNoContent
	return nil, refused
}

// updateServicePrincipal replaces the service principal that the path names. The
// caller holds the mutex.
func (w *Workspace) updateServicePrincipal(r *request, by func(*principal) (*draft, *refusal)) (*principal, *refusal) {
	p := w.servicePrincipalOn(r, r.PathValue("id"))
	if p == nil {
		return nil, noResource("Service principal", r.PathValue("id"))
	}
	d, refused := by(p)
	if refused != nil {
		return nil, refused
	}
	if d.applicationID != "" && d.applicationID != p.ApplicationID {
		return nil, refuseSCIM(http.StatusBadRequest, "mutability", "applicationId can't be changed.")
	}
	if refused := w.checkServicePrincipal(r, d); refused != nil {
		return nil, refused
	}
	w.applyToServicePrincipal(r, p, d)
	return p, nil
}

// draftOfServicePrincipal is p as it is on the plane of r. The caller holds the
// mutex.
func (w *Workspace) draftOfServicePrincipal(r *request, p *principal) *draft {
	account := underAccount(r)
	d := newServicePrincipalDraft()
	d.displayName, d.applicationID, d.externalID, d.active = p.DisplayName, p.ApplicationID, p.externalID, p.active
	for _, g := range p.groupsOn(account) {
		d.lists["groups"] = append(d.lists["groups"], g.id)
	}
	if account {
		d.lists["roles"] = append(d.lists["roles"], p.accountRoles...)
	} else {
		d.lists["roles"] = append(d.lists["roles"], p.roles...)
		d.lists["entitlements"] = append(d.lists["entitlements"], p.entitlements...)
	}
	return d
}

// checkServicePrincipal refuses what a service principal can't be. The caller
// holds the mutex.
func (w *Workspace) checkServicePrincipal(r *request, d *draft) *refusal {
	if refused := checkEntitlements(r, d); refused != nil {
		return refused
	}
	for _, id := range d.lists["groups"] {
		if w.groupOn(r, id) == nil {
			return refuseSCIM(http.StatusBadRequest, "invalidValue", fmt.Sprintf("Group with id %s not found.", id))
		}
	}
	if len(d.externalID) > 64 {
		return refuseSCIM(http.StatusBadRequest, "invalidValue", "externalId is longer than 64 characters.")
	}
	return nil
}

// checkEntitlements refuses entitlements that aren't known, that exclude each
// other, and any on the account.
func checkEntitlements(r *request, d *draft) *refusal {
	list := d.lists["entitlements"]
	if len(list) > 0 && underAccount(r) {
		return refuseSCIM(http.StatusBadRequest, "invalidValue", "Entitlements can only be managed at the workspace level.")
	}
	for _, e := range list {
		if !slices.Contains(knownEntitlements, e) {
			return refuseSCIM(http.StatusBadRequest, "invalidValue", fmt.Sprintf("Entitlement %s is not known.", e))
		}
		if slices.Contains(list, consumeEntitlement) && slices.Contains(knownEntitlements[:2], e) {
			return refuseSCIM(http.StatusBadRequest, "invalidValue", fmt.Sprintf("Entitlements %s and %s exclude each other.", consumeEntitlement, e))
		}
	}
	return nil
}

// applyToServicePrincipal makes p what d says, on the plane of r. The caller
// holds the mutex.
func (w *Workspace) applyToServicePrincipal(r *request, p *principal, d *draft) {
	account := underAccount(r)
	p.DisplayName, p.externalID, p.active = d.displayName, d.externalID, d.active
	if account {
		p.setAccountRoles(d.lists["roles"])
	} else {
		p.roles, p.entitlements = d.lists["roles"], d.lists["entitlements"]
	}
	for _, g := range p.groupsOn(account) {
		if !slices.Contains(d.lists["groups"], g.id) {
			g.leave(p)
		}
	}
	for _, id := range d.lists["groups"] {
		if g := w.groups[id]; g != w.users {
			g.join(p)
		}
	}
}

// deleteServicePrincipal deletes for good what is deleted from the account, or
// from a workspace without one. A workspace of an account, which shares its
// identities, only lets go of it: its tokens there are dead, but the account
// keeps the service principal and its OAuth secrets (Databricks REST reference,
// Service Principals API).
func (w *Workspace) deleteServicePrincipal(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.servicePrincipalOn(r, r.PathValue("id"))
	if p == nil {
		return nil, noResource("Service principal", r.PathValue("id"))
	}
	if underAccount(r) || w.settings.accountID == "" {
		w.deletePrincipal(p)
	} else {
		w.leaveWorkspace(p)
	}
	r.status = http.StatusNoContent
	return nil, nil
}
