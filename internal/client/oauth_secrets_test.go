// SPDX-License-Identifier: MPL-2.0

package client

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const oauthSecretBody = `{"id":"09094e32","secret":"dose0123456789abcdef","secret_hash":"h","status":"ACTIVE","create_time":"2023-01-01T19:30:41.000Z","update_time":"2023-01-01T19:30:41.000Z","expire_time":"2024-01-01T20:30:41.5+01:00"}`

var (
	secretMade = time.Date(2023, 1, 1, 19, 30, 41, 0, time.UTC)
	secretEnds = time.Date(2024, 1, 1, 19, 30, 41, 500_000_000, time.UTC)
)

func TestCreateOAuthSecret(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		cfg  func(string) Config
		base string
	}{
		{patConfig, "/api/2.0/accounts"},
		{accountConfig, accountPath},
	} {
		s := newScript(t, onAccount(answer(200, oauthSecretBody)))
		cfg := row.cfg(s.URL)
		c := newClient(t, cfg)
		secret, err := c.CreateOAuthSecret(t.Context(), "1234567890123456", 90*time.Minute, nil)
		require.NoError(t, err)
		require.Equal(t, &OAuthSecret{ID: "09094e32", Value: "dose0123456789abcdef", CreateTime: secretMade, ExpireTime: secretEnds, Status: "ACTIVE"}, secret)
		require.NotContains(t, fmt.Sprintf("%+v", secret), "dose")
		_, err = c.CreateOAuthSecret(t.Context(), "1234567890123456", time.Second, []string{"sql", "clusters"})
		require.NoError(t, err)
		require.Equal(t, "application/json", s.all()[len(s.all())-1].header.Get("Content-Type"))

		all := s.all()
		sent := all[len(all)-2:]
		require.Equal(t, "POST "+row.base+"/servicePrincipals/1234567890123456/credentials/secrets", sent[0].line)
		require.JSONEq(t, `{"lifetime":"5400s"}`, sent[0].body)
		require.JSONEq(t, `{"lifetime":"1s","scopes":["sql","clusters"]}`, sent[1].body)
	}
}

// TestScopesOfOAuthSecretsAreRead in both answers, on both planes. A workspace that doesn't know them answers none.
func TestScopesOfOAuthSecretsAreRead(t *testing.T) {
	t.Parallel()
	for _, cfg := range []func(string) Config{patConfig, accountConfig} {
		for answered, want := range map[string][]string{`,"scopes":["sql","iam.groups:read"]`: {"sql", "iam.groups:read"}, `,"scopes":[]`: {}, `,"scopes":null`: nil, "": nil} {
			s := newScript(t, onAccount(answer(200, `{"id":"a","secret":"dose0123456789abcdef"`+answered+`}`)))
			created, err := newClient(t, cfg(s.URL)).CreateOAuthSecret(t.Context(), "12", time.Hour, []string{"sql"})
			require.NoError(t, err)
			require.Equal(t, want, created.Scopes, answered)
			s = newScript(t, onAccount(answer(200, `{"secrets":[{"id":"b"},{"id":"a"`+answered+`}]}`)))
			listed, err := newClient(t, cfg(s.URL)).ListOAuthSecrets(t.Context(), "12")
			require.NoError(t, err)
			require.Equal(t, []OAuthSecret{{ID: "b"}, {ID: "a", Scopes: want}}, listed)
		}
	}
}

func TestOAuthSecretLifetimes(t *testing.T) {
	t.Parallel()
	s := newScript(t, healthy)
	c := newClient(t, patConfig(s.URL))
	for _, lifetime := range []time.Duration{0, -time.Second, time.Millisecond, 1500 * time.Millisecond} {
		_, err := c.CreateOAuthSecret(t.Context(), "1", lifetime, nil)
		_, obo := c.CreateOBOToken(t.Context(), CreateOBOTokenRequest{ApplicationID: appID, Lifetime: lifetime})
		for _, err := range []error{err, obo} {
			require.True(t, failureOf(t, err).Unprocessed)
			require.Contains(t, err.Error(), "positive number of whole seconds, not "+lifetime.String())
		}
	}
	require.Empty(t, s.all())
}

func TestListOAuthSecrets(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		cfg  func(string) Config
		base string
	}{
		{patConfig, "/api/2.0/accounts"},
		{accountConfig, accountPath},
	} {
		pages := map[string]string{
			"":     `{"secrets":[{"id":"a","status":"ACTIVE","create_time":"2023-01-01T19:30:41Z"}],"next_page_token":"p &2"}`,
			"p &2": `{"next_page_token":"p3"}`,
			"p3":   `{"secrets":[{"id":"b","expire_time":"2024-01-01T19:30:41.5Z"}]}`,
		}
		s := newScript(t, onAccount(func(w http.ResponseWriter, r *http.Request) {
			answer(200, pages[r.URL.Query().Get("page_token")])(w, r)
		}))
		secrets, err := newClient(t, row.cfg(s.URL)).ListOAuthSecrets(t.Context(), "12")
		require.NoError(t, err)
		require.Equal(t, []OAuthSecret{{ID: "a", Status: "ACTIVE", CreateTime: secretMade}, {ID: "b", ExpireTime: secretEnds}}, secrets)
		all := s.all()
		require.Equal(t, "GET "+row.base+"/servicePrincipals/12/credentials/secrets", all[len(all)-1].line)
		require.Equal(t, "page_token=p3", all[len(all)-1].query)
	}

	secrets, err := newClient(t, patConfig(newScript(t, answer(200, emptyObject)).URL)).ListOAuthSecrets(t.Context(), "12")
	require.NoError(t, err)
	require.NotNil(t, secrets)
	require.Empty(t, secrets)

	s := newScript(t, answer(200, `{"next_page_token":"again"}`))
	_, err = newClient(t, patConfig(s.URL)).ListOAuthSecrets(t.Context(), "12")
	require.Contains(t, failureOf(t, err).Error(), "the list has no end")

	s = newScript(t, answer(200, pageOfOne), answer(400, envelope("BAD_REQUEST", "no")))
	secrets, err = newClient(t, patConfig(s.URL)).ListOAuthSecrets(t.Context(), "12")
	require.Equal(t, Refused, failureOf(t, err).Kind)
	require.Nil(t, secrets, "half a list must not pass for a whole one")

	_, err = newClient(t, patConfig(newScript(t, answer(404, envelope("NOT_FOUND", "Service principal 12"))).URL)).ListOAuthSecrets(t.Context(), "12")
	require.Equal(t, NotFound, failureOf(t, err).Kind)
}

const pageOfOne = `{"secrets":[{"id":"a"}],"next_page_token":"p2"}`

func TestUnreadableOAuthSecrets(t *testing.T) {
	t.Parallel()
	for _, fields := range []string{`"status":"ACTIVE"`, `"id":"a","create_time":"yesterday"`, `"id":"a","expire_time":"1704137441"`, `"id":"a","scopes":"sql"`, `"id":"a","scopes":[1]`} {
		c := newClient(t, patConfig(newScript(t, answer(200, `{"secret":"dose0123456789abcdef",`+fields+`}`)).URL))
		_, err := c.CreateOAuthSecret(t.Context(), "1", time.Hour, nil)
		e := failureOf(t, err)
		require.Equal(t, Unavailable, e.Kind)
		require.False(t, e.Unprocessed, "there is a secret now")
		require.NotContains(t, err.Error(), "dose")

		c = newClient(t, patConfig(newScript(t, answer(200, `{"secrets":[{`+fields+`}]}`)).URL))
		_, err = c.ListOAuthSecrets(t.Context(), "1")
		require.Equal(t, Unavailable, failureOf(t, err).Kind)
	}
}

func TestTheLimitOfSecretsIsNotThrottling(t *testing.T) {
	t.Parallel()
	table := []struct {
		status int
		code   string
		text   string
		kind   Kind
	}{
		{400, "RESOURCE_LIMIT_EXCEEDED", "no", QuotaExceeded},
		{400, "QUOTA_EXCEEDED", "no", QuotaExceeded},
		{429, "RESOURCE_EXHAUSTED", "Service principal 1 has reached the maximum number of secrets (5).", QuotaExceeded},
		{400, "INVALID_PARAMETER_VALUE", "A service principal can have at most 5 secrets", QuotaExceeded},
		{400, "BAD_REQUEST", "Too many secrets", QuotaExceeded},
		{400, "INVALID_PARAMETER_VALUE", "Secret lifetime exceeds the maximum", Refused},
		{429, "RESOURCE_EXHAUSTED", "The rate limit for secrets was exceeded", Throttled},
		{429, "RESOURCE_EXHAUSTED", "Too many requests for secrets", Throttled},
		{429, "", "", Throttled},
	}
	for _, row := range table {
		s := newScript(t, answer(row.status, envelope(row.code, row.text)))
		cfg := patConfig(s.URL)
		cfg.MaxRetries = 0
		_, err := newClient(t, cfg).CreateOAuthSecret(t.Context(), "1", time.Hour, nil)
		e := failureOf(t, err)
		require.Equal(t, row.kind.String(), e.Kind.String(), row.text)
		require.Equal(t, row.kind != Throttled, e.Unprocessed)
	}
}

func TestCreateOBOToken(t *testing.T) {
	t.Parallel()
	s := newScript(t, answer(200, `{"token_value":"`+mintedToken+`","token_info":{"token_id":"5684c955aabbccdd","creation_time":1580265020299,"expiry_time":1580351420299,"comment":"vault","owner_id":7,"created_by_id":8,"created_by_username":"admin@example.com","scopes":["sql"]}}`))
	cfg := patConfig(s.URL)
	cfg.WorkspaceID = "900800700600"
	created, err := newClient(t, cfg).CreateOBOToken(t.Context(), CreateOBOTokenRequest{ApplicationID: appID, Comment: "vault", Lifetime: 24 * time.Hour, Scopes: []string{"sql"}})
	require.NoError(t, err)
	require.Equal(t, &CreatedToken{Value: mintedToken, Info: TokenInfo{
		TokenID: mintedID, Comment: "vault", Scopes: []string{"sql"},
		CreationTime: time.UnixMilli(1580265020299).UTC(), ExpiryTime: time.UnixMilli(1580351420299).UTC(),
		OwnerID: 7, CreatedByID: 8, CreatedByUsername: "admin@example.com",
	}}, created)
	sent := s.all()[0]
	require.Equal(t, "POST /api/2.0/token-management/on-behalf-of/tokens", sent.line)
	require.Equal(t, "900800700600", sent.header.Get("X-Databricks-Workspace-Id"))
	require.JSONEq(t, `{"application_id":"`+appID+`","comment":"vault","lifetime_seconds":86400,"scopes":["sql"]}`, sent.body)

	// On Azure, the refusal has a number for its code.
	c := newClient(t, patConfig(newScript(t, answer(400, `{"error_code":400,"message":"On-behalf-of token creation for service principals is not enabled for this workspace"}`)).URL))
	_, err = c.CreateOBOToken(t.Context(), CreateOBOTokenRequest{ApplicationID: appID, Lifetime: time.Hour})
	e := failureOf(t, err)
	require.Equal(t, Refused, e.Kind)
	require.True(t, e.Unprocessed)
	require.Contains(t, err.Error(), "token-management/create-obo: Databricks refused the request (HTTP 400): On-behalf-of token creation")
}
