// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// defaultAccessTokenLifetime is that of every OAuth access token of Databricks,
	// but for those that were exchanged for a token with less left.
	defaultAccessTokenLifetime = time.Hour

	// allAPIs is the scope of everything.
	allAPIs = "all-apis"

	tokenExchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// WithAccessTokenLifetime sets how long OAuth access tokens live, an hour if unset.
func WithAccessTokenLifetime(d time.Duration) Option {
	return func(s *settings) { s.accessTokenLifetime = d }
}

// WithScopesCut answers a request for an access token that asks for more than the
// scopes of its OAuth secret with what these allow, as OAuth also lets a server do
// (RFC 6749, section 3.3), instead of refusing it. Which one Databricks does is not
// documented.
func WithScopesCut() Option { return func(s *settings) { s.scopesCut = true } }

// grant is what a token endpoint answers with, before it has a value.
type grant struct {
	owner    *principal
	scopes   []string
	lifetime time.Duration
	secret   *oauthSecret // nil unless one paid for it
}

// grantAccessToken is the token endpoint of the workspace and of the account. A
// token of the workspace is good there only; one of the account is good for the
// account, and for the workspaces that its owner is a member of.
func (w *Workspace) grantAccessToken(r *request) (any, *refusal) {
	form, refused := r.form()
	if refused != nil {
		return nil, refused
	}
	redeem := (*Workspace).redeemSecret
	switch form.Get("grant_type") {
	case "client_credentials":
	case tokenExchangeGrant:
		redeem = (*Workspace).redeemSubjectToken
	case "":
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Missing parameter: grant_type")
	default:
		return nil, refuse(http.StatusBadRequest, "unsupported_grant_type", "The grant type is not supported.")
	}
	account := r.PathValue("account_id") != ""

	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	g, refused := redeem(w, r, form, now)
	if refused != nil {
		return nil, refused
	}
	if !account && !g.owner.inWorkspace {
		return nil, invalidClient()
	}
	assumed, refused := w.assume(form, account, g.owner)
	if refused != nil {
		return nil, refused
	}
	r.caller = g.owner
	scope := strings.Join(g.scopes, " ")
	value := w.newAccessTokenValue(g, account, now)
	w.addAccessToken(value, &accessToken{
		kind: KindOAuth, owner: g.owner, scopes: g.scopes, expires: now.Add(g.lifetime), account: account, secret: g.secret, assumed: assumed,
	})
	r.extra.Set("Cache-Control", "no-store")
	return map[string]any{
		"access_token": value,
		"token_type":   "Bearer",
		"expires_in":   int(g.lifetime / time.Second),
		"scope":        scope,
	}, nil
}

// form is the body of a request to a token endpoint.
func (r *request) form() (url.Values, *refusal) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form, err := url.ParseQuery(string(r.body))
	if mediaType != "application/x-www-form-urlencoded" || err != nil {
		return nil, refuse(http.StatusBadRequest, "invalid_request", "The body must be form-encoded.")
	}
	return form, nil
}

func invalidClient() *refusal {
	refused := refuse(http.StatusUnauthorized, "invalid_client", "Client authentication failed")
	refused.header.Set("WWW-Authenticate", `Basic realm="databricks"`)
	return refused
}

// redeemSecret is the client_credentials grant. A secret without scopes buys
// whatever is asked for, and all-apis if nothing is. One with scopes buys those,
// or some of them; how Databricks refuses more, all-apis included, is not
// documented: here it is invalid_scope. The caller holds the mutex.
func (w *Workspace) redeemSecret(r *request, form url.Values, _ time.Time) (*grant, *refusal) {
	secret := w.findSecret(clientCredentials(r, form))
	if secret == nil {
		return nil, invalidClient()
	}
	scopes := strings.Fields(form.Get("scope"))
	if w.settings.scopesCut {
		scopes = cut(scopes, secret.scopes)
	}
	for _, scope := range scopes {
		if !allows(secret.scopes, scope) {
			return nil, refuse(http.StatusBadRequest, "invalid_scope", fmt.Sprintf("The client secret does not allow the scope %q.", scope))
		}
	}
	if len(scopes) == 0 {
		scopes = secret.scopes
	}
	return &grant{owner: secret.owner, scopes: orAllAPIs(scopes), lifetime: w.settings.accessTokenLifetime, secret: secret}, nil
}

// cut returns what is allowed of the scopes that were asked for: for all-apis all
// that is, and the first refused one where nothing is.
func cut(asked, allowed []string) []string {
	if slices.Contains(asked, allAPIs) && len(allowed) > 0 {
		return allowed
	}
	left := slices.DeleteFunc(slices.Clone(asked), func(scope string) bool { return !allows(allowed, scope) })
	if len(left) == 0 {
		return asked
	}
	return left
}

func orAllAPIs(scopes []string) []string {
	if len(scopes) == 0 {
		return []string{allAPIs}
	}
	return scopes
}

// clientCredentials takes them from Basic authentication, where both parts are
// form-encoded (RFC 6749, section 2.3.1), or else from the form.
func clientCredentials(r *request, form url.Values) (id, secret string) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		return form.Get("client_id"), form.Get("client_secret")
	}
	if decoded, err := url.QueryUnescape(id); err == nil {
		id = decoded
	}
	if decoded, err := url.QueryUnescape(secret); err == nil {
		secret = decoded
	}
	return id, secret
}

// findSecret returns the live secret that has this value and belongs to the
// active service principal with this id, or else nil. The caller holds the
// mutex.
func (w *Workspace) findSecret(clientID, value string) *oauthSecret {
	owner := w.byName[clientID]
	if owner == nil || !owner.active {
		return nil
	}
	hash := hashOf(value)
	for _, s := range w.liveSecrets(owner) {
		if subtle.ConstantTimeCompare([]byte(s.hash), []byte(hash)) == 1 {
			return s
		}
	}
	return nil
}

// newAccessTokenValue looks like a JWT and reads like one, but its signature is
// random: only this workspace can tell what it is good for.
func (w *Workspace) newAccessTokenValue(g *grant, account bool, now time.Time) string {
	issuer, audience := w.url+"/oidc", w.settings.workspaceID
	if account {
		issuer, audience = w.url+"/oidc/accounts/"+w.settings.accountID, w.settings.accountID
	}
	return unverifiableJWT(map[string]any{
		"iss": issuer, "aud": audience,
		"sub": g.owner.UserName, "client_id": g.owner.ApplicationID, "scope": strings.Join(g.scopes, " "),
		"iat": now.Unix(), "exp": now.Add(g.lifetime).Unix(), "jti": newUUID(),
	})
}

// unverifiableJWT has these claims and a random signature.
func unverifiableJWT(claims map[string]any) string {
	part := func(v any) string {
		raw, _ := json.Marshal(v) // plain values only
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	return part(map[string]any{"alg": "RS256", "typ": "at+jwt"}) + "." + part(claims) + "." +
		base64.RawURLEncoding.EncodeToString(randomBytes(64))
}

// oauthMetadata is the discovery document of RFC 8414, of the workspace or the
// account.
func (w *Workspace) oauthMetadata(r *request) (any, *refusal) {
	base := w.url + "/oidc"
	if account := r.PathValue("account_id"); account != "" {
		base += "/accounts/" + account
	}
	return map[string]any{
		"issuer":                                base,
		"authorization_endpoint":                base + "/v1/authorize",
		"token_endpoint":                        base + "/v1/token",
		"scopes_supported":                      []string{allAPIs},
		"grant_types_supported":                 []string{"client_credentials", tokenExchangeGrant},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
	}, nil
}

// hostMetadata is the document in which the SDKs look up what a host is. A
// unified host has no workspace of its own, and leaves the account's id in its
// endpoint to be filled in.
func (w *Workspace) hostMetadata(*request) (any, *refusal) {
	document := map[string]any{
		"oidc_endpoint": w.url + "/oidc",
		"workspace_id":  w.settings.workspaceID,
		"cloud":         clouds[w.settings.cloud],
		"host_type":     "workspace",
		"token_federation_default_oidc_audiences": []string{w.workspaceAudience()},
	}
	if w.settings.accountID != "" {
		document["account_id"] = w.settings.accountID
	}
	if w.settings.unified {
		delete(document, "workspace_id")
		document["host_type"] = "unified"
		document["oidc_endpoint"] = w.url + "/oidc/accounts/{account_id}"
		document["token_federation_default_oidc_audiences"] = []string{w.settings.accountID}
	}
	return document, nil
}

// workspaceAudience is what subject tokens for the workspace are meant for by
// default.
func (w *Workspace) workspaceAudience() string { return w.url + "/oidc/v1/token" }
