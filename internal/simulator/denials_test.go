// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestDenialsThroughTheSDK: whoever has a good credential is refused in the recorded words.
func TestDenialsThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithWorkspaceID("4711"))
	token, _ := w.AddToken(w.AddUser("engine@example.com", true), "", 0)
	me := func() error {
		_, err := iam.NewCurrentUser(sdk(t, w, token)).Me(t.Context(), iam.MeRequest{})
		return err
	}
	require.NoError(t, me())
	for text, fault := range map[string]simulator.Fault{
		"Source IP address: 203.0.113.7 is blocked by Databricks IP ACL for workspace: 4711": w.BlockedAddress("203.0.113.7"),
		"Unauthorized network access to workspace: 4711":                                     w.BlockedNetwork(),
		"Invalid access to Org: 4711":                                                        w.ForeignOrg(),
	} {
		fault.Path = "/api/*"
		injected := w.Inject(fault)
		err := me()
		require.ErrorContains(t, err, text)
		refused, ok := errors.AsType[*apierr.APIError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, 403, refused.StatusCode)
		injected.Clear()
	}
	require.NoError(t, me())
}

// TestAddressesOffTheListAreRefused: the list is held against where a call comes from, and guards the workspace's whole host.
func TestAddressesOffTheListAreRefused(t *testing.T) {
	t.Parallel()
	const account = "8f0c1d52-3b0e-4f0a-9d53-0a9a5d0c7b11"
	w := start(t, simulator.WithWorkspaceID("4711"), simulator.WithAccount(account), simulator.WithIPAccessList("203.0.113.0/24", "127.0.0.2"))
	sp := w.AddAccountAdmin(w.AddServicePrincipal("engine", true))
	token, _ := w.AddToken(sp, "", 0)
	_, secret := w.AddOAuthSecret(sp, 0)
	requireBlocked := func(a answer) {
		t.Helper()
		requireRefused(t, a, 403, 403.0)
		require.Equal(t, "Source IP address: 127.0.0.1 is blocked by Databricks IP ACL for workspace: 4711", a.json(t)["message"])
	}
	requireBlocked(send(t, w, "GET", pathMe, token, ""))
	requireBlocked(send(t, w, "GET", pathMe, "dapi-wrong", ""))
	requireBlocked(send(t, w, "GET", "/.well-known/databricks-config", "", ""))
	requireBlocked(grant(t, w, sp.ApplicationID, secret, ""))
	require.Equal(t, 401, send(t, w, "GET", "/api/2.0/accounts/"+account+"/scim/v2/Groups", token, "").status, "the account has a list of its own")
	require.NotContains(t, send(t, w, "POST", "/11111111-2222-3333-4444-555555555555/oauth2/token", "", "").body, "Databricks IP ACL", "and Entra ID is another host")

	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other := &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL()+pathMe, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := other.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode, "an address that is on it")

	w.SetIPAccessList("::1/128", "127.0.0.0/8")
	require.Equal(t, 200, send(t, w, "GET", pathMe, token, "").status)
	w.SetIPAccessList("203.0.113.7")
	requireBlocked(send(t, w, "GET", pathMe, token, ""))
	w.SetIPAccessList()
	require.Equal(t, 200, send(t, w, "GET", pathMe, token, "").status)

	require.Panics(t, func() { w.SetIPAccessList("localhost") })
	_, err = simulator.Start(simulator.WithIPAccessList("203.0.113.0/33"))
	require.ErrorContains(t, err, `"203.0.113.0/33" is neither an address nor a range`)
}

// TestAuthenticationIsDownForGoodTokensOnly, and for the kinds of token that were named.
func TestAuthenticationIsDownForGoodTokensOnly(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithAuthenticationDown(simulator.KindOAuth))
	sp := w.AddServicePrincipal("engine", true)
	token, _ := w.AddToken(sp, "", 0)
	_, secret := w.AddOAuthSecret(sp, 0)
	oauth := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	requireDown := func(token string) {
		t.Helper()
		a := send(t, w, "GET", pathMe, token, "")
		requireRefused(t, a, 503, "TEMPORARILY_UNAVAILABLE")
		require.Equal(t, "Authentication is temporarily unavailable", a.json(t)["message"])
		require.Empty(t, a.header.Get("Retry-After"))
	}
	for range 3 {
		requireDown(oauth)
	}
	require.Equal(t, 200, send(t, w, "GET", pathMe, token, "").status)
	w.SetAuthenticationDown(simulator.KindPAT, simulator.KindEntra)
	requireDown(token)
	require.Equal(t, 403, send(t, w, "GET", pathMe, "dapi-wrong", "").status)
	require.Equal(t, 200, send(t, w, "GET", pathMe, oauth, "").status)
	w.SetAuthenticationDown()
	require.Equal(t, 200, send(t, w, "GET", pathMe, token, "").status)
}
