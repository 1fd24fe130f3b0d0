// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	testAccountID  = "4cb2f9a8-0000-4000-8000-000000000001"
	testTenant     = "9f37a392-f0ae-4280-9796-f1864a10effc"
	testResourceID = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.Databricks/workspaces/prod"
	testAudience   = "vault-databricks"
)

// unlogged requires at the end of the test that a secret did not reach the log.
func (m *mount) unlogged(secret string) string {
	m.t.Cleanup(func() { require.NotContains(m.t, m.log.String(), secret) })
	return secret
}

// azureConfig is the config of a service principal's Entra application.
func (m *mount) azureConfig(sp simulator.Principal) map[string]any {
	id, secret := m.workspace.AddEntraApp(sp, testTenant)
	return map[string]any{"host": m.workspace.URL(), "azure_tenant_id": testTenant, "azure_client_id": id, "azure_client_secret": m.unlogged(secret)}
}

func TestAzureClientSecret(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithCloud("azure"))
	sp := m.workspace.AddServicePrincipal("engine", true)
	config := m.azureConfig(sp)
	resp := m.write("config", config)
	require.Equal(t, "azure-client-secret", resp.Data["auth_type"])
	require.Equal(t, testTenant, resp.Data["azure_tenant_id"])
	require.NotContains(t, resp.Data, "azure_client_secret")
	require.Equal(t, sp.ID, m.read("status").Data["identity"].(map[string]any)["id"])

	m.write("roles/pat", map[string]any{"credential_type": "pat"})
	m.workspace.ResetCalls()
	require.Equal(t, sp.ID, m.workspace.Introspect(m.mint("pat").Data["token_value"].(string)).Owner.ID)
	require.Equal(t, []string{"POST " + createPath}, m.requests())
	for _, call := range m.workspace.Calls() {
		require.Empty(t, call.Header.Get("X-Databricks-Azure-SP-Management-Token"))
	}

	m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	m.workspace.ResetCalls()
	creds := m.mint("own")
	require.Equal(t, []string{"POST /" + testTenant + "/oauth2/token"}, m.requests())
	state := m.workspace.Introspect(m.hidden(creds, "access_token"))
	require.Equal(t, simulator.KindEntra, state.Kind)
	require.Equal(t, sp.ID, state.Owner.ID)
	require.InDelta(t, time.Hour, creds.Secret.TTL, float64(5*time.Second))
	require.WithinDuration(t, state.Expires, m.moment(creds.Data["expiry_time"]), 3*time.Second)

	// Such tokens have no scopes.
	resp, err := m.do(logical.UpdateOperation, "creds/own", map[string]any{"scopes": "sql"})
	m.refused(resp, err, "can't be narrowed")
	require.Empty(t, m.walEntries())
	resp, err = m.do(logical.UpdateOperation, "roles/own", map[string]any{"scopes": "sql"})
	m.refused(resp, err, "scopes: ", "can't be narrowed", "name a service principal")

	before := m.read("config").Data
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"a wrong secret":    {map[string]any{"azure_client_secret": "wrong"}, []string{"azure_client_secret: ", "nothing was stored", "AADSTS7000215"}},
		"a wrong client":    {map[string]any{"azure_client_id": unknownUUID}, []string{"azure_client_id: Entra ID does not accept it", "AADSTS700016", "azure_client_secret was not looked at"}},
		"a wrong tenant":    {map[string]any{"azure_tenant_id": unknownUUID}, []string{"azure_tenant_id: Entra ID does not accept it", "nothing was stored", "AADSTS90002"}},
		"no form of tenant": {map[string]any{"azure_tenant_id": "prod"}, []string{"azure_tenant_id: Entra ID does not accept it", "AADSTS900023"}},
		"no tenant at all":  {map[string]any{"azure_tenant_id": "a/../b"}, []string{"config: azure_tenant_id", "neither the id nor the domain"}},
		"a resource in two": {map[string]any{"azure_workspace_resource_id": "/subscriptions/a b"}, []string{"azure_workspace_resource_id: "}},
		"no host of Azure":  {map[string]any{"host": "https://dbc-1.cloud.databricks.com", "azure_client_secret": "x"}, []string{"config: ", "is for Azure Databricks"}},
	} {
		resp, err := m.do(logical.UpdateOperation, "config", row.data)
		m.refused(resp, err, row.words...)
		require.NotContains(t, resp.Error().Error(), "verify_connection", "it would not help")
		require.Equal(t, before, m.read("config").Data, name)
	}

	// A new secret alone will do.
	_, newer := m.workspace.AddEntraApp(sp, testTenant)
	m.write("config", map[string]any{"azure_client_secret": m.unlogged(newer)})
	require.Equal(t, before, m.read("config").Data)

	m.workspace.ExpireEntraSecret(testTenant, sp.ApplicationID, newer)
	resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "1m"})
	m.refused(resp, err, "azure_client_secret: Entra ID does not accept it", "has expired")
	_, newest := m.workspace.AddEntraApp(sp, testTenant)
	m.workspace.DisableEntraApp(testTenant, sp.ApplicationID)
	resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"azure_client_secret": m.unlogged(newest)})
	m.refused(resp, err, "azure_client_id: Entra ID does not accept it", "is disabled in the tenant")
	m.restart()
	resp, err = m.do(logical.ReadOperation, "creds/pat", nil)
	m.refused(resp, err, "entra/token", "AADSTS7000112")
}

func TestAzureWorkspaceResource(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithCloud("azure"), simulator.WithAzureResourceID(testResourceID))
	sp := m.workspace.AddServicePrincipal("engine", false)
	config := m.azureConfig(sp)
	m.workspace.SetWorkspaceMember(sp, false)
	resp, err := m.do(logical.UpdateOperation, "config", config)
	m.refused(resp, err, "Invalid access to Org")

	config["azure_workspace_resource_id"] = testResourceID
	require.Equal(t, testResourceID, m.write("config", config).Data["azure_workspace_resource_id"])
	m.write("roles/pat", map[string]any{"credential_type": "pat"})
	m.workspace.ResetCalls()
	m.mint("pat")
	require.Equal(t, []string{"POST " + createPath}, m.requests())
	header := m.workspace.Calls()[0].Header
	require.Equal(t, testResourceID, header.Get("X-Databricks-Azure-Workspace-Resource-Id"))
	management := m.unlogged(header.Get("X-Databricks-Azure-SP-Management-Token"))
	require.Equal(t, sp.ID, m.workspace.Introspect(management).Owner.ID)

	resp, err = m.do(logical.PatchOperation, "config", map[string]any{"azure_workspace_resource_id": nil})
	m.refused(resp, err, "Invalid access to Org")
	m.workspace.SetWorkspaceMember(sp, true)
	resp, err = m.do(logical.PatchOperation, "config", map[string]any{"azure_workspace_resource_id": nil})
	m.requireOK(resp, err)
	require.Equal(t, "azure-client-secret", resp.Data["auth_type"])
}

// federated is a mount whose engine has a federation policy, and what signs a token for it.
func federated(t *testing.T, alg string) (m *mount, engine simulator.Principal, sign func(claims map[string]any) string) {
	m = newMount(t)
	engine = m.workspace.AddServicePrincipal("engine", true)
	issuer := simulator.NewIssuer(alg)
	m.workspace.AddFederationPolicy(&engine, simulator.FederationPolicy{Issuer: "https://vault.example.com", Subject: "plugin", Audiences: []string{testAudience}, JWKS: issuer.JWKS()})
	return m, engine, func(claims map[string]any) string {
		all := map[string]any{"iss": "https://vault.example.com", "sub": "plugin", "aud": testAudience, "exp": time.Now().Add(2 * time.Hour).Unix()}
		for claim, value := range claims {
			all[claim] = value
		}
		return m.unlogged(issuer.Sign(all))
	}
}

func TestOIDCByTokenFile(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256"} {
		t.Run(alg, func(t *testing.T) {
			m, engine, sign := federated(t, alg)
			file := filepath.Join(t.TempDir(), "token")
			t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", file)
			put := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
			put(sign(nil) + "\n")
			resp := m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "identity_token_audience": testAudience})
			require.Equal(t, "oidc", resp.Data["auth_type"])
			require.Equal(t, testAudience, resp.Data["identity_token_audience"])
			m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
			m.write("roles/pat", map[string]any{"credential_type": "pat"})
			m.workspace.ResetCalls()
			require.Equal(t, engine.ID, m.workspace.Introspect(m.mint("pat").Data["token_value"].(string)).Owner.ID)
			require.Equal(t, []string{"POST " + createPath}, m.requests())
			creds := m.write("creds/own", map[string]any{"scopes": "sql"})
			state := m.workspace.Introspect(m.hidden(creds, "access_token"))
			require.Equal(t, engine.ID, state.Owner.ID)
			require.Equal(t, []string{"sql"}, state.Scopes)

			// The lease is as long as the token, which lives no longer than what it was exchanged for.
			put(sign(map[string]any{"exp": time.Now().Add(10 * time.Minute).Unix()}))
			creds = m.mint("own")
			require.LessOrEqual(t, creds.Secret.TTL, 10*time.Minute)
			require.Greater(t, creds.Secret.TTL, 9*time.Minute)

			// The file is read at each exchange.
			put(sign(map[string]any{"sub": "somebody else"}))
			m.workspace.RevokeAccessTokens()
			resp, err := m.do(logical.ReadOperation, "creds/pat", nil)
			m.refused(resp, err, "invalid_grant", "federation policy")
			put(sign(nil))
			m.mint("pat")
			require.Empty(t, m.walEntries())

			before := m.read("config").Data
			for name, row := range map[string]struct {
				file  string
				words []string
			}{
				"empty":            {"", []string{"auth_type: ", "holds no token", "DATABRICKS_OIDC_TOKEN_FILEPATH"}},
				"blank":            {" \n\n", []string{"auth_type: ", "holds no token"}},
				"two tokens":       {sign(nil) + "\n" + sign(nil), []string{"auth_type: ", "holds no token"}},
				"binary":           {"\x00\x01", []string{"auth_type: ", "holds no token"}},
				"no token":         {"garbage-in-the-file", []string{"auth_type: Databricks does not accept the identity token of the file", "nothing was stored", "invalid_grant"}},
				"another audience": {sign(map[string]any{"aud": "another"}), []string{"auth_type: ", "federation policy"}},
				"another issuer":   {sign(map[string]any{"iss": "https://evil.example.com"}), []string{"auth_type: "}},
				"expired":          {sign(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), []string{"auth_type: ", "expired"}},
			} {
				put(row.file)
				resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"ttl": "1m"})
				m.refused(resp, err, row.words...)
				require.NotContains(t, resp.Error().Error(), "garbage-in-the-file")
				require.Equal(t, before, m.read("config").Data, name)
			}
			put(sign(nil))
			resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"client_id": unknownUUID})
			m.refused(resp, err, "client_id: Databricks does not accept it", "invalid_client")
			require.NoError(t, os.Remove(file))
			resp, err = m.do(logical.UpdateOperation, "config", map[string]any{"verify_connection": false})
			m.refused(resp, err, "auth_type: ", "can't be read")
			m.workspace.RevokeAccessTokens()
			resp, err = m.do(logical.ReadOperation, "creds/own", nil)
			m.refused(resp, err, "there is no identity token to exchange", "can't be read")
			require.Empty(t, m.walEntries())
		})
	}
}

func TestOIDCOfTheAccount(t *testing.T) {
	m := newMount(t, simulator.WithAccount(testAccountID))
	engine := m.workspace.AddServicePrincipal("engine", true)
	issuer := simulator.NewIssuer("ES256")
	m.workspace.AddFederationPolicy(nil, simulator.FederationPolicy{Issuer: "https://vault.example.com", Audiences: []string{testAudience}, JWKS: issuer.JWKS()})
	file := filepath.Join(t.TempDir(), "token")
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", file)
	token := issuer.Sign(map[string]any{"iss": "https://vault.example.com", "sub": engine.ApplicationID, "aud": testAudience, "exp": time.Now().Add(time.Hour).Unix()})
	require.NoError(t, os.WriteFile(file, []byte(m.unlogged(token)), 0o600))
	require.Equal(t, "oidc", m.write("config", map[string]any{"host": m.workspace.URL(), "identity_token_audience": testAudience}).Data["auth_type"])
	require.Equal(t, engine.ID, m.read("status").Data["identity"].(map[string]any)["id"])

	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"account_id": testAccountID})
	m.refused(resp, err, "config: client_id is missing")
}

func TestOIDCWithoutATokenFile(t *testing.T) {
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", "")
	m, engine, _ := federated(t, "RS256")
	config := map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "identity_token_audience": testAudience}
	for _, verify := range []bool{true, false} {
		config["verify_connection"] = verify
		resp, err := m.do(logical.UpdateOperation, "config", config)
		m.refused(resp, err, "auth_type: this Vault makes no identity token", "Vault Enterprise", "-env=DATABRICKS_OIDC_TOKEN_FILEPATH=<file>")
		require.Nil(t, m.absent("config"))
		require.Empty(t, m.workspace.Calls())
	}
}

// enterprise is a Vault that makes identity tokens for plugins.
type enterprise struct {
	*logical.StaticSystemView
	sign      func(claims map[string]any) string
	requested []pluginutil.IdentityTokenRequest
	fail      error
}

func (e *enterprise) GenerateIdentityToken(_ context.Context, req *pluginutil.IdentityTokenRequest) (*pluginutil.IdentityTokenResponse, error) {
	e.requested = append(e.requested, *req)
	if e.fail != nil {
		return nil, e.fail
	}
	token := e.sign(map[string]any{"aud": req.Audience, "exp": time.Now().Add(req.TTL).Unix()})
	return &pluginutil.IdentityTokenResponse{Token: pluginutil.IdentityToken(token), TTL: req.TTL}, nil
}

func TestOIDCByVaultsIdentityTokens(t *testing.T) {
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", "")
	m, engine, sign := federated(t, "RS256")
	vault := &enterprise{StaticSystemView: m.system, sign: sign}
	conf := m.config()
	conf.System = vault
	b, err := Factory(t.Context(), conf)
	require.NoError(t, err)
	m.backend = b
	m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "identity_token_audience": testAudience})
	m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	require.Equal(t, engine.ID, m.workspace.Introspect(m.mint("own").Data["access_token"].(string)).Owner.ID)
	for _, requested := range vault.requested {
		require.Equal(t, pluginutil.IdentityTokenRequest{Audience: testAudience, TTL: time.Hour}, requested)
	}

	require.EqualValues(t, 600, m.write("config", map[string]any{"identity_token_ttl": "10m"}).Data["identity_token_ttl"])
	require.LessOrEqual(t, m.mint("own").Secret.TTL, 10*time.Minute)
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"identity_token_audience": "another"})
	m.refused(resp, err, "identity_token_audience: ")
	vault.fail = errors.New("the key is gone")
	resp, err = m.do(logical.ReadOperation, "creds/own", nil)
	m.refused(resp, err, "the key is gone", "Vault Enterprise")
	require.Empty(t, m.walEntries())
}

// TestAuthTypeInference goes through what is stored and what is sent, and which type is meant by it.
func TestAuthTypeInference(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("a.b.c"), 0o600))
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", file)
	type fields = map[string]any
	pat := fields{"token": "dapi1"}
	m2m := fields{"client_id": "id", "client_secret": "dose1"}
	azure := fields{"azure_tenant_id": "tenant", "azure_client_id": "id", "azure_client_secret": "entra1"}
	oidc := fields{"identity_token_audience": "aud", "client_id": "id"}
	for name, row := range map[string]struct {
		stored, sent fields
		want         string   // auth type
		kept         fields   // of the answer
		words        []string // of the refusal
	}{
		"pat":                            {nil, pat, "pat", nil, nil},
		"m2m":                            {nil, m2m, "oauth-m2m", nil, nil},
		"azure":                          {nil, azure, "azure-client-secret", nil, nil},
		"azure with a resource":          {nil, fields{"azure_tenant_id": "t", "azure_client_id": "i", "azure_client_secret": "s", "azure_workspace_resource_id": testResourceID}, "azure-client-secret", nil, nil},
		"oidc":                           {nil, oidc, "oidc", nil, nil},
		"oidc of the account":            {nil, fields{"identity_token_audience": "aud"}, "oidc", nil, nil},
		"oidc by name":                   {nil, fields{"auth_type": "oidc", "identity_token_audience": "aud", "identity_token_ttl": 60}, "oidc", fields{"identity_token_ttl": int64(60)}, nil},
		"nothing":                        {nil, fields{}, "", nil, []string{"auth_type: can't be inferred", "token", "client_id"}},
		"oidc without audience":          {nil, fields{"auth_type": "oidc", "client_id": "id"}, "oidc", nil, nil},
		"oidc by its ttl":                {nil, fields{"identity_token_ttl": "1m"}, "oidc", nil, nil},
		"azure without tenant":           {nil, fields{"azure_client_id": "i", "azure_client_secret": "s"}, "", nil, []string{"azure_tenant_id: is missing", "azure-client-secret needs"}},
		"azure by its resource":          {nil, fields{"azure_workspace_resource_id": testResourceID}, "", nil, []string{"azure_tenant_id: is missing"}},
		"client_id alone":                {nil, fields{"client_id": "id"}, "", nil, []string{"client_secret: is missing"}},
		"secret and audience":            {nil, fields{"client_id": "id", "client_secret": "s", "identity_token_audience": "aud"}, "", nil, []string{"auth_type: ", "several types"}},
		"token and azure":                {nil, fields{"token": "t", "azure_client_secret": "s"}, "", nil, []string{"several types", "azure_client_secret, token"}},
		"azure by name, token sent":      {nil, fields{"auth_type": "azure-client-secret", "token": "t"}, "", nil, []string{"token: does not belong to auth_type azure-client-secret"}},
		"oidc by name, secret sent":      {nil, fields{"auth_type": "oidc", "identity_token_audience": "aud", "client_secret": "s"}, "", nil, []string{"client_secret: does not belong to auth_type oidc"}},
		"audience with a space":          {nil, fields{"identity_token_audience": "a b"}, "", nil, []string{"identity_token_audience: "}},
		"oidc, client_id with an umlaut": {nil, fields{"identity_token_audience": "aud", "client_id": "ü"}, "", nil, []string{"config: client_id"}},

		"m2m over pat":               {pat, m2m, "oauth-m2m", nil, nil},
		"azure over m2m":             {m2m, azure, "azure-client-secret", fields{"client_id": ""}, nil},
		"oidc over m2m":              {m2m, fields{"identity_token_audience": "aud"}, "oidc", fields{"client_id": "id"}, nil},
		"oidc over m2m by name":      {m2m, fields{"auth_type": "oidc", "identity_token_audience": "aud"}, "oidc", fields{"client_id": "id"}, nil},
		"m2m over oidc":              {oidc, fields{"client_secret": "dose1"}, "oauth-m2m", fields{"client_id": "id", "identity_token_audience": ""}, nil},
		"pat over azure":             {azure, pat, "pat", fields{"azure_tenant_id": "", "azure_client_id": ""}, nil},
		"pat over oidc":              {oidc, pat, "pat", fields{"identity_token_audience": "", "client_id": ""}, nil},
		"client_id of m2m":           {m2m, fields{"client_id": "new"}, "oauth-m2m", fields{"client_id": "new"}, nil},
		"client_secret of m2m":       {m2m, fields{"client_secret": "dose2"}, "oauth-m2m", nil, nil},
		"client_id of oidc":          {oidc, fields{"client_id": "new"}, "oidc", fields{"client_id": "new", "identity_token_audience": "aud"}, nil},
		"audience of oidc":           {oidc, fields{"identity_token_audience": "new"}, "oidc", fields{"client_id": "id", "identity_token_audience": "new"}, nil},
		"ttl of oidc":                {oidc, fields{"identity_token_ttl": "5m"}, "oidc", fields{"identity_token_ttl": int64(300)}, nil},
		"secret of azure":            {azure, fields{"azure_client_secret": "entra2"}, "azure-client-secret", fields{"azure_tenant_id": "tenant"}, nil},
		"resource of azure":          {azure, fields{"azure_workspace_resource_id": testResourceID}, "azure-client-secret", fields{"azure_workspace_resource_id": testResourceID}, nil},
		"client_id of a file":        {fields{"auth_type": "oidc"}, fields{"client_id": "new"}, "oidc", fields{"client_id": "new"}, nil},
		"a file, and something else": {fields{"auth_type": "oidc"}, fields{"ttl": "1m"}, "oidc", nil, nil},
		"m2m over a file":            {fields{"auth_type": "oidc", "client_id": "id"}, fields{"client_secret": "dose1"}, "oauth-m2m", fields{"client_id": "id"}, nil},
		"something else":             {oidc, fields{"ttl": "1m"}, "oidc", fields{"identity_token_audience": "aud"}, nil},
		"client_id over pat":         {pat, fields{"client_id": "id"}, "", nil, []string{"client_secret: is missing"}},
		"azure secret over pat":      {pat, fields{"azure_client_secret": "s"}, "", nil, []string{"azure_tenant_id: is missing"}},
		"pat by name over azure":     {azure, fields{"auth_type": "pat"}, "", nil, []string{"token: is missing"}},
		"the secret taken from m2m":  {m2m, fields{"client_secret": ""}, "", nil, []string{"client_secret: is missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			base := fields{"host": m.workspace.URL(), "verify_connection": false}
			write := func(fields fields) (*logical.Response, error) {
				data := map[string]any{}
				for k, v := range base {
					data[k] = v
				}
				for k, v := range fields {
					data[k] = v
				}
				return m.do(logical.UpdateOperation, "config", data)
			}
			if row.stored != nil {
				resp, err := write(row.stored)
				m.requireOK(resp, err)
			}
			before, err := m.storage.Get(t.Context(), configStorageKey)
			require.NoError(t, err)
			resp, err := write(row.sent)
			if row.want == "" {
				m.refused(resp, err, row.words...)
				after, err := m.storage.Get(t.Context(), configStorageKey)
				require.NoError(t, err)
				require.Equal(t, before, after, "nothing is stored")
				return
			}
			m.requireOK(resp, err)
			require.Equal(t, row.want, resp.Data["auth_type"])
			for field, value := range row.kept {
				if value == "" {
					require.NotContains(t, resp.Data, field, "a field of another type")
					continue
				}
				require.Equal(t, value, resp.Data[field], field)
			}
			// What other types had is gone from the storage, too.
			entry, err := m.storage.Get(t.Context(), configStorageKey)
			require.NoError(t, err)
			for secret, of := range map[string]string{"dapi1": "pat", "dose1": "oauth-m2m", "entra1": "azure-client-secret"} {
				if of != row.want {
					require.NotContains(t, string(entry.Value), secret)
				}
			}
		})
	}
}

// TestHostChangeNeedsTheSecret shows for each auth type that what is stored can't be sent to another host.
func TestHostChangeNeedsTheSecret(t *testing.T) {
	t.Setenv("DATABRICKS_OIDC_TOKEN_FILEPATH", "")
	elsewhere := simulator.New()
	t.Cleanup(elsewhere.Close)
	for secret, config := range map[string]map[string]any{
		"token":                   {"token": "dapi1"},
		"client_secret":           {"client_id": "id", "client_secret": "dose1"},
		"azure_client_secret":     {"azure_tenant_id": "tenant", "azure_client_id": "id", "azure_client_secret": "entra1"},
		"identity_token_audience": {"client_id": "id", "identity_token_audience": "aud"},
	} {
		m := newMount(t)
		conf := m.config()
		conf.System = &enterprise{StaticSystemView: m.system, sign: func(map[string]any) string { return "a.b.c" }}
		b, err := Factory(t.Context(), conf)
		require.NoError(t, err)
		m.backend = b
		config["host"], config["verify_connection"] = m.workspace.URL(), false
		m.write("config", config)
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": elsewhere.URL(), "verify_connection": true})
		m.refused(resp, err, "host: ", "requires "+secret+" to be sent again")
		require.Empty(t, elsewhere.Calls())
		require.Equal(t, elsewhere.URL(), m.write("config", map[string]any{"host": elsewhere.URL(), secret: "new"}).Data["host"])
	}
}

// accountReady is a mount that is connected to an account.
func accountReady(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	m := newMount(t, append(opts, simulator.WithAccount(testAccountID))...)
	engine := m.workspace.AddServicePrincipal("engine", false)
	m.workspace.AddAccountAdmin(engine)
	_, secret := m.workspace.AddOAuthSecret(engine, day)
	m.write("config", map[string]any{"host": m.workspace.URL(), "account_id": testAccountID, "client_id": engine.ApplicationID, "client_secret": m.unlogged(secret)})
	m.workspace.ResetCalls()
	return m, engine
}

func TestAccountMount(t *testing.T) {
	t.Parallel()
	m, engine := accountReady(t)
	require.Equal(t, engine.ID, m.read("status").Data["identity"].(map[string]any)["id"])
	sp := m.workspace.AddServicePrincipal("job", false)
	m.workspace.SetWorkspaceMember(sp, false)
	base := "/api/2.0/accounts/" + testAccountID
	login := "/oidc/accounts/" + testAccountID + "/v1/token"

	for credentialType, data := range map[string]map[string]any{
		"pat": {}, "obo_token": {"application_id": sp.ApplicationID},
	} {
		data["credential_type"] = credentialType
		resp, err := m.do(logical.UpdateOperation, "roles/x", data)
		m.refused(resp, err, "credential_type: "+credentialType+" needs a workspace", "use another type")
	}
	for _, field := range []string{"groups", "entitlements"} {
		resp, err := m.do(logical.UpdateOperation, "roles/x", map[string]any{"credential_type": "service_principal", field: "readers"})
		m.refused(resp, err, "groups", "entitlements", "are given in a workspace")
	}
	require.Empty(t, m.workspace.Calls())

	m.write("roles/secret", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})
	m.workspace.ResetCalls()
	secret := m.mint("secret")
	require.Equal(t, base+"/servicePrincipals/"+sp.ID+"/credentials/secrets", m.workspace.Calls()[0].Path)
	require.Len(t, m.workspace.Calls(), 1)
	state := m.workspace.Introspect(m.login(login, sp.ApplicationID, m.hidden(secret, "client_secret")))
	require.Equal(t, sp.ID, state.Owner.ID)
	require.True(t, state.Account)

	m.write("roles/principal", map[string]any{"credential_type": "service_principal"})
	m.workspace.ResetCalls()
	principal := m.mint("principal")
	require.Equal(t, base+"/scim/v2/ServicePrincipals", m.workspace.Calls()[0].Path)
	require.Len(t, m.workspace.Calls(), 2)
	access := m.login(login, principal.Data["client_id"].(string), m.hidden(principal, "client_secret"))
	require.Equal(t, principal.Data["service_principal_id"], m.workspace.Introspect(access).Owner.ID)

	m.write("roles/own", map[string]any{"credential_type": "oauth_token"})
	own := m.workspace.Introspect(m.mint("own").Data["access_token"].(string))
	require.Equal(t, engine.ID, own.Owner.ID)
	require.True(t, own.Account)
	m.write("roles/token", map[string]any{"credential_type": "oauth_token", "service_principal_id": sp.ID})
	named := m.workspace.Introspect(m.mint("token").Data["access_token"].(string))
	require.Equal(t, sp.ID, named.Owner.ID)
	require.True(t, named.Account)

	// What was made on the account is never sought in the workspace, even behind the same host, nor in another account.
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	m.connect()
	m.workspace.ResetCalls()
	for _, creds := range []*logical.Response{secret, principal} {
		resp, err := m.revoke(creds.Secret)
		m.refused(resp, err, "host: the lease was made at", "(account "+testAccountID+")", "(workspace "+m.workspace.ID()+")", "connect it to the first again")
		other := *creds.Secret
		l, err := leaseOf(&other)
		require.NoError(t, err)
		require.Equal(t, testAccountID, l.AccountID)
	}
	require.Empty(t, m.workspace.Calls())
	_, value := m.workspace.AddOAuthSecret(engine, day)
	m.write("config", map[string]any{"account_id": testAccountID, "client_id": engine.ApplicationID, "client_secret": m.unlogged(value)})
	foreign := *secret.Secret
	foreign.InternalData = map[string]any{}
	for k, v := range secret.Secret.InternalData {
		foreign.InternalData[k] = v
	}
	foreign.InternalData["account_id"] = unknownUUID
	resp, err = m.revoke(&foreign)
	m.refused(resp, err, "host: the lease was made at", "account "+unknownUUID, "account "+testAccountID)

	m.workspace.ResetCalls()
	m.end(secret.Secret)
	require.Len(t, m.workspace.Calls(), 1)
	require.Empty(t, m.workspace.OAuthSecrets(sp))
	m.end(principal.Secret)
	require.False(t, m.workspace.Introspect(access).Live)

	// A role of the workspace is refused when the mount is an account's by now.
	resp, err = m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	m.connect()
	m.write("roles/pat", map[string]any{"credential_type": "pat"})
	m.write("config", map[string]any{"account_id": testAccountID, "client_id": engine.ApplicationID, "client_secret": value})
	resp, err = m.do(logical.ReadOperation, "creds/pat", nil)
	m.refused(resp, err, "credential_type: pat needs a workspace")
	require.Empty(t, m.walEntries())
}

func TestAccountMountRollback(t *testing.T) {
	t.Parallel()
	m, _ := accountReady(t)
	m.write("roles/job", map[string]any{"credential_type": "service_principal"})
	scim := "/api/2.0/accounts/" + testAccountID + "/scim/v2/ServicePrincipals"
	m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: scim, Reset: true, AfterEffect: true, Times: 1})
	m.failure(m.do(logical.ReadOperation, "creds/job", nil))
	m.workspace.ResetCalls()
	m.rolledBack()
	require.Equal(t, 1, m.workspace.Count(http.MethodDelete, scim+"/*"))
}

func TestAccountConfig(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithAccount(testAccountID))
	plain := m.workspace.AddServicePrincipal("plain", true)
	_, secret := m.workspace.AddOAuthSecret(plain, time.Hour)
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"a token at the console": {map[string]any{"host": "https://accounts.cloud.databricks.com", "account_id": testAccountID, "token": "dapi1"}, []string{"auth_type: personal access tokens don't work on an account console", "oauth-m2m"}},
		"no account id":          {map[string]any{"host": "https://accounts.azuredatabricks.net", "client_id": "a", "client_secret": "b"}, []string{"account_id: is missing"}},
		"a token on an account":  {map[string]any{"account_id": testAccountID, "token": m.token}, []string{"config: ", "does not work on an account"}},
		"an id that is none":     {map[string]any{"account_id": "prod", "client_id": "a", "client_secret": "b"}, []string{`account_id: "prod" is not a UUID`}},
		"not an account admin":   {map[string]any{"account_id": testAccountID, "client_id": plain.ApplicationID, "client_secret": secret}, []string{"account admin", "nothing was stored"}},
		"another account":        {map[string]any{"account_id": unknownUUID, "client_id": plain.ApplicationID, "client_secret": secret}, []string{"nothing was stored"}},
	} {
		data := map[string]any{"host": m.workspace.URL()}
		for k, v := range row.data {
			data[k] = v
		}
		resp, err := m.do(logical.UpdateOperation, "config", data)
		m.refused(resp, err, row.words...)
		require.Nil(t, m.absent("config"), name)
	}
	require.NotContains(t, strings.ToLower(m.log.String()), "panic")
}
