// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	schemaUser             = "urn:ietf:params:scim:schemas:core:2.0:User"
	schemaServicePrincipal = "urn:ietf:params:scim:schemas:core:2.0:ServicePrincipal"
	schemaGroup            = "urn:ietf:params:scim:schemas:core:2.0:Group"
	schemaList             = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	schemaPatch            = "urn:ietf:params:scim:api:messages:2.0:PatchOp"

	// pageLimit is the most resources of one page, and their number if the
	// caller names none (Databricks REST reference, Account SCIM API).
	pageLimit = 10000
)

// me shows who the caller is. For a service principal, the user name is the
// application id (Databricks REST reference, Current User API). The header with
// the workspace id is what the SDKs read it from.
func (w *Workspace) me(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := r.caller
	entitlements := []string{"workspace-access", "databricks-sql-access"} // which the group users has
	if p.Admin {
		entitlements = append(entitlements, "allow-cluster-create")
	}
	for _, e := range p.entitlements {
		if !slices.Contains(entitlements, e) {
			entitlements = append(entitlements, e)
		}
	}
	user := map[string]any{
		"schemas":      []string{schemaUser},
		"id":           p.ID,
		"userName":     p.UserName,
		"displayName":  p.DisplayName,
		"active":       true,
		"groups":       w.groupRefs(p, false),
		"entitlements": valuesOf(entitlements),
	}
	if p.ApplicationID == "" {
		user["emails"] = emailOf(p)
	}
	r.extra.Set("X-Databricks-Org-Id", w.settings.workspaceID)
	return r.project(user), nil
}

// groupRefs lists the groups of p on a plane. The caller holds the mutex.
func (w *Workspace) groupRefs(p *principal, account bool) []groupRef {
	var list []groupRef
	if !account {
		list = append(list, w.users.ref())
	}
	for _, g := range p.groupsOn(account) {
		list = append(list, g.ref())
	}
	return list
}

// project leaves the attributes of a resource that the query asks for. The id
// always stays.
func (r *request) project(resource map[string]any) map[string]any {
	query := r.URL.Query()
	if wanted := query.Get("attributes"); wanted != "" {
		names := append(attributeNames(wanted), "schemas", "id")
		maps.DeleteFunc(resource, func(name string, _ any) bool { return !slices.Contains(names, strings.ToLower(name)) })
	}
	unwanted := attributeNames(query.Get("excludedAttributes"))
	maps.DeleteFunc(resource, func(name string, _ any) bool {
		return name != "id" && slices.Contains(unwanted, strings.ToLower(name))
	})
	return resource
}

// attributeNames splits a comma list. Names of SCIM attributes ignore case
// (RFC 7643).
func attributeNames(list string) []string {
	names := strings.Split(strings.ToLower(list), ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}

// valuesOf is SCIM's form of a list of plain values.
func valuesOf(values []string) []map[string]string {
	list := make([]map[string]string, len(values))
	for i, value := range values {
		list[i] = map[string]string{"value": value}
	}
	return list
}

// addValues adds a list attribute, which is absent if it is empty.
func addValues(resource map[string]any, name string, values []string) {
	if len(values) > 0 {
		resource[name] = valuesOf(values)
	}
}

// scimAdminOnly wraps a handler of the workspace's SCIM API that changes
// something.
func scimAdminOnly(h handler) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		if !w.isAdmin(r.caller) {
			return nil, refuseSCIM(http.StatusForbidden, "", r.URL.Path+" is only accessible by admins")
		}
		return h(w, r)
	}
}

// listResources answers a list request for what the query's filter, sorting and
// page leave of the resources, which can be filtered and sorted by the plain
// attributes with these names.
func listResources[T any](r *request, all []T, attribute func(resource T, name string) string, names []string, show func(T) map[string]any) (any, *refusal) {
	query := r.URL.Query()
	fits := func(attributesOf) bool { return true }
	if text := query.Get("filter"); text != "" {
		var refused *refusal
		if fits, refused = parseFilter(text, names); refused != nil {
			return nil, refused
		}
	}
	start, ok := numberIn(query, "startIndex", 1)
	count, ok2 := numberIn(query, "count", pageLimit)
	by := strings.ToLower(query.Get("sortBy"))
	if !ok || !ok2 || by != "" && !slices.Contains(names, by) {
		return nil, refuseSCIM(http.StatusBadRequest, "invalidValue", "startIndex, count or sortBy is invalid")
	}

	var found []T
	for _, resource := range all {
		if fits(func(name string) string { return attribute(resource, name) }) {
			found = append(found, resource)
		}
	}
	if by != "" {
		slices.SortStableFunc(found, func(a, b T) int { return strings.Compare(attribute(a, by), attribute(b, by)) })
		if query.Get("sortOrder") == "descending" {
			slices.Reverse(found)
		}
	}
	start = max(start, 1)
	first := min(start-1, len(found))
	page := found[first : first+min(max(count, 0), pageLimit, len(found)-first)]
	answer := map[string]any{
		"schemas": []string{schemaList}, "totalResults": len(found), "startIndex": start, "itemsPerPage": len(page),
	}
	if len(page) > 0 {
		shown := make([]map[string]any, len(page))
		for i, resource := range page {
			shown[i] = r.project(show(resource))
		}
		answer["Resources"] = shown
	}
	return answer, nil
}

// numberIn is the number in a query, or another if the query has none.
func numberIn(query url.Values, name string, otherwise int) (n int, ok bool) {
	text := query.Get(name)
	if text == "" {
		return otherwise, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}
