// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const pathOBO = "/api/2.0/token-management/on-behalf-of/tokens"

func TestOnBehalfOfThroughTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, admin, token := withAdmin(t, simulator.WithClock(clock.Now))
	sp := w.AddServicePrincipal("etl", false)
	made, err := settings.NewTokenManagement(sdk(t, w, token)).CreateOboToken(t.Context(), settings.CreateOboTokenRequest{
		ApplicationId: sp.ApplicationID, LifetimeSeconds: 60, Comment: "vault", Scopes: []string{"scim"},
	})
	require.NoError(t, err)
	require.Regexp(t, `^dapi[0-9a-f]{32}$`, made.TokenValue)
	info := made.TokenInfo
	require.Equal(t, "vault", info.Comment)
	require.Equal(t, admin.UserName, info.CreatedByUsername)
	require.Equal(t, admin.ID, strconv.FormatInt(info.CreatedById, 10))
	require.Equal(t, sp.ID, strconv.FormatInt(info.OwnerId, 10))
	require.Equal(t, clock.Now().Add(time.Minute).UnixMilli(), info.ExpiryTime)
	require.Equal(t, sp.ID, send(t, w, "GET", pathMe, made.TokenValue, "").json(t)["id"])
	requireRefused(t, send(t, w, "GET", pathList, made.TokenValue, ""), 403, 403.0)
	require.Equal(t, simulator.TokenState{
		Owner: sp, Scopes: []string{"scim"}, Expires: time.UnixMilli(info.ExpiryTime).UTC(), Kind: simulator.KindPAT, Live: true,
	}, w.Introspect(made.TokenValue))
	clock.advance(time.Minute)
	requireRefused(t, send(t, w, "GET", pathMe, made.TokenValue, ""), 403, 403.0)
	require.False(t, w.Introspect(made.TokenValue).Live)
}

func TestOnBehalfOfRefusals(t *testing.T) {
	t.Parallel()
	w, admin, token := withAdmin(t, simulator.WithTokenQuota(1), simulator.WithMaxTokenLifetime(time.Hour))
	sp, blocked, boss := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("blocked", false), w.AddServicePrincipal("boss", true)
	gone := w.AddServicePrincipal("gone", false)
	w.SetWorkspaceMember(gone, false)
	alice, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	w.SetTokenPermission(blocked, false)
	ask := func(body string) answer { return send(t, w, "POST", pathOBO, token, body) }

	requireRefused(t, send(t, w, "POST", pathOBO, alice, `{"application_id":"`+sp.ApplicationID+`"}`), 403, "PERMISSION_DENIED")
	for _, id := range []string{"", sp.ID, admin.UserName, "etl", "6f5ccf28-d83a-4957-9bfb-5bbfac551410", gone.ApplicationID} {
		requireMessage(t, ask(`{"application_id":"`+id+`","lifetime_seconds":60}`), 400, "INVALID_PARAMETER_VALUE",
			"expected to have application id of the service principal")
	}
	requireRefused(t, ask(`{`), 400, "MALFORMED_REQUEST")
	requireRefused(t, ask(`{"application_id":"`+blocked.ApplicationID+`"}`), 403, "PERMISSION_DENIED")
	requireMessage(t, ask(`{"application_id":"`+sp.ApplicationID+`","lifetime_seconds":0}`), 400, "INVALID_PARAMETER_VALUE", "requirement failed: Invalid timeout: 0")
	requireRefused(t, ask(`{"application_id":"`+sp.ApplicationID+`","lifetime_seconds":3601}`), 400, "INVALID_PARAMETER_VALUE")
	require.Equal(t, 200, ask(`{"application_id":"`+sp.ApplicationID+`","lifetime_seconds":"3600"}`).status)
	requireRefused(t, ask(`{"application_id":"`+sp.ApplicationID+`"}`), 400, "QUOTA_EXCEEDED") // the owner's, not the caller's
	require.Equal(t, 200, ask(`{"application_id":"`+boss.ApplicationID+`"}`).status)

	w, _, token = withAdmin(t, simulator.WithCloud("azure"))
	sp = w.AddServicePrincipal("etl", false)
	a := ask(`{"application_id":"` + sp.ApplicationID + `"}`)
	requireRefused(t, a, 400, 400.0)
	require.Equal(t, "On-behalf-of token creation for service principals is not enabled for this workspace", a.json(t)["message"])
}
