// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// grant leases a permission on the scope "etl" to the group "users".
func (m *mount) grant(permission string) *logical.Secret {
	m.t.Helper()
	resp := m.write("acls/etl/users", map[string]any{"permission": permission, "ttl": "1h"})
	require.NotNil(m.t, resp.Secret)
	require.Equal(m.t, permission, m.acl("users"))
	return resp.Secret
}

// noGrants requires that nothing is kept of leases.
func (m *mount) noGrants() {
	m.t.Helper()
	for _, g := range m.grantRecords() {
		require.Empty(m.t, g.Leases)
	}
	require.Empty(m.t, m.walEntries())
}

// over is a mount on whose scope "etl" the group "users" has the base permission already.
func over(t *testing.T, base string) *mount {
	m := withScope(t)
	m.workspace.PutACL("etl", "users", base)
	return m
}

func TestGrant(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "READ", "WRITE", "MANAGE"} {
		for _, permission := range permissions {
			t.Run(permission+" over "+permissionWord(base), func(t *testing.T) {
				t.Parallel()
				m := over(t, base)
				resp := m.write("acls/etl/users", map[string]any{"permission": permission, "ttl": "1h"})
				require.Equal(t, map[string]any{"scope": "etl", "principal": "users", "permission": permission}, resp.Data)
				require.Equal(t, time.Hour, resp.Secret.TTL)
				require.Equal(t, testMaxTTL, resp.Secret.MaxTTL)
				require.True(t, resp.Secret.Renewable)
				require.Equal(t, permission, m.acl("users"))
				require.Empty(t, m.walEntries())
				for range 2 {
					m.end(resp.Secret)
					require.Equal(t, base, m.acl("users"))
					m.noGrants()
				}
			})
		}
	}
}

func TestGrantTerms(t *testing.T) {
	t.Parallel()
	m := over(t, "")
	resp := m.write("acls/etl/users", map[string]any{"permission": "READ", "ttl": "24h"})
	require.Equal(t, testMaxTTL, resp.Secret.TTL)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "24h")
	m.workspace.ResetCalls()
	kept := *m.grant("WRITE")
	kept.IssueTime = time.Now().Add(-3 * time.Hour)
	kept.Increment = 3 * time.Hour
	renewed, err := m.leaseRequest(logical.RenewOperation, &kept)
	m.requireOK(renewed, err)
	require.InDelta(t, time.Hour, renewed.Secret.TTL, float64(5*time.Second))

	broken := kept
	broken.InternalData = maps.Clone(kept.InternalData)
	maps.Copy(broken.InternalData, map[string]any{"grant": nil, "scope": "etl", "key": "k", "updated": time.Now()})
	_, err = m.revoke(&broken)
	require.ErrorContains(t, err, "lacks grant")
}

// TestGrantsOverlap ends two and three leases in every order.
func TestGrantsOverlap(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "READ", "MANAGE"} {
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			t.Run(fmt.Sprint(permissionWord(base), order), func(t *testing.T) {
				t.Parallel()
				m := over(t, base)
				given := []string{"READ", "MANAGE", "WRITE"}
				leases := []*logical.Secret{m.grant(given[0]), m.grant(given[1]), m.grant(given[2])}
				ended := map[int]bool{}
				for _, i := range order {
					m.end(leases[i])
					ended[i] = true
					want := base
					for j := range given {
						if !ended[j] {
							want = given[j]
						}
					}
					require.Equal(t, want, m.acl("users"))
				}
				m.noGrants()
			})
		}
	}

	t.Run("in two spellings of the scope", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		first := m.grant("READ")
		second := m.write("acls/ETL/users", map[string]any{"permission": "WRITE", "ttl": "1h"}).Secret
		m.end(first)
		require.Equal(t, "WRITE", m.acl("users"))
		m.end(second)
		require.Empty(t, m.acl("users"))
		m.noGrants()
	})
}

// TestGrantIsOursOnly shows what the end of a lease leaves alone.
func TestGrantIsOursOnly(t *testing.T) {
	t.Parallel()
	const warning = "[WARN]  a leased permission was changed since, so it is left alone: scope=etl principal=users"

	t.Run("changed by hand", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		lease := m.grant("MANAGE")
		m.workspace.PutACL("etl", "users", "WRITE")
		m.end(lease)
		require.Equal(t, "WRITE", m.acl("users"))
		require.Contains(t, m.log.String(), warning+" given=MANAGE now=WRITE")
		m.noGrants()
	})

	t.Run("taken by hand", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		lease := m.grant("WRITE")
		m.workspace.PutACL("etl", "users", "")
		m.end(lease)
		require.Empty(t, m.acl("users"))
		require.Contains(t, m.log.String(), warning+" given=WRITE now=none")
		m.noGrants()
	})

	t.Run("taken by hand, back to what it was", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		lease := m.grant("WRITE")
		m.workspace.PutACL("etl", "users", "")
		m.end(lease)
		require.Empty(t, m.acl("users"))
		m.noGrants()
	})

	t.Run("changed by hand under two leases", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		first, second := m.grant("READ"), m.grant("WRITE")
		m.workspace.PutACL("etl", "users", "MANAGE")
		m.end(first)
		m.end(second)
		require.Equal(t, "MANAGE", m.acl("users"))
		m.noGrants()
	})

	t.Run("and a new lease on what was put by hand", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		first := m.grant("READ")
		m.workspace.PutACL("etl", "users", "WRITE")
		second := m.grant("MANAGE")
		m.end(first)
		require.Equal(t, "MANAGE", m.acl("users"))
		m.end(second)
		require.Equal(t, "WRITE", m.acl("users"))
		m.noGrants()
	})

	t.Run("by hand between two leases", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		m.end(m.grant("READ"))
		m.workspace.PutACL("etl", "users", "WRITE")
		m.end(m.grant("MANAGE"))
		require.Equal(t, "WRITE", m.acl("users"))
		m.write("acls/etl/users", map[string]any{"permission": "READ"})
		m.workspace.PutACL("etl", "users", "")
		overruled := m.grant("WRITE")
		m.workspace.PutACL("etl", "users", "MANAGE")
		m.end(overruled)
		m.end(m.grant("WRITE"))
		require.Equal(t, "MANAGE", m.acl("users"), "what was overruled is forgotten")
	})

	for name, path := range map[string]string{"written for good": "acls/etl/users", "written for good in another spelling": "acls/Etl/users"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, permission := range []string{"READ", "WRITE", "MANAGE"} {
				m := over(t, "READ")
				leases := []*logical.Secret{m.grant("WRITE"), m.grant("MANAGE")}
				m.write(path, map[string]any{"permission": permission})
				for _, lease := range leases {
					m.end(lease)
					require.Equal(t, permission, m.acl("users"))
				}
				m.noGrants()
			}
		})
	}

	t.Run("deleted through Vault", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		lease := m.grant("WRITE")
		m.gone("acls/etl/users")
		m.end(lease)
		require.Empty(t, m.acl("users"))
		m.noGrants()
	})

	t.Run("the scope is gone", func(t *testing.T) {
		t.Parallel()
		for _, base := range []string{"", "READ"} {
			m := over(t, base)
			lease := m.grant("WRITE")
			m.gone("scopes/etl")
			m.end(lease)
			m.noGrants()
			m.workspace.AddScope("etl", m.admin)
			m.end(lease)
			require.Len(t, m.scope("etl").ACLs, 1)
		}
	})

	t.Run("the principal is gone", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		lease := m.grant("WRITE")
		m.workspace.Inject(simulator.Fault{Path: aclPutPath, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "no such principal"})
		m.end(lease)
		m.noGrants()
	})
}

// TestGrantStale lets reads of permissions lag behind, as Databricks' caches do: no old answer may become what is put back.
func TestGrantStale(t *testing.T) {
	t.Parallel()
	for _, delay := range []int{1, 2, 3, 50} {
		for _, base := range []string{"", "READ"} {
			t.Run(fmt.Sprintf("%d reads, over %s", delay, permissionWord(base)), func(t *testing.T) {
				t.Parallel()
				m := over(t, base)
				m.workspace.SetACLDelay(delay)
				m.end(m.grant("WRITE"))
				require.Equal(t, base, m.acl("users"))
				for range 3 {
					m.end(m.grant("MANAGE"))
					require.Equal(t, base, m.acl("users"), "the answer was old that showed the ended lease's permission")
				}
				first, second := m.grant("READ"), m.grant("WRITE")
				m.end(first)
				require.Equal(t, "WRITE", m.acl("users"))
				third := m.grant("READ")
				m.end(second)
				m.end(third)
				require.Equal(t, base, m.acl("users"))

				m.write("acls/etl/users", map[string]any{"permission": "MANAGE"})
				m.end(m.grant("READ"))
				require.Equal(t, "MANAGE", m.acl("users"))
				m.gone("acls/etl/users")
				m.end(m.grant("WRITE"))
				require.Empty(t, m.acl("users"), "what was deleted does not come back")
				m.noGrants()
			})
		}
	}

	t.Run("old knowledge does not last", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		m.write("acls/etl/users", map[string]any{"permission": "WRITE"})
		m.write("acls/etl/"+m.admin.UserName, map[string]any{"permission": "MANAGE"})
		require.Len(t, m.grantRecords(), 2)
		m.ageGrants(aclStale + time.Second)
		m.workspace.PutACL("etl", "users", "READ")
		m.end(m.grant("MANAGE"))
		require.Equal(t, "READ", m.acl("users"))

		// What is not needed any more is swept on Vault's tick, or on the next one when storage fails.
		m.ageGrants(aclStale + time.Second)
		m.storage.onEach(func(op, key string) error {
			if op == "delete" {
				return errors.New("disk full")
			}
			return nil
		})
		_, err := m.rollback()
		require.ErrorContains(t, err, "disk full")
		m.storage.onEach(nil)
		resp, err := m.rollback()
		m.requireOK(resp, err)
		require.Empty(t, m.grantRecords())
	})
}

// grantRecords are the stored records of permissions, by key.
func (m *mount) grantRecords() map[string]*aclRecord {
	m.t.Helper()
	records := map[string]*aclRecord{}
	scopes, err := m.storage.List(m.t.Context(), aclStoragePrefix)
	require.NoError(m.t, err)
	for _, scope := range scopes {
		keys, err := m.storage.List(m.t.Context(), aclStoragePrefix+scope)
		require.NoError(m.t, err)
		for _, key := range keys {
			g, err := readACLRecord(m.t.Context(), m.storage, aclStoragePrefix+scope+key)
			require.NoError(m.t, err)
			records[aclStoragePrefix+scope+key] = g
		}
	}
	return records
}

// ageGrants lets time pass for the records.
func (m *mount) ageGrants(by time.Duration) {
	m.t.Helper()
	for key, g := range m.grantRecords() {
		g.At = g.At.Add(-by)
		require.NoError(m.t, g.save(m.t.Context(), m.storage, key))
	}
}

// TestGrantsAfterAScopeIsMadeAnew shows that nothing of a deleted scope's permissions comes back in a new one.
func TestGrantsAfterAScopeIsMadeAnew(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("scopes/etl", nil)
	m.write("acls/etl/users", map[string]any{"permission": "WRITE"})
	first := m.grant("READ")
	second := m.grant("MANAGE")
	resp, err := m.do(logical.DeleteOperation, "scopes/etl", nil)
	m.requireOK(resp, err)
	require.Empty(t, m.grantRecords())
	m.write("scopes/etl", nil)
	m.end(second)
	m.end(first)
	require.Empty(t, m.acl("users"))
	m.end(m.grant("READ"))
	require.Empty(t, m.acl("users"))
}

// TestGrantTakenAwayByHand shows that ending one of two leases gives nothing back that somebody took away.
func TestGrantTakenAwayByHand(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("scopes/etl", nil)
	first := m.grant("READ")
	second := m.grant("WRITE")
	m.workspace.PutACL("etl", "users", "")
	m.end(first)
	require.Empty(t, m.acl("users"))
	m.ageGrants(aclStale + time.Second)
	m.end(second)
	require.Empty(t, m.acl("users"))
}

// TestGrantBaseSurvivesARestart shows that an old answer of Databricks does not become the base after a restart either.
func TestGrantBaseSurvivesARestart(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("scopes/etl", nil)
	m.write("acls/etl/users", map[string]any{"permission": "MANAGE"})
	m.workspace.SetACLDelay(100)
	m.gone("acls/etl/users")
	b, err := Factory(t.Context(), m.config())
	require.NoError(t, err)
	m.backend = b
	m.end(m.grant("READ"))
	require.Empty(t, m.acl("users"))
}

// TestGrantStorageFaults lets every operation on storage fail in turn, before and after it is done: a grant that failed is
// taken back in the end, and a revocation that failed can be repeated.
func TestGrantStorageFaults(t *testing.T) {
	t.Parallel()
	// failing makes the nth operation fail and tells whether there was one.
	failing := func(m *mount, nth int, late bool) (failed func() bool) {
		seen := 0
		fail := func(op, key string) error {
			if seen++; seen == nth {
				return errors.New("disk full")
			}
			return nil
		}
		if late {
			m.storage.afterEach(fail)
		} else {
			m.storage.onEach(fail)
		}
		return func() bool {
			m.storage.afterEach(nil)
			m.storage.onEach(nil)
			return seen >= nth
		}
	}
	for _, late := range []bool{false, true} {
		for _, base := range []string{"", "READ"} {
			for _, others := range []int{0, 1} {
				t.Run(fmt.Sprintf("late %v, over %s and %d leases", late, permissionWord(base), others), func(t *testing.T) {
					t.Parallel()
					m := over(t, base)
					want, kept := base, []*logical.Secret(nil)
					for range others {
						kept, want = append(kept, m.grant("MANAGE")), "MANAGE"
					}
					rounds := 0
					for nth := 1; ; nth++ {
						failed := failing(m, nth, late)
						resp, err := m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "WRITE", "ttl": "1h"})
						if !failed() {
							m.requireOK(resp, err)
							m.end(resp.Secret)
							break
						}
						require.ErrorContains(t, m.failure(resp, err), "disk full")
						m.restart()
						m.rolledBack()
						require.Equal(t, want, m.acl("users"), "operation %d", nth)
						rounds++
					}
					require.GreaterOrEqual(t, rounds, 3)
					require.Equal(t, want, m.acl("users"))

					for nth := 1; ; nth++ {
						lease := m.grant("WRITE")
						failed := failing(m, nth, late)
						resp, err := m.revoke(lease)
						hit := failed()
						if err == nil {
							m.requireOK(resp, err)
						} else {
							require.ErrorContains(t, err, "disk full")
							m.restart()
							m.end(lease)
						}
						require.Equal(t, want, m.acl("users"), "operation %d", nth)
						if !hit {
							break
						}
					}
					for _, lease := range kept {
						m.end(lease)
					}
					require.Equal(t, base, m.acl("users"))
					m.noGrants()
				})
			}
		}
	}

	t.Run("a record that can't be read", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		lease := m.grant("READ")
		for key := range m.grantRecords() {
			require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
		}
		_, err := m.revoke(lease)
		require.ErrorContains(t, err, "cannot be read")
		_, err = m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "WRITE", "ttl": "1h"})
		require.ErrorContains(t, err, "cannot be read")
		require.Equal(t, "READ", m.acl("users"))
	})
}

// TestGrantFaults lets Databricks fail at each call of a grant and of its end.
func TestGrantFaults(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		fault  simulator.Fault
		walled bool // an entry stays for the rollback
		given  bool // until then
	}{
		"get broken":                  {simulator.Fault{Path: aclGetPath, Status: 500}, false, false},
		"put refused":                 {simulator.Fault{Path: aclPutPath, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"}, false, false},
		"put forbidden":               {simulator.Fault{Path: aclPutPath, Status: 403}, false, false},
		"put throttled":               {simulator.Fault{Path: aclPutPath, Status: 429}, true, false},
		"put broken":                  {simulator.Fault{Path: aclPutPath, Status: 500}, true, false},
		"put broken after the effect": {simulator.Fault{Path: aclPutPath, Status: 500, AfterEffect: true}, true, true},
		"put reset":                   {simulator.Fault{Path: aclPutPath, Reset: true}, true, false},
		"put reply lost":              {simulator.Fault{Path: aclPutPath, Reset: true, AfterEffect: true}, true, true},
	} {
		for _, base := range []string{"", "READ"} {
			for _, others := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, over %s, others %v", name, permissionWord(base), others), func(t *testing.T) {
					t.Parallel()
					m := over(t, base)
					m.impatient()
					want := base
					var kept *logical.Secret
					if others {
						kept, want = m.grant("MANAGE"), "MANAGE"
					}
					m.workspace.Inject(row.fault)
					m.failure(m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "WRITE", "ttl": "1h"}))
					require.Equal(t, row.walled, len(m.walEntries()) == 1)
					require.Equal(t, row.given, m.acl("users") == "WRITE")
					m.workspace.ClearFaults()
					m.forgetThrottling()
					if row.given {
						m.end(m.grant("MANAGE")) // a repetition does not take the failed one's permission for the base
						require.Equal(t, "WRITE", m.acl("users"))
					}
					m.restart()
					m.rolledBack()
					require.Equal(t, want, m.acl("users"))
					if others {
						m.end(kept)
					}
					require.Equal(t, base, m.acl("users"))
					m.noGrants()
				})
			}
		}
	}

	t.Run("the end fails and is repeated", func(t *testing.T) {
		t.Parallel()
		for _, base := range []string{"", "READ"} {
			m := over(t, base)
			m.impatient()
			undo := aclPutPath
			if base == "" {
				undo = aclDeletePath
			}
			lease := m.grant("WRITE")
			for name, row := range map[string]struct {
				fault  simulator.Fault
				status int
			}{
				"get forbidden":   {simulator.Fault{Path: aclGetPath, Status: 403}, 400},
				"get broken":      {simulator.Fault{Path: aclGetPath, Status: 500}, 502},
				"put forbidden":   {simulator.Fault{Path: undo, Status: 403}, 400},
				"put broken":      {simulator.Fault{Path: undo, Status: 500}, 502},
				"put throttled":   {simulator.Fault{Path: undo, Status: 429}, 429},
				"put, reply lost": {simulator.Fault{Path: undo, Reset: true, AfterEffect: true}, 502},
			} {
				m.workspace.Inject(row.fault)
				resp, err := m.revoke(lease)
				if row.status == 400 {
					m.refused(resp, err, "take back the leased permission of users on etl", "needs MANAGE")
				} else {
					m.coded(row.status, resp, err, "take back the leased permission of users on etl")
				}
				m.workspace.ClearFaults()
				m.forgetThrottling()
				keys, err := m.storage.List(t.Context(), aclStoragePrefix)
				require.NoError(t, err)
				require.Len(t, keys, 1, name)
			}
			m.end(lease)
			require.Equal(t, base, m.acl("users"))
			m.noGrants()
		}
	})

	t.Run("the rollback fails and is repeated", func(t *testing.T) {
		t.Parallel()
		m := over(t, "")
		m.impatient()
		m.workspace.Inject(simulator.Fault{Path: aclPutPath, Reset: true, AfterEffect: true, Times: 1})
		m.failure(m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "WRITE", "ttl": "1h"}))
		fault := m.workspace.Inject(simulator.Fault{Path: aclDeletePath, Status: 403})
		require.ErrorContains(t, m.failure(m.rollback()), "needs MANAGE")
		require.Contains(t, m.log.String(), "scope=etl principal=users")
		require.Len(t, m.walEntries(), 1)
		fault.Clear()
		m.rolledBack()
		require.Empty(t, m.acl("users"))
		m.noGrants()
	})
}

// TestGrantCancelled lets the caller go, or the engine break, at the moments of a grant.
func TestGrantCancelled(t *testing.T) {
	t.Parallel()
	data := map[string]any{"permission": "WRITE", "ttl": "1h"}

	t.Run("during the put", func(t *testing.T) {
		t.Parallel()
		for _, undone := range []bool{true, false} {
			m := over(t, "READ")
			m.impatient()
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Path: aclPutPath, Hold: hold, Times: 1})
			if !undone {
				m.workspace.Inject(simulator.Fault{Path: aclPutPath, Status: 503})
			}
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error)
			go func() {
				_, err := m.send(ctx, logical.UpdateOperation, "acls/etl/users", data)
				failed <- err
			}()
			require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
			cancel()
			close(hold)
			require.ErrorIs(t, <-failed, context.Canceled)
			require.Equal(t, undone, m.acl("users") == "READ")
			require.Equal(t, !undone, len(m.walEntries()) == 1)
			m.workspace.ClearFaults()
			m.rolledBack()
			require.Equal(t, "READ", m.acl("users"))
			m.noGrants()
		}
	})

	t.Run("a panic in the middle", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		m.onCommit(func() error {
			m.storage.onEach(nil)
			panic("in storage")
		})
		resp, err := m.do(logical.UpdateOperation, "acls/etl/users", data)
		m.coded(http.StatusInternalServerError, resp, err)
		require.Equal(t, "READ", m.acl("users"))
		m.noGrants()
		m.end(m.grant("WRITE")) // and the turn is free again
	})

	t.Run("while another has the turn", func(t *testing.T) {
		t.Parallel()
		m := over(t, "READ")
		lease := m.grant("MANAGE")
		b := m.backend.(*backend)
		made := origin{Host: m.workspace.URL(), WorkspaceID: m.workspace.ID(), OwnerID: m.admin.ID}
		key := aclRecordKey(made, aclRef{Scope: "etl", Principal: "users"})
		unlock, err := b.aclLocks.Map.Lock(t.Context(), key)
		require.NoError(t, err)
		for name, request := range map[string]func(ctx context.Context) error{
			"lease": func(ctx context.Context) error {
				return m.failure(m.send(ctx, logical.UpdateOperation, "acls/etl/users", data))
			},
			"for good": func(ctx context.Context) error {
				return m.failure(m.send(ctx, logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ"}))
			},
			"delete": func(ctx context.Context) error {
				return m.failure(m.send(ctx, logical.DeleteOperation, "acls/etl/users", nil))
			},
			"revoke": func(ctx context.Context) error {
				return m.failure(b.HandleRequest(ctx, &logical.Request{Operation: logical.RevokeOperation, Storage: m.storage, Secret: lease}))
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() { failed <- request(ctx) }()
			require.Eventually(t, func() bool { return b.aclLocks.Waiting(key) == 2 }, time.Minute, time.Millisecond, name)
			cancel()
			require.ErrorContains(t, <-failed, context.Canceled.Error(), name)
		}
		require.Equal(t, "MANAGE", m.acl("users"))
		m.write("acls/etl/"+m.admin.UserName, map[string]any{"permission": "MANAGE"}) // nobody else is held up
		unlock()
		m.end(lease)
		require.Equal(t, "READ", m.acl("users"))
		require.Zero(t, b.aclLocks.Len(), "nothing is kept of locks that nobody holds")
	})
}

// TestGrantsAtOnce grants and revokes the same permission from many sides, in any order: in the end, what was there is back.
func TestGrantsAtOnce(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "READ"} {
		t.Run("over "+permissionWord(base), func(t *testing.T) {
			t.Parallel()
			m := over(t, base)
			m.workspace.SetACLDelay(1)
			const n = 50
			leases := make(chan *logical.Secret, n)
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					path := []string{"acls/etl/users", "acls/ETL/users"}[i%2]
					resp, err := m.do(logical.UpdateOperation, path, map[string]any{"permission": permissions[rand.IntN(3)], "ttl": "1h"})
					if err != nil || resp.IsError() {
						t.Errorf("%v %v", resp, err)
						return
					}
					leases <- resp.Secret
				})
				if i%2 == 1 {
					wg.Go(func() {
						if resp, err := m.revoke(<-leases); err != nil || resp.IsError() {
							t.Errorf("%v %v", resp, err)
						}
					})
				}
			}
			wg.Wait()
			close(leases)
			var left []*logical.Secret
			for lease := range leases {
				left = append(left, lease)
			}
			require.Len(t, left, n/2)
			for _, i := range rand.Perm(len(left)) {
				wg.Go(func() {
					if resp, err := m.revoke(left[i]); err != nil || resp.IsError() {
						t.Errorf("%v %v", resp, err)
					}
				})
			}
			wg.Wait()
			require.Equal(t, base, m.acl("users"))
			m.noGrants()
		})
	}
}

func TestGrantOverAnotherConnection(t *testing.T) {
	t.Parallel()
	m := over(t, "READ")
	lease := m.grant("WRITE")
	elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
	t.Cleanup(elsewhere.Close)
	admin := elsewhere.AddUser("engine@example.com", true)
	elsewhere.AddScope("etl", admin)
	token, _ := elsewhere.AddToken(admin, "", 0)
	m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
	resp, err := m.revoke(lease)
	m.refused(resp, err, "host: ", m.workspace.URL(), elsewhere.URL())
	there := m.write("acls/etl/users", map[string]any{"permission": "MANAGE", "ttl": "1h"}).Secret
	require.Equal(t, "MANAGE", elsewhere.Scopes()[0].ACLs["users"])
	m.end(there)
	require.Len(t, elsewhere.Scopes()[0].ACLs, 1, "what is known of the first workspace does not count here")

	m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token})
	require.Equal(t, "WRITE", m.acl("users"))
	m.end(lease)
	require.Equal(t, "READ", m.acl("users"))
	m.noGrants()
}

func TestGrantsKeyWithoutWorkspace(t *testing.T) {
	t.Parallel()
	ref := aclRef{Scope: "etl", Principal: "users"}
	keys := map[string]bool{}
	for _, made := range []origin{{Host: "https://a"}, {Host: "https://b"}, {Host: "https://a", WorkspaceID: "1"}} {
		keys[aclRecordKey(made, ref)] = true
		require.Equal(t, aclRecordKey(made, ref), aclRecordKey(made, aclRef{Scope: "ETL", Principal: "users"}))
		require.NotEqual(t, aclRecordKey(made, ref), aclRecordKey(made, aclRef{Scope: "etl", Principal: "Users"}))
	}
	require.Len(t, keys, 3)
}

// TestGrantIsRecordedWhileItIsWaitedFor shows that wait=true leaves no moment in which neither a lease nor an intent
// answers for a permission.
func TestGrantIsRecordedWhileItIsWaitedFor(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.SetACLDelay(1 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := m.send(ctx, logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ", "ttl": "1h", "wait": true})
		failed <- err
	}()
	require.Eventually(t, func() bool { return m.acl("users") == "READ" }, 10*time.Second, time.Millisecond)
	require.Len(t, m.walEntries(), 1)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Empty(t, m.acl("users"))
	require.Empty(t, m.walEntries())
}

// TestManageByLeaseDoesNotCount shows that the engine can't give up its own MANAGE for one that ends.
func TestManageByLeaseDoesNotCount(t *testing.T) {
	t.Parallel()
	m := ready(t)
	engine := m.workspace.AddUser("modest@example.com", false)
	token, _ := m.workspace.AddToken(engine, "the engine's own", 0)
	m.write("config", map[string]any{"token": token})
	m.workspace.AddScope("etl", m.admin)
	m.workspace.AddGroup("owners", engine)
	m.workspace.AddGroup("helpers", engine)
	m.workspace.PutACL("etl", "owners", "MANAGE")
	m.write("acls/etl/helpers", map[string]any{"permission": "MANAGE", "ttl": "1h"})
	resp, err := m.do(logical.DeleteOperation, "acls/etl/owners", nil)
	m.refused(resp, err, "lock itself out")
	m.write("acls/etl/helpers", map[string]any{"permission": "MANAGE"})
	resp, err = m.do(logical.DeleteOperation, "acls/etl/owners", nil)
	m.requireOK(resp, err)
}

// A record that can't be read is reported once, and keeps no other from being deleted.
func TestAnUnreadableGrantHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.workspace.AddScope("etl", m.admin)
	// Each pass begins after a write: there may be records to delete.
	sweep := func() {
		t.Helper()
		m.write("acls/etl/others", map[string]any{"permission": "READ"})
		c.advance(aclStale + time.Minute)
		m.youngTick()
	}
	var good []*logical.StorageEntry
	for _, principal := range []string{"others", "engineers", "analysts"} {
		m.workspace.AddGroup(principal)
		m.write("acls/etl/"+principal, map[string]any{"permission": "READ"})
		entry, err := m.storage.Get(t.Context(), aclRecordKey(m.here(), aclRef{"etl", principal}))
		require.NoError(t, err)
		good = append(good, entry)
	}
	damaged := good[1]
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: damaged.Key, Value: []byte("garbage")}))
	for range 3 {
		sweep()
		left, err := logical.CollectKeys(t.Context(), logical.NewStorageView(m.storage, aclStoragePrefix))
		require.NoError(t, err)
		require.Equal(t, []string{strings.TrimPrefix(damaged.Key, aclStoragePrefix)}, left)
	}
	require.Equal(t, 1, m.errorsSaid("the leases of a permission can't be ended"))

	require.NoError(t, m.storage.Put(t.Context(), damaged))
	sweep()
	require.Empty(t, m.grantRecords())
	m.backend.(*backend).unreadable.Range(func(key, _ any) bool {
		require.Fail(t, "still remembered", key)
		return true
	})
}
