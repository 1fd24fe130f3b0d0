// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestOAuthSecretsHaveTheScopesThatWereAskedForOrAreNotMade, of a workspace that knows them, and of an older one.
func TestOAuthSecretsHaveTheScopesThatWereAskedForOrAreNotMade(t *testing.T) {
	t.Parallel()
	t.Run("known", func(t *testing.T) {
		t.Parallel()
		m := newConfiguredMount(t)
		sp := m.workspace.AddServicePrincipal("job", false)
		m.write("roles/job", data{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "scopes": "sql,clusters"})
		m.write("static-roles/job", data{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "scopes": "sql", "rotation_period": "24h"})
		shown := m.write("creds/job", data{"scopes": "sql"})
		server.secret(shown.Data["client_secret"].(string), "an OAuth secret")
		require.Equal(t, []any{"sql"}, shown.Data["scopes"])
		_, err := m.tryWrite("creds/job", data{"scopes": "sql,jobs"})
		requireRefused(t, err, 400, "scopes: ", `"jobs"`)
		for range 2 {
			static := m.read("static-creds/job")
			server.secret(static["client_secret"].(string), "an OAuth secret")
			require.Equal(t, []any{"sql"}, static["scopes"])
			m.write("rotate-role/job", data{})
		}
		for _, secret := range m.workspace.OAuthSecrets(sp) {
			require.Equal(t, []string{"sql"}, secret.Scopes)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		m := newMountOf(t, pluginName, simulator.WithoutSecretScopes())
		m.configure()
		sp := m.workspace.AddServicePrincipal("job", false)
		m.write("roles/job", data{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "scopes": "sql"})
		m.write("roles/own", data{"credential_type": "service_principal", "scopes": "sql"})
		m.write("roles/token", data{"credential_type": "oauth_token", "application_id": sp.ApplicationID, "scopes": "sql"})
		for _, role := range []string{"job", "own"} {
			creds := m.mint(role)
			require.Contains(t, strings.Join(creds.Warnings, " "), "did not confirm that the OAuth secret is limited to the API scopes sql")
			m.revoke(creds)
		}
		require.Empty(t, m.workspace.OAuthSecrets(sp))
		require.Len(t, m.workspace.ServicePrincipals(), 1)
		token := m.mint("token")
		value := server.secret(token.Data["access_token"].(string), "an access token")
		require.Equal(t, []string{"sql"}, m.workspace.Introspect(value).Scopes)
		m.write("roles/job", data{"scopes": ""})
		server.secret(m.mint("job").Data["client_secret"].(string), "an OAuth secret")
	})
}
