// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

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

// whoamiLive is the ids of the live tokens that this answer handed out.
func (m *mount) whoamiLive(creds *logical.Response) []string {
	var live []string
	for _, token := range m.minted() {
		if token.ID == creds.Data["token_id"] {
			live = append(live, token.ID)
		}
	}
	return live
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
