// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestTokensInUseAreNotDeleted shows which tokens can't be deleted as if nobody needed them.
func TestTokensInUseAreNotDeleted(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.workspace.SetTokenPermission(sp, true)
	pat := m.write("static-roles/pat", map[string]any{"credential_type": "pat", "rotation_period": "24h"}).Data["credential_id"].(string)
	obo := m.write("static-roles/obo", map[string]any{"credential_type": "obo_token", "application_id": sp.ApplicationID, "rotation_period": "24h"}).Data["credential_id"].(string)
	refuse := func(id, word string) {
		for _, data := range []map[string]any{nil, {"all": true}} {
			resp, err := m.do(logical.DeleteOperation, "tokens/"+id, data)
			m.refused(resp, err, "token_id: ", id, word)
		}
	}
	byHand := tokenIDOf(storedToken(m))
	refuse(byHand, "the engine itself connects with")
	refuse(pat, `static role "pat"`)
	refuse(obo, `static role "obo"`)
	require.Zero(t, m.workspace.Count("", deletePath))

	made := m.write("config/rotate-root", nil).Data["credential_id"].(string)
	refuse(made, "the engine itself connects with")
	m.restartAt(c)
	refuse(made, "the engine itself connects with")
	m.requireRoot()
	for _, role := range []string{"pat", "obo"} {
		require.Equal(t, http.StatusOK, m.whoami(m.read("static-creds/" + role).Data["token_value"].(string)))
	}

	// What was replaced is in nobody's way.
	m.write("rotate-role/pat", nil)
	resp, err := m.do(logical.DeleteOperation, "tokens/"+pat, nil)
	m.requireOK(resp, err)
	m.goOn(c, 2*day, time.Hour)
	require.Empty(t, m.read("static-roles/pat").Data["pending_error"])
}

// storedToken is the engine's token as it is stored.
func storedToken(m *mount) client.Secret {
	config, err := readConfig(m.t.Context(), m.storage)
	require.NoError(m.t, err)
	return config.Token
}

// TestATokenMadeByHandIsForgottenWhenItIsDeleted shows that the advice to delete a token ends when it was followed.
func TestATokenMadeByHandIsForgottenWhenItIsDeleted(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	resp := m.write("config/rotate-root", nil)
	ids := resp.Data["hand_made_credentials"].([]string)
	require.Len(t, ids, 1)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "vault delete databricks/tokens/"+ids[0])
	require.Equal(t, http.StatusOK, m.whoami(m.token), "the engine leaves it alone")
	require.Contains(t, strings.Join(m.read("config").Warnings, "\n"), ids[0])
	deleted, err := m.do(logical.DeleteOperation, "tokens/"+ids[0], nil)
	m.requireOK(deleted, err)
	require.Equal(t, http.StatusForbidden, m.whoami(m.token))
	for range 2 {
		config := m.read("config")
		require.Empty(t, config.Data["hand_made_credentials"])
		require.Empty(t, config.Warnings)
		m.restartAt(c)
	}
	require.Empty(t, m.write("config/rotate-root", nil).Warnings)
	m.requireRoot()
}

// scopedRoot connects the mount with a token that has API scopes, and answers them.
func scopedRoot(t *testing.T) (*mount, []string) {
	t.Helper()
	m, _ := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	scopes := []string{"authentication", "scim"}
	m.write("roles/s", map[string]any{"credential_type": "pat", "scopes": scopes})
	m.write("config", map[string]any{"token": m.read("creds/s").Data["token_value"]})
	return m, scopes
}

// scopesOf are the API scopes of a live token.
func (m *mount) scopesOf(id string) []string {
	for _, token := range m.workspace.Tokens() {
		if token.ID == id {
			return token.Scopes
		}
	}
	require.Fail(m.t, "there is no such token", id)
	return nil
}

// tokenList is an answer to a listing of tokens.
func tokenList(t *testing.T, scopes ...[]string) string {
	t.Helper()
	infos := []map[string]any{}
	for i, scopes := range scopes {
		infos = append(infos, map[string]any{"token_id": nonce(i) + nonce(i), "creation_time": 1772366400000, "expiry_time": -1, "comment": "somebody's", "scopes": scopes})
	}
	body, err := json.Marshal(map[string]any{"token_infos": infos})
	require.NoError(t, err)
	return string(body)
}

// TestScopesOfTheEnginesTokenStay shows that a rotation never gives a token more API scopes than the one before had, even when
// Databricks' list lags behind.
func TestScopesOfTheEnginesTokenStay(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"up to date":         "",
		"empty":              "{}",
		"others":             tokenList(t, nil, nil),
		"others with scopes": tokenList(t, []string{"sql"}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, scopes := scopedRoot(t)
			require.Equal(t, scopes, m.scopesOf(m.write("config/rotate-root", nil).Data["credential_id"].(string)))
			for range 2 {
				if body != "" {
					m.workspace.Inject(simulator.Fault{Path: listPath, Status: http.StatusOK, Body: body, Times: 1})
				}
				require.Equal(t, scopes, m.scopesOf(m.write("config/rotate-root", nil).Data["credential_id"].(string)))
			}
		})
	}
}

// TestATokenOfUnknownScopesIsNotReplaced shows that a token made by hand that isn't found among others with API scopes is not replaced
// by one that could do more.
func TestATokenOfUnknownScopesIsNotReplaced(t *testing.T) {
	t.Parallel()
	m, scopes := scopedRoot(t)
	before := len(m.workspace.Tokens())
	m.workspace.Inject(simulator.Fault{Path: listPath, Status: http.StatusOK, Body: tokenList(t, nil, []string{"sql"}), Times: 1})
	resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
	m.refused(resp, err, "token: ", "API scopes")
	require.Len(t, m.workspace.Tokens(), before)
	require.Empty(t, m.walEntries())
	require.Equal(t, scopes, m.scopesOf(m.write("config/rotate-root", nil).Data["credential_id"].(string)), "and when it is found, it is")
}
