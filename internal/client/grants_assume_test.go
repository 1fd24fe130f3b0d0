// SPDX-License-Identifier: MPL-2.0

package client

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAssumeGroup is the request for a token with a group's rights, and its refusals, whose form is not documented.
func TestAssumeGroup(t *testing.T) {
	t.Parallel()
	rights := TokenRights{Scopes: []string{"sql"}, GroupID: "731"}
	for name, row := range map[string]struct {
		cfg  func(string) Config
		own  bool
		form string
	}{
		"own":       {oauthConfig, true, "assume_group=731\ngrant_type=client_credentials\nscope=sql"},
		"foreign":   {patConfig, false, "assume_group=731\ngrant_type=client_credentials\nscope=sql"},
		"exchanged": {oidcConfig, true, ""},
	} {
		ask := func(c *Client, rights TokenRights) error {
			var err error
			if row.own {
				_, err = c.OwnAccessToken(t.Context(), rights)
			} else {
				_, err = c.AccessTokenFor(t.Context(), foreignID, foreignKey, rights)
			}
			return err
		}
		s := newScript(t, answer(200, tokenBody))
		c := newClient(t, row.cfg(s.URL))
		require.NoError(t, ask(c, rights), name)
		if row.form != "" {
			require.Equal(t, row.form, s.lastForm(), name)
		}
		require.Contains(t, s.lastForm(), "assume_group=731")
		require.NoError(t, ask(c, TokenRights{}))
		require.NotContains(t, s.lastForm(), "assume_group", "it is no property of the connection")

		for _, code := range []string{"invalid_request", "access_denied", "invalid_grant", "unauthorized_client"} {
			for _, status := range []int{400, 401, 403} {
				s := newScript(t, answer(status, `{"error":"`+code+`","error_description":"no"}`))
				var failure *Error
				require.ErrorAs(t, ask(newClient(t, row.cfg(s.URL)), rights), &failure)
				require.Equal(t, PermissionDenied, failure.Kind, "%s %s", name, code)
				require.Contains(t, failure.Error(), "rights of the group 731")
				require.Len(t, s.all(), 1, "it is not repeated")
			}
		}

		// Whatever else is refused says nothing of the group, and keeps its own advice.
		for _, other := range []struct {
			status       int
			body, advice string
		}{
			{404, `{"error":"invalid_request"}`, hintHost}, {404, "no such page", hintHost}, {400, "nonsense", "check "}, {403, "<html>no</html>", "check "},
			{400, `{"error":"server_error"}`, "check "}, {422, `{"error":"access_denied"}`, "check "}, {400, `{"error":"invalid_scope"}`, "check the scopes"},
		} {
			s := newScript(t, answer(other.status, other.body))
			var failure *Error
			require.ErrorAs(t, ask(newClient(t, row.cfg(s.URL)), rights), &failure)
			require.NotEqual(t, PermissionDenied, failure.Kind, "%s %v", name, other)
			require.NotContains(t, failure.Error(), "group", "%s %v", name, other)
			require.Contains(t, failure.Error(), other.advice)
			if !row.own {
				require.NotContains(t, failure.Error(), "client_id", "it is not that of the config")
			}
		}
		s = newScript(t)
		require.True(t, IsKind(ask(newClient(t, row.cfg(s.URL)), TokenRights{GroupID: "a b"}), Refused), name)
		require.Empty(t, s.all())
	}

	// A secret that isn't known yet is answered without a code, too.
	s := newScript(t, answer(401, "who is that?"), answer(401, `{"error":"invalid_client"}`), answer(200, tokenBody))
	_, err := newClient(t, patConfig(s.URL)).AccessTokenFor(t.Context(), foreignID, foreignKey, rights)
	require.NoError(t, err)
	require.Len(t, s.all(), 3)

	for name, cfg := range map[string]func(string) Config{"account": accountConfig, "azure": azureConfig} {
		s := newScript(t)
		_, err := newClient(t, cfg(s.URL)).OwnAccessToken(t.Context(), TokenRights{GroupID: "731"})
		require.True(t, IsKind(err, Refused), name)
		require.Contains(t, err.Error(), "can't have a group's rights")
		require.Empty(t, s.all())
	}
}

func TestFindGroup(t *testing.T) {
	t.Parallel()
	none := `{"totalResults":0,"Resources":[]}`
	s := newScript(t, answer(200, `{"id":"731","displayName":"analysts"}`))
	found, err := newClient(t, patConfig(s.URL)).FindGroup(t.Context(), "731")
	require.NoError(t, err)
	require.Equal(t, &Group{"731", "analysts"}, found)

	// A name may be a number, too.
	s = newScript(t, answer(404, `{"status":"404","detail":"Group with id 2024 not found."}`), answer(200, `{"totalResults":1,"Resources":[{"id":"9","displayName":"2024"}]}`))
	found, err = newClient(t, patConfig(s.URL)).FindGroup(t.Context(), "2024")
	require.NoError(t, err)
	require.Equal(t, &Group{"9", "2024"}, found)

	for _, name := range []string{"analysts", "../x", ""} {
		s = newScript(t, answer(200, none))
		_, err = newClient(t, patConfig(s.URL)).FindGroup(t.Context(), name)
		require.True(t, IsGone(err), name)
	}
	s = newScript(t, answer(200, `{"id":"731"}`))
	_, err = newClient(t, patConfig(s.URL)).FindGroup(t.Context(), "731")
	require.True(t, IsKind(err, Unavailable))
}
