// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	scopeCreatePath  = "/api/2.0/secrets/scopes/create"
	scopeDeletePath  = "/api/2.0/secrets/scopes/delete"
	scopeListPath    = "/api/2.0/secrets/scopes/list"
	secretPutPath    = "/api/2.0/secrets/put"
	secretDeletePath = "/api/2.0/secrets/delete"
	secretGetPath    = "/api/2.0/secrets/get"
	secretListPath   = "/api/2.0/secrets/list"
	aclPutPath       = "/api/2.0/secrets/acls/put"
	aclDeletePath    = "/api/2.0/secrets/acls/delete"
	aclGetPath       = "/api/2.0/secrets/acls/get"
	aclListPath      = "/api/2.0/secrets/acls/list"

	vaultResource = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.KeyVault/vaults/kv"
	vaultDNS      = "https://kv.vault.azure.net/"
)

func keyvault(more ...string) map[string]any {
	data := map[string]any{"scope_backend_type": "AZURE_KEYVAULT", "keyvault_resource_id": vaultResource, "keyvault_dns_name": vaultDNS}
	for i := 0; i+1 < len(more); i += 2 {
		data[more[i]] = more[i+1]
	}
	return data
}

func TestScopes(t *testing.T) {
	t.Parallel()
	m := ready(t)
	etl := map[string]any{"scope": "etl", "name": "etl", "scope_backend_type": "DATABRICKS", "backend_type": "DATABRICKS"}
	info := map[string]any{"scope_backend_type": "DATABRICKS", "backend_type": "DATABRICKS"}
	require.Equal(t, etl, m.write("scopes/etl", nil).Data)
	require.Equal(t, map[string]string{m.admin.UserName: "MANAGE"}, m.scope("etl").ACLs)
	require.Equal(t, etl, m.write("scopes/etl", nil).Data, "it exists in the same form")
	require.Equal(t, etl, m.write("scopes/ETL", map[string]any{"scope_backend_type": "DATABRICKS"}).Data, "names ignore case")
	require.Equal(t, 1, m.workspace.Count("", scopeCreatePath))
	require.Equal(t, etl, m.read("scopes/etl").Data)
	require.Equal(t, etl, m.read("scopes/Etl").Data)
	require.Nil(t, m.read("scopes/other"))

	m.workspace.AddScope("bi", m.admin)
	for _, path := range []string{"scopes/", "secrets/"} {
		resp, err := m.do(logical.ListOperation, path, nil)
		m.requireOK(resp, err)
		require.Equal(t, map[string]any{
			"keys":     []string{"bi", "etl"},
			"key_info": map[string]any{"bi": info, "etl": info},
		}, resp.Data)
	}

	m.workspace.PutSecret("etl", "k", []byte("v"))
	for range 2 {
		resp, err := m.do(logical.DeleteOperation, "scopes/etl", nil)
		m.requireOK(resp, err)
	}
	require.Len(t, m.workspace.Scopes(), 1)
	var kinds []string
	for _, event := range m.sent() {
		if kind := string(event.Type); strings.Contains(kind, "scope") {
			kinds = append(kinds, kind)
		}
	}
	require.Equal(t, []string{"databricks/scope-write", "databricks/scope-delete", "databricks/scope-delete"}, kinds)
}

func TestScopesManagedByUsers(t *testing.T) {
	t.Parallel()
	m := ready(t, simulator.WithoutPremium())
	users := map[string]any{"initial_manage_principal": "users"}
	m.write("scopes/all", users)
	require.Equal(t, map[string]string{"users": "MANAGE"}, m.scope("all").ACLs)
	m.write("scopes/all", users)
	m.write("scopes/all", nil)

	m.workspace.AddScope("mine", m.admin)
	resp, err := m.do(logical.UpdateOperation, "scopes/mine", users)
	m.refused(resp, err, "initial_manage_principal", "acls/mine/users")
	m.workspace.PutACL("mine", "users", "WRITE")
	resp, err = m.do(logical.UpdateOperation, "scopes/mine", users)
	m.refused(resp, err, "initial_manage_principal", "acls/mine/users")
	m.workspace.PutACL("mine", "users", "MANAGE")
	m.write("scopes/mine", users)
	m.workspace.Inject(simulator.Fault{Path: aclGetPath, Status: http.StatusForbidden})
	resp, err = m.do(logical.UpdateOperation, "scopes/mine", users)
	m.refused(resp, err, "needs MANAGE", "PERMISSION_DENIED")

	m.workspace.ResetCalls()
	resp, err = m.do(logical.UpdateOperation, "scopes/new", map[string]any{"initial_manage_principal": "admins"})
	m.refused(resp, err, `initial_manage_principal: "admins"`, "acls/new/<principal>")
	require.Zero(t, m.workspace.Count("", scopeCreatePath))
}

func TestScopesOfKeyVaults(t *testing.T) {
	t.Parallel()
	m := ready(t, simulator.WithAzureKeyVault())
	want := map[string]any{"scope": "kv", "name": "kv", "scope_backend_type": "AZURE_KEYVAULT", "backend_type": "AZURE_KEYVAULT", "keyvault_resource_id": vaultResource, "keyvault_dns_name": vaultDNS}
	require.Equal(t, want, m.write("scopes/kv", keyvault("keyvault_tenant_id", "tenant-1")).Data)
	var sent struct {
		Type     string            `json:"scope_backend_type"`
		Keyvault map[string]string `json:"backend_azure_keyvault"`
	}
	calls := m.workspace.Calls()
	require.NoError(t, json.Unmarshal(calls[len(calls)-1].Body, &sent))
	require.Equal(t, "AZURE_KEYVAULT", sent.Type)
	require.Equal(t, map[string]string{"resource_id": vaultResource, "dns_name": vaultDNS, "tenant_id": "tenant-1"}, sent.Keyvault)

	require.Equal(t, want, m.read("scopes/kv").Data)
	require.Equal(t, want, m.write("scopes/kv", keyvault()).Data, "the same")
	require.Equal(t, want, m.write("scopes/kv", keyvault("keyvault_resource_id", strings.ToUpper(vaultResource))).Data, "Azure's ids ignore case")
	resp, err := m.do(logical.ListOperation, "scopes/", nil)
	m.requireOK(resp, err)
	delete(want, "name")
	delete(want, "scope")
	require.Equal(t, want, resp.Data["key_info"].(map[string]any)["kv"])

	m.workspace.AddScope("etl", m.admin)
	m.workspace.ResetCalls()
	for name, row := range map[string]struct {
		path  string
		data  map[string]any
		words []string
	}{
		"another vault":         {"scopes/kv", keyvault("keyvault_resource_id", vaultResource+"2"), []string{"keyvault_resource_id: ", "can't be changed"}},
		"another address":       {"scopes/kv", keyvault("keyvault_dns_name", "https://other/"), []string{"keyvault_dns_name: ", "can't be changed"}},
		"another backend":       {"scopes/kv", nil, []string{"scope_backend_type: ", "AZURE_KEYVAULT", "delete it first"}},
		"and the other way":     {"scopes/etl", keyvault(), []string{"scope_backend_type: ", "DATABRICKS"}},
		"no resource id":        {"scopes/x", keyvault("keyvault_resource_id", ""), []string{"keyvault_resource_id: is missing"}},
		"no address":            {"scopes/x", keyvault("keyvault_dns_name", ""), []string{"keyvault_dns_name: is missing"}},
		"unknown backend":       {"scopes/x", map[string]any{"scope_backend_type": "AWS"}, []string{`scope_backend_type: "AWS" is unknown`}},
		"a vault without type":  {"scopes/x", map[string]any{"keyvault_dns_name": vaultDNS}, []string{"keyvault_dns_name: belongs to scope_backend_type=AZURE_KEYVAULT"}},
		"a tenant without type": {"scopes/x", map[string]any{"keyvault_tenant_id": "t"}, []string{"keyvault_tenant_id: belongs to"}},
	} {
		resp, err := m.do(logical.UpdateOperation, row.path, row.data)
		m.refused(resp, err, row.words...)
		require.Zero(t, m.workspace.Count("", scopeCreatePath), name)
	}
}

// TestScopesRaces lets somebody else be faster, or an answer be lost.
func TestScopesRaces(t *testing.T) {
	t.Parallel()

	t.Run("the answer is lost and the create repeated", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		m.workspace.Inject(simulator.Fault{Path: scopeCreatePath, AfterEffect: true, Reset: true, Times: 1})
		m.write("scopes/etl", nil)
		require.Equal(t, 2, m.workspace.Count("", scopeCreatePath))
		require.NotEmpty(t, m.scope("etl").Name)
	})

	for name, same := range map[string]bool{"the same form": true, "another form": false} {
		t.Run("somebody was faster with "+name, func(t *testing.T) {
			t.Parallel()
			m := ready(t, simulator.WithAzureKeyVault())
			data := map[string]any{}
			if !same {
				data = keyvault()
			}
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Path: scopeCreatePath, Hold: hold})
			type answer struct {
				resp *logical.Response
				err  error
			}
			answered := make(chan answer)
			go func() {
				resp, err := m.do(logical.UpdateOperation, "scopes/etl", data)
				answered <- answer{resp, err}
			}()
			require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
			m.workspace.AddScope("etl", m.admin)
			close(hold)
			got := <-answered
			if same {
				m.requireOK(got.resp, got.err)
			} else {
				m.refused(got.resp, got.err, "scope_backend_type", `"etl" exists with "DATABRICKS"`)
			}
		})
	}

	t.Run("it was gone again", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		m.workspace.Inject(simulator.Fault{Path: scopeCreatePath, Status: 400, ErrorCode: "RESOURCE_ALREADY_EXISTS", Message: "Scope etl already exists!"})
		resp, err := m.do(logical.UpdateOperation, "scopes/etl", nil)
		m.refused(resp, err, "RESOURCE_ALREADY_EXISTS", "already exists")
	})

	t.Run("what is there can't be looked at", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		m.impatient()
		m.workspace.Inject(simulator.Fault{Path: scopeCreatePath, Status: 400, ErrorCode: "RESOURCE_ALREADY_EXISTS"})
		m.workspace.Inject(simulator.Fault{Path: scopeListPath, Status: 500, Offset: 1})
		resp, err := m.do(logical.UpdateOperation, "scopes/etl", nil)
		m.coded(http.StatusBadGateway, resp, err, "scopes/list")
	})

	t.Run("many at once", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		failed := make(chan error, 20)
		for range cap(failed) {
			go func() {
				resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.UpdateOperation, Path: "scopes/etl", Storage: m.storage})
				if err == nil {
					err = resp.Error()
				}
				failed <- err
			}()
		}
		for range cap(failed) {
			require.NoError(t, <-failed)
		}
		require.Len(t, m.workspace.Scopes(), 1)
	})
}

func TestNames(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.workspace.ResetCalls()
	longest := strings.Repeat("n", 128)
	for _, name := range []string{"with space", "ünicode", "a%2Fb", "semi;colon", "quote\"", "new\nline", longest + "n", ".", ".."} {
		for path, ops := range map[string][]logical.Operation{
			"scopes/" + name:               {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
			"secrets/" + name:              {logical.ListOperation, logical.UpdateOperation},
			"secrets/" + name + "/k":       {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
			"secrets/etl/" + name:          {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
			"acls/" + name:                 {logical.ListOperation},
			"acls/" + name + "/somebody":   {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
			"secrets/" + name + "/../else": {},
		} {
			for _, op := range ops {
				var data map[string]any
				if op == logical.UpdateOperation {
					data = map[string]map[string]any{
						"secrets/" + name + "/k": {"string_value": "v"}, "secrets/etl/" + name: {"string_value": "v"}, "acls/" + name + "/somebody": {"permission": "READ"},
						"secrets/" + name: {"secrets": map[string]any{"k": "v"}},
					}[path]
				}
				resp, err := m.do(op, path, data)
				if strings.Contains(name, "\n") {
					m.failure(resp, err) // no path matches
					continue
				}
				m.refused(resp, err, "is no valid name", "letters, digits")
			}
		}
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{name: "v"}})
		m.refused(resp, err, "secrets: ", "is no valid name")
	}
	require.Empty(t, m.workspace.Calls())

	for _, name := range []string{longest, "A-b_c.d@e0", "a..b"} {
		m.write("scopes/"+name, nil)
		m.write("secrets/"+name+"/"+name, map[string]any{"string_value": "v"})
	}
	require.Len(t, m.workspace.Scopes(), 3)
}

func TestWithoutConnection(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	for path, ops := range map[string][]logical.Operation{
		"scopes/":       {logical.ListOperation},
		"scopes/etl":    {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
		"secrets/etl":   {logical.ListOperation, logical.UpdateOperation},
		"secrets/etl/k": {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
		"acls/etl":      {logical.ListOperation},
		"acls/etl/x":    {logical.UpdateOperation, logical.ReadOperation, logical.DeleteOperation},
	} {
		for _, op := range ops {
			var data map[string]any
			if op == logical.UpdateOperation {
				data = map[string]map[string]any{
					"secrets/etl/k": {"string_value": "v"}, "acls/etl/x": {"permission": "READ"}, "secrets/etl": {"secrets": map[string]any{"k": "v"}},
				}[path]
			}
			resp, err := m.do(op, path, data)
			m.refused(resp, err, "config: this mount has no connection yet")
		}
	}
}
