// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// permission is what a principal may do with a secret scope. Each one includes
// those below it.
type permission int

const (
	permissionNone permission = iota
	permissionRead
	permissionWrite
	permissionManage
)

var permissionNames = []string{"", "READ", "WRITE", "MANAGE"}

func (p permission) String() string { return permissionNames[p] }

// parsePermission returns permissionNone for what is no permission.
func parsePermission(name string) permission {
	return permission(max(0, slices.Index(permissionNames, name)))
}

// aclItem is AclItem of the Secrets API.
type aclItem struct {
	Principal  string `json:"principal"`
	Permission string `json:"permission"`
}

// permissionOf is the strongest of what the principal and its groups were given.
// The caller holds the workspace's mutex.
func (s *secretScope) permissionOf(p *principal) permission {
	strongest := max(s.acls[p.aclName()], s.acls[usersName])
	for _, g := range p.groupsOn(false) {
		strongest = max(strongest, s.acls[g.name])
	}
	return strongest
}

// PutACL sets a principal's permission ("READ", "WRITE" or "MANAGE") on a scope
// behind everyone's back, and with "" takes it away. Every read shows it at
// once. It panics if there is no such scope, principal or permission.
func (w *Workspace) PutACL(scope, principal, permission string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.mustFindScope(scope)
	if !w.isPrincipal(principal) {
		panic(fmt.Sprintf("simulator: no principal %q in this workspace", principal))
	}
	p := parsePermission(permission)
	if p == permissionNone && permission != "" {
		panic(fmt.Sprintf("simulator: no permission %q", permission))
	}
	s.setACL(principal, p, 0)
}

// SetACLDelay makes reads of ACLs stale: after each acls/put or acls/delete from
// now on, that many of the following acls/get and acls/list requests of the
// scope answer with the state before it. A further change starts anew. What is
// enforced is never stale. 0, which is the default, ends it for later changes.
//
// Real workspaces cache ACLs for up to minutes (terraform-provider-databricks
// issues 4195 and 4885).
func (w *Workspace) SetACLDelay(reads int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aclDelay = reads
}

// setACL sets a permission, or takes it away with permissionNone, and keeps the
// state before it for the next delay reads.
func (s *secretScope) setACL(principal string, p permission, delay int) {
	s.staleACLs, s.staleReads = nil, delay
	if delay > 0 {
		s.staleACLs = maps.Clone(s.acls)
	}
	if p == permissionNone {
		delete(s.acls, principal)
	} else {
		s.acls[principal] = p
	}
}

// readACLs is what a read of the ACLs shows.
func (s *secretScope) readACLs() map[string]permission {
	if s.staleReads <= 0 {
		return s.acls
	}
	s.staleReads--
	return s.staleACLs
}

// putACL creates or overwrites. The REST reference also has it refuse an
// existing ACL with RESOURCE_ALREADY_EXISTS, which acceptance tests of the
// Databricks Terraform provider contradict.
func (w *Workspace) putACL(r *request) (any, *refusal) {
	var body struct {
		Scope string `json:"scope"`
		aclItem
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	p := parsePermission(body.Permission)
	if p == permissionNone {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
			fmt.Sprintf("Invalid permission %q: it must be READ, WRITE or MANAGE.", body.Permission))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openScope(r, body.Scope, permissionManage)
	if refused != nil {
		return nil, refused
	}
	if !w.isPrincipal(body.Principal) {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("Principal %q does not exist.", body.Principal))
	}
	s.setACL(body.Principal, p, w.aclDelay)
	return nil, nil
}

// deleteACL refuses a principal without an ACL, whether it exists or not.
func (w *Workspace) deleteACL(r *request) (any, *refusal) {
	var body struct {
		Scope     string `json:"scope"`
		Principal string `json:"principal"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if body.Principal == "" {
		return nil, missingField("principal")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openScope(r, body.Scope, permissionManage)
	if refused != nil {
		return nil, refused
	}
	if s.acls[body.Principal] == permissionNone {
		return nil, noACL("delete", body.Scope, body.Principal)
	}
	s.setACL(body.Principal, permissionNone, w.aclDelay)
	return nil, nil
}

// noACL has the observed text of acls/get. That of acls/delete is unknown.
func noACL(verb, scope, principal string) *refusal {
	return refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST",
		fmt.Sprintf("Failed to %s secret acl for principal %s for scope %s.", verb, principal, scope))
}

func (w *Workspace) getACL(r *request) (any, *refusal) {
	query := r.URL.Query()
	scope, principal := query.Get("scope"), query.Get("principal")
	if principal == "" {
		return nil, missingField("principal")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openScope(r, scope, permissionManage)
	if refused != nil {
		return nil, refused
	}
	p := s.readACLs()[principal]
	if p == permissionNone {
		return nil, noACL("get", scope, principal)
	}
	return aclItem{principal, p.String()}, nil
}

// listACLs lists them by principal, under the key "items", which the SDKs read,
// not "acls" as in the example of the REST reference.
func (w *Workspace) listACLs(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, refused := w.openScope(r, r.URL.Query().Get("scope"), permissionManage)
	if refused != nil {
		return nil, refused
	}
	acls := s.readACLs()
	var items []aclItem
	for _, principal := range slices.Sorted(maps.Keys(acls)) {
		items = append(items, aclItem{principal, acls[principal].String()})
	}
	return listOf("items", items), nil
}
