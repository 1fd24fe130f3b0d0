// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
)

// places is how many credentials take a place: tokens besides the engine's own, or OAuth secrets of the principal.
func (w *staticWalk) places() int {
	if w.role["credential_type"] == credential.OAuthSecret {
		return len(w.secretIDs(w.sp))
	}
	return len(w.minted())
}

// Who may only rotate can't take all places: the rotations stop, and go on as the grace of each ends.
func TestRotationsByHandAreBounded(t *testing.T) {
	t.Parallel()
	for kind, limit := range map[string]int{credential.PAT: maxInGrace, credential.OBOToken: maxInGrace, credential.OAuthSecret: 3} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newStaticWalk(t, kind, map[string]any{"rotation_grace_period": "2h"})
			for id := range w.foreign {
				w.workspace.RevokeOAuthSecret(id)
			}
			others := w.places()
			w.write("static-roles/bi", w.role)
			for range limit {
				w.rotated()
				w.clock.advance(time.Minute)
			}
			before, places := w.state(), w.places()
			require.Equal(t, others+limit+1, places)
			require.Len(t, before["retired_ids"], limit)
			w.workspace.ResetCalls()
			for range 3 {
				resp, err := w.do(logical.UpdateOperation, "rotate-role/bi", nil)
				w.refused(resp, err, `rotation_grace_period: static role "bi" has `, "the next rotation is possible at ", "end_oldest_grace=true")
				if kind != credential.PAT {
					continue // whose scopes are those of the engine's token
				}
				resp, err = w.do(logical.UpdateOperation, "static-roles/bi", map[string]any{"scopes": "sql"})
				w.refused(resp, err, `rotation_grace_period: static role "bi" has `)
			}
			require.Empty(t, w.workspace.Calls(), "a refusal changes nothing")
			require.Equal(t, before, w.state())
			require.Equal(t, places, w.places())

			w.clock.advance(2*time.Hour - time.Duration(limit)*time.Minute + time.Second)
			w.rotated()
			resp, err := w.do(logical.UpdateOperation, "rotate-role/bi", nil)
			w.refused(resp, err, "the next rotation is possible at ")
			require.Equal(t, places, w.places())
			w.after(3 * time.Hour)
			require.Equal(t, others+1, w.places())
			w.rotated()
		})
	}
}

// In an incident, the one who rotates may end the grace of the oldest.
func TestARotationMayEndTheOldestGrace(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.OAuthSecret, map[string]any{"rotation_grace_period": "24h"})
	for id := range w.foreign {
		w.workspace.RevokeOAuthSecret(id)
	}
	for range 3 {
		w.rotated()
		w.clock.advance(time.Minute)
	}
	oldest := w.state()["retired_ids"].([]string)[0]
	for range 4 {
		resp := w.write("rotate-role/bi", map[string]any{"end_oldest_grace": true})
		require.NotContains(t, resp.Data["retired_ids"], oldest)
		require.Len(t, resp.Data["retired_ids"], 3)
		require.NotContains(t, w.secretIDs(w.sp), oldest)
		require.Len(t, w.secretIDs(w.sp), 4)
		oldest = resp.Data["retired_ids"].([]string)[0]
	}
	require.True(t, w.works(w.value()))

	// Without a need, nothing is ended.
	w.after(25 * time.Hour)
	w.write("rotate-role/bi", map[string]any{"end_oldest_grace": true})
	require.Len(t, w.write("rotate-role/bi", map[string]any{"end_oldest_grace": true}).Data["retired_ids"], 2)
}

// Static roles of one service principal count together, so that rotations by hand leave a place, and each role can be rotated once.
func TestRolesOfOnePrincipalShareItsPlaces(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.OAuthSecret, map[string]any{"rotation_grace_period": "2h"})
	for id := range w.foreign {
		w.workspace.RevokeOAuthSecret(id)
	}
	for _, name := range []string{"bi", "other"} {
		w.write("static-roles/"+name, w.role)
	}
	for range 2 {
		for _, name := range []string{"bi", "other"} {
			w.write("rotate-role/"+name, nil)
			resp, err := w.do(logical.UpdateOperation, "rotate-role/"+name, nil)
			w.refused(resp, err, "rotation_grace_period: ", "static role bi", "must leave a place for others", "end_oldest_grace=true")
		}
		require.Len(t, w.secretIDs(w.sp), 4)
		w.write("rotate-role/other", map[string]any{"end_oldest_grace": true})
		require.Len(t, w.secretIDs(w.sp), 4)
		w.after(2*time.Hour + time.Minute)
		require.Len(t, w.secretIDs(w.sp), 2)
	}

	// A rotation without a grace takes no place for longer.
	w.write("rotate-role/bi", nil)
	w.write("rotate-role/other", nil)
	w.write("static-roles/bi", map[string]any{"rotation_grace_period": 0})
	w.write("rotate-role/bi", nil)
	require.Len(t, w.secretIDs(w.sp), 4)
}

// Many static roles of one identity don't take its places together either.
func TestTokensOfAllRolesAreBounded(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	for n := range 6 {
		m.write(fmt.Sprintf("static-roles/r%d", n), map[string]any{"credential_type": "pat", "rotation_grace_period": "24h"})
	}
	rotations := 0
	for n := range 6 {
		for {
			resp, err := m.do(logical.UpdateOperation, fmt.Sprintf("rotate-role/r%d", n), nil)
			require.NoError(t, err)
			if resp.IsError() {
				require.Contains(t, resp.Error().Error(), "rotation_grace_period: ")
				break
			}
			rotations++
		}
	}
	require.Equal(t, maxTokensInGrace, rotations)
	require.Len(t, m.minted(), maxTokensInGrace+6)
	m.write("static-roles/new", map[string]any{"credential_type": "pat", "rotation_grace_period": 0})
	m.write("rotate-role/new", nil)
}

// The engine's own credential is bounded, too.
func TestRootRotationsAreBounded(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		limit := maxInGrace + 2 // the first one replaces what an operator created
		if kind != "pat" {
			limit = 3 // the operator's stays, too
		}
		for n := range limit + 2 {
			if n < limit && !(kind == "pat" && n > maxInGrace) {
				r.rotate()
				continue
			}
			before := r.stored()
			r.workspace.ResetCalls()
			resp, err := r.tryRotate()
			r.refused(resp, err, "config: ", "possible at "+rfc3339(before.Rotation.Retired[0].Until))
			require.Equal(t, before, r.stored())
			require.Empty(t, r.workspace.Calls())
		}
		if kind != "pat" {
			require.Len(t, r.live(), 4, "a place is left")
		}
		r.clock.advance(rootGrace + time.Minute)
		r.rotate()
		r.pass(rootGrace+2*time.Minute, time.Minute)
		r.sound()
	})
}

// overfull gives a role more replaced credentials than the limit, as v0.1.0 could.
func (w *staticWalk) overfull(n int, grace time.Duration) {
	w.t.Helper()
	b := w.backend.(*backend)
	e, unlock, err := b.lockStatic(w.t.Context(), w.storage, "bi")
	require.NoError(w.t, err)
	defer unlock()
	for i := range n {
		old := e.State.Current.retire(b.now().Add(time.Duration(i)*time.Minute), grace)
		old.ID = fmt.Sprintf("old-%d", i)
		e.State.Retired = append(e.State.Retired, old)
	}
	require.NoError(w.t, b.saveStatic(w.t.Context(), w.storage, "bi", e))
}

// A role that v0.1.0 gave more than the limit goes on: its rotation waits, says so once, and comes as the grace ends.
func TestAScheduledRotationWaitsForTheGrace(t *testing.T) {
	t.Parallel()
	w := withStatic(t, credential.PAT, map[string]any{"rotation_period": "24h", "rotation_grace_period": "24h"})
	w.overfull(maxInGrace+5, 30*time.Hour)
	value := w.value()
	w.workspace.ResetCalls()
	w.after(24*time.Hour + time.Minute)
	for range 300 {
		w.after(time.Minute)
	}
	state := w.state()
	require.Contains(t, state["last_rotation_error"], "static role \"bi\" has 55 replaced tokens in their grace")
	require.LessOrEqual(t, state["rotation_failures"], 8)
	require.Empty(t, w.workspace.Calls(), "it is not asked for")
	require.Len(t, w.told("static-rotate-fail"), 1)
	require.Equal(t, value, w.value())
	require.True(t, w.works(value))

	for range 90 {
		w.after(time.Minute)
	}
	require.NotEqual(t, value, w.value())
	require.Zero(t, w.state()["rotation_failures"])
	require.Len(t, w.told("static-rotate-fail"), 1)
}

func TestTheWaitForTheGrace(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for until, want := range map[time.Duration]time.Duration{-time.Hour: time.Minute, time.Second: time.Minute, 5 * time.Minute: 5 * time.Minute, 9 * time.Hour: time.Hour} {
		require.Equal(t, now.Add(want), (&graceFullError{until: now.Add(until)}).retryAt(now))
	}
}

// The engine's own credential, which may have leaked, can be replaced whatever the static roles have in their grace.
func TestRootRotationIsNotHeldUpByStaticRoles(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "oauth-m2m", nil)
	r.rotate()
	r.workspace.RevokeOAuthSecret(r.own)
	r.byHand = nil
	r.pass(10*time.Minute, time.Minute)
	r.write("static-roles/bi", map[string]any{"credential_type": "oauth_secret", "application_id": r.engine.ApplicationID, "rotation_period": "24h", "rotation_grace_period": "48h"})
	r.pass(73*time.Hour, 10*time.Minute)
	require.Len(t, r.live(), 4, "the engine's, the role's, and two in their grace")
	r.rotate()
}

// No grace is ended for a rotation that is refused all the same, and who gives up all of its own is not refused.
func TestEndingTheOldestGraceSuffices(t *testing.T) {
	t.Parallel()
	w := newStaticWalk(t, credential.OAuthSecret, map[string]any{"rotation_grace_period": "20h"})
	for id := range w.foreign {
		w.workspace.RevokeOAuthSecret(id)
	}
	w.foreign = nil
	w.write("static-roles/bi", w.role)
	scheduled := maps.Clone(w.role)
	scheduled["rotation_period"] = "24h"
	w.write("static-roles/b", scheduled)
	w.write("static-roles/c", w.role)
	w.write("rotate-role/bi", nil)
	w.clock.advance(18 * time.Hour)
	w.write("static-roles/b", map[string]any{"rotation_period": "17h", "rotation_grace_period": "16h"})
	w.clock.advance(time.Minute)
	w.tick()
	require.Len(t, w.secretIDs(w.sp), 5)
	before := w.read("static-roles/bi").Data
	resp, err := w.do(logical.UpdateOperation, "rotate-role/bi", nil)
	w.refused(resp, err, "end_oldest_grace=true")
	w.write("rotate-role/bi", map[string]any{"end_oldest_grace": true})
	after := w.read("static-roles/bi").Data
	require.NotEqual(t, before["credential_id"], after["credential_id"])
	require.Equal(t, []string{before["credential_id"].(string)}, after["retired_ids"])
	require.Len(t, w.secretIDs(w.sp), 5)
}
