// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	azureSecret = "Azure~secret.8Q"
	tenant      = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	resourceID  = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg_(1)/providers/Microsoft.Databricks/workspaces/ws"
	management  = "https://management.core.windows.net/"
)

func azureConfig(host string) Config {
	return Config{Host: host, AuthType: AuthAzureClientSecret, AzureTenantID: tenant, AzureClientID: appID, AzureClientSecret: azureSecret, MaxRetries: 2}
}

// entra is an Entra ID that gives a token for each resource, another one each time, and passes all else on.
type entra struct {
	mu       sync.Mutex
	issued   map[string]int
	lifetime time.Duration
	slow     time.Duration
	api      http.HandlerFunc
}

func (e *entra) handler(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/"+tenant+"/oauth2/token" {
		e.api(w, r)
		return
	}
	time.Sleep(e.slow)
	resource := r.FormValue("resource")
	kind := map[string]string{azureDatabricks: "databricks", management: "management"}[resource]
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.issued == nil {
		e.issued = map[string]int{}
	}
	e.issued[kind]++
	answer(200, fmt.Sprintf(`{"token_type":"Bearer","expires_in":"%d","ext_expires_in":"3599","expires_on":"1580269199","resource":%q,"access_token":"%s-%d"}`,
		e.lifetime/time.Second, resource, kind, e.issued[kind]))(w, r)
}

func (e *entra) count(kind string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.issued[kind]
}

func TestAzureGrant(t *testing.T) {
	t.Parallel()
	s := newScript(t, answer(200, `{"token_type":"Bearer","expires_in":"3599","access_token":"aad"}`), healthy)
	c := newClient(t, azureConfig(s.URL))
	_, err := c.Me(t.Context())
	require.NoError(t, err)
	all := s.all()
	require.Len(t, all, 2)
	require.Equal(t, "POST /"+tenant+"/oauth2/token", all[0].line)
	form, err := url.ParseQuery(all[0].body)
	require.NoError(t, err)
	require.Equal(t, "client_id="+appID+"\nclient_secret="+azureSecret+"\ngrant_type=client_credentials\nresource=2ff814a6-3304-4ab8-85cb-cd0e6f879c1d", lines(form))
	require.Empty(t, all[0].header.Get("Authorization"))
	require.Equal(t, "Bearer aad", all[1].header.Get("Authorization"))
	require.Empty(t, all[1].header.Get("X-Databricks-Azure-SP-Management-Token"))
	require.EqualValues(t, 1, c.counters.Snapshot()[opEntraToken].Calls)
	require.False(t, c.LastSuccess().IsZero())
}

func TestAzureManagementToken(t *testing.T) {
	t.Parallel()
	login := &entra{lifetime: time.Hour, slow: 20 * time.Millisecond, api: healthy}
	s := newScript(t, login.handler)
	cfg := azureConfig(s.URL)
	cfg.AzureWorkspaceResourceID = resourceID
	c := newClient(t, cfg)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 100 {
		wg.Go(func() {
			if _, err := c.CreateToken(t.Context(), aMinute); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	require.Zero(t, failed.Load())
	require.Equal(t, 1, login.count("databricks"))
	require.Equal(t, 1, login.count("management"))
	for _, sent := range s.all() {
		if strings.HasSuffix(sent.line, "/oauth2/token") {
			require.NotContains(t, sent.header, "X-Databricks-Azure-Sp-Management-Token")
			continue
		}
		require.Equal(t, "Bearer databricks-1", sent.header.Get("Authorization"))
		require.Equal(t, "management-1", sent.header.Get("X-Databricks-Azure-SP-Management-Token"))
		require.Equal(t, resourceID, sent.header.Get("X-Databricks-Azure-Workspace-Resource-Id"))
	}
}

func TestRefusedAzureTokensAreReplacedOnce(t *testing.T) {
	t.Parallel()
	login := &entra{lifetime: time.Hour}
	login.api = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer databricks-2" || r.Header.Get("X-Databricks-Azure-SP-Management-Token") != "management-2" {
			answer(403, `{"message":"The access token expires within 30 seconds: management-1 of databricks-1"}`)(w, r)
			return
		}
		healthy(w, r)
	}
	s := newScript(t, login.handler)
	cfg := azureConfig(s.URL)
	cfg.AzureWorkspaceResourceID = resourceID
	_, err := newClient(t, cfg).CreateToken(t.Context(), aMinute)
	require.NoError(t, err)
	require.Equal(t, 2, login.count("databricks"))
	require.Equal(t, 2, login.count("management"))

	login = &entra{lifetime: time.Hour, api: func(w http.ResponseWriter, r *http.Request) {
		answer(403, envelope("PERMISSION_DENIED", r.Header.Get("Authorization")+" "+r.Header.Get("X-Databricks-Azure-SP-Management-Token")))(w, r)
	}}
	cfg.Host = newScript(t, login.handler).URL
	_, err = newClient(t, cfg).CreateToken(t.Context(), aMinute)
	require.Equal(t, "Bearer [redacted] [redacted]", failureOf(t, err).Message)
}

func TestAzureTokensAreRefreshedWellAhead(t *testing.T) {
	t.Parallel()
	login := &entra{lifetime: time.Hour}
	var latest atomic.Value // of string, the token in use
	login.api = func(w http.ResponseWriter, r *http.Request) {
		latest.Store(r.Header.Get("Authorization"))
		healthy(w, r)
	}
	bubble(t, azureConfig(localhost), login.handler, func(t *testing.T, c *Client) {
		list := func() string {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
			synctest.Wait()
			return latest.Load().(string)
		}
		require.Equal(t, "Bearer databricks-1", list())
		time.Sleep(48 * time.Minute)
		require.Equal(t, "Bearer databricks-1", list())
		require.Equal(t, 1, login.count("databricks"))
		time.Sleep(time.Minute)
		list()
		require.Equal(t, 2, login.count("databricks"), "ahead, in the background")
		require.Equal(t, "Bearer databricks-2", list())
		// Unused until its last 90 s, a token is not used any more, so that 40 s are left even to a call that waits long.
		time.Sleep(time.Hour - azureMargin)
		require.Equal(t, "Bearer databricks-3", list())
	})
	short := &entra{lifetime: time.Minute, api: healthy}
	bubble(t, azureConfig(localhost), short.handler, func(t *testing.T, c *Client) {
		for range 2 {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
			synctest.Wait()
		}
		require.Equal(t, 2, short.count("databricks"), "too short to be kept")
	})
}

func TestAzureOwnAccessToken(t *testing.T) {
	t.Parallel()
	login := &entra{lifetime: time.Hour, api: healthy}
	s := newScript(t, login.handler)
	c := newClient(t, azureConfig(s.URL))
	for i, scopes := range [][]string{nil, {"all-apis"}} {
		token, err := c.OwnAccessToken(t.Context(), TokenRights{Scopes: scopes})
		require.NoError(t, err)
		require.Equal(t, &AccessToken{Value: Secret(fmt.Sprintf("databricks-%d", i+1)), Type: "Bearer", Lifetime: time.Hour}, token)
	}
	_, err := c.OwnAccessToken(t.Context(), TokenRights{Scopes: []string{"sql"}})
	e := failureOf(t, err)
	require.Equal(t, Refused, e.Kind)
	require.Contains(t, err.Error(), "can't be narrowed to scopes")
	require.Len(t, s.all(), 2)
}

func TestAzureMeOnAnAccount(t *testing.T) {
	t.Parallel()
	login := &entra{lifetime: time.Hour, api: answer(200, spList(1, spBody))}
	s := newScript(t, login.handler)
	cfg := azureConfig(s.URL)
	cfg.AccountID, cfg.ClientID = "abc", "of-another-auth-type"
	who, err := newClient(t, cfg).Me(t.Context())
	require.NoError(t, err)
	require.Equal(t, appID, who.UserName)
	require.Equal(t, "GET /api/2.0/accounts/abc/scim/v2/ServicePrincipals", s.all()[1].line)
}

func TestEntraErrors(t *testing.T) {
	t.Parallel()
	aad := func(code, text string) string {
		return `{"error":"` + code + `","error_description":` + inJSON(text) + `,"error_codes":[7000215],"trace_id":"t","correlation_id":"c","error_uri":"https://login.microsoftonline.com/error?code=7000215"}`
	}
	table := []struct {
		name  string
		fault http.HandlerFunc
		ok    bool
		kind  Kind
		text  string
		field string
	}{
		{"bad secret", answer(401, aad("invalid_client", "AADSTS7000215: Invalid client secret provided: "+azureSecret+".\r\nTrace ID: t"), "x-ms-request-id", "ms-1"), false, Unauthenticated,
			"entra/token: Entra ID gave no access token: invalid_client (HTTP 401): AADSTS7000215: Invalid client secret provided: [redacted]. Trace ID: t; azure_client_secret is not a secret of this app; send the secret's value rather than its id [request id ms-1]", "azure_client_secret"},
		{"expired secret", answer(401, aad("invalid_client", "AADSTS7000222: The provided client secret keys for app 'x' are expired.")), false, Unauthenticated, "azure_client_secret has expired", "azure_client_secret"},
		{"no such app", answer(400, aad("unauthorized_client", "AADSTS700016: Application with identifier 'x' was not found in the directory 'y'.")), false, Unauthenticated, "azure_client_secret was not looked at", "azure_client_id"},
		{"app off or unknown", answer(400, aad("unauthorized_client", "AADSTS70001: Application 'x' is disabled.")), false, Unauthenticated, "disabled, or is not in the tenant", "azure_client_id"},
		{"app off", answer(401, aad("invalid_client", "AADSTS7000112: Application 'x' is disabled.")), false, Unauthenticated, "is disabled in the tenant", "azure_client_id"},
		{"no such tenant", answer(400, aad("invalid_request", "AADSTS90002: Tenant 'x' not found.")), false, Unauthenticated, "entra/token: Entra ID gave no access token: invalid_request (HTTP 400): AADSTS90002: Tenant 'x' not found.; Entra ID knows no such tenant; check azure_tenant_id", "azure_tenant_id"},
		{"tenant of no form", answer(400, aad("invalid_request", "AADSTS900023: Specified tenant identifier 'x' is neither a valid DNS name, nor a valid external domain.")), false, Unauthenticated, "neither the id nor a domain", "azure_tenant_id"},
		{"tenant of another cloud", answer(400, aad("invalid_request", "AADSTS90038: no")), false, Unauthenticated, "in another cloud", "azure_tenant_id"},
		{"tenant without Databricks", answer(400, aad("invalid_resource", "AADSTS500011: The resource principal was not found in the tenant.")), false, Unauthenticated, "no Azure Databricks", "azure_tenant_id"},
		{"no service principal", answer(401, aad("invalid_client", "AADSTS7000229: The client application x is missing service principal in the tenant y.")), false, Unauthenticated, "has no service principal in the tenant", "azure_client_id"},
		{"no service principal, other error", answer(400, aad("unauthorized_client", "AADSTS7000229: The client application x is missing service principal in the tenant y.")), false, Unauthenticated, "azure_client_secret was not looked at", "azure_client_id"},
		{"Databricks disabled", answer(400, aad("invalid_resource", "AADSTS500014: The service principal for resource 'x' is disabled.")), false, Refused, "Azure Databricks is disabled in the tenant", ""},
		{"kept out", answer(400, aad("invalid_grant", "AADSTS53003: Access has been blocked by Conditional Access policies.")), false, Refused, "says nothing about azure_client_secret", ""},
		{"unknown number", answer(401, aad("invalid_client", "AADSTS7000299: no")), false, Unauthenticated, "check azure_tenant_id, azure_client_id and azure_client_secret, and that the secret has not expired", ""},
		{"404", answer(404, "<html>"), false, Refused, "Entra ID gave no access token (HTTP 404): Not Found; check azure_tenant_id", ""},
		{"redirect", answer(302, "", "Location", "https://elsewhere.example.com/x"), false, Refused, "Entra ID redirected the request (HTTP 302): to https://elsewhere.example.com; check azure_tenant_id, the network between here and Entra ID", ""},
		{"web page", answer(200, "<html>"), false, Unavailable, "the answer of Entra ID can't be read (HTTP 200): it is a web page, such as a login form or a proxy's notice; check azure_tenant_id, the network", ""},
		{"no token", answer(200, `{"token_type":"Bearer"}`), false, Unavailable, "the answer of Entra ID can't be read", ""},
		{"429", answer(429, ""), true, 0, "", ""},
		{"503", answer(503, ""), true, 0, "", ""},
		{"reset", reset, true, 0, "", ""},
	}
	for _, row := range table {
		s := newScript(t, row.fault, answer(200, `{"token_type":"Bearer","expires_in":"3599","access_token":"aad"}`), healthy)
		_, err := newClient(t, azureConfig(s.URL)).CreateToken(t.Context(), aMinute)
		if row.ok {
			require.NoError(t, err, row.name)
			continue
		}
		e := failureOf(t, err)
		require.Equal(t, row.kind.String(), e.Kind.String(), row.name)
		require.Equal(t, row.field, e.Field, row.name)
		require.True(t, e.FromEntra())
		require.True(t, e.Unprocessed, "the create was never sent")
		require.Contains(t, err.Error(), row.text, row.name)
		require.NotContains(t, err.Error(), azureSecret)
		require.Len(t, s.all(), 1)
	}
}

func TestThrottlingByEntraDoesNotSlowDatabricks(t *testing.T) {
	t.Parallel()
	var refusals atomic.Int64
	login := &entra{lifetime: time.Hour, api: healthy}
	handler := func(w http.ResponseWriter, r *http.Request) {
		if login.count("databricks") > 0 && strings.HasSuffix(r.URL.Path, "/oauth2/token") {
			refusals.Add(1)
			answer(429, "", "Retry-After", "20")(w, r)
			return
		}
		login.handler(w, r)
	}
	cfg := azureConfig(localhost)
	cfg.RateLimit = 1000
	bubble(t, cfg, handler, func(t *testing.T, c *Client) {
		_, err := c.ListTokens(t.Context())
		require.NoError(t, err)
		time.Sleep(50 * time.Minute)
		start := time.Now()
		for range 3 {
			_, err = c.ListTokens(t.Context())
			require.NoError(t, err)
		}
		require.Less(t, time.Since(start), time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, refusals.Load())
		time.Sleep(2 * time.Minute) // the refresh gives up within its budget
	})
}

// TestAzureOrigins runs a workspace and its Entra ID under their true names, to see who gets what.
func TestAzureOrigins(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var hosts []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		hosts = append(hosts, r.Host)
		if r.Host == "login.microsoftonline.us" {
			answer(200, fmt.Sprintf(`{"expires_in":"3599","access_token":"for-%s"}`, url.PathEscape(r.FormValue("resource"))))(w, r)
			return
		}
		require.Equal(t, "Bearer for-"+azureDatabricks, r.Header.Get("Authorization"))
		require.Equal(t, "for-"+url.PathEscape("https://management.core.usgovcloudapi.net/"), r.Header.Get("X-Databricks-Azure-SP-Management-Token"))
		healthy(w, r)
	}))
	t.Cleanup(s.Close)
	cfg := azureConfig("https://adb-1.2.databricks.azure.us")
	cfg.AzureWorkspaceResourceID = resourceID
	cfg.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	c := newClient(t, cfg)
	c.transport.base.TLSClientConfig.ServerName = "example.com" // which the certificate is for
	c.transport.base.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	_, err := c.Me(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"login.microsoftonline.us", "login.microsoftonline.us", "adb-1.2.databricks.azure.us"}, hosts)

	// The login host is for the grant alone, and the grant for the login host.
	for _, row := range []struct{ op, to string }{
		{opMe, "https://login.microsoftonline.us/x"},
		{opOIDCToken, "https://login.microsoftonline.us/x"},
		{opEntraToken, "https://adb-1.2.databricks.azure.us/x"},
		{opEntraToken, "https://login.microsoftonline.com/x"},
		{opEntraToken, "http://login.microsoftonline.us/x"},
	} {
		_, err := c.do(t.Context(), call{op: row.op}, func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, row.to, nil)
			require.NoError(t, err)
			_, err = c.transport.RoundTrip(req)
			return err
		})
		e := failureOf(t, err)
		require.True(t, e.Unprocessed)
		require.Contains(t, err.Error(), "the request was not sent")
	}
	require.Len(t, hosts, 3)

	plain := newClient(t, patConfig(s.URL))
	_, err = plain.do(t.Context(), call{op: opEntraToken}, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, nil)
		require.NoError(t, err)
		_, err = plain.transport.RoundTrip(req)
		return err
	})
	require.True(t, failureOf(t, err).Unprocessed, "without Entra ID, nothing is sent to it")
	require.Len(t, hosts, 3)
}

func TestAzureClouds(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]azureCloud{
		"https://adb-1.2.azuredatabricks.net":  azurePublic,
		"https://accounts.azuredatabricks.net": azurePublic,
		"https://adb-1.2.databricks.azure.us":  azureGovernment,
		"https://accounts.azuredatabricks.us":  azureGovernment,
		"https://adb-1.2.databricks.azure.cn":  azureChina,
		"https://accounts.azuredatabricks.cn":  azureChina,
		"http://127.0.0.1:8899":                {"http://127.0.0.1:8899", management},
		"https://localhost:8899":               {"https://localhost:8899", management},
		"http://[::1]:8899":                    {"http://[::1]:8899", management},
	} {
		cloud, ok := azureCloudOf(origin)
		require.True(t, ok, origin)
		require.Equal(t, want, cloud, origin)
	}
	for _, origin := range []string{
		"https://dbc-1.cloud.databricks.com", "https://azuredatabricks.net.evil.com", "https://evilazuredatabricks.net",
		"https://azuredatabricks.net", "https://10.0.0.1", "://",
	} {
		_, ok := azureCloudOf(origin)
		require.False(t, ok, origin)
	}
}
