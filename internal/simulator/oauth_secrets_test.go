// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/oauth2"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// secretsPath is that of the workspace's proxy.
func secretsPath(sp simulator.Principal) string {
	return "/api/2.0/accounts/servicePrincipals/" + sp.ID + "/credentials/secrets"
}

func TestOAuthSecretsThroughTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, _, token := withAdmin(t, simulator.WithClock(clock.Now))
	sp := w.AddServicePrincipal("etl", false)
	api := oauth2.NewServicePrincipalSecretsProxy(sdk(t, w, token))

	none, err := api.ListAll(t.Context(), oauth2.ListServicePrincipalSecretsRequest{ServicePrincipalId: sp.ID})
	require.NoError(t, err)
	require.Empty(t, none)
	require.Equal(t, "{}", send(t, w, "GET", secretsPath(sp), token, "").body)

	made, err := api.Create(t.Context(), oauth2.CreateServicePrincipalSecretRequest{ServicePrincipalId: sp.ID, Lifetime: "3600s"})
	require.NoError(t, err)
	require.Regexp(t, `^dose[0-9a-f]{32}$`, made.Secret)
	require.Regexp(t, `^[0-9a-f]{64}$`, made.Id)
	require.NotEmpty(t, made.SecretHash)
	require.Equal(t, "ACTIVE", made.Status)
	require.Equal(t, "2026-10-01T12:00:00.123Z", made.CreateTime)
	require.Equal(t, made.CreateTime, made.UpdateTime)
	require.Equal(t, "2026-10-01T13:00:00.123Z", made.ExpireTime)

	lasting, err := api.Create(t.Context(), oauth2.CreateServicePrincipalSecretRequest{ServicePrincipalId: sp.ID})
	require.NoError(t, err)
	require.Equal(t, "2028-09-30T12:00:00.123Z", lasting.ExpireTime)

	list, err := api.ListAll(t.Context(), oauth2.ListServicePrincipalSecretsRequest{ServicePrincipalId: sp.ID})
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, made.Id, list[0].Id)
	require.Equal(t, made.ExpireTime, list[0].ExpireTime)
	require.NotContains(t, send(t, w, "GET", secretsPath(sp), token, "").body, made.Secret) // shown once
	created := clock.Now().Truncate(time.Millisecond)
	require.Equal(t, simulator.OAuthSecret{ID: made.Id, Created: created, Expires: created.Add(time.Hour)}, w.OAuthSecrets(sp)[0])

	require.Equal(t, 200, grant(t, w, sp.ApplicationID, made.Secret, "").status)
	clock.advance(time.Hour)
	require.Equal(t, 401, grant(t, w, sp.ApplicationID, made.Secret, "").status)
	require.Len(t, w.OAuthSecrets(sp), 1) // an expired one drops out

	remove := oauth2.DeleteServicePrincipalSecretRequest{ServicePrincipalId: sp.ID, SecretId: lasting.Id}
	access := grant(t, w, sp.ApplicationID, lasting.Secret, "").json(t)["access_token"].(string)
	require.NoError(t, api.Delete(t.Context(), remove))
	require.ErrorIs(t, api.Delete(t.Context(), remove), apierr.ErrNotFound)
	remove.SecretId = made.Id
	require.ErrorIs(t, api.Delete(t.Context(), remove), apierr.ErrNotFound)
	require.Equal(t, 401, grant(t, w, sp.ApplicationID, lasting.Secret, "").status)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status) // what it bought lives on
	require.Empty(t, w.OAuthSecrets(sp))
}

func TestDeletedSecretsMayEndAccessTokens(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t, simulator.WithSecretDeleteKillsTokens())
	sp := w.AddServicePrincipal("etl", false)
	id, secret := w.AddOAuthSecret(sp, time.Hour)
	_, other := w.AddOAuthSecret(sp, time.Hour)
	dies := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	lives := grant(t, w, sp.ApplicationID, other, "").json(t)["access_token"].(string)
	require.Equal(t, 200, send(t, w, "GET", pathMe, dies, "").status)
	requireDone(t, send(t, w, "DELETE", secretsPath(sp)+"/"+id, token, ""))
	requireRefused(t, send(t, w, "GET", pathMe, dies, ""), 403, 403.0)
	require.Equal(t, 200, send(t, w, "GET", pathMe, lives, "").status)
	require.False(t, w.Introspect(dies).Live)
}

func TestOAuthSecretLimit(t *testing.T) {
	t.Parallel()
	clock := newClock()
	for _, try := range []struct {
		opts   []simulator.Option
		status int
		code   string
	}{
		{nil, 400, "RESOURCE_LIMIT_EXCEEDED"},
		{[]simulator.Option{simulator.WithSecretQuotaError(429, "RESOURCE_EXHAUSTED")}, 429, "RESOURCE_EXHAUSTED"},
	} {
		w, _, token := withAdmin(t, append(try.opts, simulator.WithClock(clock.Now))...)
		sp, other := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("other", false)
		w.AddOAuthSecret(sp, time.Minute)
		for range 4 {
			require.Equal(t, 200, send(t, w, "POST", secretsPath(sp), token, `{}`).status)
		}
		a := send(t, w, "POST", secretsPath(sp), token, `{}`)
		requireRefused(t, a, try.status, try.code)
		require.Contains(t, a.json(t)["message"], "5")
		require.Equal(t, 200, send(t, w, "POST", secretsPath(other), token, `{}`).status)
		clock.advance(time.Minute) // an expired one doesn't count
		require.Equal(t, 200, send(t, w, "POST", secretsPath(sp), token, `{}`).status)
		requireRefused(t, send(t, w, "POST", secretsPath(sp), token, `{}`), try.status, try.code)
		requireDone(t, send(t, w, "DELETE", secretsPath(sp)+"/"+w.OAuthSecrets(sp)[2].ID, token, ""))
		require.Equal(t, 200, send(t, w, "POST", secretsPath(sp), token, "").status)
	}
}

func TestOAuthSecretLifetimes(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, _, token := withAdmin(t, simulator.WithClock(clock.Now))
	sp := w.AddServicePrincipal("etl", false)
	for _, lifetime := range []string{"0s", "-1s", "63072001s", "3600", "1h", "60m", "s", "1.s", "1e3s", " 1s", "99999999999s", "0.0s"} {
		a := send(t, w, "POST", secretsPath(sp), token, `{"lifetime":"`+lifetime+`"}`)
		requireRefused(t, a, 400, "INVALID_PARAMETER_VALUE")
		require.Contains(t, a.json(t)["message"], lifetime)
	}
	requireRefused(t, send(t, w, "POST", secretsPath(sp), token, `{"lifetime":3600}`), 400, "MALFORMED_REQUEST")
	require.Empty(t, w.OAuthSecrets(sp))
	for text, lifetime := range map[string]time.Duration{
		"1s": time.Second, "1.5s": 1500 * time.Millisecond, "63072000s": 63072000 * time.Second, "": 63072000 * time.Second,
	} {
		a := send(t, w, "POST", secretsPath(sp), token, `{"lifetime":"`+text+`"}`)
		require.Equal(t, 200, a.status, text)
		secrets := w.OAuthSecrets(sp)
		last := secrets[len(secrets)-1]
		require.Equal(t, lifetime, last.Expires.Sub(last.Created), text)
	}
}

func TestScopesOfOAuthSecrets(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	sp := w.AddServicePrincipal("etl", false)
	made := send(t, w, "POST", secretsPath(sp), token, `{"lifetime":"60s","scopes":["scim","sql"]}`).json(t)
	require.Equal(t, []any{"scim", "sql"}, made["scopes"])
	require.Equal(t, []string{"scim", "sql"}, w.OAuthSecrets(sp)[0].Scopes)
	listed := send(t, w, "GET", secretsPath(sp), token, "").json(t)["secrets"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"scim", "sql"}, listed["scopes"])
	secret := made["secret"].(string)

	for asked, granted := range map[string]string{"": "scim sql", "scim": "scim", "sql scim": "sql scim"} {
		a := grant(t, w, sp.ApplicationID, secret, asked)
		require.Equal(t, 200, a.status, a.body)
		require.Equal(t, granted, a.json(t)["scope"])
	}
	for _, asked := range []string{"secrets", "scim secrets", "all-apis"} {
		a := grant(t, w, sp.ApplicationID, secret, asked)
		require.Equal(t, 400, a.status)
		require.Equal(t, "invalid_scope", a.json(t)["error"])
	}
	access := grant(t, w, sp.ApplicationID, secret, "scim").json(t)["access_token"].(string)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status)
	requireRefused(t, send(t, w, "GET", pathList, access, ""), 403, 403.0)
	require.Equal(t, []string{"scim"}, w.Introspect(access).Scopes)

	everything := send(t, w, "POST", secretsPath(sp), token, `{"scopes":["all-apis"]}`).json(t)["secret"].(string)
	for asked, granted := range map[string]string{"": "all-apis", "all-apis": "all-apis", "scim sql": "scim sql"} {
		require.Equal(t, granted, grant(t, w, sp.ApplicationID, everything, asked).json(t)["scope"])
	}
}

// TestWorkspacesThatTreatScopesOfOAuthSecretsInOtherWays shows what the options make of them.
func TestWorkspacesThatTreatScopesOfOAuthSecretsInOtherWays(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		opt    simulator.Option
		stored []string
		all    string // what a request for all-apis, and for sql and clusters, is answered with; "" for a refusal
		some   string
	}{
		"ignored": {simulator.WithoutSecretScopes(), nil, "all-apis", "sql clusters"},
		"widened": {simulator.WithAddedSecretScopes("clusters"), []string{"sql", "clusters"}, "", "sql clusters"},
		"cut":     {simulator.WithScopesCut(), []string{"sql"}, "sql", "sql"},
	} {
		w, _, token := withAdmin(t, try.opt)
		sp := w.AddServicePrincipal("etl", false)
		made := send(t, w, "POST", secretsPath(sp), token, `{"scopes":["sql"]}`).json(t)
		require.Equal(t, try.stored, w.OAuthSecrets(sp)[0].Scopes, name)
		listed := send(t, w, "GET", secretsPath(sp), token, "").json(t)["secrets"].([]any)[0].(map[string]any)
		require.Equal(t, made["scopes"], listed["scopes"], name)
		require.Equal(t, try.stored != nil, made["scopes"] != nil, name)
		for asked, want := range map[string]string{"all-apis": try.all, "sql clusters": try.some} {
			a := grant(t, w, sp.ApplicationID, made["secret"].(string), asked)
			if want == "" {
				require.Equal(t, "invalid_scope", a.json(t)["error"], name)
				continue
			}
			require.Equal(t, want, a.json(t)["scope"], name)
		}
		require.NotContains(t, send(t, w, "POST", secretsPath(sp), token, "{}").json(t), "scopes", name)
	}
	w, _, _ := withAdmin(t, simulator.WithScopesCut())
	sp := w.AddServicePrincipal("etl", false)
	id, secret := w.AddOAuthSecret(sp, time.Hour, "sql")
	require.Equal(t, []string{"sql"}, w.OAuthSecrets(sp)[0].Scopes, id)
	require.Equal(t, "invalid_scope", grant(t, w, sp.ApplicationID, secret, "clusters").json(t)["error"], "nothing is left of it")
}

func TestOAuthSecretPages(t *testing.T) {
	t.Parallel()
	w, _, token := withAdmin(t)
	sp := w.AddServicePrincipal("etl", false)
	var ids []string
	for range 7 {
		id, _ := w.AddOAuthSecret(sp, 0)
		ids = append(ids, id)
	}
	api := oauth2.NewServicePrincipalSecretsProxy(sdk(t, w, token))
	w.ResetCalls()
	list, err := api.ListAll(t.Context(), oauth2.ListServicePrincipalSecretsRequest{ServicePrincipalId: sp.ID, PageSize: 3})
	require.NoError(t, err)
	require.Equal(t, 3, w.Count("GET", secretsPath(sp)))
	for i, s := range list {
		require.Equal(t, ids[i], s.Id)
		require.Empty(t, s.ExpireTime) // these never expire
	}
	require.Len(t, list, 7)

	page := send(t, w, "GET", secretsPath(sp)+"?page_size=2", token, "").json(t)
	w.RevokeOAuthSecret(ids[1]) // the token stays good
	page = send(t, w, "GET", secretsPath(sp)+"?page_size=0&page_token="+url.QueryEscape(page["next_page_token"].(string)), token, "").json(t)
	require.Len(t, page["secrets"], 5)
	require.Equal(t, ids[2], page["secrets"].([]any)[0].(map[string]any)["id"])
	require.NotContains(t, page, "next_page_token")
	for _, query := range []string{"page_size=x", "page_size=-1", "page_token=!", "page_token=eA"} {
		requireRefused(t, send(t, w, "GET", secretsPath(sp)+"?"+query, token, ""), 400, "INVALID_PARAMETER_VALUE")
	}
}

func TestWhoMayHandleOAuthSecrets(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	sp, other := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("other", false)
	id, _ := w.AddOAuthSecret(sp, 0)
	every := func(check func(answer)) {
		check(send(t, w, "GET", secretsPath(sp), token, ""))
		check(send(t, w, "POST", secretsPath(sp), token, `{}`))
		check(send(t, w, "DELETE", secretsPath(sp)+"/"+id, token, ""))
	}
	every(func(a answer) { requireRefused(t, a, 403, "PERMISSION_DENIED") })
	w.SetManager(other, alice)
	every(func(a answer) { requireRefused(t, a, 403, "PERMISSION_DENIED") })
	w.SetManager(sp, alice)
	every(func(a answer) { require.Equal(t, 200, a.status) })
	require.Panics(t, func() { w.SetManager(alice, alice) })

	w, admin, token := withAdmin(t)
	sp = w.AddServicePrincipal("etl", false)
	for _, id := range []string{sp.ApplicationID, admin.ID, "1", "etl"} {
		for _, try := range [][2]string{{"GET", ""}, {"POST", ""}, {"DELETE", "/x"}} {
			a := send(t, w, try[0], "/api/2.0/accounts/servicePrincipals/"+id+"/credentials/secrets"+try[1], token, "")
			requireRefused(t, a, 404, "NOT_FOUND")
			require.Contains(t, a.json(t)["message"], id)
		}
	}
	requireRefused(t, send(t, w, "POST", secretsPath(sp), token, `{`), 400, "MALFORMED_REQUEST")
	scoped, _ := mint(t, w, token, `{"scopes":["scim"]}`)
	requireRefused(t, send(t, w, "GET", secretsPath(sp), scoped, ""), 403, 403.0)

	var apiErr *apierr.APIError
	_, err := oauth2.NewServicePrincipalSecretsProxy(sdk(t, w, token)).Create(t.Context(), oauth2.CreateServicePrincipalSecretRequest{ServicePrincipalId: sp.ApplicationID})
	require.True(t, errors.As(err, &apiErr))
	require.Equal(t, "NOT_FOUND", apiErr.ErrorCode)
}
