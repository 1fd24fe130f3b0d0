// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const tokenFileVariable = "DATABRICKS_OIDC_TOKEN_FILEPATH"

// TestIdentityTokensOfVaultTakeEnterprise: the Vault of these tests is the Community edition.
func TestIdentityTokensOfVaultTakeEnterprise(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	engine := m.workspace.AddServicePrincipal("engine", true)
	m.workspace.ResetCalls()
	_, err := m.tryWrite("config", data{
		"host": m.workspace.URL(), "auth_type": "oidc", "client_id": engine.ApplicationID, "identity_token_audience": "databricks",
	})
	requireRefused(t, err, 400, "auth_type", "Vault Enterprise", "-env="+tokenFileVariable+"=<file>")
	require.Zero(t, m.workspace.Count("", "*"), "nothing was asked of Databricks")
	m.requireAbsent("config")
}

// TestTokenFileIsReadAtEachExchange changes the file as a program that keeps it fresh does.
func TestTokenFileIsReadAtEachExchange(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	plugin := newOwnPlugin(t, tokenFileVariable+"="+file)
	m := &connected{mount: newMountOf(t, plugin)}
	m.engine = m.workspace.AddServicePrincipal("engine", false)
	rsa, ecdsa, stranger := simulator.NewIssuer("RS256"), simulator.NewIssuer("ES256"), simulator.NewIssuer("RS256")
	m.trust(rsa)
	m.trust(ecdsa)
	put := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	token := func(issuer *simulator.Issuer, life time.Duration) string {
		return server.secret(issuer.Sign(claims(life)), "an identity token")
	}
	config := data{
		"host": m.workspace.URL(), "auth_type": "oidc", "client_id": m.engine.ApplicationID, "identity_token_audience": trustedAudience,
	}

	_, err := m.tryWrite("config", config)
	requireRefused(t, err, 400, "token file", "can't be read")
	for name, tt := range map[string]struct{ text, part string }{
		"empty":         {"\n", "holds no token"},
		"a text":        {"not a token at all", "holds no token"},
		"of a stranger": {token(stranger, time.Hour), "invalid_grant"},
		"expired":       {token(rsa, -time.Minute), "invalid_grant"},
	} {
		put(tt.text)
		_, err := m.tryWrite("config", config)
		requireRefused(t, err, 400, tt.part)
		require.NotContains(t, err.Error(), "eyJ", name)
	}
	m.requireAbsent("config")

	put(token(rsa, time.Hour))
	m.write("config", config)
	m.write("roles/own", data{"credential_type": "oauth_token", "ttl": "1h"})
	secret := m.mint("own")
	state := m.workspace.Introspect(secretPartOf(secret))
	require.Equal(t, m.engine.ID, state.Owner.ID)

	// An access token lives no longer than what it was exchanged for, and neither does its lease.
	put(token(ecdsa, 12*time.Second))
	brief := m.mint("own")
	require.LessOrEqual(t, brief.LeaseDuration, 12)
	require.True(t, m.workspace.Introspect(secretPartOf(brief)).Live)
	require.Eventually(t, func() bool {
		_, err := m.client.Sys().Lookup(brief.LeaseID)
		return err != nil && !m.workspace.Introspect(secretPartOf(brief)).Live
	}, patience, 100*time.Millisecond, "both are over")

	put("")
	_, err = m.tryMint("own", nil)
	requireRefused(t, err, 400, "holds no token")
	require.True(t, m.workspace.Introspect(secretPartOf(secret)).Live)
	put(token(rsa, time.Hour)) // the mount's end revokes its leases
}

// TestFederationPolicyOfTheAccountNeedsNoClientID: then the subject of the token says who the engine is.
func TestFederationPolicyOfTheAccountNeedsNoClientID(t *testing.T) {
	t.Parallel()
	shared := sharedFederation(t)
	m := newMountOf(t, shared.plugin)
	engine := m.workspace.AddUser(trustedSubject, false)
	m.workspace.AddFederationPolicy(nil, simulator.FederationPolicy{
		Issuer: trustedIssuer, Audiences: []string{trustedAudience}, JWKS: shared.issuer.JWKS(),
	})
	m.write("config", data{"host": m.workspace.URL(), "auth_type": "oidc", "identity_token_audience": trustedAudience})
	m.write("roles/etl", data{"credential_type": "pat"})
	secret := m.mint("etl")
	require.Equal(t, engine.ID, m.workspace.Introspect(secretPartOf(secret)).Owner.ID)
}

// TestAzureResourceLetsInWhoIsNotInTheWorkspace: every call brings the proof of a right to the workspace as a resource of
// Azure, which is asked for once.
func TestAzureResourceLetsInWhoIsNotInTheWorkspace(t *testing.T) {
	t.Parallel()
	const resource = "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/data/providers/Microsoft.Databricks/workspaces/prod"
	m := newMountOf(t, pluginName, simulator.WithCloud("azure"), simulator.WithAzureResourceID(resource))
	engine := m.workspace.AddServicePrincipal("engine", false)
	m.workspace.SetWorkspaceMember(engine, false)
	id, secret := m.workspace.AddEntraApp(engine, tenantID)
	config := data{
		"host": m.workspace.URL(), "azure_tenant_id": tenantID, "azure_client_id": id,
		"azure_client_secret": server.secret(secret, "a configured secret of Entra ID"),
	}
	_, err := m.tryWrite("config", config)
	requireRefused(t, err, 400, "azure_workspace_resource_id", "Invalid access to Org", "nothing was stored")
	require.NotContains(t, err.Error(), "does not accept")

	config["azure_workspace_resource_id"] = resource
	m.write("config", config)
	m.write("roles/own", data{"credential_type": "oauth_token"})
	m.workspace.ResetCalls()
	m.write("config", data{"ttl": "1h"})
	require.Equal(t, 2, m.workspace.Count("POST", "/"+tenantID+"/oauth2/token"), "a token for Databricks and one for Azure's management")
	own := m.mint("own")
	require.Equal(t, 3, m.workspace.Count("POST", "/"+tenantID+"/oauth2/token"), "and the one that was minted")
	require.Equal(t, engine.ID, m.workspace.Introspect(secretPartOf(own)).Owner.ID)

	// What has no scopes can't be narrowed.
	_, err = m.tryMint("own", data{"scopes": "sql"})
	requireRefused(t, err, 400, "can't be narrowed to scopes")
}

func TestWrongCredentialOfEveryAuthTypeNamesItsField(t *testing.T) {
	t.Parallel()
	for _, way := range connections {
		if way.account {
			continue
		}
		t.Run(way.authType, func(t *testing.T) {
			t.Parallel()
			m := connect(t, way)
			m.write("roles/app", data{"credential_type": "service_principal"})
			wrong := map[string]data{
				"pat":                 {"token": server.secret("dapi"+fmt.Sprintf("%032d", 7), "a wrong token")},
				"oauth-m2m":           {"client_secret": server.secret("dose"+fmt.Sprintf("%032d", 7), "a wrong secret")},
				"azure-client-secret": {"azure_client_secret": server.secret("entra~"+fmt.Sprintf("%034d", 7), "a wrong secret")},
				"oidc":                {"client_id": "00000000-0000-0000-0000-000000000007"},
			}[way.authType]
			for field, value := range wrong {
				_, err := m.tryWrite("config", wrong)
				requireRefused(t, err, 400, field+": ", map[bool]string{true: "Entra ID", false: "Databricks"}[way.authType == "azure-client-secret"]+" does not accept it")
				if way.authType != "oidc" {
					require.NotContains(t, err.Error(), value)
				}
			}
			m.mint("app") // the connection of before goes on working
		})
	}
}

// TestStoredSecretOfAnotherAuthTypeIsForgotten: a change of the way to authenticate leaves nothing of the old one.
func TestStoredSecretOfAnotherAuthTypeIsForgotten(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	engine := m.workspace.AddServicePrincipal("engine", false)
	_, secret := m.workspace.AddOAuthSecret(engine, 0)
	server.secret(secret, "a configured client secret")
	m.write("config", data{"client_id": engine.ApplicationID, "client_secret": secret})
	require.Equal(t, "oauth-m2m", m.read("config")["auth_type"], "inferred from what was sent")
	require.Equal(t, engine.ID, m.workspace.Introspect(secretPartOf(m.mint("etl"))).Owner.ID)
	_, err := m.tryWrite("config", data{"auth_type": "pat"})
	requireRefused(t, err, 400, "token: is missing")
	require.Equal(t, "oauth-m2m", m.read("config")["auth_type"])
}

// TestConnectionsThatCannotWorkAreRefusedWithoutACall: they are told by the host alone.
func TestConnectionsThatCannotWorkAreRefusedWithoutACall(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	const workspace, account, azure = "https://dbc-a1b2c3d4-e5f6.cloud.databricks.invalid", "https://accounts.cloud.databricks.com", "https://adb-1234567890123456.7.azuredatabricks.net"
	entra := data{"azure_tenant_id": tenantID, "azure_client_id": "6f5ccf28-d83a-4957-9bfb-5bbfac551410", "azure_client_secret": "entra~secret"}
	for name, tt := range map[string]struct {
		host  string
		body  data
		parts []string
	}{
		"token on an account":           {account, data{"token": m.token, "account_id": accountID}, []string{"auth_type", "oauth-m2m"}},
		"account without its id":        {account, data{"client_id": "x", "client_secret": "y"}, []string{"account_id: is missing"}},
		"account id that is none":       {account, data{"client_id": "x", "client_secret": "y", "account_id": "prod"}, []string{"account_id", "not a UUID"}},
		"token and account of loopback": {m.workspace.URL(), data{"token": m.token, "account_id": accountID}, []string{"auth_type"}},
		"Entra ID outside of Azure":     {workspace, entra, []string{"azure-client-secret", "Azure"}},
		"credentials of two types":      {workspace, data{"token": m.token, "client_secret": "y"}, []string{"auth_type", "several types"}},
		"half of a credential":          {workspace, data{"client_id": "x"}, []string{"client_secret: is missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			body := data{"host": tt.host, "verify_connection": false}
			for field, value := range tt.body {
				body[field] = value
			}
			_, err := m.tryWrite("config", body)
			requireRefused(t, err, 400, tt.parts...)
		})
	}
	m.requireAbsent("config")
	require.Zero(t, m.workspace.Count("", "*"))

	entra["host"], entra["verify_connection"] = azure, false
	m.write("config", entra)
	_, err := m.tryWrite("roles/app", data{"credential_type": "obo_token", "service_principal_id": "42"})
	requireRefused(t, err, 400, "credential_type", "Azure Databricks makes no tokens on behalf of service principals", "oauth_token")
}

func TestEitherIdOfAServicePrincipalIsEnough(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	app, other := m.workspace.AddServicePrincipal("app", false), m.workspace.AddServicePrincipal("other", false)
	for name, tt := range map[string]struct {
		body  data
		parts []string
	}{
		"none":              {data{}, []string{"service_principal_id: is missing", "application_id"}},
		"the wrong way":     {data{"service_principal_id": app.ApplicationID}, []string{"is an application id; send it as application_id"}},
		"the other way":     {data{"application_id": app.ID}, []string{"is the numeric id; send it as service_principal_id"}},
		"a name":            {data{"application_id": "app"}, []string{"application_id", "not a UUID"}},
		"of two":            {data{"application_id": other.ApplicationID, "service_principal_id": app.ID}, []string{"application_id", "does not belong to"}},
		"unknown number":    {data{"service_principal_id": "42"}, []string{"service_principal_id", "no service principal"}},
		"unknown UUID":      {data{"application_id": "00000000-0000-0000-0000-000000000042"}, []string{"application_id", "no service principal"}},
		"a user":            {data{"service_principal_id": m.admin.ID}, []string{"service_principal_id", "no service principal"}},
		"a group beside it": {data{"service_principal_id": app.ID, "groups": "admins"}, []string{"groups", "has no meaning for credential_type oauth_secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.body["credential_type"] = "oauth_secret"
			_, err := m.tryWrite("roles/app", tt.body)
			requireRefused(t, err, 400, tt.parts...)
		})
	}
	m.requireAbsent("roles/app")
	m.write("roles/app", data{"credential_type": "oauth_secret", "application_id": app.ApplicationID})
	require.Equal(t, app.ID, m.read("roles/app")["service_principal_id"])

	// One id replaces both.
	m.write("roles/app", data{"service_principal_id": other.ID})
	require.Equal(t, other.ApplicationID, m.read("roles/app")["application_id"])
	m.workspace.ResetCalls()
	m.write("roles/app", data{"ttl": "10m"})
	require.Zero(t, m.workspace.Count("", "*"), "what has not changed is not looked up")
}

// TestOwnTokenNeedsThreeScopes: docs/auth.md says which API scopes a token of the engine must have, and what for.
func TestOwnTokenNeedsThreeScopes(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	app := m.workspace.AddServicePrincipal("app", false)
	m.write("roles/app", data{"credential_type": "obo_token", "application_id": app.ApplicationID})
	m.write("roles/secret", data{"credential_type": "oauth_secret", "application_id": app.ApplicationID})
	m.write("roles/own", data{"credential_type": "service_principal"})
	limited := func(scopes string) string {
		secret, err := m.tryMint("etl", data{"scopes": scopes})
		require.NoError(t, err)
		return secretPartOf(secret)
	}
	all, none := limited("authentication,scim,secrets"), limited("sql")
	withoutSCIM, withoutSecrets, scimAlone := limited("authentication,secrets"), limited("authentication,scim"), limited("scim")

	m.write("config", data{"token": all})
	for _, role := range []string{"etl", "app", "secret", "own"} {
		m.revoke(m.mint(role))
	}
	m.write("scopes/etl", data{})
	m.write("acls/etl/users", data{"permission": "READ"})

	for _, token := range []string{none, withoutSCIM} {
		_, err := m.tryWrite("config", data{"token": token})
		requireRefused(t, err, 400, "required scopes: scim")
	}
	m.write("config", data{"token": withoutSecrets})
	m.revoke(m.mint("app"))
	_, err := m.client.Logical().List(m.path + "/scopes")
	requireRefused(t, err, 400, "required scopes: secrets")
	m.write("config", data{"token": scimAlone})
	_, err = m.tryMint("etl", nil)
	requireRefused(t, err, 400, "required scopes: authentication")
	m.write("config", data{"token": m.token}) // the mount's end revokes the others
}

// TestManagerOfAServicePrincipalNeedsNoAdminRights is the least privilege of docs/auth.md for OAuth secrets and tokens.
func TestManagerOfAServicePrincipalNeedsNoAdminRights(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	engine := m.workspace.AddServicePrincipal("engine", false)
	_, secret := m.workspace.AddOAuthSecret(engine, 0)
	server.secret(secret, "a configured client secret")
	m.write("config", data{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": secret})
	app, other := m.workspace.AddServicePrincipal("app", false), m.workspace.AddServicePrincipal("other", false)
	m.workspace.SetManager(app, engine)
	for _, name := range []string{"oauth_secret", "oauth_token"} {
		m.write("roles/app", data{"credential_type": name, "application_id": app.ApplicationID})
		m.revoke(m.mint("app"))
		m.write("roles/other", data{"credential_type": name, "application_id": other.ApplicationID})
		_, err := m.tryMint("other", nil)
		requireRefused(t, err, 400, "workspace admin, or the manager of service principal "+other.ID, "PERMISSION_DENIED")
	}
	require.Empty(t, m.workspace.OAuthSecrets(app))
	for name, part := range map[string]string{"obo_token": "workspace admin", "service_principal": "only a workspace admin"} {
		body := data{"credential_type": name}
		if name == "obo_token" {
			body["application_id"] = app.ApplicationID
		}
		m.write("roles/refused", body)
		_, err := m.tryMint("refused", nil)
		requireRefused(t, err, 400, part, "403")
		m.delete("roles/refused")
	}
}
