// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// here is the origin of what the mount makes.
func (m *mount) here() origin {
	return origin{Host: m.workspace.URL(), WorkspaceID: m.workspace.ID(), OwnerID: m.admin.ID}
}

// fillLog adds entries to the write-ahead log, as an earlier process may have left them.
func (m *mount) fillLog(n int, entry func(i int) intent) {
	m.t.Helper()
	for i := range n {
		in := entry(i)
		in.origin, in.Nonce = m.here(), nonce(i)
		_, err := framework.PutWAL(m.t.Context(), m.storage, walKind, in)
		require.NoError(m.t, err)
	}
}

// logUse counts the operations on the write-ahead log, by name.
func (m *mount) logUse() map[string]int {
	use := map[string]int{}
	m.storage.onEach(func(op, key string) error {
		if strings.HasPrefix(key, framework.WALPrefix) {
			m.storage.mu.Lock()
			defer m.storage.mu.Unlock()
			use[op]++
		}
		return nil
	})
	return use
}

// No request, and no rollback with nothing to do, reads the entries of a long log.
func TestALongLogCostsNothing(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})
	const n = 500
	m.fillLog(n, func(i int) intent {
		return intent{Started: time.Now(), Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: fmt.Sprint("key-", i)}}}
	})
	m.restart()
	m.holdTidy()
	many := map[string]any{}
	for i := range 100 {
		many[fmt.Sprint("other-", i)] = fmt.Sprintf("canary-%04d", i)
	}
	for name, row := range map[string]struct {
		request func()
		want    map[string]int
	}{
		"write":          {func() { m.write("secrets/etl/k", map[string]any{"string_value": "canary-plain"}) }, map[string]int{}},
		"push":           {func() { m.write("secrets/etl", map[string]any{"secrets": many}) }, map[string]int{}},
		"leased write":   {func() { m.write("secrets/etl/k", leasedValue) }, map[string]int{"put": 2}},
		"mint":           {func() { m.mint("etl") }, map[string]int{"put": 1, "delete": 1}},
		"OAuth secret":   {func() { m.mint("job") }, map[string]int{"put": 1, "delete": 1}},
		"idle rollback":  {m.youngTick, map[string]int{"list": 1}},
		"idle rollbacks": {func() { m.youngTick(); m.youngTick() }, map[string]int{"list": 2}},
	} {
		// What is left of the row before that the same secret had is not this row's cost.
		m.write("secrets/etl/k", map[string]any{"string_value": "canary-before"})
		use := m.logUse()
		row.request()
		m.storage.onEach(nil)
		require.Equal(t, row.want, use, name)
	}
	require.Len(t, m.walEntries(), n)
	m.write("secrets/etl/k", map[string]any{"string_value": "canary-after"})

	// A new process reads the log once, whoever needs it first.
	m.restart()
	use := m.logUse()
	m.write("secrets/etl/key-7", map[string]any{"string_value": "canary-plain"})
	m.storage.onEach(nil)
	require.Equal(t, map[string]int{"list": 1, "get": n + 1, "delete": 1}, use)
	require.Len(t, m.walEntries(), n-1)
}

// A pass with many entries of one scope and of one service principal lists each once.
func TestARollbackSharesItsLists(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	started := time.Now().Add(-walMinAge - time.Second)
	const n = 200
	m.fillLog(2*n, func(i int) intent {
		in := intent{Started: started, Expires: started.Add(time.Hour)}
		if i < n {
			in.Secret = &secretIntent{secretRef: secretRef{Scope: "etl", Key: fmt.Sprint("key-", i)}}
		} else {
			in.Credential = &credentialIntent{Type: credential.OAuthSecret, Role: "job", ServicePrincipalID: sp.ID, Lifetime: int64(3600 + i)}
		}
		return in
	})
	m.workspace.ResetCalls()
	use := m.logUse()
	m.youngTick()
	m.storage.onEach(nil)
	require.Empty(t, m.walEntries())
	require.Equal(t, 1, m.workspace.Count("", secretListPath))
	require.Equal(t, 1, m.workspace.Count(http.MethodGet, secretsPath+sp.ID+"/credentials/secrets"))
	require.Equal(t, 1, use["list"])
	require.Equal(t, 2*n, use["delete"])
	// Each is read for the index, again for the pass, and a secret once more under its lock.
	require.Equal(t, 2*n+2*n+n, use["get"])
}

// A pass that runs out of time leaves the rest to the next one, which begins with what has not been tried.
func TestARollbackGoesOnWhereTheLastOneStopped(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.impatient()
	const n = 20
	m.fillLog(n, func(i int) intent {
		return intent{Started: time.Now().Add(-time.Hour), Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: fmt.Sprint("key-", i)}}}
	})
	tried := map[string]int{}
	pass := func(most int) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		count := 0
		m.storage.onEach(func(op, key string) error {
			if op == "delete" {
				tried[key]++
				if count++; count == most {
					stop()
				}
				return errors.New("disk full")
			}
			return nil
		})
		_, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		require.NoError(t, err)
	}
	for range 4 {
		pass(n / 4)
	}
	require.Len(t, tried, n)
	for key, times := range tried {
		require.Equal(t, 1, times, key)
	}
	require.Contains(t, m.log.String(), "the next call goes on: left=15 of=20")
	m.storage.onEach(nil)
	m.youngTick()
	require.Empty(t, m.walEntries())
}

// What another node wrote or deleted is noticed.
func TestTheIndexFollowsTheLog(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.youngTick()
	entry := func(int) intent {
		return intent{Started: time.Now().Add(-time.Hour), Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: "k"}}}
	}
	m.fillLog(3, entry)
	m.youngTick()
	require.Empty(t, m.walEntries())

	m.fillLog(1, func(int) intent {
		return intent{Started: time.Now(), Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: "k"}}}
	})
	m.youngTick()
	id, _ := m.walIntent()
	x := &m.backend.(*backend).intents
	require.NotEmpty(t, x.of(secretRef{Scope: "ETL", Key: "K"}, &m.backend.(*backend).inFlight))
	require.NoError(t, m.storage.Delete(t.Context(), framework.WALPrefix+id))
	m.youngTick()
	require.Empty(t, x.entries)
	require.Empty(t, x.secrets)
}

// An error that repeats itself is said once for each entry, though its text differs each time, and forgotten with the entry.
func TestTheSameFailureIsSaidOncePerEntry(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.impatient()
	const n = 10
	m.fillLog(n, func(i int) intent {
		return intent{Started: time.Now().Add(-time.Hour), Expires: time.Now().Add(time.Hour), Credential: &credentialIntent{Type: credential.ServicePrincipal, Role: "app"}}
	})
	// A connection that is cut shows its local port, which is another one each time.
	m.workspace.Inject(simulator.Fault{Path: principalsPath, Reset: true})
	for range 5 {
		m.lapse(newClock(), time.Minute, time.Minute)
	}
	require.Equal(t, n, m.errorsSaid("something may be left at Databricks"))
	x := &m.backend.(*backend).intents
	for _, e := range x.entries {
		require.Len(t, e.reported, 1)
	}
	m.workspace.ClearFaults()
	m.youngTick()
	require.Empty(t, m.walEntries())
	require.Empty(t, x.entries)
}

// A local error with changing numbers in it has one reason, too, and another status of Databricks is another reason.
func TestReasonOf(t *testing.T) {
	t.Parallel()
	require.Equal(t, reasonOf(errors.New("read tcp 127.0.0.1:41234->127.0.0.1:8200: reset")), reasonOf(errors.New("read tcp 127.0.0.1:9->127.0.0.1:8200: reset")))
	require.True(t, sameReason("read tcp 127.0.0.1:41234->[::1]:8200: reset", "read tcp 127.0.0.1:9->[::1]:8201: reset"))
	require.False(t, sameReason("HTTP 403", "HTTP 500"))
	require.NotEqual(t, reasonOf(errors.New("disk full")), reasonOf(errors.New("no space")))
}

// An entry that can't be read is said once, kept, and in nobody's way.
func TestAnUnreadableEntryIsSaidOnce(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: framework.WALPrefix + "garbage", Value: []byte("garbage")}))
	fault := m.workspace.Inject(simulator.Fault{Path: createPath, AfterEffect: true, Reset: true, Times: 1})
	_, err := m.do(logical.ReadOperation, "creds/etl", nil)
	require.Error(t, err)
	fault.Clear()
	for range 3 {
		_, _ = m.rollback()
	}
	require.Equal(t, 1, m.errorsSaid("something may be left at Databricks"))
	require.Empty(t, m.minted())
	keys, err := m.storage.List(t.Context(), framework.WALPrefix)
	require.NoError(t, err)
	require.Equal(t, []string{"garbage"}, keys)
	m.write("secrets/etl/k", leasedValue)
}

// An entry that the storage does not return keeps no other from being rolled back.
func TestAnEntryThatIsNotReturnedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.fillLog(20, func(i int) intent {
		return intent{Started: time.Now().Add(-time.Hour), Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: fmt.Sprint("key-", i)}}}
	})
	bad := m.walEntries()[0]
	m.storage.onEach(func(op, key string) error {
		if op == "get" && key == framework.WALPrefix+bad {
			return errors.New("disk full")
		}
		return nil
	})
	require.ErrorContains(t, m.failure(m.rollback()), "disk full")
	m.storage.onEach(nil)
	require.Equal(t, []string{bad}, m.walEntries())
	m.youngTick()
	require.Empty(t, m.walEntries())
}

// What keeps the credential of a delivery from being removed does not keep its copy: the copy would stay for ever.
func TestACopyIsRemovedWhateverBecomesOfItsCredential(t *testing.T) {
	t.Parallel()
	m, c := recordMount(t)
	m.impatient()
	m.fillLog(1, func(int) intent {
		at := m.backend.(*backend).now()
		return intent{Started: at, Expires: at.Add(24 * time.Hour), Credential: &credentialIntent{Type: credential.PAT, Role: "etl"}, Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: "k"}}}
	})
	m.workspace.PutSecret("etl", "k", []byte("the copy"))
	m.workspace.Inject(simulator.Fault{Path: listPath, Status: 403})
	for range 4 {
		c.advance(time.Minute)
		m.rawTick()
	}
	_, there := m.has("k")
	require.False(t, there)
	require.Len(t, m.walEntries(), 1)
	// And when the credential has ended, nobody needs to be asked for it any more.
	m.lapse(c, 26*time.Hour, time.Hour)
	require.Empty(t, m.walEntries())
}

// BenchmarkLongLog measures what must not depend on how many entries are open.
func BenchmarkLongLog(b *testing.B) {
	for _, n := range []int{0, 5000} {
		m := &mount{system: logical.TestSystemView(), storage: &hookedStorage{Storage: new(logical.InmemStorage)}, events: logical.NewMockEventSender(), log: newLog()}
		m.workspace = simulator.New(simulator.WithoutCallLog())
		b.Cleanup(m.workspace.Close)
		admin := m.workspace.AddUser("engine@example.com", true)
		token, _ := m.workspace.AddToken(admin, "", 0)
		m.workspace.AddScope("etl", admin)
		backend, err := Factory(b.Context(), m.config())
		require.NoError(b, err)
		request := func(op logical.Operation, path string, data map[string]any) {
			resp, err := backend.HandleRequest(b.Context(), &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage})
			require.NoError(b, err)
			require.False(b, resp.IsError(), resp)
		}
		request(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "token": token})
		for i := range n {
			_, err := framework.PutWAL(b.Context(), m.storage, walKind, intent{Nonce: nonce(i), Started: time.Now().Add(time.Hour), Secret: &secretIntent{secretRef: secretRef{Scope: "etl", Key: fmt.Sprint("key-", i)}}})
			require.NoError(b, err)
		}
		for name, do := range map[string]func(){
			"write":    func() { request(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "v"}) },
			"rollback": func() { request(logical.RollbackOperation, "", nil) },
		} {
			do() // the first one reads the log
			b.Run(fmt.Sprintf("%s/entries=%d", name, n), func(b *testing.B) {
				for b.Loop() {
					do()
				}
			})
		}
	}
}
