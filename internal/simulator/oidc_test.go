// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const formType = "application/x-www-form-urlencoded"

func TestM2MThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithWorkspaceID("7001"))
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, time.Hour)
	require.Regexp(t, `^dose[0-9a-f]{32}$`, secret)
	c := sdkM2M(t, w, sp.ApplicationID, secret)
	me, err := iam.NewCurrentUser(c).Me(t.Context(), iam.MeRequest{})
	require.NoError(t, err)
	require.Equal(t, sp.ApplicationID, me.UserName)
	_, err = settings.NewTokens(c).Create(t.Context(), settings.CreateTokenRequest{LifetimeSeconds: 60})
	require.NoError(t, err)
	require.Equal(t, sp.ID, w.Tokens()[0].Owner)

	// The SDK found everything by itself.
	require.Equal(t, 1, w.Count("GET", "/.well-known/databricks-config"))
	require.Equal(t, 1, w.Count("GET", "/oidc/.well-known/oauth-authorization-server"))
	require.Equal(t, 1, w.Count("POST", pathOIDC))
	require.Equal(t, "7001", c.Config.WorkspaceID)

	_, err = iam.NewCurrentUser(sdkM2M(t, w, sp.ApplicationID, "dose-wrong")).Me(t.Context(), iam.MeRequest{})
	require.ErrorContains(t, err, "invalid_client")
}

func TestGrantedTokens(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	w.AddOAuthSecret(sp, 0)

	a := grant(t, w, sp.ApplicationID, secret, "")
	require.Equal(t, 200, a.status, a.body)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	granted := a.json(t)
	require.Equal(t, 3600.0, granted["expires_in"])
	require.Equal(t, "Bearer", granted["token_type"])
	require.Equal(t, "all-apis", granted["scope"])
	access := granted["access_token"].(string)
	require.True(t, strings.HasPrefix(access, "eyJ"))
	parts := strings.Split(access, ".")
	require.Len(t, parts, 3)
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	var claims map[string]any
	require.NoError(t, json.Unmarshal(raw, &claims))
	require.Equal(t, sp.ApplicationID, claims["sub"])

	require.Equal(t, sp.ID, send(t, w, "GET", pathMe, access, "").json(t)["id"])
	clock.advance(time.Hour - time.Second)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status)
	clock.advance(time.Second)
	requireRefused(t, send(t, w, "GET", pathMe, access, ""), 403, 403.0)

	access = grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	w.RevokeAccessTokens()
	requireRefused(t, send(t, w, "GET", pathMe, access, ""), 403, 403.0)
	require.Equal(t, 200, grant(t, w, sp.ApplicationID, secret, "").status)
}

func TestGrantedScopes(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	granted := grant(t, w, sp.ApplicationID, secret, "scim made-up").json(t)
	require.Equal(t, "scim made-up", granted["scope"])
	access := granted["access_token"].(string)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status)
	requireRefused(t, send(t, w, "GET", pathList, access, ""), 403, 403.0)
}

func TestOnlyLiveSecretsAreAccepted(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	sp, other := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("other", false)
	user := w.AddUser("alice@example.com", true)
	id, secret := w.AddOAuthSecret(sp, time.Hour)
	revoked, revokedSecret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, revokedSecret, "").json(t)["access_token"].(string)
	w.RevokeOAuthSecret(revoked)
	w.RevokeOAuthSecret("no such id")
	require.Regexp(t, `^[0-9a-f]{64}$`, id)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status) // what it bought lives on

	for _, try := range [][2]string{
		{sp.ApplicationID, "wrong"}, {sp.ApplicationID, ""}, {"", ""}, {"", secret}, {"unknown", secret},
		{other.ApplicationID, secret}, {user.UserName, secret}, {sp.ID, secret}, {sp.ApplicationID, revokedSecret},
	} {
		a := grant(t, w, try[0], try[1], "")
		require.Equal(t, 401, a.status, try)
		require.Equal(t, map[string]any{"error": "invalid_client", "error_description": "Client authentication failed"}, a.json(t))
		require.NotEmpty(t, a.header.Get("WWW-Authenticate"))
	}
	require.Equal(t, 200, grant(t, w, sp.ApplicationID, secret, "").status)
	clock.advance(time.Hour)
	require.Equal(t, 401, grant(t, w, sp.ApplicationID, secret, "").status)
}

func TestBasicAuthenticationIsFormEncoded(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	basic := func(id, secret string) answer {
		return send(t, w, "POST", pathOIDC, "", "grant_type=client_credentials&client_id=ignored", "Content-Type", formType+"; charset=utf-8",
			"Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+secret)))
	}
	require.Equal(t, 200, basic(sp.ApplicationID, secret).status)
	require.Equal(t, 200, basic(strings.ReplaceAll(sp.ApplicationID, "-", "%2D"), "%64"+secret[1:]).status)
	require.Equal(t, 401, basic(sp.ApplicationID, secret+"%zz").status)
	require.Equal(t, 401, basic("%zz", secret).status)
}

func TestBadTokenRequests(t *testing.T) {
	t.Parallel()
	w := start(t)
	good := url.Values{"grant_type": {"client_credentials"}}.Encode()
	for _, try := range []struct{ contentType, body, code string }{
		{"application/json", good, "invalid_request"},
		{"", good, "invalid_request"},
		{formType, "%zz", "invalid_request"},
		{formType, "scope=all-apis", "invalid_request"},
		{formType, "grant_type=authorization_code", "unsupported_grant_type"},
	} {
		a := send(t, w, "POST", pathOIDC, "", try.body, "Content-Type", try.contentType)
		require.Equal(t, 400, a.status)
		require.Equal(t, try.code, a.json(t)["error"])
		require.NotEmpty(t, a.json(t)["error_description"])
	}
}

func TestDiscoveryCanBeTakenAway(t *testing.T) {
	t.Parallel()
	w := start(t)
	doc := send(t, w, "GET", "/oidc/.well-known/oauth-authorization-server", "", "").json(t)
	require.Equal(t, w.URL()+pathOIDC, doc["token_endpoint"])
	require.Equal(t, w.URL()+"/oidc/v1/authorize", doc["authorization_endpoint"])
	meta := send(t, w, "GET", "/.well-known/databricks-config", "", "").json(t)
	require.Equal(t, w.ID(), meta["workspace_id"])
	require.Equal(t, w.URL()+"/oidc", meta["oidc_endpoint"])
	w.Inject(simulator.Fault{Path: "/oidc/.well-known/*", Status: 404})
	require.Equal(t, 404, send(t, w, "GET", "/oidc/.well-known/oauth-authorization-server", "", "").status)
}
