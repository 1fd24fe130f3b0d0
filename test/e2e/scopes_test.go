// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestScopeIsCreatedReadListedAndDeleted(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	require.Nil(t, m.keys("scopes"))
	m.requireAbsent("scopes/etl")

	created := m.write("scopes/etl", data{})
	require.Equal(t, data{"scope": "etl", "name": "etl", "scope_backend_type": "DATABRICKS", "backend_type": "DATABRICKS"}, created.Data)
	require.Equal(t, map[string]string{m.admin.UserName: "MANAGE"}, m.scope("etl").ACLs, "the engine manages what it creates")
	m.write("scopes/shared", data{"initial_manage_principal": "users"})
	require.Equal(t, map[string]string{"users": "MANAGE"}, m.scope("shared").ACLs)

	require.Equal(t, created.Data, m.read("scopes/etl"))
	require.Equal(t, []string{"etl", "shared"}, m.keys("scopes"))
	require.Equal(t, []string{"etl", "shared"}, m.keys("secrets"), "secrets/ lists the scopes, too")
	info := data{"scope_backend_type": "DATABRICKS", "backend_type": "DATABRICKS"}
	require.Equal(t, data{"etl": info, "shared": info}, m.details("scopes"))

	m.delete("scopes/etl")
	require.Equal(t, []string{"shared"}, m.keys("scopes"))
	require.Len(t, m.workspace.Scopes(), 1)
	m.delete("scopes/etl") // deleting what is absent succeeds
	_, err := m.tryWrite("scopes/no%20blanks!", data{})
	requireRefused(t, err, 400, "scope", "letters, digits")
}

func TestScopeThatExistsIsKeptInTheSameFormAndRefusedInAnother(t *testing.T) {
	t.Parallel()
	m := newMountOf(t, pluginName, simulator.WithAzureKeyVault())
	m.configure()
	m.write("scopes/etl", data{})
	m.write("secrets/etl/kept", data{"string_value": server.secret("kept-by-the-second-write", "a secret")})
	m.workspace.ResetCalls()
	require.Equal(t, "etl", m.write("scopes/etl", data{}).Data["name"])
	require.Equal(t, "etl", m.write("scopes/ETL", data{"scope_backend_type": "DATABRICKS"}).Data["name"], "Databricks ignores case")
	require.Zero(t, m.workspace.Count("POST", "*"))

	vault := data{"scope_backend_type": "AZURE_KEYVAULT", "keyvault_resource_id": "/subscriptions/1/vaults/etl", "keyvault_dns_name": "https://etl.vault.azure.net/"}
	_, err := m.tryWrite("scopes/etl", vault)
	requireRefused(t, err, 400, "scope_backend_type", "can't be changed")
	_, err = m.tryWrite("scopes/etl", data{"initial_manage_principal": "users"})
	requireRefused(t, err, 400, "initial_manage_principal", "acls/etl/users")
	_, kept := m.value("etl", "kept")
	require.True(t, kept)

	m.write("scopes/mirror", vault)
	m.write("scopes/mirror", vault)
	vault["keyvault_dns_name"] = "https://other.vault.azure.net/"
	_, err = m.tryWrite("scopes/mirror", vault)
	requireRefused(t, err, 400, "keyvault_dns_name", "https://etl.vault.azure.net/")
}

func TestScopeOfAnAzureKeyVaultIsReadOnly(t *testing.T) {
	t.Parallel()
	m := newMountOf(t, pluginName, simulator.WithAzureKeyVault())
	m.configure()
	m.write("scopes/mirror", data{
		"scope_backend_type": "AZURE_KEYVAULT", "keyvault_resource_id": "/subscriptions/1/vaults/etl",
		"keyvault_dns_name": "https://etl.vault.azure.net/", "keyvault_tenant_id": "0f3c1a52-7c53-4c8e-8d77-3f2f5a0f5f11",
	})
	read := m.read("scopes/mirror")
	require.Equal(t, "AZURE_KEYVAULT", read["backend_type"])
	require.Equal(t, "/subscriptions/1/vaults/etl", read["keyvault_resource_id"])
	require.Equal(t, "https://etl.vault.azure.net/", read["keyvault_dns_name"])

	m.workspace.PutSecret("mirror", "in-azure", []byte(server.secret("written-in-azure-itself", "a secret of a Key Vault")))
	require.Equal(t, "written-in-azure-itself", m.read("secrets/mirror/in-azure")["string_value"])
	for _, path := range []string{"secrets/mirror/new", "secrets/mirror/in-azure"} {
		_, err := m.tryWrite(path, data{"string_value": server.secret("refused-by-a-mirror", "a secret that was refused")})
		requireRefused(t, err, 400, "BAD_REQUEST", "read-only", "Key Vault")
	}
	_, err := m.client.Logical().Delete(m.path + "/secrets/mirror/in-azure")
	requireRefused(t, err, 400, "BAD_REQUEST", "read-only", "Key Vault")
	m.delete("scopes/mirror")
}

func TestScopeWhoseReplyWasLostIsThereAfterOneWrite(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	lost := m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/scopes/create", Times: 1, AfterEffect: true, Reset: true})
	m.write("scopes/etl", data{}) // the repetition is told RESOURCE_ALREADY_EXISTS
	require.Equal(t, 1, lost.Hits())
	require.Equal(t, []string{"etl"}, m.keys("scopes"))
}

// TestScopeWithASlashSaysThatItCantBeAddressed tries all that a path can do with it. It is listed, so there is something of that name.
func TestScopeWithASlashSaysThatItCantBeAddressed(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.workspace.AddScope("team/etl", m.admin)
	require.Equal(t, []string{"team/etl"}, m.keys("scopes"))
	before := m.workspace.Scopes()
	text := data{"string_value": server.secret("never-let-into-a-slash", "a secret that was refused")}
	for _, do := range []func(m *mount) error{
		reading("scopes/team/etl"), writing("scopes/team/etl", data{}), deleting("scopes/team/etl"),
		listing("secrets/team/etl"), reading("secrets/team/etl/key"), writing("secrets/team/etl/key", text), deleting("secrets/team/etl/key"),
		listing("acls/team/etl"), reading("acls/team/etl/users"), writing("acls/team/etl/users", data{"permission": "READ"}), deleting("acls/team/etl/users"),
	} {
		requireRefused(t, do(m), 400, "has", "slash", "team/etl")
	}
	require.Equal(t, before, m.workspace.Scopes())
}

// refusal is one way in which the Secrets API refuses a request, and what the user reads then.
type refusal struct {
	options []simulator.Option
	plain   bool // the engine is no workspace admin
	prepare func(m *mount)
	fault   *simulator.Fault // for what the simulated workspace does not do by itself
	do      func(m *mount) error
	parts   []string // the documented error code, and the way out
}

func writing(path string, body data) func(m *mount) error {
	return func(m *mount) error { _, err := m.tryWrite(path, body); return err }
}

func reading(path string) func(m *mount) error {
	return func(m *mount) error { _, err := m.client.Logical().Read(m.path + "/" + path); return err }
}

func listing(path string) func(m *mount) error {
	return func(m *mount) error { _, err := m.client.Logical().List(m.path + "/" + path); return err }
}

func deleting(path string) func(m *mount) error {
	return func(m *mount) error { _, err := m.client.Logical().Delete(m.path + "/" + path); return err }
}

// TestRefusalsOfTheSecretsAPIShowTheWayOut provokes the documented errors of the eleven methods, one by one.
func TestRefusalsOfTheSecretsAPIShowTheWayOut(t *testing.T) {
	t.Parallel()
	mirror := data{"scope_backend_type": "AZURE_KEYVAULT", "keyvault_resource_id": "/subscriptions/1", "keyvault_dns_name": "https://etl.vault.azure.net/"}
	text := data{"string_value": server.secret("never-let-in", "a secret that was refused")}
	foreign := func(m *mount) { m.workspace.AddScope("foreign", m.workspace.AddUser("other@example.com", false)) }
	own := func(m *mount) { m.write("scopes/etl", data{}) }
	answer := func(path string, status int, code string) *simulator.Fault {
		return &simulator.Fault{Path: "/api/2.0/secrets/" + path, Status: status, ErrorCode: code, Message: "as Databricks put it"}
	}
	for name, tt := range map[string]refusal{
		"createScope RESOURCE_ALREADY_EXISTS": {fault: answer("scopes/create", 400, "RESOURCE_ALREADY_EXISTS"), do: writing("scopes/etl", data{}), parts: []string{"RESOURCE_ALREADY_EXISTS"}},
		"createScope RESOURCE_LIMIT_EXCEEDED": {options: []simulator.Option{simulator.WithScopeLimit(1)}, prepare: own, do: writing("scopes/second", data{}), parts: []string{"RESOURCE_LIMIT_EXCEEDED", "delete one"}},
		"createScope INVALID_PARAMETER_VALUE": {do: writing("scopes/mirror", mirror), parts: []string{"INVALID_PARAMETER_VALUE", "Entra ID", "userAADToken"}},
		"createScope UNAUTHENTICATED":         {fault: answer("scopes/create", 401, "UNAUTHENTICATED"), do: writing("scopes/mirror", mirror), parts: []string{"UNAUTHENTICATED", "Entra ID"}},
		"createScope BAD_REQUEST":             {options: []simulator.Option{simulator.WithoutPremium()}, do: writing("scopes/etl", data{}), parts: []string{"BAD_REQUEST", "initial_manage_principal=users"}},
		"createScope CUSTOMER_UNAUTHORIZED":   {do: writing("scopes/databricks-reserved-1", data{}), parts: []string{"CUSTOMER_UNAUTHORIZED", "choose another"}},
		"createScope PERMISSION_DENIED":       {fault: answer("scopes/create", 403, "PERMISSION_DENIED"), do: writing("scopes/etl", data{}), parts: []string{"PERMISSION_DENIED", "as Databricks put it"}},
		"deleteScope BAD_REQUEST":             {prepare: func(m *mount) { m.workspace.AddScope("databricks-reserved-1", m.admin) }, do: deleting("scopes/databricks-reserved-1"), parts: []string{"BAD_REQUEST", "can't be deleted"}},
		"deleteScope PERMISSION_DENIED":       {plain: true, prepare: foreign, do: deleting("scopes/foreign"), parts: []string{"PERMISSION_DENIED", "needs MANAGE"}},
		"listScopes PERMISSION_DENIED":        {fault: answer("scopes/list", 403, "PERMISSION_DENIED"), do: listing("scopes"), parts: []string{"PERMISSION_DENIED", "as Databricks put it"}},
		"putSecret RESOURCE_DOES_NOT_EXIST":   {do: writing("secrets/absent/key", text), parts: []string{"RESOURCE_DOES_NOT_EXIST", "write scopes/absent"}},
		"putSecret RESOURCE_LIMIT_EXCEEDED":   {options: []simulator.Option{simulator.WithSecretLimit(1)}, prepare: func(m *mount) { own(m); m.write("secrets/etl/first", text) }, do: writing("secrets/etl/second", text), parts: []string{"RESOURCE_LIMIT_EXCEEDED", "another scope"}},
		"putSecret INVALID_PARAMETER_VALUE":   {prepare: own, fault: answer("put", 400, "INVALID_PARAMETER_VALUE"), do: writing("secrets/etl/key", text), parts: []string{"INVALID_PARAMETER_VALUE", "as Databricks put it"}},
		"putSecret MALFORMED_REQUEST":         {prepare: own, fault: answer("put", 400, "MALFORMED_REQUEST"), do: writing("secrets/etl/key", text), parts: []string{"MALFORMED_REQUEST", "as Databricks put it"}},
		"putSecret PERMISSION_DENIED":         {plain: true, prepare: foreign, do: writing("secrets/foreign/key", text), parts: []string{"PERMISSION_DENIED", "needs WRITE"}},
		"deleteSecret PERMISSION_DENIED":      {plain: true, prepare: foreign, do: deleting("secrets/foreign/key"), parts: []string{"PERMISSION_DENIED", "needs WRITE"}},
		"getSecret BAD_REQUEST":               {prepare: func(m *mount) { own(m); m.write("secrets/etl/key", text); m.workspace.SetSecretReads(false) }, do: reading("secrets/etl/key"), parts: []string{"BAD_REQUEST", "notebooks and jobs only"}},
		"getSecret INVALID_PARAMETER_VALUE":   {options: []simulator.Option{simulator.WithAzureKeyVault()}, prepare: func(m *mount) { m.write("scopes/mirror", mirror) }, do: reading("secrets/mirror/no_such_form"), parts: []string{"INVALID_PARAMETER_VALUE", "alphanumeric"}},
		"getSecret MALFORMED_REQUEST":         {prepare: own, fault: answer("get", 400, "MALFORMED_REQUEST"), do: reading("secrets/etl/key"), parts: []string{"MALFORMED_REQUEST", "as Databricks put it"}},
		"getSecret PERMISSION_DENIED":         {plain: true, prepare: foreign, do: reading("secrets/foreign/key"), parts: []string{"PERMISSION_DENIED", "needs READ"}},
		"listSecrets PERMISSION_DENIED":       {plain: true, prepare: foreign, do: listing("secrets/foreign"), parts: []string{"PERMISSION_DENIED", "needs READ"}},
		"putAcl RESOURCE_DOES_NOT_EXIST":      {do: writing("acls/absent/users", data{"permission": "READ"}), parts: []string{"RESOURCE_DOES_NOT_EXIST", "write scopes/absent"}},
		"putAcl INVALID_PARAMETER_VALUE":      {prepare: own, do: writing("acls/etl/nobody", data{"permission": "READ"}), parts: []string{"INVALID_PARAMETER_VALUE", "display name of a group"}},
		"putAcl RESOURCE_ALREADY_EXISTS":      {prepare: own, fault: answer("acls/put", 400, "RESOURCE_ALREADY_EXISTS"), do: writing("acls/etl/users", data{"permission": "READ"}), parts: []string{"RESOURCE_ALREADY_EXISTS"}},
		"putAcl PERMISSION_DENIED":            {plain: true, prepare: foreign, do: writing("acls/foreign/users", data{"permission": "READ"}), parts: []string{"PERMISSION_DENIED", "needs MANAGE"}},
		"deleteAcl INVALID_PARAMETER_VALUE":   {prepare: own, fault: answer("acls/delete", 400, "INVALID_PARAMETER_VALUE"), do: deleting("acls/etl/users"), parts: []string{"INVALID_PARAMETER_VALUE", "as Databricks put it"}},
		"deleteAcl PERMISSION_DENIED":         {plain: true, prepare: foreign, do: deleting("acls/foreign/users"), parts: []string{"PERMISSION_DENIED", "needs MANAGE"}},
		"getAcl PERMISSION_DENIED":            {plain: true, prepare: foreign, do: reading("acls/foreign/users"), parts: []string{"PERMISSION_DENIED", "needs MANAGE"}},
		"listAcls PERMISSION_DENIED":          {plain: true, prepare: foreign, do: listing("acls/foreign"), parts: []string{"PERMISSION_DENIED", "needs MANAGE"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMountOf(t, pluginName, tt.options...)
			m.configure()
			if tt.plain {
				m.configureAs(m.workspace.AddServicePrincipal("engine", false))
			}
			if tt.prepare != nil {
				tt.prepare(m)
			}
			if tt.fault != nil {
				m.workspace.Inject(*tt.fault)
			}
			err := tt.do(m)
			requireRefused(t, err, 400, append(tt.parts, "request id")...)
			require.NotContains(t, err.Error(), "never-let-in")
		})
	}
}

// TestWhatIsAbsentIsNoError: reads and lists of what is absent answer nothing, and deletes of it succeed, although all of
// them are RESOURCE_DOES_NOT_EXIST at Databricks.
func TestWhatIsAbsentIsNoError(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("scopes/etl", data{})
	for _, path := range []string{"scopes/absent", "secrets/absent/key", "secrets/etl/absent", "acls/absent/users", "acls/etl/users"} {
		m.requireAbsent(path)
		m.delete(path)
	}
	for _, path := range []string{"secrets/absent", "secrets/etl", "acls/absent"} {
		require.Empty(t, m.keys(path))
	}
}
