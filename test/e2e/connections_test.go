// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	accountID = "8f0c1d52-3b0e-4f0a-9d53-0a9a5d0c7b11"
	tenantID  = "11111111-2222-3333-4444-555555555555"

	// What the federation policies of the tests ask of a token.
	trustedIssuer   = "https://vault.example.com/v1/identity/oidc/plugins"
	trustedSubject  = "databricks-mount"
	trustedAudience = "databricks"
)

// connection is a way to connect a mount.
type connection struct {
	authType string
	account  bool
}

var connections = []connection{
	{"pat", false}, {"oauth-m2m", false}, {"azure-client-secret", false}, {"oidc", false},
	{"oauth-m2m", true}, {"azure-client-secret", true}, {"oidc", true},
}

func (c connection) String() string {
	if c.account {
		return c.authType + " on an account"
	}
	return c.authType
}

// connected is a mount that is connected in some way, as an identity that is an admin there.
type connected struct {
	*mount
	connection
	engine simulator.Principal
	ahead  *atomic.Int64 // how far the workspace's clock is ahead of Vault's, in nanoseconds
}

// connect makes a mount of its own with such a connection.
func connect(t *testing.T, c connection) *connected {
	t.Helper()
	ahead := new(atomic.Int64)
	opts := []simulator.Option{simulator.WithClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })}
	if c.account {
		opts = append(opts, simulator.WithAccount(accountID))
	}
	if c.authType == "azure-client-secret" {
		opts = append(opts, simulator.WithCloud("azure"))
	}
	plugin := pluginName
	if c.authType == "oidc" {
		plugin = sharedFederation(t).plugin
	}
	m := &connected{mount: newMountOf(t, plugin, opts...), connection: c, ahead: ahead}
	m.engine = m.admin
	if c.authType != "pat" {
		m.engine = m.workspace.AddServicePrincipal("engine", true)
	}
	config := data{"host": m.workspace.URL()}
	if c.account {
		config["account_id"] = accountID
		m.engine = m.workspace.AddAccountAdmin(m.engine)
	}
	switch c.authType {
	case "pat":
		config["token"] = m.token
	case "oauth-m2m":
		_, secret := m.workspace.AddOAuthSecret(m.engine, 0)
		config["client_id"], config["client_secret"] = m.engine.ApplicationID, server.secret(secret, "a configured client secret")
	case "azure-client-secret":
		id, secret := m.workspace.AddEntraApp(m.engine, tenantID)
		config["azure_tenant_id"], config["azure_client_id"] = tenantID, id
		config["azure_client_secret"] = server.secret(secret, "a configured secret of Entra ID")
	case "oidc":
		m.trust(sharedFederation(t).issuer)
		config["client_id"], config["identity_token_audience"] = m.engine.ApplicationID, trustedAudience
	}
	m.write("config", config)
	require.Equal(t, c.authType, m.read("config")["auth_type"])
	return m
}

// trust adds a federation policy by which the engine is whoever comes with a token of the issuer.
func (m *connected) trust(issuer *simulator.Issuer) {
	m.workspace.AddFederationPolicy(&m.engine, simulator.FederationPolicy{
		Issuer: trustedIssuer, Subject: trustedSubject, Audiences: []string{trustedAudience}, JWKS: issuer.JWKS(),
	})
}

// claims are those of a token that lives for so long and fits the policies of trust.
func claims(life time.Duration) map[string]any {
	now := time.Now()
	return map[string]any{"iss": trustedIssuer, "sub": trustedSubject, "aud": trustedAudience, "iat": now.Unix(), "exp": now.Add(life).Unix()}
}

// federation is a plugin that was registered with a token file.
type federation struct {
	plugin string
	issuer *simulator.Issuer
}

var federationOnce = sync.OnceValues(func() (*federation, error) {
	f := &federation{plugin: pluginName + "-federated", issuer: simulator.NewIssuer("RS256")}
	file := filepath.Join(filepath.Dir(server.logPath), "identity-token")
	token := server.secret(f.issuer.Sign(claims(24*time.Hour)), "an identity token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := copyFile(filepath.Join(server.pluginDir, pluginName), filepath.Join(server.pluginDir, f.plugin)); err != nil {
		return nil, err
	}
	return f, server.register(f.plugin, f.plugin, "DATABRICKS_OIDC_TOKEN_FILEPATH="+file)
})

// sharedFederation is the plugin that all mounts with auth_type oidc share, whose token lives for a day.
func sharedFederation(t *testing.T) *federation {
	t.Helper()
	f, err := federationOnce()
	require.NoError(t, err)
	return f
}

// operations names what was asked of Databricks, in the words of the engine's status.
func (m *mount) operations() []string {
	list := []string{}
	for _, call := range m.workspace.Calls() {
		asked := call.Method + " " + strings.Replace(call.Path, "/accounts/"+accountID, "/accounts", 1)
		name := asked
		for _, o := range operationNames {
			if o.form.MatchString(asked) {
				name = o.name
			}
		}
		if name == "oidc/token" && strings.Contains(string(call.Body), "token-exchange") {
			name = "oidc/exchange"
		}
		list = append(list, name)
	}
	return list
}

var operationNames = []struct {
	name string
	form *regexp.Regexp
}{
	{"postgres/credentials", regexp.MustCompile(`^POST /api/2.0/postgres/credentials$`)},
	{"database/credentials", regexp.MustCompile(`^POST /api/2.0/database/credentials$`)},
	{"token/create", regexp.MustCompile(`^POST /api/2.0/token/create$`)},
	{"token/delete", regexp.MustCompile(`^POST /api/2.0/token/delete$`)},
	{"token-management/create-obo", regexp.MustCompile(`^POST /api/2.0/token-management/on-behalf-of/tokens$`)},
	{"token-management/delete", regexp.MustCompile(`^DELETE /api/2.0/token-management/tokens/\w+$`)},
	{"oauth-secrets/create", regexp.MustCompile(`^POST /api/2.0/accounts/servicePrincipals/\d+/credentials/secrets$`)},
	{"oauth-secrets/delete", regexp.MustCompile(`^DELETE /api/2.0/accounts/servicePrincipals/\d+/credentials/secrets/\w+$`)},
	{"oidc/token", regexp.MustCompile(`^POST /oidc(/accounts)?/v1/token$`)},
	{"entra/token", regexp.MustCompile(`^POST /` + tenantID + `/oauth2/token$`)},
	{"scim/service-principals/create", regexp.MustCompile(`^POST /api/2.0/(preview|accounts)/scim/v2/ServicePrincipals$`)},
	{"scim/service-principals/delete", regexp.MustCompile(`^DELETE /api/2.0/(preview|accounts)/scim/v2/ServicePrincipals/\d+$`)},
}

// buy asks for an access token with an OAuth secret, as its consumer would. It gives "" when Databricks refuses.
func (m *mount) buy(clientID, clientSecret string, account bool) string {
	m.t.Helper()
	endpoint := m.workspace.URL() + "/oidc/v1/token"
	if account {
		endpoint = m.workspace.URL() + "/oidc/accounts/" + accountID + "/v1/token"
	}
	request, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(url.Values{"grant_type": {"client_credentials"}}.Encode()))
	require.NoError(m.t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(clientID, clientSecret)
	response, err := http.DefaultClient.Do(request)
	require.NoError(m.t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		require.Equal(m.t, http.StatusUnauthorized, response.StatusCode)
		return ""
	}
	var granted struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(m.t, json.NewDecoder(response.Body).Decode(&granted))
	return granted.AccessToken
}

// get asks the workspace for a path with a token, as any client would, and answers the status.
func (m *mount) get(path, token string) int {
	m.t.Helper()
	request, err := http.NewRequest(http.MethodGet, m.workspace.URL()+path, nil)
	require.NoError(m.t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	require.NoError(m.t, err)
	response.Body.Close()
	return response.StatusCode
}

// texts reads a list of texts of an answer.
func texts(t *testing.T, value any) []string {
	t.Helper()
	list, ok := value.([]any)
	require.True(t, ok, "%v (%T) is not a list", value, value)
	all := make([]string, len(list))
	for i, text := range list {
		all[i] = fmt.Sprint(text)
	}
	return all
}
