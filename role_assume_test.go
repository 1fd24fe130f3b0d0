// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestAssumedGroupIsLookedUpOnce(t *testing.T) {
	t.Parallel()
	m, _ := m2mReady(t)
	analysts := m.workspace.AddGroup("analysts")
	other := m.workspace.AddGroup("data science")
	write := func(data map[string]any, lookups int, name, id string) {
		t.Helper()
		m.workspace.ResetCalls()
		data["credential_type"] = "oauth_token"
		written := m.write("roles/team", data).Data
		require.Len(t, m.requests(), lookups, "%v", m.requests())
		require.Equal(t, []any{name, id}, []any{written["assume_group"], written["assume_group_id"]})
		require.Equal(t, written, m.read("roles/team").Data)
	}
	write(map[string]any{"assume_group": "analysts"}, 1, "analysts", analysts)
	write(map[string]any{"scopes": "sql"}, 0, "analysts", analysts)
	write(map[string]any{"assume_group": other}, 1, "data science", other)
	write(map[string]any{"assume_group_id": analysts}, 1, "analysts", analysts)
	write(map[string]any{"assume_group": "data science", "assume_group_id": other}, 1, "data science", other)
	write(m.read("roles/team").Data, 0, "data science", other)
	number, err := strconv.ParseInt(analysts, 10, 64)
	require.NoError(t, err)
	write(map[string]any{"assume_group": number}, 1, "analysts", analysts)
	write(map[string]any{"assume_group": "data science"}, 1, "data science", other)

	before := m.read("roles/team").Data
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"no such name":    {map[string]any{"assume_group": "nobody"}, []string{`assume_group: there is no group "nobody" at ` + m.workspace.URL(), "correct it"}},
		"no such id":      {map[string]any{"assume_group": "999999"}, []string{`assume_group: there is no group "999999"`}},
		"a name as id":    {map[string]any{"assume_group_id": "analysts"}, []string{`assume_group_id: "analysts" is not a number`, "send a display name as assume_group"}},
		"ids of two":      {map[string]any{"assume_group": "analysts", "assume_group_id": other}, []string{"assume_group: ", "send one of them"}},
		"a control":       {map[string]any{"assume_group": "a\x00b"}, []string{"assume_group: ", "is not a valid value", "without control characters"}},
		"half a number":   {map[string]any{"assume_group": 1.5}, []string{"assume_group: ", "send it as a string"}},
		"too long":        {map[string]any{"assume_group": strings.Repeat("g", 5000)}, []string{"assume_group: ", "bytes"}},
		"another type":    {map[string]any{"credential_type": "pat"}, []string{"assume_group: has no meaning for credential_type pat"}},
		"something else":  {map[string]any{"assume_group": []any{"analysts"}}, []string{"assume_group: is not a string"}},
		"an unsafe id":    {map[string]any{"assume_group_id": 1.5}, []string{"assume_group_id: "}},
		"a path as an id": {map[string]any{"assume_group_id": "1/../2"}, []string{"assume_group_id: "}},
	} {
		resp, err := m.do(logical.UpdateOperation, "roles/team", row.data)
		m.refused(resp, err, row.words...)
		require.Equal(t, before, m.read("roles/team").Data, name)
	}
	m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: groupsPath, Body: `{"totalResults":2,"Resources":[{"id":"7","displayName":"twins"},{"id":"8","displayName":"twins"}]}`})
	resp, err := m.do(logical.UpdateOperation, "roles/team", map[string]any{"assume_group": "twins"})
	m.refused(resp, err, `"twins" is the display name of the groups 7, 8`, "send the id of the one that is meant as assume_group_id")
	m.workspace.ClearFaults()

	resp = m.patch("roles/team", map[string]any{"assume_group": nil})
	require.Equal(t, []any{"", ""}, []any{resp.Data["assume_group"], resp.Data["assume_group_id"]})

	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: groupsPath + "*", Status: 503})
	resp, err = m.do(logical.UpdateOperation, "roles/team", map[string]any{"assume_group": "analysts"})
	m.coded(http.StatusBadGateway, resp, err)
	require.Empty(t, m.read("roles/team").Data["assume_group"])

	early := newMount(t)
	resp, err = early.do(logical.UpdateOperation, "roles/team", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts"})
	early.refused(resp, err, "config: ", "write the connection first")
}

// TestAssumedGroupReplacesTheRightsOfTheIdentity asserts the rights of tokens by what they may and may not do.
func TestAssumedGroupReplacesTheRightsOfTheIdentity(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	job := m.workspace.AddServicePrincipal("job", true)
	analysts := m.workspace.AddGroup("analysts", engine, job)
	scientists := m.workspace.AddGroup("scientists")
	m.workspace.AllowAssume(scientists, engine)
	for _, scope := range []string{"analysis", "science"} {
		m.workspace.AddScope(scope, m.admin)
		m.workspace.PutSecret(scope, "key", []byte("value"))
	}
	m.workspace.PutACL("analysis", "analysts", "READ")
	m.workspace.PutACL("science", "scientists", "READ")
	m.workspace.PutACL("science", engine.ApplicationID, "MANAGE")
	own := map[string]any{"credential_type": "oauth_token"}
	m.write("roles/own", own)
	m.write("roles/analysts", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts"})
	m.write("roles/scientists", map[string]any{"credential_type": "oauth_token", "assume_group": scientists})
	m.write("roles/job", map[string]any{"credential_type": "oauth_token", "assume_group": analysts, "application_id": job.ApplicationID})

	status := func(role, path string) int {
		t.Helper()
		return m.get(m.hidden(m.mint(role), "access_token"), path)
	}
	const analysis, science = "/api/2.0/secrets/list?scope=analysis", "/api/2.0/secrets/list?scope=science"
	const admins = "/api/2.0/token-management/tokens"
	for role, want := range map[string][3]int{
		"own": {200, 200, 200}, "analysts": {200, 403, 403}, "scientists": {403, 200, 403}, "job": {200, 403, 403},
	} {
		require.Equal(t, want, [3]int{status(role, analysis), status(role, science), status(role, admins)}, role)
	}
	creds := m.mint("job")
	state := m.workspace.Introspect(creds.Data["access_token"].(string))
	require.Equal(t, []string{job.ID, "analysts"}, []string{state.Owner.ID, state.Group})
	require.Empty(t, m.workspace.OAuthSecrets(job))

	// The engine's own token is never one of a group, whatever was minted before.
	m.workspace.RevokeAccessTokens()
	m.mint("analysts")
	m.read("secrets/science/key")
	m.write("scopes/new", nil)
	require.Equal(t, "MANAGE", m.workspace.Scopes()[len(m.workspace.Scopes())-1].ACLs[engine.ApplicationID])
	m.endsByItself(m.mint("job"))
}

func TestCallersCantChangeTheAssumedGroup(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	m.workspace.AddGroup("analysts", engine)
	m.write("roles/team", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts"})
	m.workspace.ResetCalls()
	for _, field := range []string{"assume_group", "assume_group_id"} {
		for _, operation := range []logical.Operation{logical.UpdateOperation, logical.ReadOperation} {
			resp, err := m.do(operation, "creds/team", map[string]any{field: "admins"})
			m.refused(resp, err, field)
		}
	}
	require.Empty(t, m.requests())
}

// TestAssumedGroupThatMayNotBeAssumed tries the forms in which Databricks may refuse, which it doesn't document.
func TestAssumedGroupThatMayNotBeAssumed(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	job := m.workspace.AddServicePrincipal("job", false)
	id := m.workspace.AddGroup("analysts")
	m.write("roles/own", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts"})
	m.write("roles/job", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts", "application_id": job.ApplicationID})
	who := map[string]string{"own": "the engine's identity", "job": "service principal " + job.ApplicationID}
	refused := func(form string) {
		t.Helper()
		for role, identity := range who {
			resp, err := m.do(logical.ReadOperation, "creds/"+role, nil)
			m.refused(resp, err, identity, `can't assume the group "analysts" (id `+id+")", "member", "Assume permission", form)
			require.NotContains(t, m.log.String(), "check client_id")
		}
		require.Empty(t, m.workspace.OAuthSecrets(job))
		require.Empty(t, m.walEntries())
	}
	refused("access_denied")
	for _, form := range []string{"invalid_request", "access_denied", "invalid_grant", "unauthorized_client"} {
		for _, status := range []int{400, 401, 403} {
			m.workspace.Inject(simulator.Fault{Path: grantPath, Status: status, ErrorCode: form})
			refused(form)
			m.workspace.ClearFaults()
		}
	}
	m.workspace.AllowAssume(id, engine)
	m.workspace.Inject(simulator.Fault{Path: grantPath, Status: 400, ErrorCode: "invalid_scope"})
	resp, err := m.do(logical.ReadOperation, "creds/own", nil)
	m.refused(resp, err, "invalid_scope", "check the scopes")
	m.workspace.ClearFaults()
	require.Equal(t, engine.ID, m.workspace.Introspect(m.hidden(m.write("creds/own", nil), "access_token")).Owner.ID)
}

// TestAssumedGroupNeedsTheOAuthOfAWorkspace refuses what can't be, when the role is written and, if the config has changed since, at the mint.
func TestAssumedGroupNeedsTheOAuthOfAWorkspace(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	job := m.workspace.AddServicePrincipal("job", false)
	m.workspace.AddGroup("analysts", engine, job)
	body := map[string]any{"credential_type": "oauth_token", "assume_group": "analysts"}
	m.write("roles/team", body)
	m.mint("team")

	m.connect()
	m.workspace.ResetCalls()
	for operation, path := range map[logical.Operation]string{logical.UpdateOperation: "roles/other", logical.ReadOperation: "creds/team"} {
		var data map[string]any
		if operation == logical.UpdateOperation {
			data = body
		}
		resp, err := m.do(operation, path, data)
		m.refused(resp, err, "assume_group: ", "personal access token", "name a service principal, or connect the mount with OAuth")
	}
	require.Empty(t, m.requests())
	require.Nil(t, m.absent("roles/other"))

	// Over Entra ID and over an account, neither.
	azure := newMount(t, simulator.WithCloud("azure"))
	azure.write("config", azure.azureConfig(azure.workspace.AddServicePrincipal("engine", true)))
	azure.workspace.AddGroup("analysts")
	resp, err := azure.do(logical.UpdateOperation, "roles/team", body)
	azure.refused(resp, err, "assume_group: ", "tokens of Entra ID", "name a service principal, or connect the mount with auth_type oauth-m2m or oidc")
	account, accountEngine := accountReady(t)
	for _, more := range []map[string]any{{}, {"application_id": accountEngine.ApplicationID}} {
		maps.Copy(more, body)
		resp, err = account.do(logical.UpdateOperation, "roles/team", more)
		account.refused(resp, err, "assume_group: ", "an account", "use a mount of the workspace")
	}

	// The token of a named service principal comes from the workspace's OAuth even so.
	m.write("roles/job", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts", "application_id": job.ApplicationID})
	require.Equal(t, "analysts", m.workspace.Introspect(m.hidden(m.mint("job"), "access_token")).Group)
}

func TestAssumedGroupWarnings(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	m.workspace.AddGroup("analysts", engine)
	warned := func(group string) string {
		return strings.Join(m.write("roles/"+group, map[string]any{"credential_type": "oauth_token", "assume_group": group}).Warnings, "\n")
	}
	require.NotContains(t, warned("analysts"), "workspace admin", "its rights are those of the group")
	require.Contains(t, warned("analysts"), "Public Preview")
	require.Contains(t, warned("admins"), `all the rights of a workspace admin, since they assume the group "admins"`)

	// A token that may create personal access tokens may escape its hour, and the group.
	const escape = "may be able to create personal access tokens"
	require.Contains(t, warned("analysts"), escape)
	for scopes, expected := range map[string]bool{"": true, "authentication": true, "all-apis": true, "sql,authentication": true, "sql": false, "sql,jobs": false} {
		text := strings.Join(m.write("roles/analysts", map[string]any{"scopes": scopes}).Warnings, "\n")
		require.Equal(t, expected, strings.Contains(text, escape), scopes)
	}
	require.NotContains(t, strings.Join(m.write("roles/own", map[string]any{"credential_type": "oauth_token"}).Warnings, "\n"), escape)
}

// TestRolesAreLookedUpWhereTheMountIsConnectedNow moves a mount to another workspace, where the ids that its roles found are those of others.
func TestRolesAreLookedUpWhereTheMountIsConnectedNow(t *testing.T) {
	t.Parallel()
	m, engine := m2mReady(t)
	m.workspace.AddGroup("analysts", engine)
	job := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/group", map[string]any{"credential_type": "oauth_token", "assume_group": "analysts"})
	m.write("roles/principal", map[string]any{"credential_type": "oauth_secret", "service_principal_id": job.ID, "max_ttl": "1h"})
	m.write("static-roles/principal", map[string]any{"credential_type": "oauth_secret", "service_principal_id": job.ID, "rotation_period": "24h"})
	m.write("roles/plain", map[string]any{"credential_type": "oauth_token"})

	other := simulator.New(simulator.WithWorkspaceID("4242"))
	t.Cleanup(other.Close)
	there := other.AddServicePrincipal("engine", true)
	other.AddGroup("others", there)
	analysts := other.AddGroup("analysts", there)
	_, secret := other.AddOAuthSecret(there, 0)
	moved := m.write("config", map[string]any{"host": other.URL(), "client_id": there.ApplicationID, "client_secret": m.unlogged(secret)})
	require.Contains(t, warnings(moved), "nothing is minted for them until they are written again: roles/group, roles/principal, static-roles/principal.")
	other.ResetCalls()
	for path, op := range map[string]logical.Operation{"creds/group": logical.ReadOperation, "creds/principal": logical.ReadOperation, "rotate-role/principal": logical.UpdateOperation} {
		resp, err := m.do(op, path, nil)
		m.refused(resp, err, "config", m.workspace.URL(), other.URL(), "write the role again")
	}
	require.Zero(t, other.Count("", "/oidc/v1/token"))
	require.Zero(t, other.Count("POST", ""))
	require.Empty(t, m.walEntries())
	m.mint("plain")

	// Any write looks up again.
	resp, err := m.do(logical.UpdateOperation, "roles/group", map[string]any{"ttl": "10m"})
	m.refused(resp, err, `"analysts" is not the display name of group`, `which is "others"`)
	m.write("roles/group", map[string]any{"assume_group": "analysts"})
	creds := m.mint("group")
	require.Equal(t, analysts, m.read("roles/group").Data["assume_group_id"])
	require.Equal(t, "analysts", other.Introspect(creds.Data["access_token"].(string)).Group)
	m.failure(m.do(logical.UpdateOperation, "roles/principal", map[string]any{"max_ttl": "2h"})) // there is none with these ids
	m.failure(m.do(logical.UpdateOperation, "static-roles/principal", map[string]any{"rotation_period": "48h"}))
	job = other.AddServicePrincipal("job", false)
	require.Equal(t, job.ID, m.write("static-roles/principal", map[string]any{"application_id": job.ApplicationID}).Data["service_principal_id"])
	m.write("rotate-role/principal", nil)
	require.Equal(t, job.ApplicationID, m.read("static-creds/principal").Data["client_id"])
}
