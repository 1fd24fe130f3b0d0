// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUsersAreListedAndShown(t *testing.T) {
	t.Parallel()
	w := start(t)
	boss, alice := w.AddUser("root@example.com", true), w.AddUser("alice@example.com", false)
	admin, _ := w.AddToken(boss, "", 0)
	user, _ := w.AddToken(alice, "", 0)
	sp := w.AddServicePrincipal("etl", false)
	gone := w.AddUser("gone@example.com", false)
	w.SetWorkspaceMember(gone, false)
	const path = "/api/2.0/preview/scim/v2/Users"

	a := send(t, w, "GET", path, admin, "").json(t)
	require.EqualValues(t, 2, a["totalResults"], "service principals aren't users")
	first := a["Resources"].([]any)[0].(map[string]any)
	require.Equal(t, "root@example.com", first["userName"])
	require.Contains(t, first, "emails")
	require.Contains(t, first, "groups")
	a = send(t, w, "GET", path+`?filter=userName+eq+%22alice@example.com%22&attributes=id`, admin, "").json(t)
	require.Equal(t, map[string]any{"schemas": []any{"urn:ietf:params:scim:schemas:core:2.0:User"}, "id": alice.ID}, a["Resources"].([]any)[0])

	a = send(t, w, "GET", path+"/"+boss.ID, user, "").json(t)
	require.Equal(t, map[string]any{
		"schemas": []any{"urn:ietf:params:scim:schemas:core:2.0:User"}, "id": boss.ID, "displayName": boss.DisplayName,
	}, a, "no more than that for those who are no admins")
	for _, id := range []string{sp.ID, gone.ID, "1"} {
		require.Equal(t, 404, send(t, w, "GET", path+"/"+id, admin, "").status)
	}
	limited, _ := mint(t, w, user, `{"scopes":["sql"]}`)
	requireRefused(t, send(t, w, "GET", path, limited, ""), 403, 403.0)
	requireRefused(t, send(t, w, "GET", path+"/"+boss.ID, limited, ""), 403, 403.0)
}
