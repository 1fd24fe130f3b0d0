// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// prunes pushes one key with prune and requires what it answers, in a dry run, too.
func (m *mount) prunes(deleted, kept []string) {
	m.t.Helper()
	want := map[string]any{"written": []string{"sent"}, "deleted": deleted, "kept": kept}
	data := map[string]any{"secrets": map[string]any{"sent": "canary-sent"}, "prune": true, "dry_run": true}
	before := m.workspace.Scopes()
	require.Equal(m.t, want, m.write("secrets/etl", data).Data)
	require.Equal(m.t, before, m.workspace.Scopes(), "a dry run changes nothing")
	delete(data, "dry_run")
	require.Equal(m.t, want, m.write("secrets/etl", data).Data)
	require.Equal(m.t, slices.Sorted(slices.Values(append([]string{"sent"}, kept...))), slices.Sorted(maps.Keys(m.scope("etl").Secrets)))
}

// TestPruneKeepsWhatTheMountHolds in a scope with all there is: what leases and static roles need is no surplus.
func TestPruneKeepsWhatTheMountHolds(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "surplus", []byte("v"))
	secret := m.write("secrets/ETL/Leased", leasedValue).Secret
	credential := m.write("creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "delivered"}).Secret
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "Etl", "deliver_key": "Static"})
	// Another spelling of what it has, as Databricks would show it to whoever wrote the key first.
	held := []string{"Leased", "Static", "delivered"}
	m.prunes([]string{"surplus"}, held)
	m.restart()
	m.prunes([]string{}, held)
	require.Equal(t, true, m.read("static-roles/bi").Data["delivered"])
	require.Equal(t, 200, m.whoami(string(m.scope("etl").Secrets["Static"].Value)))

	// What nobody holds any more goes.
	m.end(secret)
	m.end(credential)
	m.gone("static-roles/bi")
	require.Equal(t, []string{"sent"}, slices.Collect(maps.Keys(m.scope("etl").Secrets)))
	for _, key := range []string{"Leased", "Static", "delivered"} {
		m.workspace.PutSecret("etl", key, []byte("v"))
	}
	m.prunes(held, []string{})
}

func TestPruneKeepsTheKeyInEverySpelling(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	lease := m.write("secrets/etl/Token", leasedValue).Secret
	m.workspace.Inject(simulator.Fault{Path: secretListPath, Body: `{"secrets": [{"key": "TOKEN"}]}`, Times: 1})
	resp := m.write("secrets/etl", map[string]any{"secrets": map[string]any{"sent": "canary-sent"}, "prune": true})
	require.Equal(t, []string{"TOKEN"}, resp.Data["kept"])
	require.Zero(t, m.workspace.Count("", secretDeletePath))
	m.end(lease)

	// A key that is sent is written, whoever holds it: that is no pruning.
	m.write("secrets/etl/Token", leasedValue)
	resp = m.write("secrets/etl", map[string]any{"secrets": map[string]any{"TOKEN": "canary-sent"}, "prune": true})
	require.Equal(t, []string{}, resp.Data["kept"])
	require.Equal(t, []string{"TOKEN"}, resp.Data["written"])
}

// TestPruneDoesNotKeep what only looks as if the mount held it.
func TestPruneDoesNotKeep(t *testing.T) {
	t.Parallel()

	t.Run("what an earlier lease wrote and somebody has overwritten through the mount", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.write("secrets/etl/k", leasedValue)
		m.write("secrets/etl/k", map[string]any{"string_value": "canary-plain"})
		m.prunes([]string{"k"}, []string{})
	})

	t.Run("what a lease has in another workspace", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.write("secrets/etl/k", leasedValue)
		elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
		t.Cleanup(elsewhere.Close)
		admin := elsewhere.AddUser("engine@example.com", true)
		elsewhere.AddScope("etl", admin)
		elsewhere.PutSecret("etl", "k", []byte("another workspace's"))
		token, _ := elsewhere.AddToken(admin, "", 0)
		m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
		m.workspace = elsewhere
		m.prunes([]string{"k"}, []string{})
	})

	t.Run("what a failed write left for the rollback", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.strand("secrets/etl/k", leasedValue)
		m.prunes([]string{"k"}, []string{})
		m.rolledBack()
	})

	t.Run("where a static role delivered to before", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "one"})
		m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 400, ErrorCode: "BAD_REQUEST", Times: 1})
		m.write("static-roles/bi", map[string]any{"deliver_key": "two"})
		require.Len(t, m.scope("etl").Secrets, 2)
		m.prunes([]string{"one"}, []string{"two"})
	})

	t.Run("what a lease of v0.1.0 wrote, until that is renewed", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		lease := m.write("secrets/etl/k", leasedValue).Secret
		for _, id := range m.records() {
			require.NoError(t, framework.DeleteWAL(t.Context(), m.storage, id))
			m.backend.InvalidateKey(t.Context(), framework.WALPrefix+id)
		}
		delete(lease.InternalData, "record")
		resp, err := m.leaseRequest(logical.RenewOperation, lease)
		m.requireOK(resp, err)
		m.prunes([]string{}, []string{"k"})
		for _, id := range m.records() {
			require.NoError(t, framework.DeleteWAL(t.Context(), m.storage, id))
			m.backend.InvalidateKey(t.Context(), framework.WALPrefix+id)
		}
		m.prunes([]string{"k"}, []string{})
	})
}

// TestPruneLooksAgainBeforeItDeletes: between its list and its delete, a lease or a static role may take a key.
func TestPruneLooksAgainBeforeItDeletes(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(m *mount){
		"a lease":    func(m *mount) { m.write("secrets/etl/k", leasedValue) },
		"a delivery": func(m *mount) { m.write("creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k"}) },
		"a static role": func(m *mount) {
			m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "k"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			for _, key := range []string{"k", "surplus"} {
				m.workspace.PutSecret("etl", key, []byte("v"))
			}
			hold := make(chan struct{})
			put := m.workspace.Inject(simulator.Fault{Path: secretPutPath, Times: 1, Hold: hold}) // after the list, before the deletes
			answered := make(chan *logical.Response, 1)
			go func() {
				resp, _ := m.do(logical.UpdateOperation, "secrets/etl", map[string]any{"secrets": map[string]any{"sent": "canary-sent"}, "prune": true})
				answered <- resp
			}()
			require.Eventually(t, func() bool { return put.Hits() == 1 }, 10*time.Second, time.Millisecond)
			take(m)
			close(hold)
			resp := <-answered
			m.requireOK(resp, nil)
			require.Equal(t, map[string]any{"written": []string{"sent"}, "deleted": []string{"surplus"}, "kept": []string{"k"}}, resp.Data)
			require.NotEqual(t, "v", string(m.scope("etl").Secrets["k"].Value))
		})
	}
}

// TestPruneMakesRoomBesideWhatItKeeps in a scope that is full.
func TestPruneMakesRoomBesideWhatItKeeps(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	lease := m.write("secrets/etl/leased", leasedValue).Secret
	for i := range 999 {
		m.workspace.PutSecret("etl", fmt.Sprintf("surplus-%04d", i), nil)
	}
	resp := m.write("secrets/etl", pushOfKeys(999, "room", map[string]any{"prune": true}))
	require.Len(t, resp.Data["written"], 999)
	require.Len(t, resp.Data["deleted"], 999)
	require.Equal(t, []string{"leased"}, resp.Data["kept"])

	m.workspace.ResetCalls()
	for _, dry := range []bool{true, false} {
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", pushOfKeys(1000, "room", map[string]any{"prune": true, "dry_run": dry}))
		m.refused(resp, err, "secrets: 1000 keys were sent, and 1 more are there that prune keeps", "at most 1000: leased")
	}
	require.Equal(t, 2, m.workspace.Count("", "*"), "it is known before anything is written or deleted")
	m.end(lease)
	m.write("secrets/etl", pushOfKeys(1000, "room", map[string]any{"prune": true}))
}

// TestPruneThatCantTellDeletesNothing lets the engine fail to find out what it holds.
func TestPruneThatCantTellDeletesNothing(t *testing.T) {
	t.Parallel()
	data := map[string]any{"secrets": map[string]any{"sent": "canary-sent"}, "prune": true}

	t.Run("a static role that can't be read", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.workspace.PutSecret("etl", "k", []byte("v"))
		entry := func(value any) {
			stored, err := logical.StorageEntryJSON(staticStoragePrefix+"bi", value)
			require.NoError(t, err)
			require.NoError(t, m.storage.Put(t.Context(), stored))
			m.backend.InvalidateKey(t.Context(), staticStoragePrefix+"bi")
		}
		entry("of another version")
		_, err := m.do(logical.UpdateOperation, "secrets/etl", data)
		require.ErrorContains(t, err, `which secrets the static roles hold: the stored static role "bi" cannot be read`)
		require.Equal(t, []string{"k"}, slices.Collect(maps.Keys(m.scope("etl").Secrets)))
		entry(map[string]any{"credential_type": "of another version", "deliver_scope": "etl", "deliver_key": "k"})
		m.prunes([]string{}, []string{"k"})
	})

	t.Run("storage", func(t *testing.T) {
		t.Parallel()
		for _, failing := range []string{framework.WALPrefix, staticStoragePrefix} {
			for _, nth := range map[string][]int{framework.WALPrefix: {1}, staticStoragePrefix: {1, 2}}[failing] {
				m := withScope(t)
				m.write("secrets/etl/leased", leasedValue)
				m.workspace.PutSecret("etl", "k", []byte("v"))
				seen := 0
				m.storage.onEach(func(op, key string) error {
					if strings.HasPrefix(key, failing) && (op == "list" || op == "get") {
						if seen++; seen == nth {
							return errors.New("disk full")
						}
					}
					return nil
				})
				resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
				require.GreaterOrEqual(t, seen, nth, failing)
				require.ErrorContains(t, m.failure(resp, err), "disk full")
				require.Contains(t, m.scope("etl").Secrets, "k")
				require.Contains(t, m.scope("etl").Secrets, "leased")
			}
		}
	})

	t.Run("who the engine is", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.write("secrets/etl/leased", leasedValue)
		m.write("config", map[string]any{"verify_connection": false, "max_retries": 0})
		m.workspace.Inject(simulator.Fault{Path: mePath, Status: 500})
		_, err := m.do(logical.UpdateOperation, "secrets/etl", data)
		require.ErrorContains(t, err, "scim/me")
		require.Equal(t, []string{"leased"}, slices.Collect(maps.Keys(m.scope("etl").Secrets)))
	})
}

// The answer says what it is in the form that it declares, also in JSON.
func TestKeptIsAListEvenWithoutAny(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	answer, err := json.Marshal(m.write("secrets/etl", map[string]any{"secrets": map[string]any{"sent": "canary-sent"}}).Data)
	require.NoError(t, err)
	require.JSONEq(t, `{"written": ["sent"], "deleted": [], "kept": []}`, string(answer))
}

// TestPruneKeepsWhatCantBeNamed shows that a key which no push can send is not deleted for not being sent.
func TestPruneKeepsWhatCantBeNamed(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, key := range []string{"team//db", "/x", "..", "old", "team/old"} {
		m.workspace.PutSecret("etl", key, []byte("v"))
	}
	resp := m.write("secrets/etl", map[string]any{"secrets": map[string]any{"sent": "v"}, "prune": true})
	require.Equal(t, map[string]any{"written": []string{"sent"}, "deleted": []string{"old", "team/old"}, "kept": []string{"..", "/x", "team//db"}}, resp.Data)
}

// TestPruneKeepsTheCopyUntilTheNewPlaceHasIt shows that the working copy of a role whose delivery is moving is spared.
func TestPruneKeepsTheCopyUntilTheNewPlaceHasIt(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddScope("other", m.admin)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "old"})
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 500, Times: 5})
	m.write("static-roles/bi", map[string]any{"deliver_scope": "other", "deliver_key": "new"})
	m.workspace.ClearFaults()
	resp := m.write("secrets/etl", map[string]any{"secrets": map[string]any{"sent": "v"}, "prune": true})
	require.Equal(t, []string{"old"}, resp.Data["kept"])
	require.Empty(t, resp.Data["deleted"])
}
