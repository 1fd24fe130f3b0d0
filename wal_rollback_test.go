// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"
	"vault-plugin-secrets-databricks/internal/simulator"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// connectPrincipal connects the mount with an OAuth secret of a new service principal, who is a workspace admin.
func (m *mount) connectPrincipal(more map[string]any) (engine simulator.Principal, secretID string) {
	m.t.Helper()
	engine = m.workspace.AddServicePrincipal("engine", true)
	secretID, secret := m.workspace.AddOAuthSecret(engine, 0)
	m.canaries.add(secret)
	config := map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": secret, "max_retries": 0}
	for field, value := range more {
		config[field] = value
	}
	m.write("config", config)
	return engine, secretID
}

// youngTick is what Vault does about once a minute, when every entry of the write-ahead log is too young for the rollback.
func (m *mount) youngTick() {
	m.t.Helper()
	resp, err := m.backend.HandleRequest(m.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage, Data: map[string]any{}})
	m.requireOK(resp, err)
}

// leaveLifetimes leaves the engine no other lifetimes for the next OAuth secret of the service principal than the given ones. What
// open intents asked for is only learned if it hasn't been told that it has been.
func (m *mount) leaveLifetimes(c *clock, sp simulator.Principal, least time.Duration, learned bool, left ...time.Duration) {
	l := &m.backend.(*backend).lifetimes
	l.loaded.Store(learned)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range int64(offsetRange(least) / time.Second) {
		l.reserve(reservation{sp.ID, least + seconds(i), c.now()})
	}
	for _, lifetime := range left {
		delete(l.used, sp.ID+" "+lifetime.String())
	}
}

// secretIDs are the ids of the live OAuth secrets of the service principal.
func (m *mount) secretIDs(sp simulator.Principal) []string {
	ids := []string{}
	for _, secret := range m.workspace.OAuthSecrets(sp) {
		ids = append(ids, secret.ID)
	}
	return ids
}

// lostCreates are the ways in which a create ends without its reply.
var lostCreates = map[string]simulator.Fault{
	"never arrived": {Method: http.MethodPost, Path: secretsPath + "*", Reset: true, Times: 1},
	"reply lost":    {Method: http.MethodPost, Path: secretsPath + "*", Reset: true, AfterEffect: true, Times: 1},
}

// TestRollbackSparesTheConfigsSecret gives the secret that a rotation makes after a crash the very lifetime of the one whose creation
// was not completed, at about the same time: the rollback removes the one and never the other.
func TestRollbackSparesTheConfigsSecret(t *testing.T) {
	t.Parallel()
	for name, fault := range lostCreates {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			sp, byHand := m.connectPrincipal(map[string]any{"rotation_period": "24h"})
			c.advance(day + time.Minute)
			m.workspace.Inject(fault)
			m.youngTick()
			_, in := m.walIntent()
			lost := seconds(in.Credential.Lifetime)
			require.Positive(t, lost)

			m.restartAt(c)
			c.advance(61 * time.Second)
			m.leaveLifetimes(c, sp, rootLife, true, lost)
			m.youngTick()
			id := m.read("config").Data["credential_id"].(string)
			require.NotEmpty(t, id)
			saved := m.secretIDs(sp)
			require.Contains(t, saved, id)
			for _, secret := range m.workspace.OAuthSecrets(sp) {
				if secret.ID == id {
					require.Equal(t, lost, secret.Expires.Sub(secret.Created), "the very same lifetime")
				}
			}
			m.goOn(c, 10*time.Minute, time.Minute)
			require.Equal(t, []string{byHand, id}, m.secretIDs(sp))
			require.Empty(t, m.walEntries())
			m.restartAt(c)
			m.write("config/rotate-root", nil)
		})
	}
}

// TestRollbackSparesTheSecretOfAStaticRole is the same for a static role, whose create is repeated at once.
func TestRollbackSparesTheSecretOfAStaticRole(t *testing.T) {
	t.Parallel()
	for name, fault := range lostCreates {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			sp := m.workspace.AddServicePrincipal("bi", false)
			byHand, _ := m.workspace.AddOAuthSecret(sp, 0)
			role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "lifetime": "72h"}
			m.workspace.Inject(fault)
			m.failure(m.do(logical.UpdateOperation, "static-roles/x", role))
			_, in := m.walIntent()
			lost := seconds(in.Credential.Lifetime)
			m.restartAt(c)
			m.leaveLifetimes(c, sp, 72*time.Hour, true, lost)
			creds := m.write("static-roles/y", role).Data
			id := creds["credential_id"].(string)
			m.rolledBack()
			require.Equal(t, []string{byHand, id}, m.secretIDs(sp))
			require.NotEmpty(t, m.login("/oidc/v1/token", sp.ApplicationID, m.read("static-creds/y").Data["client_secret"].(string)))
		})
	}
}

// TestRollbackOfALeaseSparesWhatIsKept rolls back the create of a leased secret that can't be told, by lifetime and time, from the
// present and the previous secret of a static role.
func TestRollbackOfALeaseSparesWhatIsKept(t *testing.T) {
	t.Parallel()
	for _, arrived := range []bool{false, true} {
		m, c := newTimedMount(t)
		m.connect(map[string]any{"max_retries": 0})
		sp := m.workspace.AddServicePrincipal("bi", false)
		role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "lifetime": "2h", "rotation_grace_period": "1h"}
		m.write("static-roles/x", role)
		m.leaveLifetimes(c, sp, 2*time.Hour, true, m.workspace.OAuthSecrets(sp)[0].Expires.Sub(m.workspace.OAuthSecrets(sp)[0].Created))
		m.write("rotate-role/x", nil)
		kept := m.secretIDs(sp)
		require.Len(t, kept, 2)
		lifetime := m.workspace.OAuthSecrets(sp)[1].Expires.Sub(m.workspace.OAuthSecrets(sp)[1].Created)
		if arrived {
			m.workspace.AddOAuthSecret(sp, lifetime)
		}
		config, err := readConfig(t.Context(), m.storage)
		require.NoError(t, err)
		made := origin{Host: config.Host, WorkspaceID: config.Identity.WorkspaceID, OwnerID: config.Identity.ID}
		_, err = framework.PutWAL(t.Context(), m.storage, walKind, intent{
			origin: made, Nonce: nonce(7), Started: c.now(), Expires: c.now().Add(lifetime + mintBudget),
			Credential: &credentialIntent{Type: credential.OAuthSecret, Role: "job", ServicePrincipalID: sp.ID, Lifetime: int64(lifetime / time.Second)},
		})
		require.NoError(t, err)
		m.rolledBack()
		require.Equal(t, kept, m.secretIDs(sp), "arrived: %t", arrived)
	}
}

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

// TestAForbiddenRemovalEnds shows that nobody is asked for ever to remove what has long ended by itself.
func TestAForbiddenRemovalEnds(t *testing.T) {
	skipLong(t)
	t.Parallel()
	for name, forbid := range map[string]func(m *mount, c *clock){
		"by Databricks": func(m *mount, _ *clock) { m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403}) },
		"from another workspace": func(m *mount, c *clock) {
			w := simulator.New(simulator.WithClock(c.now), simulator.WithWorkspaceID("4711"))
			m.t.Cleanup(w.Close)
			other, _ := w.AddToken(w.AddUser("engine@example.com", true), "another", 0)
			m.canaries.add(other)
			m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403}) // or the move would remove the config's
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

// TestRollbackLeavesTheYoung shows that Vault's own tick does not undo a create that may be under way.
func TestRollbackLeavesTheYoung(t *testing.T) {
	t.Parallel()
	require.Greater(t, walMinAge, mintBudget)
	m := ready(t)
	m.loseReply()
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.requireOK(resp, err)
	require.Len(t, m.walEntries(), 1)
	require.Len(t, m.minted(), 1)

	// Two minutes later it does.
	m.age(walMinAge + time.Second)
	resp, err = m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.requireOK(resp, err)
	require.Empty(t, m.walEntries())
	require.Empty(t, m.minted())
}

func TestRollbackTouchesNothingElse(t *testing.T) {
	t.Parallel()
	m := ready(t)
	lived := m.mint("etl")
	m.loseReply()
	lost := m.minted()[1]
	mark, ok := marker.Parse(lost.Comment)
	require.True(t, ok)
	// Comments that only look like the lost token's.
	m.workspace.AddToken(m.admin, lost.Comment+" (copied by an operator)", 0)
	m.workspace.AddToken(m.admin, "nonce "+mark.Nonce, 0)
	m.workspace.AddToken(m.admin, strings.Replace(lost.Comment, mark.Nonce, strings.Repeat("0", 32), 1), 0)
	resp, err := m.rollback()
	m.requireOK(resp, err)
	left := m.minted()
	require.Len(t, left, 4)
	require.Equal(t, lived.Data["token_id"], left[0].ID)
	for _, token := range left {
		require.NotEqual(t, lost.ID, token.ID)
	}
	require.Contains(t, m.log.String(), lost.ID)
}

func TestRollbackWhileTheMountIsDisabled(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.loseReply()
	m.system.TaintedVal = true
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.requireOK(resp, err)
	require.Empty(t, m.minted())
	require.Empty(t, m.walEntries())
}

func TestRollbackListsOnce(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: createPath, AfterEffect: true, Reset: true, Times: 20})
	for range 20 {
		_, err := m.do(logical.ReadOperation, "creds/etl", nil)
		require.Error(t, err)
	}
	outage := m.workspace.Inject(simulator.Fault{Path: listPath, Status: 500, ErrorCode: "INTERNAL_ERROR"})
	resp, err := m.rollback()
	require.NoError(t, err)
	require.True(t, resp.IsError())
	require.Equal(t, 1, outage.Hits(), "a list that fails is not repeated for every entry")
	outage.Clear()
	m.workspace.ResetCalls()
	resp, err = m.rollback()
	m.requireOK(resp, err)
	require.Equal(t, 1, m.workspace.Count("", listPath))
	require.Empty(t, m.minted())
	require.Empty(t, m.walEntries())
}

func TestRollbackFailsAndIsRepeated(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.write("config", map[string]any{"max_retries": 0})
	m.loseReply()
	tryAndFail := func(words ...string) {
		t.Helper()
		resp, err := m.rollback()
		require.NoError(t, err)
		require.True(t, resp.IsError())
		for _, word := range words {
			require.Contains(t, resp.Error().Error(), word)
		}
		require.Len(t, m.walEntries(), 1, "the entry stays")
	}

	m.workspace.Inject(simulator.Fault{Path: listPath, Status: 500, ErrorCode: "INTERNAL_ERROR"})
	tryAndFail("INTERNAL_ERROR")
	tryAndFail("INTERNAL_ERROR")
	require.Equal(t, 1, strings.Count(m.log.String(), "[ERROR]"), "Vault does not log such a failure, so the engine does, once")
	m.workspace.ClearFaults()
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403, ErrorCode: "PERMISSION_DENIED"})
	tryAndFail("PERMISSION_DENIED")
	m.workspace.ClearFaults()
	resp, err := m.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	m.requireOK(resp, err)
	tryAndFail("no connection yet")
	m.connect(map[string]any{"verify_connection": false, "max_retries": 0})
	m.workspace.Inject(simulator.Fault{Path: mePath, Status: 500, ErrorCode: "INTERNAL_ERROR", Times: 1})
	tryAndFail("scim/me")
	m.storage.onEach(func(op, key string) error {
		if op == "delete" {
			return errors.New("disk full")
		}
		return nil
	})
	tryAndFail("disk full")
	m.storage.onEach(nil)

	resp, err = m.rollback()
	m.requireOK(resp, err)
	require.Empty(t, m.walEntries())
	require.Empty(t, m.minted())
}

func TestRollbackGoneMeanwhile(t *testing.T) {
	t.Parallel()
	m := ready(t)
	id := m.loseReply()
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: http.StatusNotFound, ErrorCode: "RESOURCE_DOES_NOT_EXIST"})
	resp, err := m.rollback()
	m.requireOK(resp, err)
	require.Empty(t, m.walEntries())
	require.Equal(t, id, m.minted()[0].ID, "the fault lied, but the engine had to believe it")
}

func TestRollbackOverAnotherIdentity(t *testing.T) {
	t.Parallel()

	t.Run("an admin", func(t *testing.T) {
		t.Parallel()
		m := ready(t)
		m.loseReply()
		token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", true), "the engine's own", 0)
		m.write("config", map[string]any{"token": token})
		resp, err := m.rollback()
		m.requireOK(resp, err)
		require.Empty(t, m.minted())
	})

	for name, elsewhere := range map[string]bool{"no admin": false, "another workspace": true} {
		t.Run(name+": it complains, once and loudly, and goes on trying", func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			m.loseReply()
			mark, _ := marker.Parse(m.minted()[0].Comment)
			if elsewhere {
				other := simulator.New(simulator.WithWorkspaceID("4242"))
				t.Cleanup(other.Close)
				token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
				m.write("config", map[string]any{"host": other.URL(), "token": token})
			} else {
				token, _ := m.workspace.AddToken(m.workspace.AddUser("other@example.com", false), "the engine's own", 0)
				m.write("config", map[string]any{"token": token})
			}
			for range 2 {
				resp, err := m.rollback()
				require.NoError(t, err)
				require.True(t, resp.IsError())
			}
			log := m.log.String()
			require.Equal(t, 1, strings.Count(log, "could not be undone yet"))
			require.Contains(t, log, "nonce="+mark.Nonce)
			require.Contains(t, log, "[ERROR]")

			m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token})
			resp, err := m.rollback()
			m.requireOK(resp, err)
			require.Empty(t, m.walEntries())
			require.Empty(t, m.minted())
		})
	}
}

func TestRollbackOfOtherEntries(t *testing.T) {
	t.Parallel()
	m := ready(t)
	here := origin{Host: m.workspace.URL(), WorkspaceID: m.workspace.ID(), OwnerID: m.admin.ID}

	t.Run("past its expiry", func(t *testing.T) {
		_, err := framework.PutWAL(t.Context(), m.storage, walKind, intent{Credential: &credentialIntent{Type: credential.PAT}, Nonce: "x", Expires: time.Now().Add(-time.Second)})
		require.NoError(t, err)
		m.workspace.ResetCalls()
		resp, err := m.rollback()
		m.requireOK(resp, err)
		require.Empty(t, m.walEntries())
		require.Empty(t, m.workspace.Calls())
	})

	for name, row := range map[string]struct {
		kind string
		data any
		word string
	}{
		"an unknown kind":            {"teleport", map[string]any{}, `"teleport"`},
		"an unknown credential type": {walKind, intent{origin: here, Credential: &credentialIntent{Type: "hologram"}, Expires: time.Now().Add(time.Hour)}, `"hologram"`},
		"a broken entry":             {walKind, map[string]any{"expires": 7}, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := framework.PutWAL(t.Context(), m.storage, row.kind, row.data)
			require.NoError(t, err)
			resp, err := m.rollback()
			require.NoError(t, err)
			require.ErrorContains(t, resp.Error(), row.word)
			require.Equal(t, []string{id}, m.walEntries(), "what is not understood is not thrown away")
			require.NoError(t, framework.DeleteWAL(t.Context(), m.storage, id))
		})
	}
}
