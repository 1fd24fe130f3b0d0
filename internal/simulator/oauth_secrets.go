// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
)

const (
	// oauthSecretLimit is the number of OAuth secrets that one service principal
	// may have (Databricks guide to OAuth for service principals).
	oauthSecretLimit = 5

	// maxOAuthSecretLifetime is both the longest and the default lifetime
	// (Databricks REST reference, Service Principal Secrets API).
	maxOAuthSecretLifetime = 63072000 * time.Second

	oauthSecretPage = 100

	// rfc3339Millis is the form of times in answers.
	rfc3339Millis = "2006-01-02T15:04:05.000Z07:00"
)

// WithSecretQuotaError sets how the sixth OAuth secret of a service principal is
// refused, with 400 RESOURCE_LIMIT_EXCEEDED if unset. Databricks doesn't
// document it.
func WithSecretQuotaError(status int, code string) Option {
	return func(s *settings) { s.quotaStatus, s.quotaCode = status, code }
}

// WithSecretDeleteKillsTokens makes the deletion of an OAuth secret end the
// access tokens that it bought. Whether Databricks does so is not documented; by
// default they live on until they expire.
func WithSecretDeleteKillsTokens() Option { return func(s *settings) { s.killTokens = true } }

// WithoutSecretScopes makes the workspace an older one, which knows no scopes of
// OAuth secrets: it ignores those that are sent, as it does any member that it
// doesn't know, and answers none.
func WithoutSecretScopes() Option { return func(s *settings) { s.noSecretScopes = true } }

// WithAddedSecretScopes gives new OAuth secrets these scopes besides those that
// were asked for. No workspace is known to do so.
func WithAddedSecretScopes(scopes ...string) Option {
	return func(s *settings) { s.addedScopes = scopes }
}

// OAuthSecret is what the workspace knows of an OAuth secret.
type OAuthSecret struct {
	ID      string // 64 hex digits
	Created time.Time
	Expires time.Time // zero = never
	Scopes  []string  // empty = everything
}

// oauthSecret is a secret of a service principal, kept as its hash. It is
// guarded by the workspace's mutex.
type oauthSecret struct {
	id      string
	serial  int // in the order of creation
	owner   *principal
	hash    string
	created time.Time
	expires time.Time // zero = never
	scopes  []string  // empty = everything
	revoked bool
}

// AddOAuthSecret adds an OAuth secret to a service principal by hand: no limit
// is in the way, but it counts. A lifetime of 0 never expires, like secrets from
// before 2025, and one without scopes has all. The client id that goes with it is
// p.ApplicationID. It panics if p is a user.
func (w *Workspace) AddOAuthSecret(p Principal, lifetime time.Duration, scopes ...string) (secretID, secret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	owner := w.mustFind(p)
	if p.ApplicationID == "" {
		panic("simulator: only a service principal has OAuth secrets")
	}
	s, secret := w.addSecret(owner, lifetime, scopes)
	return s.id, secret
}

// addSecret returns the secret and its value. The caller holds the mutex.
func (w *Workspace) addSecret(owner *principal, lifetime time.Duration, scopes []string) (*oauthSecret, string) {
	value := "dose" + randomHex(16)
	s := &oauthSecret{
		id: randomHex(32), serial: w.addedSecrets, owner: owner, hash: hashOf(value), scopes: scopes,
		created: w.settings.now().UTC().Truncate(time.Millisecond),
	}
	w.addedSecrets++
	if lifetime != 0 {
		s.expires = s.created.Add(lifetime)
	}
	owner.secrets = append(owner.secrets, s)
	w.secrets[s.id] = s
	return s, value
}

// RevokeOAuthSecret ends a secret: it buys no further access tokens. Those that
// it bought live on, but for [WithSecretDeleteKillsTokens]. An unknown id is
// ignored.
func (w *Workspace) RevokeOAuthSecret(secretID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.secrets[secretID]; s != nil {
		w.revokeSecret(s)
	}
}

// revokeSecret forgets s. The caller holds the mutex.
func (w *Workspace) revokeSecret(s *oauthSecret) {
	s.revoked = true
	w.dropSecret(s)
}

func (w *Workspace) dropSecret(s *oauthSecret) {
	delete(w.secrets, s.id)
	s.owner.secrets = slices.DeleteFunc(s.owner.secrets, func(other *oauthSecret) bool { return other == s })
}

// liveSecrets lists the secrets of p that have not expired, in the order of
// their creation, and forgets the others. The caller holds the mutex.
func (w *Workspace) liveSecrets(p *principal) []*oauthSecret {
	now := w.settings.now()
	for _, s := range slices.Clone(p.secrets) {
		if !s.expires.IsZero() && !now.Before(s.expires) {
			w.dropSecret(s)
		}
	}
	return p.secrets
}

// OAuthSecrets lists the secrets of a service principal that are neither deleted
// nor expired, in the order of their creation. One that has been deleted has none.
func (w *Workspace) OAuthSecrets(sp Principal) []OAuthSecret {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.principals[sp.ID]
	if p == nil {
		return nil
	}
	var list []OAuthSecret
	for _, s := range w.liveSecrets(p) {
		list = append(list, OAuthSecret{ID: s.id, Created: s.created, Expires: s.expires, Scopes: slices.Clone(s.scopes)})
	}
	return list
}

// oauthSecretInfo is SecretInfo of the Databricks SDK, with the scopes that the
// SDK for Python has, in both answers (databricks-sdk-py service/oauth2.py). The value is in the answer to its creation only.
type oauthSecretInfo struct {
	ID         string   `json:"id"`
	Secret     string   `json:"secret,omitempty"`
	SecretHash string   `json:"secret_hash"`
	Status     string   `json:"status"`
	CreateTime string   `json:"create_time"`
	UpdateTime string   `json:"update_time"`
	ExpireTime string   `json:"expire_time,omitempty"`
	Scopes     []string `json:"scopes,omitempty"`
}

func (s *oauthSecret) info() oauthSecretInfo {
	created := s.created.Format(rfc3339Millis)
	info := oauthSecretInfo{
		ID: s.id, SecretHash: s.hash, Status: "ACTIVE", CreateTime: created, UpdateTime: created, Scopes: slices.Clone(s.scopes),
	}
	if !s.expires.IsZero() {
		info.ExpireTime = s.expires.Format(rfc3339Millis)
	}
	return info
}

// openSecrets finds the service principal that a path names by its numeric id,
// and checks that the caller may handle its secrets: on the workspace's proxy,
// workspace admins and managers of the service principal may. The refusal of an
// application id is not documented: here, it is no id of a service principal.
// The caller holds the mutex.
func (w *Workspace) openSecrets(r *request) (*principal, *refusal) {
	id := r.PathValue("sp_id")
	p := w.servicePrincipalOn(r, id)
	if p == nil {
		return nil, refuse(http.StatusNotFound, "NOT_FOUND", fmt.Sprintf("Service principal %s does not exist.", id))
	}
	if !underAccount(r) && !r.caller.Admin && !p.managers[r.caller] {
		return nil, refuse(http.StatusForbidden, "PERMISSION_DENIED",
			fmt.Sprintf("User %s is neither a workspace admin nor a manager of service principal %s.", r.caller.UserName, id))
	}
	return p, nil
}

// durationForm is protobuf's JSON form of durations, without the minus sign.
var durationForm = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,9})?s$`)

func (w *Workspace) createOAuthSecret(r *request) (any, *refusal) {
	var body struct {
		Lifetime string   `json:"lifetime"`
		Scopes   []string `json:"scopes"`
	}
	if refused := r.decode(&body); refused != nil {
		return nil, refused
	}
	lifetime := maxOAuthSecretLifetime
	if body.Lifetime != "" {
		// What is out of time.ParseDuration's range comes back as an error, too.
		asked, err := time.ParseDuration(body.Lifetime)
		if !durationForm.MatchString(body.Lifetime) || err != nil || asked <= 0 || asked > maxOAuthSecretLifetime {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
				fmt.Sprintf("Invalid lifetime %q: it must be a number of seconds followed by s, more than 0s and at most %ds.",
					body.Lifetime, maxOAuthSecretLifetime/time.Second))
		}
		lifetime = asked
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, refused := w.openSecrets(r)
	if refused != nil {
		return nil, refused
	}
	if len(w.liveSecrets(p)) >= oauthSecretLimit {
		return nil, refuse(w.settings.quotaStatus, w.settings.quotaCode,
			fmt.Sprintf("Service principal %s has reached the limit of %d secrets.", p.ID, oauthSecretLimit))
	}
	s, value := w.addSecret(p, lifetime, w.settings.scopesFor(body.Scopes))
	info := s.info()
	info.Secret = value
	return info, nil
}

// scopesFor returns the scopes of a secret for which these were asked.
func (s *settings) scopesFor(asked []string) []string {
	switch {
	case s.noSecretScopes:
		return nil
	case len(asked) == 0:
		return asked
	}
	return slices.Concat(asked, s.addedScopes)
}

// listOAuthSecrets pages in the order of creation; the real order is not
// documented. A page token stays good when secrets come and go.
func (w *Workspace) listOAuthSecrets(r *request) (any, *refusal) {
	query := r.URL.Query()
	size, ok := numberIn(query, "page_size", oauthSecretPage)
	if !ok || size < 0 {
		return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "page_size must be a positive number.")
	}
	if size == 0 || size > oauthSecretPage {
		size = oauthSecretPage
	}
	after := -1
	if token := query.Get("page_token"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			after, err = strconv.Atoi(string(raw))
		}
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "page_token is invalid.")
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, refused := w.openSecrets(r)
	if refused != nil {
		return nil, refused
	}
	var page []oauthSecretInfo
	last := after
	for _, s := range w.liveSecrets(p) {
		if s.serial <= after {
			continue
		}
		if len(page) == size {
			next := base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(last)))
			return map[string]any{"secrets": page, "next_page_token": next}, nil
		}
		page, last = append(page, s.info()), s.serial
	}
	return listOf("secrets", page), nil
}

func (w *Workspace) deleteOAuthSecret(r *request) (any, *refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, refused := w.openSecrets(r)
	if refused != nil {
		return nil, refused
	}
	i := slices.IndexFunc(w.liveSecrets(p), func(s *oauthSecret) bool { return s.id == r.PathValue("secret_id") })
	if i < 0 {
		return nil, refuse(http.StatusNotFound, "NOT_FOUND",
			fmt.Sprintf("Secret %s of service principal %s does not exist.", r.PathValue("secret_id"), p.ID))
	}
	w.revokeSecret(p.secrets[i])
	return nil, nil
}
