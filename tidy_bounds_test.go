// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// keepLog makes the write-ahead log keep the entries of what is done meanwhile, as if each delete had failed.
func (m *mount) keepLog(do func()) {
	m.storage.onEach(func(op, key string) error {
		if op == "delete" && strings.HasPrefix(key, "wal/") {
			return logical.ErrReadOnly
		}
		return nil
	})
	do()
	m.storage.onEach(nil)
}

// TestRollbackSparesWhatAnUnreadableEntryMayHave damages the entry that has the credential: the rollback waits until it can be read.
func TestRollbackSparesWhatAnUnreadableEntryMayHave(t *testing.T) {
	t.Parallel()
	for name, damage := range unreadables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			m.keepLog(func() { m.write("static-roles/a", map[string]any{"credential_type": "pat", "rotation_period": "24h"}) })
			require.Len(t, m.walEntries(), 1)
			value := m.read("static-creds/a").Data["token_value"].(string)
			entry, err := m.storage.Get(t.Context(), staticStoragePrefix+"a")
			require.NoError(t, err)
			good := append([]byte{}, entry.Value...)
			entry.Value = damage(entry.Value)
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.restartAt(c)
			m.lapse(c, 2*time.Hour, time.Minute)
			require.Equal(t, http.StatusOK, m.whoami(value))
			require.Len(t, m.walEntries(), 1)

			entry.Value = good
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.restartAt(c)
			m.goOn(c, 10*time.Minute, time.Minute)
			require.Equal(t, value, m.read("static-creds/a").Data["token_value"])
			require.Equal(t, http.StatusOK, m.whoami(value))
			require.Empty(t, m.walEntries())
			require.Len(t, m.minted(), 1)
		})
	}
}

// TestRollbackSparesTheSecretOfAnUnreadableEntry is the same for an OAuth secret, which bears no marker that names it.
func TestRollbackSparesTheSecretOfAnUnreadableEntry(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.connect(map[string]any{"max_retries": 0})
	role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "24h"}
	m.keepLog(func() { m.write("static-roles/a", role) })
	ids := m.secretIDs(sp)
	require.Len(t, ids, 1)
	entry, err := m.storage.Get(t.Context(), staticStoragePrefix+"a")
	require.NoError(t, err)
	good := entry.Value
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: entry.Key, Value: []byte("garbage")}))
	m.restartAt(c)
	m.lapse(c, 2*time.Hour, time.Minute)
	require.Equal(t, ids, m.secretIDs(sp))
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: entry.Key, Value: good}))
	m.restartAt(c)
	m.goOn(c, 10*time.Minute, time.Minute)
	require.Equal(t, ids, m.secretIDs(sp))
	require.Equal(t, ids[0], m.read("static-creds/a").Data["secret_id"])
	require.Empty(t, m.walEntries())
}

// TestOnlyCurrentTokensAreNotDeletedByHand shows which tokens can't be deleted under those who use them.
func TestOnlyCurrentTokensAreNotDeletedByHand(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.write("static-roles/a", map[string]any{"credential_type": "pat", "rotation_grace_period": "24h"})
	refused := func(id any, words ...string) {
		t.Helper()
		for _, all := range []bool{false, true} {
			resp, err := m.do(logical.DeleteOperation, "tokens/"+id.(string), map[string]any{"all": all})
			m.refused(resp, err, append(words, "token_id: ", id.(string))...)
		}
	}
	refused(tokenIDOf(storedToken(m)), "config/rotate-root")
	root := m.write("config/rotate-root", nil).Data["credential_id"]
	refused(root, "config/rotate-root")
	old := m.read("static-roles/a").Data["credential_id"]
	refused(old, `static role "a"`, "rotate-role/a")
	current := m.write("rotate-role/a", nil).Data["credential_id"]
	refused(current, `static role "a"`)
	m.gone("tokens/" + old.(string))

	m.write("config/rotate-root", nil)
	m.gone("tokens/" + root.(string))
	made := m.read("config").Data["credential_id"]
	m.write("config", map[string]any{"token": m.byHand(0)})
	m.gone("tokens/" + made.(string))
	refused(tokenIDOf(storedToken(m)), "config/rotate-root")
	m.goOn(c, 2*day, 10*time.Minute)
	require.Empty(t, m.read("config").Data["retired_ids"])
	require.Empty(t, m.read("config").Data["pending_error"])
	require.Empty(t, m.read("static-roles/a").Data["pending_error"])
	m.requireRoot()
	m.requireStatic(c, "a")
}

// TestAForbiddenRemovalEnds shows that nobody is asked for ever to remove what has long ended by itself.
func TestAForbiddenRemovalEnds(t *testing.T) {
	t.Parallel()
	for name, forbid := range map[string]func(m *mount, c *clock){
		"by Databricks": func(m *mount, _ *clock) { m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403}) },
		"from another workspace": func(m *mount, c *clock) {
			w := simulator.New(simulator.WithClock(c.now), simulator.WithWorkspaceID("4711"))
			m.t.Cleanup(w.Close)
			other, _ := w.AddToken(w.AddUser("engine@example.com", true), "another", 0)
			m.canaries.add(other)
			m.write("config", map[string]any{"host": w.URL(), "token": other})
		},
		"to another identity": func(m *mount, _ *clock) {
			other, _ := m.workspace.AddToken(m.workspace.AddUser("plain@example.com", false), "another", 0)
			m.canaries.add(other)
			m.write("config", map[string]any{"token": other})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			m.write("static-roles/a", map[string]any{"credential_type": "pat", "lifetime": "240h"})
			m.write("rotate-role/a", nil)
			ends := m.moment(m.write("config/rotate-root", nil).Data["expiry_time"])
			m.write("config/rotate-root", nil)
			forbid(m, c)
			pending := func(path string) any { return m.read(path).Data["pending_error"] }
			m.lapse(c, 2*time.Hour, 10*time.Minute)
			require.NotEmpty(t, pending("config"))
			require.NotEmpty(t, pending("static-roles/a"))
			m.lapse(c, 10*day, time.Hour)
			require.NotEmpty(t, pending("static-roles/a"), "it has only just ended")
			m.lapse(c, day, 10*time.Minute)
			require.Empty(t, pending("static-roles/a"))

			c.advance(ends.Add(day - 2*time.Hour).Sub(c.now()))
			m.lapse(c, time.Hour, 10*time.Minute)
			require.NotEmpty(t, pending("config"))
			m.lapse(c, 4*time.Hour, 10*time.Minute)
			require.Empty(t, pending("config"))
			require.Empty(t, m.read("config").Data["retired_ids"])
			calls := m.workspace.Count("", deletePath)
			m.lapse(c, day, 10*time.Minute)
			require.Equal(t, calls, m.workspace.Count("", deletePath))
		})
	}
}

// TestARollbackThatIsForbiddenIsTriedLessOften shows how often Databricks is asked to undo what it doesn't allow.
func TestARollbackThatIsForbiddenIsTriedLessOften(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.connect(map[string]any{"max_retries": 0})
	path := secretsPath + sp.ID + "/credentials/secrets"
	m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: path, Reset: true, Times: 1, AfterEffect: true})
	require.Error(t, m.failure(m.do(logical.UpdateOperation, "static-roles/a", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})))
	require.Len(t, m.secretIDs(sp), 1)
	m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: path, Status: 403})
	calls := func(d, step time.Duration) int {
		before := m.workspace.Count(http.MethodGet, path)
		m.lapse(c, d, step)
		return m.workspace.Count(http.MethodGet, path) - before
	}
	require.Equal(t, 60, calls(time.Hour, time.Minute))
	m.lapse(c, 22*time.Hour, 10*time.Minute)
	require.Equal(t, 30, calls(30*time.Minute, time.Minute), "still within the day")
	m.lapse(c, 2*time.Hour, 10*time.Minute)
	require.InDelta(t, 6, calls(6*time.Hour, time.Minute), 1)
	m.lapse(c, 30*day, time.Hour)
	require.InDelta(t, 6, calls(6*time.Hour, time.Minute), 1)
	require.Len(t, m.walEntries(), 1)

	m.workspace.ClearFaults()
	m.lapse(c, time.Hour+time.Minute, time.Minute)
	require.Empty(t, m.secretIDs(sp))
	require.Empty(t, m.walEntries())
}

// TestTwoRolesAskForOnePlace lets two writes at once ask for the same place: one gets it.
func TestTwoRolesAskForOnePlace(t *testing.T) {
	t.Parallel()
	type ask struct {
		op   logical.Operation
		path string
		data map[string]any
	}
	patch := ask{logical.PatchOperation, "static-roles/a", map[string]any{"deliver_key": "same"}}
	create := ask{logical.CreateOperation, "static-roles/b", map[string]any{"credential_type": "pat", "deliver_scope": "ETL", "deliver_key": "SAME"}}
	for name, row := range map[string]struct {
		first, second ask
		at            string
	}{
		"a create first": {create, patch, "wal/"},
		"a patch first":  {patch, create, staticStoragePrefix + "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := delivering(t)
			m.write("static-roles/a", daily("first"))
			send := func(a ask) error {
				resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: a.op, Path: a.path, Data: a.data, Storage: m.storage, MountPoint: "databricks/"})
				if err == nil {
					err = resp.Error()
				}
				return err
			}
			second := make(chan error, 1)
			begun := false // the hook runs within the first request, until it is unset
			m.storage.onEach(func(op, key string) error {
				if op != "put" || begun || !strings.HasPrefix(key, row.at) {
					return nil
				}
				begun = true
				m.storage.mu.Lock()
				m.storage.hook = nil
				m.storage.mu.Unlock()
				go func() { second <- send(row.second) }()
				// Until it waits, or has been answered too early, because nothing held it up.
				for m.queue("place etl/same") < 2 && len(second) == 0 {
					runtime.Gosched()
				}
				return nil
			})
			require.NoError(t, send(row.first))
			require.ErrorContains(t, <-second, "is where static role")
			require.True(t, begun)
			m.goOn(c, 2*day, time.Hour)
			names := m.list("static-roles/").([]string)
			for _, role := range names {
				value, there := m.has(m.read("static-roles/" + role).Data["deliver_key"].(string))
				require.True(t, there, role)
				require.Equal(t, m.read("static-creds/" + role).Data["token_value"], value, role)
			}
		})
	}
}

// TestACopyThatWaitsToMoveIsAlive shows what readers find at the old place while the new one can't be written.
func TestACopyThatWaitsToMoveIsAlive(t *testing.T) {
	t.Parallel()
	m, c := delivering(t)
	m.write("static-roles/a", daily("first", "rotation_grace_period", "1h"))
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403})
	moved := m.patch("static-roles/a", map[string]any{"deliver_key": "second"})
	require.NotEmpty(t, moved.Warnings)
	ends := m.moment(moved.Data["expiry_time"])
	require.True(t, ends.After(c.now().Add(2*day)))
	for c.now().Add(10 * time.Minute).Before(ends.Add(-time.Minute)) {
		m.goOn(c, 10*time.Minute, 10*time.Minute)
		value, there := m.has("first")
		require.True(t, there)
		require.Equal(t, http.StatusOK, m.whoami(value), "at %s", c.now())
	}
	require.Equal(t, false, m.read("static-roles/a").Data["delivered"])
	require.NotEmpty(t, m.read("static-roles/a").Data["pending_error"])
	m.workspace.ClearFaults()
	m.goOn(c, 3*time.Hour, time.Minute)
	value, _ := m.has("second")
	require.Equal(t, m.read("static-creds/a").Data["token_value"], value)
	_, there := m.has("first")
	require.False(t, there)
	m.goOn(c, 2*time.Hour, time.Minute)
	require.Len(t, m.minted(), 1)
	m.requireStatic(c, "a")
}

// TestAForcedDeleteEndsTheCredential shows that a copy which can't be removed is at least one that is worth nothing.
func TestAForcedDeleteEndsTheCredential(t *testing.T) {
	t.Parallel()
	m, _ := delivering(t)
	m.write("static-roles/a", daily("k", "rotation_grace_period", "1h"))
	old := m.read("static-creds/a").Data["token_value"].(string)
	m.write("rotate-role/a", nil)
	value := m.read("static-creds/a").Data["token_value"].(string)
	m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 403})
	resp, err := m.do(logical.DeleteOperation, "static-roles/a", map[string]any{"force": true})
	m.requireOK(resp, err)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "A copy of a credential may be left in etl/k")
	require.Equal(t, http.StatusForbidden, m.whoami(value))
	require.Equal(t, http.StatusForbidden, m.whoami(old))
	require.Empty(t, m.minted())
	require.Nil(t, m.absent("static-roles/a"))
}

// addGarbage adds n service principals whose end has passed.
func (m *mount) addGarbage(c *clock, n int) []string {
	var ids []string
	for i := range n {
		mark := marker{mountID: testMountID, nonce: nonce(i), until: c.now().Add(-day)}
		ids = append(ids, m.workspace.AddServicePrincipal(mark.comment("x"), false).ID)
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

// TestWhatStaysUndoneIsSaidOnce shows that an operator is told of each reason once, and not at each attempt.
func TestWhatStaysUndoneIsSaidOnce(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.write("static-roles/a", map[string]any{"credential_type": "pat"})
	m.write("config/rotate-root", nil)
	m.write("config/rotate-root", nil)
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403})
	require.Error(t, m.failure(m.do(logical.DeleteOperation, "static-roles/a", nil)))
	const static, root = "what a static role has to do", "a credential of the engine that was replaced could not be removed"
	m.goOn(c, 10*day, 10*time.Minute)
	require.LessOrEqual(t, len(m.told("static-rotate-fail")), 1, "who deleted it was answered so")
	require.LessOrEqual(t, m.errorsSaid(static), 1)
	require.Len(t, m.told("root-rotate-fail"), 1)
	require.Equal(t, 1, m.errorsSaid(root))

	before := len(m.told("static-rotate-fail"))
	m.workspace.ClearFaults()
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 500})
	m.goOn(c, 10*day, 10*time.Minute)
	require.Len(t, m.told("static-rotate-fail"), before+1, "another reason")
	require.Len(t, m.told("root-rotate-fail"), 2)
	require.Equal(t, 2, m.errorsSaid(root))
	m.workspace.ClearFaults()
	m.goOn(c, 2*time.Hour, 10*time.Minute)
	require.Nil(t, m.absent("static-roles/a"))
	require.Len(t, m.minted(), 1)
}
