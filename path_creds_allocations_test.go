// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// Budgets of allocations, the simulated workspace's own included, since it runs in the same process. They are a fifth above what is needed,
// so that a new one of the kind that walks over every answer by reflection shows (it took 900 for a mint), and no compiler's whim does.
const (
	mintBudgetAllocs   = 385
	revokeBudgetAllocs = 215
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

// silentVault is Vault's view until silent is called: from then on each question is a panic, which fails the request.
type silentVault struct{ logical.SystemView }

func (v *silentVault) silent() { v.SystemView = nil }

// TestWarmRequestsCostTheHostLittle shows what a mint, a renewal and a revocation ask of Vault, once the engine is warm: each question is a
// round trip over gRPC, which takes as long as a tenth of the request.
func TestWarmRequestsCostTheHostLittle(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vault := &silentVault{m.system}
	m.host = vault
	m.restart()
	m.makeReady()
	m.write("roles/usual", map[string]any{"credential_type": "pat"})
	m.mint("etl")
	kept := m.mint("usual").Secret
	kept.IssueTime, kept.Increment = time.Now(), time.Minute
	_, err := m.leaseRequest(logical.RenewOperation, kept)
	require.NoError(t, err)

	b := m.backend.(*backend)
	b.hostCache.mu.Lock()
	later := time.Now().Add(time.Minute) // so that a slow test is warm, too
	b.hostCache.usual.at, b.hostCache.longest.at, b.hostCache.state.at = later, later, later
	for id, entity := range b.hostCache.entities {
		entity.at = later
		b.hostCache.entities[id] = entity
	}
	b.hostCache.mu.Unlock()
	vault.silent()
	var stored []string
	m.storage.onEach(func(op, _ string) error {
		stored = append(stored, op)
		return nil
	})
	var secret *logical.Secret
	for _, role := range []string{"etl", "usual"} {
		stored = nil
		secret = m.mint(role).Secret
		require.Equal(t, []string{"put", "delete"}, stored, "the write-ahead log")
	}
	stored = nil
	secret.IssueTime, secret.Increment = time.Now(), time.Minute
	resp, err := m.leaseRequest(logical.RenewOperation, secret)
	m.requireOK(resp, err)
	resp, err = m.revoke(secret)
	m.requireOK(resp, err)
	require.Empty(t, stored)
}
