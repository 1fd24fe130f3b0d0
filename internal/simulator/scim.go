// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"maps"
	"slices"
	"strings"
)

// me shows who the caller is. For a service principal, the user name is the
// application id (Databricks REST reference, Current User API). The header with
// the workspace id is what the SDKs read it from.
func (w *Workspace) me(r *request) (any, *refusal) {
	p := r.caller.Principal
	w.mu.Lock()
	groups := r.caller.memberOf()
	w.mu.Unlock()
	entitlements := []string{"workspace-access", "databricks-sql-access"}
	if p.Admin {
		entitlements = append(entitlements, "allow-cluster-create")
	}
	user := map[string]any{
		"schemas":      []string{"urn:ietf:params:scim:schemas:core:2.0:User"},
		"id":           p.ID,
		"userName":     p.UserName,
		"displayName":  p.DisplayName,
		"active":       true,
		"groups":       groups,
		"entitlements": valuesOf(entitlements),
	}
	if p.ApplicationID == "" {
		user["emails"] = []map[string]any{{"type": "work", "value": p.UserName, "primary": true}}
	}
	query := r.URL.Query()
	if wanted := query.Get("attributes"); wanted != "" {
		names := append(attributeNames(wanted), "schemas", "id")
		maps.DeleteFunc(user, func(name string, _ any) bool { return !slices.Contains(names, strings.ToLower(name)) })
	}
	unwanted := attributeNames(query.Get("excludedAttributes"))
	maps.DeleteFunc(user, func(name string, _ any) bool {
		return name != "id" && slices.Contains(unwanted, strings.ToLower(name))
	})
	r.extra.Set("X-Databricks-Org-Id", w.settings.workspaceID)
	return user, nil
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
