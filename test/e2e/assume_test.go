// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
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
