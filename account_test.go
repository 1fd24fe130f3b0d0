// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestAccountMountHasNothingOfAWorkspace: Databricks would answer as if the host were wrong.
func TestAccountMountHasNothingOfAWorkspace(t *testing.T) {
	t.Parallel()
	m, engine := accountReady(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/secret", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID})
	_, secret := m.workspace.AddOAuthSecret(engine, day)
	value := map[string]any{"string_value": "value-one"}
	for _, verify := range []bool{true, false} {
		m.write("config", map[string]any{"client_secret": m.unlogged(secret), "verify_connection": verify})
		m.restart()
		m.workspace.ResetCalls()
		for _, row := range []struct {
			op   logical.Operation
			path string
			data map[string]any
			word string
		}{
			{logical.ListOperation, "scopes", nil, "scopes: "},
			{logical.ListOperation, "scopes/", nil, "scopes: "},
			{logical.ReadOperation, "scopes/etl", nil, "scopes: "},
			{logical.CreateOperation, "scopes/etl", nil, "scopes: "},
			{logical.UpdateOperation, "scopes/etl", nil, "scopes: "},
			{logical.DeleteOperation, "scopes/etl", nil, "scopes: "},
			{logical.ListOperation, "secrets", nil, "secrets: "},
			{logical.ListOperation, "secrets/etl", nil, "secrets: "},
			{logical.ReadOperation, "secrets/etl/key", nil, "secrets: "},
			{logical.CreateOperation, "secrets/etl/key", value, "secrets: "},
			{logical.UpdateOperation, "secrets/etl/key", value, "secrets: "},
			{logical.DeleteOperation, "secrets/etl/key", nil, "secrets: "},
			{logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"a": "value-two"}}, "secrets: "},
			{logical.ListOperation, "uc-secrets/main/app", nil, "uc-secrets: "},
			{logical.ReadOperation, "uc-secrets/main/app/key", nil, "uc-secrets: "},
			{logical.UpdateOperation, "uc-secrets/main/app/key", value, "uc-secrets: "},
			{logical.DeleteOperation, "uc-secrets/main/app/key", nil, "uc-secrets: "},
			{logical.ListOperation, "acls/etl", nil, "acls: "},
			{logical.ReadOperation, "acls/etl/users", nil, "acls: "},
			{logical.CreateOperation, "acls/etl/users", map[string]any{"permission": "READ"}, "acls: "},
			{logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ", "ttl": "1h"}, "acls: "},
			{logical.DeleteOperation, "acls/etl/users", nil, "acls: "},
			{logical.ListOperation, "tokens", nil, "tokens: "},
			{logical.ListOperation, "tokens", map[string]any{"all": true}, "tokens: "},
			{logical.ReadOperation, "tokens/1", nil, "tokens: "},
			{logical.DeleteOperation, "tokens/1", map[string]any{"all": true}, "tokens: "},
			{logical.UpdateOperation, "creds/secret", map[string]any{"deliver_scope": "etl", "deliver_key": "job"}, "deliver_scope: "},
			{logical.UpdateOperation, "creds/secret", map[string]any{"deliver_uc": "main.app.job"}, "deliver_uc: "},
			{logical.CreateOperation, "static-roles/s", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID, "deliver_uc": "main.app.job"}, "deliver_uc: "},
			{logical.CreateOperation, "static-roles/s", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID, "deliver_scope": "etl", "deliver_key": "job"}, "deliver_scope: "},
		} {
			// Not by do, whose existence check is another request.
			resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: row.op, Path: row.path, Data: row.data, Storage: m.storage, MountPoint: "databricks/"})
			m.refused(resp, err, row.word, "connected to account "+testAccountID, "URL of the workspace")
			require.Empty(t, m.workspace.Calls(), "%s %s", row.op, row.path)
		}
		for _, kind := range []string{"pat", "obo_token"} {
			for _, path := range []string{"roles/x", "static-roles/x"} {
				data := map[string]any{"credential_type": kind}
				if kind == "obo_token" {
					data["service_principal_id"] = sp.ID
				}
				resp, err := m.do(logical.UpdateOperation, path, data)
				m.refused(resp, err, "credential_type: "+kind+" needs a workspace", "connected to an account")
			}
		}
		resp, err := m.do(logical.UpdateOperation, "roles/x", map[string]any{"credential_type": "service_principal", "groups": "readers"})
		m.refused(resp, err, "groups: ", "connected to an account")
		require.Empty(t, m.workspace.Calls())
		require.Empty(t, m.walEntries())
	}
	// The tidy of an account leaves tokens alone.
	m.write("tidy", nil)
	require.Eventually(t, func() bool { return m.read("tidy/status").Data["state"] == "finished" }, 10*time.Second, time.Millisecond)
	for _, request := range m.requests() {
		require.NotContains(t, request, "token/list")
		require.NotContains(t, request, "token-management")
	}
}

// TestStaticRoleOfAWorkspaceOnAnAccountMount: the mount was a workspace's when the role was written.
func TestStaticRoleOfAWorkspaceOnAnAccountMount(t *testing.T) {
	t.Parallel()
	m, engine := accountReady(t)
	m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token, "auth_type": "pat", "account_id": ""})
	m.workspace.AddScope("etl", m.admin)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("static-roles/s", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID, "deliver_scope": "etl", "deliver_key": "job"})
	_, secret := m.workspace.AddOAuthSecret(engine, day)
	m.write("config", map[string]any{"account_id": testAccountID, "client_id": engine.ApplicationID, "client_secret": m.unlogged(secret)})
	m.workspace.ResetCalls()
	resp, err := m.do(logical.UpdateOperation, "rotate-role/s", nil)
	m.refused(resp, err, "config: ", "write the role again")
	resp, err = m.do(logical.UpdateOperation, "static-roles/s", map[string]any{"rotation_period": "24h"})
	m.refused(resp, err, "deliver_scope: is in a workspace")
	for _, request := range m.requests() {
		require.NotContains(t, request, "/secrets/put")
		require.NotContains(t, request, "/secrets/list")
	}
}

// TestAccountIDOfAWorkspaceMount: it has no effect there, so who sent it may have meant a mount of the account.
func TestAccountIDOfAWorkspaceMount(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	config := map[string]any{"host": "https://dbc-1.cloud.databricks.com", "token": m.token, "account_id": testAccountID, "verify_connection": false}
	require.Contains(t, m.write("config", config).Warnings, "account_id has no effect, because https://dbc-1.cloud.databricks.com is the host of a workspace, and the mount works on that. For a mount of the account, host is the account console, for example https://accounts.cloud.databricks.com; for a host that serves several workspaces, send workspace_id, too.")
	config["workspace_id"] = "4711"
	for _, warning := range m.write("config", config).Warnings {
		require.NotContains(t, warning, "account_id")
	}
}
