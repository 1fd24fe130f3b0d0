// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// accessTokenLifetime is that of every OAuth access token of Databricks.
const accessTokenLifetime = time.Hour

// grantAccessToken is the token endpoint, for the client_credentials grant with
// a secret of a service principal. Scopes are granted as asked for, whatever
// they are.
func (w *Workspace) grantAccessToken(r *request) (any, *refusal) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form, err := url.ParseQuery(string(r.body))
	if mediaType != "application/x-www-form-urlencoded" || err != nil {
		return nil, refuse(http.StatusBadRequest, "invalid_request", "The body must be form-encoded.")
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Missing parameter: grant_type")
	default:
		return nil, refuse(http.StatusBadRequest, "unsupported_grant_type", "The grant type is not supported.")
	}
	clientID, clientSecret := clientCredentials(r, form)
	scope := form.Get("scope")
	if scope == "" {
		scope = "all-apis"
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	owner := w.findClient(clientID, clientSecret, now)
	if owner == nil {
		refused := refuse(http.StatusUnauthorized, "invalid_client", "Client authentication failed")
		refused.header.Set("WWW-Authenticate", `Basic realm="databricks"`)
		return nil, refused
	}
	r.caller = owner
	value := w.newAccessTokenValue(owner, scope, now)
	w.access[hashOf(value)] = &accessToken{owner: owner, scopes: strings.Fields(scope), expires: now.Add(accessTokenLifetime)}
	r.extra.Set("Cache-Control", "no-store")
	return map[string]any{
		"access_token": value,
		"token_type":   "Bearer",
		"expires_in":   int(accessTokenLifetime / time.Second),
		"scope":        scope,
	}, nil
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

// findClient returns the service principal of these credentials if the secret
// is live, or else nil. The caller holds the mutex.
func (w *Workspace) findClient(clientID, clientSecret string, now time.Time) *principal {
	owner := w.byName[clientID]
	if owner == nil {
		return nil
	}
	hash := hashOf(clientSecret)
	for _, s := range owner.secrets {
		live := !s.revoked && (s.expires.IsZero() || now.Before(s.expires))
		if live && subtle.ConstantTimeCompare([]byte(s.hash), []byte(hash)) == 1 {
			return owner
		}
	}
	return nil
}

// newAccessTokenValue looks like a JWT and reads like one, but its signature is
// random: only this workspace can tell what it is good for.
func (w *Workspace) newAccessTokenValue(owner *principal, scope string, now time.Time) string {
	part := func(v any) string {
		raw, _ := json.Marshal(v) // plain values only
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	return part(map[string]any{"alg": "RS256", "typ": "at+jwt"}) + "." +
		part(map[string]any{
			"iss": w.url + "/oidc", "aud": w.settings.workspaceID,
			"sub": owner.ApplicationID, "client_id": owner.ApplicationID, "scope": scope,
			"iat": now.Unix(), "exp": now.Add(accessTokenLifetime).Unix(), "jti": newUUID(),
		}) + "." + base64.RawURLEncoding.EncodeToString(randomBytes(64))
}

// oauthMetadata is the discovery document of RFC 8414.
func (w *Workspace) oauthMetadata(*request) (any, *refusal) {
	return map[string]any{
		"issuer":                                w.url + "/oidc",
		"authorization_endpoint":                w.url + "/oidc/v1/authorize",
		"token_endpoint":                        w.url + "/oidc/v1/token",
		"scopes_supported":                      []string{"all-apis"},
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
	}, nil
}

// hostMetadata is the document in which the SDKs look up what a host is.
func (w *Workspace) hostMetadata(*request) (any, *refusal) {
	return map[string]any{
		"oidc_endpoint": w.url + "/oidc",
		"workspace_id":  w.settings.workspaceID,
		"cloud":         "AWS",
		"host_type":     "workspace",
		"token_federation_default_oidc_audiences": []string{w.url + "/oidc/v1/token"},
	}, nil
}
