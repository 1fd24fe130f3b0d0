// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/http"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/httpclient"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestMeThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithWorkspaceID("7001"))
	admin, sp := w.AddUser("admin@example.com", true), w.AddServicePrincipal("etl", false)
	for _, p := range []simulator.Principal{admin, sp} {
		token, _ := w.AddToken(p, "", 0)
		me, err := iam.NewCurrentUser(sdk(t, w, token)).Me(t.Context(), iam.MeRequest{})
		require.NoError(t, err)
		require.Equal(t, p.ID, me.Id)
		require.Equal(t, p.UserName, me.UserName)
		require.Equal(t, p.DisplayName, me.DisplayName)
		require.True(t, me.Active)
		var groups []string
		for _, group := range me.Groups {
			groups = append(groups, group.Display)
			require.Equal(t, "Groups/"+group.Value, group.Ref)
			require.Equal(t, "direct", group.Type)
		}
		if p.Admin {
			require.Equal(t, []string{"users", "admins"}, groups)
			require.Equal(t, "admin@example.com", me.Emails[0].Value)
		} else {
			require.Equal(t, []string{"users"}, groups)
			require.Empty(t, me.Emails)
		}
		require.NotEmpty(t, me.Entitlements)
	}

	token, _ := w.AddToken(sp, "", 0)
	var id string
	err := sdk(t, w, token).ApiClient().Do(t.Context(), "GET", w.URL()+pathMe,
		httpclient.WithRequestHeaders(map[string]string{"Authorization": "Bearer " + token}),
		httpclient.WithResponseHeader("X-Databricks-Org-Id", &id))
	require.NoError(t, err)
	require.Equal(t, "7001", id)
	require.Equal(t, "application/scim+json", send(t, w, "GET", pathMe, token, "").header.Get("Content-Type"))
}

func TestMeAttributes(t *testing.T) {
	t.Parallel()
	w := start(t)
	token, _ := w.AddToken(w.AddUser("alice@example.com", true), "", 0)
	all := send(t, w, "GET", pathMe, token, "").json(t)
	for query, keys := range map[string][]string{
		"?excludedAttributes=entitlements,groups":      {"schemas", "id", "userName", "displayName", "active", "emails"},
		"?excludedAttributes=Groups,%20emails,id":      {"schemas", "id", "userName", "displayName", "active", "entitlements"},
		"?attributes=userName":                         {"schemas", "id", "userName"},
		"?attributes=userName,groups":                  {"schemas", "id", "userName", "groups"},
		"?attributes=userName&excludedAttributes=nope": {"schemas", "id", "userName"},
	} {
		some := send(t, w, "GET", pathMe+query, token, "").json(t)
		require.Len(t, some, len(keys), query)
		for _, key := range keys {
			require.Equal(t, all[key], some[key], query)
		}
	}
}

func TestSCIMErrorEnvelope(t *testing.T) {
	t.Parallel()
	w := start(t)
	token, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	w.Inject(simulator.Fault{Path: pathMe, Status: 500, ErrorCode: "INTERNAL_ERROR", Message: "broken"})
	a := send(t, w, "GET", pathMe, token, "")
	require.Equal(t, 500, a.status)
	require.Equal(t, map[string]any{
		"schemas": []any{"urn:ietf:params:scim:api:messages:2.0:Error"},
		"detail":  "INTERNAL_ERROR: broken",
		"status":  "500",
	}, a.json(t))

	_, err := iam.NewCurrentUser(sdk(t, w, token)).Me(t.Context(), iam.MeRequest{})
	var apiErr *apierr.APIError
	require.ErrorAs(t, err, &apiErr)
	require.Equal(t, "SCIM_500", apiErr.ErrorCode)
	require.Equal(t, http.StatusInternalServerError, apiErr.StatusCode)
}
