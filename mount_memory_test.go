// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// mountBudgetBytes is what a further mount that has minted once may hold in the heap, its storage included, which in this test is in the
// same process. It is half as much again as what is needed: a table of paths for each mount (55 KB) shows, a connection for each (15 KB), and
// no few hundred bytes.
const mountBudgetBytes = 15 << 10

// TestFurtherMountsStaySmall is not parallel: it measures the heap of the whole process.
func TestFurtherMountsStaySmall(t *testing.T) {
	w := simulator.New(simulator.WithTokenQuota(1<<30), simulator.WithoutCallLog())
	t.Cleanup(w.Close)
	token, _ := w.AddToken(w.AddUser("engine@example.com", true), "the engine's own", 0)
	var mounts []logical.Backend
	add := func() {
		storage := new(logical.InmemStorage)
		b, err := Factory(context.Background(), &logical.BackendConfig{
			Logger: hclog.NewNullLogger(), BackendUUID: fmt.Sprintf("mount-%d", len(mounts)), Config: map[string]string{},
			System: &logical.StaticSystemView{DefaultLeaseTTLVal: testDefaultTTL, MaxLeaseTTLVal: testMaxTTL, PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.1"}},
		})
		require.NoError(t, err)
		send := func(op logical.Operation, path string, data map[string]any) *logical.Response {
			resp, err := b.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Data: data, Storage: storage, MountPoint: "databricks/"})
			require.NoError(t, err)
			require.False(t, resp.IsError(), resp)
			return resp
		}
		send(logical.UpdateOperation, "config", map[string]any{"host": w.URL(), "token": token})
		send(logical.UpdateOperation, "roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
		minted := send(logical.ReadOperation, "creds/etl", nil)
		_, err = b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RevokeOperation, Storage: storage, Secret: minted.Secret})
		require.NoError(t, err)
		mounts = append(mounts, b)
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // what cleanups have let go
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		return int64(now.HeapAlloc)
	}
	add() // what all share
	const count = 100
	before, goroutines := heap(), runtime.NumGoroutine()
	for range count {
		add()
	}
	// A goroutine of a request or of another test may yet be on its way out.
	require.Eventually(t, func() bool { return runtime.NumGoroutine()-goroutines < count/2 }, 10*time.Second, 10*time.Millisecond, "a mount has no goroutine of its own")
	each := (heap() - before) / count
	t.Logf("a further mount: %d bytes", each)
	require.LessOrEqual(t, each, int64(mountBudgetBytes))
	runtime.KeepAlive(mounts)
}
