// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	m := ready(t)
	creds := m.mint("etl")
	id := creds.Data["token_id"].(string)
	_, foreign := m.workspace.AddToken(m.workspace.AddUser("somebody@example.com", false), "not the engine's", 0)

	resp, err := m.do(logical.ListOperation, "tokens/", nil)
	m.requireOK(resp, err)
	require.Len(t, resp.Data["keys"], 2)
	require.NotContains(t, resp.Data["keys"], foreign)
	info := resp.Data["key_info"].(map[string]any)[id].(map[string]any)
	require.Equal(t, map[string]any{
		"comment": creds.Data["comment"], "creation_time": creds.Data["creation_time"], "expiry_time": creds.Data["expiry_time"], "scopes": creds.Data["scopes"], "issued_by_this_mount": true,
	}, info)
	for _, key := range resp.Data["keys"].([]string) {
		if key != id {
			own := resp.Data["key_info"].(map[string]any)[key].(map[string]any)
			require.Equal(t, false, own["issued_by_this_mount"])
			require.Equal(t, "", own["expiry_time"], "for ever")
		}
	}

	read := m.read("tokens/" + id).Data
	require.Equal(t, id, read["token_id"])
	require.Equal(t, true, read["issued_by_this_mount"])
	require.NotContains(t, read, "token_value")
	resp, err = m.do(logical.ReadOperation, "tokens/"+foreign, nil)
	require.NoError(t, err)
	require.Nil(t, resp, "a 404")

	for range 2 {
		resp, err = m.do(logical.DeleteOperation, "tokens/"+id, nil)
		m.requireOK(resp, err)
		require.Empty(t, m.whoamiLive(creds))
	}
	resp, err = m.revoke(creds.Secret)
	m.requireOK(resp, err)
}

func TestTokensOfEverybody(t *testing.T) {
	t.Parallel()
	m := ready(t)
	creds := m.mint("etl")
	other := m.workspace.AddUser("somebody@example.com", false)
	_, foreign := m.workspace.AddToken(other, "not the engine's", 0)
	all := map[string]any{"all": true}

	resp, err := m.do(logical.ListOperation, "tokens/", all)
	m.requireOK(resp, err)
	require.Contains(t, resp.Data["keys"], foreign)
	require.Contains(t, resp.Data["keys"], creds.Data["token_id"])
	info := resp.Data["key_info"].(map[string]any)[foreign].(map[string]any)
	require.Equal(t, other.ID, fmt.Sprint(info["owner_id"]))
	require.Equal(t, "somebody@example.com", info["created_by_username"])
	require.Equal(t, false, info["issued_by_this_mount"])

	resp, err = m.do(logical.ReadOperation, "tokens/"+foreign, all)
	m.requireOK(resp, err)
	require.Equal(t, "not the engine's", resp.Data["comment"])
	for range 2 {
		resp, err = m.do(logical.DeleteOperation, "tokens/"+foreign, all)
		m.requireOK(resp, err)
		resp, err = m.do(logical.ReadOperation, "tokens/"+foreign, all)
		require.NoError(t, err)
		require.Nil(t, resp)
	}

	modest, _ := m.workspace.AddToken(other, "the engine's own", 0)
	m.write("config", map[string]any{"token": modest})
	for op, path := range map[logical.Operation]string{logical.ListOperation: "tokens", logical.ReadOperation: "tokens/x", logical.DeleteOperation: "tokens/x"} {
		resp, err = m.do(op, path, all)
		m.refused(resp, err, "PERMISSION_DENIED")
	}
}

func TestTokensFaults(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: listPath, Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"})
	resp, err := m.do(logical.ListOperation, "tokens", nil)
	m.refused(resp, err, "PERMISSION_DENIED", "token/list")
	resp, err = m.do(logical.ReadOperation, "tokens/x", nil)
	m.refused(resp, err, "PERMISSION_DENIED")
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE"})
	resp, err = m.do(logical.DeleteOperation, "tokens/x", nil)
	m.coded(http.StatusBadGateway, resp, err, "TEMPORARILY_UNAVAILABLE")

	resp, err = m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	for _, op := range []logical.Operation{logical.ReadOperation, logical.DeleteOperation} {
		resp, err = m.do(op, "tokens/x", nil)
		m.refused(resp, err, "config")
	}
	_, err = m.do(logical.ReadOperation, "tokens/"+strings.Repeat("x/", 2), nil)
	require.ErrorIs(t, err, logical.ErrUnsupportedPath)
}

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
	byHand := credential.TokenID(storedToken(m))
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

// TestOnlyCurrentTokensAreNotDeletedByHand shows which tokens can't be deleted under those who use them.
func TestOnlyCurrentTokensAreNotDeletedByHand(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.write("static-roles/a", map[string]any{"credential_type": "pat", "rotation_grace_period": "24h"})
	refused := func(id any, words ...string) {
		t.Helper()
		for _, all := range []bool{false, true} {
			resp, err := m.do(logical.DeleteOperation, "tokens/"+id.(string), map[string]any{"all": all})
			m.refused(resp, err, append(words, "token_id: ", id.(string))...)
		}
	}
	refused(credential.TokenID(storedToken(m)), "config/rotate-root")
	root := m.write("config/rotate-root", nil).Data["credential_id"]
	refused(root, "config/rotate-root")
	old := m.read("static-roles/a").Data["credential_id"]
	refused(old, `static role "a"`, "rotate-role/a")
	current := m.write("rotate-role/a", nil).Data["credential_id"]
	refused(current, `static role "a"`)
	m.gone("tokens/" + old.(string))

	m.write("config/rotate-root", nil)
	m.gone("tokens/" + root.(string))
	made := m.read("config").Data["credential_id"]
	m.write("config", map[string]any{"token": m.byHand(0)})
	m.gone("tokens/" + made.(string))
	refused(credential.TokenID(storedToken(m)), "config/rotate-root")
	m.goOn(c, 2*day, 10*time.Minute)
	require.Empty(t, m.read("config").Data["retired_ids"])
	require.Empty(t, m.read("config").Data["pending_error"])
	require.Empty(t, m.read("static-roles/a").Data["pending_error"])
	m.requireRoot()
	m.requireStatic(c, "a")
}
