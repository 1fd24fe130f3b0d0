// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestTokenManagementThroughTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now), simulator.WithWorkspaceID("7001"))
	admin, sp := w.AddUser("admin@example.com", true), w.AddServicePrincipal("etl", false)
	root, rootID := w.AddToken(admin, "root", 0)
	value, id := w.AddToken(sp, "etl", time.Hour)
	w.AddToken(sp, "short", time.Minute)
	clock.advance(time.Minute)
	require.Equal(t, 200, send(t, w, "GET", pathMe, value, "").status)
	api := settings.NewTokenManagement(sdk(t, w, root))

	all, err := api.ListAll(t.Context(), settings.ListTokenManagementRequest{})
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, rootID, all[0].TokenId)
	spID, err := strconv.ParseInt(sp.ID, 10, 64)
	require.NoError(t, err)
	info := all[1]
	info.ForceSendFields = nil
	require.Equal(t, settings.TokenInfo{
		TokenId: id, Comment: "etl", AutoscopeState: "AUTOSCOPE_STATE_DISABLED",
		CreationTime: clock.Now().Add(-time.Minute).UnixMilli(), ExpiryTime: clock.Now().Add(59 * time.Minute).UnixMilli(),
		CreatedById: spID, CreatedByUsername: sp.ApplicationID, OwnerId: spID, WorkspaceId: 7001,
		LastUsedDay: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC).UnixMilli(),
	}, info)

	for _, try := range []struct {
		filter settings.ListTokenManagementRequest
		found  int
	}{
		{settings.ListTokenManagementRequest{CreatedById: spID}, 1},
		{settings.ListTokenManagementRequest{CreatedByUsername: sp.ApplicationID}, 1},
		{settings.ListTokenManagementRequest{CreatedById: spID, CreatedByUsername: sp.ApplicationID}, 1},
		{settings.ListTokenManagementRequest{CreatedById: spID, CreatedByUsername: "admin@example.com"}, 0},
		{settings.ListTokenManagementRequest{CreatedById: 5}, 0},
		{settings.ListTokenManagementRequest{CreatedByUsername: "nobody"}, 0},
	} {
		list, err := api.ListAll(t.Context(), try.filter)
		require.NoError(t, err)
		require.Len(t, list, try.found, "%+v", try.filter)
	}
	requireRefused(t, send(t, w, "GET", pathManaged+"?created_by_id=x", root, ""), 400, "INVALID_PARAMETER_VALUE")

	got, err := api.GetByTokenId(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "etl", got.TokenInfo.Comment)

	require.NoError(t, api.DeleteByTokenId(t.Context(), id))
	require.Equal(t, 403, send(t, w, "GET", pathMe, value, "").status)
	require.Len(t, w.Tokens(), 1)
	_, err = api.GetByTokenId(t.Context(), id)
	require.ErrorIs(t, err, apierr.ErrNotFound)
	require.ErrorContains(t, err, "Token does not exist.")
	require.ErrorIs(t, api.DeleteByTokenId(t.Context(), id), apierr.ErrNotFound)
}

func TestTokenManagementIsForAdmins(t *testing.T) {
	t.Parallel()
	w := start(t)
	alice := w.AddUser("alice@example.com", false)
	token, id := w.AddToken(alice, "", 0)
	for _, try := range []struct{ method, path string }{
		{"GET", pathManaged}, {"GET", pathManaged + "/" + id}, {"DELETE", pathManaged + "/" + id},
	} {
		requireRefused(t, send(t, w, try.method, try.path, token, ""), 403, "PERMISSION_DENIED")
	}
	require.Len(t, w.Tokens(), 1)
}
