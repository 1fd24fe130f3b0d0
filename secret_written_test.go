// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/simulator"
)

var absentUC = simulator.Fault{Method: "GET", Path: ucOne, Status: 404, Body: `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Secret does not exist."}`, Times: 1}

// A create that must not overwrite is asked to come later, and then meets a secret. That is removed only where it is certain that the create has
// stored it after all.
func TestALeaseThatMustNotOverwriteRemovesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	data := map[string]any{"string_value": "canary-leased", "ttl": "1h", "if_absent": true}
	later := simulator.Fault{Method: "POST", Path: ucPath, Status: 429, Times: 1}
	for name, row := range map[string]struct {
		faults func(m *mount)
		stays  string // value, "" for gone
		log    string
	}{
		"another value by the engine's identity": {func(m *mount) {
			m.workspace.PutUCSecret("main.app.k", "theirs", m.admin)
			m.workspace.Inject(absentUC)
			m.workspace.Inject(later)
		}, "theirs", "was written by somebody else"},
		"the value by another identity": {func(m *mount) {
			m.workspace.PutUCSecret("main.app.k", "canary-leased", m.workspace.AddUser("else@example.com", false))
			m.workspace.Inject(absentUC)
			m.workspace.Inject(later)
		}, "canary-leased", "was written by somebody else"},
		"a value that may not be read": {func(m *mount) {
			m.workspace.PutUCSecret("main.app.k", "theirs", m.admin)
			m.workspace.Inject(absentUC)
			m.workspace.Inject(later)
			m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 403, ErrorCode: "PERMISSION_DENIED", Times: 1})
		}, "theirs", "it can't be told whether what is there now is somebody else's"},
		"nobody says whose it is": {func(m *mount) {
			m.workspace.PutUCSecret("main.app.k", "canary-leased", m.admin)
			m.workspace.Inject(absentUC)
			m.workspace.Inject(later)
			m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 200, Body: `{"name":"k","update_time":"2026-03-01T12:00:00Z","effective_value":"canary-leased"}`, Times: 1})
		}, "canary-leased", "it can't be told whether what is there now is somebody else's"},
		"its own": {func(m *mount) {
			m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 503, AfterEffect: true, Times: 1})
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withSchema(t)
			row.faults(m)
			resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/app/k", data)
			m.refused(resp, err, "if_absent: secret main.app.k already exists", "may have created it")
			for range 2 {
				stored, there := m.uc("k")
				require.Equal(t, row.stays != "", there)
				require.Equal(t, row.stays, stored.Value)
				require.Empty(t, m.walEntries())
				m.rolledBack()
			}
			require.Contains(t, m.log.String(), row.log)
		})
	}
}

// What can't be looked at when the request ends is left to the rollback, which doesn't know the value.
func TestTheRollbackLeavesWhatMayBeAnybodys(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.PutUCSecret("main.app.k", "theirs", m.admin)
	m.workspace.Inject(absentUC)
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 429, Times: 1})
	m.impatient()
	m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 500})
	m.failure(m.do(logical.UpdateOperation, "uc-secrets/main/app/k", map[string]any{"string_value": "canary-leased", "ttl": "1h", "if_absent": true}))
	require.Len(t, m.walEntries(), 1)
	m.workspace.ClearFaults()
	m.restart()
	m.rolledBack()
	stored, _ := m.uc("k")
	require.Equal(t, "theirs", stored.Value)
	require.Contains(t, m.log.String(), "it can't be told whether what is there now is somebody else's, so it is left alone: if it is nobody's, delete it by hand: uc_secret=main.app.k")
}

// The rollback of a process that died goes by who has written the secret, too.
func TestTheRollbackGoesByTheWriter(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		data  map[string]any
		after func(m *mount)
		stays bool
	}{
		"its own":            {leasedValue, func(*mount) {}, false},
		"its own, if absent": {map[string]any{"string_value": "canary-leased", "ttl": "1h", "if_absent": true}, func(*mount) {}, false},
		"overwritten by somebody else": {leasedValue, func(m *mount) {
			m.workspace.PutUCSecret("main.app.k", "theirs", m.workspace.AddUser("else@example.com", false))
		}, true},
		"created by somebody else": {map[string]any{"string_value": "canary-leased", "ttl": "1h", "if_absent": true}, func(m *mount) {
			m.workspace.DropUCSchema("main", "app")
			m.workspace.AddUCSchema("main", "app", m.admin)
			m.workspace.PutUCSecret("main.app.k", "theirs", m.workspace.AddUser("else@example.com", false))
			m.workspace.PutUCSecret("main.app.k", "theirs", m.admin)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			m.workspace.AddUCSchema("main", "app", m.admin)
			c.advance(time.Second)
			m.dieAfter(c, ucPath, func() (*logical.Response, error) {
				return m.do(logical.UpdateOperation, "uc-secrets/main/app/k", row.data)
			})
			_, there := m.uc("k")
			require.True(t, there)
			row.after(m)
			m.rolledBack()
			_, there = m.uc("k")
			require.Equal(t, row.stays, there)
			require.Empty(t, m.walEntries())
		})
	}
}

// Where the answer to a write leaves out its time, the engine looks.
func TestALeasedUCSecretWhoseAnswerTellsNoTime(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 200, Body: `{"name":"k"}`, AfterEffect: true, Times: 1})
	lease := m.write("uc-secrets/main/app/k", leasedValue).Secret
	require.Equal(t, []string{"GET " + ucOne, "POST " + ucPath, "GET " + ucOne}, m.requests())
	m.end(lease)
	require.Empty(t, m.ucNames())
}

// Where that look finds what somebody else has stored since, the lease would be on theirs.
func TestALeasedUCSecretThatSomebodyHasOverwrittenAtOnce(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 200, Body: `{"name":"k"}`, AfterEffect: true, Times: 1})
	resp, err := m.during(simulator.Fault{Method: "GET", Path: ucOne, Offset: 1}, func() (*logical.Response, error) {
		return m.do(logical.UpdateOperation, "uc-secrets/main/app/k", leasedValue)
	}, func() {
		m.workspace.PutUCSecret("main.app.k", "theirs", m.workspace.AddUser("else@example.com", false))
	})
	m.coded(http.StatusConflict, resp, err, "main.app.k was stored, but else@example.com has changed it since")
	m.rolledBack()
	stored, _ := m.uc("k")
	require.Equal(t, "theirs", stored.Value)
	require.Empty(t, m.records())
}

// during holds the next request that the fault matches until meanwhile is done, and returns what request returns.
func (m *mount) during(fault simulator.Fault, request func() (*logical.Response, error), meanwhile func()) (*logical.Response, error) {
	m.t.Helper()
	hold, answered := make(chan struct{}), make(chan struct{})
	fault.Hold, fault.Times = hold, 1
	held := m.workspace.Inject(fault)
	var resp *logical.Response
	var err error
	go func() {
		defer close(answered)
		resp, err = request()
	}()
	require.Eventually(m.t, func() bool { return held.Hits() == 1 }, 10*time.Second, time.Millisecond)
	meanwhile()
	close(hold)
	<-answered
	return resp, err
}

// A delete is repeated only while the secret is still the one that was leased.
func TestARepeatedDeleteLeavesWhatWasStoredSince(t *testing.T) {
	t.Parallel()
	for _, uc := range []bool{true, false} {
		for name, fault := range map[string]simulator.Fault{"not done": {Status: 503}, "done": {Reset: true, AfterEffect: true}} {
			for _, theirs := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, uc %v, theirs %v", name, uc, theirs), func(t *testing.T) {
					t.Parallel()
					m := withSchema(t)
					m.workspace.AddScope("etl", m.admin)
					path, there, put := "secrets/etl/k", func() bool { _, there := m.has("k"); return there }, func() { m.workspace.PutSecret("etl", "k", []byte("theirs")) }
					fault.Method, fault.Path = "POST", "/api/2.0/secrets/delete"
					if uc {
						path, there, put = "uc-secrets/main/app/k", func() bool { _, there := m.uc("k"); return there }, func() { m.workspace.PutUCSecret("main.app.k", "theirs", m.admin) }
						fault.Method, fault.Path = "DELETE", ucOne
					}
					lease := m.write(path, leasedValue).Secret
					resp, err := m.during(fault, func() (*logical.Response, error) { return m.revoke(lease) }, func() {
						require.Eventually(t, func() bool { return there() != fault.AfterEffect }, 10*time.Second, time.Millisecond)
						if theirs {
							put()
						}
					})
					m.requireOK(resp, err)
					require.Equal(t, theirs, there())
					require.Empty(t, m.records())
				})
			}
		}
	}
	t.Run("where that can't be told", func(t *testing.T) {
		t.Parallel()
		m := withSchema(t)
		lease := m.write("uc-secrets/main/app/k", leasedValue).Secret
		m.workspace.Inject(simulator.Fault{Method: "DELETE", Path: ucOne, Status: 503, Times: 1})
		m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 403, ErrorCode: "PERMISSION_DENIED", Offset: 1, Times: 1})
		_, err := m.revoke(lease)
		require.ErrorContains(t, err, "uc-secrets/delete: Databricks is unavailable")
		m.end(lease)
		require.Empty(t, m.ucNames())
	})
}

// Databricks may tell times in whole seconds, so that two writes in one second look alike. The engine keeps its writes apart.
func TestUCSecretsWithTimesInSeconds(t *testing.T) {
	t.Parallel()
	t.Run("a lost write over one of the same second", func(t *testing.T) {
		t.Parallel()
		m := withSchema(t, simulator.WithUCTimes(time.Second))
		m.impatient()
		m.workspace.Inject(simulator.Fault{Method: "PATCH", Path: ucOne, Reset: true, AfterEffect: true, Times: 1})
		m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 500, Offset: 1, Times: 1})
		m.workspace.PutUCSecret("main.app.k", "old", m.admin)
		m.failure(m.do(logical.UpdateOperation, "uc-secrets/main/app/k", leasedValue))
		stored, _ := m.uc("k")
		require.Equal(t, "canary-leased", stored.Value)
		m.rolledBack()
		require.Empty(t, m.ucNames())
	})
	for name, write := range map[string]func(m *mount){
		"leased over it":    func(m *mount) { m.write("uc-secrets/main/app/k", leasedValue) },
		"delivered over it": func(m *mount) { m.write("creds/etl", map[string]any{"deliver_uc": "main.app.k"}) },
		"written over it":   func(m *mount) { m.write("uc-secrets/main/app/K", map[string]any{"string_value": "canary-durable"}) },
		"pushed over it": func(m *mount) {
			m.write("uc-secrets/main/app", map[string]any{"secrets": map[string]any{"k": "canary-durable"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withSchema(t, simulator.WithUCTimes(time.Second))
			lease := m.write("uc-secrets/main/app/k", leasedValue).Secret
			write(m)
			m.end(lease)
			require.Equal(t, []string{"k"}, m.ucNames())
		})
	}
	for name, write := range map[string]func(m *mount){
		"leased in its place":    func(m *mount) { m.write("uc-secrets/main/app/k", leasedValue) },
		"delivered in its place": func(m *mount) { m.write("creds/etl", map[string]any{"deliver_uc": "main.app.k"}) },
		"written in its place":   func(m *mount) { m.write("uc-secrets/main/app/K", map[string]any{"string_value": "canary-durable"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withSchema(t, simulator.WithUCTimes(time.Second))
			lease := m.write("uc-secrets/main/app/k", leasedValue).Secret
			m.gone("uc-secrets/main/app/k")
			first := lease.InternalData["updated"]
			write(m)
			stored, _ := m.uc("k")
			require.NotEqual(t, first, stored.Updated.Format(time.RFC3339Nano))
			m.end(lease)
			require.Equal(t, []string{"k"}, m.ucNames())
		})
	}
	t.Run("written over it by somebody else", func(t *testing.T) {
		t.Parallel()
		other := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		require.False(t, (&writtenSecret{Updated: other, UpdatedBy: "engine"}).isSeen(&seenSecret{other, &client.UCSecret{UpdatedBy: "else"}}))
	})
}

func TestALeaseOfAnothersUCSecretWarns(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	owner := m.workspace.AddUser("owner@example.com", false)
	m.workspace.PutUCSecret("main.app.k", "theirs", owner)
	for _, privilege := range []string{simulator.PrivilegeWriteSecret, simulator.PrivilegeManage} {
		m.workspace.GrantOnUCSecret("main.app.k", privilege, m.admin)
	}
	for path, data := range map[string]map[string]any{"uc-secrets/main/app/k": leasedValue, "creds/etl": {"deliver_uc": "main.app.k"}} {
		resp := m.write(path, data)
		require.Len(t, resp.Warnings, 1, path)
		require.Contains(t, resp.Warnings[0], "main.app.k belongs to owner@example.com")
	}
	require.Empty(t, m.write("uc-secrets/main/app/own", leasedValue).Warnings)
}

func TestALeasedUCSecretOfAnotherMetastoreIsLeft(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	lease := m.write("uc-secrets/main/app/k", leasedValue).Secret
	m.workspace.AttachUCMetastore("another")
	_, err := m.revoke(lease)
	require.ErrorContains(t, err, "is attached to another now")
	require.Equal(t, []string{"k"}, m.ucNames())
}

// v0.1.0 on a standby would take a pending write to Unity Catalog for one to a scope without a name, and find nothing to undo.
func TestAPendingUCWriteIsOfAKindThatV010Leaves(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	kinds := map[string]bool{}
	m.storage.onEach(func(op, key string) error {
		if op == "delete" && strings.HasPrefix(key, framework.WALPrefix) {
			return logical.ErrReadOnly // what was written stays
		}
		return nil
	})
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Times: 1})
	m.failure(m.do(logical.UpdateOperation, "uc-secrets/main/app/k", leasedValue))
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: "/api/2.0/token/create", Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Times: 1})
	m.failure(m.do(logical.UpdateOperation, "creds/etl", map[string]any{"deliver_uc": "main.app.copy"}))
	m.storage.onEach(nil)
	for _, id := range m.walEntries() {
		entry, err := framework.GetWAL(t.Context(), m.storage, id)
		require.NoError(t, err)
		kinds[entry.Kind] = true
	}
	require.Equal(t, map[string]bool{ucKind: true, walKind: true}, kinds, "a credential is undone by any version")
	m.restart()
	m.rolledBack()
	require.Empty(t, m.walEntries())
}
