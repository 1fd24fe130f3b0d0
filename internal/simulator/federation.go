// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const subjectTokenType = "urn:ietf:params:oauth:token-type:jwt"

// subjectAlgorithms are those that subject tokens may be signed with (Databricks
// guide to OAuth token federation).
var subjectAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256}

// FederationPolicy says which tokens of an identity provider Databricks takes,
// and for whom (Databricks REST reference, OIDC federation policy).
type FederationPolicy struct {
	Issuer       string   // the claim iss
	Subject      string   // the subject of a service principal's policy; empty in one of the account
	SubjectClaim string   // the claim that has the subject, "sub" if empty
	Audiences    []string // one of which must be in the claim aud; if empty, the account's id or the workspace's token endpoint
	JWKS         []byte   // the issuer's keys, as a JSON Web Key Set
}

type federationPolicy struct {
	FederationPolicy
	owner *principal // nil for a policy of the account
	keys  []jose.JSONWebKey
}

// AddFederationPolicy adds a policy for a service principal, or with nil one of
// the account. Under the latter, the subject must be the user name or application
// id of whom the access token is for. It panics if the policy is not valid, or sp
// is no service principal of this workspace.
func (w *Workspace) AddFederationPolicy(sp *Principal, policy FederationPolicy) {
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(policy.JWKS, &keys); err != nil || len(keys.Keys) == 0 {
		panic("simulator: a federation policy needs a JSON Web Key Set with a key")
	}
	if policy.Issuer == "" || (policy.Subject == "") != (sp == nil) {
		panic("simulator: a federation policy needs an issuer, and a subject if and only if it is a service principal's")
	}
	if policy.SubjectClaim == "" {
		policy.SubjectClaim = "sub"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	added := &federationPolicy{FederationPolicy: policy, keys: keys.Keys}
	if sp != nil {
		added.owner = w.mustFind(*sp)
		if sp.ApplicationID == "" {
			panic("simulator: only a service principal has federation policies of its own")
		}
	}
	w.policies = append(w.policies, added)
}

// redeemSubjectToken is the token exchange grant of workload identity federation:
// a token of an identity provider for one of Databricks, which lives no longer.
// The caller holds the mutex.
func (w *Workspace) redeemSubjectToken(r *request, form url.Values, now time.Time) (*grant, *refusal) {
	raw := form.Get("subject_token")
	switch {
	case raw == "":
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Missing parameter: subject_token")
	case form.Get("subject_token_type") != subjectTokenType:
		return nil, refuse(http.StatusBadRequest, "invalid_request", "The subject_token_type must be "+subjectTokenType+".")
	}
	var client *principal
	if id := form.Get("client_id"); id != "" {
		if client = w.byName[id]; client == nil || client.ApplicationID == "" || !client.active {
			return nil, invalidClient()
		}
	}
	token, err := jwt.ParseSigned(raw, subjectAlgorithms)
	if err != nil {
		return nil, invalidGrant("The subject token is not a JWT that is signed with RS256 or ES256.")
	}
	problem := "No federation policy has the issuer of the subject token."
	for _, policy := range w.policies {
		if policy.owner != client {
			continue
		}
		subject, left, err := w.verify(policy, token, now)
		if err == errOtherIssuer {
			continue
		}
		owner := client
		if err == nil && owner == nil {
			owner = w.byName[subject]
			if owner == nil || !owner.active {
				err = fmt.Errorf("no principal %q", subject)
			}
		}
		if err == nil {
			return &grant{
				owner: owner, scopes: orAllAPIs(strings.Fields(form.Get("scope"))), lifetime: min(left, w.settings.accessTokenLifetime),
			}, nil
		}
		problem = "The subject token does not match the federation policy: " + err.Error() + "."
	}
	return nil, invalidGrant(problem)
}

func invalidGrant(description string) *refusal {
	return refuse(http.StatusBadRequest, "invalid_grant", description)
}

var errOtherIssuer = errors.New("other issuer")

// verify checks a token against a policy, and returns its subject and the whole
// seconds that it has left.
func (w *Workspace) verify(policy *federationPolicy, token *jwt.JSONWebToken, now time.Time) (subject string, left time.Duration, err error) {
	var unverified jwt.Claims
	if err := token.UnsafeClaimsWithoutVerification(&unverified); err != nil || unverified.Issuer != policy.Issuer {
		return "", 0, errOtherIssuer
	}
	var claims jwt.Claims
	var all map[string]any
	err = errors.New("no key of the issuer has its id")
	for _, key := range policy.keys {
		if id := token.Headers[0].KeyID; id != "" && key.KeyID != id {
			continue
		}
		if err = token.Claims(key, &claims, &all); err == nil {
			break
		}
	}
	if err != nil {
		return "", 0, fmt.Errorf("its signature can't be verified: %w", err)
	}
	if claims.Expiry == nil {
		return "", 0, errors.New("no claim exp")
	}
	left = claims.Expiry.Time().Sub(now).Truncate(time.Second)
	if left <= 0 {
		return "", 0, jwt.ErrExpired
	}
	expected := jwt.Expected{AnyAudience: policy.Audiences, Time: now}
	if len(policy.Audiences) == 0 {
		expected.AnyAudience = jwt.Audience{w.workspaceAudience()}
		if w.settings.accountID != "" {
			expected.AnyAudience = append(expected.AnyAudience, w.settings.accountID)
		}
	}
	if err := claims.ValidateWithLeeway(expected, 0); err != nil {
		return "", 0, err
	}
	subject, _ = all[policy.SubjectClaim].(string)
	if subject == "" || policy.owner != nil && subject != policy.Subject {
		return "", 0, jwt.ErrInvalidSubject
	}
	return subject, left, nil
}
