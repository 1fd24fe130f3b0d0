// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	subjectJWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ2YXVsdCJ9.c2lnbmF0dXJl"
	foreignID  = "11111111-2222-3333-4444-555555555555"
	foreignKey = Secret("dose-foreign/secret+00")
	tokenBody  = `{"access_token":"access-token-two","token_type":"bearer","expires_in":1800,"scope":"sql clusters"}`
)

func oidcConfig(host string) Config {
	return Config{
		Host: host, AuthType: AuthOIDC, ClientID: appID, MaxRetries: 2,
		SubjectToken: func(context.Context) (Secret, error) { return subjectJWT, nil },
	}
}

func TestAccessTokenFor(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg  func(string) Config
		path string
	}{
		"workspace": {patConfig, "/oidc/v1/token"},
		"account":   {accountConfig, "/oidc/accounts/0d26daa6-5e44-4c97-a497-ef015f91254a/v1/token"},
		"azure":     {azureConfig, "/oidc/v1/token"},
	} {
		s := newScript(t, answer(200, tokenBody))
		c := newClient(t, row.cfg(s.URL))
		token, err := c.AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{Scopes: []string{"sql", "clusters"}})
		require.NoError(t, err, name)
		require.Equal(t, &AccessToken{Value: "access-token-two", Type: "Bearer", Lifetime: 30 * time.Minute, Scopes: []string{"sql", "clusters"}}, token)
		require.NotContains(t, fmt.Sprintf("%+v", token), "token-two")
		require.Equal(t, "grant_type=client_credentials\nscope=sql clusters", s.lastForm())
		sent := s.all()[0]
		require.Equal(t, "POST "+row.path, sent.line)
		id, secret, _ := (&http.Request{Header: sent.header}).BasicAuth()
		require.Equal(t, foreignID+" dose-foreign%2Fsecret%2B00", id+" "+secret)
		require.EqualValues(t, 1, c.counters.Snapshot()[opOIDCToken].Calls)
		require.True(t, c.LastSuccess().IsZero(), "it says nothing of our own credential")

		_, err = c.AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{})
		require.NoError(t, err)
		require.Equal(t, "grant_type=client_credentials\nscope=all-apis", s.lastForm())
	}
}

func TestScopesOfAToken(t *testing.T) {
	t.Parallel()
	s := newScript(t, answer(200, `{"access_token":"a","expires_in":"60"}`), answer(200, `{"access_token":"a","scope":"sql"}`), answer(200, `{"access_token":"a","scope":" "}`))
	c := newClient(t, patConfig(s.URL))
	for _, want := range []struct {
		asked, got []string
		lifetime   time.Duration
	}{
		{[]string{"sql", "jobs"}, nil, time.Minute},
		{[]string{"sql", "jobs"}, []string{"sql"}, time.Hour},
		{nil, nil, time.Hour},
	} {
		token, err := c.AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{Scopes: want.asked})
		require.NoError(t, err)
		require.Equal(t, &AccessToken{Value: "a", Type: "Bearer", Lifetime: want.lifetime, Scopes: want.got}, token)
	}
	before := len(s.all())
	for _, scope := range []string{"", "sql all-apis", "a\nb", `a"b`, `a\b`, "é", strings.Repeat("a", 257)} {
		_, foreign := c.AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{Scopes: []string{"sql", scope}})
		_, own := newClient(t, oauthConfig(s.URL)).OwnAccessToken(t.Context(), TokenRights{Scopes: []string{scope}})
		_, exchanged := newClient(t, oidcConfig(s.URL)).OwnAccessToken(t.Context(), TokenRights{Scopes: []string{scope}})
		for _, err := range []error{foreign, own, exchanged} {
			require.True(t, failureOf(t, err).Unprocessed)
			require.Contains(t, err.Error(), "can't be a scope")
		}
	}
	require.Len(t, s.all(), before)
	for _, row := range [][2]string{{"", "x"}, {"x", ""}} {
		_, err := c.AccessTokenFor(t.Context(), row[0], Secret(row[1]), TokenRights{})
		require.True(t, failureOf(t, err).Unprocessed)
	}
}

func TestAFreshSecretMayNeedAMoment(t *testing.T) {
	t.Parallel()
	unknown := answer(401, `{"error":"invalid_client","error_description":"Client authentication failed"}`)
	t.Run("known after a while", func(t *testing.T) {
		known := time.Time{}
		handler := func(w http.ResponseWriter, r *http.Request) {
			if time.Now().Before(known) {
				unknown(w, r)
				return
			}
			answer(200, tokenBody)(w, r)
		}
		bubble(t, patConfig(localhost), handler, func(t *testing.T, c *Client) {
			known = time.Now().Add(2 * time.Second)
			token, err := c.AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{})
			require.NoError(t, err)
			require.Equal(t, "access-token-two", token.Value.Reveal())
			require.Greater(t, c.counters.Snapshot()[opOIDCToken].Errors, int64(1))
		})
	})
	t.Run("never known", func(t *testing.T) {
		bubble(t, patConfig(localhost), unknown, func(t *testing.T, c *Client) {
			start := time.Now()
			_, err := c.AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{})
			e := failureOf(t, err)
			require.Equal(t, Refused, e.Kind, "it says nothing of our own credential")
			require.Equal(t, "invalid_client", e.ErrorCode)
			require.Equal(t, "oidc/token: Databricks refused the secret of the service principal: invalid_client (HTTP 401): Client authentication failed; it was tried for 5s, in case it was new; check that it exists, and that its service principal is active and may use this workspace", err.Error())
			require.LessOrEqual(t, time.Since(start), 5*time.Second)
			require.Positive(t, time.Since(start))
		})
	})
	t.Run("the caller has less time", func(t *testing.T) {
		bubble(t, patConfig(localhost), unknown, func(t *testing.T, c *Client) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.AccessTokenFor(ctx, foreignID, foreignKey, TokenRights{})
			require.Equal(t, Refused, failureOf(t, err).Kind)
		})
	})
	t.Run("the caller gives up", func(t *testing.T) {
		bubble(t, patConfig(localhost), unknown, func(t *testing.T, c *Client) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			_, err := c.AccessTokenFor(ctx, foreignID, foreignKey, TokenRights{})
			require.Equal(t, Canceled, failureOf(t, err).Kind)
		})
	})
}

func TestOtherRefusalsOfAForeignSecret(t *testing.T) {
	t.Parallel()
	table := []struct {
		answer http.HandlerFunc
		kind   Kind
		text   string
	}{
		{answer(400, `{"error":"invalid_scope","error_description":"sql"}`), Refused, "invalid_scope (HTTP 400): sql; check the scopes"},
		{answer(400, `{"error":"invalid_request","error_description":"secret `+foreignKey.Reveal()+` of dose-foreign%2Fsecret%2B00"}`), Refused, "secret [redacted] of [redacted]"},
		{answer(302, "", "Location", "https://elsewhere.example.com"), Refused, "redirected"},
	}
	for _, row := range table {
		s := newScript(t, row.answer)
		_, err := newClient(t, patConfig(s.URL)).AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{})
		require.Equal(t, row.kind, failureOf(t, err).Kind)
		require.Contains(t, err.Error(), row.text)
		require.Len(t, s.all(), 1)
	}
	// What is sent is in no answer's power to show, the form in the header included.
	s := newScript(t, func(w http.ResponseWriter, r *http.Request) {
		answer(400, envelope("BAD_REQUEST", "header "+r.Header.Get("Authorization")))(w, r)
	})
	_, err := newClient(t, patConfig(s.URL)).AccessTokenFor(t.Context(), foreignID, foreignKey, TokenRights{})
	require.Contains(t, err.Error(), "header Basic [redacted]")
}

func TestOwnAccessToken(t *testing.T) {
	t.Parallel()
	t.Run("m2m", func(t *testing.T) {
		t.Parallel()
		endpoint := &tokenEndpoint{lifetime: time.Hour}
		s := newScript(t, endpoint.handler)
		c := newClient(t, oauthConfig(s.URL))
		_, err := c.Me(t.Context())
		require.NoError(t, err)
		for _, want := range []Secret{"access-token-2", "access-token-3"} {
			token, err := c.OwnAccessToken(t.Context(), TokenRights{Scopes: []string{"sql"}})
			require.NoError(t, err)
			require.Equal(t, &AccessToken{Value: want, Type: "Bearer", Lifetime: time.Hour}, token)
			require.Equal(t, "grant_type=client_credentials\nscope=sql", s.lastForm())
		}
		_, err = c.Me(t.Context())
		require.NoError(t, err)
		all := s.all()
		require.Equal(t, "Bearer access-token-1", all[len(all)-1].header.Get("Authorization"), "what is handed out is not what is used")
	})
	t.Run("oidc", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, answer(200, tokenBody))
		token, err := newClient(t, oidcConfig(s.URL)).OwnAccessToken(t.Context(), TokenRights{})
		require.NoError(t, err)
		require.Equal(t, []string{"sql", "clusters"}, token.Scopes)
	})
	t.Run("pat", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, healthy)
		_, err := newClient(t, patConfig(s.URL)).OwnAccessToken(t.Context(), TokenRights{})
		e := failureOf(t, err)
		require.Equal(t, Refused, e.Kind)
		require.True(t, e.Unprocessed)
		require.Contains(t, err.Error(), `a connection with auth_type "pat" can't get OAuth tokens of its identity; connect with "oauth-m2m", "azure-client-secret" or "oidc"`)
		require.Empty(t, s.all())
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, answer(401, `{"error":"invalid_client"}`))
		_, err := newClient(t, oauthConfig(s.URL)).OwnAccessToken(t.Context(), TokenRights{})
		require.Equal(t, Unauthenticated, failureOf(t, err).Kind)
		require.Len(t, s.all(), 1)
	})
}

func TestExchange(t *testing.T) {
	t.Parallel()
	const fields = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange\nscope=all-apis\nsubject_token=" + subjectJWT + "\nsubject_token_type=urn:ietf:params:oauth:token-type:jwt"
	for name, row := range map[string]struct {
		change func(*Config)
		path   string
		form   string
	}{
		"service principal": {func(*Config) {}, "/oidc/v1/token", "client_id=" + appID + "\n" + fields},
		"account-wide":      {func(c *Config) { c.ClientID = "" }, "/oidc/v1/token", fields},
		"account": {func(c *Config) { c.AccountID = "0d26daa6-5e44-4c97-a497-ef015f91254a" },
			"/oidc/accounts/0d26daa6-5e44-4c97-a497-ef015f91254a/v1/token", "client_id=" + appID + "\n" + fields},
	} {
		s := newScript(t, answer(200, tokenBody))
		cfg := oidcConfig(s.URL)
		row.change(&cfg)
		_, err := newClient(t, cfg).OwnAccessToken(t.Context(), TokenRights{})
		require.NoError(t, err, name)
		require.Equal(t, "POST "+row.path, s.all()[0].line)
		require.Equal(t, row.form, s.lastForm())
		require.Empty(t, s.all()[0].header.Get("Authorization"))
	}
}

func TestExchangedTokenIsCached(t *testing.T) {
	t.Parallel()
	var subjects, exchanges atomic.Int64
	refuse := atomic.Bool{}
	s := newScript(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/oidc/v1/token":
			time.Sleep(20 * time.Millisecond)
			answer(200, fmt.Sprintf(`{"access_token":"exchanged-%d","expires_in":600}`, exchanges.Add(1)))(w, r)
		case refuse.Load() && r.Header.Get("Authorization") == "Bearer exchanged-1":
			answer(401, `{"error_code":401,"message":"no"}`)(w, r)
		default:
			healthy(w, r)
		}
	})
	cfg := oidcConfig(s.URL)
	cfg.SubjectToken = func(context.Context) (Secret, error) {
		return Secret(fmt.Sprintf("subject-%d", subjects.Add(1))), nil
	}
	c := newClient(t, cfg)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 200 {
		wg.Go(func() {
			if _, err := c.Me(t.Context()); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	require.Zero(t, failed.Load())
	require.EqualValues(t, 1, exchanges.Load())
	require.EqualValues(t, 1, c.counters.Snapshot()[opExchange].Calls)

	refuse.Store(true)
	_, err := c.Me(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, exchanges.Load())
	require.EqualValues(t, 2, subjects.Load(), "each exchange has a token of its own")
}

func TestRefusedExchanges(t *testing.T) {
	t.Parallel()
	table := []struct {
		name string
		body string
		kind Kind
		text string
	}{
		{"grant", `{"error":"invalid_grant","error_description":"no policy for iss of ` + subjectJWT + `"}`, Unauthenticated,
			"oidc/exchange: Databricks refused the credential of this connection: invalid_grant (HTTP 400): no policy for iss of [redacted]; check that a federation policy"},
		{"client", `{"error":"invalid_client"}`, Unauthenticated, "check that client_id is the application id"},
		{"unauthorized", `{"error":"unauthorized_client"}`, Unauthenticated, "federation policy"},
		{"denied", `{"error":"access_denied"}`, Unauthenticated, "federation policy"},
		{"request", `{"error":"invalid_request","error_description":"bad"}`, Refused, "oidc/exchange: Databricks gave no access token: invalid_request (HTTP 400): bad; check that a federation policy"},
	}
	for _, row := range table {
		s := newScript(t, answer(400, row.body))
		_, err := newClient(t, oidcConfig(s.URL)).CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.Equal(t, row.kind.String(), e.Kind.String(), row.name)
		require.Equal(t, opExchange, e.Op)
		require.True(t, e.Unprocessed)
		require.Contains(t, err.Error(), row.text)
		require.NotContains(t, err.Error(), "eyJ")
		require.Len(t, s.all(), 1)
	}
	s := newScript(t, answer(503, ""), reset, answer(200, tokenBody))
	_, err := newClient(t, oidcConfig(s.URL)).OwnAccessToken(t.Context(), TokenRights{})
	require.NoError(t, err, "an exchange may be repeated")
	require.Len(t, s.all(), 3)
}

func TestNoSubjectToken(t *testing.T) {
	t.Parallel()
	s := newScript(t, healthy)
	table := []struct {
		subject func(context.Context) (Secret, error)
		kind    Kind
		text    string
	}{
		{func(context.Context) (Secret, error) {
			return "", errors.New("plugin identity tokens need Vault Enterprise;\nset the file " + subjectJWT)
		},
			Refused, "oidc/exchange: there is no identity token to exchange: plugin identity tokens need Vault Enterprise; set the file [redacted]"},
		{func(context.Context) (Secret, error) { return "", nil }, Refused, "it is empty"},
		{func(context.Context) (Secret, error) { return subjectJWT + "\n", nil }, Refused, "holds a character"},
		{func(context.Context) (Secret, error) { panic("boom") }, Unavailable, "oidc/exchange: fetching an access token failed"},
	}
	for _, row := range table {
		cfg := oidcConfig(s.URL)
		cfg.SubjectToken = row.subject
		_, err := newClient(t, cfg).CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.Equal(t, row.kind.String(), e.Kind.String())
		require.True(t, e.Unprocessed)
		require.Contains(t, err.Error(), row.text)
		require.NotContains(t, err.Error(), "eyJ")
	}
	cfg := oidcConfig(s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.SubjectToken = func(context.Context) (Secret, error) {
		cancel()
		return "", ctx.Err()
	}
	_, err := newClient(t, cfg).OwnAccessToken(ctx, TokenRights{})
	require.Equal(t, Canceled, failureOf(t, err).Kind)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, s.all())
}
