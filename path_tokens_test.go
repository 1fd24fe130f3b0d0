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
			require.Nil(t, own["expiry_time"], "for ever")
		}
	}

	read := m.read("tokens/" + id).Data
	require.Equal(t, id, read["token_id"])
	require.Equal(t, true, read["issued_by_this_mount"])
	require.NotContains(t, read, "token_value")
	require.Equal(t, "not the engine's", m.read("tokens/" + foreign).Data["comment"], "the engine is an admin")
	resp, err = m.do(logical.ReadOperation, "tokens/x", nil)
	require.NoError(t, err)
	require.Nil(t, resp, "a 404")

	for range 2 {
		resp, err = m.do(logical.DeleteOperation, "tokens/"+id, nil)
		m.requireOK(resp, err)
		require.Empty(t, m.whoamiLive(creds))
	}
	require.Len(t, resp.Warnings, 1)
	require.Contains(t, resp.Warnings[0], "Nobody at "+m.workspace.URL()+" has a token with the id "+id)
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

// obo makes a token that acts for a service principal, and returns its id and value.
func (m *mount) obo() (id, value string) {
	m.t.Helper()
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.workspace.SetTokenPermission(sp, true)
	m.write("roles/obo", map[string]any{"credential_type": "obo_token", "application_id": sp.ApplicationID})
	data := m.mint("obo").Data
	return data["token_id"].(string), data["token_value"].(string)
}

// TestADeletedTokenIsDeadWhoeverHasIt shows that a delete which succeeds without a word has deleted.
func TestADeletedTokenIsDeadWhoeverHasIt(t *testing.T) {
	t.Parallel()
	for _, data := range []map[string]any{nil, {"all": true}} {
		m := ready(t)
		id, value := m.obo()
		foreign, foreignID := m.workspace.AddToken(m.workspace.AddUser("somebody@example.com", false), "not the engine's", 0)
		own := m.mint("etl").Data
		for id, value := range map[string]string{id: value, foreignID: foreign, own["token_id"].(string): own["token_value"].(string)} {
			require.Equal(t, http.StatusOK, m.whoami(value))
			resp, err := m.do(logical.DeleteOperation, "tokens/"+id, data)
			m.requireOK(resp, err)
			require.Empty(t, resp.Warnings)
			require.Equal(t, http.StatusForbidden, m.whoami(value))
		}
	}
}

// TestADeleteIsNoSuccessWhereTheTokenMayLive shows what a mount says that can't look for other people's tokens.
func TestADeleteIsNoSuccessWhereTheTokenMayLive(t *testing.T) {
	t.Parallel()
	m := ready(t)
	id, value := m.obo()
	modest, _ := m.workspace.AddToken(m.workspace.AddUser("modest@example.com", false), "the engine's own", 0)
	m.write("config", map[string]any{"token": modest, "max_retries": 0})
	wayOut := []string{"token_id: ", "may have this id and still work", "all=true", "workspace admin", "databricks token-management delete "}
	for _, other := range []string{id, "x", strings.Repeat("0", 64)} {
		for _, op := range []logical.Operation{logical.DeleteOperation, logical.ReadOperation} {
			resp, err := m.do(op, "tokens/"+other, nil)
			m.coded(http.StatusNotFound, resp, err, append(wayOut, other, "PERMISSION_DENIED")...)
		}
	}
	require.Equal(t, http.StatusOK, m.whoami(value))
	for _, event := range m.sent() {
		require.NotEqual(t, "databricks/token-delete", string(event.Type))
	}

	own := m.mint("etl").Data
	resp, err := m.do(logical.DeleteOperation, "tokens/"+own["token_id"].(string), nil)
	m.requireOK(resp, err)
	require.Empty(t, resp.Warnings)
	require.Equal(t, http.StatusForbidden, m.whoami(own["token_value"].(string)))
	resp, err = m.do(logical.DeleteOperation, "tokens/"+own["token_id"].(string), nil)
	m.coded(http.StatusNotFound, resp, err, wayOut...)
}

// TestOnlyTheListOfAllTokensIsProofThatNobodyHasOne shows what a "not found" of a delete alone is not taken for.
func TestOnlyTheListOfAllTokensIsProofThatNobodyHasOne(t *testing.T) {
	t.Parallel()
	const managed = "/api/2.0/token-management/tokens"
	gone := simulator.Fault{Status: http.StatusNotFound, ErrorCode: "RESOURCE_DOES_NOT_EXIST", Message: "Token does not exist."}
	at := func(fault simulator.Fault, method, path string) simulator.Fault {
		fault.Method, fault.Path = method, path
		return fault
	}
	for name, test := range map[string]struct {
		faults []simulator.Fault
		check  func(m *mount, resp *logical.Response, err error)
	}{
		"listed all the same": {nil, func(m *mount, resp *logical.Response, err error) {
			m.coded(http.StatusNotFound, resp, err, "but lists")
		}},
		"a list without the engine's own": {[]simulator.Fault{{Method: "GET", Path: managed, Status: 200, Body: `{}`}}, func(m *mount, resp *logical.Response, err error) {
			m.coded(http.StatusBadGateway, resp, err, "lacks even the engine's own")
		}},
		"no list": {[]simulator.Fault{{Method: "GET", Path: managed, Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE"}}, func(m *mount, resp *logical.Response, err error) {
			m.coded(http.StatusBadGateway, resp, err, "token-management/list", "TEMPORARILY_UNAVAILABLE")
		}},
		"a list for others": {[]simulator.Fault{{Method: "GET", Path: managed, Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"}}, func(m *mount, resp *logical.Response, err error) {
			m.coded(http.StatusNotFound, resp, err, "may have this id and still work")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			m.write("config", map[string]any{"max_retries": 0})
			id, value := m.obo()
			m.workspace.Inject(at(gone, "DELETE", managed+"/"+id))
			for _, fault := range test.faults {
				m.workspace.Inject(fault)
			}
			resp, err := m.do(logical.DeleteOperation, "tokens/"+id, nil)
			test.check(m, resp, err)
			require.Equal(t, http.StatusOK, m.whoami(value))
		})
	}
	for name, fault := range map[string]simulator.Fault{
		"a proxy's page":       {Status: 404, Body: "<html>no such token</html>"},
		"no such API":          {Status: 404, ErrorCode: "ENDPOINT_NOT_FOUND", Message: "No API found for 'DELETE /token'"},
		"another workspace's":  {Status: 404, ErrorCode: "NOT_FOUND", Message: "Workspace 123 does not exist."},
		"another account's":    {Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST", Message: "Account 123 is not served by this host."},
		"a feature turned off": {Status: 404, ErrorCode: "FEATURE_DISABLED", Message: "Token management is not enabled."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			id, _ := m.obo()
			m.workspace.Inject(at(fault, "DELETE", managed+"/"+id))
			resp, err := m.do(logical.DeleteOperation, "tokens/"+id, nil)
			m.coded(http.StatusNotFound, resp, err, "may have this id and still work")
			m.workspace.Inject(at(fault, "POST", deletePath))
			resp, err = m.do(logical.DeleteOperation, "tokens/"+id, nil)
			m.refused(resp, err, "token/delete")
		})
	}
}

// TestTokenIDsAreTakenAsTheyAre shows that ids which can't be one are refused without a call, and that one in another case neither ends
// what is in use nor passes for a success.
func TestTokenIDsAreTakenAsTheyAre(t *testing.T) {
	t.Parallel()
	m := ready(t)
	id, value := m.obo()
	m.workspace.ResetCalls()
	for _, bad := range []string{" " + id, id + " ", id + "\n", "..", "a.b", "é", strings.Repeat("a", 129), "%2e"} {
		for _, op := range []logical.Operation{logical.DeleteOperation, logical.ReadOperation} {
			resp, err := m.do(op, "tokens/"+bad, nil)
			m.refused(resp, err, "token_id: ", "letters, digits")
		}
	}
	require.Empty(t, m.workspace.Calls())
	for _, data := range []map[string]any{nil, {"all": true}} {
		resp, err := m.do(logical.DeleteOperation, "tokens/"+strings.ToUpper(id), data)
		m.coded(http.StatusNotFound, resp, err, "lists "+id, "case")
		resp, err = m.do(logical.DeleteOperation, "tokens/"+strings.ToUpper(credential.TokenID(storedToken(m))), data)
		m.refused(resp, err, "the engine itself connects with")
	}
	require.Equal(t, http.StatusOK, m.whoami(value))
	m.requireRoot()
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

// TestAnOAuthSecretIsNoToken shows that the id of an OAuth secret which the config names is not taken for that of a token that is gone.
func TestAnOAuthSecretIsNoToken(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "oauth-m2m", nil)
	r.rotate()
	left := r.read("config").Data["hand_made_credentials"].([]string)
	require.NotEmpty(t, left)
	resp, err := r.do(logical.DeleteOperation, "tokens/"+left[0], nil)
	r.refused(resp, err, "token_id: ")
	require.Equal(t, left, r.read("config").Data["hand_made_credentials"])
	require.Contains(t, r.live(), left[0])
}

// TestAnEmptyListIsNoProof shows that a token is not taken to be absent because token management lists none at all.
func TestAnEmptyListIsNoProof(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "oauth-m2m", nil)
	r.workspace.Inject(simulator.Fault{Path: "/api/2.0/token-management/tokens*", Method: http.MethodDelete, Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST"})
	r.workspace.Inject(simulator.Fault{Path: "/api/2.0/token-management/tokens", Method: http.MethodGet, Status: 200, Body: "{}"})
	resp, err := r.do(logical.DeleteOperation, "tokens/"+strings.Repeat("a", 64), nil)
	r.coded(http.StatusBadGateway, resp, err, "nothing was deleted")
}
