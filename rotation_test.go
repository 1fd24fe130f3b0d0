// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// clock is the time of a mount and of its workspace. It moves when a test moves it, and by a millisecond whenever it is read.
type clock struct {
	mu    sync.Mutex
	at    time.Time
	ahead time.Duration // by which Vault's clock is wrong
}

func newClock() *clock {
	return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Millisecond)
	return c.at
}

// vault is the time on Vault's clock.
func (c *clock) vault() time.Time {
	at := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return at.Add(c.ahead)
}

// runAhead makes Vault's clock wrong, or right again.
func (c *clock) runAhead(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = d
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// newTimedMount is a mount without config whose time, and whose workspace's, is the clock's.
func newTimedMount(t *testing.T, opts ...simulator.Option) (*mount, *clock) {
	t.Helper()
	c := newClock()
	m := newMount(t, append(opts, simulator.WithClock(c.now))...)
	m.backend.(*backend).clock = c.vault
	return m, c
}

// holdTidy keeps tidy from beginning by itself, here and after restarts, and the first OAuth secret from a look at the write-ahead log:
// they would make the steps that are counted differ from run to run.
func (m *mount) holdTidy() {
	m.tidyHeld = true
	done := make(chan struct{})
	close(done)
	m.backend.(*backend).lifetimes.learned.Store(true)
	t := &m.backend.(*backend).tidy
	t.mu.Lock()
	defer t.mu.Unlock()
	t.run, t.status = &tidyRun{cancel: func(error) {}, done: done}, &tidyStatus{State: tidyRunning}
}

// tick is what Vault does about once a minute, with every entry of the write-ahead log, however young.
func (m *mount) tick() {
	m.t.Helper()
	resp, err := m.rollback()
	m.requireOK(resp, err)
}

// restartAt replaces the backend by a new one on the same storage, as a restart of the plugin does.
func (m *mount) restartAt(c *clock) {
	m.t.Helper()
	b, err := Factory(context.Background(), m.config())
	require.NoError(m.t, err)
	b.(*backend).clock = c.vault
	m.backend.Cleanup(context.Background())
	m.backend = b
	if m.tidyHeld {
		m.holdTidy()
	}
}

// die makes everything fail that the plugin does from now on, at Databricks and in the storage, as if its process had ended.
func (m *mount) die() {
	dead := func(string, string) error { return logical.ErrReadOnly }
	m.storage.onEach(dead)
	m.workspace.ClearFaults()
	m.workspace.Inject(simulator.Fault{Reset: true})
}

// revive begins anew where die ended.
func (m *mount) revive(c *clock) {
	m.t.Helper()
	m.storage.onEach(nil)
	m.storage.afterEach(nil)
	m.workspace.ClearFaults()
	m.restartAt(c)
}

// queue is how many have a turn of a rotation or wait for it.
func (m *mount) queue(what string) int {
	t := &m.backend.(*backend).rotationTurns
	t.mu.Lock()
	defer t.mu.Unlock()
	if waiting := t.waiting[what]; waiting != nil {
		return waiting.n
	}
	return 0
}

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
	c.advance(2 * tidyKeptAge)
	m.write("tidy", nil)
	requireTidy(t, m.awaitTidy(), "finished", 2, 2, 0)
	require.Len(t, m.minted(), 3)
	require.Equal(t, 200, m.whoami(m.read("static-creds/stays").Data["token_value"].(string)))
	m.write("config", map[string]any{"ttl": "1h"}) // which proves the engine's own
}

// FuzzSchedule shows that a schedule which is accepted goes on for ever, and that no credential ends before its successor is due.
func FuzzSchedule(f *testing.F) {
	f.Add(int64(60), "", int64(0), int64(1772366400))
	f.Add(int64(0), "0 3 * * SAT", int64(3600), int64(1772366400))
	f.Add(int64(0), "*/7 1-5 29 2 *", int64(0), int64(1709164800))
	f.Add(int64(0), "CRON_TZ=Asia/Tokyo 0 0 * * *", int64(0), int64(0))
	f.Fuzz(func(t *testing.T, period int64, cron string, window, unix int64) {
		now := time.Unix(unix%4_000_000_000, 0).UTC()
		s := schedule{Period: period, Cron: cron, Window: window}
		if s.check(now) != nil {
			return
		}
		if !s.automatic() {
			require.True(t, s.after(now).IsZero())
			return
		}
		next := s.after(now)
		require.True(t, next.After(now), "%+v at %s: %s", s, now, next)
		require.True(t, s.after(next).After(next), "%+v at %s: %s", s, now, next)
		shortest, longest := s.spans(1, now)
		require.Positive(t, shortest)
		require.LessOrEqual(t, shortest, longest)
		life := s.need(now)
		require.Greater(t, life, next.Sub(now))
		p := progress{Next: next}
		due := p.due(&kept{Created: now, Lifetime: int64(life / time.Second)}, 0)
		require.True(t, due.After(now) && !due.After(next), "%+v at %s: %s", s, now, due)
	})
}
