// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

var leasedValue = map[string]any{"string_value": "canary-leased", "ttl": "1h"}

func TestLeasedSecret(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	resp := m.write("secrets/etl/k", leasedValue)
	stored := m.scope("etl").Secrets["k"]
	require.Equal(t, "canary-leased", string(stored.Value))
	require.Equal(t, map[string]any{"scope": "etl", "key": "k", "last_updated_timestamp": rfc3339(stored.Updated), "last_updated_time": rfc3339(stored.Updated)}, resp.Data)
	require.Equal(t, time.Hour, resp.Secret.TTL)
	require.Equal(t, testMaxTTL, resp.Secret.MaxTTL)
	require.True(t, resp.Secret.Renewable)
	require.Empty(t, resp.Warnings)
	require.Empty(t, m.walEntries())

	m.workspace.PutSecret("etl", "other", []byte("v"))
	for range 2 {
		revoked, err := m.revoke(resp.Secret)
		m.requireOK(revoked, err)
		_, there := m.has("k")
		require.False(t, there, "and revoking what is gone succeeds")
	}
	_, there := m.has("other")
	require.True(t, there)
	var kinds []string
	for _, event := range m.sent() {
		kinds = append(kinds, string(event.Type))
	}
	require.Equal(t, []string{"databricks/config-write", "databricks/role-write", "databricks/secret-write", "databricks/secret-revoke", "databricks/secret-revoke"}, kinds)

	m.system.PasswordPolicies = map[string]logical.PasswordGenerator{"strong": func() (string, error) { return "canary-generated", nil }}
	capped := m.write("secrets/etl/k", map[string]any{"password_policy": "strong", "ttl": "24h"})
	require.Equal(t, testMaxTTL, capped.Secret.TTL)
	require.Contains(t, strings.Join(capped.Warnings, "\n"), "24h")
	m.write("config", map[string]any{"max_ttl": "10m"})
	capped = m.write("secrets/etl/k", leasedValue)
	require.Equal(t, 10*time.Minute, capped.Secret.TTL, "the connection's")

	m.gone("scopes/etl")
	revoked, err := m.revoke(capped.Secret)
	m.requireOK(revoked, err)
}

// TestLeasedSecretIsOursOnly shows what a revocation leaves alone.
func TestLeasedSecretIsOursOnly(t *testing.T) {
	t.Parallel()
	for name, overwrite := range map[string]func(m *mount){
		"by hand":       func(m *mount) { m.workspace.PutSecret("etl", "k", []byte("somebody else's")) },
		"with the same": func(m *mount) { m.workspace.PutSecret("etl", "k", []byte("canary-leased")) },
		"through Vault": func(m *mount) { m.write("secrets/etl/k", map[string]any{"string_value": "somebody else's"}) },
		"in bulk": func(m *mount) {
			m.write("secrets/etl", map[string]any{"secrets": map[string]any{"k": "somebody else's"}})
		},
		"another lease": func(m *mount) { m.write("secrets/ETL/k", leasedValue) },
		"gone and made": func(m *mount) {
			at := m.scope("etl").Secrets["k"].Updated
			m.gone("secrets/etl/k")
			for again := at; again.Equal(at); again = m.scope("etl").Secrets["k"].Updated {
				m.workspace.PutSecret("etl", "k", []byte("v"))
			}
		},
		"with a delivery": func(m *mount) { m.write("creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			lease := m.write("secrets/etl/k", leasedValue).Secret
			overwrite(m)
			value, _ := m.has("k")
			resp, err := m.revoke(lease)
			m.requireOK(resp, err)
			still, there := m.has("k")
			require.True(t, there)
			require.Equal(t, value, still)
			require.Contains(t, m.log.String(), "[WARN]  a leased secret was overwritten since, so it is left alone: scope=etl key=k")
		})
	}
}

// gone deletes something.
func (m *mount) gone(path string) {
	m.t.Helper()
	resp, err := m.do(logical.DeleteOperation, path, nil)
	m.requireOK(resp, err)
}

func TestLeasedSecretRenew(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	lease := m.write("secrets/etl/k", leasedValue).Secret
	m.workspace.ResetCalls()
	for name, row := range map[string]struct {
		age, increment, want time.Duration
	}{
		"as first":           {time.Minute, 0, time.Hour},
		"for longer":         {time.Minute, 2 * time.Hour, 2 * time.Hour},
		"up to the maximum":  {3*time.Hour + 30*time.Minute, 0, 30 * time.Minute},
		"for more than that": {time.Minute, 99 * time.Hour, testMaxTTL - time.Minute},
	} {
		kept := *lease
		kept.IssueTime, kept.Increment = time.Now().Add(-row.age), row.increment
		resp, err := m.leaseRequest(logical.RenewOperation, &kept)
		m.requireOK(resp, err)
		require.InDelta(t, row.want, resp.Secret.TTL, float64(5*time.Second), name)
		require.Equal(t, testMaxTTL, resp.Secret.MaxTTL, name)
	}
	kept := *lease
	kept.IssueTime = time.Now().Add(-testMaxTTL - time.Minute)
	resp, err := m.leaseRequest(logical.RenewOperation, &kept)
	m.refused(resp, err, "lease: ", "write it again")
	require.Empty(t, m.workspace.Calls(), "a renewal is local")

	kept = *lease
	kept.InternalData = map[string]any{"secret_type": secretTypeSecret, "lease_ttl": "x"}
	_, err = m.leaseRequest(logical.RenewOperation, &kept)
	require.ErrorContains(t, err, "internal data cannot be read")
	m.deleteConfig(true)
	resp, err = m.leaseRequest(logical.RenewOperation, lease)
	m.refused(resp, err, "no connection yet")
}

func TestLeasedSecretRevokeFails(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.impatient()
	lease := m.write("secrets/etl/k", leasedValue).Secret
	for name, row := range map[string]struct {
		fault  simulator.Fault
		status int
		word   string
	}{
		"list refused":     {simulator.Fault{Path: secretListPath, Status: 403}, 400, "needs READ"},
		"list broken":      {simulator.Fault{Path: secretListPath, Status: 500}, 502, "secrets/list"},
		"delete refused":   {simulator.Fault{Path: secretDeletePath, Status: 403}, 400, "needs WRITE"},
		"delete throttled": {simulator.Fault{Path: secretDeletePath, Status: 429}, 429, "remove the leased secret etl/k"},
	} {
		m.workspace.Inject(row.fault)
		resp, err := m.revoke(lease)
		if row.status == 400 {
			m.refused(resp, err, row.word)
		} else {
			m.coded(row.status, resp, err, row.word)
		}
		_, there := m.has("k")
		require.True(t, there, name)
		m.workspace.ClearFaults()
		m.forgetThrottling()
	}

	for name, internal := range map[string]map[string]any{
		"no key":       {"scope": "etl", "updated": time.Now()},
		"no timestamp": {"scope": "etl", "key": "k"},
		"no grant":     {},
		"wrong types":  {"scope": 7},
	} {
		broken := *lease
		broken.InternalData = internal
		internal["secret_type"] = secretTypeSecret
		resp, err := m.revoke(&broken)
		require.ErrorContains(t, m.failure(resp, err), "internal data", name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: logical.RevokeOperation, Storage: m.storage, Secret: lease})
	require.Error(t, err)

	m.workspace.Inject(simulator.Fault{Path: secretDeletePath, AfterEffect: true, Reset: true, Times: 1})
	m.write("config", map[string]any{"max_retries": 2})
	resp, err := m.revoke(lease)
	m.requireOK(resp, err)
	_, there := m.has("k")
	require.False(t, there, "the repeated delete met what the first had done")
}

func TestLeasedSecretOverAnotherConnection(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	lease := m.write("secrets/etl/k", leasedValue).Secret
	elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
	t.Cleanup(elsewhere.Close)
	admin := elsewhere.AddUser("engine@example.com", true)
	elsewhere.AddScope("etl", admin)
	elsewhere.PutSecret("etl", "k", []byte("another workspace's"))
	token, _ := elsewhere.AddToken(admin, "", 0)
	m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
	resp, err := m.revoke(lease)
	m.refused(resp, err, "host: ", m.workspace.URL(), elsewhere.URL(), "connect it to the first again")
	require.Len(t, elsewhere.Scopes()[0].Secrets, 1)

	m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token, "verify_connection": false, "max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: mePath, Status: 500, ErrorCode: "INTERNAL_ERROR", Times: 1})
	resp, err = m.revoke(lease)
	m.coded(http.StatusBadGateway, resp, err)

	// Another identity that may write there will do.
	writer := m.reconnectAs("writer@example.com")
	resp, err = m.revoke(lease)
	m.refused(resp, err, "needs READ")
	m.workspace.PutACL("etl", writer.UserName, "WRITE")
	resp, err = m.revoke(lease)
	m.requireOK(resp, err)
	_, there := m.has("k")
	require.False(t, there)
}

// TestLeasedSecretFaults lets Databricks fail at each call of a leased write. Whatever happens, nothing is left in the end.
func TestLeasedSecretFaults(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		fault  simulator.Fault
		walled bool // an entry stays for the rollback
		stray  bool // the secret is there until then
	}{
		"put refused":                 {simulator.Fault{Path: secretPutPath, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"}, false, false},
		"put throttled":               {simulator.Fault{Path: secretPutPath, Status: 429}, true, false},
		"put broken":                  {simulator.Fault{Path: secretPutPath, Status: 500}, true, false},
		"put broken after the effect": {simulator.Fault{Path: secretPutPath, Status: 500, AfterEffect: true}, false, false},
		"put reset":                   {simulator.Fault{Path: secretPutPath, Reset: true}, true, false},
		"put reply lost":              {simulator.Fault{Path: secretPutPath, Reset: true, AfterEffect: true}, false, false},
		"put answered with a page":    {simulator.Fault{Path: secretPutPath, HTML: true, AfterEffect: true}, false, false},
		"first list broken":           {simulator.Fault{Path: secretListPath, Offset: 0, Status: 500, Times: 1}, false, false},
		"second list refused once":    {simulator.Fault{Path: secretListPath, Offset: 1, Status: 403, Times: 1}, false, false},
		"second list refused":         {simulator.Fault{Path: secretListPath, Offset: 1, Status: 403}, true, true},
		"second list broken":          {simulator.Fault{Path: secretListPath, Offset: 1, Status: 500}, true, true},
		"second list throttled":       {simulator.Fault{Path: secretListPath, Offset: 1, Status: 429, Header: http.Header{"Retry-After": {"3600"}}}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.impatient()
			m.workspace.Inject(row.fault)
			m.failure(m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue))
			_, there := m.has("k")
			require.Equal(t, row.stray, there)
			require.Equal(t, row.walled, len(m.walEntries()) == 1)
			m.workspace.ClearFaults()
			m.forgetThrottling()
			m.rolledBack()
			require.Empty(t, m.scope("etl").Secrets)
		})
	}

	t.Run("the repeated put is no stranger's", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.workspace.Inject(simulator.Fault{Path: secretPutPath, Reset: true, AfterEffect: true, Times: 1})
		lease := m.write("secrets/etl/k", leasedValue).Secret
		resp, err := m.revoke(lease)
		m.requireOK(resp, err)
		require.Empty(t, m.scope("etl").Secrets)
	})

	t.Run("the list lags", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.workspace.PutSecret("etl", "k", []byte("v"))
		before := m.scope("etl").Secrets["k"].Updated.UnixMilli()
		m.workspace.Inject(simulator.Fault{Path: secretListPath, Offset: 1, Times: 2, Body: fmt.Sprintf(`{"secrets":[{"key":"k","last_updated_timestamp":%d}]}`, before)})
		resp := m.write("secrets/etl/k", leasedValue)
		revoked, err := m.revoke(resp.Secret)
		m.requireOK(revoked, err)
		require.Empty(t, m.scope("etl").Secrets)
	})

	t.Run("the list lags for long", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		fault := m.workspace.Inject(simulator.Fault{Path: secretListPath, Offset: 1, Body: `{}`})
		_, err := m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue)
		require.ErrorContains(t, err, "Databricks does not list it")
		require.Len(t, m.walEntries(), 1, "it may show up later")
		fault.Clear()
		m.rolledBack()
		require.Empty(t, m.scope("etl").Secrets)
	})
}

// TestLeasedSecretStorageFaults lets each operation on storage fail, before and after it is done.
func TestLeasedSecretStorageFaults(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		for _, undone := range []bool{true, false} {
			for nth := 1; nth <= 2; nth++ {
				t.Run(fmt.Sprintf("operation %d, late %v, undone at once %v", nth, late, undone), func(t *testing.T) {
					t.Parallel()
					m := withScope(t)
					m.impatient()
					if !undone {
						m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 503})
					}
					seen := 0
					fail := func(op, key string) error {
						if !strings.HasPrefix(key, framework.WALPrefix) || op != "put" && op != "delete" {
							return nil
						}
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
					require.ErrorContains(t, m.failure(m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue)), "disk full")
					_, there := m.has("k")
					require.Equal(t, nth == 2 && !undone, there)
					m.storage.onEach(nil)
					m.storage.afterEach(nil)
					m.workspace.ClearFaults()
					m.restart()
					m.rolledBack()
					require.Empty(t, m.scope("etl").Secrets)
				})
			}
		}
	}

	t.Run("the log can't be listed", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.storage.onEach(func(op, key string) error {
			if op == "list" {
				return errors.New("disk full")
			}
			return nil
		})
		require.ErrorContains(t, m.failure(m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue)), "disk full")
		require.Empty(t, m.scope("etl").Secrets, "undone at once")
	})
}

// TestLeasedSecretCancelled lets the caller go, or the engine break, during the put and in the last moments.
func TestLeasedSecretCancelled(t *testing.T) {
	t.Parallel()
	for name, undone := range map[string]bool{"undone at once": true, "undone later": false} {
		run := func(what string, inject func(m *mount, cancel func())) {
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				m := withScope(t)
				m.impatient()
				if !undone {
					m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 503})
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				inject(m, cancel)
				m.failure(m.send(ctx, logical.UpdateOperation, "secrets/etl/k", leasedValue))
				_, there := m.has("k")
				require.Equal(t, !undone, there)
				require.Equal(t, !undone, len(m.walEntries()) == 1)
				m.workspace.ClearFaults()
				m.rolledBack()
				require.Empty(t, m.scope("etl").Secrets)
				require.Empty(t, m.records())
				require.Empty(t, m.told("secret-write"), "nobody got the lease")
			})
		}
		run("cancelled during the put", func(m *mount, cancel func()) {
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Path: secretPutPath, Hold: hold})
			go func() {
				for fault.Hits() == 0 {
					time.Sleep(time.Millisecond)
				}
				cancel()
				close(hold)
			}()
		})
		for when, moment := range lastMoments {
			stored := func(m *mount) func() bool {
				return func() bool { _, there := m.has("k"); return there }
			}
			run("cancelled "+when, func(m *mount, cancel func()) { moment(m, stored(m), cancel) })
			run("a panic "+when, func(m *mount, _ func()) { moment(m, stored(m), func() { panic("in the last moment") }) })
		}
	}

	t.Run("while another has the turn", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		leases := []*logical.Secret{m.write("secrets/etl/k", leasedValue).Secret, m.deliver().Secret}
		m.gone("secrets/etl/k")
		unlock, err := m.backend.(*backend).secretLocks.Map.Lock(t.Context(), "etl/k")
		require.NoError(t, err)
		defer unlock()
		for _, lease := range leases {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: logical.RevokeOperation, Storage: m.storage, Secret: lease})
			m.coded(http.StatusGatewayTimeout, nil, err)
			cancel()
		}
		for path, data := range map[string]map[string]any{
			"secrets/etl/k": leasedValue, "secrets/ETL/K": {"string_value": "canary-plain"}, "creds/etl": {"deliver_scope": "Etl", "deliver_key": "k"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err := m.send(ctx, logical.UpdateOperation, path, data)
			m.coded(http.StatusGatewayTimeout, nil, err)
			cancel()
		}
		require.Empty(t, m.scope("etl").Secrets)
		require.Empty(t, m.minted())
		require.Empty(t, m.walEntries())
	})
}

// strand leaves a leased secret, and the intent of its write, as a process does that is killed in the middle.
func (m *mount) strand(path string, data map[string]any) {
	m.t.Helper()
	m.impatient()
	m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 503})
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Reset: true, AfterEffect: true, Times: 1})
	if strings.HasPrefix(path, "creds/") {
		m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503})
	}
	m.failure(m.do(logical.UpdateOperation, path, data))
	require.Len(m.t, m.walEntries(), 1)
	key, ok := strings.CutPrefix(path, "secrets/etl/")
	if !ok {
		key = "k"
	}
	_, there := m.has(key)
	require.True(m.t, there)
	m.workspace.ClearFaults()
	m.restart()
}

// TestLeasedSecretRepeated shows that the rollback of a write which failed does not remove what its repetition stored.
func TestLeasedSecretRepeated(t *testing.T) {
	t.Parallel()
	for first, data := range map[string]map[string]any{
		"secrets/etl/k": leasedValue, "creds/etl": {"deliver_scope": "etl", "deliver_key": "k"},
	} {
		for second, repeat := range map[string]func(m *mount){
			"leased":     func(m *mount) { m.write("secrets/etl/k", leasedValue) },
			"for good":   func(m *mount) { m.write("secrets/etl/k", map[string]any{"string_value": "canary-for-good"}) },
			"other case": func(m *mount) { m.write("secrets/ETL/k", map[string]any{"string_value": "canary-for-good"}) },
			"in bulk": func(m *mount) {
				m.write("secrets/etl", pushOfKeys(2, "bulk", map[string]any{"bytes": map[string]any{"k": "Y2FuYXJ5LWI="}}))
			},
			"a delivery":  func(m *mount) { m.write("creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k"}) },
			"not at all":  nil,
			"another key": func(m *mount) { m.write("secrets/etl/other", map[string]any{"string_value": "canary-other"}) },
		} {
			t.Run(first+", repeated "+second, func(t *testing.T) {
				t.Parallel()
				m := withScope(t)
				m.strand(first, data)
				stranded := len(m.minted())
				if repeat != nil {
					repeat(m)
				}
				m.rolledBack()
				_, there := m.has("k")
				require.Equal(t, second != "not at all" && second != "another key", there)
				if first == "creds/etl" {
					require.Equal(t, 1, stranded)
				}
				want := 0
				if second == "a delivery" {
					want = 1
				}
				require.Len(t, m.minted(), want, "the stranded credential is gone in any case")
			})
		}
	}

	t.Run("another workspace's intent stays", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.strand("secrets/etl/k", leasedValue)
		elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
		t.Cleanup(elsewhere.Close)
		admin := elsewhere.AddUser("engine@example.com", true)
		elsewhere.AddScope("etl", admin)
		token, _ := elsewhere.AddToken(admin, "", 0)
		m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
		m.write("secrets/etl/k", map[string]any{"string_value": "canary-elsewhere"})
		m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token})
		m.rolledBack()
		require.Empty(t, m.scope("etl").Secrets)
		require.Len(t, elsewhere.Scopes()[0].Secrets, 1)
	})

	t.Run("the log can't be corrected", func(t *testing.T) {
		t.Parallel()
		for first, data := range map[string]map[string]any{"secrets/etl/k": leasedValue, "creds/etl": {"deliver_scope": "etl", "deliver_key": "k"}} {
			m := withScope(t)
			m.strand(first, data)
			m.storage.onEach(func(op, key string) error {
				if op != "get" && op != "list" {
					return errors.New("disk full")
				}
				return nil
			})
			_, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-again"})
			require.ErrorContains(t, err, "disk full")
			require.ErrorContains(t, err, "write it again")
			m.storage.onEach(nil)
			m.write("secrets/etl/k", map[string]any{"string_value": "canary-again"})
			m.rolledBack()
			value, _ := m.has("k")
			require.Equal(t, "canary-again", value)
		}
	})

	t.Run("a rollback that waits for its turn", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.strand("secrets/etl/k", leasedValue)
		hold := make(chan struct{})
		fault := m.workspace.Inject(simulator.Fault{Path: secretPutPath, Hold: hold})
		written := make(chan error)
		go func() {
			resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-again"})
			if err == nil {
				err = resp.Error()
			}
			written <- err
		}()
		require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
		rolled := make(chan error)
		go func() {
			resp, err := m.rollback()
			if err == nil {
				err = resp.Error()
			}
			rolled <- err
		}()
		locks := &m.backend.(*backend).secretLocks
		require.Eventually(t, func() bool { return locks.Waiting("etl/k") == 2 }, 10*time.Second, time.Millisecond)
		close(hold)
		require.NoError(t, <-written)
		require.NoError(t, <-rolled)
		value, _ := m.has("k")
		require.Equal(t, "canary-again", value)
		require.Empty(t, m.walEntries())
		require.Zero(t, locks.Len(), "nothing is kept of locks that nobody holds")
	})
}

func TestLeasedSecretRollback(t *testing.T) {
	t.Parallel()

	t.Run("leaves what others wrote later", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.strand("secrets/etl/k", leasedValue)
		m.age(mintBudget + 2*clockNear)
		m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
		m.rolledBack()
		value, _ := m.has("k")
		require.Equal(t, "somebody else's", value)
		require.Contains(t, m.log.String(), "was written by somebody else since, so it is left alone")
	})

	t.Run("leaves what was never overwritten", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.impatient()
		m.workspace.PutSecret("etl", "k", []byte("as before"))
		m.workspace.Inject(simulator.Fault{Path: secretPutPath, Reset: true})
		m.failure(m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue))
		require.Len(t, m.walEntries(), 1)
		_, in := m.walIntent()
		require.True(t, in.Secret.Before.Equal(m.scope("etl").Secrets["k"].Updated))
		m.workspace.ClearFaults()
		m.rolledBack()
		value, _ := m.has("k")
		require.Equal(t, "as before", value)
	})

	t.Run("the scope is gone", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.strand("secrets/etl/k", leasedValue)
		m.gone("scopes/etl")
		m.rolledBack()
	})

	t.Run("fails and is repeated", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.strand("secrets/etl/k", leasedValue)
		for _, path := range []string{secretListPath, secretDeletePath} {
			m.workspace.Inject(simulator.Fault{Path: path, Status: 503})
			require.ErrorContains(t, m.failure(m.rollback()), "HTTP 503")
			require.Len(t, m.walEntries(), 1)
			m.workspace.ClearFaults()
		}
		require.Contains(t, m.log.String(), "[ERROR] something may be left at Databricks")
		require.Contains(t, m.log.String(), "scope=etl key=k")
		listed := 0
		m.storage.onEach(func(op, key string) error {
			if op == "list" {
				if listed++; listed == 1 {
					return errors.New("disk full")
				}
			}
			return nil
		})
		require.ErrorContains(t, m.failure(m.rollback()), "disk full")
		m.storage.onEach(nil)
		m.rolledBack()
		require.Empty(t, m.scope("etl").Secrets)
	})

	t.Run("reads over what it does not understand", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		for kind, data := range map[string]any{"teleport": map[string]any{}, walKind: map[string]any{"expires": 7}} {
			_, err := framework.PutWAL(t.Context(), m.storage, kind, data)
			require.NoError(t, err)
		}
		m.write("secrets/etl/k", leasedValue)
		m.storage.onEach(func(op, key string) error {
			if op == "get" && strings.HasPrefix(key, framework.WALPrefix) {
				return errors.New("disk full")
			}
			return nil
		})
		_, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-again"})
		require.ErrorContains(t, err, "disk full")
	})
}

// TestLeasedSecretsAtOnce writes one key over and over and revokes in any order: each lease knows its own write only.
func TestLeasedSecretsAtOnce(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	const n = 24
	leases := make([]*logical.Secret, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			resp, err := m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": fmt.Sprintf("canary-%04d", i), "ttl": "1h"})
			if err != nil || resp.IsError() {
				t.Errorf("%v %v", resp, err)
				return
			}
			leases[i] = resp.Secret
		})
	}
	wg.Wait()
	stamps := map[any]bool{}
	last := -1
	for i, lease := range leases {
		require.NotNil(t, lease)
		stamps[lease.InternalData["updated"]] = true
		if lease.InternalData["updated"] == m.scope("etl").Secrets["k"].Updated.Format(time.RFC3339Nano) {
			last = i
		}
	}
	require.Len(t, stamps, n)
	value, _ := m.has("k")
	require.Equal(t, fmt.Sprintf("canary-%04d", last), value)

	for _, i := range rand.Perm(n) {
		if i == last {
			continue
		}
		wg.Go(func() {
			if resp, err := m.revoke(leases[i]); err != nil || resp.IsError() {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
	wg.Wait()
	still, there := m.has("k")
	require.True(t, there)
	require.Equal(t, value, still)
	resp, err := m.revoke(leases[last])
	m.requireOK(resp, err)
	require.Empty(t, m.scope("etl").Secrets)
	require.Empty(t, m.walEntries())
}
