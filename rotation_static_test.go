// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/schedule"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// withStatic is a mount with the static role "bi" just written.
func withStatic(t *testing.T, kind string, role map[string]any) *staticWalk {
	t.Helper()
	w := newStaticWalk(t, kind, role)
	w.write("static-roles/bi", w.role)
	w.sound(false)
	w.workspace.ResetCalls()
	return w
}

// deliveredTo adds the place of delivery to the fields of a role.
func deliveredTo(key string, more map[string]any) map[string]any {
	fields := map[string]any{"deliver_scope": "etl", "deliver_key": key}
	maps.Copy(fields, more)
	return fields
}

// state is the role as it is read.
func (w *staticWalk) state() map[string]any {
	w.t.Helper()
	resp := w.read("static-roles/bi")
	require.NotNil(w.t, resp)
	return resp.Data
}

// rotated replaces the credential by a request, and answers the new secret part.
func (w *staticWalk) rotated() string {
	w.t.Helper()
	w.write("rotate-role/bi", nil)
	return w.value()
}

func (w *staticWalk) after(d time.Duration) {
	w.t.Helper()
	w.clock.advance(d)
	w.tick()
}

// TestYesterdaysCredentialWorks shows how long one goes on working that was replaced.
func TestYesterdaysCredentialWorks(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		role  map[string]any
		grace time.Duration
	}{
		"as said":                   {map[string]any{"rotation_period": "24h", "rotation_grace_period": "6h"}, 6 * time.Hour},
		"an hour by default":        {map[string]any{"rotation_period": "24h"}, time.Hour},
		"by cron":                   {map[string]any{"rotation_schedule": "*/10 * * * *"}, 10 * time.Minute},
		"no longer than the period": {map[string]any{"rotation_period": "10m"}, 10 * time.Minute},
		"none":                      {map[string]any{"rotation_period": "24h", "rotation_grace_period": 0}, 0},
	} {
		for _, kind := range credential.Names(credential.Static) {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				w := withStatic(t, kind, deliveredTo("bi", row.role))
				require.EqualValues(t, row.grace/time.Second, w.state()["rotation_grace_period"])
				old := w.value()
				period := w.moment(w.state()["next_vault_rotation"]).Sub(w.moment(w.state()["last_vault_rotation"]))
				w.after(period - time.Minute)
				require.Equal(t, old, w.value(), "not yet")
				w.after(time.Minute)
				require.NotEqual(t, old, w.value())
				at := w.clock.now()
				w.sound(row.grace > 0)
				require.Equal(t, row.grace > 0, w.works(old))
				if row.grace == 0 || row.grace == period {
					return
				}
				w.clock.advance(at.Add(row.grace - time.Minute).Sub(w.clock.now()))
				w.tick()
				require.True(t, w.works(old))
				w.after(time.Minute)
				require.False(t, w.works(old))
				w.sound(false)
			})
		}
	}
}

// TestStaticTTL shows what readers are told about when to read again.
func TestStaticTTL(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "1h"})
	ttl := func() any { return w.read("static-creds/bi").Data["ttl"] }
	w.clock.advance(59 * time.Minute)
	require.InDelta(t, 60, ttl(), 2)
	w.clock.advance(time.Hour)
	require.EqualValues(t, 1, ttl(), "overdue, so soon, but not at once")
	w.workspace.Inject(simulator.Fault{Path: createPath, Status: 403})
	for range 12 {
		w.after(schedule.LongestRetry)
	}
	state := w.state()
	require.Equal(t, 12, state["rotation_failures"])
	require.Contains(t, state["last_rotation_error"], "403")
	retry := w.moment(state["next_rotation_attempt"])
	require.WithinDuration(t, w.clock.now().Add(schedule.LongestRetry), retry, 2*time.Second)
	require.InDelta(t, schedule.LongestRetry.Seconds(), ttl(), 2, "until the next attempt")
	w.workspace.ClearFaults()
	w.after(schedule.LongestRetry)
	w.after(time.Hour)
	require.Zero(t, w.state()["rotation_failures"])
	require.Equal(t, 12, strings.Count(w.log.String(), "[ERROR] a rotation failed; it is tried again"))

	manual := withStatic(t, credential.OAuthSecret, map[string]any{"lifetime": "2h"})
	creds := manual.read("static-creds/bi").Data
	require.InDelta(t, manual.moment(creds["expiry_time"]).Sub(manual.clock.now()).Seconds(), creds["ttl"], 2, "until its end")
	require.NotContains(t, creds, "rotation_schedule")
	require.Nil(t, manual.state()["next_vault_rotation"])
	for range 50 {
		manual.after(time.Minute)
	}
	require.Equal(t, creds["secret_id"], manual.state()["credential_id"])
	manual.rotated()
	manual.after(time.Hour)
	manual.sound(false)
}

// TestStaticSchedule shows that cron is in UTC, and that what was missed by more than its window is left out.
func TestStaticSchedule(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, map[string]any{"rotation_schedule": "30 13 * * *", "rotation_window": "1h"})
	w.clock.mu.Lock()
	w.clock.at = w.clock.at.In(time.FixedZone("east", 5*3600))
	w.clock.mu.Unlock()
	first := w.value()
	w.after(89 * time.Minute)
	require.Equal(t, first, w.value())
	w.after(time.Minute)
	second := w.value()
	require.NotEqual(t, first, second)
	require.Equal(t, "2026-03-02T13:30:00Z", w.state()["next_vault_rotation"])
	w.clock.advance(25 * time.Hour)
	w.restartAt(w.clock)
	w.tick()
	require.Equal(t, second, w.value(), "its window has passed")
	require.Equal(t, "2026-03-03T13:30:00Z", w.state()["next_vault_rotation"])
	require.Contains(t, w.log.String(), "a rotation of a static role was left out")
	w.clock.advance(time.Date(2026, 3, 3, 14, 29, 0, 0, time.UTC).Sub(w.clock.now()))
	w.tick()
	require.NotEqual(t, second, w.value(), "within its window")
	w.after(2 * time.Hour)
	w.sound(false)

	// Without a window, what was missed is made up for, once.
	w = withStatic(t, credential.PAT, map[string]any{"rotation_schedule": "30 13 * * *"})
	first = w.value()
	w.after(5*24*time.Hour + time.Hour)
	second = w.value()
	require.NotEqual(t, first, second)
	w.after(time.Minute)
	require.Equal(t, second, w.value())
}

// TestARestartRotatesNothing shows that neither a restart nor a reload does.
func TestARestartRotatesNothing(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.OAuthSecret, deliveredTo("bi", map[string]any{"rotation_period": "1h"}))
	before, state := w.read("static-creds/bi").Data, w.state()
	for range 3 {
		w.restartAt(w.clock)
		w.tick()
	}
	require.Empty(t, w.workspace.Calls())
	after := w.read("static-creds/bi").Data
	delete(before, "ttl")
	delete(after, "ttl")
	requireSameJSON(t, before, after)
	require.Equal(t, state, w.state())

	// A tick with nothing due looks at no static role.
	w.tick()
	w.storage.onEach(func(op, key string) error {
		require.NotContains(t, key, staticStoragePrefix)
		return nil
	})
	w.after(time.Minute)
}

func requireSameJSON(t *testing.T, want, have any) {
	t.Helper()
	a, err := json.Marshal(want)
	require.NoError(t, err)
	b, err := json.Marshal(have)
	require.NoError(t, err)
	require.JSONEq(t, string(a), string(b))
}

// TestFiveSecrets shows that a rotation waits for room, and that a request for one makes the room that it can.
func TestFiveSecrets(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.OAuthSecret, map[string]any{"rotation_period": "24h", "rotation_grace_period": "2h"})
	id, _ := w.workspace.AddOAuthSecret(w.sp, 0)
	w.foreign[id] = true
	w.rotated() // five: three of the operator's, and two
	resp, err := w.do(logical.UpdateOperation, "rotate-role/bi", nil)
	w.refused(resp, err, "a service principal can have 5 OAuth secrets, and "+w.sp.ID+" has 5")
	w.sound(true)
	w.clock.advance(2*time.Hour + time.Minute)
	w.rotated()
	w.sound(true)

	w.after(3 * time.Hour)
	id, _ = w.workspace.AddOAuthSecret(w.sp, 0)
	w.after(24 * time.Hour)
	require.Contains(t, w.state()["last_rotation_error"], "a service principal can have 5 OAuth secrets")
	require.True(t, w.works(w.value()))
	w.workspace.RevokeOAuthSecret(id)
	w.after(time.Minute)
	w.sound(true)
}

// TestLateDelivery shows that what is delivered works until its successor is delivered.
func TestLateDelivery(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]simulator.Fault{
		"refused":    {Path: secretPutPath, Status: 403},
		"broken":     {Path: secretPutPath, Status: 500},
		"unlistable": {Path: secretListPath, Status: 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := withStatic(t, credential.OAuthSecret, deliveredTo("bi", map[string]any{"rotation_period": "12h", "rotation_grace_period": "10m"}))
			old := w.value()
			w.workspace.Inject(fault)
			w.after(12 * time.Hour)
			require.NotEqual(t, old, w.value(), "whoever reads from Vault has the new one")
			for range 20 {
				w.after(10 * time.Minute)
			}
			have, _ := w.has("bi")
			require.Equal(t, old, have)
			require.True(t, w.works(old), "long after its grace")
			require.True(t, w.works(w.value()))
			state := w.state()
			require.Equal(t, false, state["delivered"])
			require.Contains(t, state["pending_error"], "deliver the credential to etl/bi")
			require.True(t, w.moment(state["next_pending_attempt"]).After(w.clock.now()))
			require.Len(t, state["retired_ids"], 1)
			w.workspace.ClearFaults()
			w.after(time.Hour)
			w.after(time.Hour)
			w.sound(false)
			require.False(t, w.works(old))
		})
	}
}

// TestNothingStaysOfARoleThatCannotBeDelivered shows it for roles that are new.
func TestNothingStaysOfARoleThatCannotBeDelivered(t *testing.T) {
	t.Parallel()
	for _, kind := range credential.Names(credential.Static) {
		w := newStaticWalk(t, kind, deliveredTo("bi", nil))
		w.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403})
		resp, err := w.do(logical.UpdateOperation, "static-roles/bi", w.role)
		w.refused(resp, err, "the static role was not created, and nothing is left of it", "needs WRITE")
		w.absent()
		w.workspace.ClearFaults()
		w.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 500})
		resp, err = w.do(logical.UpdateOperation, "static-roles/bi", w.role)
		w.coded(http.StatusBadGateway, resp, err, "the static role was not created, and nothing is left of it")
		w.absent()
		w.workspace.ClearFaults()
		w.workspace.Inject(simulator.Fault{Path: secretPutPath, Reset: true})
		w.workspace.Inject(simulator.Fault{Path: deletePath, Status: 500})
		w.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Status: 500})
		resp, err = w.do(logical.UpdateOperation, "static-roles/bi", w.role)
		w.coded(http.StatusBadGateway, resp, err, "the static role was not created, and what was made of it is removed within minutes")
		require.Contains(t, w.read("static-roles/bi").Warnings[0], "being deleted")
		w.workspace.ClearFaults()
		w.after(2 * time.Minute)
		w.absent()
	}
}

// TestSomebodyOverwritesTheKey shows whose value stays.
func TestSomebodyOverwritesTheKey(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, deliveredTo("bi", map[string]any{"rotation_period": "24h"}))
	w.workspace.PutSecret("etl", "bi", []byte("somebody else's"))
	w.after(time.Hour)
	value, _ := w.has("bi")
	require.Equal(t, "somebody else's", value, "until the next rotation")
	w.rotated()
	w.sound(true)
	w.workspace.PutSecret("etl", "bi", []byte("somebody else's"))
	w.gone("static-roles/bi")
	w.keysAre(map[string]string{"theirs": "the operator's", "bi": "somebody else's"})
	require.Empty(t, w.live())
}

// TestMovingTheDelivery shows that the copy follows the role, and that no copy is left behind.
func TestMovingTheDelivery(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.OAuthSecret, deliveredTo("bi", nil))
	id := w.state()["credential_id"]
	w.write("static-roles/bi", map[string]any{"deliver_key": "other"})
	w.sound(false)
	w.write("static-roles/bi", map[string]any{"deliver_key": "OTHER"})
	require.Equal(t, true, w.state()["delivered"], "names ignore case")
	w.patch("static-roles/bi", map[string]any{"deliver_scope": nil, "deliver_key": nil})
	w.keysAre(map[string]string{"theirs": "the operator's"})
	require.Equal(t, false, w.state()["delivered"])
	w.write("static-roles/bi", deliveredTo("again", nil))
	w.sound(false)
	require.Equal(t, id, w.state()["credential_id"], "it is still the same credential")

	// There and back, while nothing can be removed.
	fault := w.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 500})
	resp := w.write("static-roles/bi", deliveredTo("bi", nil))
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "remove the copy in etl/again")
	w.write("static-roles/bi", deliveredTo("again", nil))
	fault.Clear()
	w.after(time.Hour)
	w.sound(false)
}

// TestMovingALateDelivery shows that a copy is found which nobody knew to have been delivered.
func TestMovingALateDelivery(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]map[string]any{
		"moved":             {"deliver_key": "other"},
		"removed":           {"deliver_scope": "", "deliver_key": ""},
		"moved and rotated": {"deliver_key": "other", "scopes": "jobs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := withStatic(t, credential.PAT, deliveredTo("bi", nil))
			w.failPut(simulator.Fault{Path: secretPutPath, Reset: true, AfterEffect: true, Times: 1}, 1)
			w.write("rotate-role/bi", nil)
			require.Equal(t, false, w.state()["delivered"])
			w.write("static-roles/bi", change)
			w.after(2 * time.Hour)
			w.sound(false)
		})
	}
}

// TestTwoRequestsAtOnce shows that requests for one role come one after the other.
func TestTwoRequestsAtOnce(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.PAT, deliveredTo("bi", nil))
	var all sync.WaitGroup
	for i := range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			path, data := "static-roles/bi", w.role
			if i%2 == 1 {
				path, data = "rotate-role/bi", nil
			}
			_, _ = w.backend.HandleRequest(context.Background(), &logical.Request{
				ID: "1", Operation: logical.UpdateOperation, Path: path, Data: maps.Clone(data), Storage: w.storage, MountPoint: "databricks/",
			})
			_, _ = w.rollback() // which finds requests under way
		}()
	}
	all.Wait()
	w.after(2 * time.Hour)
	w.sound(false)
}

// TestALeaseAtTheSamePlace shows that the end of a lease leaves the copy alone that a role delivers over it, and that nothing is leased over
// the copy of a role: the end of that lease would take it away.
func TestALeaseAtTheSamePlace(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.PAT, deliveredTo("bi", nil))
	lease := w.write("secrets/etl/bi", leasedValue).Secret
	w.write("static-roles/bi", w.role)
	w.end(lease)
	w.sound(false)
	for _, key := range []string{"bi", "BI"} {
		resp, err := w.do(logical.UpdateOperation, "secrets/etl/"+key, leasedValue)
		w.refused(resp, err, "key: ", "static role")
		w.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
		resp, err = w.do(logical.UpdateOperation, "creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": key})
		w.refused(resp, err, "deliver_key: ", "static role")
	}
	w.sound(false)
	w.gone("static-roles/bi")
	w.absent()
}

// TestDeletingLater shows that a role whose things can't be removed yet is being deleted until they are.
func TestDeletingLater(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.OAuthSecret, deliveredTo("bi", map[string]any{"rotation_period": "10m", "rotation_grace_period": "10m"}))
	w.rotated()
	w.workspace.Inject(simulator.Fault{Status: 503})
	for range 2 {
		resp, err := w.do(logical.DeleteOperation, "static-roles/bi", nil)
		w.coded(http.StatusBadGateway, resp, err, `static role "bi" is marked as deleted`, "force=true forgets it")
	}
	w.restartAt(w.clock)
	role := w.read("static-roles/bi")
	require.Contains(t, role.Warnings[0], "being deleted")
	require.NotEmpty(t, role.Data["pending_error"])
	require.Equal(t, []string{"bi"}, w.list("static-roles/"))
	for path, op := range map[string]logical.Operation{"static-creds/bi": logical.ReadOperation, "rotate-role/bi": logical.UpdateOperation, "static-roles/bi": logical.UpdateOperation} {
		resp, err := w.do(op, path, nil)
		w.refused(resp, err, `name: static role "bi" is being deleted`)
	}
	resp, err := w.do(logical.PatchOperation, "static-roles/bi", nil)
	w.refused(resp, err, "is being deleted")
	creates := w.workspace.Count(http.MethodPost, secretsPath+"*")
	for range 20 {
		w.after(time.Minute)
	}
	require.Equal(t, creates, w.workspace.Count(http.MethodPost, secretsPath+"*"), "it is rotated no more")
	w.workspace.ClearFaults()
	w.after(time.Hour)
	w.absent()
}

func TestForcedDelete(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, nil)
	w.rotated()
	fault := w.workspace.Inject(simulator.Fault{Path: deletePath, Status: 503})
	resp, err := w.do(logical.DeleteOperation, "static-roles/bi", map[string]any{"force": true})
	w.requireOK(resp, err)
	text := strings.Join(resp.Warnings, "\n")
	for _, id := range w.live() {
		require.Contains(t, text, "pat "+id+" may be left at "+w.workspace.URL())
	}
	require.Len(t, resp.Warnings, 2)
	require.Nil(t, w.read("static-roles/bi"))
	fault.Clear()
	w.after(time.Hour)
	require.Len(t, w.live(), 2, "they are forgotten")
}

// TestDeletingWhatIsHalfGone shows that what was removed by hand is no hindrance.
func TestDeletingWhatIsHalfGone(t *testing.T) {
	t.Parallel()
	t.Run("the scope", func(t *testing.T) {
		t.Parallel()
		w := withStatic(t, credential.PAT, deliveredTo("bi", nil))
		w.gone("scopes/etl")
		w.gone("static-roles/bi")
		require.Empty(t, w.live())
		require.Nil(t, w.read("static-roles/bi"))
	})
	t.Run("the scope, before the delivery", func(t *testing.T) {
		t.Parallel()
		w := withStatic(t, credential.PAT, deliveredTo("bi", nil))
		w.gone("scopes/etl")
		resp := w.write("rotate-role/bi", nil)
		require.Contains(t, strings.Join(resp.Warnings, "\n"), "write scopes/etl")
		w.gone("static-roles/bi")
		require.Empty(t, w.live())
	})
	t.Run("the service principal", func(t *testing.T) {
		t.Parallel()
		w := withStatic(t, credential.OAuthSecret, deliveredTo("bi", map[string]any{"rotation_period": "1h"}))
		require.NoError(t, w.removeByHand(w.sp))
		w.after(time.Hour)
		require.Contains(t, w.state()["last_rotation_error"], "there is no service principal")
		clear(w.foreign)
		w.gone("static-roles/bi")
		w.absent()
	})
	t.Run("the credential", func(t *testing.T) {
		t.Parallel()
		w := withStatic(t, credential.PAT, map[string]any{"rotation_grace_period": "1h"})
		w.rotated()
		for _, id := range w.live() {
			w.workspace.RevokeToken(id)
		}
		w.after(time.Hour)
		require.Empty(t, w.state()["retired_ids"])
		require.Empty(t, w.state()["pending_error"])
		w.gone("static-roles/bi")
		w.absent()
	})
}

// TestAnotherCredential shows that a role which asks for another kind of credential is rotated at once, with the usual overlap.
func TestAnotherCredential(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, deliveredTo("bi", map[string]any{"rotation_period": "24h"}))
	first := w.value()
	w.clock.advance(time.Hour)
	w.write("static-roles/bi", map[string]any{"scopes": "sql"})
	second := w.value()
	require.NotEqual(t, first, second)
	require.Equal(t, []string{"sql"}, w.workspace.Introspect(second).Scopes)
	require.True(t, w.works(first))
	w.sound(true)

	resp := w.write("static-roles/bi", map[string]any{"credential_type": "oauth_secret", "service_principal_id": w.sp.ID})
	creds := w.read("static-creds/bi").Data
	require.NotContains(t, creds, "token_value")
	require.NotEmpty(t, w.login(grantPath, w.sp.ApplicationID, creds["client_secret"].(string)))
	w.canaries.add(creds["client_secret"])
	require.Len(t, resp.Data["retired_ids"], 2)
	require.True(t, w.works(second))
	have, _ := w.has("bi")
	require.Equal(t, creds["client_secret"], have)

	other := w.workspace.AddServicePrincipal("other", false)
	w.write("static-roles/bi", map[string]any{"service_principal_id": other.ID})
	creds = w.read("static-creds/bi").Data
	require.Equal(t, other.ApplicationID, creds["client_id"])
	w.canaries.add(creds["client_secret"])
	require.Len(t, w.workspace.OAuthSecrets(other), 1)
	require.Len(t, w.workspace.OAuthSecrets(w.sp), 1)
	w.after(time.Hour)
	require.Empty(t, w.live(), "of tokens")
	require.Empty(t, w.workspace.OAuthSecrets(w.sp))
	require.Empty(t, w.state()["retired_ids"])
	w.gone("static-roles/bi")
	require.Empty(t, w.workspace.OAuthSecrets(other))
}

// TestALongerSchedule shows that a credential which was made for a shorter one is replaced, so that none ends before its time.
func TestALongerSchedule(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]map[string]any{
		"period":   {"rotation_period": "720h"},
		"schedule": {"rotation_period": "0", "rotation_schedule": "0 3 1 * *"},
		"grace":    {"rotation_grace_period": "48h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "1h"})
			old := w.value()
			w.write("static-roles/bi", change)
			state := w.state()
			next := w.moment(state["next_vault_rotation"])
			require.True(t, next.Before(w.moment(state["expiry_time"])), "in good time before it ends")
			require.LessOrEqual(t, w.read("static-creds/bi").Data["ttl"], int64(next.Sub(w.clock.now())/time.Second))
			w.clock.advance(next.Sub(w.clock.now()))
			w.tick()
			require.NotEqual(t, old, w.value())
			require.True(t, w.works(old), "with an overlap")
			state = w.state()
			next = w.moment(state["next_vault_rotation"])
			grace := seconds(state["rotation_grace_period"].(int64))
			require.False(t, w.moment(state["expiry_time"]).Before(next.Add(grace)))
			last := w.value()
			w.clock.advance(next.Add(-time.Minute).Sub(w.clock.now()))
			require.True(t, w.works(last))
			w.tick()
			require.Equal(t, last, w.value())
		})
	}
	w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "24h"})
	old := w.value()
	w.write("static-roles/bi", map[string]any{"rotation_period": "12h", "rotation_grace_period": "2h"})
	require.Equal(t, old, w.value(), "it lives long enough")
}

// TestStaticTokensOfAnIdentityOfBefore shows how the engine's next identity gets at them, or that it says why not.
func TestStaticTokensOfAnIdentityOfBefore(t *testing.T) {
	t.Parallel()
	for _, admin := range []bool{true, false} {
		w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "24h"})
		old := w.value()
		user := w.workspace.AddUser("next@example.com", admin)
		token, _ := w.workspace.AddToken(user, "the engine's own", 0)
		w.write("config", map[string]any{"token": token})
		w.after(24 * time.Hour)
		require.Equal(t, user.ID, w.workspace.Introspect(w.value()).Owner.ID)
		require.True(t, w.works(old))
		w.after(time.Hour)
		require.Equal(t, !admin, w.works(old))
		if admin {
			w.sound(false)
			continue
		}
		state := w.state()
		require.Contains(t, state["pending_error"], "remove pat "+state["retired_ids"].([]string)[0])
		require.Contains(t, w.log.String(), "what a static role has to do at Databricks after a rotation could not be done yet")
		w.write("config", map[string]any{"token": w.token})
		w.after(time.Hour)
		require.False(t, w.works(old))
	}
}

// TestStaticRolesAfterTheMountWasConnectedElsewhere shows that nothing is done in a workspace that it was not meant for.
func TestStaticRolesAfterTheMountWasConnectedElsewhere(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, deliveredTo("bi", map[string]any{"rotation_period": "24h", "rotation_grace_period": "1h"}))
	old := w.value()
	elsewhere := simulator.New(simulator.WithWorkspaceID("4242"), simulator.WithClock(w.clock.now))
	t.Cleanup(elsewhere.Close)
	engine := elsewhere.AddUser("engine@example.com", true)
	elsewhere.AddScope("etl", engine)
	elsewhere.PutSecret("etl", "other", []byte("theirs"))
	token, _ := elsewhere.AddToken(engine, "", 0)
	w.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
	require.Equal(t, old, w.value())
	require.Equal(t, w.workspace.URL(), w.read("static-creds/bi").Data["host"], "where the credential is good")
	resp, err := w.do(logical.DeleteOperation, "static-roles/x", nil)
	w.requireOK(resp, err)

	w.after(24 * time.Hour)
	creds := w.read("static-creds/bi").Data
	require.Equal(t, elsewhere.URL(), creds["host"])
	require.True(t, elsewhere.Introspect(w.secretOf(&logical.Response{Data: creds})).Live)
	w.after(time.Hour)
	require.Contains(t, w.state()["pending_error"], "the mount is now connected to "+elsewhere.URL())
	resp, err = w.do(logical.DeleteOperation, "static-roles/bi", nil)
	w.refused(resp, err, "is marked as deleted", "connect it to the first again, or wait until it ends by itself")
	require.Len(t, elsewhere.Tokens(), 1, "what is in reach is removed")
	require.Len(t, elsewhere.Scopes()[0].Secrets, 1)
	w.write("config", map[string]any{"host": w.workspace.URL(), "token": w.token})
	w.after(2 * time.Hour)
	require.Nil(t, w.read("static-roles/bi"))
	require.Empty(t, w.live())
}

// TestStaticRolesOnAnotherNode shows that a node which is told of a change reads anew, and that one which may not write leaves
// rotations alone.
func TestStaticRolesOnAnotherNode(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "1h"})
	system := *w.system
	other := &mount{t: t, routes: w.routes, storage: w.storage, system: &system, events: w.events, log: w.log, workspace: w.workspace, token: w.token}
	b, err := Factory(context.Background(), other.config())
	require.NoError(t, err)
	b.(*backend).clock = w.clock.now
	other.backend = b
	require.Equal(t, w.value(), other.read("static-creds/bi").Data["token_value"])
	system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	w.clock.advance(2 * time.Hour)
	w.workspace.ResetCalls()
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary} {
		system.ReplicationStateVal = state
		_, _ = other.rollback()
	}
	require.Empty(t, w.workspace.Calls())
	for path, op := range map[string]logical.Operation{"static-roles/bi": logical.UpdateOperation, "rotate-role/bi": logical.UpdateOperation} {
		system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		_, err := other.do(op, path, nil)
		require.ErrorIs(t, err, logical.ErrReadOnly)
	}
	w.tick()
	require.NotEqual(t, w.value(), other.read("static-creds/bi").Data["token_value"], "not told yet")
	b.InvalidateKey(context.Background(), "static/bi")
	require.Equal(t, w.value(), other.read("static-creds/bi").Data["token_value"])

	// A mount that is being disabled begins nothing new.
	w.system.TaintedVal = true
	w.clock.advance(2 * time.Hour)
	before := w.value()
	w.tick()
	require.Equal(t, before, w.value())
}

// TestAnErrorNeverShowsTheCredential lets Databricks repeat what it was sent.
func TestAnErrorNeverShowsTheCredential(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.OAuthSecret, deliveredTo("bi", nil))
	w.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 500, Times: 1})
	value := w.rotated()
	w.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 400, ErrorCode: "BAD_REQUEST", Message: "can't store " + value, Times: 1})
	w.after(2 * time.Minute)
	trouble := w.state()["pending_error"].(string)
	require.Contains(t, trouble, "can't store")
	require.NotContains(t, trouble, value)
	require.NotContains(t, w.log.String(), value)
	w.after(time.Hour) // it is delivered now, and so the grace of what it replaces begins now
	w.after(time.Hour)
	w.sound(false)
}

// TestManyStaticRolesAtOnce lets 200 be due at the same time.
func TestManyStaticRolesAtOnce(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	for i := range 200 {
		m.write(fmt.Sprintf("static-roles/r%03d", i), map[string]any{"credential_type": "pat", "rotation_period": "1h", "rotation_grace_period": 0})
	}
	m.workspace.ResetCalls()
	c.advance(time.Hour)
	m.tick()
	require.Len(t, m.minted(), 200)
	require.Equal(t, 200, m.workspace.Count("", createPath))
	require.Equal(t, 200, m.workspace.Count("", deletePath))
	for _, token := range m.minted() {
		require.WithinDuration(t, c.now(), token.Created, 10*time.Minute)
	}
	m.workspace.ResetCalls()
	c.advance(30 * time.Minute)
	m.tick()
	require.Empty(t, m.workspace.Calls())
}

// TestDamagedStaticRoles shows that one which makes no sense stops nobody else, and can be forgotten.
func TestDamagedStaticRoles(t *testing.T) {
	t.Parallel()
	good := `"state":{"current":{"id":"1","credential_type":"pat"},"answer":{},"field":"token_value","next_vault_rotation":"2026-01-01T00:00:00Z"`
	for name, garbage := range map[string]string{
		"no JSON":               `{`,
		"of another shape":      `[1]`,
		"empty":                 `{}`,
		"no credential":         `{"credential_type":"pat","rotation_period":60,"state":{"next_vault_rotation":"2026-01-01T00:00:00Z"}}`,
		"of an unknown type":    `{"credential_type":"x509","rotation_period":60,` + good + `}}`,
		"without a type":        `{"rotation_period":60,` + good + `}}`,
		"has had another type":  `{"credential_type":"pat","rotation_period":0,` + good + `,"retired":[{"id":"2","credential_type":"x509","until":"2026-01-01T00:00:00Z","expires":"2027-01-01T00:00:00Z"}]}}`,
		"is deleted of unknown": `{"credential_type":"x509",` + good + `,"deleting":true}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := withStatic(t, credential.OAuthSecret, map[string]any{"rotation_period": "1h"})
			require.NoError(t, w.storage.Storage.Put(t.Context(), &logical.StorageEntry{Key: "static/aaa", Value: []byte(garbage)}))
			require.Len(t, w.list("static-roles/"), 2)
			w.restartAt(w.clock)
			before := w.value()
			w.workspace.Inject(simulator.Fault{Path: secretsPath + "*", Status: 500, AfterEffect: true, Times: 1}) // something for the rollback
			w.clock.advance(time.Hour)
			w.tick()
			require.Contains(t, w.log.String(), `the stored static role \"aaa\" cannot be read`)
			w.clock.advance(time.Minute)
			w.tick()
			require.NotEqual(t, before, w.value())
			w.sound(true)
			for path, op := range map[string]logical.Operation{"static-creds/aaa": logical.ReadOperation, "static-roles/aaa": logical.ReadOperation, "rotate-role/aaa": logical.UpdateOperation} {
				_, err := w.do(op, path, nil)
				require.ErrorContains(t, err, "cannot be read", path)
			}
			_, err := w.do(logical.DeleteOperation, "static-roles/aaa", nil)
			require.ErrorContains(t, err, "cannot be read")
			resp, err := w.do(logical.DeleteOperation, "static-roles/aaa", map[string]any{"force": true})
			w.requireOK(resp, err)
			require.Contains(t, resp.Warnings[0], "could not be read")
			w.tick()
			require.Equal(t, []string{"bi"}, w.list("static-roles/"))
			require.NotContains(t, w.log.String(), "recovered from a panic")
		})
	}
}

// TestASavedSecretIsNeverTakenForAStray shows it where the two can't be told apart by what Databricks says of them.
func TestASavedSecretIsNeverTakenForAStray(t *testing.T) {
	t.Parallel()
	for _, stray := range []bool{false, true} {
		w := withStatic(t, credential.OAuthSecret, nil)
		id := w.state()["credential_id"]
		saved := w.workspace.OAuthSecrets(w.sp)[2]
		e, err := readStatic(t.Context(), w.storage, "static/bi")
		require.NoError(t, err)
		if stray {
			w.workspace.AddOAuthSecret(w.sp, saved.Expires.Sub(saved.Created))
			require.Len(t, w.live(), 2)
		}
		for _, keeper := range []string{"static/bi", "static/other"} {
			_, err = framework.PutWAL(t.Context(), w.storage, walKind, intent{
				origin: e.State.Current.origin, Nonce: "lost " + keeper, Started: saved.Created, Expires: saved.Expires, OwnerKey: keeper,
				Credential: &credentialIntent{Type: credential.OAuthSecret, ServicePrincipalID: w.sp.ID, Lifetime: int64(saved.Expires.Sub(saved.Created) / time.Second)},
			})
			require.NoError(t, err)
		}
		w.tick()
		require.Equal(t, []string{id.(string)}, w.live())
		w.sound(false)
	}
}

// TestAnUncertainSaveIsNotForgotten lets the storage have a rotation that it denied, when something else is due, too.
func TestAnUncertainSaveIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "1h", "rotation_grace_period": "1h"})
	w.after(time.Hour)
	w.workspace.ResetCalls()
	w.storage.afterEach(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, staticStoragePrefix) {
			w.storage.afterEach(nil)
			return errors.New("stepped down")
		}
		return nil
	})
	w.after(time.Hour)
	w.storage.afterEach(nil)
	for range 5 {
		w.after(time.Minute)
	}
	require.Equal(t, 1, w.workspace.Count("", createPath), "it is not rotated again")
	w.sound(true)
}

// TestTwinsOfStaticCredentials lets the create be repeated, and be done twice.
func TestTwinsOfStaticCredentials(t *testing.T) {
	t.Parallel()
	for kind, path := range map[string]string{credential.PAT: createPath, credential.OBOToken: oboPath, credential.OAuthSecret: secretsPath + "*"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newStaticWalk(t, kind, deliveredTo("bi", map[string]any{"rotation_period": "24h"}))
			w.write("config", map[string]any{"max_retries": 1})
			twin := simulator.Fault{Method: http.MethodPost, Path: path, Status: 429, Times: 1, AfterEffect: true}
			w.workspace.Inject(twin)
			w.write("static-roles/bi", w.role)
			require.Len(t, w.live(), 2)
			w.restartAt(w.clock)
			w.tick()
			w.sound(false)
			w.workspace.Inject(twin)
			w.after(24 * time.Hour)
			w.forgetThrottling()
			w.tick()
			w.sound(true)
		})
	}
}

// TestAStaticCredentialThatHasEnded shows that it is replaced as others are, but not removed.
func TestAStaticCredentialThatHasEnded(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.PAT, map[string]any{"lifetime": "2h"})
	resp := w.write("static-roles/bi", w.role)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "no schedule")
	w.after(27 * time.Hour)
	w.workspace.ResetCalls()
	resp = w.write("rotate-role/bi", nil)
	w.after(time.Hour)
	require.Equal(t, 1, w.workspace.Count("", deletePath), "that it is gone is no error")
	require.Empty(t, resp.Data["retired_ids"])
	w.sound(false)
}

// TestAnUnreadableStaticRoleHoldsUpNoOther shows that rollbacks, rotations and deletes go on beside an entry that makes no sense.
func TestAnUnreadableStaticRoleHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) *mount {
		m, _ := delivering(t)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "static/a", Value: []byte(`{}`)}))
		return m
	}
	t.Run("rollback for a static role", func(t *testing.T) {
		m := setup(t)
		m.workspace.Inject(simulator.Fault{Path: createPath, Reset: true, AfterEffect: true, Times: 1})
		m.failure(m.do(logical.UpdateOperation, "static-roles/b", map[string]any{"credential_type": "pat"}))
		m.rolledBack()
		require.Empty(t, m.minted())
	})
	t.Run("rollback of a leased OAuth secret", func(t *testing.T) {
		m := setup(t)
		sp := m.workspace.AddServicePrincipal("job", false)
		m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})
		m.loseSecret()
		m.rolledBack()
		require.Empty(t, m.secretIDs(sp))
	})
	t.Run("rotation of the config's secret", func(t *testing.T) {
		m := setup(t)
		m.connectPrincipal(nil)
		m.write("config/rotate-root", nil)
	})
	t.Run("delete of a token", func(t *testing.T) {
		m := setup(t)
		_, id := m.workspace.AddToken(m.admin, "by hand", 0)
		resp, err := m.do(logical.DeleteOperation, "tokens/"+id, nil)
		m.requireOK(resp, err)
	})
}

// TestOneRolePerPlaceAtOnce lets two roles be created for the same place at the same time.
func TestOneRolePerPlaceAtOnce(t *testing.T) {
	t.Parallel()
	m, _ := delivering(t)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold, Times: 1})
	first := make(chan error, 1)
	go func() {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: "static-roles/a", Data: daily("k"), Storage: m.storage, MountPoint: "databricks/"})
		if err == nil {
			err = resp.Error()
		}
		first <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	second := make(chan error, 1)
	go func() {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: "static-roles/b", Data: daily("k"), Storage: m.storage, MountPoint: "databricks/"})
		if err == nil {
			err = resp.Error()
		}
		second <- err
	}()
	time.AfterFunc(200*time.Millisecond, func() { close(hold) })
	a, b := <-first, <-second
	require.False(t, a == nil && b == nil, "both deliver to the same place")
}

// TestGraceAfterALongerPeriod shows that a credential is replaced early enough to have its grace.
func TestGraceAfterALongerPeriod(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "24h"})
	role := m.write("static-roles/x", map[string]any{"rotation_period": "720h"}).Data
	require.False(t, m.moment(role["next_vault_rotation"]).After(m.moment(role["expiry_time"]).Add(-day)), "the grace is left")
	_ = c
}

// TestAnUnreadableStaticRoleHoldsUpNobody shows that everything but the role itself goes on.
func TestAnUnreadableStaticRoleHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for name, damage := range unreadables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"rotation_period": "24h", "max_retries": 0})
			m.workspace.AddScope("etl", m.admin)
			m.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m"})
			for _, role := range []string{"a", "b"} {
				m.write("static-roles/"+role, map[string]any{"credential_type": "pat", "rotation_period": "1h"})
			}
			entry, err := m.storage.Get(t.Context(), staticStoragePrefix+"a")
			require.NoError(t, err)
			entry.Value = damage(entry.Value)
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.restartAt(c)
			m.loseReply()
			before, root := m.read("static-creds/b").Data["token_id"], m.read("config").Data["last_vault_rotation"]
			m.rolledBack()
			m.goOn(c, 25*time.Hour, 10*time.Minute)
			m.requireStatic(c, "b")
			require.NotEqual(t, before, m.read("static-creds/b").Data["token_id"])
			require.NotEqual(t, root, m.read("config").Data["last_vault_rotation"])
			require.Equal(t, 1, strings.Count(m.log.String(), "a static role is not rotated"), "said, and once")
			require.NotContains(t, m.log.String(), "recovered from a panic")

			for op, paths := range map[logical.Operation][]string{
				logical.ReadOperation:   {"static-roles/a", "static-creds/a"},
				logical.UpdateOperation: {"static-roles/a", "rotate-role/a"},
				logical.DeleteOperation: {"static-roles/a"},
			} {
				for _, path := range paths {
					var data map[string]any
					if op == logical.UpdateOperation && path == "static-roles/a" {
						data = map[string]any{"credential_type": "pat", "rotation_period": "1h"}
					}
					err := m.failure(m.do(op, path, data))
					require.ErrorContains(t, err, `static role "a" cannot be read`, path)
					require.ErrorContains(t, err, "force=true deletes it")
				}
			}
			m.write("static-roles/c", map[string]any{"credential_type": "pat", "rotation_period": "1h", "deliver_scope": "etl", "deliver_key": "c"})
			resp, err := m.do(logical.ListOperation, "static-roles/", nil)
			m.requireOK(resp, err)
			require.Equal(t, []string{"a", "b", "c"}, resp.Data["keys"])

			resp, err = m.do(logical.DeleteOperation, "static-roles/a", map[string]any{"force": true})
			m.requireOK(resp, err)
			require.Contains(t, strings.Join(resp.Warnings, "\n"), "may be left at Databricks")
			require.Nil(t, m.absent("static-roles/a"))
			m.write("static-roles/a", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
			m.requireStatic(c, "a")
		})
	}
}

// TestACopyThatWaitsToMoveIsNeverDead shows that a place where the engine may not write leaves no dead credential at the place before
// it, where the engine may, however long that lasts.
func TestACopyThatWaitsToMoveIsNeverDead(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	plain := m.workspace.AddUser("plain@example.com", false)
	token, _ := m.workspace.AddToken(plain, "the engine's own", 0)
	m.canaries.add(token)
	m.workspace.AddScope("etl", plain)
	m.workspace.AddScope("theirs", m.admin)
	m.workspace.PutACL("theirs", plain.UserName, "READ")
	m.connect(map[string]any{"token": token, "max_retries": 0})
	m.write("static-roles/a", daily("first", "rotation_grace_period", "1h"))
	require.NotEmpty(t, m.patch("static-roles/a", map[string]any{"deliver_scope": "theirs"}).Warnings)
	for range 3 * 24 * 6 {
		m.goOn(c, 10*time.Minute, 10*time.Minute)
		value, there := m.has("first")
		require.True(t, !there || m.whoami(value) == http.StatusOK, "a dead credential at %s", c.now())
	}
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
				for m.backend.(*backend).deliveryLocks.Waiting("etl/same") < 2 && len(second) == 0 {
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
