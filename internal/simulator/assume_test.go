// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestAssumeGroup(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithAccount("0d26daa6-5e44-4c97-a497-ef015f91254a"))
	etl := w.AddServicePrincipal("etl", true)
	w.AddAccountAdmin(etl)
	_, secret := w.AddOAuthSecret(etl, time.Hour)
	analysts, allowed, foreign := w.AddGroup("analysts", etl), w.AddGroup("allowed"), w.AddGroup("foreign")
	w.AllowAssume(allowed, etl)
	ask := func(path, group string) answer {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {etl.ApplicationID}, "client_secret": {secret}, "assume_group": {group}}
		return send(t, w, "POST", path, "", form.Encode(), "Content-Type", formType)
	}
	token := func(group string) string {
		t.Helper()
		a := ask(pathOIDC, group)
		require.Equal(t, 200, a.status, a.body)
		return a.json(t)["access_token"].(string)
	}
	require.Equal(t, 403, ask(pathOIDC, foreign).status)
	require.Equal(t, "access_denied", ask(pathOIDC, foreign).json(t)["error"])
	require.Equal(t, "invalid_request", ask(pathOIDC, "1").json(t)["error"])
	require.Equal(t, "invalid_request", ask("/oidc/accounts/0d26daa6-5e44-4c97-a497-ef015f91254a/v1/token", analysts).json(t)["error"])
	require.Empty(t, w.Introspect(token("")).Group)
	require.Equal(t, "allowed", w.Introspect(token(allowed)).Group)

	// What belongs to the identity is not the group's, and the reverse.
	w.AddScope("its", etl)
	w.AddScope("theirs", w.AddUser("operator@example.com", true))
	w.PutACL("theirs", "analysts", "WRITE")
	group, own := token(analysts), token("")
	status := func(token, method, target, body string) int { return send(t, w, method, target, token, body).status }
	require.Equal(t, 200, status(own, "GET", "/api/2.0/secrets/list?scope=its", ""))
	require.Equal(t, 403, status(group, "GET", "/api/2.0/secrets/list?scope=its", ""))
	require.Equal(t, 200, status(group, "POST", "/api/2.0/secrets/put", `{"scope":"theirs","key":"k","string_value":"v"}`))
	require.Equal(t, 200, status(own, "GET", "/api/2.0/token-management/tokens", ""))
	require.Equal(t, 403, status(group, "GET", "/api/2.0/token-management/tokens", ""))
	require.Equal(t, 403, status(group, "POST", "/api/2.0/token/create", `{"lifetime_seconds":60}`), "it can't become a token without the limit")
	require.Equal(t, 200, status(group, "POST", "/api/2.0/secrets/scopes/create", `{"scope":"new"}`))
	require.Equal(t, 200, status(group, "GET", "/api/2.0/secrets/acls/get?scope=new&principal=analysts", ""))
	me := send(t, w, "GET", "/api/2.0/preview/scim/v2/Me", group, "").json(t)
	require.Equal(t, etl.ApplicationID, me["userName"])
	require.Len(t, me["groups"], 2, "users and the group")

	admins := token(adminsID(w))
	require.Equal(t, 200, status(admins, "GET", "/api/2.0/token-management/tokens", ""))
}

func adminsID(w *simulator.Workspace) string {
	for _, g := range w.Groups() {
		if g.Name == "admins" {
			return g.ID
		}
	}
	return ""
}
