// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/client"
	"github.com/databricks/databricks-sdk-go/common/environment"
	"github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	tenantID           = "11111111-2222-3333-4444-555555555555"
	pathEntra          = "/" + tenantID + "/oauth2/token"
	databricksApp      = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"
	managementEndpoint = "https://management.core.windows.net/"
	azureResourceID    = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Databricks/workspaces/w"
)

// grantEntra asks for a token for a resource.
func grantEntra(t testing.TB, w *simulator.Workspace, clientID, secret, resource string) answer {
	t.Helper()
	return grantAt(t, w, pathEntra, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {secret}, "resource": {resource},
	}.Encode())
}

func entraToken(t testing.TB, w *simulator.Workspace, clientID, secret, resource string) string {
	t.Helper()
	a := grantEntra(t, w, clientID, secret, resource)
	require.Equal(t, 200, a.status, a.body)
	return a.json(t)["access_token"].(string)
}

// sdkEntra is the official client with an app of Entra ID, whose login host is
// the simulated one.
func sdkEntra(t testing.TB, w *simulator.Workspace, clientID, secret, resourceID string) *client.DatabricksClient {
	t.Helper()
	azure := environment.AzurePublicCloud
	azure.ActiveDirectoryEndpoint = w.URL() + "/"
	return sdkWith(t, &config.Config{
		Host: w.URL(), AzureTenantID: tenantID, AzureClientID: clientID, AzureClientSecret: secret, AzureResourceID: resourceID,
		Credentials: config.AzureClientSecretCredentials{},
		DatabricksEnvironment: &environment.DatabricksEnvironment{
			Cloud: environment.CloudAzure, DnsZone: "127.0.0.1", AzureApplicationID: databricksApp, AzureEnvironment: &azure,
		},
	})
}

func TestEntraThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithCloud("azure"), simulator.WithAzureResourceID(azureResourceID))
	sp := w.AddServicePrincipal("etl", false)
	clientID, secret := w.AddEntraApp(sp, tenantID)
	require.Equal(t, sp.ApplicationID, clientID)
	c := sdkEntra(t, w, clientID, secret, "")
	me, err := iam.NewCurrentUser(c).Me(t.Context(), iam.MeRequest{})
	require.NoError(t, err)
	require.Equal(t, sp.ApplicationID, me.UserName)
	_, err = settings.NewTokens(c).Create(t.Context(), settings.CreateTokenRequest{LifetimeSeconds: 60})
	require.NoError(t, err)
	require.Equal(t, sp.ID, w.Tokens()[0].Owner)

	_, err = iam.NewCurrentUser(sdkEntra(t, w, clientID, "wrong", "")).Me(t.Context(), iam.MeRequest{})
	require.ErrorContains(t, err, "AADSTS7000215")

	// Out of the workspace, the SDK comes in with the resource's id.
	w.SetWorkspaceMember(sp, false)
	require.Empty(t, w.Tokens())
	_, err = iam.NewCurrentUser(sdkEntra(t, w, clientID, secret, "")).Me(t.Context(), iam.MeRequest{})
	require.ErrorContains(t, err, "Invalid access to Org")
	me, err = iam.NewCurrentUser(sdkEntra(t, w, clientID, secret, azureResourceID)).Me(t.Context(), iam.MeRequest{})
	require.NoError(t, err)
	require.Equal(t, sp.ApplicationID, me.UserName)
}

func TestEntraTokens(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, root, _, _ := withAccount(t, simulator.WithClock(clock.Now))
	clientID, secret := w.AddEntraApp(root, tenantID)
	_, second := w.AddEntraApp(root, tenantID)
	a := grantEntra(t, w, clientID, secret, databricksApp)
	granted := a.json(t)
	require.Equal(t, "3599", granted["expires_in"])
	require.Equal(t, "Bearer", granted["token_type"])
	require.Equal(t, databricksApp, granted["resource"])
	expires := clock.Now().Add(3599 * time.Second)
	require.Equal(t, strconv.FormatInt(expires.Unix(), 10), granted["expires_on"])
	access := granted["access_token"].(string)
	require.Regexp(t, `^eyJ`, access)
	require.Equal(t, simulator.TokenState{Owner: root, Expires: expires, Kind: simulator.KindEntra, Account: true, Live: true}, w.Introspect(access))
	require.NotEmpty(t, entraToken(t, w, clientID, second, databricksApp))

	// It opens the workspace and the account, but buys nothing from Databricks'
	// own token endpoint, nor does its secret.
	require.Equal(t, root.ID, send(t, w, "GET", pathMe, access, "").json(t)["id"])
	require.Equal(t, 200, send(t, w, "GET", pathAccountSPs, access, "").status)
	require.Equal(t, 401, grant(t, w, clientID, secret, "").status)
	management := entraToken(t, w, clientID, secret, managementEndpoint)
	requireRefused(t, send(t, w, "GET", pathMe, management, ""), 403, 403.0)

	clock.advance(3599*time.Second - 31*time.Second)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status)
	clock.advance(time.Second)
	a = send(t, w, "GET", pathMe, access, "")
	requireRefused(t, a, 403, 403.0)
	require.Contains(t, a.json(t)["message"], "within 30 seconds")
	require.Equal(t, 403, send(t, w, "GET", pathAccountSPs, access, "").status)
	clock.advance(30 * time.Second)
	require.Contains(t, send(t, w, "GET", pathMe, access, "").json(t)["message"], "Invalid access token.")
	require.False(t, w.Introspect(access).Live)

	// A dead owner's app lives on in Entra ID alone.
	fresh := entraToken(t, w, clientID, secret, databricksApp)
	require.Equal(t, 204, send(t, w, "DELETE", pathAccountSPs+"/"+root.ID, fresh, "").status)
	requireRefused(t, send(t, w, "GET", pathMe, entraToken(t, w, clientID, secret, databricksApp), ""), 403, 403.0)
}

func TestEntraRefusals(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	clientID, secret := w.AddEntraApp(sp, tenantID)
	good := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {secret}, "resource": {databricksApp}}
	for _, try := range []struct {
		name, value, path string
		status            int
		code              string
		number            float64
	}{
		{"client_secret", "wrong", pathEntra, 401, "invalid_client", 7000215},
		{"client_id", sp.ID, pathEntra, 400, "unauthorized_client", 700016},
		{"resource", "https://graph.microsoft.com", pathEntra, 400, "invalid_resource", 500011},
		{"grant_type", "password", pathEntra, 400, "unsupported_grant_type", 70003},
		{"", "", "/other/oauth2/token", 400, "invalid_request", 900023},
		{"", "", "/other.example.com/oauth2/token", 400, "invalid_request", 90002},
		{"", "", "/00000000-0000-0000-0000-000000000001/oauth2/token", 400, "invalid_request", 90002},
	} {
		form, _ := url.ParseQuery(good.Encode())
		form.Set(try.name, try.value)
		a := grantAt(t, w, try.path, form.Encode())
		require.Equal(t, try.status, a.status, a.body)
		got := a.json(t)
		require.Equal(t, try.code, got["error"])
		require.Equal(t, []any{try.number}, got["error_codes"])
		require.Contains(t, got["error_description"], "AADSTS")
		for _, member := range []string{"timestamp", "trace_id", "correlation_id", "error_uri"} {
			require.NotEmpty(t, got[member])
		}
		require.NotContains(t, a.body, secret)
	}
	a := send(t, w, "POST", pathEntra, "", `{}`, "Content-Type", "application/json")
	require.Equal(t, 400, a.status)
	require.Equal(t, "invalid_request", a.json(t)["error"])
	require.Equal(t, 200, grantAt(t, w, pathEntra, good.Encode()).status)
	w.Inject(simulator.Fault{Path: pathEntra, Status: 503})
	require.Equal(t, "temporarily_unavailable", grantAt(t, w, pathEntra, good.Encode()).json(t)["error"])
	require.Panics(t, func() { w.AddEntraApp(w.AddUser("alice@example.com", false), tenantID) })
}

func TestFirstLoginWithARightToTheAzureResource(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithAzureResourceID(azureResourceID), simulator.WithClock(clock.Now))
	sp, other := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("other", false)
	clientID, secret := w.AddEntraApp(sp, tenantID)
	otherID, otherSecret := w.AddEntraApp(other, tenantID)
	old := entraToken(t, w, clientID, secret, managementEndpoint)
	clock.advance(time.Hour)
	access := entraToken(t, w, clientID, secret, databricksApp)
	management := entraToken(t, w, clientID, secret, managementEndpoint)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status)

	w.SetWorkspaceMember(sp, false)
	const id, token = "X-Databricks-Azure-Workspace-Resource-Id", "X-Databricks-Azure-SP-Management-Token"
	for name, header := range map[string][]string{
		"none":               nil,
		"no management":      {id, azureResourceID},
		"no resource":        {token, management},
		"another resource":   {id, azureResourceID + "2", token, management},
		"bogus management":   {id, azureResourceID, token, "bogus"},
		"not for management": {id, azureResourceID, token, access},
		"of somebody else":   {id, azureResourceID, token, entraToken(t, w, otherID, otherSecret, managementEndpoint)},
		"expired":            {id, azureResourceID, token, old},
	} {
		a := send(t, w, "GET", pathMe, access, "", header...)
		requireRefused(t, a, 403, 403.0)
		require.Equal(t, "Invalid access to Org: "+w.ID(), a.json(t)["message"], name)
	}
	require.Equal(t, sp.ID, send(t, w, "GET", pathMe, access, "", id, azureResourceID, token, management).json(t)["id"])
	require.Equal(t, 403, send(t, w, "GET", pathMe, access, "").status) // it holds for one request
	w.SetWorkspaceMember(sp, true)
	require.Equal(t, 200, send(t, w, "GET", pathMe, access, "").status)
}

func TestKeyVaultScopesTakeEntraTokens(t *testing.T) {
	t.Parallel()
	w := start(t)
	sp := w.AddServicePrincipal("etl", false)
	clientID, secret := w.AddEntraApp(sp, tenantID)
	access := entraToken(t, w, clientID, secret, databricksApp)
	body := `{"scope":"kv","scope_backend_type":"AZURE_KEYVAULT","backend_azure_keyvault":{"resource_id":"r","dns_name":"d"}}`
	pat, _ := w.AddToken(sp, "", 0)
	requireRefused(t, send(t, w, "POST", pathScopesCreate, pat, body), 400, "INVALID_PARAMETER_VALUE")
	requireDone(t, send(t, w, "POST", pathScopesCreate, access, body))
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	w, admin, token := withAdmin(t)
	require.Equal(t, simulator.TokenState{}, w.Introspect("unknown"))
	require.Equal(t, simulator.TokenState{Owner: admin, Kind: simulator.KindPAT, Live: true}, w.Introspect(token))
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	state := w.Introspect(access)
	require.Equal(t, sp, state.Owner)
	require.Equal(t, []string{"all-apis"}, state.Scopes)
	require.Equal(t, simulator.KindOAuth, state.Kind)
	require.True(t, state.Live)
	w.RevokeAccessTokens()
	require.False(t, w.Introspect(access).Live)
	require.Equal(t, simulator.KindOAuth, w.Introspect(access).Kind)
}

func TestEntraSecretsExpireAndAppsAreDisabled(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithCloud("azure"))
	sp := w.AddServicePrincipal("engine", false)
	id, first := w.AddEntraApp(sp, tenantID)
	_, second := w.AddEntraApp(sp, tenantID)
	w.ExpireEntraSecret(tenantID, id, first)
	refused := grantEntra(t, w, id, first, databricksApp)
	require.Equal(t, 401, refused.status)
	require.Contains(t, refused.body, "AADSTS7000222")
	entraToken(t, w, id, second, databricksApp)
	w.DisableEntraApp(tenantID, id)
	refused = grantEntra(t, w, id, second, databricksApp)
	require.Equal(t, 401, refused.status)
	require.Contains(t, refused.body, "AADSTS7000112")
}
