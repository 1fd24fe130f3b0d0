// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func (m *mount) ucNames() []string {
	return slices.Sorted(maps.Keys(m.workspace.UCSecrets("main", "app")))
}

func TestUCPush(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.PutUCSecret("main.app.key-0000", "old", m.admin)
	m.workspace.PutUCSecret("main.app.surplus", "v", m.admin)
	data := pushOfKeys(20, "first")
	resp := m.write("uc-secrets/main/app", data)
	require.Equal(t, sortedKeys(data), resp.Data["written"])
	require.Equal(t, []string{}, resp.Data["deleted"])
	require.Equal(t, 1, m.workspace.Count("GET", ucPath), "one list")
	require.Equal(t, 1, m.workspace.Count("PATCH", ucPath+"/main.app.key-0000"))
	require.Equal(t, 19, m.workspace.Count("POST", ucPath))
	require.Len(t, m.requests(), 21, "and a call a key")

	m.workspace.ResetCalls()
	resp = m.write("uc-secrets/main/app", pushOfKeys(3, "second", map[string]any{"prune": true, "dry_run": true}))
	require.Equal(t, []string{"GET " + ucPath}, m.requests())
	require.Len(t, resp.Data["deleted"], 18)
	resp = m.write("uc-secrets/main/app/", pushOfKeys(3, "second", map[string]any{"prune": true}))
	require.Len(t, resp.Data["deleted"], 18)
	require.Equal(t, []string{"key-0000", "key-0001", "key-0002"}, m.ucNames())
	stored, _ := m.uc("key-0000")
	require.Equal(t, "canary-second-0000", stored.Value)
	require.Len(t, m.told("uc-secrets-push"), 2)
}

func TestUCPushKeepsWhatTheMountHolds(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.write("uc-secrets/main/app/leased", leasedValue)
	m.write("creds/etl", map[string]any{"deliver_uc": "MAIN.app.Copy"})
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_uc": "main.app.static"})
	m.workspace.PutUCSecret("main.app.surplus", "v", m.admin)
	resp := m.write("uc-secrets/MAIN/App", map[string]any{"secrets": map[string]any{"own": "canary-value"}, "prune": true})
	require.Equal(t, []string{"copy", "leased", "static"}, resp.Data["kept"])
	require.Equal(t, []string{"surplus"}, resp.Data["deleted"])
	require.Equal(t, []string{"copy", "leased", "own", "static"}, m.ucNames())
}

func TestUCPushRefusesBadInput(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	for name, c := range map[string]struct {
		path  string
		data  map[string]any
		words []string
	}{
		"nothing":        {"main/app", map[string]any{}, []string{"secrets", "missing"}},
		"prune of all":   {"main/app", map[string]any{"prune": true}, []string{"prune", "empty the schema"}},
		"period":         {"main/app", map[string]any{"secrets": map[string]any{"a.b": "canary-value"}}, []string{"secrets", "periods"}},
		"one twice":      {"main/app", map[string]any{"secrets": map[string]any{"a": "canary-value", "A": "canary-value"}}, []string{"two spellings"}},
		"bytes":          {"main/app", map[string]any{"bytes": map[string]any{"a": "AP8="}}, []string{"bytes", "UTF-8"}},
		"too many":       {"main/app", pushOfKeys(1001, "x"), []string{"a schema has at most 1000"}},
		"bad schema":     {"main/a.b", map[string]any{"secrets": map[string]any{"a": "canary-value"}}, []string{"schema"}},
		"misspelt prune": {"main/app", map[string]any{"secrets": map[string]any{"a": "canary-value"}, "prun": true}, []string{"prun"}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := m.do(logical.UpdateOperation, "uc-secrets/"+c.path, c.data)
			m.refused(resp, err, c.words...)
		})
	}
	require.Empty(t, m.workspace.Calls())
	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/none", pushOfKeys(1, "x"))
	m.refused(resp, err, "there is no schema main.none")
}

// Each secret has an owner of its own, so that one which may not be written says nothing of the others.
func TestUCPushGoesOnAfterAnotherOwnersSecret(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.PutUCSecret("main.app.key-0000", "theirs", m.workspace.AddUser("owner@example.com", false))
	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/app", pushOfKeys(40, "x", map[string]any{"prune": true}))
	m.refused(resp, err, "1 of 40 keys failed, 39 were written", "Failed: key-0000: to overwrite main.app.key-0000", "WRITE SECRET")
	m.workspace.GrantOnUCSecret("main.app.key-0000", simulator.PrivilegeWriteSecret, m.admin)
	m.write("uc-secrets/main/app", pushOfKeys(40, "x", map[string]any{"prune": true}))
	require.Len(t, m.ucNames(), 40)
}

// Whoever may not create one secret in a schema may create none, so that the others aren't tried.
func TestUCPushStopsWhereItMayNotCreate(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.AddUCSchema("main", "theirs", m.workspace.AddUser("owner@example.com", false))
	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/theirs", pushOfKeys(200, "x"))
	m.refused(resp, err, "200 of 200 keys failed", "CREATE SECRET")
	require.LessOrEqual(t, m.workspace.Count("POST", ucPath), 3*bulkConcurrency)
}
