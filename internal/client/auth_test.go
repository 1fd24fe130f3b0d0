// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestColdStartFetchesOneToken(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour, slow: 50 * time.Millisecond}
	s := httptest.NewServer(http.HandlerFunc(endpoint.handler))
	t.Cleanup(s.Close)
	c := newClient(t, oauthConfig(s.URL))
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 1000 {
		wg.Go(func() {
			if _, err := c.CreateToken(t.Context(), aMinute); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	require.Zero(t, failed.Load())
	require.EqualValues(t, 1, endpoint.issued.Load())
	require.EqualValues(t, 1, c.counters.Snapshot()[opOIDCToken].Calls)
}

func TestFailedFetchReachesAllItsWaiters(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour, slow: 100 * time.Millisecond}
	endpoint.fail.Store(true)
	s := httptest.NewServer(http.HandlerFunc(endpoint.handler))
	t.Cleanup(s.Close)
	c := newClient(t, oauthConfig(s.URL))
	results := make(chan error, 20)
	for range cap(results) {
		go func() {
			_, err := c.CreateToken(t.Context(), aMinute)
			results <- err
		}()
	}
	for range cap(results) {
		e := failureOf(t, <-results)
		require.Equal(t, Refused, e.Kind)
		require.True(t, e.Unprocessed)
	}
	endpoint.fail.Store(false)
	_, err := c.CreateToken(t.Context(), aMinute)
	require.NoError(t, err)
}

func TestTheGrant(t *testing.T) {
	t.Parallel()
	var form, auth, agent, bearer atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/oidc/v1/token" {
			bearer.Store(r.Header.Get("Authorization"))
			healthy(w, r)
			return
		}
		id, secret, _ := r.BasicAuth()
		auth.Store(id + " " + secret)
		_ = r.ParseForm()
		form.Store(r.Form.Encode())
		agent.Store(r.UserAgent())
		healthy(w, r)
	}))
	t.Cleanup(s.Close)
	cfg := oauthConfig(s.URL)
	cfg.UserAgent = "vault-test/1.0"
	c := newClient(t, cfg)
	require.True(t, c.LastSuccess().IsZero())
	_, err := c.Me(t.Context())
	require.NoError(t, err)
	require.Equal(t, cfg.ClientID+" "+testClientSecret, auth.Load())
	require.Equal(t, "grant_type=client_credentials&scope=all-apis", form.Load())
	require.Equal(t, "vault-test/1.0", agent.Load())
	require.Equal(t, "Bearer access-token-one", bearer.Load())
}

func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403} {
		endpoint := &tokenEndpoint{lifetime: time.Hour}
		var refused atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer access-token-1" {
				refused.Add(1)
				answer(status, `{"error_code":403,"message":"Invalid access token. [ReqId: x]"}`)(w, r)
				return
			}
			endpoint.handler(w, r)
		}))
		t.Cleanup(s.Close)
		cfg := oauthConfig(s.URL)
		cfg.MaxRetries = 0
		c := newClient(t, cfg)
		created, err := c.CreateToken(t.Context(), aMinute)
		require.NoError(t, err)
		require.False(t, created.Retried)
		require.EqualValues(t, 1, refused.Load())
		require.EqualValues(t, 2, endpoint.issued.Load())
	}
}

func TestTokenRefusedForGood(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour, accepted: func(string) bool { return false }}
	s := httptest.NewServer(http.HandlerFunc(endpoint.handler))
	t.Cleanup(s.Close)
	c := newClient(t, oauthConfig(s.URL))
	_, err := c.CreateToken(t.Context(), aMinute)
	e := failureOf(t, err)
	require.Equal(t, Unauthenticated, e.Kind)
	require.True(t, e.Unprocessed)
	require.EqualValues(t, 2, endpoint.issued.Load())
	require.True(t, c.LastSuccess().IsZero())
}

// TestAMissingScopeLeavesTheTokenInUse: another one of the same credential would lack it, too.
func TestAMissingScopeLeavesTheTokenInUse(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour}
	var refused atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/token/create") {
			refused.Add(1)
			answer(403, `{"error_code":403,"message":"Provided OAuth token does not have required scopes: authentication [ReqId: x]"}`)(w, r)
			return
		}
		endpoint.handler(w, r)
	}))
	t.Cleanup(s.Close)
	c := newClient(t, oauthConfig(s.URL))
	for n := range int64(2) {
		_, err := c.CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.Equal(t, ScopeMissing, e.Kind)
		require.True(t, e.Unprocessed)
		require.False(t, e.Issued)
		require.EqualValues(t, n+1, refused.Load())
	}
	require.EqualValues(t, 1, endpoint.issued.Load())
}

func TestGrantFaults(t *testing.T) {
	t.Parallel()
	invalidClient := `{"error":"invalid_client","error_description":"Client authentication failed for ` + testClientSecret + `"}`
	table := []struct {
		name  string
		fault http.HandlerFunc
		ok    bool
		kind  Kind
		text  string
	}{
		{"invalid client", answer(401, invalidClient), false, Unauthenticated, "invalid_client (HTTP 401): Client authentication failed for [redacted]; check client_id and client_secret"},
		{"invalid client as 400", answer(400, `{"errorCode":"invalid_client","errorSummary":"no"}`), false, Unauthenticated, "invalid_client (HTTP 400): no"},
		{"401 without a code", answer(401, ""), false, Unauthenticated, "check client_id"},
		{"other refusal", answer(400, `{"error":"invalid_scope"}`), false, Refused, "Databricks gave no access token: invalid_scope (HTTP 400)"},
		{"address blocked", answer(403, `{"error_code":403,"message":"Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 1"}`), false, NetworkDenied,
			"oidc/token: Databricks does not admit calls from this network (HTTP 403): Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 1; the address is not on the IP access list"},
		{"network blocked", answer(403, "Unauthorized network access to workspace: 1"), false, NetworkDenied, "network policy"},
		{"not in the workspace", answer(401, `{"error":"access_denied","error_description":"Invalid access to Org: 1"}`), false, NotInWorkspace, "has been added to that workspace"},
		{"no such endpoint", answer(404, "<html>"), false, Refused, "check that host is the URL of the workspace"},
		{"408", answer(408, ""), false, Timeout, "408"},
		{"throttled in words", answer(400, `{"error":"invalid_request","error_description":"Temporarily throttled, too many requests"}`), true, 0, ""},
		{"429", answer(429, ""), true, 0, ""},
		{"503", answer(503, ""), true, 0, ""},
		{"reset", reset, true, 0, ""},
		{"web page", answer(200, "<html>login</html>"), false, Unavailable, "web page"},
		{"error as a success", answer(200, `{"error":"invalid_client"}`), false, Unavailable, "missing or of the wrong type"},
		{"no token", answer(200, `{"expires_in":3600}`), false, Unavailable, "missing or of the wrong type"},
		{"expired already", answer(200, `{"access_token":"x","expires_in":-5}`), false, Unavailable, "missing or of the wrong type"},
		{"token that fits no header", answer(200, `{"access_token":"x\ny","expires_in":60}`), false, Unavailable, "missing or of the wrong type"},
		{"lifetime as a text", answer(200, `{"access_token":"access-token-one","expires_in":"3600"}`), true, 0, ""},
		{"redirect", answer(302, "", "Location", "https://elsewhere.example.com/x"), false, Refused, "to https://elsewhere.example.com; check that host"},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, row.fault)
			c := newClient(t, oauthConfig(s.URL))
			_, err := c.CreateToken(t.Context(), aMinute)
			if row.ok {
				require.NoError(t, err)
				return
			}
			e := failureOf(t, err)
			require.Equal(t, row.kind.String(), e.Kind.String(), err.Error())
			require.True(t, e.Unprocessed, "the create was never sent")
			require.Equal(t, opOIDCToken, e.Op)
			require.Contains(t, err.Error(), row.text)
			require.NotContains(t, err.Error(), testClientSecret)
			require.EqualValues(t, 1, c.counters.Snapshot()[opOIDCToken].Errors)
			require.EqualValues(t, 1, c.counters.Snapshot()[opTokenCreate].Errors)
		})
	}
}

func TestPanicInAFetchIsAnError(t *testing.T) {
	t.Parallel()
	cache := &tokenCache{op: opEntraToken, fetch: func(context.Context) (accessToken, error) { panic("boom") }}
	_, err := cache.token(t.Context())
	e := failureOf(t, err)
	require.Equal(t, Unavailable, e.Kind)
	require.Equal(t, opEntraToken, e.Op)
	require.NotContains(t, err.Error(), "boom")
	_, err = cache.token(t.Context())
	require.Error(t, err, "the cache must go on")
}

func TestOnlyTheRefusedTokenIsDropped(t *testing.T) {
	t.Parallel()
	fetched := 0
	cache := &tokenCache{fetch: func(context.Context) (accessToken, error) {
		fetched++
		return newAccessToken("new", time.Now(), time.Hour, time.Second), nil
	}}
	_, err := cache.token(t.Context())
	require.NoError(t, err)
	cache.drop("old")
	_, err = cache.token(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, fetched, "a late refusal of the old token must not cost the new one")
	cache.drop("new")
	_, err = cache.token(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, fetched)
}

func TestTokenURL(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ host, account, workspace, want string }{
		{"https://dbc-1.cloud.databricks.com", "", "", "https://dbc-1.cloud.databricks.com/oidc/v1/token"},
		{"https://dbc-1.cloud.databricks.com", "abc", "", "https://dbc-1.cloud.databricks.com/oidc/v1/token"},
		{"https://accounts.cloud.databricks.com", "", "", "https://accounts.cloud.databricks.com/oidc/v1/token"},
		{"https://accounts.cloud.databricks.com", "abc/..", "1", "https://accounts.cloud.databricks.com/oidc/accounts/abc%2F../v1/token"},
		{"https://accounts-dod.cloud.databricks.us", "abc", "", "https://accounts-dod.cloud.databricks.us/oidc/accounts/abc/v1/token"},
		{"http://127.0.0.1:1", "abc", "", "http://127.0.0.1:1/oidc/accounts/abc/v1/token"},
		{"http://127.0.0.1:1", "abc", "1", "http://127.0.0.1:1/oidc/v1/token"},
	} {
		require.Equal(t, row.want, tokenURL(&Config{Host: row.host, AccountID: row.account, WorkspaceID: row.workspace}))
	}
}
