// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	pathSPs    = "/api/2.0/preview/scim/v2/ServicePrincipals"
	pathGroups = "/api/2.0/preview/scim/v2/Groups"
)

// withAdmin is a workspace with an admin, and a token of the admin's.
func withAdmin(t testing.TB, opts ...simulator.Option) (w *simulator.Workspace, admin simulator.Principal, token string) {
	t.Helper()
	w = start(t, opts...)
	admin = w.AddUser("admin@example.com", true)
	token, _ = w.AddToken(admin, "", 0)
	return w, admin, token
}

// requireSCIM checks status, type and detail in the SCIM envelope.
func requireSCIM(t testing.TB, a answer, status int, scimType, detail string) {
	t.Helper()
	require.Equal(t, status, a.status, a.body)
	got := a.json(t)
	require.Equal(t, []any{"urn:ietf:params:scim:api:messages:2.0:Error"}, got["schemas"])
	require.Equal(t, fmt.Sprint(status), got["status"])
	require.Contains(t, got["detail"], detail)
	if scimType == "" {
		require.NotContains(t, got, "scimType")
	} else {
		require.Equal(t, scimType, got["scimType"])
	}
}

func patchOp(operations string) string {
	return `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[` + operations + `]}`
}

func values(list ...string) (complex []iam.ComplexValue) {
	for _, v := range list {
		complex = append(complex, iam.ComplexValue{Value: v})
	}
	return complex
}

func valuesIn(complex []iam.ComplexValue) (list []string) {
	for _, v := range complex {
		list = append(list, v.Value)
	}
	return list
}

// servicePrincipal finds one by its SCIM id.
func servicePrincipal(t testing.TB, w *simulator.Workspace, id string) simulator.Principal {
	t.Helper()
	for _, p := range w.ServicePrincipals() {
		if p.ID == id {
			return p
		}
	}
	require.Fail(t, "no service principal "+id)
	return simulator.Principal{}
}

func TestServicePrincipalsThroughTheSDK(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	readers := w.AddGroup("readers")
	api := iam.NewServicePrincipalsV2(sdk(t, w, token))

	none, err := api.ListAll(t.Context(), iam.ListServicePrincipalsRequest{})
	require.NoError(t, err)
	require.Empty(t, none)
	require.NotContains(t, send(t, w, "GET", pathSPs, token, "").json(t), "Resources")

	made, err := api.Create(t.Context(), iam.CreateServicePrincipalRequest{
		DisplayName: "etl", Groups: values(readers), Entitlements: values("workspace-access", "databricks-sql-access"),
		ExternalId: "ext", Roles: values("arn:aws:iam::1:role/r"),
	})
	require.NoError(t, err)
	require.Regexp(t, `^[0-9]{16}$`, made.Id)
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, made.ApplicationId)
	require.True(t, made.Active)
	require.Equal(t, "ext", made.ExternalId)
	require.Equal(t, []string{"workspace-access", "databricks-sql-access"}, valuesIn(made.Entitlements))
	require.Equal(t, []string{"arn:aws:iam::1:role/r"}, valuesIn(made.Roles))
	require.Equal(t, "readers", made.Groups[1].Display)
	require.Equal(t, "users", made.Groups[0].Display)
	require.Equal(t, []simulator.Principal{{
		ID: made.Id, UserName: made.ApplicationId, ApplicationID: made.ApplicationId, DisplayName: "etl",
		Groups: []string{"readers"}, Entitlements: []string{"workspace-access", "databricks-sql-access"},
	}}, w.ServicePrincipals())

	twin, err := api.Create(t.Context(), iam.CreateServicePrincipalRequest{DisplayName: "etl", Entitlements: values("workspace-consume")})
	require.NoError(t, err) // names need not be unique
	require.NotEqual(t, made.ApplicationId, twin.ApplicationId)

	got, err := api.Get(t.Context(), iam.GetServicePrincipalRequest{Id: made.Id})
	require.NoError(t, err)
	require.Equal(t, made.ApplicationId, got.ApplicationId)

	require.NoError(t, api.Patch(t.Context(), iam.PatchServicePrincipalRequest{
		Id: made.Id, Schemas: []iam.PatchSchema{"urn:ietf:params:scim:api:messages:2.0:PatchOp"},
		Operations: []iam.Patch{
			{Op: "add", Path: "entitlements", Value: values("allow-cluster-create", "workspace-access")},
			{Op: "remove", Path: `entitlements[value eq "databricks-sql-access"]`},
			{Op: "replace", Path: "displayName", Value: "renamed"},
		},
	}))
	p := servicePrincipal(t, w, made.Id)
	require.Equal(t, []string{"workspace-access", "allow-cluster-create"}, p.Entitlements)
	require.Equal(t, "renamed", p.DisplayName)
	require.Equal(t, []string{"readers"}, p.Groups)

	require.NoError(t, api.Update(t.Context(), iam.UpdateServicePrincipalRequest{
		Id: made.Id, DisplayName: "replaced", ApplicationId: made.ApplicationId, Groups: values("731"),
	}))
	p = servicePrincipal(t, w, made.Id)
	require.Equal(t, "replaced", p.DisplayName)
	require.Empty(t, p.Entitlements) // what is left out is lost
	require.Empty(t, p.Groups)

	require.NoError(t, api.Delete(t.Context(), iam.DeleteServicePrincipalRequest{Id: made.Id}))
	require.Len(t, w.ServicePrincipals(), 1)
	_, err = api.Get(t.Context(), iam.GetServicePrincipalRequest{Id: made.Id})
	require.ErrorIs(t, err, apierr.ErrNotFound)
	require.ErrorIs(t, api.Delete(t.Context(), iam.DeleteServicePrincipalRequest{Id: made.Id}), apierr.ErrNotFound)
}

func TestServicePrincipalsOnTheWire(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	a := send(t, w, "POST", pathSPs, token, `{"displayName":"etl","unknown":{"a":1},"active":true}`, "Content-Type", "application/scim+json; charset=utf-8")
	require.Equal(t, 201, a.status)
	require.Equal(t, "application/scim+json", a.header.Get("Content-Type"))
	id := a.json(t)["id"].(string)
	require.NotContains(t, a.json(t), "entitlements")

	a = send(t, w, "GET", pathSPs+"/"+id+"?attributes=applicationId", token, "")
	require.Len(t, a.json(t), 3)
	a = send(t, w, "PUT", pathSPs+"/"+id, token, `{"displayName":"new"}`)
	require.Equal(t, 200, a.status)
	require.Equal(t, "new", a.json(t)["displayName"])
	a = send(t, w, "PATCH", pathSPs+"/"+id, token, patchOp(`{"op":"Add","value":{"entitlements":[{"value":"workspace-access"}],"other":1}}`))
	require.Equal(t, 204, a.status)
	require.Empty(t, a.body)
	require.Equal(t, []string{"workspace-access"}, servicePrincipal(t, w, id).Entitlements)
	require.Equal(t, 204, send(t, w, "PATCH", pathSPs+"/"+id, token, patchOp(`{"op":"add","path":"entitlements","value":["allow-cluster-create"]}`)).status)
	pat, _ := w.AddToken(servicePrincipal(t, w, id), "", 0)
	require.Equal(t, []any{
		map[string]any{"value": "workspace-access"}, map[string]any{"value": "databricks-sql-access"}, map[string]any{"value": "allow-cluster-create"},
	}, send(t, w, "GET", pathMe, pat, "").json(t)["entitlements"])
	a = send(t, w, "DELETE", pathSPs+"/"+id+"?", token, "")
	require.Equal(t, 204, a.status)
	require.Empty(t, a.body)
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		requireSCIM(t, send(t, w, method, pathSPs+"/"+id, token, patchOp("")), 404, "", id)
	}
}

func TestServicePrincipalsThatAreRefused(t *testing.T) {
	t.Parallel()
	w, user, token := withAdmin(t)
	id := w.AddServicePrincipal("etl", false).ID
	for _, try := range []struct{ body, scimType, detail string }{
		{`{"applicationId":"6f5ccf28-d83a-4957-9bfb-5bbfac551410"}`, "invalidSyntax", "Request is unparsable, syntactically incorrect, or violates schema."},
		{`{"entitlements":[{"value":"fly"}]}`, "invalidValue", "fly"},
		{`{"entitlements":[{"value":"workspace-access"},{"value":"workspace-consume"}]}`, "invalidValue", "exclude"},
		{`{"entitlements":[{"value":5}]}`, "invalidValue", "entitlements"},
		{`{"groups":[{"value":"99"}]}`, "invalidValue", "99"},
		{`{"groups":[{"value":"` + user.ID + `"}]}`, "invalidValue", user.ID},
		{`{"displayName":["a","b"]}`, "invalidValue", "displayName"},
		{`{"active":"perhaps"}`, "invalidValue", "active"},
		{`{"externalId":"` + strings.Repeat("x", 65) + `"}`, "invalidValue", "externalId"},
		{`{`, "", "MALFORMED_REQUEST"},
		{`[]`, "", "MALFORMED_REQUEST"},
	} {
		requireSCIM(t, send(t, w, "POST", pathSPs, token, try.body), 400, try.scimType, try.detail)
		if !strings.Contains(try.body, "applicationId") {
			requireSCIM(t, send(t, w, "PUT", pathSPs+"/"+id, token, try.body), 400, try.scimType, try.detail)
		}
	}
	requireSCIM(t, send(t, w, "PUT", pathSPs+"/"+id, token, `{"applicationId":"other"}`), 400, "mutability", "applicationId")
	for _, try := range []struct{ body, scimType, detail string }{
		{`{"Operations":[]}`, "invalidSyntax", "unparsable"},
		{`{`, "", "MALFORMED_REQUEST"},
		{patchOp(`{"op":"move","path":"active"}`), "invalidSyntax", "move"},
		{patchOp(`{"op":"add","path":"members","value":[]}`), "invalidPath", "members"},
		{patchOp(`{"op":"add","path":"a b","value":[]}`), "invalidPath", "a b"},
		{patchOp(`{"op":"add","path":"entitlements[value eq \"x\"]","value":[]}`), "invalidPath", "entitlements"},
		{patchOp(`{"op":"remove","path":"active[value eq \"x\"]"}`), "invalidPath", "active"},
		{patchOp(`{"op":"remove"}`), "noTarget", "path"},
		{patchOp(`{"op":"add","value":"x"}`), "noTarget", "path"},
		{patchOp(`{"op":"add","value":{"active":"x"}}`), "invalidValue", "active"},
		{patchOp(`{"op":"replace","value":{"active":[]}}`), "invalidValue", "active"},
		{patchOp(`{"op":"remove","path":"active"}`), "invalidValue", "active"},
		{patchOp(`{"op":"replace","path":"displayName","value":"changed"},{"op":"add","path":"groups","value":[{"value":"1"}]}`), "invalidValue", "1"},
	} {
		requireSCIM(t, send(t, w, "PATCH", pathSPs+"/"+id, token, try.body), 400, try.scimType, try.detail)
	}
	require.Len(t, w.ServicePrincipals(), 1)
	require.Equal(t, "etl", w.ServicePrincipals()[0].DisplayName) // all or nothing
}

func TestEntraManagedServicePrincipals(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t, simulator.WithCloud("Azure"))
	api := iam.NewServicePrincipalsV2(sdk(t, w, token))
	const id = "6f5ccf28-d83a-4957-9bfb-5bbfac551410"
	made, err := api.Create(t.Context(), iam.CreateServicePrincipalRequest{ApplicationId: id, DisplayName: "app"})
	require.NoError(t, err)
	require.Equal(t, id, made.ApplicationId)
	require.Equal(t, id, w.ServicePrincipals()[0].UserName)
	_, err = api.Create(t.Context(), iam.CreateServicePrincipalRequest{ApplicationId: id})
	require.ErrorIs(t, err, apierr.ErrResourceConflict)
	requireSCIM(t, send(t, w, "POST", pathSPs, token, `{"applicationId":"`+id+`"}`), 409, "uniqueness",
		"Service principal with application ID "+id+" already exists.")
	require.Equal(t, "Azure", send(t, w, "GET", "/.well-known/databricks-config", "", "").json(t)["cloud"])
	_, err = simulator.Start(simulator.WithCloud("ibm"))
	require.ErrorContains(t, err, `"ibm"`)
}

func TestSCIMWritesAreForAdmins(t *testing.T) {
	t.Parallel()
	w, _, token := withAlice(t)
	id, gid := w.AddServicePrincipal("etl", false).ID, w.AddGroup("readers")
	for _, path := range []string{pathSPs, pathGroups} {
		one := path + "/" + map[string]string{pathSPs: id, pathGroups: gid}[path]
		require.Equal(t, 200, send(t, w, "GET", path, token, "").status)
		require.Equal(t, 200, send(t, w, "GET", one, token, "").status)
		requireSCIM(t, send(t, w, "POST", path, token, `{}`), 403, "", path+" is only accessible by admins")
		for _, method := range []string{"PUT", "PATCH", "DELETE"} {
			requireSCIM(t, send(t, w, method, one, token, `{}`), 403, "", "is only accessible by admins")
		}
	}
	scoped, _ := mint(t, w, token, `{"scopes":["secrets"]}`)
	requireRefused(t, send(t, w, "GET", pathSPs, scoped, ""), 403, 403.0)
}

func TestPrincipalLimit(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t, simulator.WithPrincipalLimit(2))
	a := send(t, w, "POST", pathSPs, token, `{}`)
	require.Equal(t, 201, a.status)
	requireSCIM(t, send(t, w, "POST", pathSPs, token, `{}`), 400, "",
		"QUOTA_EXCEEDED: Cannot have more than 2 users and service principals in one account")
	require.Equal(t, 204, send(t, w, "DELETE", pathSPs+"/"+a.json(t)["id"].(string), token, "").status)
	require.Equal(t, 201, send(t, w, "POST", pathSPs, token, `{}`).status)
}

// TestSCIMThrottling plays the answer that workspaces give when too many SCIM
// requests are under way, which the SDK knows by its text.
func TestSCIMThrottling(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	f := w.Inject(simulator.Fault{Method: "POST", Path: pathSPs, Times: 1, Status: 500,
		Body: `{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"detail":"REQUEST_LIMIT_EXCEEDED: Workspace 1 exceeded the concurrent limit of 4 requests.","status":"500"}`})
	_, err := iam.NewServicePrincipalsV2(sdk(t, w, token)).Create(t.Context(), iam.CreateServicePrincipalRequest{DisplayName: "etl"})
	require.NoError(t, err)
	require.Equal(t, 1, f.Hits())
	require.Equal(t, 2, w.Count("POST", pathSPs))
	require.Len(t, w.ServicePrincipals(), 1)
}

func TestDeletingAServicePrincipalEndsItsCredentials(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	w.AddGroup("readers")
	sp := w.AddServicePrincipal("etl", true)
	w.AddServicePrincipal("other", false)
	pat, _ := w.AddToken(sp, "", 0)
	_, secret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	w.AddToken(w.AddUser("bob@example.com", false), "", 0)
	require.True(t, w.Introspect(pat).Live)
	require.True(t, w.Introspect(access).Live)
	require.Equal(t, 1, w.AccessTokens())

	require.Equal(t, 204, send(t, w, "DELETE", pathSPs+"/"+sp.ID, token, "").status)
	requireRefused(t, send(t, w, "GET", pathMe, pat, ""), 403, 403.0)
	requireRefused(t, send(t, w, "GET", pathMe, access, ""), 403, 403.0)
	require.Equal(t, 401, grant(t, w, sp.ApplicationID, secret, "").status)
	require.Empty(t, w.OAuthSecrets(sp))
	require.Len(t, w.Tokens(), 2)
	require.Len(t, w.AllTokens(), 3)
	require.False(t, w.Introspect(pat).Live)
	require.Equal(t, sp.ID, w.Introspect(pat).Owner.ID)
	require.False(t, w.Introspect(access).Live)
	require.Zero(t, w.AccessTokens())
	require.Panics(t, func() { w.AddToken(sp, "", 0) })

	// The ids of the dead are not given out again.
	next := w.AddServicePrincipal("next", false)
	require.NotEqual(t, sp.ID, next.ID)
	require.Equal(t, []string{"other", "next"}, []string{w.ServicePrincipals()[0].DisplayName, w.ServicePrincipals()[1].DisplayName})
}

func TestDeactivatedServicePrincipals(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	sp := w.AddServicePrincipal("etl", false)
	pat, _ := w.AddToken(sp, "", 0)
	_, secret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	for _, off := range []string{`[{"value":"false"}]`, `false`, `"False"`, `{"value":"false"}`} {
		require.Equal(t, 204, send(t, w, "PATCH", pathSPs+"/"+sp.ID, token, patchOp(`{"op":"replace","path":"active","value":`+off+`}`)).status)
		requireRefused(t, send(t, w, "GET", pathMe, pat, ""), 403, 403.0)
		requireRefused(t, send(t, w, "GET", pathMe, access, ""), 403, 403.0)
		require.Equal(t, 401, grant(t, w, sp.ApplicationID, secret, "").status)
		require.False(t, w.Introspect(pat).Live)
		require.Equal(t, 204, send(t, w, "PATCH", pathSPs+"/"+sp.ID, token, patchOp(`{"op":"replace","path":"active","value":true}`)).status)
		require.Equal(t, 200, send(t, w, "GET", pathMe, pat, "").status)
	}
}

// TestManyAtOnce lets principals come and go while others read, for the race
// detector.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	gid := w.AddGroup("readers")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				a, err := try(w, "POST", pathSPs, token, `{"displayName":"sp","groups":[{"value":"`+gid+`"},{"value":"732"}]}`)
				if err != nil || a.status != 201 {
					t.Errorf("create: %v %s", err, a.body)
					return
				}
				id := a.json(t)["id"].(string)
				for _, target := range []string{
					pathSPs + "?filter=" + url.QueryEscape(`displayName sw "s"`), pathGroups, pathMe, pathManaged,
					"/api/2.0/accounts/servicePrincipals/" + id + "/credentials/secrets",
				} {
					if a, err := try(w, "GET", target, token, ""); err != nil || a.status != 200 {
						t.Errorf("%s: %v %s", target, err, a.body)
					}
				}
				if i%2 == 0 {
					_, err = try(w, "PATCH", pathGroups+"/732", token, patchOp(`{"op":"remove","path":"members[value eq \"`+id+`\"]"}`))
				} else {
					_, err = try(w, "DELETE", pathSPs+"/"+id, token, "")
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, w.ServicePrincipals(), 40)
	for _, p := range w.ServicePrincipals() {
		require.Equal(t, []string{"readers"}, p.Groups)
		require.False(t, p.Admin)
	}
}
