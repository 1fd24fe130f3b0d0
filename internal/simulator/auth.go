// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// oauthSecret is a secret of a service principal, kept as its hash. It is
// guarded by the workspace's mutex.
type oauthSecret struct {
	id      string
	owner   *principal
	hash    string
	expires time.Time // zero = never
	revoked bool
}

// accessToken is what the token endpoint granted.
type accessToken struct {
	owner   *principal
	scopes  []string
	expires time.Time
}

// AddOAuthSecret adds an OAuth secret to a service principal by hand. A lifetime
// of 0 never expires, like secrets from before 2025. The client id that goes
// with it is p.ApplicationID. It panics if p is a user.
func (w *Workspace) AddOAuthSecret(p Principal, lifetime time.Duration) (secretID, secret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	owner := w.mustFind(p)
	if p.ApplicationID == "" {
		panic("simulator: only a service principal has OAuth secrets")
	}
	secret = "dose" + randomHex(16)
	s := &oauthSecret{id: randomHex(32), owner: owner, hash: hashOf(secret)}
	if lifetime != 0 {
		s.expires = w.settings.now().Add(lifetime)
	}
	owner.secrets = append(owner.secrets, s)
	w.secrets[s.id] = s
	return s.id, secret
}

// RevokeOAuthSecret ends a secret: it buys no further access tokens. Those that
// it bought live on. An unknown id is ignored.
func (w *Workspace) RevokeOAuthSecret(secretID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.secrets[secretID]; s != nil {
		s.revoked = true
	}
}

// RevokeAccessTokens ends every OAuth access token granted so far.
func (w *Workspace) RevokeAccessTokens() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.access)
}

// authenticate finds out who sent r, from a personal or an OAuth access token.
// A caller without a bearer credential is told 401, one with a credential that
// is not (or no longer) good 403, both with a numeric error_code, as observed
// (databricks-sdk-go issue 1046).
func (w *Workspace) authenticate(r *request) *refusal {
	scheme, credential, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	credential = strings.TrimSpace(credential)
	if !strings.EqualFold(scheme, "Bearer") || credential == "" {
		return refuseByGateway(http.StatusUnauthorized, "401", "Credential was not sent or was of an unsupported type for this API.")
	}
	key := hashOf(credential)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	if t := w.tokens[key]; t != nil && t.liveAt(now) {
		t.lastUsed = now
		r.caller, r.scopes = t.owner, t.scopes
		return nil
	}
	if a := w.access[key]; a != nil && now.Before(a.expires) {
		r.caller, r.scopes = a.owner, a.scopes
		return nil
	}
	refused := refuseByGateway(http.StatusForbidden, "403", "Invalid access token. [ReqId: "+r.id+"]")
	refused.header.Set("X-Databricks-Reason-Phrase", "Invalid access token.")
	return refused
}

// authorize refuses a caller whose token doesn't have the API scope of the
// endpoint. No scopes at all, and all-apis, mean everything.
func authorize(r *request, scope string) *refusal {
	if len(r.scopes) == 0 || slices.Contains(r.scopes, "all-apis") || slices.Contains(r.scopes, scope) {
		return nil
	}
	return refuseByGateway(http.StatusForbidden, "PERMISSION_DENIED", "Provided token does not have required scopes: "+scope)
}
