// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Token is what the workspace knows of a personal access token.
type Token struct {
	ID      string // 64 hex digits, the SHA-256 of the value
	Comment string
	Owner   string // principal id
	Created time.Time
	Expires time.Time // zero = never
	Scopes  []string  // empty = everything
	Deleted bool
}

// AddToken adds a token by hand: no quota, policy, fault or log is in the way.
// A lifetime of 0 never expires. It returns the value and the token id.
func (w *Workspace) AddToken(p Principal, comment string, lifetime time.Duration) (value, id string) {
	value = newTokenValue()
	return value, w.ImportToken(p, value, comment, lifetime)
}

// ImportToken is [Workspace.AddToken] with a value of the caller's choice. It
// panics if the value is in use.
func (w *Workspace) ImportToken(p Principal, value, comment string, lifetime time.Duration) (id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	owner := w.mustFind(p)
	if w.tokens[hashOf(value)] != nil {
		panic("simulator: a token with this value exists")
	}
	t := &token{comment: comment, owner: owner, creator: owner, autoscope: autoscopeDisabled}
	w.addToken(t, value, lifetime)
	return t.id
}

func newTokenValue() string { return "dapi" + randomHex(16) }

// addToken files t under value. The caller holds the mutex.
func (w *Workspace) addToken(t *token, value string, lifetime time.Duration) {
	t.id = hashOf(value)
	t.created = w.settings.now().UTC().Truncate(time.Millisecond)
	if lifetime != 0 {
		t.expires = t.created.Add(lifetime)
	}
	t.owner.tokens.add(t)
	w.tokens[t.id] = t
	w.ordered = append(w.ordered, t)
}

// RevokeToken deletes a token behind everyone's back, and tells whether it was
// live.
func (w *Workspace) RevokeToken(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.liveToken(id)
	if t == nil {
		return false
	}
	t.owner.tokens.delete(t)
	return true
}

// liveToken returns nil if there is no live token with this id. The caller
// holds the mutex.
func (w *Workspace) liveToken(id string) *token {
	if t := w.tokens[id]; t != nil && t.liveAt(w.settings.now()) {
		return t
	}
	return nil
}

// Tokens lists every token that is neither deleted nor expired, in order of
// creation.
func (w *Workspace) Tokens() []Token {
	now := w.settings.now()
	return w.listTokens(func(t *token) bool { return t.liveAt(now) })
}

// AllTokens lists every token that ever was, in order of creation.
func (w *Workspace) AllTokens() []Token {
	return w.listTokens(func(*token) bool { return true })
}

func (w *Workspace) listTokens(wanted func(*token) bool) []Token {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Token
	for _, t := range w.ordered {
		if wanted(t) {
			list = append(list, Token{
				ID: t.id, Comment: t.comment, Owner: t.owner.ID, Created: t.created, Expires: t.expires,
				Scopes: slices.Clone(t.scopes), Deleted: t.deleted,
			})
		}
	}
	return list
}

// publicTokenInfo is PublicTokenInfo of the Token API. Arrays without elements
// are left out, as everywhere.
type publicTokenInfo struct {
	TokenID        string    `json:"token_id"`
	CreationTime   int64     `json:"creation_time"` // epoch milliseconds
	ExpiryTime     int64     `json:"expiry_time"`   // epoch milliseconds, -1 = never
	Comment        string    `json:"comment,omitempty"`
	Scopes         []string  `json:"scopes,omitempty"`
	AutoscopeState autoscope `json:"autoscope_state"`
}

func (t *token) public() publicTokenInfo {
	info := publicTokenInfo{
		TokenID: t.id, CreationTime: t.created.UnixMilli(), ExpiryTime: -1,
		Comment: t.comment, Scopes: slices.Clone(t.scopes), AutoscopeState: t.autoscope,
	}
	if !t.expires.IsZero() {
		info.ExpiryTime = t.expires.UnixMilli()
	}
	return info
}

// mayUseTokens refuses callers without CAN_USE on tokens.
func (w *Workspace) mayUseTokens(r *request) *refusal {
	if !r.caller.mayUseTokens {
		return refuse(http.StatusForbidden, "PERMISSION_DENIED", "User does not have permission to use tokens.")
	}
	return nil
}

// newToken is the body of a request that creates a token.
type newToken struct {
	LifetimeSeconds  *lenientInt `json:"lifetime_seconds"`
	Comment          string      `json:"comment"`
	Scopes           []string    `json:"scopes"`
	AutoscopeEnabled bool        `json:"autoscope_enabled"`
}

// createToken makes a token for the caller.
func (w *Workspace) createToken(r *request) (any, *refusal) {
	var body newToken
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if refused := w.mayUseTokens(r); refused != nil {
		return nil, refused
	}
	t, value, refused := w.mintToken(&body, r.caller, r.caller)
	if refused != nil {
		return nil, refused
	}
	return map[string]any{"token_value": value, "token_info": t.public()}, nil
}

// mintToken makes a token as asked for, within the workspace's policy and the
// owner's quota. The status and code of a lifetime that is refused are
// undocumented; those of a lifetime of 0 have been seen only as text. The caller
// holds the mutex.
func (w *Workspace) mintToken(asked *newToken, owner, creator *principal) (*token, string, *refusal) {
	lifetime := w.settings.maxTokenLifetime
	if asked.LifetimeSeconds != nil {
		seconds := int64(*asked.LifetimeSeconds)
		if seconds <= 0 {
			return nil, "", refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
				fmt.Sprintf("requirement failed: Invalid timeout: %d", seconds))
		}
		if longest := int64(lifetime / time.Second); seconds > longest {
			return nil, "", refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
				fmt.Sprintf("The lifetime of %d seconds is longer than the maximum of %d seconds for new tokens in this workspace.", seconds, longest))
		}
		lifetime = time.Duration(seconds) * time.Second
	}
	if owner.tokens.countLive(w.settings.now()) >= w.settings.tokenQuota {
		return nil, "", refuse(http.StatusBadRequest, "QUOTA_EXCEEDED",
			fmt.Sprintf("The quota of %d tokens for this user in this workspace has been reached.", w.settings.tokenQuota))
	}
	t := &token{comment: asked.Comment, owner: owner, creator: creator}
	t.setScopes(asked.Scopes)
	if asked.AutoscopeEnabled && len(t.scopes) == 0 {
		t.autoscope = autoscopeRunning
	}
	value := newTokenValue()
	w.addToken(t, value, lifetime)
	return t, value, nil
}

func (t *token) setScopes(scopes []string) {
	t.scopes, t.autoscope = scopes, autoscopeDisabled
	if len(scopes) > 0 {
		t.autoscope = autoscopeUserSelected
	}
}

func (w *Workspace) listOwnTokens(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if refused := w.mayUseTokens(r); refused != nil {
		return nil, refused
	}
	var infos []publicTokenInfo
	for _, t := range r.caller.tokens.live(w.settings.now()) {
		infos = append(infos, t.public())
	}
	return listOf("token_infos", infos), nil
}

// deleteOwnToken treats a token of somebody else as absent.
func (w *Workspace) deleteOwnToken(r *request) (any, *refusal) {
	var body struct {
		TokenID string `json:"token_id"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if body.TokenID == "" {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Missing required field: token_id")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if refused := w.mayUseTokens(r); refused != nil {
		return nil, refused
	}
	t := w.liveToken(body.TokenID)
	if t == nil || t.owner != r.caller {
		message := fmt.Sprintf("Token with id %s does not exist.", body.TokenID)
		switch w.settings.deleteAbsent {
		case DeleteAbsentNotFound:
			return nil, refuse(http.StatusNotFound, "NOT_FOUND", message)
		case DeleteAbsentBadRequest:
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", message)
		default:
			return nil, refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", message)
		}
	}
	t.owner.tokens.delete(t)
	return nil, nil
}

// updateOwnToken changes the comment and the scopes, never the expiry.
func (w *Workspace) updateOwnToken(r *request) (any, *refusal) {
	var body struct {
		Token *struct {
			Comment string   `json:"comment"`
			Scopes  []string `json:"scopes"`
		} `json:"token"`
		UpdateMask string `json:"update_mask"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	if body.Token == nil || body.UpdateMask == "" {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Missing required field: token and update_mask")
	}
	if body.UpdateMask == "*" {
		body.UpdateMask = "comment,scopes"
	}
	mask := strings.Split(body.UpdateMask, ",")
	for _, field := range mask {
		if field != "comment" && field != "scopes" {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
				fmt.Sprintf("Field %q in update_mask can't be updated.", field))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if refused := w.mayUseTokens(r); refused != nil {
		return nil, refused
	}
	t := w.liveToken(r.PathValue("token_id"))
	if t == nil || t.owner != r.caller {
		return nil, refuse(http.StatusNotFound, "NOT_FOUND", fmt.Sprintf("Token with id %s does not exist.", r.PathValue("token_id")))
	}
	if slices.Contains(mask, "comment") {
		t.comment = body.Token.Comment
	}
	if slices.Contains(mask, "scopes") {
		t.setScopes(body.Token.Scopes)
	}
	return nil, nil
}

// lenientInt is an int64 that may be sent as a decimal string, as protobuf's
// JSON form allows.
type lenientInt int64

// UnmarshalJSON accepts 5 and "5".
func (n *lenientInt) UnmarshalJSON(raw []byte) error {
	if len(raw) > 2 && raw[0] == '"' {
		raw = raw[1 : len(raw)-1]
	}
	return json.Unmarshal(raw, (*int64)(n))
}

// listOf is the body of a list answer: {} when there is nothing to list.
func listOf[T any](key string, items []T) any {
	if len(items) == 0 {
		return nil
	}
	return map[string]any{key: items}
}
