// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSnapshot takes a workspace through JSON into another one: both hold the same, values that were handed out work there, and what
// it makes next is new.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	first := New(WithAccount("acc"))
	defer first.Close()
	admin, user := first.AddUser("admin@example.com", true), first.AddUser("user@example.com", false)
	outside := first.AddServicePrincipal("outside", false)
	sp := first.AddServicePrincipal("bi", false)
	first.SetManager(sp, user)
	first.AddAccountAdmin(outside)
	first.SetWorkspaceMember(outside, false)
	first.AddGroup("readers", user, sp)
	value, id := first.AddToken(admin, "a token", time.Hour)
	_, dead := first.AddToken(user, "revoked", 0)
	first.RevokeToken(dead)
	secretID, _ := first.AddOAuthSecret(sp, 0)
	first.AddScope("Etl", admin)
	first.PutSecret("etl", "k", []byte{0, 255})
	first.PutACL("etl", "readers", "WRITE")

	raw, err := json.Marshal(first.Snapshot())
	require.NoError(t, err)
	var shot Snapshot
	require.NoError(t, json.Unmarshal(raw, &shot))
	second := New(WithAccount("acc"))
	defer second.Close()
	second.AddUser("else@example.com", true)
	second.Restore(shot)
	require.Equal(t, first.Snapshot(), second.Snapshot())
	require.Equal(t, first.Tokens(), second.Tokens())
	require.Equal(t, first.Groups(), second.Groups())
	require.Equal(t, first.Scopes(), second.Scopes())
	require.Equal(t, first.ServicePrincipals(), second.ServicePrincipals())
	require.Equal(t, first.OAuthSecrets(sp), second.OAuthSecrets(sp))

	state := second.Introspect(value)
	require.True(t, state.Live)
	require.Equal(t, admin.ID, state.Owner.ID)
	require.True(t, state.Owner.Admin)
	require.True(t, second.RevokeToken(id))
	second.RevokeOAuthSecret(secretID)
	require.Empty(t, second.OAuthSecrets(sp))
	require.NotContains(t, []string{admin.ID, user.ID, sp.ID}, second.AddUser("new@example.com", false).ID)
	require.NotContains(t, groupIDs(first), second.AddGroup("new"))

	require.Panics(t, func() { second.Restore(Snapshot{WorkspaceID: "1"}) })
	require.Panics(t, func() { second.Restore(Snapshot{WorkspaceID: shot.WorkspaceID}) })
	shot.Tokens[0].Owner = "1"
	require.Panics(t, func() { second.Restore(shot) })
}

func groupIDs(w *Workspace) []string {
	var ids []string
	for _, g := range w.Groups() {
		ids = append(ids, g.ID)
	}
	return ids
}
