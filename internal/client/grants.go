// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"vault-plugin-secrets-databricks/internal/duration"
)

const (
	// allAPIs is the scope of a token that may do whatever its owner may (Databricks REST reference, API scopes).
	allAPIs = "all-apis"
	// defaultLifetime is that of a token without expires_in (Databricks documentation, OAuth machine-to-machine: 1 hour).
	defaultLifetime = time.Hour
	// freshSecretPatience is how long [Client.AccessTokenFor] goes on asking with a secret that is not known.
	freshSecretPatience = 5 * time.Second
)

// TokenRights limits what an access token may do. The zero value leaves it all that its identity may.
type TokenRights struct {
	Scopes  []string // API scopes, all if empty
	GroupID string   // id of the group of the workspace whose rights the token has instead of those of its identity, "" for these
}

// AccessToken is an OAuth access token. Nothing at Databricks ends it before its lifetime does.
type AccessToken struct {
	Value    Secret
	Type     string        // "Bearer"
	Lifetime time.Duration // whole seconds from when it was asked for
	Scopes   []string      // as the answer names them; empty where it names none, which means those that were asked for (RFC 6749, section 5.1)
}

// grant is one request for an access token.
type grant struct {
	op      string
	request *clientcredentials.Config
	secrets []string // what it carries that must not be shown
	groupID string   // whose rights it asks for, see TokenRights
}

// assume makes the request ask for the rights of a group (Databricks SDK for Go, config/auth_m2m.go and auth_rbac.go: tokens of a workspace's
// OAuth alone).
func (g *grant) assume(cfg *Config, id string) (*grant, error) {
	if id == "" {
		return g, nil
	}
	switch {
	case g.op == opEntraToken:
		return nil, notSent(g.op, "tokens of Entra ID can't have a group's rights; connect with auth_type %q or %q", AuthOAuthM2M, AuthOIDC)
	case ofAccount(cfg):
		return nil, notSent(g.op, "access tokens of an account can't have a group's rights; connect to the workspace")
	}
	if err := checkID(g.op, "group", id); err != nil {
		return nil, err
	}
	if g.request.EndpointParams == nil {
		g.request.EndpointParams = url.Values{}
	}
	g.request.EndpointParams.Set("assume_group", id)
	g.groupID = id
	return g, nil
}

// grants makes the requests for access tokens that a config allows.
type grants struct{ cfg *Config }

// own is the request for a token of the connection's own identity, with all scopes if none is given.
func (g grants) own(ctx context.Context, scopes []string) (*grant, error) {
	switch g.cfg.AuthType {
	case AuthOAuthM2M:
		return g.bySecret(g.cfg.ClientID, g.cfg.ClientSecret, scopes)
	case AuthAzureClientSecret:
		return g.azure(scopes)
	case AuthOIDC:
		return g.byExchange(ctx, scopes)
	default:
		return nil, notSent(opOIDCToken, "a connection with auth_type %q can't get OAuth tokens of its identity; connect with %q, %q or %q", g.cfg.AuthType, AuthOAuthM2M, AuthAzureClientSecret, AuthOIDC)
	}
}

// bySecret is the request for a token with an OAuth secret of a service principal (RFC 6749, section 4.4; Databricks
// documentation, OAuth machine-to-machine).
func (g grants) bySecret(clientID string, secret Secret, scopes []string) (*grant, error) {
	scopes, err := tokenScopes(opOIDCToken, scopes)
	if err != nil {
		return nil, err
	}
	basic := url.QueryEscape(clientID) + ":" + url.QueryEscape(secret.Reveal())
	return &grant{
		op: opOIDCToken,
		request: &clientcredentials.Config{
			ClientID:     clientID,
			ClientSecret: secret.Reveal(),
			TokenURL:     tokenURL(g.cfg),
			Scopes:       scopes,
			AuthStyle:    oauth2.AuthStyleInHeader,
		},
		secrets: []string{secret.Reveal(), base64.StdEncoding.EncodeToString([]byte(basic))},
	}, nil
}

// byExchange is the request for a token in exchange for one of another issuer (RFC 8693; Databricks documentation, workload
// identity federation).
func (g grants) byExchange(ctx context.Context, scopes []string) (*grant, error) {
	scopes, err := tokenScopes(opExchange, scopes)
	if err != nil {
		return nil, err
	}
	subject, err := g.cfg.SubjectToken(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ended(opExchange, ctx.Err(), false)
	case err != nil:
		return nil, noSubject(err.Error())
	case subject == "" || !ValidCredential(subject.Reveal()):
		return nil, noSubject("it is empty, or holds a character that can't be part of a token")
	}
	return &grant{
		op: opExchange,
		request: &clientcredentials.Config{
			ClientID: g.cfg.ClientID,
			TokenURL: tokenURL(g.cfg),
			Scopes:   scopes,
			EndpointParams: url.Values{
				"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
				"subject_token":      {subject.Reveal()},
				"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
			},
			AuthStyle: oauth2.AuthStyleInParams,
		},
		secrets: []string{subject.Reveal()},
	}, nil
}

func noSubject(reason string) *Error {
	return &Error{Op: opExchange, Kind: Refused, Message: clean(reason), Unprocessed: true, what: "there is no identity token to exchange"}
}

// tokenURL returns the token endpoint of a workspace or of an account (Databricks documentation, OAuth machine-to-machine).
func tokenURL(cfg *Config) string {
	if ofAccount(cfg) {
		return fmt.Sprintf("%s/oidc/accounts/%s/v1/token", cfg.Host, url.PathEscape(cfg.AccountID))
	}
	return cfg.Host + "/oidc/v1/token"
}

// ofAccount reports whether the token endpoint is that of an account.
func ofAccount(cfg *Config) bool {
	return cfg.AccountID != "" && IsAccountHost(cfg.Host) || cfg.Account()
}

// AccountTokens reports whether the connection's access tokens come from an account's token endpoint rather than a workspace's.
func (c *Client) AccountTokens() bool { return ofAccount(c.grants.cfg) }

// scopeText is the form of a scope (RFC 6749, section 3.3). A space in one would make it two.
var scopeText = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]{1,256}$`)

// tokenScopes returns the scopes to ask for, which are all when none is given.
func tokenScopes(op string, scopes []string) ([]string, error) {
	for _, scope := range scopes {
		if !scopeText.MatchString(scope) {
			return nil, notSent(op, "%q can't be a scope", scope)
		}
	}
	if len(scopes) == 0 {
		return []string{allAPIs}, nil
	}
	return slices.Clone(scopes), nil
}

var errNoAccessToken = errors.New("no access token in the answer")

// fetch asks a token endpoint for an access token, and returns when it did so, too.
func (c *Client) fetch(ctx context.Context, g *grant) (*AccessToken, time.Time, error) {
	var token *AccessToken
	asked := time.Now()
	_, err := c.do(ctx, call{op: g.op, result: true, secrets: g.secrets}, func(ctx context.Context) error {
		ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: c.transport})
		granted, err := g.request.Token(ctx)
		if err != nil {
			return err
		}
		lifetime := defaultLifetime
		if !granted.Expiry.IsZero() {
			lifetime = time.Until(granted.Expiry).Round(time.Second)
		}
		if lifetime <= 0 || !ValidCredential(granted.AccessToken) {
			return errNoAccessToken
		}
		token = &AccessToken{Value: Secret(granted.AccessToken), Type: granted.Type(), Lifetime: lifetime}
		if said, _ := granted.Extra("scope").(string); strings.TrimSpace(said) != "" {
			token.Scopes = strings.Fields(said)
		}
		return nil
	})
	return token, asked, deniedGroup(g, err)
}

// groupDenials and groupDenialStatuses are what may refuse a group. Databricks doesn't document the form, so these are OAuth's errors (RFC 6749,
// sections 4.1.2.1 and 5.2) that name neither the client nor the scopes.
var (
	groupDenials        = []string{"invalid_request", "invalid_grant", "unauthorized_client", "access_denied"}
	groupDenialStatuses = []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden}
)

// deniedGroup makes the refusal of a token with a group's rights one that says so. It says nothing of the connection's own credential.
func deniedGroup(g *grant, err error) error {
	var failure *Error
	if g.groupID == "" || !errors.As(err, &failure) || failure.Kind != Refused && failure.Kind != Unauthenticated ||
		!slices.Contains(groupDenials, failure.ErrorCode) || !slices.Contains(groupDenialStatuses, failure.Status) {
		return err
	}
	denied := *failure
	denied.Kind, denied.what = PermissionDenied, "Databricks gave no access token with the rights of the group "+g.groupID
	denied.hint = "check that the group exists in the workspace, and that the identity is a member of it or has the Assume permission on it"
	if g.op == opExchange {
		denied.hint += "; else " + hintFederation
	}
	return &denied
}

// newCache makes a cache of the tokens that a grant without scopes of its own gives.
func (c *Client) newCache(op string, request func(context.Context, []string) (*grant, error)) *tokenCache {
	return &tokenCache{op: op, fetch: func(ctx context.Context) (accessToken, error) {
		ctx, cancel := context.WithTimeout(ctx, CallBudget)
		defer cancel()
		g, err := request(ctx, nil)
		if err != nil {
			return accessToken{}, err
		}
		token, asked, err := c.fetch(ctx, g)
		if err != nil {
			return accessToken{}, err
		}
		margin := min(token.Lifetime/10, maxMargin)
		if op == opEntraToken {
			margin = azureMargin
		}
		return newAccessToken(token.Value.Reveal(), asked, token.Lifetime, margin), nil
	}}
}

// OwnAccessToken returns a new access token of the connection's identity, never one that the client uses itself. Entra ID knows neither
// scopes nor groups, so with [AuthAzureClientSecret] none may be given. With [AuthPAT] it is [Refused], since a personal access token can't
// be turned into an OAuth token. A group whose rights the identity may not assume is [PermissionDenied].
func (c *Client) OwnAccessToken(ctx context.Context, rights TokenRights) (*AccessToken, error) {
	ctx, cancel := context.WithTimeout(ctx, CallBudget)
	defer cancel()
	g, err := c.grants.own(ctx, rights.Scopes)
	if err == nil {
		g, err = g.assume(c.grants.cfg, rights.GroupID)
	}
	if err != nil {
		return nil, err
	}
	token, _, err := c.fetch(ctx, g)
	return token, err
}

// AccessTokenFor returns an access token of the service principal whose application id and OAuth secret are given. A secret that was made just now may not be known everywhere yet: invalid_client is
// taken for that for 5 s, and each further attempt counts as a call. After that it is [Refused], not [Unauthenticated], as
// it says nothing of the connection's own credential.
func (c *Client) AccessTokenFor(ctx context.Context, clientID string, clientSecret Secret, rights TokenRights) (*AccessToken, error) {
	if clientID == "" || clientSecret == "" {
		return nil, notSent(opOIDCToken, "the application id or the secret of the service principal is missing")
	}
	g, err := c.grants.bySecret(clientID, clientSecret, rights.Scopes)
	if err == nil {
		g, err = g.assume(c.grants.cfg, rights.GroupID)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, CallBudget)
	defer cancel()
	until := time.Now().Add(c.patience)
	for retry := 0; ; retry++ {
		token, _, err := c.fetch(ctx, g)
		var failure *Error
		if err == nil {
			return token, nil
		}
		refused := ofPrincipal(err, "Databricks refused the secret of the service principal",
			fmt.Sprintf("it was tried for %s, in case it was new; check that it exists, and that its service principal is active and may use this workspace", duration.Text(c.patience)))
		if !errors.As(err, &failure) || failure.Kind != Unauthenticated {
			return nil, refused
		}
		delay := c.transport.delay(retry, failure)
		if time.Now().Add(delay).After(until) || !fits(ctx, delay) {
			return nil, refused
		}
		if err := Sleep(ctx, delay); err != nil {
			return nil, ended(opOIDCToken, err, false)
		}
	}
}
