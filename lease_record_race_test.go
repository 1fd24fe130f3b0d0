// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// rawTick is what Vault does once a minute, whatever comes of it.
func (m *mount) rawTick() {
	_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage, Data: map[string]any{}})
}

// failAfterPut lets the next write of the log fail after its effect.
func (m *mount) failAfterPut() {
	failed := false
	m.storage.afterEach(func(op, key string) error {
		if failed || op != "put" || !strings.HasPrefix(key, "wal/") {
			return nil
		}
		failed = true
		return errors.New("the storage did not answer in time")
	})
}

// A renewal may be stored although it failed, and the next one then has nothing to store.
func TestARenewalThatFailedAfterItsEffect(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		m.pass(c, 50*time.Minute)
		m.failAfterPut()
		lease.Increment = 2 * time.Hour
		m.failure(m.leaseRequest(logical.RenewOperation, lease))
		m.storage.afterEach(nil)
		m.renew(lease, time.Hour)
		m.pass(c, 30*time.Minute)
		require.True(t, kind.there(m))
	})
}

// A write whose entry was logged although that failed is superseded by the client's next try.
func TestAnEntryThatFailedAfterItsEffectIsSuperseded(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]map[string]any{"leased": leasedValue, "unleased": {"string_value": "canary-plain"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := recordMount(t)
			m.failAfterPut()
			m.failure(m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue))
			m.storage.afterEach(nil)
			c.advance(time.Second)
			m.write("secrets/etl/k", again)
			m.pass(c, 4*time.Minute)
			_, there := m.has("k")
			require.True(t, there)
			require.Empty(t, m.walEntries())
		})
	}
}

// The renewal of a lease of v0.1.0 writes its record, and Vault may fail to store which. The next renewal moves the same record.
func TestAnOldLeaseHasOneRecord(t *testing.T) {
	t.Parallel()
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		delete(lease.InternalData, "record")
		require.NoError(t, m.backend.(*backend).deleteIntent(t.Context(), m.storage, m.records()[0]))
		lost := *lease
		lost.InternalData = maps.Clone(lease.InternalData)
		m.renew(&lost, time.Hour)
		m.renew(lease, time.Hour)
		require.Len(t, m.records(), 1)
		m.pass(c, 50*time.Minute)
		m.renew(lease, time.Hour)
		m.pass(c, 25*time.Minute)
		require.True(t, kind.there(m))
	})
}

// commitDuring begins what is leased, holds it up before its commit, lets three minutes go by, and runs the rollback. When that has come to
// the point that reached names, the operation is committed and answered, and the rollback goes on.
func (m *mount) commitDuring(c *clock, kind recorded, reached func(commit func())) {
	m.t.Helper()
	committing, goOn, answered := make(chan struct{}), make(chan struct{}), make(chan *logical.Response, 1)
	var mu sync.Mutex
	puts := 0
	m.storage.onEach(func(op, key string) error {
		if op != "put" || !strings.HasPrefix(key, "wal/") {
			return nil
		}
		mu.Lock()
		puts++
		commit := puts == 2
		mu.Unlock()
		if commit {
			close(committing)
			<-goOn
		}
		return nil
	})
	go func() {
		resp, _ := m.do(logical.UpdateOperation, kind.path, kind.data)
		answered <- resp
	}()
	<-committing
	c.advance(3 * time.Minute) // as when the machine was paused
	var resp *logical.Response
	reached(sync.OnceFunc(func() {
		close(goOn)
		resp = <-answered
	}))
	_ = m.backend.(*backend).rollback(m.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.storage.onEach(nil)
	require.NotNil(m.t, resp)
	require.NotNil(m.t, resp.Secret)
	require.True(m.t, kind.there(m))
	require.Len(m.t, m.records(), 1)
}

// An operation that is committed while a rollback is about to look at its entry is not undone.
func TestACommitDuringARollback(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(m *mount, commit func()){
		"before its entry is read": func(m *mount, commit func()) {
			m.storage.Storage = &watchedGets{Storage: m.storage.Storage, before: commit}
		},
		"after its entry was read": func(m *mount, commit func()) {
			m.storage.Storage = &watchedGets{Storage: m.storage.Storage, after: commit}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
				m.commitDuring(c, kind, func(commit func()) { at(m, commit) })
			})
		})
	}
}

// watchedGets is a storage that calls something before or after each entry of the log that is read.
type watchedGets struct {
	logical.Storage
	before, after func()
}

func (s *watchedGets) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	logged := strings.HasPrefix(key, "wal/")
	if logged && s.before != nil {
		s.before()
	}
	entry, err := s.Storage.Get(ctx, key)
	if logged && s.after != nil {
		s.after()
	}
	return entry, err
}

// Vault's clock may be ahead for a moment. Vault keeps the lease then, by its timers.
func TestAClockThatIsAheadForAMoment(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		by     time.Duration
		broken bool
	}{"by hours": {3 * time.Hour, false}, "by hours, while Databricks can't be reached": {3 * time.Hour, true}, "by days": {30 * day, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
				m.impatient()
				kind.lease(m, c)
				m.pass(c, 5*time.Minute)
				c.runAhead(row.by)
				if row.broken {
					m.workspace.Inject(simulator.Fault{Reset: true})
				}
				m.rawTick()
				m.workspace.ClearFaults()
				c.runAhead(0)
				m.pass(c, 2*time.Minute)
				require.True(t, kind.there(m))
				m.pass(c, 64*time.Minute)
				require.False(t, kind.there(m), "but it ends")
			})
		})
	}
}

// Nor does a clock that was ahead when the engine started keep it from ending what is lost.
func TestAClockThatWasAheadAtTheStart(t *testing.T) {
	t.Parallel()
	m, c := recordMount(t)
	c.runAhead(30 * day)
	m.restartAt(c)
	m.youngTick()
	c.runAhead(0)
	kind := recordedLeases["secret"]
	kind.lease(m, c)
	m.pass(c, 2*time.Hour)
	require.False(t, kind.there(m))
}

// A secret that is listed without its time for once is not given up.
func TestALostLeaseOfASecretWithoutATimestamp(t *testing.T) {
	t.Parallel()
	m, c := recordMount(t)
	kind := recordedLeases["secret"]
	lease := kind.lease(m, c)
	fault := m.workspace.Inject(simulator.Fault{Path: secretListPath, Body: `{"secrets": [{"key": "k"}]}`})
	require.ErrorContains(t, m.failure(m.revoke(lease)), "without the time of its last write")
	m.pass(c, time.Hour+9*time.Minute)
	for range 3 {
		c.advance(time.Minute)
		m.rawTick()
	}
	fault.Clear()
	require.True(t, kind.there(m))
	m.pass(c, time.Minute)
	require.False(t, kind.there(m))
}

// Nor is a token taken for ended then, by a revocation or a rollback.
func TestATokenWhileTheClockIsFarAhead(t *testing.T) {
	t.Parallel()
	m, c := skewed(t, 0)
	m.write("roles/etl", map[string]any{"ttl": "1h", "max_ttl": "4h"})
	revoked := m.mint("etl")
	m.loseReply()
	c.advance(4 * time.Minute)
	c.runAhead(30 * day)
	m.end(revoked.Secret)
	m.rawTick()
	c.runAhead(0)
	m.pass(c, 5*time.Minute)
	require.Empty(t, m.minted())
}

// What was begun while the clock was ahead is undone soon after it was set right.
func TestAnOperationThatBeganInTheFuture(t *testing.T) {
	t.Parallel()
	m, c := skewed(t, 0)
	c.runAhead(30 * day)
	m.loseReply()
	c.runAhead(0)
	m.pass(c, 5*time.Minute)
	require.Empty(t, m.minted())
}

// An entry that can't be undone in one pass comes last in the next one.
func TestAPassBeginsWithWhatWasNotTried(t *testing.T) {
	t.Parallel()
	m, c := recordMount(t)
	m.loseReply()
	kind := recordedLeases["secret"]
	kind.lease(m, c)
	hold := make(chan struct{})
	defer close(hold)
	for _, path := range []string{listPath, "/api/2.0/token-management/tokens"} {
		m.workspace.Inject(simulator.Fault{Path: path, Hold: hold})
	}
	c.advance(2 * time.Hour)
	pass := func(until func() bool) {
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_ = m.backend.(*backend).rollback(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		}()
		require.Eventually(t, until, 10*time.Second, time.Millisecond)
		cancel()
		<-stopped
		c.advance(time.Minute)
	}
	pass(func() bool {
		return m.workspace.Count("", listPath)+m.workspace.Count("", "/api/2.0/token-management/tokens") > 0
	})
	pass(func() bool { return !kind.there(m) })
}

// The real clock has a monotonic part, which goes on when the wall clock is set back.
func TestDueTimes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	record := (&intent{Until: now.Add(-recordGrace - time.Second).Round(0)}).dueTime()
	require.True(t, record.passed(now, now.Add(-time.Hour)))
	require.False(t, record.passed(now, now.Add(-time.Minute)), "Vault is to revoke it first")
	require.False(t, (&intent{Until: now.Round(0)}).dueTime().passed(now, now.Add(-time.Hour)))
	for started, want := range map[time.Duration]bool{-walMinAge: true, -time.Minute: false, time.Minute: false, time.Hour: true} {
		require.Equal(t, want, (&intent{Started: now.Add(started).Round(0)}).dueTime().passed(now, now), started)
	}
}
