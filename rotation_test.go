// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/schedule"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestRotationsGoByTheClock walks through a day of both kinds of rotation.
func TestRotationsGoByTheClock(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "6h"})
	sp := m.workspace.AddServicePrincipal("bi", false)
	m.workspace.AddScope("etl", m.admin)
	m.write("static-roles/bi", map[string]any{
		"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "1h", "rotation_grace_period": "30m",
		"deliver_scope": "etl", "deliver_key": "bi",
	})
	first := m.read("static-creds/bi").Data["secret_id"]
	for range 24 * 60 {
		c.advance(time.Minute)
		m.tick()
	}
	last := m.moment(m.read("config").Data["last_vault_rotation"])
	require.WithinDuration(t, c.now(), last, 5*time.Minute)
	require.NotEqual(t, first, m.read("static-creds/bi").Data["secret_id"])
	require.LessOrEqual(t, len(m.workspace.OAuthSecrets(sp)), 2)
}

// FuzzDue shows that a credential which lives as long as its schedule needs is replaced at the time of the schedule at the
// latest, but not before it was made.
func FuzzDue(f *testing.F) {
	f.Add(int64(60), "", int64(0), int64(1772366400))
	f.Add(int64(0), "0 3 * * SAT", int64(3600), int64(1772366400))
	f.Add(int64(0), "*/7 1-5 29 2 *", int64(0), int64(1709164800))
	f.Add(int64(0), "CRON_TZ=Asia/Tokyo 0 0 * * *", int64(0), int64(0))
	f.Fuzz(func(t *testing.T, period int64, cron string, window, unix int64) {
		now := time.Unix(unix%4_000_000_000, 0).UTC()
		s := schedule.Schedule{Period: period, Cron: cron, Window: window}
		if s.Check(now) != nil || !s.Automatic() {
			return
		}
		next := s.After(now)
		v := rotationView{rotationState: &rotationState{Next: next}, current: &storedCredential{Created: now, Lifetime: int64(s.Need(now) / time.Second)}}
		due := v.due()
		require.True(t, due.After(now) && !due.After(next), "%+v at %s: %s", s, now, due)
	})
}

// TestWhatIsDue shows what decides when a credential is replaced and when there is other work.
func TestWhatIsDue(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	old := retired{storedCredential: storedCredential{ID: "old"}, Until: in(2 * time.Hour)}
	for name, row := range map[string]struct {
		state               rotationState
		life                time.Duration
		view                rotationView
		due, attempt, other time.Time
	}{
		"never":                          {},
		"by the schedule":                {state: rotationState{Next: in(day)}, due: in(day), attempt: in(day)},
		"before the end":                 {state: rotationState{Next: in(9 * day)}, life: 8 * day, due: in(6 * day), attempt: in(6 * day)},
		"after the end":                  {state: rotationState{Next: in(4 * day)}, life: 2 * day, due: in(36 * time.Hour), attempt: in(36 * time.Hour)},
		"no schedule, although it ends":  {life: day},
		"after a failure":                {state: rotationState{Next: in(-day), NextRetry: in(time.Hour)}, due: in(-day), attempt: in(time.Hour)},
		"a retry of before":              {state: rotationState{Next: in(day), NextRetry: in(time.Hour)}, due: in(day), attempt: in(day)},
		"managed":                        {state: rotationState{Next: in(day)}, view: rotationView{managed: true}, due: in(day)},
		"managed, and it ends":           {state: rotationState{Next: in(day)}, life: 8 * day, view: rotationView{managed: true}, due: in(day), attempt: in(6 * day)},
		"deleting":                       {state: rotationState{Next: in(-day)}, view: rotationView{deleting: true, urgent: true}, due: in(-day), other: time.Unix(0, 0).UTC()},
		"retired":                        {state: rotationState{Retired: []retired{old}}, other: in(2 * time.Hour)},
		"retired, and it must stay":      {state: rotationState{Retired: []retired{old}}, view: rotationView{mustStay: func(*retired) bool { return true }}},
		"retired, and it was tried":      {state: rotationState{Retired: []retired{old}, PendingRetry: in(3 * time.Hour)}, other: in(3 * time.Hour)},
		"retired, and it was tried once": {state: rotationState{Retired: []retired{old}, PendingRetry: in(time.Hour)}, other: in(2 * time.Hour)},
	} {
		v := row.view
		v.rotationState, v.current = &row.state, &storedCredential{Created: now, Lifetime: int64(row.life / time.Second)}
		require.Equal(t, row.due, v.due(), name)
		require.Equal(t, row.attempt, v.nextAttempt(), name)
		require.Equal(t, row.other, v.nextPending(), name)
		require.Equal(t, earliest(row.attempt, row.other), v.next(), name)
		require.Equal(t, !v.next().IsZero() && !v.next().After(now), v.ready(now), name)
	}
}

// TestCorrectsDatesOfAClockThatWasAhead shows that each date is corrected once, and that what can be is left alone.
func TestCorrectsDatesOfAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sound := func() rotationView {
		return rotationView{
			rotationState: &rotationState{
				Last: now, Next: now.Add(day), NextRetry: now.Add(time.Hour), PendingRetry: now.Add(time.Hour),
				Retired: []retired{{Until: now.Add(2 * time.Hour), Grace: 3600}},
			},
			current: &storedCredential{Created: now}, schedule: schedule.Schedule{Period: 24 * 60 * 60},
		}
	}
	require.False(t, sound().correct(now))
	for name, ahead := range map[string]func(rotationView) *time.Time{
		"last":         func(v rotationView) *time.Time { return &v.Last },
		"next":         func(v rotationView) *time.Time { return &v.Next },
		"retry":        func(v rotationView) *time.Time { return &v.NextRetry },
		"other retry":  func(v rotationView) *time.Time { return &v.PendingRetry },
		"created":      func(v rotationView) *time.Time { return &v.current.Created },
		"end of grace": func(v rotationView) *time.Time { return &v.Retired[0].Until },
	} {
		v := sound()
		date := ahead(v)
		latest := *date
		*date = date.Add(5 * 365 * day)
		require.True(t, v.correct(now), name)
		require.False(t, date.After(latest), name)
		require.False(t, v.correct(now.Add(time.Minute)), "%s: once", name)
	}

	// When Vault's rotation manager rotates next is for it to say.
	v := sound()
	v.managed, v.Next = true, now.Add(2*day)
	require.False(t, v.correct(now))
}

// TestLongestSchedule shows that the limit of schedules is that of credentials.
func TestLongestSchedule(t *testing.T) {
	t.Parallel()
	require.Equal(t, maxLifetime, schedule.Longest)
}

// byHand is a token for the engine that somebody made by hand, to live for so long; 0 for ever.
func (m *mount) byHand(life time.Duration) string {
	m.t.Helper()
	token, _ := m.workspace.AddToken(m.admin, "by hand", life)
	m.canaries.add(token)
	return token
}

// lapse is goOn where ticks may fail.
func (m *mount) lapse(c *clock, d, step time.Duration) {
	m.t.Helper()
	for range d / step {
		c.advance(step)
		_, _ = m.rollback()
	}
}

// errorsSaid is how often the log has the text as an error.
func (m *mount) errorsSaid(text string) int { return strings.Count(m.log.String(), "[ERROR] "+text) }

// TestATickLeavesToARequestWhatItRotates runs a tick while a request rotates: the tick neither waits, since Databricks may be slow and Vault
// waits for the tick, nor rotates once more, nor counts that as a failure.
func TestATickLeavesToARequestWhatItRotates(t *testing.T) {
	t.Parallel()
	for request, path := range map[string]string{"config/rotate-root": "config", "rotate-role/x": "static-roles/x"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			if path != "config" {
				m.write(path, map[string]any{"credential_type": "pat"})
			}
			m.write(path, map[string]any{"rotation_period": "24h"})
			c.advance(day + time.Minute)
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold, Times: 1})
			answered := make(chan error, 1)
			go func() {
				_, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.UpdateOperation, Path: request, Storage: m.storage, MountPoint: "databricks/"})
				answered <- err
			}()
			require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
			m.youngTick()
			close(hold)
			require.NoError(t, <-answered)
			m.tick()
			state := m.read(path).Data
			require.Zero(t, state["rotation_failures"])
			require.Empty(t, state["last_rotation_error"])
			require.Nil(t, state["next_rotation_attempt"])
			require.WithinDuration(t, c.now().Add(day), m.moment(state["next_vault_rotation"]), time.Minute)
			require.Equal(t, 1, fault.Hits())
			require.Empty(t, m.told("root-rotate-fail"))
			require.Empty(t, m.told("static-rotate-fail"))
		})
	}
}

// TestClocksThatDiffer shows that rotations come by Vault's clock, wherever Databricks' stands.
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{4 * time.Hour, -4 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.backend.(*backend).clock = func() time.Time { return c.now().Add(ahead) }
			m.connect(map[string]any{"rotation_period": "1h", "max_retries": 0})
			m.write("static-roles/a", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
			made := len(m.told("static-rotate"))
			for range 12*60 + 5 {
				m.goOn(c, time.Minute, time.Minute)
				require.Equal(t, http.StatusOK, m.whoami(m.read("static-creds/a").Data["token_value"].(string)))
			}
			m.requireRoot()
			require.InDelta(t, 12, len(m.told("static-rotate"))-made, 1)
			require.InDelta(t, 12, len(m.told("root-rotate")), 1)
			require.LessOrEqual(t, len(m.minted()), 4, "and what was replaced is removed")
		})
	}
}
