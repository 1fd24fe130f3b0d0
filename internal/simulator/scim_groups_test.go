// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestGroupsThroughTheSDK(t *testing.T) {
	t.Parallel()
	w, admin, token := withAdmin(t)
	sp := w.AddServicePrincipal("etl", false)
	api := iam.NewGroupsV2(sdk(t, w, token))

	made, err := api.Create(t.Context(), iam.CreateGroupRequest{
		DisplayName: "readers", Members: values(sp.ID), ExternalId: "ext", Entitlements: values("workspace-access"), Roles: values("r"),
	})
	require.NoError(t, err)
	require.Equal(t, []string{sp.ID}, valuesIn(made.Members))
	require.Equal(t, "WorkspaceGroup", made.Meta.ResourceType)
	require.Equal(t, "ext", made.ExternalId)
	require.Equal(t, []string{"workspace-access"}, valuesIn(made.Entitlements))
	require.Equal(t, []string{"r"}, valuesIn(made.Roles))
	require.Equal(t, []simulator.Group{{ID: "732", Name: "admins", Members: []string{admin.ID}}, {ID: made.Id, Name: "readers", Members: []string{sp.ID}}}, w.Groups())

	found, err := api.ListAll(t.Context(), iam.ListGroupsRequest{Filter: `displayName eq "readers"`})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, made.Id, found[0].Id)
	all, err := api.ListAll(t.Context(), iam.ListGroupsRequest{})
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, []string{admin.ID, sp.ID}, valuesIn(all[0].Members)) // users has everybody
	require.Equal(t, "Users/"+admin.ID, all[0].Members[0].Ref)
	require.Equal(t, "ServicePrincipals/"+sp.ID, all[0].Members[1].Ref)

	patch := func(id string, operations ...iam.Patch) error {
		return api.Patch(t.Context(), iam.PatchGroupRequest{
			Id: id, Schemas: []iam.PatchSchema{"urn:ietf:params:scim:api:messages:2.0:PatchOp"}, Operations: operations,
		})
	}
	for range 2 { // both are idempotent
		require.NoError(t, patch(made.Id, iam.Patch{Op: iam.PatchOpRemove, Path: `members[value eq "` + sp.ID + `"]`}))
		require.Empty(t, servicePrincipal(t, w, sp.ID).Groups)
	}
	for range 2 {
		require.NoError(t, patch(made.Id, iam.Patch{Op: iam.PatchOpAdd, Path: "members", Value: values(sp.ID)}))
		require.Equal(t, []string{"readers"}, servicePrincipal(t, w, sp.ID).Groups)
	}
	require.NoError(t, patch(made.Id, iam.Patch{Op: iam.PatchOpRemove, Path: "members", Value: values(sp.ID)}))
	require.Empty(t, servicePrincipal(t, w, sp.ID).Groups)
	require.NoError(t, patch(made.Id, iam.Patch{Op: iam.PatchOpAdd, Path: "members", Value: values(admin.ID, sp.ID)},
		iam.Patch{Op: iam.PatchOpReplace, Path: "displayName", Value: "writers"}))
	require.Equal(t, []string{"writers"}, servicePrincipal(t, w, sp.ID).Groups)
	require.NoError(t, patch(made.Id, iam.Patch{Op: iam.PatchOpRemove, Path: "members"}))
	require.Empty(t, servicePrincipal(t, w, sp.ID).Groups)

	require.NoError(t, api.Update(t.Context(), iam.UpdateGroupRequest{Id: made.Id, DisplayName: "owners", Members: values(sp.ID)}))
	require.Equal(t, []string{"owners"}, servicePrincipal(t, w, sp.ID).Groups)
	got, err := api.Get(t.Context(), iam.GetGroupRequest{Id: made.Id})
	require.NoError(t, err)
	require.Empty(t, got.Entitlements)
	require.Empty(t, got.ExternalId)

	require.NoError(t, api.Delete(t.Context(), iam.DeleteGroupRequest{Id: made.Id}))
	require.Empty(t, servicePrincipal(t, w, sp.ID).Groups)
	require.ErrorIs(t, api.Delete(t.Context(), iam.DeleteGroupRequest{Id: made.Id}), apierr.ErrNotFound)
	_, err = api.Get(t.Context(), iam.GetGroupRequest{Id: made.Id})
	require.ErrorIs(t, err, apierr.ErrNotFound)
	require.ErrorIs(t, patch(made.Id), apierr.ErrNotFound)
	require.ErrorIs(t, api.Update(t.Context(), iam.UpdateGroupRequest{Id: made.Id, DisplayName: "x"}), apierr.ErrNotFound)
}

func TestAdminsAreTheMembersOfAdmins(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	sp := w.AddServicePrincipal("etl", false)
	pat, _ := w.AddToken(sp, "", 0)
	change := func(operation string) {
		t.Helper()
		require.Equal(t, 204, send(t, w, "PATCH", pathGroups+"/732", token, patchOp(operation)).status)
	}
	require.Equal(t, 403, send(t, w, "GET", pathManaged, pat, "").status)
	change(`{"op":"add","path":"members","value":[{"value":"` + sp.ID + `"}]}`)
	require.Equal(t, 200, send(t, w, "GET", pathManaged, pat, "").status)
	require.True(t, servicePrincipal(t, w, sp.ID).Admin)
	change(`{"op":"remove","path":"members[value eq \"` + sp.ID + `\"]"}`)
	require.Equal(t, 403, send(t, w, "GET", pathManaged, pat, "").status)
	require.False(t, servicePrincipal(t, w, sp.ID).Admin)
}

func TestGroupsThatAreRefused(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	id := w.AddGroup("readers")
	w.AddGroup("writers")
	for _, try := range []struct {
		method, path, body string
		status             int
		scimType, detail   string
	}{
		{"POST", "", `{}`, 400, "invalidValue", "displayName"},
		{"POST", "", `{"displayName":"readers"}`, 409, "uniqueness", "Group with name readers already exists."},
		{"POST", "", `{"displayName":"users"}`, 409, "uniqueness", "users"},
		{"POST", "", `{"displayName":"x","members":[{"value":"1"}]}`, 400, "invalidValue", "1"},
		{"POST", "", `{"displayName":"x","entitlements":[{"value":"fly"}]}`, 400, "invalidValue", "fly"},
		{"POST", "", `{`, 400, "", "MALFORMED_REQUEST"},
		{"PUT", "/" + id, `{`, 400, "", "MALFORMED_REQUEST"},
		{"PUT", "/" + id, `{"displayName":"writers"}`, 409, "uniqueness", "writers"},
		{"PATCH", "/" + id, patchOp(`{"op":"replace","path":"active","value":true}`), 400, "invalidPath", "active"},
		{"PATCH", "/" + id, patchOp(`{"op":"add","path":"members","value":[{"value":"` + id + `"}]}`), 400, "invalidValue", id},
		{"PATCH", "/731", patchOp(``), 400, "mutability", "users"},
		{"PUT", "/732", `{"displayName":"root"}`, 400, "mutability", "admins"},
		{"DELETE", "/731", "", 400, "mutability", "users"},
		{"DELETE", "/732", "", 400, "mutability", "admins"},
	} {
		requireSCIM(t, send(t, w, try.method, pathGroups+try.path, token, try.body), try.status, try.scimType, try.detail)
	}
	require.Len(t, w.Groups(), 3)
}

func TestGroupsGrantSecretScopes(t *testing.T) {
	t.Parallel()
	w, admin, token := withAdmin(t)
	sp := w.AddServicePrincipal("etl", false)
	pat, _ := w.AddToken(sp, "", 0)
	w.AddScope("s", admin)
	a := send(t, w, "POST", pathGroups, token, `{"displayName":"readers","members":[{"value":"`+sp.ID+`"}]}`)
	w.PutACL("s", "readers", "READ")
	require.Equal(t, 200, send(t, w, "GET", "/api/2.0/secrets/list?scope=s", pat, "").status)
	require.Equal(t, 204, send(t, w, "DELETE", pathGroups+"/"+a.json(t)["id"].(string), token, "").status)
	requireRefused(t, send(t, w, "GET", "/api/2.0/secrets/list?scope=s", pat, ""), 403, "PERMISSION_DENIED")
	require.Panics(t, func() { w.PutACL("s", "readers", "READ") })
}
