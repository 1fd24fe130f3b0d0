// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestAccessTokensHaveTheRightsOfTheGroup uses access tokens of roles with assume_group: what they may and may not do is the group's right, whatever
// their identity may do.
func TestAccessTokensHaveTheRightsOfTheGroup(t *testing.T) {
	t.Parallel()
	m := connect(t, connections[1])
	require.Equal(t, "oauth-m2m", m.authType)
	job := m.workspace.AddServicePrincipal("job", false)
	analysts := m.workspace.AddGroup("analysts", m.engine, job)
	m.workspace.AddGroup("strangers")
	for _, scope := range []string{"analysis", "engines"} {
		m.workspace.AddScope(scope, m.engine)
	}
	m.workspace.PutACL("analysis", "analysts", "READ")
	m.workspace.PutACL("engines", job.ApplicationID, "READ")

	m.write("roles/own", data{"credential_type": "oauth_token"})
	m.write("roles/group", data{"credential_type": "oauth_token", "assume_group": analysts})
	m.write("roles/job", data{"credential_type": "oauth_token", "assume_group": "analysts", "application_id": job.ApplicationID})
	m.write("roles/strangers", data{"credential_type": "oauth_token", "assume_group": "strangers"})
	warned, err := m.tryWrite("roles/admins", data{"credential_type": "oauth_token", "assume_group": "admins"})
	require.NoError(t, err)
	require.Contains(t, warned.Warnings[len(warned.Warnings)-1], "workspace admin")
	role := m.read("roles/group")
	require.Equal(t, []any{"analysts", analysts}, []any{role["assume_group"], role["assume_group_id"]})

	for name, want := range map[string][3]int{"own": {200, 200, 200}, "group": {200, 403, 403}, "job": {200, 403, 403}} {
		token := server.secret(m.mint(name).Data["access_token"].(string), "an access token")
		var got [3]int
		for i, path := range []string{"/api/2.0/secrets/list?scope=analysis", "/api/2.0/secrets/list?scope=engines", "/api/2.0/token-management/tokens"} {
			got[i] = m.get(path, token)
		}
		require.Equal(t, want, got, name)
	}
	_, err = m.tryMint("strangers", nil)
	requireRefused(t, err, 400, "can't assume the group", "strangers", "member")
	_, err = m.tryMint("group", data{"assume_group": "admins"})
	requireRefused(t, err, 400, "assume_group")
	require.Equal(t, simulator.KindOAuth, m.workspace.Introspect(server.secret(m.mint("own").Data["access_token"].(string), "an access token")).Kind)
}

func TestPolicyOfAGroupToken(t *testing.T) {
	t.Parallel()
	m := connect(t, connections[1])
	for _, group := range []string{"analysts", "scientists"} {
		m.workspace.AddGroup(group, m.engine)
		m.write("roles/"+group, data{"credential_type": "oauth_token", "assume_group": group, "scopes": "sql,jobs"})
	}
	m.workspace.AddScope("etl", m.engine)
	analyst := m.loginAs("group-token")
	for operation, body := range map[string]data{"read": nil, "write": {"scopes": "sql"}} {
		token := server.secret(analyst.may(operation, "creds/analysts", body).Data["access_token"].(string), "an access token")
		require.Equal(t, "analysts", m.workspace.Introspect(token).Group)
	}
	for _, body := range []data{{"deliver_scope": "etl", "deliver_key": "k"}, {"deliver_uc": "main.etl.k"}, {"assume_group": "scientists"}} {
		analyst.mayNot("write", "creds/analysts", body)
	}
	_, err := analyst.client.Logical().ReadWithData(m.path+"/creds/analysts", map[string][]string{"deliver_scope": {"etl"}, "deliver_key": {"k"}})
	require.Error(t, err)
	require.Empty(t, m.stored("etl"))
	analyst.mayDoNothingWith("creds/scientists", "roles/analysts", "roles/new", "config", "scopes/etl", "secrets/etl/k", "tokens")

	// Nobody can be bound to a group by the parameters of a role: Vault lets an empty value pass.
	writer := &person{mount: m.mount, client: m.loginWith(fmt.Sprintf(`path "%s/roles/mine" {
		capabilities        = ["create", "update"]
		required_parameters = ["credential_type", "assume_group"]
		allowed_parameters  = { "credential_type" = ["oauth_token"], "assume_group" = ["analysts"] }
	}`, m.path))}
	writer.mayNot("write", "roles/mine", data{"credential_type": "oauth_token", "assume_group": "scientists"})
	require.Empty(t, writer.may("write", "roles/mine", data{"credential_type": "oauth_token", "assume_group": ""}).Data["assume_group"])
}
