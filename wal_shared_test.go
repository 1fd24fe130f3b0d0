// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/marker"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// readyAt is a connected mount with the role "etl" and a clock that the test moves.
func readyAt(t *testing.T) (*mount, *clock) {
	m, c := newTimedMount(t)
	m.makeReady()
	m.gather()
	return m, c
}

// gather makes all operations share one entry, however long a test holds up a write of it.
func (m *mount) gather() { m.backend.(*backend).shared.patience = time.Hour }

// await waits for a condition that other goroutines bring about.
func await(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, time.Millisecond, what)
}

// members returns how many operations the entries of the log are shared by, and how many of these are leaving.
func (m *mount) members() (all, leaving int) {
	l := &m.backend.(*backend).shared
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		for _, member := range e.members {
			all++
			if member.leaving {
				leaving++
			}
		}
	}
	return all, leaving
}

// outcome is what a mint returned.
type outcome struct {
	token string
	err   error
}

// mintAtOnce begins n mints, and returns a function that waits for their outcomes. After each, it calls the functions.
func (m *mount) mintAtOnce(n int, after ...func()) (wait func() []outcome) {
	outcomes := make([]outcome, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/etl", Storage: m.storage, MountPoint: "databricks/", EntityID: "entity-1"})
			if err == nil && resp.IsError() {
				err = resp.Error()
			}
			if outcomes[i].err = err; err == nil {
				outcomes[i].token = resp.Data["token_value"].(string)
			}
			for _, do := range after {
				do()
			}
		})
	}
	return func() []outcome { all.Wait(); return outcomes }
}

// requireKept requires that the credentials which were handed over are alive, that no others are but those with the lost nonces, and that
// the log is empty.
func (m *mount) requireKept(outcomes []outcome, lost map[string]bool) {
	m.t.Helper()
	m.requireAlive(outcomes, lost)
	require.Empty(m.t, m.walEntries())
}

func (m *mount) requireAlive(outcomes []outcome, lost map[string]bool) {
	m.t.Helper()
	handedOver := 0
	for _, o := range outcomes {
		if o.err == nil {
			handedOver++
			require.Equal(m.t, http.StatusOK, m.whoami(o.token), "a credential that was handed over")
		}
	}
	alive := 0
	for _, token := range m.minted() {
		if mark, ok := marker.Parse(token.Comment); !ok || !lost[mark.Nonce] {
			alive++
		}
	}
	require.Equal(m.t, handedOver, alive, "credentials that are alive")
}

// isWrite reports whether a storage operation changes the write-ahead log.
func isWrite(op, key string) bool {
	return (op == "put" || op == "delete") && strings.HasPrefix(key, framework.WALPrefix)
}

// TestMintsInFlightTogetherShareTheWritesOfTheLog holds up the first write that begins and the first that commits, so that the other mints
// gather for the next.
func TestMintsInFlightTogetherShareTheWritesOfTheLog(t *testing.T) {
	t.Parallel()
	const n = 64
	m, _ := readyAt(t)
	hold := make(chan struct{})
	creates := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold})
	var writes atomic.Int64
	begun, ended := make(chan struct{}), make(chan struct{})
	m.storage.onEach(func(op, key string) error {
		if isWrite(op, key) {
			if writes.Add(1) == 1 {
				<-begun
			} else if all, leaving := m.members(); all == n && leaving > 0 {
				<-ended
			}
		}
		return nil
	})
	wait := m.mintAtOnce(n)
	await(t, func() bool { all, _ := m.members(); return all == n }, "all have joined an entry")
	close(begun)
	await(t, func() bool { return creates.Hits() == n }, "all are in flight")
	require.LessOrEqual(t, writes.Load(), int64(2), "writes to begin %d mints", n)
	before := writes.Load()
	close(hold)
	await(t, func() bool { _, leaving := m.members(); return leaving == n }, "all wait for their commit")
	close(ended)
	outcomes := wait()
	for _, o := range outcomes {
		require.NoError(t, o.err)
	}
	require.LessOrEqual(t, writes.Load()-before, int64(2), "writes to commit %d mints", n)
	m.requireKept(outcomes, nil)
}

// A mint that is alone has an entry as before entries were shared, and makes the same two writes.
func TestALoneMintSharesNothing(t *testing.T) {
	t.Parallel()
	m, _ := readyAt(t)
	for range 3 {
		var writes []string
		m.storage.onEach(func(op, key string) error {
			if isWrite(op, key) {
				writes = append(writes, op)
			}
			return nil
		})
		m.workspace.Inject(simulator.Fault{Path: createPath, Times: 1, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"})
		m.refused(m.do(logical.ReadOperation, "creds/etl", nil))
		m.mint("etl")
		require.Equal(t, []string{"put", "delete", "put", "delete"}, writes)
	}
	m.storage.onEach(nil)
	m.loseReply()
	_, in := m.walIntent() // which has one intent
	require.Equal(t, "etl", in.Credential.Role)
}

// sharedFaults are what goes wrong at a step: a write of the log, or a create.
var sharedFaults = map[string]sharedFault{
	"fails":                          {},
	"fails after its effect":         {effect: true},
	"dies before":                    {crash: true},
	"dies after":                     {effect: true, crash: true},
	"fails, has its effect last":     {late: true},
	"fails, has its effect too late": {hasty: true},
}

type sharedFault struct {
	effect bool // it is done all the same
	crash  bool // the process ends there
	late   bool // it is done after all others
	hasty  bool // it is done after the next one
}

// TestSharedEntriesSurviveEveryFault is the fault table of the entries that mints share. Six mints share one, and three of them are handed over
// before the others are created. Whatever happens at a step, a credential is alive afterwards if, and only if, it was handed over.
func TestSharedEntriesSurviveEveryFault(t *testing.T) {
	skipLong(t)
	t.Parallel()
	const writes, creates = 8, 6
	met := make(map[string]*atomic.Int64)
	for name := range sharedFaults {
		met[name] = new(atomic.Int64)
	}
	t.Run("steps", func(t *testing.T) {
		for step := range writes + creates {
			for name, fault := range sharedFaults {
				if step >= writes && (fault.late || fault.hasty) {
					continue
				}
				for _, restarted := range []bool{false, true} {
					if fault.crash && !restarted {
						continue
					}
					t.Run(fmt.Sprintf("step %d %s, restarted %t", step, name, restarted), func(t *testing.T) {
						t.Parallel()
						r := &sharedRun{fault: fault, write: step + 1}
						r.mount, r.clock = readyAt(t)
						r.mount.write("config", map[string]any{"max_retries": 0})
						if step >= writes {
							r.write, r.create = 0, step-writes+1
						}
						outcomes := r.run()
						if r.met {
							met[name].Add(1)
						}
						if restarted {
							r.revive(r.clock)
						}
						for range 3 {
							r.clock.advance(walMinAge + time.Second)
							r.youngTick()
						}
						r.requireKept(outcomes, r.lost)
						// The mount is as good as new.
						r.requireKept(append(outcomes, r.mintAtOnce(3)()...), r.lost)
					})
				}
			}
		}
	})
	for name, n := range met {
		require.Greater(t, n.Load(), int64(3), "rows that met: %s", name)
	}
}

// sharedRun is one row of the table.
type sharedRun struct {
	*mount
	clock  *clock
	fault  sharedFault
	write  int // number of the write of the log that the fault is at, counted from 1; 0 for none
	create int // the same for a create

	mu      sync.Mutex
	writes  int
	met     bool
	delayed func()          // the write that is still to be done
	lost    map[string]bool // nonces that a write took out of the log, at which the process died: no lease and no entry has them, only their own end
}

// run makes the mints, and returns their outcomes.
func (r *sharedRun) run() []outcome {
	inner := r.storage.Storage
	r.storage.Storage = &sharedStorage{Storage: inner, r: r}
	failing := &simulator.InjectedFault{}
	if r.create > 0 {
		failing = r.workspace.Inject(simulator.Fault{Path: createPath, Offset: r.create - 1, Times: 1, Reset: true, AfterEffect: r.fault.effect})
	}
	half := make(chan struct{})
	held := r.workspace.Inject(simulator.Fault{Path: createPath, Offset: 3, Hold: half})
	var over atomic.Int64
	wait := r.mintAtOnce(6, func() {
		over.Add(1)
		if r.create > 0 && r.fault.crash && failing.Hits() == 1 {
			r.die()
		}
	})
	await(r.t, func() bool { return int(over.Load())+held.Hits() >= 6 }, "the first three are handed over, the others are being created")
	close(half)
	outcomes := wait()
	r.met = r.met || r.create > 0 && failing.Hits() == 1
	r.storage.Storage = inner
	if r.fault.late && r.delayed != nil {
		r.delayed()
	}
	r.storage.onEach(nil)
	r.workspace.ClearFaults()
	return outcomes
}

// sharedStorage is the storage of a row.
type sharedStorage struct {
	logical.Storage
	r *sharedRun
}

func (s *sharedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	ctx = context.WithoutCancel(ctx) // a write that is delayed outlives its request
	return s.change(entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

func (s *sharedStorage) Delete(ctx context.Context, key string) error {
	ctx = context.WithoutCancel(ctx)
	return s.change(key, func() error { return s.Storage.Delete(ctx, key) })
}

func (s *sharedStorage) change(key string, do func() error) error {
	if !strings.HasPrefix(key, framework.WALPrefix) {
		return do()
	}
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	if r.writes != r.write {
		err := do()
		if r.fault.hasty && r.delayed != nil {
			r.delayed()
			r.delayed = nil
		}
		return err
	}
	r.met = true
	before := s.nonces()
	if r.fault.effect {
		_ = do()
	}
	if r.fault.late || r.fault.hasty {
		r.delayed = func() { _ = do() }
	}
	if r.fault.crash {
		r.lost = before
		for nonce := range s.nonces() {
			delete(r.lost, nonce)
		}
		r.die()
	}
	return errors.New("leadership lost")
}

// nonces returns the nonces in the log.
func (s *sharedStorage) nonces() map[string]bool {
	nonces := make(map[string]bool)
	ids, _ := s.Storage.List(context.Background(), framework.WALPrefix)
	for _, id := range ids {
		intents, _ := readIntents(context.Background(), s.Storage, id)
		for _, in := range intents {
			nonces[in.Nonce] = true
		}
	}
	return nonces
}

// loseOneOfThree begins three mints that share an entry. The reply to one is lost, and as soon as it is, the function is called; the two
// others are in flight until release is called.
func (m *mount) loseOneOfThree(lost func()) (release func() []outcome) {
	m.t.Helper()
	m.write("config", map[string]any{"max_retries": 0})
	lose, hold, first := make(chan struct{}), make(chan struct{}), make(chan struct{})
	losing := m.workspace.Inject(simulator.Fault{Path: createPath, Times: 1, Hold: lose, Reset: true, AfterEffect: true})
	held := m.workspace.Inject(simulator.Fault{Path: createPath, Times: 2, Hold: hold})
	m.storage.onEach(func(op, key string) error {
		if isWrite(op, key) {
			<-first
		}
		return nil
	})
	var over atomic.Int64
	wait := m.mintAtOnce(3, func() { over.Add(1) })
	await(m.t, func() bool { all, _ := m.members(); return all == 3 }, "all share")
	close(first)
	await(m.t, func() bool { return losing.Hits() == 1 && held.Hits() == 2 }, "all are in flight")
	lost()
	close(lose)
	await(m.t, func() bool { return over.Load() == 1 }, "one has failed")
	m.storage.onEach(nil)
	require.Len(m.t, m.minted(), 1)
	return func() []outcome { close(hold); return wait() }
}

// What an operation leaves to the rollback does not wait for the others that shared its entry: the mount may be about to be disabled.
func TestALostReplyIsRolledBackWhileOthersAreInFlight(t *testing.T) {
	t.Parallel()
	for _, disabled := range []bool{false, true} {
		m, c := readyAt(t)
		release := m.loseOneOfThree(func() {})
		m.system.TaintedVal = disabled
		if !disabled {
			c.advance(walMinAge)
		}
		m.failure(m.rollback()) // the others' entry
		require.Empty(t, m.minted())
		m.requireKept(release(), nil)
		require.Len(t, m.minted(), 2)
	}
}

// Where it could not get an entry of its own, the rollback waits for the others, however old they are.
func TestTheRollbackWaitsForWhoSharesAnEntry(t *testing.T) {
	t.Parallel()
	m, c := readyAt(t)
	release := m.loseOneOfThree(func() {
		m.storage.onEach(func(op, key string) error {
			if isWrite(op, key) {
				return errors.New("disk full")
			}
			return nil
		})
	})
	for range 3 {
		c.advance(walMinAge)
		m.failure(m.rollback())
		require.Len(t, m.minted(), 1, "the entry is in use")
	}
	outcomes := release()
	for range 2 {
		c.advance(walMinAge)
		m.youngTick()
	}
	m.requireKept(outcomes, nil)
	require.Len(t, m.minted(), 2)
}

// A second process on the storage, as after a failover that the first has not noticed yet, takes no operation for old because it knows the
// entry from another one.
func TestAnotherProcessLeavesYoungOperationsInAKnownEntry(t *testing.T) {
	t.Parallel()
	m, c := readyAt(t)
	m.system.ReplicationStateVal = consts.ReplicationPerformancePrimary // whose clusters share the ids of mounts, so that these prove nothing
	other, err := Factory(context.Background(), m.config())
	require.NoError(t, err)
	other.(*backend).clock = c.vault
	rollback := func() {
		resp, err := other.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		m.requireOK(resp, err)
	}
	hold := make(chan struct{})
	held := m.workspace.Inject(simulator.Fault{Path: createPath, Times: 1, Hold: hold})
	first := m.mintAtOnce(1)
	await(t, func() bool { return held.Hits() == 1 }, "a mint is in flight")
	rollback() // comes to know the entry, which is young
	close(hold)
	outcomes := first()
	c.advance(walMinAge + time.Second)
	commit := make(chan struct{})
	var writes atomic.Int64
	m.storage.onEach(func(op, key string) error {
		if isWrite(op, key) && writes.Add(1) == 2 {
			<-commit
		}
		return nil
	})
	second := m.mintAtOnce(1)
	await(t, func() bool { return writes.Load() == 2 }, "another mint is created, and commits")
	rollback()
	close(commit)
	m.requireKept(append(outcomes, second()...), nil)
	require.Len(t, m.minted(), 2)
}

// However many mints are in flight, no entry is too large for a storage: that of DynamoDB takes 400 KB, and roles may have long names.
func TestManyMintsInFlightFitIntoAnyStorage(t *testing.T) {
	t.Parallel()
	const n = 3*maxSharing + 1
	m, _ := readyAt(t)
	var largest atomic.Int64
	m.storage.Storage = &sizedStorage{Storage: m.storage.Storage, largest: &largest}
	hold := make(chan struct{})
	held := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold})
	wait := m.mintAtOnce(n)
	await(t, func() bool { return held.Hits() == n }, "all are in flight")
	require.Len(t, m.walEntries(), 4)
	close(hold)
	outcomes := wait()
	m.requireKept(outcomes, nil)
	require.Len(t, m.minted(), n)
	require.Less(t, largest.Load(), int64(100<<10))
	require.Len(t, m.backend.(*backend).shared.entries, 1, "further entries are not kept")
}

// sizedStorage measures what is written.
type sizedStorage struct {
	logical.Storage
	largest *atomic.Int64
}

func (s *sizedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	for size := int64(len(entry.Value)); ; {
		largest := s.largest.Load()
		if size <= largest || s.largest.CompareAndSwap(largest, size) {
			return s.Storage.Put(ctx, entry)
		}
	}
}

// A write that hangs holds up only the mints that share it: later ones begin another entry.
func TestAWriteThatHangsDoesNotHoldUpLaterMints(t *testing.T) {
	t.Parallel()
	m, _ := readyAt(t)
	m.backend.(*backend).shared.patience = 0
	hanging, release := make(chan struct{}), make(chan struct{})
	var writes atomic.Int64
	m.storage.onEach(func(op, key string) error {
		if isWrite(op, key) && writes.Add(1) == 1 {
			close(hanging)
			<-release
		}
		return nil
	})
	first := m.mintAtOnce(1)
	<-hanging
	outcomes := m.mintAtOnce(3)()
	for _, o := range outcomes {
		require.NoError(t, o.err)
	}
	close(release)
	m.requireKept(append(outcomes, first()...), nil)
}

// An operation whose time is over when it has failed leaves those that share its entry alone.
func TestAnOperationWhoseTimeIsOverSpoilsNoOthers(t *testing.T) {
	t.Parallel()
	m, _ := readyAt(t)
	b := m.backend.(*backend)
	m.storage.Storage = strictStorage{m.storage.Storage}
	hold := make(chan struct{})
	held := m.workspace.Inject(simulator.Fault{Path: createPath, Times: 5, Hold: hold})
	others := m.mintAtOnce(5)
	await(t, func() bool { return held.Hits() == 5 }, "others are in flight")
	op, err := b.begin(t.Context(), m.storage, intent{Nonce: "x", Started: b.now(), Credential: &credentialIntent{Type: "pat"}})
	require.NoError(t, err)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	op.discard(ended)
	op.end(ended)
	close(hold)
	outcomes := others()
	m.requireKept(outcomes, nil)
	require.Len(t, m.minted(), 5)
}

// The rollback leaves an entry that a mint may join at any moment: what it reads there may be handed over by the time it acts on it.
func TestTheRollbackLeavesAnEntryThatMintsMayJoin(t *testing.T) {
	t.Parallel()
	m, _ := readyAt(t)
	// The rollback comes to this entry before the other one, since it looks older.
	stray, err := framework.PutWAL(t.Context(), m.storage, "teleport", map[string]any{})
	require.NoError(t, err)
	reads := 0
	hold := make(chan struct{})
	held := m.workspace.Inject(simulator.Fault{Path: createPath, Times: 1, Hold: hold})
	var outcomes []outcome
	first := m.mintAtOnce(1)
	await(t, func() bool { return held.Hits() == 1 && len(m.walEntries()) == 2 }, "a mint is in flight")
	m.storage.Storage = &readStorage{Storage: m.storage.Storage, before: func(key string) func() {
		if strings.HasSuffix(key, stray) {
			if reads++; reads == 2 { // after the one for the index: the mint ends between the list of entries and the look at its own
				close(hold)
				outcomes = append(outcomes, first()...)
			}
			return nil
		}
		again := make(chan struct{})
		held := m.workspace.Inject(simulator.Fault{Path: createPath, Times: 1, Hold: again})
		second := m.mintAtOnce(1)
		await(t, func() bool { return held.Hits() == 1 }, "another mint has joined the entry")
		return func() { // has been read, and the mint is handed over
			close(again)
			outcomes = append(outcomes, second()...)
		}
	}}
	_, _ = m.rollback()
	m.storage.Storage = m.storage.Storage.(*readStorage).Storage
	require.Len(t, outcomes, 2, "the rollback has come to both entries")
	m.requireAlive(outcomes, nil)
}

// readStorage calls a function before each read of the log, and what that returns after it.
type readStorage struct {
	logical.Storage
	before func(key string) (after func())
}

func (s *readStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if !strings.HasPrefix(key, framework.WALPrefix) {
		return s.Storage.Get(ctx, key)
	}
	after := s.before(key)
	entry, err := s.Storage.Get(ctx, key)
	if after != nil {
		after()
	}
	return entry, err
}

// A mint that gives up while others write fails by itself, and so do those that wait with it; nobody waits for ever.
func TestGivingUpWhileAnEntryIsWritten(t *testing.T) {
	t.Parallel()
	m, _ := readyAt(t)
	b := m.backend.(*backend)
	writing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.storage.onEach(func(op, key string) error {
		once.Do(func() { close(writing); <-release })
		return nil
	})
	begin := func(ctx context.Context, nonce string) chan error {
		failed := make(chan error, 1)
		go func() {
			op, err := b.begin(ctx, m.storage, intent{Nonce: nonce, Started: b.now(), Credential: &credentialIntent{Type: "pat"}})
			if err == nil {
				op.discard(t.Context())
				op.end(t.Context())
			}
			failed <- err
		}()
		return failed
	}
	one := begin(t.Context(), "1")
	<-writing
	ctx, cancel := context.WithCancel(t.Context())
	second, third := begin(ctx, "2"), begin(t.Context(), "3")
	await(t, func() bool { all, _ := m.members(); return all == 3 }, "all share")
	cancel()
	require.ErrorIs(t, <-second, context.Canceled)
	close(release)
	require.NoError(t, <-one, "it was written before")
	require.Error(t, <-third)
	m.rolledBack()
	m.requireKept(m.mintAtOnce(4)(), nil)
}

// A panic in a write fails those who share it, and no others.
func TestAPanicInASharedWrite(t *testing.T) {
	t.Parallel()
	m, c := readyAt(t)
	var writes atomic.Int64
	joined := make(chan struct{})
	m.storage.onEach(func(op, key string) error {
		if !isWrite(op, key) {
			return nil
		}
		switch writes.Add(1) {
		case 1:
			<-joined
		case 2:
			panic("in the storage")
		}
		return nil
	})
	wait := m.mintAtOnce(5)
	await(t, func() bool { all, _ := m.members(); return all == 5 }, "all share")
	close(joined)
	outcomes := wait()
	failed := 0
	for _, o := range outcomes {
		if o.err != nil {
			failed++
		}
	}
	require.GreaterOrEqual(t, failed, 4)
	outcomes = append(outcomes, m.mintAtOnce(3)()...)
	for range 2 {
		c.advance(walMinAge)
		m.youngTick()
	}
	m.requireKept(outcomes, nil)
}

// What can't be read in a shared entry is reported, and left.
func TestUnreadableSharedEntriesAreLeft(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]any{"empty": []any{}, "null": []any{nil}, "no list": map[string]any{}, "a broken intent": []any{map[string]any{"expires": 7}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := readyAt(t)
			_, err := framework.PutWAL(t.Context(), m.storage, sharedKind, data)
			require.NoError(t, err)
			require.ErrorContains(t, m.failure(m.rollback()), "can't be read")
			require.Len(t, m.walEntries(), 1)
			require.Equal(t, 1, strings.Count(m.log.String(), "[ERROR]"))
			m.requireAlive(m.mintAtOnce(4)(), nil)
			require.Len(t, m.walEntries(), 1)
		})
	}
}

// Mints and rollbacks go on while a tenth of the writes of the log fail, before or after their effect.
func TestManyMintsOnAnUnreliableStorage(t *testing.T) {
	t.Parallel()
	m, c := readyAt(t)
	var writes atomic.Int64
	unreliable := func(remainder int64) func(op, key string) error {
		return func(op, key string) error {
			if isWrite(op, key) && writes.Add(1)%20 == remainder {
				return errors.New("leadership lost")
			}
			return nil
		}
	}
	solo := &soloStorage{Storage: m.storage.Storage}
	m.storage.Storage = solo
	m.storage.onEach(unreliable(3))
	m.storage.afterEach(unreliable(10))
	var outcomes []outcome
	for range 12 {
		wait := m.mintAtOnce(16)
		_, _ = m.rollback()
		outcomes = append(outcomes, wait()...)
	}
	m.storage.onEach(nil)
	m.storage.afterEach(nil)
	for range 3 {
		c.advance(walMinAge)
		m.youngTick()
	}
	m.requireKept(outcomes, nil)
	require.Zero(t, solo.overlaps.Load(), "writes of one entry at the same time")
}

// soloStorage counts the writes of an entry that begin before another one has ended.
type soloStorage struct {
	logical.Storage
	writing  sync.Map
	overlaps atomic.Int64
}

func (s *soloStorage) begin(key string) (end func()) {
	if _, busy := s.writing.LoadOrStore(key, true); busy {
		s.overlaps.Add(1)
	}
	runtime.Gosched() // to whoever is so bold
	return func() { s.writing.Delete(key) }
}

func (s *soloStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	defer s.begin(entry.Key)()
	return s.Storage.Put(ctx, entry)
}

func (s *soloStorage) Delete(ctx context.Context, key string) error {
	defer s.begin(key)()
	return s.Storage.Delete(ctx, key)
}
