// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"
	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	managedPath = "/api/2.0/token-management/tokens"
	foreignID   = "5c1c8c1e-0000-4000-8000-999999999999"
)

// testClock is the real time, moved.
type testClock struct{ offset atomic.Int64 }

func (c *testClock) now() time.Time       { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *testClock) move(d time.Duration) { c.offset.Add(int64(d)) }

// tidyMount is a connected mount whose time can be moved, which is the simulator's, too.
func tidyMount(t *testing.T) (*mount, *testClock) {
	clock := new(testClock)
	m := newMount(t, simulator.WithClock(clock.now))
	m.tidies(clock)
	m.connect()
	m.workspace.ResetCalls()
	return m, clock
}

// tidies sets the engine's clock, and ends whatever it does in the background when the test ends.
func (m *mount) tidies(clock *testClock) {
	m.backend.(*backend).clock = clock.now
	m.t.Cleanup(func() { m.backend.Cleanup(context.Background()) })
}

func nonce(n int) string { return fmt.Sprintf("%032x", n) }

// mark is a marker of this mount that ends after d, at the end of a text.
func mark(n int, d time.Duration, kept bool) string {
	return marker.Mark{MountID: testMountID, Nonce: nonce(n), Until: time.Now().Add(d), Stored: kept}.Comment("Vault role etl for alice")
}

// litter adds service principals that are garbage.
func (m *mount) litter(n int) []string {
	var ids []string
	for i := range n {
		ids = append(ids, m.workspace.AddServicePrincipal(mark(1000+i, -time.Hour, false), false).ID)
	}
	return ids
}

func (m *mount) tidyStatus() map[string]any {
	m.t.Helper()
	return m.read("tidy/status").Data
}

// awaitTidy waits until no run is under way, and answers how the latest went.
func (m *mount) awaitTidy() map[string]any {
	m.t.Helper()
	var status map[string]any
	require.Eventually(m.t, func() bool {
		status = m.tidyStatus()
		return status["state"] != "running"
	}, 30*time.Second, time.Millisecond)
	return status
}

// tidyUp is a whole run.
func (m *mount) tidyUp() map[string]any {
	m.t.Helper()
	m.write("tidy", nil)
	return m.awaitTidy()
}

func (m *mount) tickErr() error {
	m.t.Helper()
	resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	if err == nil && resp != nil && resp.IsError() {
		err = resp.Error()
	}
	return err
}

// requireTidy requires fields of a status.
func requireTidy(t *testing.T, status map[string]any, state string, found, deleted, failed int, words ...string) {
	t.Helper()
	require.Equal(t, []any{state, found, deleted, failed}, []any{status["state"], status["found"], status["deleted"], status["failed"]}, "%v", status["last_error"])
	if len(words) == 0 {
		require.Empty(t, status["last_error"])
	}
	for _, word := range words {
		require.Contains(t, status["last_error"], word)
	}
}

func hits(t *testing.T, fault *simulator.InjectedFault, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return fault.Hits() >= n }, 10*time.Second, time.Millisecond)
}

func TestTidy(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	status := m.tidyStatus()
	require.Equal(t, map[string]any{
		"state": "idle", "started": nil, "start_time": nil, "finished": nil, "finish_time": nil, "dry_run": false, "automatic": false, "found": 0, "deleted": 0, "failed": 0, "last_error": "",
		"tokens": []string{}, "service_principals": []string{}, "truncated": false, "next_automatic": nil, "next_automatic_time": nil,
	}, status)

	foreign := strings.Replace(mark(1, -time.Hour, false), testMountID, foreignID, 1)
	texts := map[string]bool{ // whether it is garbage
		mark(1, -time.Hour, false):                                        true,
		mark(2, -tidyGrace-time.Minute, false):                            true,
		mark(3, -tidyGrace+time.Minute, false):                            false,
		mark(4, time.Hour, false):                                         false,
		mark(5, -time.Hour, false) + " copied":                            false,
		mark(6, -time.Hour, false) + " ":                                  false,
		mark(7, -time.Hour, false) + ":kept:kept":                         false,
		"x" + marker.Mark{MountID: testMountID, Nonce: nonce(8)}.String(): false,
		strings.ToUpper(mark(9, -time.Hour, false)):                       false,
		foreign: false,
		foreign + " " + mark(10, time.Hour, false): false,
		mark(11, -time.Hour, false) + " " + strings.Replace(mark(11, -time.Hour, false), testMountID, foreignID, 1): false,
		"vault:" + testMountID + ":": false,
		"by hand":                    false,
		"":                           false,
	}
	old := map[string]bool{
		mark(20, 24*time.Hour, true):  true,
		mark(21, 24*time.Hour, true):  false, // owned, by an entry of the write-ahead log
		mark(22, 24*time.Hour, true):  false, // under way
		mark(23, 24*time.Hour, false): false,
		mark(24, -time.Hour, true):    true,
		mark(25, -time.Hour, true):    false, // owned, however old
		mark(26, -time.Hour, false):   false, // under way
		mark(27, -time.Hour, false):   true,  // a lease's, which the write-ahead log does not protect any more
	}
	for _, n := range []int{21, 25, 27} {
		_, err := framework.PutWAL(t.Context(), m.storage, walKind, intent{Nonce: nonce(n), Credential: &credentialIntent{Type: credential.PAT}, Expires: time.Now().Add(time.Hour)})
		require.NoError(t, err)
	}
	for _, n := range []int{22, 26} {
		m.backend.(*backend).inFlight.Store(nonce(n), true)
	}

	var garbage, kept []string
	other := m.workspace.AddUser("other@example.com", false)
	add := func(text string, isGarbage bool) {
		owner := m.admin
		if len(garbage)%2 == 1 {
			owner = other
		}
		_, id := m.workspace.AddToken(owner, text, 0)
		if isGarbage {
			garbage = append(garbage, id)
		} else {
			kept = append(kept, id)
		}
	}
	clock.move(-2 * time.Hour)
	for text, isGarbage := range old {
		add(text, isGarbage)
	}
	clock.move(2 * time.Hour)
	for text, isGarbage := range texts {
		add(text, isGarbage)
	}
	add(mark(28, 24*time.Hour, true), false) // young

	var garbageSPs, keptSPs []string
	for text, isGarbage := range texts {
		sp := m.workspace.AddServicePrincipal(text, false)
		if isGarbage {
			garbageSPs = append(garbageSPs, sp.ID)
		} else {
			keptSPs = append(keptSPs, sp.ID)
		}
	}
	left := func() (tokens, sps []string) {
		for _, token := range m.minted() {
			tokens = append(tokens, token.ID)
		}
		for _, sp := range m.workspace.ServicePrincipals() {
			sps = append(sps, sp.ID)
		}
		return tokens, sps
	}
	found := len(garbage) + len(garbageSPs)

	resp := m.write("tidy", map[string]any{"dry_run": true})
	require.Contains(t, resp.Warnings[0], "vault read databricks/tidy/status")
	status = m.awaitTidy()
	requireTidy(t, status, "finished", found, 0, 0)
	require.Equal(t, true, status["dry_run"])
	require.Equal(t, false, status["automatic"])
	require.ElementsMatch(t, garbage, status["tokens"])
	require.ElementsMatch(t, garbageSPs, status["service_principals"])
	require.WithinDuration(t, clock.now(), m.moment(status["started"]), time.Minute)
	require.WithinDuration(t, clock.now(), m.moment(status["finished"]), time.Minute)
	tokens, sps := left()
	require.Len(t, tokens, len(garbage)+len(kept), "a dry run removes nothing")
	require.Len(t, sps, len(garbageSPs)+len(keptSPs))
	require.Zero(t, m.workspace.Count(http.MethodPost, "")+m.workspace.Count(http.MethodDelete, ""))

	status = m.tidyUp()
	requireTidy(t, status, "finished", found, found, 0)
	require.ElementsMatch(t, garbage, status["tokens"])
	require.Equal(t, false, status["dry_run"])
	tokens, sps = left()
	require.ElementsMatch(t, kept, tokens)
	require.ElementsMatch(t, keptSPs, sps)

	requireTidy(t, m.tidyUp(), "finished", 0, 0, 0)
	m.backend.Cleanup(t.Context())
	events := map[string]int{}
	for _, event := range m.sent() {
		if fields := event.Event.Metadata.Fields; event.Type == "databricks/tidy-delete" {
			of := map[string][]string{"token": garbage, "service_principal": garbageSPs}
			require.Contains(t, of[fields["kind"].GetStringValue()], fields["id"].GetStringValue())
		}
		events[string(event.Type)]++
	}
	require.Equal(t, map[string]int{"databricks/config-write": 1, "databricks/tidy-start": 3, "databricks/tidy-finish": 3, "databricks/tidy-delete": found}, events)
	require.NotContains(t, m.log.String(), "[WARN]")
}

// TestTidyReach shows whose tokens a run gets at.
func TestTidyReach(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (m *mount, own, others string) {
		m, _ = tidyMount(t)
		_, own = m.workspace.AddToken(m.admin, mark(1, -time.Hour, false), 0)
		_, others = m.workspace.AddToken(m.workspace.AddServicePrincipal("job", false), mark(2, -time.Hour, false), 0)
		return m, own, others
	}

	t.Run("an admin: everybody's, with one list", func(t *testing.T) {
		t.Parallel()
		m, own, others := setup(t)
		require.ElementsMatch(t, []string{own, others}, m.tidyUp()["tokens"])
		require.Empty(t, m.minted())
		require.Zero(t, m.workspace.Count("", listPath)+m.workspace.Count("", deletePath))
	})
	t.Run("an admin who may not", func(t *testing.T) {
		t.Parallel()
		m, own, _ := setup(t)
		m.workspace.Inject(simulator.Fault{Path: managedPath + "*", Status: 403})
		status := m.tidyUp()
		requireTidy(t, status, "finished", 1, 1, 0)
		require.Equal(t, []string{own}, status["tokens"])
		require.Equal(t, 1, m.workspace.Count("", deletePath))
	})
	t.Run("no admin", func(t *testing.T) {
		t.Parallel()
		m, _, _ := setup(t)
		user := m.reconnectAs("plain@example.com")
		_, own := m.workspace.AddToken(user, mark(3, -time.Hour, false), 0)
		status := m.tidyUp()
		requireTidy(t, status, "finished", 1, 1, 0)
		require.Equal(t, []string{own}, status["tokens"])
		require.Zero(t, m.workspace.Count("", managedPath+"*"))
		require.Len(t, m.minted(), 2)
	})
}

func TestTidyServicePrincipal(t *testing.T) {
	t.Parallel()
	m, _ := tidyMount(t)
	sp := m.workspace.AddServicePrincipal(mark(1, -time.Hour, false), false)
	m.workspace.AddOAuthSecret(sp, time.Hour)
	m.workspace.AddOAuthSecret(sp, time.Hour)
	living := m.workspace.AddServicePrincipal(mark(2, time.Hour, false), false)
	m.workspace.AddOAuthSecret(living, time.Hour)
	requireTidy(t, m.tidyUp(), "finished", 1, 1, 0)
	require.Equal(t, []string{
		"GET " + managedPath, "GET " + principalsPath,
		"GET " + secretsPath + "…/secrets", "DELETE " + secretsPath + "…/secrets/…", "DELETE " + secretsPath + "…/secrets/…", "DELETE " + principalsPath + "/…",
	}, m.requests(), "its secrets go first")
	require.Len(t, m.workspace.OAuthSecrets(living), 1)
}

func TestTidyOnAnAccount(t *testing.T) {
	t.Parallel()
	m, _ := accountReady(t)
	m.tidies(new(testClock))
	sp := m.workspace.AddServicePrincipal(mark(1, -time.Hour, false), false)
	m.workspace.AddOAuthSecret(sp, time.Hour)
	m.workspace.SetWorkspaceMember(sp, false)
	m.workspace.AddServicePrincipal(mark(2, time.Hour, false), false)
	status := m.tidyUp()
	requireTidy(t, status, "finished", 1, 1, 0)
	require.Equal(t, []string{sp.ID}, status["service_principals"])
	require.Empty(t, status["tokens"])
	base := "/api/2.0/accounts/" + testAccountID
	require.Equal(t, 1, m.workspace.Count(http.MethodDelete, base+"/scim/v2/ServicePrincipals/"+sp.ID))
	require.Equal(t, 1, m.workspace.Count(http.MethodDelete, base+"/servicePrincipals/*"))
	require.Zero(t, m.workspace.Count("", listPath)+m.workspace.Count("", managedPath))

	m.workspace.Inject(simulator.Fault{Path: base + "/scim/v2/ServicePrincipals", Status: 403})
	requireTidy(t, m.tidyUp(), "failed", 0, 0, 0, "scim/service-principals/list", "PERMISSION_DENIED")
}

func TestTidyIsRefused(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.tidies(new(testClock))
	resp, err := m.do(logical.UpdateOperation, "tidy", nil)
	m.refused(resp, err, "no connection yet")
	require.Equal(t, "idle", m.tidyStatus()["state"])
	resp, err = m.do(logical.UpdateOperation, "tidy", map[string]any{"dry_run": true, "cancel": true})
	m.refused(resp, err, "cancel", "dry_run")
	resp = m.write("tidy", map[string]any{"cancel": true})
	require.Contains(t, resp.Warnings[0], "none was cancelled")
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		m.system.ReplicationStateVal = state
		_, err = m.do(logical.UpdateOperation, "tidy", nil)
		require.ErrorIs(t, err, logical.ErrReadOnly)
		_, err = m.do(logical.ReadOperation, "tidy/status", nil)
		require.ErrorIs(t, err, logical.ErrReadOnly)
	}

	t.Run("where Vault tells no id of the mount", func(t *testing.T) {
		t.Parallel()
		m := bareMount(t)
		conf := m.config()
		conf.BackendUUID = ""
		b, err := Factory(t.Context(), conf)
		require.NoError(t, err)
		m.backend = b
		clock := new(testClock)
		m.tidies(clock)
		m.connect()
		sp := m.workspace.AddServicePrincipal(marker.Mark{MountID: "unnamed", Nonce: nonce(1), Until: time.Now().Add(-time.Hour)}.String(), false)
		resp, err := m.do(logical.UpdateOperation, "tidy", nil)
		m.refused(resp, err, "no id of this mount")
		require.NoError(t, m.tickErr())
		clock.move(2 * tidyPeriod)
		require.NoError(t, m.tickErr())
		require.Equal(t, "idle", m.awaitTidy()["state"])
		require.Equal(t, sp.ID, m.workspace.ServicePrincipals()[0].ID)
	})
}

func TestTidyOneAtATime(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	m.litter(1)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: managedPath, Hold: hold})
	require.Equal(t, "running", m.write("tidy", nil).Data["state"])
	hits(t, fault, 1)
	resp := m.write("tidy", map[string]any{"dry_run": true})
	require.Contains(t, resp.Warnings[0], "no other was begun")
	require.Equal(t, false, resp.Data["dry_run"], "it is the first one's status")
	require.Equal(t, "running", resp.Data["state"])
	require.Empty(t, resp.Data["finished"])

	// An automatic run waits, too.
	clock.move(2 * tidyPeriod)
	require.NoError(t, m.tickErr())
	require.NoError(t, m.tickErr())
	close(hold)
	status := m.awaitTidy()
	requireTidy(t, status, "finished", 1, 1, 0)
	require.Equal(t, false, status["automatic"])
	require.Equal(t, 1, fault.Hits())
}

func TestTidyCancel(t *testing.T) {
	t.Parallel()

	t.Run("between two deletes", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(5)
		hold := make(chan struct{})
		defer close(hold)
		fault := m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: principalsPath + "/*", Offset: 2, Hold: hold})
		m.write("tidy", nil)
		hits(t, fault, 1)
		requireTidy(t, m.tidyStatus(), "running", 5, 2, 0)
		resp := m.write("tidy", map[string]any{"cancel": true})
		require.Empty(t, resp.Warnings)
		requireTidy(t, resp.Data, "cancelled", 5, 2, 0)
		m.backend.InvalidateKey(t.Context(), tidyStorageKey)
		requireTidy(t, m.tidyStatus(), "cancelled", 5, 2, 0)
		require.Len(t, m.workspace.ServicePrincipals(), 3)
		require.Contains(t, m.write("tidy", map[string]any{"cancel": true}).Warnings[0], "none was cancelled")

		m.workspace.ClearFaults()
		requireTidy(t, m.tidyUp(), "finished", 3, 3, 0)
	})

	t.Run("before anything was found", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(1)
		hold := make(chan struct{})
		defer close(hold)
		fault := m.workspace.Inject(simulator.Fault{Path: principalsPath, Hold: hold})
		m.write("tidy", nil)
		hits(t, fault, 1)
		requireTidy(t, m.write("tidy", map[string]any{"cancel": true}).Data, "cancelled", 0, 0, 0)
		require.Len(t, m.workspace.ServicePrincipals(), 1)
	})

	t.Run("when the backend is unloaded", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(2)
		hold := make(chan struct{})
		defer close(hold)
		fault := m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Hold: hold})
		m.write("tidy", nil)
		hits(t, fault, 1)
		m.backend.Cleanup(t.Context())
		requireTidy(t, m.tidyStatus(), "failed", 2, 0, 0, "interrupted")
		_, err := m.do(logical.UpdateOperation, "tidy", nil)
		require.ErrorContains(t, err, "interrupted", "no other run is begun")
		require.Equal(t, 1, fault.Hits())
	})
}

// TestTidyRestart reads what a process has left that ended in the middle of a run.
func TestTidyRestart(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	m.litter(2)
	hold := make(chan struct{})
	defer close(hold)
	fault := m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Hold: hold})
	m.write("tidy", nil)
	hits(t, fault, 1)

	b, err := Factory(t.Context(), m.config())
	require.NoError(t, err)
	next := &mount{t: t, routes: m.routes, storage: m.storage, system: m.system, events: m.events, log: m.log, workspace: m.workspace, token: m.token, backend: b}
	next.tidies(clock)
	requireTidy(t, next.tidyStatus(), "failed", 0, 0, 0, "interrupted", "run it again")
	require.NotEmpty(t, next.tidyStatus()["finished"])
	stored := func() string {
		entry, err := m.storage.Get(t.Context(), tidyStorageKey)
		require.NoError(t, err)
		return string(entry.Value)
	}
	require.Contains(t, stored(), `"running"`)

	// A node that may not write leaves that to one that may.
	next.system.ReplicationStateVal = consts.ReplicationPerformanceSecondary
	_ = next.tickErr()
	require.Contains(t, stored(), `"running"`)
	next.system.ReplicationStateVal = 0
	m.storage.onEach(func(op, key string) error {
		if op == "put" && key == tidyStorageKey {
			return errors.New("disk full")
		}
		return nil
	})
	require.ErrorContains(t, next.tickErr(), "disk full")
	m.storage.onEach(nil)
	require.NoError(t, next.tickErr())
	require.Contains(t, stored(), `"failed"`)
	require.Contains(t, stored(), "interrupted")

	fault.Clear()
	requireTidy(t, next.tidyUp(), "finished", 2, 2, 0)
}

func TestTidyCanNotList(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		path  string
		plain bool // as no admin
		word  string
	}{
		"tokens of everybody": {managedPath, false, "token-management/list"},
		"own tokens":          {listPath, true, "token/list"},
		"service principals":  {principalsPath, false, "scim/service-principals/list"},
		"who the engine is":   {mePath, false, "scim/me"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := tidyMount(t)
			m.litter(1)
			_, id := m.workspace.AddToken(m.admin, mark(1, -time.Hour, false), 0)
			if row.plain {
				m.reconnectAs("plain@example.com")
			}
			m.write("config", map[string]any{"max_retries": 0, "verify_connection": row.path != mePath})
			fault := m.workspace.Inject(simulator.Fault{Path: row.path, Status: 500})
			requireTidy(t, m.tidyUp(), "failed", 0, 0, 0, row.word, "500")
			require.Equal(t, 1, fault.Hits())
			require.Equal(t, id, m.minted()[0].ID)
			require.Len(t, m.workspace.ServicePrincipals(), 1, "nothing is removed")
		})
	}

	t.Run("service principals are forbidden", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(1)
		m.workspace.AddToken(m.admin, mark(1, -time.Hour, false), 0)
		m.workspace.Inject(simulator.Fault{Path: principalsPath, Status: 403})
		status := m.tidyUp()
		requireTidy(t, status, "finished", 1, 1, 0, "service principals were left out", "PERMISSION_DENIED")
		require.Empty(t, m.minted())
		require.Contains(t, m.log.String(), "tidy may not see everything")
	})
}

func TestTidyCanNotRemove(t *testing.T) {
	t.Parallel()
	const deletes = principalsPath + "/*"
	for name, row := range map[string]struct {
		fault   simulator.Fault
		state   string
		deleted int
		failed  int
		word    string
	}{
		"broken once":       {simulator.Fault{Status: 500, Offset: 3, Times: 1}, "finished", 11, 1, "500"},
		"forbidden once":    {simulator.Fault{Status: 403, Offset: 3, Times: 1}, "finished", 11, 1, "PERMISSION_DENIED"},
		"gone meanwhile":    {simulator.Fault{Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST", Offset: 3, Times: 1}, "finished", 12, 0, ""},
		"throttled once":    {simulator.Fault{Status: 429, Offset: 3, Times: 1}, "finished", 11, 1, "429"},
		"cut off once":      {simulator.Fault{Reset: true, Offset: 3, Times: 1}, "finished", 11, 1, "scim/service-principals/delete"},
		"nine times":        {simulator.Fault{Status: 403, Offset: 1, Times: 9}, "finished", 3, 9, "PERMISSION_DENIED"},
		"ten times":         {simulator.Fault{Status: 403, Offset: 1, Times: 10}, "failed", 1, 10, "10 failures in a row"},
		"the last ten only": {simulator.Fault{Status: 403, Offset: 2}, "failed", 2, 10, "10 failures in a row"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := tidyMount(t)
			m.impatient()
			ids := m.litter(12)
			row.fault.Method, row.fault.Path = http.MethodDelete, deletes
			fault := m.workspace.Inject(row.fault)
			var words []string
			if row.word != "" {
				words = []string{row.word}
			}
			requireTidy(t, m.tidyUp(), row.state, 12, row.deleted, row.failed, words...)
			require.Equal(t, row.failed, strings.Count(m.log.String(), "tidy could not remove something"))
			if row.failed > 0 && row.fault.Offset == 3 {
				require.Contains(t, m.log.String(), "id="+ids[3])
			}
			fault.Clear()
			left := len(m.workspace.ServicePrincipals())
			requireTidy(t, m.tidyUp(), "finished", left, left, 0)
			require.Empty(t, m.workspace.ServicePrincipals())
		})
	}

	t.Run("every other", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(4 * tidyMaxFailures)
		m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: deletes, Status: 403, Every: 2})
		requireTidy(t, m.tidyUp(), "finished", 4*tidyMaxFailures, 2*tidyMaxFailures, 2*tidyMaxFailures, "PERMISSION_DENIED")
	})

	t.Run("the secrets of a service principal", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.impatient()
		m.litter(1)
		m.workspace.AddOAuthSecret(m.workspace.ServicePrincipals()[0], time.Hour)
		m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: secretsPath + "*", Status: 500})
		requireTidy(t, m.tidyUp(), "finished", 1, 0, 1, "oauth-secrets/delete")
		require.Len(t, m.workspace.ServicePrincipals(), 1, "it stays until its secrets are gone")
	})
}

func TestTidyStorageFails(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	fails := func(op, key string, after int) func(string, string) error {
		var n atomic.Int32
		return func(o, k string) error {
			if o == op && k == key && n.Add(1) > int32(after) {
				return full
			}
			return nil
		}
	}

	t.Run("when the status is read", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.storage.onEach(fails("get", tidyStorageKey, 0))
		_, err := m.do(logical.ReadOperation, "tidy/status", nil)
		require.ErrorIs(t, err, full)
		_, err = m.do(logical.UpdateOperation, "tidy", nil)
		require.ErrorIs(t, err, full)
		_, err = m.do(logical.UpdateOperation, "tidy", map[string]any{"cancel": true})
		require.ErrorIs(t, err, full)
		require.ErrorContains(t, m.tickErr(), "disk full")
		m.storage.onEach(nil)
		require.Equal(t, "idle", m.tidyStatus()["state"])
		require.Empty(t, m.workspace.Calls())
	})

	t.Run("when a run begins", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(1)
		// As when a leader steps down, it may be stored all the same.
		m.storage.afterEach(fails("put", tidyStorageKey, 0))
		_, err := m.do(logical.UpdateOperation, "tidy", nil)
		require.ErrorIs(t, err, full)
		require.Empty(t, m.workspace.Calls())
		require.Equal(t, "idle", m.tidyStatus()["state"])
		m.storage.afterEach(nil)
		require.NoError(t, m.tickErr())
		m.backend.InvalidateKey(t.Context(), tidyStorageKey)
		require.Equal(t, "idle", m.tidyStatus()["state"], "the next tick has corrected it")
		requireTidy(t, m.tidyUp(), "finished", 1, 1, 0)
	})

	t.Run("when a run ends", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(1)
		m.storage.onEach(fails("put", tidyStorageKey, 1))
		requireTidy(t, m.tidyUp(), "finished", 1, 1, 0)
		m.storage.onEach(nil)
		require.Eventually(t, func() bool { return strings.Contains(m.log.String(), "how tidy ended could not be stored yet") }, 10*time.Second, time.Millisecond)
		require.NoError(t, m.tickErr())
		m.backend.InvalidateKey(t.Context(), tidyStorageKey)
		requireTidy(t, m.tidyStatus(), "finished", 1, 1, 0)
	})

	t.Run("in the middle", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		m.litter(tidySaveEvery + 1)
		m.storage.onEach(fails("put", tidyStorageKey, 1))
		requireTidy(t, m.tidyUp(), "finished", tidySaveEvery+1, tidySaveEvery+1, 0)
		require.Contains(t, m.log.String(), "how far tidy has come could not be stored")
	})

	t.Run("when it is read what is still needed", func(t *testing.T) {
		t.Parallel()
		m, clock := tidyMount(t)
		clock.move(-2 * time.Hour)
		_, id := m.workspace.AddToken(m.admin, mark(1, 24*time.Hour, true), 0)
		clock.move(2 * time.Hour)
		m.litter(1)
		m.storage.onEach(func(op, key string) error {
			if op == "list" && key == framework.WALPrefix {
				return full
			}
			return nil
		})
		requireTidy(t, m.tidyUp(), "failed", 0, 0, 0, "nothing was removed", "disk full")
		require.Equal(t, id, m.minted()[0].ID)
		require.Len(t, m.workspace.ServicePrincipals(), 1)
	})

	t.Run("a status that can't be read begins anew", func(t *testing.T) {
		t.Parallel()
		m, _ := tidyMount(t)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: tidyStorageKey, Value: []byte(`{"state":7}`)}))
		require.Equal(t, "idle", m.tidyStatus()["state"])
		require.Contains(t, m.log.String(), "begins anew")
		requireTidy(t, m.tidyUp(), "finished", 0, 0, 0)
	})
}

// TestTidyAsksWhatIsOwnedLast shows that what a rotation makes and hands over during a run is not taken for garbage.
func TestTidyAsksWhatIsOwnedLast(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	clock.move(-2 * time.Hour)
	m.workspace.AddToken(m.admin, mark(1, 24*time.Hour, true), 0)
	clock.move(2 * time.Hour)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: principalsPath, Hold: hold})
	m.write("tidy", nil)
	hits(t, fault, 1)
	_, err := framework.PutWAL(t.Context(), m.storage, walKind, intent{Nonce: nonce(1), Credential: &credentialIntent{Type: credential.PAT}, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	close(hold)
	requireTidy(t, m.awaitTidy(), "finished", 0, 0, 0)
}

// TestTidyConnectionChanges replaces the connection while a run is in its first batch.
func TestTidyConnectionChanges(t *testing.T) {
	t.Parallel()
	const garbage = tidyBatch + 5
	for name, row := range map[string]struct {
		change func(m *mount)
		word   string // "" where the run goes on
	}{
		"deleted": {func(m *mount) {
			resp, err := m.do(logical.DeleteOperation, "config", nil)
			m.requireOK(resp, err)
		}, "no connection yet"},
		"to another workspace": {func(m *mount) {
			other := simulator.New(simulator.WithWorkspaceID("4242"))
			m.t.Cleanup(other.Close)
			token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
			m.write("config", map[string]any{"host": other.URL(), "token": token})
		}, "changed to another host, workspace or identity"},
		"to another identity": {func(m *mount) {
			token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", true), "the engine's own", 0)
			m.write("config", map[string]any{"token": token})
		}, "changed to another host, workspace or identity"},
		"to a new token of the same": {func(m *mount) {
			token, _ := m.workspace.AddToken(m.admin, "the engine's own", 0)
			m.write("config", map[string]any{"token": token})
			for _, old := range m.workspace.Tokens()[:1] {
				m.workspace.RevokeToken(old.ID)
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := tidyMount(t)
			m.litter(garbage)
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: principalsPath + "/*", Offset: tidyBatch - 1, Times: 1, Hold: hold, AfterEffect: true})
			m.write("tidy", nil)
			hits(t, fault, 1)
			row.change(m)
			close(hold)
			if row.word == "" {
				requireTidy(t, m.awaitTidy(), "finished", garbage, garbage, 0)
				return
			}
			requireTidy(t, m.awaitTidy(), "failed", garbage, tidyBatch, 0, row.word)
			require.Len(t, m.workspace.ServicePrincipals(), garbage-tidyBatch)
		})
	}
}

func TestTidySurvivesAPanic(t *testing.T) {
	t.Parallel()
	const garbage = tidySaveEvery + 2
	for name, moment := range map[string]func(op, key string, left int) bool{
		"before the first delete": func(op, _ string, left int) bool { return op == "list" && left == garbage },
		"between two deletes": func(op, key string, left int) bool {
			return op == "put" && key == tidyStorageKey && left > 0 && left < garbage
		},
		"at its end": func(op, key string, left int) bool { return op == "put" && key == tidyStorageKey && left == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := tidyMount(t)
			m.litter(garbage - 1)
			m.workspace.AddServicePrincipal(mark(1, -time.Hour, true), false) // for its sake the storage is read
			var once sync.Once
			m.storage.onEach(func(op, key string) error {
				if moment(op, key, len(m.workspace.ServicePrincipals())) {
					once.Do(func() { panic("dapi-in-a-panic") })
				}
				return nil
			})
			m.tidyUp()
			require.Eventually(t, func() bool { return strings.Contains(m.log.String(), "recovered from a panic") }, 10*time.Second, time.Millisecond)
			status := m.tidyStatus()
			if name != "at its end" {
				require.Equal(t, "failed", status["state"])
				require.Contains(t, status["last_error"], "the stack is in Vault's log")
			}
			require.NotContains(t, m.log.String(), "dapi-in-a-panic")
			require.Equal(t, "finished", m.tidyUp()["state"], "the mount goes on")
			require.Empty(t, m.workspace.ServicePrincipals())
		})
	}
}

func TestTidyManyIDs(t *testing.T) {
	t.Parallel()
	m, _ := tidyMount(t)
	for i := range tidyMaxIDs + 1 {
		m.workspace.AddToken(m.admin, mark(i, -time.Hour, false), 0)
	}
	m.litter(tidyMaxIDs)
	m.write("tidy", map[string]any{"dry_run": true})
	status := m.awaitTidy()
	requireTidy(t, status, "finished", 2*tidyMaxIDs+1, 0, 0)
	require.Len(t, status["tokens"], tidyMaxIDs)
	require.Len(t, status["service_principals"], tidyMaxIDs)
	require.Equal(t, true, status["truncated"])
}

// TestTidyOverTheWire shows that a run goes on after the request that began it, over Vault's connection to the plugin.
func TestTidyOverTheWire(t *testing.T) {
	t.Parallel()
	m := newGRPCMount(t)
	m.makeReady()
	m.litter(2)
	ctx, cancel := context.WithCancel(t.Context())
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: managedPath, Hold: hold})
	resp, err := m.send(ctx, logical.UpdateOperation, "tidy", nil)
	m.requireOK(resp, err)
	hits(t, fault, 1)
	cancel()
	close(hold)
	status := map[string]any{}
	require.Eventually(t, func() bool {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "tidy/status", Storage: m.storage})
		m.requireOK(resp, err)
		status = resp.Data
		return status["state"] == "finished"
	}, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 2, status["deleted"])
	require.Empty(t, m.workspace.ServicePrincipals())
	m.backend.Cleanup(t.Context())
}

// TestTidyForOtherMounts removes what mounts left that are gone, or that can't reach it, and only what is past its end.
func TestTidyForOtherMounts(t *testing.T) {
	t.Parallel()
	m, clock := tidyMount(t)
	foreign := func(n int, d time.Duration, kept bool) string {
		return strings.Replace(mark(n, d, kept), testMountID, foreignID, 1)
	}
	ended := m.workspace.AddServicePrincipal(foreign(1, -time.Hour, false), false)
	alive := m.workspace.AddServicePrincipal(foreign(2, 24*time.Hour, false), false)
	third := m.workspace.AddServicePrincipal(strings.Replace(mark(3, -time.Hour, false), testMountID, "third", 1), false)
	_, token := m.workspace.AddToken(m.admin, foreign(4, -time.Hour, true), 0)
	_, kept := m.workspace.AddToken(m.admin, foreign(5, 24*time.Hour, true), 0)
	clock.move(2 * tidyStoredAge) // old enough for a kept one of this mount

	requireTidy(t, m.tidyUp(), "finished", 0, 0, 0)
	for _, bad := range []string{"unnamed", "a/b", "a:b", strings.Repeat("a", 65)} {
		resp, err := m.do(logical.UpdateOperation, "tidy", map[string]any{"mount_ids": bad})
		m.refused(resp, err, "mount_ids", bad)
	}
	m.write("tidy", map[string]any{"mount_ids": foreignID})
	requireTidy(t, m.awaitTidy(), "finished", 2, 2, 0)
	var ids []string
	for _, sp := range m.workspace.ServicePrincipals() {
		ids = append(ids, sp.ID)
	}
	require.NotContains(t, ids, ended.ID)
	require.Subset(t, ids, []string{alive.ID, third.ID})
	var tokens []string
	for _, live := range m.workspace.Tokens() {
		tokens = append(tokens, live.ID)
	}
	require.NotContains(t, tokens, token)
	require.Contains(t, tokens, kept, "what another mount keeps, it alone knows")
}

// TestTidyAfterTheClockWasAhead shows that tidy does not wait for a date that a wrong clock has set.
func TestTidyAfterTheClockWasAhead(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.goOn(c, 2*time.Hour, time.Minute)
	c.runAhead(5 * 365 * day)
	m.goOn(c, 2*time.Minute, time.Minute)
	c.runAhead(0)
	m.goOn(c, 2*day, time.Hour)
	require.False(t, m.moment(m.tidyStatus()["next_automatic"]).After(c.now().Add(30*day)))
}

// TestTidyKnowsWhatIsKept shows that tidy leaves alone what the config and static roles have, and removes what a role had that was
// forgotten by force.
func TestTidyKnowsWhatIsKept(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("config/rotate-root", nil)
	for _, name := range []string{"stays", "forgotten"} {
		m.write("static-roles/"+name, map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "24h"})
		m.write("rotate-role/"+name, nil)
	}
	require.Len(t, m.minted(), 5)
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Status: 403})
	resp, err := m.do(logical.DeleteOperation, "static-roles/forgotten", map[string]any{"force": true})
	m.requireOK(resp, err)
	require.Len(t, resp.Warnings, 2, "the ids that may be left")
	m.workspace.ClearFaults()

	m.write("tidy", nil)
	requireTidy(t, m.awaitTidy(), "finished", 0, 0, 0)
	c.advance(2 * tidyStoredAge)
	m.write("tidy", nil)
	requireTidy(t, m.awaitTidy(), "finished", 2, 2, 0)
	require.Len(t, m.minted(), 3)
	require.Equal(t, 200, m.whoami(m.read("static-creds/stays").Data["token_value"].(string)))
	m.write("config", map[string]any{"ttl": "1h"}) // which proves the engine's own
}

// addGarbage adds n service principals whose end has passed.
func (m *mount) addGarbage(c *clock, n int) []string {
	var ids []string
	for i := range n {
		mark := marker.Mark{MountID: testMountID, Nonce: nonce(i), Until: c.now().Add(-day)}
		ids = append(ids, m.workspace.AddServicePrincipal(mark.Comment("x"), false).ID)
	}
	return ids
}

// TestTidyGoesOnBesideAnUnreadableRole shows that one entry that can't be read keeps no garbage alive that it can't have.
func TestTidyGoesOnBesideAnUnreadableRole(t *testing.T) {
	t.Parallel()
	for name, damage := range unreadables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			m.write("static-roles/a", map[string]any{"credential_type": "pat"})
			entry, err := m.storage.Get(t.Context(), staticStoragePrefix+"a")
			require.NoError(t, err)
			entry.Value = damage(entry.Value)
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.restartAt(c)
			m.addGarbage(c, 3)
			m.goOn(c, 2*time.Hour, 10*time.Minute)
			requireTidy(t, m.tidyStatus(), "finished", 3, 3, 0)
			require.Empty(t, m.workspace.ServicePrincipals())
			require.Len(t, m.minted(), 1, "what the role may have stays")
		})
	}
}

// TestTidyGoesOnBehindWhatItCannotRemove shows that what is stuck costs the rest a run, and no more.
func TestTidyGoesOnBehindWhatItCannotRemove(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"forbidden": 403, "broken": 500} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			ids := m.addGarbage(c, 2*tidyMaxFailures+1)
			free := ids[len(ids)-1]
			for _, id := range ids[:len(ids)-1] {
				m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: principalsPath + "/" + id, Status: status})
			}
			m.goOn(c, 4*day, 10*time.Minute)
			left := m.workspace.ServicePrincipals()
			require.Len(t, left, 2*tidyMaxFailures)
			for _, sp := range left {
				require.NotEqual(t, free, sp.ID)
			}
			require.NotEmpty(t, m.tidyStatus()["last_error"])
			m.workspace.ClearFaults()
			m.goOn(c, day+2*time.Hour, 10*time.Minute)
			require.Empty(t, m.workspace.ServicePrincipals())
		})
	}
}
