// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const day = 24 * time.Hour

// goOn lets time pass in steps, with a tick after each. What a tick has begun in the background is waited for.
func (m *mount) goOn(c *clock, d, step time.Duration) {
	m.t.Helper()
	tidy := &m.backend.(*backend).tidy
	for range d / step {
		c.advance(step)
		m.tick()
		tidy.mu.Lock()
		run := tidy.run
		tidy.mu.Unlock()
		if run != nil {
			<-run.done
		}
	}
}

// told are the metadata of the events of the kind that Vault's event bus was sent.
func (m *mount) told(kind string) []map[string]any {
	var told []map[string]any
	for _, event := range m.events.Events {
		if string(event.Type) == "databricks/"+kind {
			told = append(told, event.Event.GetMetadata().AsMap())
		}
	}
	return told
}

// requireRoot requires that the engine's credential works, and that it has not had failures.
func (m *mount) requireRoot() {
	m.t.Helper()
	config, err := readConfig(m.t.Context(), m.storage)
	require.NoError(m.t, err)
	require.Empty(m.t, config.Rotation.Error)
	require.Zero(m.t, config.Rotation.Failures)
	require.Equal(m.t, http.StatusOK, m.whoami(config.Token.Reveal()))
}

// requireStatic requires that what static-creds answers works, that it is worth to be read again before it ends, and that it has not
// had failures.
func (m *mount) requireStatic(c *clock, name string) {
	m.t.Helper()
	creds := m.read("static-creds/" + name).Data
	require.Equal(m.t, http.StatusOK, m.whoami(creds["token_value"].(string)), "at %s", c.now())
	require.True(m.t, c.now().Add(seconds(creds["ttl"].(int64))).Before(m.moment(creds["expiry_time"])), "ttl")
	role := m.read("static-roles/" + name).Data
	require.Empty(m.t, role["last_rotation_error"])
	require.Empty(m.t, role["pending_error"])
}

// TestALongerPeriodOfTheConfigIsNotTooLong shows that the engine's credential is replaced before it ends, although it was made for a
// shorter period.
func TestALongerPeriodOfTheConfigIsNotTooLong(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	made := m.write("config/rotate-root", nil).Data
	resp := m.write("config", map[string]any{"rotation_period": "4320h"}).Data
	ends, next := m.moment(made["expiry_time"]), m.moment(resp["next_vault_rotation"])
	require.True(t, next.Before(ends.Add(-day)), "%s, and it ends at %s", next, ends)
	require.Equal(t, resp["next_vault_rotation"], m.read("config").Data["next_vault_rotation"])
	require.Equal(t, resp["next_vault_rotation"], m.read("status").Data["next_vault_rotation"])

	c.advance(next.Sub(c.now()) - time.Minute)
	m.tick()
	require.Equal(t, made["credential_id"], m.read("config").Data["credential_id"], "not before")
	m.goOn(c, 2*time.Minute, time.Minute)
	renewed := m.read("config").Data
	require.NotEqual(t, made["credential_id"], renewed["credential_id"])
	require.Equal(t, next.Add(4320*time.Hour).Format(time.DateOnly), m.moment(renewed["next_vault_rotation"]).Format(time.DateOnly), "as long as the period")
	m.goOn(c, 200*day, day)
	m.requireRoot()
}

// TestAShortLivedCredentialOfTheConfigIsReplaced shows that a schedule which is longer than the life of the credential that the
// workspace gave is not waited for.
func TestAShortLivedCredentialOfTheConfigIsReplaced(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t, simulator.WithMaxTokenLifetime(30*day))
	token, _ := m.workspace.AddToken(m.admin, "by hand", 30*day)
	m.connect(map[string]any{"token": token})
	ends := m.moment(m.write("config/rotate-root", nil).Data["expiry_time"])
	resp := m.write("config", map[string]any{"rotation_period": "480h"}).Data
	require.False(t, m.moment(resp["next_vault_rotation"]).After(ends.Add(-7*day)))
	m.goOn(c, 60*day, 6*time.Hour)
	m.requireRoot()

	// A life that the workspace gives, but with less room than the schedule leaves.
	resp = m.write("config", map[string]any{"rotation_period": "696h"}).Data
	require.True(t, m.moment(resp["next_vault_rotation"]).Before(m.moment(resp["expiry_time"]).Add(-time.Hour)))
}

// TestALongerPeriodOfAStaticRoleIsNotTooLong shows that a static credential is replaced before it ends, although it was made for a
// shorter period.
func TestALongerPeriodOfAStaticRoleIsNotTooLong(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
	role := m.write("static-roles/x", map[string]any{"rotation_period": "720h"}).Data
	ends, next := m.moment(role["expiry_time"]), m.moment(role["next_vault_rotation"])
	require.True(t, next.Before(ends.Add(-30*time.Minute)), "%s, and it ends at %s", next, ends)
	creds := m.read("static-creds/x").Data
	require.WithinDuration(t, next, c.now().Add(seconds(creds["ttl"].(int64))), 2*time.Second, "the ttl is of the same moment")
	require.EqualValues(t, 720*3600, creds["rotation_period"])

	m.goOn(c, next.Sub(c.now()).Truncate(10*time.Minute), 10*time.Minute)
	require.Equal(t, creds["token_id"], m.read("static-creds/x").Data["token_id"], "not before")
	for range 6 * 24 {
		m.goOn(c, 10*time.Minute, 10*time.Minute)
		m.requireStatic(c, "x")
	}
	renewed := m.read("static-roles/x").Data
	require.NotEqual(t, role["credential_id"], renewed["credential_id"])
	require.Equal(t, m.moment(renewed["last_vault_rotation"]).Add(720*time.Hour), m.moment(renewed["next_vault_rotation"]), "made for the new period")
}

// TestAMissedMonthDoesNotEndTheCredential shows that a time that was missed by more than the window is not waited for again when the
// credential ends before.
func TestAMissedMonthDoesNotEndTheCredential(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	role := m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_schedule": "0 3 1 * *", "rotation_window": "1h"}).Data
	require.Equal(t, "2026-04-01T03:00:00Z", role["next_vault_rotation"])
	c.advance(30*day + 20*time.Hour)
	m.restartAt(c)
	m.tick()
	next := m.moment(m.read("static-roles/x").Data["next_vault_rotation"])
	require.True(t, next.Before(m.moment(role["expiry_time"])), "not in a month")
	for range 3 * 40 {
		m.goOn(c, 8*time.Hour, 8*time.Hour)
		m.requireStatic(c, "x")
	}
}

// TestAScheduleNeedsALifetime shows that a lifetime must span the longest gap of a schedule, such as a weekend.
func TestAScheduleNeedsALifetime(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	c.advance(day)
	require.Equal(t, time.Monday, c.now().Weekday())
	weekdays := map[string]any{"credential_type": "pat", "rotation_schedule": "0 3 * * 1-5", "lifetime": "26h"}
	resp, err := m.do(logical.UpdateOperation, "static-roles/x", weekdays)
	m.refused(resp, err, "lifetime: ", "262800 seconds")
	weekdays["lifetime"] = 73*3600 - 1
	resp, err = m.do(logical.UpdateOperation, "static-roles/x", weekdays)
	m.refused(resp, err, "lifetime: ")
	require.Empty(t, m.minted())

	weekdays["lifetime"] = "74h"
	m.write("static-roles/x", weekdays)
	for range 8 * 24 * 2 {
		m.goOn(c, 30*time.Minute, 30*time.Minute)
		m.requireStatic(c, "x")
	}

	// Neither may the schedule become too long for the lifetime.
	resp, err = m.do(logical.UpdateOperation, "static-roles/x", map[string]any{"rotation_schedule": "0 3 * * 1"})
	m.refused(resp, err, "lifetime: ")
}

// TestAClockThatWasAhead lets Vault's clock be years ahead for two ticks: when it is right again, rotations go on as if nothing had
// been, and what was replaced meanwhile is removed.
func TestAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_period": "6h"})
	m.goOn(c, time.Minute, time.Minute)
	m.write("config/rotate-root", nil)

	b := m.backend.(*backend)
	c.runAhead(5 * 365 * day)
	m.tick()
	m.tick()
	ahead := m.read("config").Data["credential_id"]
	c.runAhead(0)
	b.agenda.mu.Lock()
	b.agenda.looked = time.Now().Add(-2 * agendaPause) // an hour later by a clock that nobody sets
	b.agenda.mu.Unlock()
	m.tick()
	for path, limit := range map[string]time.Duration{"config": day, "static-roles/x": 6 * time.Hour} {
		next := m.moment(m.read(path).Data["next_vault_rotation"])
		require.False(t, next.After(c.now().Add(limit)), "%s: %s", path, next)
	}

	m.goOn(c, 2*time.Hour, 10*time.Minute)
	require.Len(t, m.minted(), 2, "the config's and the role's")
	for range 5 {
		m.goOn(c, 6*time.Hour+10*time.Minute, 10*time.Minute)
		m.requireStatic(c, "x")
	}
	m.requireRoot()
	require.NotEqual(t, ahead, m.read("config").Data["credential_id"], "and on it goes")
	require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), day+time.Hour)
}

// TestAWorkspaceThatAllowsLess shows what can be done where the workspace's own limit is lower than what the engine asks for.
func TestAWorkspaceThatAllowsLess(t *testing.T) {
	t.Parallel()
	for _, limit := range []time.Duration{90 * day, 30 * day} {
		m, c := newTimedMount(t, simulator.WithMaxTokenLifetime(limit))
		m.connect()
		made := m.write("config/rotate-root", nil).Data
		require.WithinDuration(t, c.now().Add(limit), m.moment(made["expiry_time"]), time.Minute)
		m.requireRoot()

		resp, err := m.do(logical.UpdateOperation, "static-roles/x", map[string]any{"credential_type": "pat"})
		m.refused(resp, err, "set lifetime", "in this workspace")
		require.Len(t, m.minted(), 1)
		require.Empty(t, m.walEntries())
		m.write("static-roles/x", map[string]any{"credential_type": "pat", "lifetime": int64(limit / time.Second)})
		require.Equal(t, http.StatusOK, m.whoami(m.read("static-creds/x").Data["token_value"].(string)))
	}
}

// TestDenseSchedulesFitTheLimitOfSecrets shows that secrets which live on for the grace period never fill up the service principal.
func TestDenseSchedulesFitTheLimitOfSecrets(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cron   string
		grace  any
		stored int64  // seconds; 0 where it is refused
		most   string // that it may be then
	}{
		"default":          {"*/10 * * * *", nil, 600, ""},
		"default, uneven":  {"0,2 * * * *", nil, 120, ""},
		"the most":         {"*/10 * * * *", "30m", 1800, ""},
		"too long":         {"*/10 * * * *", "1801", 0, "1800"},
		"the most, uneven": {"0,2 * * * *", "62m", 3720, ""},
		"too long, uneven": {"0,2 * * * *", "3721", 0, "3720"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect()
			sp := m.workspace.AddServicePrincipal("bi", false)
			data := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_schedule": row.cron}
			if row.grace != nil {
				data["rotation_grace_period"] = row.grace
			}
			resp, err := m.do(logical.UpdateOperation, "static-roles/x", data)
			if row.stored == 0 {
				m.refused(resp, err, "rotation_grace_period: ", "can be "+row.most+" seconds")
				require.Empty(t, m.workspace.OAuthSecrets(sp))
				return
			}
			m.requireOK(resp, err)
			require.Equal(t, row.stored, resp.Data["rotation_grace_period"])
			for range 150 {
				m.goOn(c, time.Minute, time.Minute)
				role := m.read("static-roles/x").Data
				require.Zero(t, role["rotation_failures"], role["last_rotation_error"])
			}
			creds := m.read("static-creds/x").Data
			require.NotEqual(t, resp.Data["credential_id"], creds["secret_id"])
			require.NotEmpty(t, m.login("/oidc/v1/token", sp.ApplicationID, creds["client_secret"].(string)))
		})
	}
}

// TestFailuresOutliveAMissedWindow shows that a schedule whose window passed leaves no doubt about why.
func TestFailuresOutliveAMissedWindow(t *testing.T) {
	t.Parallel()
	nightly := map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": "1h"}
	for path, event := range map[string]string{"config": "root-rotate-fail", "static-roles/x": "static-rotate-fail"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			m.write("static-roles/x", map[string]any{"credential_type": "pat"})
			m.write(path, nightly)
			m.workspace.Inject(simulator.Fault{Path: createPath, Status: 403, Message: "not today"})
			m.goOn(c, 15*time.Hour, time.Minute)
			failing := m.read(path).Data
			require.Positive(t, failing["rotation_failures"])
			require.Len(t, m.told(event), failing["rotation_failures"].(int))
			require.Equal(t, "2026-03-02T03:00:00Z", failing["next_vault_rotation"])

			m.goOn(c, 3*time.Hour, time.Minute)
			missed := m.read(path).Data
			require.Equal(t, "2026-03-03T03:00:00Z", missed["next_vault_rotation"])
			require.GreaterOrEqual(t, missed["rotation_failures"], failing["rotation_failures"])
			require.Contains(t, missed["last_rotation_error"], "not today")
			if path == "config" {
				status := m.read("status").Data
				require.Equal(t, missed["rotation_failures"], status["rotation_failures"])
				require.Equal(t, missed["last_rotation_error"], status["last_rotation_error"])
			}
			events := m.told(event)
			require.Equal(t, "2026-03-02T03:00:00Z", events[len(events)-1]["missed"])

			m.workspace.ClearFaults()
			m.goOn(c, 21*time.Hour+5*time.Minute, time.Minute)
			well := m.read(path).Data
			require.Zero(t, well["rotation_failures"])
			require.Empty(t, well["last_rotation_error"])
			require.Len(t, m.told(event), len(events))
		})
	}
}
