// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// Budgets of allocations, the simulated workspace's own included, since it runs in the same process. They are some tenths above what is needed,
// so that a new one of the kind that walks over every answer by reflection shows (it took 900 for a mint), and no compiler's whim does.
const (
	mintBudgetAllocs   = 460
	revokeBudgetAllocs = 280
)

// TestMintsAndRevocationsStayCheap is not parallel: it counts the allocations of the whole process.
func TestMintsAndRevocationsStayCheap(t *testing.T) {
	w := simulator.New(simulator.WithTokenQuota(1<<30), simulator.WithoutCallLog())
	t.Cleanup(w.Close)
	m := newMount(t)
	token, _ := w.AddToken(w.AddUser("engine@example.com", true), "the engine's own", 0)
	m.canaries.add(token)
	m.write("config", map[string]any{"host": w.URL(), "token": token})
	m.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	var leases []*logical.Secret
	mint := func() {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/etl", Storage: m.storage, MountPoint: "databricks/", EntityID: "entity-1"})
		if err != nil || resp.IsError() {
			t.Fatal(resp, err)
		}
		leases = append(leases, resp.Secret)
	}
	const runs = 200
	minted := testing.AllocsPerRun(runs, mint)
	t.Log("a mint:", minted)
	require.LessOrEqual(t, minted, float64(mintBudgetAllocs))
	revoked := testing.AllocsPerRun(runs, func() {
		_, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RevokeOperation, Storage: m.storage, Secret: leases[0]})
		if err != nil {
			t.Fatal(err)
		}
		leases = leases[1:]
	})
	t.Log("a revocation:", revoked)
	require.LessOrEqual(t, revoked, float64(revokeBudgetAllocs))
}
