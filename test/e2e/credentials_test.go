// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// minting is a credential type, for whom it is minted, and what its answer holds.
type minting struct {
	credentialType string
	whose          string // "engine", "named" or "lease"
	secret         string // which field of the answer is the secret
	fields         []string
	group          string // whose rights it has instead, "" for these of its identity
	instances      bool   // it is a login to a database of the older kind
}

// String names the credentials in the names of tests.
func (k minting) String() string {
	name := k.credentialType + " of the " + k.whose
	if k.group != "" {
		name += " as a group"
	}
	if k.instances {
		name += " for instances"
	}
	return name
}

var (
	tokenFields  = []string{"comment", "creation_time", "expiry_time", "host", "scopes", "token_id", "token_value"}
	accessFields = []string{"access_token", "expiry_time", "host", "scopes", "token_type"}
	loginFields  = []string{"expiry_time", "host", "password", "port", "username"}
	secretFields = []string{"client_id", "client_secret", "expiry_time", "host", "scopes", "secret_id"}
)

var mintings = []minting{
	{"pat", "engine", "token_value", tokenFields, "", false},
	{"obo_token", "named", "token_value", tokenFields, "", false},
	{"oauth_secret", "named", "client_secret", secretFields, "", false},
	{"oauth_token", "engine", "access_token", accessFields, "", false},
	{"oauth_token", "named", "access_token", accessFields, "", false},
	{"oauth_token", "engine", "access_token", accessFields, "analysts", false},
	{"oauth_token", "named", "access_token", accessFields, "analysts", false},
	{"database_credential", "engine", "password", loginFields, "", false},
	{"database_credential", "engine", "password", loginFields, "", true},
	{"database_credential", "named", "password", loginFields, "", false},
	{"service_principal", "lease", "client_secret", append([]string{"application_id", "display_name", "service_principal_id"}, secretFields...), "", false},
}

// refusal says why a credential type can't be minted over a connection: by parts of the error, which comes when the role is
// written or at the mint. Both are empty where it can.
func (k minting) refusal(c connection) (writing, atMint string) {
	switch {
	case k.group != "" && c.account:
		return "assume_group: access tokens of an account can't have a group's rights", ""
	case k.group != "" && k.whose == "engine" && c.authType == "pat":
		return "assume_group: the mount is connected with a personal access token", ""
	case k.group != "" && k.whose == "engine" && c.authType == "azure-client-secret":
		return "assume_group: access tokens of Entra ID", ""
	case c.account && slices.Contains([]string{"pat", "obo_token", "database_credential"}, k.credentialType):
		return "credential_type: " + k.credentialType + " needs a workspace, and the mount is connected to an account", ""
	case k.credentialType == "oauth_token" && k.whose == "engine" && c.authType == "pat":
		return "credential_type: the mount is connected with a personal access token, which can't be exchanged", ""
	case k.credentialType == "obo_token" && c.authType == "azure-client-secret":
		// The workspace says it. A real one on Azure is known by its host, and then writing the role is refused.
		return "", "Azure never does"
	}
	return "", ""
}

// calls looks up in the manual what a mint and a revocation ask of Databricks.
func (k minting) calls(t *testing.T, c connection) (mint, revoke []string) {
	t.Helper()
	row := k.credentialType
	if k.credentialType == "oauth_token" && k.whose == "engine" {
		row += " " + c.authType
	}
	if k.credentialType == "database_credential" && k.whose == "engine" {
		row += map[bool]string{false: " database_endpoint", true: " database_instances"}[k.instances]
	}
	calls, ok := manualCalls(t)[row]
	require.True(t, ok, "docs/credentials.md has no row for %q in its table of calls", row)
	return calls[0], calls[1]
}

var (
	callsRow = regexp.MustCompile(`(?m)^\| (.+) \| (.+) \| (.+) \|$`)
	inCode   = regexp.MustCompile("`([^`]+)`")
)

// manualCalls reads the table of calls in docs/credentials.md: by the words in code of the first column, those of the second
// and third.
func manualCalls(t *testing.T) map[string][2][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/credentials.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## Calls\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	words := func(cell string) []string {
		list := []string{}
		for _, match := range inCode.FindAllStringSubmatch(cell, -1) {
			list = append(list, match[1])
		}
		return list
	}
	table := map[string][2][]string{}
	for _, row := range callsRow.FindAllStringSubmatch(section, -1) {
		table[strings.Join(words(row[1]), " ")] = [2][]string{words(row[2]), words(row[3])}
	}
	return table
}

// TestEveryCredentialTypeOverEveryConnection is the table of credential types and ways to authenticate. What is minted is
// found to have the identity, scopes and lifetime that were promised, by using it; it is renewed, revoked, left to expire and
// left to itself, and then found dead.
func TestEveryCredentialTypeOverEveryConnection(t *testing.T) {
	t.Parallel()
	for _, kind := range mintings {
		for _, way := range connections {
			t.Run(fmt.Sprintf("%s over %s", kind, way), func(t *testing.T) {
				t.Parallel()
				m := connect(t, way)
				row := &tableRow{connected: m, kind: kind}
				writing, atMint := kind.refusal(way)
				body := row.role()
				if writing != "" {
					_, err := m.tryWrite("roles/app", body)
					requireRefused(t, err, 400, writing)
					m.requireAbsent("roles/app")
					return
				}
				m.write("roles/app", body)
				if row.named.ID != "" {
					role := m.read("roles/app")
					require.Equal(t, row.named.ID, role["service_principal_id"], "both ids are shown")
					require.Equal(t, row.named.ApplicationID, role["application_id"], "both ids are shown")
				}
				if atMint != "" {
					_, err := m.tryMint("app", nil)
					requireRefused(t, err, 400, atMint)
					return
				}
				row.live(t)
			})
		}
	}
}

// tableRow is one credential type over one connection.
type tableRow struct {
	*connected
	kind   minting
	named  simulator.Principal // the zero value unless a service principal is named
	scopes []string
}

// role makes what a role needs at the workspace, and answers what to write.
func (r *tableRow) role() data {
	body := data{"credential_type": r.kind.credentialType, "ttl": "1h", "max_ttl": "2h"}
	switch r.kind.whose {
	case "named":
		r.named = r.workspace.AddServicePrincipal("app", false)
		if r.kind.credentialType == "oauth_secret" {
			body["service_principal_id"] = r.named.ID
		} else {
			body["application_id"] = r.named.ApplicationID
		}
	case "lease":
		body["display_name_template"] = "app of {{.RoleName}}"
		if !r.account {
			r.workspace.AddGroup("readers")
			body["groups"], body["entitlements"] = "readers", "databricks-sql-access,workspace-access"
		}
	}
	if r.kind.group != "" {
		members := []simulator.Principal{r.engine}
		if r.kind.whose == "named" {
			members = []simulator.Principal{r.named}
		}
		r.workspace.AddGroup(r.kind.group, members...)
		body["assume_group"] = r.kind.group
	}
	if r.kind.credentialType == "database_credential" {
		if r.kind.instances {
			r.workspace.AddDatabaseInstance("orders", shopHost)
			body["database_instances"] = "orders"
			return body
		}
		r.workspace.AddDatabaseEndpoint(shopEndpoint, shopHost)
		body["database_endpoint"] = shopEndpoint
		return body // without scopes
	}
	// Tokens of Entra ID have no scopes.
	if r.kind.credentialType != "oauth_token" || r.kind.whose != "engine" || r.authType != "azure-client-secret" {
		r.scopes = []string{"scim", "sql"}
		body["scopes"] = "scim,sql"
	}
	return body
}

// live goes through the life of three credentials.
func (r *tableRow) live(t *testing.T) {
	mintCalls, revokeCalls := r.kind.calls(t, r.connection)
	isLogin := r.kind.credentialType == "database_credential"
	endsByItself := r.kind.credentialType == "oauth_token" || isLogin

	r.workspace.ResetCalls()
	revoked := r.mintOne(t, nil)
	require.Equal(t, mintCalls, r.operations(), "of the mint")
	r.requirePromised(t, revoked)

	r.workspace.ResetCalls()
	renewed, err := r.client.Sys().Renew(revoked.LeaseID, 5400)
	if endsByItself {
		requireRefused(t, err, 400, "not renewable")
	} else {
		require.NoError(t, err)
		require.Greater(t, renewed.LeaseDuration, 5300)
		require.LessOrEqual(t, renewed.LeaseDuration, 5400)
	}
	require.Empty(t, r.operations(), "a renewal is local")

	r.revoke(revoked.Secret)
	require.Equal(t, revokeCalls, r.operations(), "of the revocation")
	_, err = r.client.Sys().Lookup(revoked.LeaseID)
	requireRefused(t, err, 400, "invalid lease")
	require.Equal(t, endsByItself, r.alive(revoked), "revoking ends everything but an access token and a login")
	if r.kind.whose == "lease" {
		require.False(t, r.workspace.Introspect(revoked.token).Live, "an access token goes with its service principal")
		_, exists := r.principal(fmt.Sprint(revoked.Data["service_principal_id"]))
		require.False(t, exists)
	}

	short, life := "2s", 5*time.Minute
	if isLogin {
		_, err := r.tryMint("app", data{"ttl": short})
		requireRefused(t, err, 400, "ttl: ", "is too short")
		if short = "5m"; r.kind.instances {
			short, life = "1h", time.Hour
		}
	}
	expiring := r.mintOne(t, data{"ttl": short})
	if isLogin {
		require.InDelta(t, life.Seconds(), expiring.LeaseDuration, 5, "ttl is its own life")
		require.WithinDuration(t, time.Now().Add(life), timeOf(t, expiring.Data["expiry_time"]), 30*time.Second)
	} else if endsByItself {
		require.Greater(t, expiring.LeaseDuration, 3500, "the lease says when the token ends, whatever was asked for")
		require.Contains(t, fmt.Sprint(expiring.Warnings), "can't be revoked")
	} else {
		require.Equal(t, 2, expiring.LeaseDuration)
		require.Eventually(t, func() bool { return !r.alive(expiring) }, patience, 100*time.Millisecond)
	}

	// If Vault were no more, Databricks would end it by itself. The lifetime was checked by requirePromised.
	left := r.mintOne(t, nil)
	r.workspace.ResetCalls()
	r.ahead.Store(int64(3 * time.Hour))
	require.False(t, r.workspace.Introspect(left.token).Live)
	require.False(t, r.alive(left))
	require.NotContains(t, r.operations(), "token/delete")
	require.NotContains(t, r.operations(), "oauth-secrets/delete")
}

// credential is what was minted, and a token that it is, or that it has bought.
type credential struct {
	*api.Secret
	token string
}

func (r *tableRow) mintOne(t *testing.T, body data) *credential {
	t.Helper()
	secret, err := r.tryMint("app", body)
	require.NoError(t, err)
	require.Equal(t, slices.Sorted(slices.Values(r.kind.fields)), slices.Sorted(maps.Keys(secret.Data)))
	return &credential{Secret: secret}
}

// alive tells whether the credential can still be used: a token by itself, a secret to buy one.
func (r *tableRow) alive(c *credential) bool {
	r.t.Helper()
	if r.kind.credentialType == "database_credential" {
		_, ok := r.workspace.DatabaseLogin(c.Data["username"].(string), c.Data["password"].(string))
		return ok
	}
	if r.kind.secret == "client_secret" {
		return r.buy(c.Data["client_id"].(string), c.Data["client_secret"].(string), r.account) != ""
	}
	return r.workspace.Introspect(c.Data[r.kind.secret].(string)).Live
}

// principal finds a service principal of the workspace by its numeric id.
func (m *mount) principal(id string) (simulator.Principal, bool) {
	for _, p := range m.workspace.ServicePrincipals() {
		if p.ID == id {
			return p, true
		}
	}
	return simulator.Principal{}, false
}

// owner is whom the credential must act for.
func (r *tableRow) owner(t *testing.T, c *credential) (id string) {
	t.Helper()
	switch r.kind.whose {
	case "engine":
		return r.engine.ID
	case "named":
		return r.named.ID
	}
	id = c.Data["service_principal_id"].(string)
	require.Contains(t, c.Data["display_name"], "app of app", "the role's template")
	require.Equal(t, c.Data["application_id"], c.Data["client_id"])
	if !r.account {
		made, exists := r.principal(id)
		require.True(t, exists)
		require.Equal(t, []string{"readers"}, made.Groups)
		require.ElementsMatch(t, []string{"databricks-sql-access", "workspace-access"}, made.Entitlements)
		require.Equal(t, made.DisplayName, c.Data["display_name"])
		require.Equal(t, made.ApplicationID, c.Data["application_id"])
	}
	return id
}

// requirePromised holds a new credential against what its role and its answer promise.
func (r *tableRow) requirePromised(t *testing.T, c *credential) {
	t.Helper()
	owner := r.owner(t, c)
	c.token = c.Data[r.kind.secret].(string)
	if r.kind.credentialType == "database_credential" {
		r.requireLogin(t, c)
		return
	}
	expires := time.Time{}
	if r.kind.secret == "client_secret" {
		c.token = server.secret(r.buy(c.Data["client_id"].(string), c.token, r.account), "a bought access token")
		for _, secret := range r.workspace.OAuthSecrets(simulator.Principal{ID: owner}) {
			if secret.ID == c.Data["secret_id"] {
				expires = secret.Expires
			}
		}
	}

	// Who it is, and what it may do.
	state := r.workspace.Introspect(c.token)
	require.True(t, state.Live)
	require.Equal(t, owner, state.Owner.ID)
	require.Equal(t, r.kind.group, state.Group)
	require.Equal(t, r.scopes, state.Scopes)
	if r.scopes == nil {
		require.Equal(t, []string{"all-apis"}, texts(t, c.Data["scopes"]))
	} else {
		require.Equal(t, r.scopes, texts(t, c.Data["scopes"]))
	}
	if !r.account {
		require.Equal(t, 200, r.get("/api/2.0/preview/scim/v2/Me", c.token), "it works")
		beyond := 403
		if r.scopes == nil {
			beyond = 200
		}
		require.Equal(t, beyond, r.get("/api/2.0/secrets/scopes/list", c.token), "the scopes are the limit")
	}
	require.Equal(t, r.workspace.URL(), c.Data["host"])

	// How long: the credential for the lease's maximum and a little more, an access token for its hour.
	if expires.IsZero() {
		expires = state.Expires
	}
	require.WithinDuration(t, expires, timeOf(t, c.Data["expiry_time"]), 2*time.Second)
	lease, life := time.Duration(c.LeaseDuration)*time.Second, time.Until(expires)
	if r.kind.credentialType == "oauth_token" {
		require.False(t, c.Renewable)
		require.InDelta(t, time.Hour.Seconds(), life.Seconds(), 60)
		require.InDelta(t, life.Seconds(), lease.Seconds(), 60, "the lease is as long as the token")
		require.Equal(t, "Bearer", c.Data["token_type"])
		return
	}
	require.True(t, c.Renewable)
	require.Equal(t, time.Hour, lease)
	require.Greater(t, life, 2*time.Hour)
	require.Less(t, life, 2*time.Hour+skew)
}

func TestSixthOAuthSecretIsRefusedWithTheWayOut(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	app := m.workspace.AddServicePrincipal("app", false)
	m.workspace.AddOAuthSecret(app, 0)
	m.write("roles/app", data{"credential_type": "oauth_secret", "service_principal_id": app.ID})
	var last *api.Secret
	for range 4 {
		last = m.mint("app")
	}
	m.workspace.ResetCalls()
	_, err := m.tryMint("app", nil)
	requireRefused(t, err, 400, "can have 5 OAuth secrets", app.ID+" has 5", "vault lease revoke", "oauth_token", "service_principal", "RESOURCE_LIMIT_EXCEEDED")
	require.Equal(t, 1, m.workspace.Count("POST", "*"), "a create that was refused is not repeated")
	require.Len(t, m.workspace.OAuthSecrets(app), 5)

	// Both ways out work.
	m.write("roles/token", data{"credential_type": "service_principal"})
	m.mint("token")
	m.revoke(last)
	m.mint("app")
}

// TestDeliveredSecretPartIsInItsPlaceAndNotInTheAnswer delivers every credential type that has no test of its own in delivery_test.go, to a scope
// and to Unity Catalog.
func TestDeliveredSecretPartIsInItsPlaceAndNotInTheAnswer(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddUCSchema("main", "app", m.admin)
	app := m.workspace.AddServicePrincipal("app", false)
	type place struct {
		sent  data
		value func() (string, bool)
	}
	for name, body := range map[string]data{
		"oauth_secret":      {"service_principal_id": app.ID},
		"oauth_token":       {"service_principal_id": app.ID},
		"service_principal": {},
	} {
		t.Run(name, func(t *testing.T) {
			body["credential_type"] = name
			m.write("roles/delivered", body)
			defer m.delete("roles/delivered")
			for _, to := range []place{
				{data{"deliver_scope": "etl", "deliver_key": name}, func() (string, bool) { return m.value("etl", name) }},
				{data{"deliver_uc": "main.app." + name}, func() (string, bool) {
					value, stored := m.ucValues()[name]
					return value, stored
				}},
			} {
				secret, err := m.tryMint("delivered", to.sent)
				require.NoError(t, err)
				value, stored := to.value()
				require.True(t, stored)
				server.secret(value, "a delivered "+name)
				require.NotContains(t, fmt.Sprint(secret), value)
				require.NotContains(t, secret.Data, "client_secret")
				require.NotContains(t, secret.Data, "access_token")
				for field, sent := range to.sent {
					require.Equal(t, sent, secret.Data[field])
				}

				alive := func() bool { return m.workspace.Introspect(value).Live }
				if name != "oauth_token" {
					alive = func() bool { return m.buy(secret.Data["client_id"].(string), value, false) != "" }
				}
				require.True(t, alive(), "the place holds exactly the secret part")
				m.revoke(secret)
				_, stored = to.value()
				require.False(t, stored, "revoking removes it")
				require.Equal(t, name == "oauth_token", alive())
			}
		})
	}
	require.Empty(t, m.workspace.OAuthSecrets(app))
}

// TestLostRepliesLeaveNothingBehind loses the reply to every create of every credential type. What bears a nonce is found by
// the rollback, which must not touch what leases answer for.
func TestLostRepliesLeaveNothingBehind(t *testing.T) {
	m := newConfiguredMount(t)
	apps := map[string]simulator.Principal{}
	for _, name := range []string{"obo_token", "oauth_secret", "oauth_token"} {
		apps[name] = m.workspace.AddServicePrincipal(name, false)
		m.write("roles/"+name, data{"credential_type": name, "application_id": apps[name].ApplicationID})
	}
	m.write("roles/service_principal", data{"credential_type": "service_principal"})

	secrets := func(name string) string {
		return "/api/2.0/accounts/servicePrincipals/" + apps[name].ID + "/credentials/secrets"
	}
	leases := map[string]*api.Secret{}
	for name, path := range map[string]string{
		"obo_token":         "/api/2.0/token-management/on-behalf-of/tokens",
		"oauth_secret":      secrets("oauth_secret"),
		"oauth_token":       secrets("oauth_token"),
		"service_principal": "/api/2.0/preview/scim/v2/ServicePrincipals",
	} {
		leases[name+" before"] = m.mint(name)
		fault := m.workspace.Inject(simulator.Fault{Method: "POST", Path: path, Times: 1, AfterEffect: true, Reset: true})
		m.workspace.ResetCalls()
		_, err := m.tryMint(name, nil)
		requireRefused(t, err, 502)
		require.Equal(t, 1, fault.Hits(), name)
		require.Equal(t, 1, m.workspace.Count("POST", path), "a create of unknown outcome is not repeated")
		leases[name+" after"] = m.mint(name)
	}
	require.Len(t, m.minted(), 3, "two with a lease and the orphan")
	require.Len(t, m.workspace.OAuthSecrets(apps["oauth_secret"]), 3)
	require.Len(t, m.workspace.OAuthSecrets(apps["oauth_token"]), 1, "of those with a lease, there is none")
	require.Len(t, m.workspace.ServicePrincipals(), len(apps)+3)

	// Where the first of two steps is known, it is undone at once.
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: "/api/2.0/accounts/servicePrincipals/*", Times: 1, AfterEffect: true, Reset: true})
	_, err := m.tryMint("service_principal", nil)
	requireRefused(t, err, 502)
	require.Len(t, m.workspace.ServicePrincipals(), len(apps)+3)
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: "/oidc/v1/token", AfterEffect: true, Reset: true})
	_, err = m.tryMint("oauth_token", nil)
	requireRefused(t, err, 502)
	require.Len(t, m.workspace.OAuthSecrets(apps["oauth_token"]), 1, "the orphan alone")
	m.workspace.ClearFaults()

	t.Parallel() // Other tests go on meanwhile, but this one has begun before them.
	require.Eventually(t, func() bool {
		return len(m.minted()) == 2 && len(m.workspace.OAuthSecrets(apps["oauth_secret"])) == 2 &&
			len(m.workspace.OAuthSecrets(apps["oauth_token"])) == 0 && len(m.workspace.ServicePrincipals()) == len(apps)+2
	}, orphanPatience, time.Second)
	for name, secret := range leases {
		if value, ok := secret.Data["client_secret"].(string); ok {
			require.NotEmpty(t, m.buy(secret.Data["client_id"].(string), value, false), name)
		} else {
			require.True(t, m.workspace.Introspect(secretPartOf(secret)).Live, name)
		}
	}
}

// TestEmptiedServicePrincipalStaysInAnIdentityFederatedAccount is what docs/credentials.md says of such workspaces.
func TestEmptiedServicePrincipalStaysInAnIdentityFederatedAccount(t *testing.T) {
	t.Parallel()
	m := newMountOf(t, pluginName, simulator.WithAccount(accountID))
	m.configure()
	m.write("roles/app", data{"credential_type": "service_principal", "entitlements": "workspace-access"})
	secret := m.mint("app")
	token := server.secret(m.buy(secret.Data["client_id"].(string), secret.Data["client_secret"].(string), false), "a bought access token")
	require.Equal(t, 200, m.get("/api/2.0/preview/scim/v2/Me", token))
	m.revoke(secret)
	require.NotEqual(t, 200, m.get("/api/2.0/preview/scim/v2/Me", token))
	require.Empty(t, m.buy(secret.Data["client_id"].(string), secret.Data["client_secret"].(string), true), "its secrets are gone")
	require.Empty(t, m.workspace.ServicePrincipals(), "and so is it in the workspace")

	owner := m.workspace.AddAccountAdmin(m.workspace.AddServicePrincipal("account admin", false))
	_, password := m.workspace.AddOAuthSecret(owner, 0)
	server.secret(password, "a client secret of an account admin")
	admin := server.secret(m.buy(owner.ApplicationID, password, true), "an access token of an account admin")
	path := "/api/2.0/accounts/" + accountID + "/scim/v2/ServicePrincipals/" + secret.Data["service_principal_id"].(string)
	require.Equal(t, 200, m.get(path, admin), "but the account has it still")
}
