// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestAdminsAreWarnedOf writes a role in each way in which one can give admin rights, and in the same way without them.
func TestAdminsAreWarnedOf(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.workspace.AddGroup("readers")
	m.workspace.AddDatabaseEndpoint(shopEndpoint, shopHost)
	engine := m.connectOAuth()
	admin, modest := m.workspace.AddServicePrincipal("admin", true), m.workspace.AddServicePrincipal("job", false)
	warned := func(path string, data map[string]any) string {
		t.Helper()
		m.workspace.ResetCalls()
		text := strings.Join(m.write(path, data).Warnings, "\n")
		require.LessOrEqual(t, len(m.workspace.Calls()), 2, "no call but the lookup, and the create of a static role: %v", m.requests())
		return text
	}
	for name, row := range map[string]struct {
		path   string
		data   map[string]any
		safely map[string]any
		word   string
	}{
		"pat":                  {"roles/a", map[string]any{"credential_type": "pat"}, nil, engine.ApplicationID + ", who is a workspace admin. Safer are obo_token, oauth_secret, oauth_token of a named service principal, or service_principal"},
		"oauth_token, own":     {"roles/b", map[string]any{"credential_type": "oauth_token"}, nil, engine.ApplicationID + ", who is a workspace admin"},
		"a login, own":         {"roles/l", map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint}, nil, "Logins of this role are those of " + engine.ApplicationID + ", who is a workspace admin"},
		"a login, named":       {"roles/m", map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint, "service_principal_id": admin.ID}, map[string]any{"service_principal_id": modest.ID}, "Logins of this role are those of service principal " + admin.ApplicationID + ", which is a workspace admin"},
		"groups":               {"roles/c", map[string]any{"credential_type": "service_principal", "groups": "readers,admins"}, map[string]any{"groups": "readers"}, `made a member of the group "admins"`},
		"obo_token":            {"roles/d", map[string]any{"credential_type": "obo_token", "service_principal_id": admin.ID}, map[string]any{"service_principal_id": modest.ID}, "service principal " + admin.ApplicationID + ", which is a workspace admin"},
		"oauth_secret":         {"roles/e", map[string]any{"credential_type": "oauth_secret", "application_id": admin.ApplicationID}, map[string]any{"application_id": modest.ApplicationID}, "service principal " + admin.ApplicationID + ", which is a workspace admin"},
		"oauth_token, named":   {"roles/f", map[string]any{"credential_type": "oauth_token", "service_principal_id": admin.ID}, map[string]any{"service_principal_id": modest.ID}, "service principal " + admin.ApplicationID + ", which is a workspace admin"},
		"oauth_secret, itself": {"roles/g", map[string]any{"credential_type": "oauth_secret", "application_id": engine.ApplicationID}, nil, "service principal " + engine.ApplicationID + ", which is a workspace admin"},
		"static pat":           {"static-roles/h", map[string]any{"credential_type": "pat"}, nil, "Safer are obo_token or oauth_secret of a named service principal; or"},
		"static obo_token":     {"static-roles/i", map[string]any{"credential_type": "obo_token", "application_id": admin.ApplicationID}, map[string]any{"application_id": modest.ApplicationID}, "service principal " + admin.ApplicationID + ", which is a workspace admin"},
		"static oauth_secret":  {"static-roles/j", map[string]any{"credential_type": "oauth_secret", "service_principal_id": admin.ID}, map[string]any{"service_principal_id": modest.ID}, "service principal " + admin.ApplicationID + ", which is a workspace admin"},
		"static, the engine's": {"static-roles/k", map[string]any{"credential_type": "obo_token", "application_id": engine.ApplicationID}, nil, "which is a workspace admin"},
	} {
		require.Contains(t, warned(row.path, row.data), row.word, name)
		if row.safely != nil {
			require.NotContains(t, warned(row.path, row.safely), "admin", name)
		}
	}
}

// TestAccountAdminsAreWarnedOf shows the same on an account, where the role of an account admin counts.
func TestAccountAdminsAreWarnedOf(t *testing.T) {
	t.Parallel()
	m, engine := accountReady(t)
	modest := m.workspace.AddServicePrincipal("job", true) // of a workspace, which has no power over the account
	admin := m.workspace.AddAccountAdmin(m.workspace.AddServicePrincipal("admin", false))
	warned := func(data map[string]any) string {
		return strings.Join(m.write("roles/x", data).Warnings, "\n")
	}
	m.write("config", map[string]any{"ttl": "1h"}) // asks who the engine is
	require.Contains(t, warned(map[string]any{"credential_type": "oauth_token"}), engine.ApplicationID+", who is an account admin")
	require.Contains(t, warned(map[string]any{"credential_type": "oauth_secret", "application_id": admin.ApplicationID}), "service principal "+admin.ApplicationID+", which is an account admin")
	require.NotContains(t, warned(map[string]any{"application_id": modest.ApplicationID}), "admin")
}

// TestUnmanagedPrincipalsAreWarnedOf writes roles that can be stored but not be minted from.
func TestUnmanagedPrincipalsAreWarnedOf(t *testing.T) {
	t.Parallel()
	m := ready(t)
	sp, managed := m.workspace.AddServicePrincipal("job", false), m.workspace.AddServicePrincipal("ours", false)
	engine := m.workspace.AddUser("modest@example.com", false)
	m.workspace.SetManager(managed, engine)
	token, _ := m.workspace.AddToken(engine, "the engine's own", 0)
	m.write("config", map[string]any{"token": token})
	for credentialType, word := range map[string]string{
		"oauth_secret":      "does not let the engine's identity handle the secrets of service principal " + sp.ID,
		"oauth_token":       "does not let the engine's identity handle the secrets of service principal " + sp.ID,
		"obo_token":         "only a workspace admin can make tokens on behalf of service principals, and the engine's identity, modest@example.com, isn't one",
		"service_principal": "only a workspace admin can make service principals, and the engine's identity, modest@example.com, isn't one",
	} {
		data := map[string]any{"credential_type": credentialType}
		if credentialType != "service_principal" {
			data["service_principal_id"] = sp.ID
		}
		warnings := strings.Join(m.write("roles/"+credentialType, data).Warnings, "\n")
		require.Contains(t, warnings, "Mints of this role will fail")
		require.Contains(t, warnings, word)
		resp, err := m.do(logical.ReadOperation, "creds/"+credentialType, nil)
		m.refused(resp, err, "HTTP 403")
	}
	for _, credentialType := range []string{"oauth_secret", "oauth_token"} {
		written := m.write("roles/managed", map[string]any{"credential_type": credentialType, "application_id": managed.ApplicationID})
		require.NotContains(t, strings.Join(written.Warnings, "\n"), "will fail")
		require.NotEmpty(t, m.mint("managed").Data["host"])
	}

	// What can't be found out is no reason to warn, or to refuse.
	m.workspace.Inject(simulator.Fault{Path: secretsPath + "*", Status: http.StatusInternalServerError})
	written := m.write("roles/unknown", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID})
	require.NotContains(t, strings.Join(written.Warnings, "\n"), "will fail")
}

// TestWarningsAskWhoTheEngineIs writes roles on a mount whose config was stored unverified.
func TestWarningsAskWhoTheEngineIs(t *testing.T) {
	t.Parallel()
	const mePath = "/api/2.0/preview/scim/v2/Me"
	m := newMount(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	modest, _ := m.workspace.AddToken(m.workspace.AddUser("modest@example.com", false), "the engine's own", 0)
	warned := func(path string, data map[string]any) string {
		t.Helper()
		return strings.Join(m.write(path, data).Warnings, "\n")
	}
	for path, row := range map[string]struct {
		token string
		data  map[string]any
		word  string
	}{
		"roles/a":        {m.token, map[string]any{"credential_type": "pat"}, "all the rights of engine@example.com, who is a workspace admin"},
		"static-roles/b": {m.token, map[string]any{"credential_type": "pat"}, "all the rights of engine@example.com, who is a workspace admin"},
		"roles/c":        {modest, map[string]any{"credential_type": "obo_token", "service_principal_id": sp.ID}, "Mints of this role will fail"},
		"roles/d":        {modest, map[string]any{"credential_type": "service_principal"}, "Mints of this role will fail"},
	} {
		m.connect(map[string]any{"token": m.unlogged(row.token), "verify_connection": false})
		m.workspace.ResetCalls()
		require.Contains(t, warned(path, row.data), row.word, path)
		require.Contains(t, m.requests(), "GET "+mePath)
		m.workspace.ResetCalls()
		m.write("roles/again", map[string]any{"credential_type": "pat"})
		require.Empty(t, m.requests(), "who it is, is remembered")
	}

	// What can't be found out is said.
	m.connect(map[string]any{"verify_connection": false, "max_retries": 0})
	fault := m.workspace.Inject(simulator.Fault{Path: mePath, Status: http.StatusInternalServerError})
	require.Contains(t, warned("roles/a", map[string]any{"ttl": "5m"}), "It isn't known whether the engine's identity is an admin (scim/me: Databricks is unavailable")
	require.Contains(t, warned("roles/c", map[string]any{"ttl": "5m"}), "If it isn't, mints of this role will fail: only a workspace admin can make tokens on behalf of service principals")
	named := warned("roles/e", map[string]any{"credential_type": "oauth_token", "service_principal_id": sp.ID})
	require.NotContains(t, named, "isn't known", "who the engine is changes nothing there")
	fault.Clear()
	require.Contains(t, warned("roles/a", map[string]any{"ttl": "6m"}), "who is a workspace admin")

	// Nor is anything known before there is a connection.
	bare := newMount(t)
	for credentialType, word := range map[string]string{
		"pat": "credentials of this role have all its rights", "oauth_token": "credentials of this role have all its rights", "service_principal": "If it isn't, mints of this role will fail",
	} {
		warnings := strings.Join(bare.write("roles/x", map[string]any{"credential_type": credentialType}).Warnings, "\n")
		require.Contains(t, warnings, "(there is no connection yet)")
		require.Contains(t, warnings, word)
	}
}

// TestWarningsDoNotHoldUpARole has a Databricks that doesn't answer what only a warning needs.
func TestWarningsDoNotHoldUpARole(t *testing.T) {
	skipLong(t)
	t.Parallel()
	m := newMount(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.connect(map[string]any{"verify_connection": false, "request_timeout": "50s"})
	release := make(chan struct{})
	defer close(release)
	m.workspace.Inject(simulator.Fault{Path: mePath, Hold: release})
	list := m.workspace.Inject(simulator.Fault{Path: secretsPath + "*", Hold: release})
	for path, data := range map[string]map[string]any{
		"roles/secret": {"credential_type": "oauth_secret", "service_principal_id": sp.ID}, "roles/own": {"credential_type": "pat"},
	} {
		require.Equal(t, path == "roles/own", strings.Contains(warnings(m.write(path, data)), "Databricks did not answer in time"))
	}
	require.Zero(t, list.Hits(), "what the first question has used up is not left for the second")
}

// TestATypeThatChangesIsLookedUp changes only the type of a role, whose warnings depend on it.
func TestATypeThatChangesIsLookedUp(t *testing.T) {
	t.Parallel()
	m := ready(t)
	admin, modest := m.workspace.AddServicePrincipal("admin", true), m.workspace.AddServicePrincipal("job", false)
	patch := func(path string, data map[string]any) string {
		t.Helper()
		resp, err := m.do(logical.PatchOperation, path, data)
		m.requireOK(resp, err)
		return strings.Join(resp.Warnings, "\n")
	}
	for _, prefix := range []string{"roles/", "static-roles/"} {
		m.write(prefix+"a", map[string]any{"credential_type": "obo_token", "service_principal_id": admin.ID})
		require.Contains(t, patch(prefix+"a", map[string]any{"credential_type": "oauth_secret"}), "which is a workspace admin", prefix)
	}
	m.write("roles/b", map[string]any{"credential_type": "obo_token", "service_principal_id": modest.ID})
	engine := m.workspace.AddUser("modest@example.com", false)
	token, _ := m.workspace.AddToken(engine, "the engine's own", 0)
	m.write("config", map[string]any{"token": m.unlogged(token)})
	require.Contains(t, patch("roles/b", map[string]any{"credential_type": "oauth_secret"}), "handle the secrets of service principal "+modest.ID)
}

// TestLifetimesAreWarnedOf shows when a role's credentials live for longer than its author may think.
func TestLifetimesAreWarnedOf(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.system.MaxLeaseTTLVal = 768 * time.Hour
	const long = "max_ttl is not set, so credentials of this role live for 32d at Databricks"
	sp := m.workspace.AddServicePrincipal("job", false)
	warned := func(data map[string]any) string {
		t.Helper()
		return strings.Join(m.write("roles/x", data).Warnings, "\n")
	}
	require.Contains(t, warned(map[string]any{"credential_type": "pat", "ttl": "15m"}), long+" unless they are revoked, although ttl is 15m")
	require.Contains(t, warned(map[string]any{"credential_type": "service_principal", "ttl": "15m"}), long)
	require.Contains(t, warned(map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "ttl": "15m"}), long)
	require.NotContains(t, warned(map[string]any{"credential_type": "oauth_token", "ttl": "15m"}), "max_ttl", "which has no say there")
	require.Contains(t, warned(map[string]any{"credential_type": "pat", "application_id": "", "service_principal_id": "", "ttl": "15m"}), long)
	require.NotContains(t, warned(map[string]any{"max_ttl": "24h"}), "max_ttl is not set")
	require.NotContains(t, warned(map[string]any{"max_ttl": 0, "ttl": "768h"}), "max_ttl is not set")
	require.NotContains(t, warned(map[string]any{"ttl": 0}), "max_ttl is not set")
	m.write("config", map[string]any{"ttl": "1h"})
	require.Contains(t, warned(map[string]any{"ttl": 0}), long+" unless they are revoked, although ttl is 1h")
	m.write("config", map[string]any{"max_ttl": "24h"})
	require.NotContains(t, warned(map[string]any{"ttl": "15m"}), "max_ttl is not set")

	// Before there is a config.
	bare := newMount(t)
	require.Contains(t, strings.Join(bare.write("roles/x", map[string]any{"credential_type": "pat", "ttl": "15m"}).Warnings, "\n"), "live for 4h at Databricks")
}

// TestLifetimesOverTheWorkspacesMaximum mints for longer than the workspace allows.
func TestLifetimesOverTheWorkspacesMaximum(t *testing.T) {
	t.Parallel()
	m := ready(t, simulator.WithMaxTokenLifetime(time.Hour))
	sp := m.workspace.AddServicePrincipal("job", false)
	for credentialType, id := range map[string]string{"pat": "", "obo_token": sp.ID} {
		m.write("roles/"+credentialType, map[string]any{"credential_type": credentialType, "service_principal_id": id, "ttl": "5m", "max_ttl": "2h"})
		resp, err := m.do(logical.ReadOperation, "creds/"+credentialType, nil)
		m.refused(resp, err, `the workspace allows no credential that lives for 2h1m; lower max_ttl of role "`+credentialType+`"`, "maximum of 3600 seconds", "INVALID_PARAMETER_VALUE", "request id")
		m.write("roles/"+credentialType, map[string]any{"max_ttl": "59m"})
		require.NotEmpty(t, m.mint(credentialType).Data["token_value"])

		resp, err = m.do(logical.UpdateOperation, "static-roles/"+credentialType, map[string]any{"credential_type": credentialType, "service_principal_id": id, "lifetime": "2h"})
		m.refused(resp, err, `the workspace allows no credential that lives for 2h; set lifetime of static role "`+credentialType+`" to less`, "maximum of 3600 seconds")
	}

}

// TestOtherRefusalsAreNotTakenForALifetime answers each create in words about lifetimes and in others.
func TestOtherRefusalsAreNotTakenForALifetime(t *testing.T) {
	t.Parallel()
	m := ready(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.workspace.AddGroup("readers")
	secretCreate := secretsPath + "*"
	const limited, conditional, none = "the workspace allows no credential that lives for 1h", "was asked for; if the workspace allows less, lower max_ttl", ""
	for credentialType, row := range map[string]struct{ path, id string }{
		"pat": {createPath, ""}, "obo_token": {oboPath, sp.ID}, "oauth_secret": {secretCreate, sp.ID}, "service_principal": {secretCreate, ""},
	} {
		m.write("roles/"+credentialType, map[string]any{"credential_type": credentialType, "service_principal_id": row.id, "max_ttl": "1h"})
		for body, advice := range map[string]string{
			`{"error_code":"INVALID_PARAMETER_VALUE","message":"The lifetime exceeds the maximum."}`:                         limited,
			`{"error_code":"BAD_REQUEST","message":"Token lifetime_seconds must be at most 3600."}`:                          limited,
			`{"error_code":"INVALID_STATE","message":"An expiration later than the limit of the workspace was asked for."}`:  limited,
			`{"error_code":"INVALID_PARAMETER_VALUE","message":"Bad lifetime."}`:                                             conditional,
			`{"error_code":"INVALID_STATE","message":"Bad lifetime."}`:                                                       none,
			`{"error_code":"INVALID_PARAMETER_VALUE","message":"Too much."}`:                                                 none,
			`{"error_code":"INVALID_PARAMETER_VALUE","message":"No such scope: sequel"}`:                                     none,
			`{"error_code":"INVALID_STATE","message":"The free trial of this workspace has expired."}`:                       none,
			`{"error_code":"INVALID_STATE","message":"The trial ended 30 days ago; the limit of the plan is reached."}`:      none,
			`{"error_code":"INVALID_PARAMETER_VALUE","message":"The application id of the service principal is not found."}`: none,
		} {
			m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: row.path, Status: 400, Body: body, Times: 1})
			resp, err := m.do(logical.ReadOperation, "creds/"+credentialType, nil)
			m.refused(resp, err)
			text := resp.Error().Error()
			require.Equal(t, advice != none, strings.Contains(text, "max_ttl"), "%s %s", credentialType, text)
			require.Contains(t, text, advice)
		}
	}
	// What was made of a principal before its secret is refused has no lifetime.
	m.write("roles/service_principal", map[string]any{"groups": "readers", "entitlements": "foo"})
	m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: principalsPath, Status: 400, Body: `{"error_code":"INVALID_PARAMETER_VALUE","message":"Entitlement foo is not a valid value; its lifetime is over the limit"}`, Times: 1})
	resp, err := m.do(logical.ReadOperation, "creds/service_principal", nil)
	m.refused(resp, err, "Entitlement foo")
	require.NotContains(t, resp.Error().Error(), "max_ttl")

	// What has been explained already is left at that.
	m.workspace.SetWorkspaceMember(sp, false)
	resp, err = m.do(logical.ReadOperation, "creds/obo_token", nil)
	m.refused(resp, err)
	require.NotContains(t, resp.Error().Error(), "max_ttl")
}

// TestStaticRolesAreAdvisedWhatTheyCanHave brings static roles to the limits, and to where their type does not work.
func TestStaticRolesAreAdvisedWhatTheyCanHave(t *testing.T) {
	t.Parallel()
	m := ready(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	for range 5 {
		m.workspace.AddOAuthSecret(sp, time.Hour)
	}
	for range 600 {
		m.workspace.AddToken(m.admin, "by hand", time.Hour)
		m.workspace.AddToken(sp, "by hand", time.Hour)
	}
	for credentialType, words := range map[string][]string{
		"oauth_secret": {"can have 5 OAuth secrets", "has 5", "rotation_grace_period", "delete an operator-created secret"},
		"pat":          {"can have 600 live tokens", "delete tokens that nobody uses"},
		"obo_token":    {"can have 600 live tokens", "delete tokens that nobody uses"},
	} {
		data := map[string]any{"credential_type": credentialType}
		if credentialType != "pat" {
			data["service_principal_id"] = sp.ID
		}
		resp, err := m.do(logical.UpdateOperation, "static-roles/x", data)
		m.refused(resp, err, words...)
		for _, other := range []string{"oauth_token", "service_principal "} {
			require.NotContains(t, resp.Error().Error(), other, credentialType)
		}
	}
}
