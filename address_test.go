// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// viewed is the storage that Vault gives to a mount, which refuses some keys.
func (m *mount) viewed() {
	m.storage.Storage = logical.NewStorageView(m.storage.Storage, "logical/")
}

// TestNamesThatVaultCantStore tries such a name wherever a path takes one into a storage key. Vault's storage answers it with an error that
// nobody can do anything with.
func TestNamesThatVaultCantStore(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.viewed()
	m.makeReady()
	named := regexp.MustCompile(`^\^([a-z-]+)/\(\?P<(name|role)>`)
	areas := map[string]bool{}
	for _, path := range m.routes.Paths {
		match := named.FindStringSubmatch(path.Pattern)
		if match == nil {
			continue
		}
		area, field := match[1], match[2]
		areas[area] = true
		for op := range path.Operations {
			if op == logical.CreateOperation {
				op = logical.UpdateOperation
			}
			resp, err := m.do(op, area+"/a..b", map[string]any{"credential_type": "pat", "rotation_period": "24h"})
			m.refused(resp, err, field+`: "a..b" has two consecutive dots`)
		}
	}
	require.Len(t, areas, len(roleNameFields), "%v", areas)
	require.Empty(t, m.workspace.Calls())
	require.Empty(t, m.minted())
	m.write("roles/a.b", map[string]any{"credential_type": "pat"})
	m.end(m.read("creds/a.b").Secret) // one dot is no harm
}

// TestLeasesThatVaultCantKeepAreNotBegun: Vault would find out only after the engine's answer, and its revocation would delete what was
// there before.
func TestLeasesThatVaultCantKeepAreNotBegun(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddScope("e..l", m.admin)
	m.workspace.AddGroup("a..b@x")
	m.workspace.PutSecret("etl", "db..password", []byte("durable"))
	m.workspace.PutACL("etl", "a..b@x", "READ")
	m.workspace.ResetCalls()
	lease := func(path string) map[string]any {
		if strings.HasPrefix(path, "acls/") {
			return map[string]any{"permission": "WRITE", "ttl": "1h"}
		}
		return map[string]any{"string_value": "canary-value", "ttl": "1h"}
	}
	for path, field := range map[string]string{
		"secrets/etl/db..password": "key", "secrets/e..l/k": "scope", "secrets/etl/...": "key",
		"acls/etl/a..b@x": "principal", "acls/e..l/users": "scope",
	} {
		resp, err := m.do(logical.UpdateOperation, path, lease(path))
		m.refused(resp, err, field+": ", "two consecutive dots")
	}
	require.Empty(t, m.workspace.Calls())
	for path, op := range map[string]logical.Operation{"creds/etl": logical.UpdateOperation, "secrets/etl/k": logical.UpdateOperation, "acls/etl/users": logical.UpdateOperation} {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{
			Operation: op, Path: path, MountPoint: "data..bricks/", Storage: m.storage, Data: lease(path),
		})
		m.refused(resp, err, "mount: ", `"data..bricks/"`, "vault secrets move")
	}
	require.Empty(t, m.workspace.Calls())
	require.Empty(t, m.walEntries())
	value, _ := m.has("db..password")
	require.Equal(t, "durable", value)

	// Without a lease they can be written, read and deleted.
	for path, data := range map[string]map[string]any{
		"secrets/etl/db..password": {"string_value": "canary-value"}, "secrets/e..l/k": {"string_value": "canary-value"}, "acls/etl/a..b@x": {"permission": "WRITE"},
	} {
		m.write(path, data)
		require.NotNil(t, m.read(path), path)
		m.gone(path)
		require.Nil(t, m.read(path), path)
	}
	delivered := m.write("creds/etl", map[string]any{"deliver_scope": "e..l", "deliver_key": "to..ken"}).Secret
	require.Contains(t, m.scope("e..l").Secrets, "to..ken", "the lease of a delivery has the path of its role")
	m.end(delivered)
	require.Empty(t, m.scope("e..l").Secrets)
}

// TestDotsAreNoNames: URLs don't preserve them, so what has such a name could be written but not read or deleted.
func TestDotsAreNoNames(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.ResetCalls()
	for _, dots := range []string{".", ".."} {
		for _, row := range []struct {
			path, field string
			data        map[string]any
		}{
			{"creds/etl", "deliver_key", map[string]any{"deliver_scope": "etl", "deliver_key": dots}},
			{"creds/etl", "deliver_scope", map[string]any{"deliver_scope": dots, "deliver_key": "k"}},
			{"static-roles/bi", "deliver_key", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": dots}},
			{"static-roles/bi", "deliver_scope", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": dots, "deliver_key": "k"}},
			{"secrets/etl", "secrets", map[string]any{"secrets": map[string]any{dots: "canary-value", "k": "canary-value"}}},
			{"secrets/" + dots, "scope", map[string]any{"secrets": map[string]any{"k": "canary-value"}}},
		} {
			resp, err := m.do(logical.UpdateOperation, row.path, row.data)
			m.refused(resp, err, row.field+": ", "no valid name", `but not "." or ".."`)
		}
	}
	require.Empty(t, m.workspace.Calls())
	require.Empty(t, m.minted())
	require.Nil(t, m.read("static-roles/bi"))
}

// TestAScopeWithASlashSaysThatItCantBeAddressed: it is listed, so there is something of that name.
func TestAScopeWithASlashSaysThatItCantBeAddressed(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddScope("team/etl", m.admin)
	m.workspace.AddGroup("data/eng")
	resp, err := m.do(logical.ListOperation, "scopes/", nil)
	m.requireOK(resp, err)
	require.Contains(t, resp.Data["keys"], "team/etl")
	m.workspace.ResetCalls()
	before := m.workspace.Scopes()
	permission := map[string]any{"permission": "READ"}
	const list, read, write, remove = logical.ListOperation, logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation
	for path, ops := range map[string][]logical.Operation{
		"scopes/team/etl": {read, write, remove}, "scopes/team/etl/": {write}, "acls/team/etl/": {list},
	} {
		for _, op := range ops {
			resp, err := m.do(op, path, nil)
			m.refused(resp, err, `"`+strings.TrimSuffix(strings.TrimPrefix(path[strings.Index(path, "/")+1:], "/"), "/"), "slash in its name can", "be addressed through Vault")
		}
	}
	require.Empty(t, m.workspace.Calls())
	value := map[string]any{"string_value": "canary-value"}
	for path, ops := range map[string][]logical.Operation{
		"secrets/team/etl/": {list}, "secrets/Team/ETL/k/": {list}, "secrets/team/etl/k": {read, write, remove}, "secrets/TEAM/etl/k/l": {read, write, remove},
	} {
		for _, op := range ops {
			var data map[string]any
			if op == write {
				data = value
			}
			resp, err := m.do(op, path, data)
			m.refused(resp, err, "scope: ", "has a slash", "be addressed through Vault")
		}
	}
	resp, err = m.do(write, "secrets/team/etl/k", leasedValue)
	m.refused(resp, err, `scope: "team/etl" has a slash`)
	m.rolledBack()
	for _, op := range []logical.Operation{read, write, remove} {
		for _, path := range []string{"acls/team/etl/users", "acls/Team/ETL/data/eng"} {
			var data map[string]any
			if op == write {
				data = permission
			}
			resp, err := m.do(op, path, data)
			m.refused(resp, err, "scope: ", "has a slash")
		}
	}
	require.Equal(t, before, m.workspace.Scopes())
	resp, err = m.do(write, "secrets/teams/etl/k", value)
	m.refused(resp, err, "RESOURCE_DOES_NOT_EXIST", `there is no scope "teams"`)

	// So may a key, with and without such a scope.
	m.workspace.AddScope("team", m.admin)
	m.write("secrets/team/etl/k", value)
	require.NotNil(t, m.read("secrets/team/etl/k"))
	m.gone("secrets/team/etl/k")
	m.gone("secrets/team/etl/k")

	// A principal may have slashes, with and without a scope that is called like its beginning.
	m.workspace.AddScope("etl/data", m.admin)
	m.write("acls/etl/data/eng", permission)
	require.Equal(t, "READ", m.acl("data/eng"))
	m.workspace.Inject(simulator.Fault{Path: scopeListPath, Status: 403, ErrorCode: "PERMISSION_DENIED"})
	m.gone("acls/etl/data/eng")
	require.Empty(t, m.acl("data/eng"), "the question helps with the message only")
}

// TestAStoredDeliveryToADotGoesOn: v0.1.0 took such a key, and the rotations of its role must not stop.
func TestAStoredDeliveryToADotGoesOn(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "k"})
	stored, err := m.storage.Get(t.Context(), staticStoragePrefix+"bi")
	require.NoError(t, err)
	stored.Value = []byte(strings.Replace(string(stored.Value), `"deliver_key":"k"`, `"deliver_key":"."`, 1))
	require.NoError(t, m.storage.Put(t.Context(), stored))
	m.restart()
	m.write("rotate-role/bi", nil)
	require.Equal(t, true, m.read("static-roles/bi").Data["delivered"])
	require.Equal(t, 200, m.whoami(string(m.scope("etl").Secrets["."].Value)))
	m.write("static-roles/bi", map[string]any{"rotation_period": "48h"})
	resp, err := m.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"deliver_key": ".."})
	m.refused(resp, err, "deliver_key: ", "no valid name")
	m.write("static-roles/bi", map[string]any{"deliver_key": "k"})
	m.gone("static-roles/bi")
	require.Empty(t, m.scope("etl").Secrets)
}
