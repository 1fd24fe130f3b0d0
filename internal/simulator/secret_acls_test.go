// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/url"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/workspace"
	"github.com/stretchr/testify/require"
)

const (
	pathPutACL    = pathSecrets + "/acls/put"
	pathDeleteACL = pathSecrets + "/acls/delete"
	pathGetACL    = pathSecrets + "/acls/get"
	pathListACLs  = pathSecrets + "/acls/list"
)

func TestACLsThroughTheSDK(t *testing.T) {
	t.Parallel()
	w, alice, _ := withAlice(t)
	sp := w.AddServicePrincipal("etl", false)
	w.AddGroup("data / science team")
	w.AddScope("s", alice)
	api := secretsOf(t, w, alice)
	expected := map[string]string{"alice@example.com": "MANAGE"}
	for principal, permission := range map[string]workspace.AclPermission{
		sp.ApplicationID:      workspace.AclPermissionRead,
		"data / science team": workspace.AclPermissionWrite,
		"users":               workspace.AclPermissionRead,
		"admins":              workspace.AclPermissionManage,
	} {
		require.NoError(t, api.PutAcl(t.Context(), workspace.PutAcl{Scope: "s", Principal: principal, Permission: permission}))
		expected[principal] = string(permission)
		got, err := api.GetAcl(t.Context(), workspace.GetAclRequest{Scope: "s", Principal: principal})
		require.NoError(t, err)
		require.Equal(t, &workspace.AclItem{Principal: principal, Permission: permission}, got)
	}
	require.Equal(t, expected, w.Scopes()[0].ACLs)
	items, err := api.ListAclsAll(t.Context(), workspace.ListAclsRequest{Scope: "s"})
	require.NoError(t, err)
	listed := map[string]string{}
	for i, item := range items {
		listed[item.Principal] = string(item.Permission)
		require.True(t, i == 0 || items[i-1].Principal < item.Principal)
	}
	require.Equal(t, expected, listed)

	require.NoError(t, api.PutAcl(t.Context(), workspace.PutAcl{Scope: "s", Principal: "users", Permission: "WRITE"})) // overwrites
	require.Equal(t, "WRITE", w.Scopes()[0].ACLs["users"])
	require.NoError(t, api.DeleteAcl(t.Context(), workspace.DeleteAcl{Scope: "s", Principal: "users"}))
	require.NotContains(t, w.Scopes()[0].ACLs, "users")
	err = api.DeleteAcl(t.Context(), workspace.DeleteAcl{Scope: "s", Principal: "users"})
	require.ErrorIs(t, err, apierr.ErrResourceDoesNotExist)
	_, err = api.GetAcl(t.Context(), workspace.GetAclRequest{Scope: "s", Principal: "users"})
	require.ErrorIs(t, err, apierr.ErrResourceDoesNotExist)
	require.ErrorContains(t, err, "Failed to get secret acl for principal users for scope s.")
}

func TestACLsOnTheWire(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	requireDone(t, send(t, w, "POST", pathPutACL, token, `{"scope":"s","principal":"users","permission":"READ"}`))
	require.JSONEq(t, `{"principal":"users","permission":"READ"}`, send(t, w, "GET", pathGetACL+"?scope=s&principal=users", token, "").body)
	require.JSONEq(t, `{"items":[{"principal":"alice@example.com","permission":"MANAGE"},{"principal":"users","permission":"READ"}]}`,
		send(t, w, "GET", pathListACLs+"?scope=s", token, "").body)

	// Without any ACL left, only an admin gets in.
	admin, _ := w.AddToken(w.AddUser("root@example.com", true), "", 0)
	requireDone(t, send(t, w, "POST", pathDeleteACL, token, `{"scope":"s","principal":"users"}`))
	requireDone(t, send(t, w, "POST", pathDeleteACL, token, `{"scope":"s","principal":"alice@example.com"}`))
	requireRefused(t, send(t, w, "GET", pathListACLs+"?scope=s", token, ""), 403, "PERMISSION_DENIED")
	requireDone(t, send(t, w, "GET", pathListACLs+"?scope=s", admin, ""))
}

func TestRefusalsOfACLs(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	sp := w.AddServicePrincipal("etl", false)
	for _, try := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", pathPutACL, `{"scope":"x","principal":"users","permission":"READ"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathPutACL, `{"principal":"users","permission":"READ"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{"scope":"s","permission":"READ"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{"scope":"s","principal":"nobody@example.com","permission":"READ"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{"scope":"s","principal":"etl","permission":"READ"}`, 400, "INVALID_PARAMETER_VALUE"}, // the name of a service principal is none
		{"POST", pathPutACL, `{"scope":"s","principal":"` + sp.ID + `","permission":"READ"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{"scope":"s","principal":"users"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{"scope":"s","principal":"users","permission":"OWN"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{"scope":"s","principal":"users","permission":"read"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPutACL, `{`, 400, "MALFORMED_REQUEST"},
		{"POST", pathDeleteACL, `{"scope":"x","principal":"users"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathDeleteACL, `{"scope":"s","principal":"users"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathDeleteACL, `{"scope":"s","principal":"nobody@example.com"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathDeleteACL, `{"scope":"s"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathDeleteACL, `{`, 400, "MALFORMED_REQUEST"},
		{"GET", pathGetACL + "?scope=x&principal=users", ``, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"GET", pathGetACL + "?scope=s&principal=users", ``, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"GET", pathGetACL + "?scope=s", ``, 400, "INVALID_PARAMETER_VALUE"},
		{"GET", pathListACLs + "?scope=x", ``, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"GET", pathListACLs, ``, 400, "INVALID_PARAMETER_VALUE"},
	} {
		requireRefused(t, send(t, w, try.method, try.path, token, try.body), try.status, try.code)
	}
	require.Equal(t, map[string]string{"alice@example.com": "MANAGE"}, w.Scopes()[0].ACLs)
}

// TestPermissionsAreEnforced tries everything with every permission, given to
// the caller itself and through each kind of group.
func TestPermissionsAreEnforced(t *testing.T) {
	t.Parallel()
	order := map[string]int{"": 0, "READ": 1, "WRITE": 2, "MANAGE": 3}
	operations := []struct{ needed, method, path, body string }{
		{"", "GET", pathScopesList, ``},
		{"READ", "GET", pathSecretsList + "?scope=s", ``},
		{"READ", "GET", pathGet + "?scope=s&key=k", ``},
		{"WRITE", "POST", pathPut, `{"scope":"s","key":"new","string_value":"v"}`},
		{"WRITE", "POST", pathSecretDelete, `{"scope":"s","key":"k"}`},
		{"MANAGE", "GET", pathListACLs + "?scope=s", ``},
		{"MANAGE", "GET", pathGetACL + "?scope=s&principal=alice@example.com", ``},
		{"MANAGE", "POST", pathPutACL, `{"scope":"s","principal":"alice@example.com","permission":"READ"}`},
		{"MANAGE", "POST", pathDeleteACL, `{"scope":"s","principal":"alice@example.com"}`},
		{"MANAGE", "POST", pathScopesDelete, `{"scope":"s"}`},
	}
	w, alice, _ := withAlice(t)
	sp := w.AddServicePrincipal("etl", false)
	w.AddGroup("team", sp)
	w.AddGroup("weaker", sp)
	w.AddGroup("others", alice)
	admin := w.AddServicePrincipal("root", true)
	token, _ := w.AddToken(sp, "", 0)
	adminToken, _ := w.AddToken(admin, "", 0)
	cleaner, _ := w.AddToken(w.AddUser("cleaner@example.com", true), "", 0)

	// fresh gives the permission to principal, and a weaker one to another group.
	fresh := func(principal, permission string) {
		_ = send(t, w, "POST", pathScopesDelete, cleaner, `{"scope":"s"}`)
		w.AddScope("s", alice)
		w.PutSecret("s", "k", []byte("v"))
		w.PutACL("s", "others", "MANAGE")
		w.PutACL("s", "admins", "MANAGE")
		w.PutACL("s", principal, permission)
		if order[permission] > 1 {
			w.PutACL("s", "weaker", "READ")
		}
	}
	for _, operation := range operations {
		for _, principal := range []string{sp.ApplicationID, "team", "users"} {
			for permission, strength := range order {
				fresh(principal, permission)
				before := w.Scopes()
				a := send(t, w, operation.method, operation.path, token, operation.body)
				if strength >= order[operation.needed] {
					require.Equal(t, 200, a.status, "%s of %s: %s %s", permission, principal, operation.path, a.body)
					continue
				}
				requireMessage(t, a, 403, "PERMISSION_DENIED",
					"User "+sp.ApplicationID+" does not have "+operation.needed+" permission on scope s to perform this action.")
				require.Equal(t, before, w.Scopes())
			}
		}
		fresh("admins", "")
		require.Equal(t, 200, send(t, w, operation.method, operation.path, adminToken, operation.body).status, operation.path)
	}
}

func TestTheCreatorManagesTheScope(t *testing.T) {
	t.Parallel()
	w, _, alice := withAlice(t)
	bob, _ := w.AddToken(w.AddUser("bob@example.com", false), "", 0)
	requireDone(t, send(t, w, "POST", pathScopesCreate, alice, `{"scope":"own"}`))
	requireDone(t, send(t, w, "POST", pathScopesCreate, alice, `{"scope":"shared","initial_manage_principal":"users"}`))
	for _, token := range []string{alice, bob} {
		require.Equal(t, 200, send(t, w, "GET", pathListACLs+"?scope=shared", token, "").status)
	}
	require.Equal(t, 200, send(t, w, "GET", pathListACLs+"?scope=own", alice, "").status)
	requireRefused(t, send(t, w, "GET", pathListACLs+"?scope=own", bob, ""), 403, "PERMISSION_DENIED")
	require.Len(t, send(t, w, "GET", pathScopesList, bob, "").json(t)["scopes"], 2)

	// Giving up one's own MANAGE is final.
	requireDone(t, send(t, w, "POST", pathPutACL, alice, `{"scope":"own","principal":"alice@example.com","permission":"READ"}`))
	requireRefused(t, send(t, w, "POST", pathPutACL, alice, `{"scope":"own","principal":"alice@example.com","permission":"MANAGE"}`), 403, "PERMISSION_DENIED")
}

func TestStaleACLs(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	w.AddScope("s", alice)
	w.AddScope("other", alice)
	bob, _ := w.AddToken(w.AddUser("bob@example.com", false), "", 0)
	put := func(scope, permission string) {
		requireDone(t, send(t, w, "POST", pathPutACL, token, `{"scope":"`+scope+`","principal":"users","permission":"`+permission+`"}`))
	}
	// seen is the permission of users, "" if there is none.
	seen := func(scope string) string {
		a := send(t, w, "GET", pathGetACL+"?scope="+scope+"&principal=users", token, "")
		if a.status == 404 {
			return ""
		}
		return a.json(t)["permission"].(string)
	}
	count := func() int {
		return len(send(t, w, "GET", pathListACLs+"?scope=s", token, "").json(t)["items"].([]any))
	}

	put("s", "READ")
	require.Equal(t, "READ", seen("s")) // no delay by default
	w.SetACLDelay(3)
	require.Equal(t, "READ", seen("s"))
	put("s", "WRITE")
	requireRefused(t, send(t, w, "GET", pathListACLs+"?scope=s", bob, ""), 403, "PERMISSION_DENIED") // sees nothing, so doesn't count
	require.Equal(t, "", seen("other"))                                                              // another scope
	require.Equal(t, "WRITE", w.Scopes()[1].ACLs["users"])
	requireDone(t, send(t, w, "POST", pathPut, bob, `{"scope":"s","key":"k","string_value":"v"}`)) // enforced at once
	require.Equal(t, []string{"READ", "READ", "READ", "WRITE"}, []string{seen("s"), seen("s"), seen("s"), seen("s")})

	requireDone(t, send(t, w, "POST", pathDeleteACL, token, `{"scope":"s","principal":"users"}`))
	requireRefused(t, send(t, w, "POST", pathDeleteACL, token, `{"scope":"s","principal":"users"}`), 404, "RESOURCE_DOES_NOT_EXIST") // not stale
	require.Equal(t, 2, count())
	require.Equal(t, "WRITE", seen("s"))
	require.Equal(t, 2, count())
	require.Equal(t, 1, count())
	require.Equal(t, "", seen("s"))

	put("s", "READ")
	require.Equal(t, "", seen("s"))
	put("s", "MANAGE") // starts anew
	require.Equal(t, []string{"READ", "READ", "READ", "MANAGE"}, []string{seen("s"), seen("s"), seen("s"), seen("s")})

	put("s", "READ")
	w.PutACL("s", "users", "WRITE") // by hand: shown at once
	require.Equal(t, "WRITE", seen("s"))
	put("s", "READ")
	w.SetACLDelay(0)
	require.Equal(t, "WRITE", seen("s")) // for later changes only
	put("s", "MANAGE")
	require.Equal(t, "MANAGE", seen("s"))
}

func TestACLsByHand(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	w.PutACL("S", "users", "READ")
	w.PutACL("s", "users", "WRITE")
	require.Equal(t, "WRITE", send(t, w, "GET", pathGetACL+"?scope=s&principal=users", token, "").json(t)["permission"])
	w.PutACL("s", "users", "")
	require.Equal(t, map[string]string{"alice@example.com": "MANAGE"}, w.Scopes()[0].ACLs)
	w.PutACL("s", "alice@example.com", "")
	requireRefused(t, send(t, w, "GET", pathListACLs+"?"+url.Values{"scope": {"s"}}.Encode(), token, ""), 403, "PERMISSION_DENIED")
}

func TestGroupsOfMembers(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	w.AddGroup("empty")
	w.AddGroup("team", alice)
	me, err := iam.NewCurrentUser(sdk(t, w, token)).Me(t.Context(), iam.MeRequest{})
	require.NoError(t, err)
	require.Len(t, me.Groups, 2)
	require.Equal(t, "users", me.Groups[0].Display)
	require.Equal(t, "team", me.Groups[1].Display)
	require.Equal(t, "Groups/"+me.Groups[1].Value, me.Groups[1].Ref)
	require.NotEqual(t, me.Groups[0].Value, me.Groups[1].Value)
	for _, name := range []string{"team", "users", "admins"} {
		require.Panics(t, func() { w.AddGroup(name) })
	}
	stranger := start(t).AddUser("stranger@example.com", false)
	require.Panics(t, func() { w.AddGroup("new", alice, stranger) })
	w.AddGroup("new") // the failed attempt left nothing behind
	require.Len(t, send(t, w, "GET", pathMe, token, "").json(t)["groups"], 2)
}
