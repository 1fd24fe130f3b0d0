// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestNoCredentialIs401WithANumericCode(t *testing.T) {
	t.Parallel()
	w := start(t)
	for _, path := range []string{pathMe, pathList, "/api/2.0/no/such/thing"} {
		for _, authorization := range []string{"", "Basic YTpi", "Bearer", "Bearer  "} {
			a := send(t, w, "GET", path, "", "", "Authorization", authorization)
			requireRefused(t, a, 401, 401.0)
			require.Equal(t, "Credential was not sent or was of an unsupported type for this API.", a.json(t)["message"])
			require.Equal(t, "application/json", a.header.Get("Content-Type"))
		}
	}
}

func TestUnknownExpiredAndRevokedTokensAre403WithANumericCode(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	alice := w.AddUser("alice@example.com", false)
	expired, _ := w.AddToken(alice, "", time.Minute)
	revoked, id := w.AddToken(alice, "", 0)
	for _, token := range []string{expired, revoked} {
		require.Equal(t, 200, send(t, w, "GET", pathList, token, "").status)
	}
	clock.advance(time.Minute)
	require.True(t, w.RevokeToken(id))
	require.False(t, w.RevokeToken(id))
	require.False(t, w.RevokeToken("no such id"))

	for _, token := range []string{"dapi00000000000000000000000000000000", expired, revoked} {
		a := send(t, w, "GET", pathMe, token, "")
		requireRefused(t, a, 403, 403.0)
		require.Equal(t, "Invalid access token.", a.header.Get("X-Databricks-Reason-Phrase"))
		require.Equal(t, "Invalid access token. [ReqId: "+a.header.Get("X-Request-Id")+"]", a.json(t)["message"])
		require.NotContains(t, a.body, token)
	}
	_, err := iam.NewCurrentUser(sdk(t, w, revoked)).Me(t.Context(), iam.MeRequest{})
	require.ErrorIs(t, err, apierr.ErrPermissionDenied)
	require.ErrorContains(t, err, "Invalid access token.")
}

func TestEveryAnswerHasARequestID(t *testing.T) {
	t.Parallel()
	w := start(t)
	token, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	w.Inject(simulator.Fault{Path: pathList, Status: 503})
	seen := map[string]bool{}
	for _, path := range []string{pathMe, pathList, "/nowhere", pathOIDC, "/.well-known/databricks-config", pathManaged} {
		a := send(t, w, "GET", path, token, "")
		require.Regexp(t, `^[0-9a-f-]{36}$`, a.header.Get("X-Request-Id"), path)
		require.Equal(t, "databricks", a.header.Get("Server"), path)
		seen[a.header.Get("X-Request-Id")] = true
	}
	require.Len(t, seen, 6)
	for _, call := range w.Calls() {
		require.True(t, seen[call.RequestID])
	}
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	w := start(t)
	token, _ := w.AddToken(w.AddUser("alice@example.com", true), "", 0)
	for _, try := range []struct{ method, path string }{
		{"GET", "/api/2.0/no/such/thing"},
		{"GET", pathCreate}, // wrong verb
		{"DELETE", pathMe + "/"},
		{"GET", pathList + "/"},
		{"GET", "/api/2.0//token/list"},
		{"GET", "/api/2.0/token/../token/list"},
		{"GET", "/"},
	} {
		a := send(t, w, try.method, try.path, token, "")
		if try.path == pathMe+"/" { // under /scim/
			require.Equal(t, 404, a.status)
			require.Equal(t, "404", a.json(t)["status"])
			require.Contains(t, a.json(t)["detail"], "ENDPOINT_NOT_FOUND")
			continue
		}
		requireRefused(t, a, 404, "ENDPOINT_NOT_FOUND")
	}
	a := send(t, w, "GET", "/oidc/v1/authorize", "", "")
	require.Equal(t, 404, a.status)
	require.Equal(t, "ENDPOINT_NOT_FOUND", a.json(t)["error"])
}

func TestBareQuestionMarkIsIgnored(t *testing.T) {
	t.Parallel()
	w := start(t)
	admin := w.AddUser("alice@example.com", true)
	token, _ := w.AddToken(admin, "", 0)
	_, id := w.AddToken(admin, "", 0)
	a := send(t, w, "DELETE", pathManaged+"/"+id+"?", token, "")
	require.Equal(t, 200, a.status)
	require.Equal(t, "{}", a.body)
}

func TestOtherWorkspacesAreRefused(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithWorkspaceID("7001"))
	token, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	for _, header := range []string{"X-Databricks-Workspace-Id", "X-Databricks-Org-Id"} {
		require.Equal(t, 200, send(t, w, "GET", pathMe, token, "", header, "7001").status)
		a := send(t, w, "GET", pathList, token, "", header, "7002")
		requireRefused(t, a, 400, "INVALID_PARAMETER_VALUE")
		require.Contains(t, a.json(t)["message"], "7002")
	}
}

func TestScopesOfTokensAreEnforced(t *testing.T) {
	t.Parallel()
	w := start(t)
	alice := w.AddUser("alice@example.com", false)
	root, _ := w.AddToken(alice, "", 0)
	for _, try := range []struct {
		scopes   string
		me, list int
	}{
		{`[]`, 200, 200},
		{`["all-apis"]`, 200, 200},
		{`["sql","all-apis"]`, 200, 200},
		{`["scim"]`, 200, 403},
		{`["authentication"]`, 403, 200},
		{`["scim","authentication"]`, 200, 200},
		{`["sql"]`, 403, 403},
	} {
		token, _ := mint(t, w, root, `{"scopes":`+try.scopes+`}`)
		for path, status := range map[string]int{pathMe: try.me, pathList: try.list} {
			a := send(t, w, "GET", path, token, "")
			require.Equal(t, status, a.status, try.scopes)
			if status == 403 {
				requireRefused(t, a, 403, 403.0)
				require.Contains(t, a.json(t)["message"], "required scopes")
			}
		}
	}
}

func TestTakingAwayThePermissionOnTokens(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	pat, id := mint(t, w, access, `{}`)

	w.SetTokenPermission(sp, false)
	require.Empty(t, w.Tokens())
	requireRefused(t, send(t, w, "GET", pathMe, pat, ""), 403, 403.0)
	for _, try := range []struct{ method, path, body string }{
		{"POST", pathCreate, `{}`},
		{"GET", pathList, ""},
		{"POST", pathDelete, `{"token_id":"` + id + `"}`},
		{"PATCH", "/api/2.0/token/" + id, `{"token":{"comment":"x"},"update_mask":"comment"}`},
	} {
		a := send(t, w, try.method, try.path, access, try.body)
		requireRefused(t, a, 403, "PERMISSION_DENIED")
		require.Equal(t, "User does not have permission to use tokens.", a.json(t)["message"])
	}

	w.SetTokenPermission(sp, true)
	mint(t, w, access, `{}`)
	require.Len(t, w.Tokens(), 1)
	require.Panics(t, func() { w.SetTokenPermission(w.AddUser("root@example.com", true), false) })
}

// TestMissingScopesAreNamed in the texts that were recorded for the two kinds of token.
func TestMissingScopesAreNamed(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	oauth := grant(t, w, sp.ApplicationID, secret, "sql").json(t)["access_token"].(string)
	root, _ := w.AddToken(sp, "", 0)
	pat, _ := mint(t, w, root, `{"scopes":["sql"]}`)
	for token, text := range map[string]string{pat: "Provided access token", oauth: "Provided OAuth token"} {
		a := send(t, w, "GET", "/api/2.2/jobs/list", token, "")
		requireRefused(t, a, 403, 403.0)
		require.Regexp(t, `^`+text+` does not have required scopes: jobs \[ReqId: [0-9a-f-]+\]$`, a.json(t)["message"])
	}
}
