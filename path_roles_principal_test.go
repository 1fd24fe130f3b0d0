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

const unknownUUID = "6f5ccf28-d83a-4957-9bfb-5bbfac551410"

func TestRolePrincipal(t *testing.T) {
	t.Parallel()
	for _, credentialType := range []string{"obo_token", "oauth_secret", "oauth_token"} {
		t.Run(credentialType, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			sp := m.workspace.AddServicePrincipal("job", false)
			other := m.workspace.AddServicePrincipal("other", false)
			write := func(data map[string]any, lookups int) {
				t.Helper()
				m.workspace.ResetCalls()
				data["credential_type"] = credentialType
				written := m.write("roles/job", data).Data
				require.Equal(t, lookups, len(m.workspace.Calls()), "%v", m.requests())
				require.Equal(t, written, m.read("roles/job").Data)
			}
			holds := func(want simulator.Principal) {
				t.Helper()
				role := m.read("roles/job").Data
				require.Equal(t, want.ID, role["service_principal_id"])
				require.Equal(t, want.ApplicationID, role["application_id"])
			}
			write(map[string]any{"service_principal_id": sp.ID}, 1)
			holds(sp)
			write(map[string]any{"ttl": "5m"}, 0)
			write(map[string]any{"service_principal_id": sp.ID, "application_id": sp.ApplicationID}, 0)
			holds(sp)
			write(map[string]any{"application_id": other.ApplicationID}, 1)
			holds(other)
			write(map[string]any{"service_principal_id": sp.ID, "application_id": strings.ToUpper(sp.ApplicationID)}, 1)
			holds(sp)
			write(map[string]any{"application_id": strings.ToUpper(other.ApplicationID)}, 1)
			holds(other)
			resp, err := m.do(logical.PatchOperation, "roles/job", map[string]any{"application_id": nil})
			m.requireOK(resp, err)
			holds(other)

			before := m.read("roles/job").Data
			for name, row := range map[string]struct {
				data  map[string]any
				words []string
			}{
				"application id as the number": {map[string]any{"service_principal_id": sp.ApplicationID}, []string{"service_principal_id: ", "is an application id; send it as application_id"}},
				"number as the application id": {map[string]any{"application_id": sp.ID}, []string{"application_id: ", "is the numeric id; send it as service_principal_id"}},
				"a name as the number":         {map[string]any{"service_principal_id": "job"}, []string{`service_principal_id: "job" is not a number`}},
				"a path as the number":         {map[string]any{"service_principal_id": "1/../2"}, []string{"service_principal_id: ", "is not a number"}},
				"a name as the application id": {map[string]any{"application_id": `job" or "a`}, []string{"application_id: ", "is not a UUID"}},
				"ids of two":                   {map[string]any{"service_principal_id": sp.ID, "application_id": other.ApplicationID}, []string{"application_id: ", "does not belong to service principal " + sp.ID, sp.ApplicationID, "send one of them"}},
				"no such number":               {map[string]any{"service_principal_id": "1"}, []string{`service_principal_id: there is no service principal "1" at ` + m.workspace.URL(), "correct it"}},
				"no such application id":       {map[string]any{"application_id": unknownUUID}, []string{"application_id: there is no service principal", unknownUUID}},
				"a user":                       {map[string]any{"service_principal_id": m.admin.ID}, []string{"service_principal_id: there is no service principal"}},
			} {
				resp, err := m.do(logical.UpdateOperation, "roles/job", row.data)
				m.refused(resp, err, row.words...)
				require.Equal(t, before, m.read("roles/job").Data, name)
			}
			m.workspace.SetWorkspaceMember(sp, false)
			resp, err = m.do(logical.UpdateOperation, "roles/job", map[string]any{"service_principal_id": sp.ID})
			m.refused(resp, err, "there is no service principal", "add it there")

			m.write("config", map[string]any{"max_retries": 0})
			m.workspace.Inject(simulator.Fault{Path: principalsPath + "*", Status: 503})
			resp, err = m.do(logical.UpdateOperation, "roles/new", map[string]any{"credential_type": credentialType, "service_principal_id": other.ID})
			m.coded(http.StatusBadGateway, resp, err)
			require.Nil(t, m.absent("roles/new"))
			m.workspace.ClearFaults()
			m.workspace.Inject(simulator.Fault{Path: principalsPath + "*", Status: 403})
			resp, err = m.do(logical.UpdateOperation, "roles/new", map[string]any{"credential_type": credentialType, "application_id": other.ApplicationID})
			m.refused(resp, err, "must be a workspace admin, or the manager")
		})
	}
}

func TestRolePrincipalBeforeTheConnection(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	for name, data := range map[string]map[string]any{
		"obo_token": {"service_principal_id": "1"}, "oauth_secret": {"application_id": unknownUUID}, "oauth_token": {"service_principal_id": "1"}, "service_principal": {"groups": "readers"}, "database_credential": {"database_endpoint": shopEndpoint},
	} {
		data["credential_type"] = name
		resp, err := m.do(logical.UpdateOperation, "roles/job", data)
		m.refused(resp, err, "config: ", "write the connection first")
		require.Nil(t, m.absent("roles/job"))
	}
	m.write("roles/job", map[string]any{"credential_type": "service_principal"})
	m.connect()
	require.NotEmpty(t, m.mint("job").Data["client_secret"])
}

// TestRoleNeeds holds each field against each type.
func TestRoleNeeds(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.workspace.AddGroup("readers")
	m.workspace.AddDatabaseEndpoint(shopEndpoint, shopHost)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.connectOAuth()
	fields := map[string]string{
		"service_principal_id": sp.ID, "application_id": sp.ApplicationID, "groups": "readers", "entitlements": "workspace-access",
		"display_name_template": "{{.RoleName}}", "comment": "{{.RoleName}}", "scopes": "sql", "assume_group": "readers",
		"database_host": shopHost, "claims": "shop.public.orders",
	}
	for credentialType, may := range map[string]string{
		"pat":                 "comment scopes",
		"obo_token":           "service_principal_id application_id comment scopes",
		"oauth_secret":        "service_principal_id application_id scopes",
		"oauth_token":         "service_principal_id application_id scopes assume_group",
		"service_principal":   "groups entitlements display_name_template scopes",
		"database_credential": "service_principal_id application_id database_host claims",
	} {
		required := credentialType == "obo_token" || credentialType == "oauth_secret"
		for field, value := range fields {
			data := map[string]any{"credential_type": credentialType}
			if required && !strings.HasSuffix(field, "_id") {
				data["service_principal_id"] = sp.ID
			}
			if credentialType == "database_credential" {
				data["database_endpoint"] = shopEndpoint
			}
			data[field] = value
			resp, err := m.do(logical.UpdateOperation, "roles/"+credentialType+field, data)
			if strings.Contains(" "+may+" ", " "+field+" ") {
				m.requireOK(resp, err)
				require.NotEmpty(t, resp.Data[field])
			} else {
				m.refused(resp, err, field+": has no meaning for credential_type "+credentialType)
			}
		}
		resp, err := m.do(logical.UpdateOperation, "roles/bare", map[string]any{"credential_type": credentialType})
		if required {
			m.refused(resp, err, "service_principal_id: is missing", "application_id")
		} else if credentialType == "database_credential" {
			m.refused(resp, err, "database_endpoint: is missing", "database_instances")
		} else {
			m.requireOK(resp, err)
		}
	}

	// What a role has from another type must go, and can.
	resp, err := m.do(logical.UpdateOperation, "roles/oauth_secretscopes", map[string]any{"credential_type": "pat"})
	m.refused(resp, err, "service_principal_id: ", "send it empty")
	m.write("roles/oauth_secretscopes", map[string]any{"credential_type": "pat", "service_principal_id": "", "application_id": ""})

	for field, value := range map[string]any{"groups": []string{" "}, "entitlements": []string{"a\nb"}} {
		resp, err := m.do(logical.UpdateOperation, "roles/x", map[string]any{"credential_type": "service_principal", field: value})
		m.refused(resp, err, field+": ", "is not a valid value")
	}
	for template, word := range map[string]string{
		"{{.Password}}": ".RoleName", "{{.RoleName": "", "{{range 9}}x{{end}}": "may not loop", "{{random 1000}}": "1 to 64",
		"{{printf `%d` 1}}": "printf is not available", strings.Repeat("x", maxTemplate+1): "1024", "{{env `HOME`}}": "",
	} {
		resp, err := m.do(logical.UpdateOperation, "roles/x", map[string]any{"credential_type": "service_principal", "display_name_template": template})
		m.refused(resp, err, "display_name_template: ", word)
	}
}

// connectOAuth connects the mount as a service principal that is an admin.
func (m *mount) connectOAuth() simulator.Principal {
	m.t.Helper()
	engine := m.workspace.AddServicePrincipal("engine", true)
	_, secret := m.workspace.AddOAuthSecret(engine, time.Hour)
	m.write("config", map[string]any{"client_id": engine.ApplicationID, "client_secret": secret})
	m.workspace.ResetCalls()
	return engine
}

// TestRoleChangedWhileItIsLookedUp shows that what was looked up is stored only with the role that it was looked up for.
func TestRoleChangedWhileItIsLookedUp(t *testing.T) {
	t.Parallel()
	m := ready(t)
	sp, other := m.workspace.AddServicePrincipal("job", false), m.workspace.AddServicePrincipal("other", false)
	m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID})
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: principalsPath, Hold: hold, Times: 1})
	type answer struct {
		resp *logical.Response
		err  error
	}
	slow := make(chan answer)
	go func() {
		resp, err := m.do(logical.UpdateOperation, "roles/job", map[string]any{"application_id": other.ApplicationID})
		slow <- answer{resp, err}
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	m.write("roles/job", map[string]any{"credential_type": "obo_token", "ttl": "1m"}) // no lock is held while a role is looked up
	close(hold)
	late := <-slow
	m.coded(http.StatusConflict, late.resp, late.err, "changed by somebody else")
	role := m.read("roles/job").Data
	require.Equal(t, sp.ID, role["service_principal_id"])
	require.Equal(t, sp.ApplicationID, role["application_id"])
	require.Equal(t, "obo_token", role["credential_type"])
}
