// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// recorded is a kind of lease that nothing at Databricks would end.
type recorded struct {
	path  string
	data  map[string]any
	there func(m *mount) bool
}

// recordedLeases are all such kinds.
var recordedLeases = map[string]recorded{
	"secret": {"secrets/etl/k", leasedValue, func(m *mount) bool { _, there := m.has("k"); return there }},
	"permission": {"acls/etl/users", map[string]any{"permission": "MANAGE", "ttl": "1h"},
		func(m *mount) bool { return m.acl("users") != "" }},
	"secret in Unity Catalog": {"uc-secrets/main/app/k", leasedValue, func(m *mount) bool { _, there := m.uc("k"); return there }},
	"copy in Unity Catalog": {"creds/etl", map[string]any{"deliver_uc": "main.app.k", "ttl": "1h"},
		func(m *mount) bool { _, there := m.uc("k"); return there }},
	"delivered copy": {"creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k", "ttl": "1h"},
		func(m *mount) bool { _, there := m.has("k"); return there }},
}

// recordMount is a timed mount with the scope "etl". Its time begins now, since the SDK calculates what a renewal may last by the real time.
func recordMount(t *testing.T) (*mount, *clock) {
	m, c := newTimedMount(t)
	c.at = time.Now().Round(0) // a test moves the wall clock only
	m.makeReady()
	m.write("roles/etl", map[string]any{"max_ttl": "4h"})
	m.workspace.AddScope("etl", m.admin)
	m.workspace.AddUCSchema("main", "app", m.admin)
	m.holdTidy()
	m.youngTick()
	return m, c
}

// eachRecorded runs the test for each kind of lease, on a mount of recordMount.
func eachRecorded(t *testing.T, test func(t *testing.T, m *mount, c *clock, kind recorded)) {
	t.Helper()
	for name, kind := range recordedLeases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := recordMount(t)
			test(t, m, c, kind)
		})
	}
}

// lease writes what is leased for an hour, and returns the lease as Vault would store it.
func (k recorded) lease(m *mount, c *clock) *logical.Secret {
	m.t.Helper()
	resp := m.write(k.path, k.data)
	require.NotNil(m.t, resp.Secret)
	require.Equal(m.t, time.Hour, resp.Secret.TTL)
	require.True(m.t, k.there(m))
	resp.Secret.IssueTime = c.vault()
	return resp.Secret
}

// renew renews a lease as Vault does, and stores what it returns.
func (m *mount) renew(secret *logical.Secret, increment time.Duration) {
	m.t.Helper()
	secret.Increment = increment
	resp, err := m.leaseRequest(logical.RenewOperation, secret)
	m.requireOK(resp, err)
	*secret = *resp.Secret
}

// pass lets time go by, with what Vault does once a minute.
func (m *mount) pass(c *clock, d time.Duration) {
	m.t.Helper()
	for range d / time.Minute {
		c.advance(time.Minute)
		m.youngTick()
	}
}

// A lease that Vault has lost, because its answer was never stored or an operator has forgotten it, ends all the same within ten minutes
// of its end, and not before it.
func TestALostLeaseEnds(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		kind.lease(m, c)
		m.workspace.ResetCalls()
		m.pass(c, time.Hour+9*time.Minute)
		require.True(t, kind.there(m))
		require.Empty(t, m.workspace.Calls())
		m.pass(c, 2*time.Minute)
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
		require.Contains(t, m.log.String(), "a lease has ended without a revocation")
		require.Len(t, m.told("lease-rollback"), 1)
	})
}

// What ended while no engine ran is left for Vault to revoke, which may do so only now.
func TestALostLeaseIsVaultsToRevokeFirst(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		kind.lease(m, c)
		c.advance(3 * time.Hour)
		m.restartAt(c)
		m.youngTick()
		m.pass(c, 9*time.Minute)
		require.True(t, kind.there(m))
		m.pass(c, 2*time.Minute)
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
	})
}

// A renewal moves the end, over a restart as well.
func TestARenewalMovesTheRecord(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		m.pass(c, 50*time.Minute)
		m.renew(lease, time.Hour)
		m.restartAt(c)
		m.youngTick()
		m.pass(c, time.Hour+9*time.Minute)
		require.True(t, kind.there(m))
		m.pass(c, 2*time.Minute)
		require.False(t, kind.there(m))
	})
}

// Vault may fail to store a renewal, and then the lease has its former end.
func TestARenewalNeverShortensTheRecord(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		m.renew(kind.lease(m, c), time.Minute)
		m.pass(c, time.Hour+9*time.Minute)
		require.True(t, kind.there(m))
	})
}

// A renewal whose record can't be stored fails: the lease would outlive its record.
func TestARenewalWithoutItsRecordFails(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		c.advance(time.Minute)
		for _, op := range []string{"get", "put"} {
			m.storage.onEach(func(did, key string) error {
				if did == op && strings.HasPrefix(key, "wal/") {
					return context.DeadlineExceeded
				}
				return nil
			})
			lease.Increment = 2 * time.Hour
			m.failure(m.leaseRequest(logical.RenewOperation, lease))
			m.storage.onEach(nil)
		}
		m.renew(lease, 2*time.Hour)
	})
}

// A revocation leaves no record.
func TestARevocationEndsTheRecord(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		require.Len(t, m.records(), 1)
		m.end(lease)
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
		require.Empty(t, m.backend.(*backend).intents.entries)

		// Where the record can't be deleted, there is nothing left to undo, whatever somebody else puts there.
		lease = kind.lease(m, c)
		m.storage.onEach(func(op, key string) error {
			if op == "delete" && strings.HasPrefix(key, "wal/") {
				return context.DeadlineExceeded
			}
			return nil
		})
		m.end(lease)
		m.storage.onEach(nil)
		require.Len(t, m.records(), 1)
		m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
		m.workspace.PutUCSecret("main.app.k", "somebody else's", m.admin)
		m.workspace.PutACL("etl", "users", "WRITE")
		m.pass(c, 2*time.Hour)
		require.Empty(t, m.records())
		require.True(t, kind.there(m))
	})
}

// The record costs no more writes to the storage than the log alone did: one before the operation and one after it.
func TestARecordCostsNoMoreWrites(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		writes := map[string]int{}
		m.storage.onEach(func(op, key string) error {
			if strings.HasPrefix(key, "wal/") && op != "list" {
				writes[op]++
			}
			return nil
		})
		lease := kind.lease(m, c)
		require.Equal(t, map[string]int{"put": 2}, writes)
		clear(writes)
		m.end(lease)
		require.Equal(t, map[string]int{"delete": 1}, writes)
	})
}

// Only what is still the engine's is undone.
func TestALostLeaseSparesWhatOthersWrote(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(m *mount, c *clock){
		"at Databricks": func(m *mount, _ *clock) {
			m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
			m.workspace.PutUCSecret("main.app.k", "somebody else's", m.admin)
			m.workspace.PutACL("etl", "users", "WRITE")
		},
		"through the mount": func(m *mount, _ *clock) {
			m.write("secrets/etl/k", map[string]any{"string_value": "canary-kept"})
			m.write("uc-secrets/main/app/k", map[string]any{"string_value": "canary-kept"})
			m.write("acls/etl/users", map[string]any{"permission": "WRITE"})
		},
		"through the mount after a restart": func(m *mount, c *clock) {
			m.restartAt(c)
			m.write("secrets/etl/k", map[string]any{"string_value": "canary-kept"})
			m.write("uc-secrets/main/app/k", map[string]any{"string_value": "canary-kept"})
			m.write("acls/etl/users", map[string]any{"permission": "WRITE"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
				kind.lease(m, c)
				c.advance(30 * time.Minute)
				write(m, c)
				m.restartAt(c)
				m.youngTick()
				m.pass(c, 2*time.Hour)
				require.True(t, kind.there(m))
				require.Empty(t, m.records())
			})
		})
	}
}

// A second lease of the same secret or permission is not ended by the record of the first.
func TestALostLeaseSparesTheNextOne(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		kind.lease(m, c)
		m.pass(c, 30*time.Minute)
		next := kind.lease(m, c)
		m.pass(c, 50*time.Minute)
		require.True(t, kind.there(m))
		m.end(next)
		require.False(t, kind.there(m))
		m.pass(c, time.Hour)
		require.Empty(t, m.records())
	})
}

// The undoing is never given up: it is tried each minute for a day and then once an hour, and said once.
func TestALostLeaseIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		m.impatient()
		kind.lease(m, c)
		m.workspace.Inject(simulator.Fault{Path: secretListPath, Status: 403})
		m.workspace.Inject(simulator.Fault{Path: aclGetPath, Status: 403})
		m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 403})
		c.advance(time.Hour + 11*time.Minute)
		calls := func(d time.Duration) int {
			m.workspace.ResetCalls()
			for range d / time.Minute {
				c.advance(time.Minute)
				m.rawTick()
			}
			return m.workspace.Count("", secretListPath) + m.workspace.Count("", aclGetPath) + m.workspace.Count("GET", ucOne)
		}
		require.Equal(t, 60, calls(time.Hour), "each minute")
		c.advance(24 * time.Hour)
		calls(time.Hour)
		require.InDelta(t, 5, calls(5*time.Hour), 1)
		c.advance(100 * day)
		calls(time.Hour)
		require.Equal(t, 1, m.errorsSaid("something may be left at Databricks"))
		m.workspace.ClearFaults()
		m.pass(c, 61*time.Minute)
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
	})
}

// The same holds for what an operation left that was not committed.
func TestALostWriteIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		m.impatient()
		for _, path := range []string{secretPutPath, aclPutPath, ucPath} {
			m.workspace.Inject(simulator.Fault{Path: path, Reset: true, AfterEffect: true, Times: 1})
		}
		m.storage.onEach(func(op, key string) error {
			if op == "put" && strings.HasPrefix(key, "wal/") {
				m.workspace.Inject(simulator.Fault{Path: secretListPath, Status: 403})
				m.workspace.Inject(simulator.Fault{Path: aclGetPath, Status: 403})
				m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 403})
			}
			return nil
		})
		m.failure(m.do(logical.UpdateOperation, kind.path, kind.data))
		m.storage.onEach(nil)
		require.Len(t, m.walEntries(), 1)
		m.restartAt(c)
		m.lapse(c, 3*day, time.Hour)
		require.Len(t, m.walEntries(), 1)
		m.workspace.ClearFaults()
		m.pass(c, 61*time.Minute)
		require.False(t, kind.there(m))
		require.Empty(t, m.walEntries())
	})
}

// While the mount is connected elsewhere, nothing is undone there, and afterwards it is.
func TestALostLeaseIsEndedWhereItWasMade(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		kind.lease(m, c)
		w := simulator.New(simulator.WithClock(c.now), simulator.WithWorkspaceID("4711"))
		t.Cleanup(w.Close)
		admin := w.AddUser("engine@example.com", true)
		token, _ := w.AddToken(admin, "another", 0)
		m.canaries.add(token)
		w.AddScope("etl", admin)
		w.PutSecret("etl", "k", []byte("theirs"))
		m.write("config", map[string]any{"host": w.URL(), "token": token})
		w.ResetCalls()
		m.lapse(c, 3*day, time.Hour)
		require.Empty(t, w.Calls())
		require.True(t, kind.there(m))
		require.Len(t, m.records(), 1)
		m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token})
		m.pass(c, 61*time.Minute)
		require.False(t, kind.there(m))
	})
}

// A lease of v0.1.0 has no record, and gets one when it is renewed.
func TestAnOldLeaseGetsItsRecordWhenItIsRenewed(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		delete(lease.InternalData, "record")
		require.NoError(t, m.storage.Delete(t.Context(), "wal/"+m.records()[0]))
		m.pass(c, 2*time.Minute)
		m.renew(lease, time.Hour)
		require.Len(t, m.records(), 1)
		require.Equal(t, m.records()[0], lease.InternalData["record"])
		m.renew(lease, 2*time.Hour)
		require.Len(t, m.records(), 1)
		m.pass(c, 2*time.Hour+11*time.Minute)
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
	})
}

// Disabling the mount deletes its log, so it ends what Vault has lost before.
func TestDisablingTheMountEndsLostLeases(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		m.system.TaintedVal = true
		m.youngTick()
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
		m.end(lease)
	})
}

// A lease that is renewed while its record is being worked off keeps its record.
func TestARenewalDuringTheRollbackKeepsTheRecord(t *testing.T) {
	t.Parallel()
	m, c := recordMount(t)
	lease := recordedLeases["secret"].lease(m, c)
	c.advance(time.Hour + 11*time.Minute)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: secretListPath, Hold: hold})
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.youngTick()
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	lease.IssueTime = c.vault()
	m.renew(lease, time.Hour)
	close(hold)
	<-done
	require.Len(t, m.records(), 1)
}

// Where a repeated create may have left a second token, the rollback removes that one, and the record stays for the copy.
func TestADeliveryAfterARepeatedCreate(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		m, c := recordMount(t)
		m.workspace.Inject(simulator.Fault{Path: createPath, Status: http.StatusTooManyRequests, AfterEffect: true, Times: 1, Header: http.Header{"Retry-After": {"0"}}})
		kind := recordedLeases["delivered copy"]
		lease := kind.lease(m, c)
		require.Len(t, m.minted(), 2)
		require.Len(t, m.walEntries(), 1)
		require.Len(t, m.records(), 1)
		m.pass(c, 4*time.Minute)
		require.Len(t, m.minted(), 1)
		require.Empty(t, m.walEntries())
		require.True(t, kind.there(m))
		value, _ := m.has("k")
		require.Equal(t, http.StatusOK, m.whoami(value))
		if !lost {
			m.end(lease)
			require.Empty(t, m.records())
		} else {
			m.pass(c, time.Hour+11*time.Minute)
		}
		require.False(t, kind.there(m))
		require.Empty(t, m.records())
	}
}

// Nothing stands between the commit and the answer: a crash in that moment leaves what was made without a lease.
func TestNothingComesBetweenTheCommitAndTheAnswer(t *testing.T) {
	t.Parallel()
	kinds := map[string]recorded{"token": {path: "creds/etl"}}
	for name, kind := range recordedLeases {
		kinds[name] = kind
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := recordMount(t)
			answered := make(chan struct{})
			m.onEvent(func(context.Context, string) error { <-answered; return nil }) // nobody waits for the event bus
			var steps []string
			m.storage.onEach(func(op, key string) error {
				steps = append(steps, op+" "+strings.Split(key, "/")[0])
				return nil
			})
			m.write(kind.path, kind.data)
			close(answered)
			m.storage.onEach(nil)
			require.NotEmpty(t, steps)
			require.Contains(t, []string{"put wal", "delete wal"}, steps[len(steps)-1])
		})
	}
}
