// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const vaultIssuer = "https://vault.example.com/v1/identity/oidc/plugins"

// exchange asks for an access token; a value that is empty is left out.
func exchange(t testing.TB, w *simulator.Workspace, path, clientID, subjectToken string, more ...string) answer {
	t.Helper()
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"subject_token":      {subjectToken},
		"client_id":          {clientID},
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	maps.DeleteFunc(form, func(_ string, v []string) bool { return v[0] == "" })
	return grantAt(t, w, path, form.Encode())
}

// claimsAt are good for a policy with issuer vaultIssuer, subject "mount" and
// audience "databricks", for half an hour. Changes are pairs of name and value;
// nil takes a claim away.
func claimsAt(now time.Time, changes ...any) map[string]any {
	claims := map[string]any{
		"iss": vaultIssuer, "sub": "mount", "aud": "databricks", "iat": now.Unix(), "exp": now.Add(30 * time.Minute).Unix(),
	}
	for i := 0; i < len(changes); i += 2 {
		if name := changes[i].(string); changes[i+1] == nil {
			delete(claims, name)
		} else {
			claims[name] = changes[i+1]
		}
	}
	return claims
}

func TestTokenExchangeThroughTheSDK(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"RS256", "ES256"} {
		w, root, _, _ := withAccount(t)
		issuer := simulator.NewIssuer(alg)
		// No audiences: the token endpoint is the workspace's default.
		w.AddFederationPolicy(&root, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", JWKS: issuer.JWKS()})
		file := filepath.Join(t.TempDir(), "token")
		token := issuer.Sign(claimsAt(time.Now(), "aud", []string{"other", w.URL() + pathOIDC}))
		require.NoError(t, os.WriteFile(file, []byte(token), 0o600))
		c := sdkWith(t, &config.Config{Host: w.URL(), ClientID: root.ApplicationID, OIDCTokenFilepath: file, AuthType: "file-oidc", Credentials: config.FileOIDCCredentials{}})
		me, err := iam.NewCurrentUser(c).Me(t.Context(), iam.MeRequest{})
		require.NoError(t, err)
		require.Equal(t, root.ApplicationID, me.UserName)
		require.Equal(t, 1, w.Count("POST", pathOIDC))
	}
	require.Panics(t, func() { simulator.NewIssuer("HS256") })
}

func TestTokenExchange(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, root, _, _ := withAccount(t, simulator.WithClock(clock.Now))
	sp, other := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("other", false)
	alice := w.AddUser("alice@example.com", false)
	issuer, stranger := simulator.NewIssuer("ES256"), simulator.NewIssuer("ES256")
	w.AddFederationPolicy(&other, simulator.FederationPolicy{Issuer: "https://elsewhere.example.com", Subject: "mount", JWKS: stranger.JWKS()})
	w.AddFederationPolicy(&sp, simulator.FederationPolicy{Issuer: "https://elsewhere.example.com", Subject: "mount", JWKS: stranger.JWKS()})
	w.AddFederationPolicy(&sp, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", Audiences: []string{"a", "databricks"}, JWKS: issuer.JWKS()})
	w.AddFederationPolicy(nil, simulator.FederationPolicy{Issuer: vaultIssuer, SubjectClaim: "email", JWKS: issuer.JWKS()})

	a := exchange(t, w, pathOIDC, sp.ApplicationID, issuer.Sign(claimsAt(clock.Now())), "scope", "scim")
	require.Equal(t, 200, a.status, a.body)
	granted := a.json(t)
	require.Equal(t, 1799.0, granted["expires_in"]) // what the subject token has left, in whole seconds
	require.Equal(t, "scim", granted["scope"])
	require.Equal(t, "Bearer", granted["token_type"])
	access := granted["access_token"].(string)
	require.Equal(t, sp.ID, send(t, w, "GET", pathMe, access, "").json(t)["id"])
	requireRefused(t, send(t, w, "GET", pathList, access, ""), 403, 403.0)
	require.Equal(t, simulator.TokenState{
		Owner: sp, Scopes: []string{"scim"}, Expires: clock.Now().Add(1799 * time.Second), Kind: simulator.KindOAuth, Live: true,
	}, w.Introspect(access))

	long := exchange(t, w, pathOIDC, sp.ApplicationID, issuer.Sign(claimsAt(clock.Now(), "exp", clock.Now().Add(24*time.Hour).Unix()))).json(t)
	require.Equal(t, 3600.0, long["expires_in"])
	require.Equal(t, "all-apis", long["scope"])

	// Without a client id, the account's policy says who it is.
	for _, p := range []simulator.Principal{alice, other} {
		token := issuer.Sign(claimsAt(clock.Now(), "email", p.UserName, "aud", accountID))
		access := exchange(t, w, pathOIDC, "", token).json(t)["access_token"].(string)
		require.Equal(t, p.ID, send(t, w, "GET", pathMe, access, "").json(t)["id"])
		require.Equal(t, 401, send(t, w, "GET", pathAccountSPs, access, "").status)
	}
	a = exchange(t, w, pathAccountOIDC, "", issuer.Sign(claimsAt(clock.Now(), "email", root.ApplicationID, "aud", accountID)))
	require.Equal(t, 200, send(t, w, "GET", pathAccountSPs, a.json(t)["access_token"].(string), "").status)
}

func TestTokenExchangeRefusals(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	now := clock.Now()
	sp, other, out := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("other", false), w.AddServicePrincipal("out", false)
	w.AddUser("alice@example.com", false)
	w.SetWorkspaceMember(out, false)
	issuer, second, stranger := simulator.NewIssuer("RS256"), simulator.NewIssuer("ES256"), simulator.NewIssuer("RS256")
	policy := simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", Audiences: []string{"databricks"}, JWKS: issuer.JWKS()}
	w.AddFederationPolicy(&sp, policy)
	w.AddFederationPolicy(&out, policy)
	policy.Subject = ""
	w.AddFederationPolicy(nil, policy)

	good := issuer.Sign(claimsAt(now))
	require.Equal(t, 200, exchange(t, w, pathOIDC, sp.ApplicationID, good).status)
	parts := strings.Split(good, ".")
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	symmetric, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: issuer.JWKS()}, nil)
	require.NoError(t, err)
	forged, err := jwt.Signed(symmetric).Claims(claimsAt(now)).Serialize()
	require.NoError(t, err)

	for name, try := range map[string]struct{ token, description string }{
		"issuer":        {issuer.Sign(claimsAt(now, "iss", "https://other.example.com")), "issuer"},
		"no issuer":     {issuer.Sign(claimsAt(now, "iss", nil)), "issuer"},
		"audience":      {issuer.Sign(claimsAt(now, "aud", "other")), "audience"},
		"no audience":   {issuer.Sign(claimsAt(now, "aud", nil)), "audience"},
		"subject":       {issuer.Sign(claimsAt(now, "sub", "other")), "subject"},
		"no subject":    {issuer.Sign(claimsAt(now, "sub", nil)), "subject"},
		"odd subject":   {issuer.Sign(claimsAt(now, "sub", 5)), "issuer"}, // no claims can be read
		"expired":       {issuer.Sign(claimsAt(now, "exp", now.Unix())), "expired"},
		"no expiry":     {issuer.Sign(claimsAt(now, "exp", nil)), "exp"},
		"not yet":       {issuer.Sign(claimsAt(now, "nbf", now.Add(time.Minute).Unix())), "not valid yet"},
		"other key":     {stranger.Sign(claimsAt(now)), "signature"},
		"other alg":     {second.Sign(claimsAt(now)), "signature"},
		"alg none":      {encode(`{"alg":"none"}`) + "." + parts[1] + ".", "RS256 or ES256"},
		"HS256":         {forged, "RS256 or ES256"},
		"tampered":      {parts[0] + "." + encode(`{"iss":"`+vaultIssuer+`","sub":"mount","aud":"databricks","exp":9999999999}`) + "." + parts[2], "signature"},
		"signature cut": {parts[0] + "." + parts[1] + ".", "signature"},
		"no JWT":        {"abc", "RS256 or ES256"},
	} {
		a := exchange(t, w, pathOIDC, sp.ApplicationID, try.token)
		require.Equal(t, 400, a.status, name)
		require.Equal(t, "invalid_grant", a.json(t)["error"], name)
		require.Contains(t, a.json(t)["error_description"], try.description, name)
		require.NotContains(t, a.body, parts[1], name)
	}
	require.Equal(t, 1, w.AccessTokens())

	for _, try := range []struct {
		client, token string
		status        int
		code          string
	}{
		{"unknown", good, 401, "invalid_client"},
		{"alice@example.com", good, 401, "invalid_client"},
		{out.ApplicationID, good, 401, "invalid_client"},  // is not in the workspace
		{other.ApplicationID, good, 400, "invalid_grant"}, // has no policy
		{"", good, 400, "invalid_grant"},                  // "mount" is nobody
		{sp.ApplicationID, "", 400, "invalid_request"},
	} {
		a := exchange(t, w, pathOIDC, try.client, try.token)
		require.Equal(t, try.status, a.status, a.body)
		require.Equal(t, try.code, a.json(t)["error"])
	}
	require.Equal(t, "invalid_request", exchange(t, w, pathOIDC, sp.ApplicationID, good, "subject_token_type", "other").json(t)["error"])
	clock.advance(30 * time.Minute)
	require.Equal(t, "invalid_grant", exchange(t, w, pathOIDC, sp.ApplicationID, good).json(t)["error"])
}

// TestKeysWithoutAnID lets any key of the issuer verify a token that names none.
func TestKeysWithoutAnID(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	key := []byte(`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`) // RFC 7517, appendix A
	var private jose.JSONWebKey
	require.NoError(t, private.UnmarshalJSON(key))
	public, err := private.Public().MarshalJSON()
	require.NoError(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private.Key}, nil)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claimsAt(time.Now())).Serialize()
	require.NoError(t, err)
	other := string(simulator.NewIssuer("ES256").JWKS())
	keys := strings.TrimSuffix(other, "]}") + "," + string(public) + "]}"
	w.AddFederationPolicy(&sp, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", Audiences: []string{"databricks"}, JWKS: []byte(keys)})
	require.Equal(t, 200, exchange(t, w, pathOIDC, sp.ApplicationID, token).status)
}

func TestFederationPoliciesThatCanNotBe(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp, user := w.AddServicePrincipal("etl", false), w.AddUser("alice@example.com", false)
	jwks := simulator.NewIssuer("ES256").JWKS()
	for _, try := range []struct {
		sp     *simulator.Principal
		policy simulator.FederationPolicy
	}{
		{&sp, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount"}},
		{&sp, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", JWKS: []byte(`{"keys":[]}`)}},
		{&sp, simulator.FederationPolicy{Subject: "mount", JWKS: jwks}},
		{&sp, simulator.FederationPolicy{Issuer: vaultIssuer, JWKS: jwks}},
		{nil, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", JWKS: jwks}},
		{&user, simulator.FederationPolicy{Issuer: vaultIssuer, Subject: "mount", JWKS: jwks}},
	} {
		require.Panics(t, func() { w.AddFederationPolicy(try.sp, try.policy) })
	}
	require.Panics(t, func() { simulator.NewIssuer("ES256").Sign(map[string]any{"sub": make(chan int)}) })
}
