// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Kinds of token, as [TokenState] names them.
const (
	KindPAT   = "pat"   // personal access token, on behalf of a service principal or not
	KindOAuth = "oauth" // OAuth access token of Databricks
	KindEntra = "entra" // access token of Microsoft Entra ID
)

// TokenState is what the workspace knows of a token.
type TokenState struct {
	Owner   Principal // without Groups and Entitlements
	Scopes  []string  // empty = everything
	Expires time.Time // zero = never
	Kind    string    // "" = the token is unknown, and all else is zero
	Account bool      // it is good for the account, too
	Group   string    // whose rights it has instead of its owner's, by display name
	Live    bool      // neither expired nor ended, and its owner isn't either
}

// accessToken is what a token endpoint granted. It is guarded by the workspace's
// mutex.
type accessToken struct {
	id       string // the hash of its value
	kind     string
	owner    *principal
	scopes   []string // empty = everything
	created  time.Time
	expires  time.Time
	account  bool         // good for the account plane
	secret   *oauthSecret // what bought it, nil if something else did
	assumed  *group       // whose rights it has instead of the owner's, nil for these
	resource string       // of Entra ID, "" is Databricks
	tenantID string       // of Entra ID
	revoked  bool
}

// addAccessToken files a under its value. The caller holds the mutex.
func (w *Workspace) addAccessToken(value string, a *accessToken) {
	a.id, a.created = hashOf(value), w.settings.now()
	w.access[a.id] = a
	if len(w.granted) > 2*w.grantedSwept+64 {
		w.unexpiredAccessTokens(a.created)
	}
	w.granted = append(w.granted, a)
}

// unexpiredAccessTokens lists, in order of creation, those that may be live: a
// principal who has left the workspace can come back. The caller holds the mutex.
func (w *Workspace) unexpiredAccessTokens(now time.Time) []*accessToken {
	w.granted = slices.DeleteFunc(w.granted, func(a *accessToken) bool { return a.revoked || !now.Before(a.expires) })
	w.grantedSwept = len(w.granted)
	return w.granted
}

// Introspect looks a token up by its value: a personal access token, or an access
// token of Databricks or Microsoft Entra ID.
func (w *Workspace) Introspect(token string) TokenState {
	key := hashOf(token)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	if t := w.tokens[key]; t != nil {
		return TokenState{
			Owner: t.owner.Principal, Scopes: slices.Clone(t.scopes), Expires: t.expires,
			Kind: KindPAT, Live: t.liveAt(now) && t.owner.active,
		}
	}
	if a := w.access[key]; a != nil {
		state := TokenState{
			Owner: a.owner.Principal, Scopes: slices.Clone(a.scopes), Expires: a.expires,
			Kind: a.kind, Account: a.account, Live: w.isLive(a, now),
		}
		if a.assumed != nil {
			state.Group = a.assumed.name
		}
		return state
	}
	return TokenState{}
}

// AccessTokens is the number of live access tokens, Microsoft Entra ID's
// included.
func (w *Workspace) AccessTokens() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, n := w.settings.now(), 0
	for _, a := range w.access {
		if w.isLive(a, now) {
			n++
		}
	}
	return n
}

// RevokeAccessTokens ends every access token granted so far, Microsoft Entra
// ID's included.
func (w *Workspace) RevokeAccessTokens() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.access {
		a.revoked = true
	}
}

// isLive reports whether a is good for something. The caller holds the mutex.
func (w *Workspace) isLive(a *accessToken, now time.Time) bool {
	if a.secret != nil && a.secret.revoked && w.settings.killTokens {
		return false
	}
	// A token of the workspace is worth nothing to those who have left it.
	left := a.kind == KindOAuth && !a.account && !a.owner.inWorkspace
	return !a.revoked && now.Before(a.expires) && a.owner.active && !a.owner.deleted && !left
}

// authenticate finds out who sent r, from a personal or another access token. A
// caller without a bearer credential is told 401, one with a credential that is
// not (or no longer) good 403, both with a numeric error_code, as observed
// (databricks-sdk-go issue 1046).
func (w *Workspace) authenticate(r *request) *refusal {
	scheme, credential, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	credential = strings.TrimSpace(credential)
	if !strings.EqualFold(scheme, "Bearer") || credential == "" {
		return unsupportedCredential()
	}
	key := hashOf(credential)
	account := underAccount(r) && w.settings.accountID != ""
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	if t := w.tokens[key]; t != nil && t.liveAt(now) && t.owner.active {
		if account {
			return unsupportedCredential()
		}
		if refused := w.checkAuthentication(KindPAT); refused != nil {
			return refused
		}
		t.lastUsed = now
		r.caller, r.scopes, r.kind = t.owner, t.scopes, KindPAT
		return nil
	}
	a := w.access[key]
	if a == nil || a.resource != "" || !w.isLive(a, now) {
		return invalidToken(r)
	}
	if account && !a.account {
		return unsupportedCredential()
	}
	if refused := w.checkAuthentication(a.kind); refused != nil {
		return refused
	}
	if a.kind == KindEntra {
		if refused := w.checkEntraToken(r, a, now); refused != nil {
			return refused
		}
	} else if !account && !a.owner.inWorkspace {
		return w.noAccess()
	}
	r.caller, r.scopes, r.kind = a.owner, a.scopes, a.kind
	if a.assumed != nil {
		r.caller = a.owner.actingAs(a.assumed)
	}
	return nil
}

func unsupportedCredential() *refusal {
	return refuseByGateway(http.StatusUnauthorized, "401", "Credential was not sent or was of an unsupported type for this API.")
}

func invalidToken(r *request) *refusal {
	refused := refuseByGateway(http.StatusForbidden, "403", "Invalid access token. [ReqId: "+r.id+"]")
	refused.header.Set("X-Databricks-Reason-Phrase", "Invalid access token.")
	return refused
}

// noAccess has the text that was observed for a principal of another workspace
// (databricks-sdk-go issue 959).
func (w *Workspace) noAccess() *refusal {
	message := "Invalid access to Org: " + w.settings.workspaceID
	refused := refuseByGateway(http.StatusForbidden, "403", message)
	refused.header.Set("X-Databricks-Reason-Phrase", message)
	return refused
}

// authorize refuses a caller whose token doesn't have the API scope of the
// endpoint, in the form that was recorded of both kinds of token. No scopes at
// all, and all-apis, mean everything.
func authorize(r *request, scope string) *refusal {
	if allows(r.scopes, scope) {
		return nil
	}
	kind := "OAuth"
	if r.kind == KindPAT {
		kind = "access"
	}
	return refuseByGateway(http.StatusForbidden, "403", "Provided "+kind+" token does not have required scopes: "+scope+" [ReqId: "+r.id+"]")
}

func allows(scopes []string, scope string) bool {
	return len(scopes) == 0 || slices.Contains(scopes, allAPIs) || slices.Contains(scopes, scope)
}
