// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
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
	for _, event := range m.sent() {
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
	require.Empty(m.t, config.Rotation.LastError)
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
	m.refused(resp, err, "lifetime: ", "73h")
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
	b.nextRun.mu.Lock()
	b.nextRun.checked = time.Now().Add(-2 * nextRunLife) // an hour later by a clock that nobody sets
	b.nextRun.mu.Unlock()
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
		"too long":         {"*/10 * * * *", "1801", 0, "30m at most"},
		"the most, uneven": {"0,2 * * * *", "62m", 3720, ""},
		"too long, uneven": {"0,2 * * * *", "3721", 0, "1h2m at most"},
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
				m.refused(resp, err, "rotation_grace_period: ", "can be "+row.most)
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

// TestAMissedWindowIsToldOnceItIsStored shows that storage which fails doesn't make every tick tell of the same window.
func TestAMissedWindowIsToldOnceItIsStored(t *testing.T) {
	t.Parallel()
	nightly := map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": "1h"}
	for path, event := range map[string]string{"config": "root-rotate-fail", "static-roles/x": "static-rotate-fail"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect()
			m.write("static-roles/x", map[string]any{"credential_type": "pat"})
			m.write(path, nightly)
			m.goOn(c, 14*time.Hour, time.Hour)
			c.advance(150 * time.Minute) // nothing ran while the window was open
			m.storage.onEach(func(op, key string) error {
				if op == "put" && (key == configStorageKey || strings.HasPrefix(key, staticStoragePrefix)) {
					return errors.New("no quorum")
				}
				return nil
			})
			for range 3 {
				c.advance(time.Minute)
				require.ErrorContains(t, m.failure(m.rollback()), "no quorum")
			}
			require.Empty(t, m.told(event))
			require.Empty(t, m.logged("its window has passed"))
			m.storage.onEach(nil)
			m.goOn(c, 10*time.Minute, time.Minute)
			require.Len(t, m.told(event), 1)
			require.Len(t, m.logged("its window has passed"), 1)
		})
	}
}

// TestADenseScheduleLeavesRoomForSecrets rotates the engine's OAuth secret as often as can be, of which there can be five.
func TestADenseScheduleLeavesRoomForSecrets(t *testing.T) {
	t.Parallel()
	for name, schedule := range map[string]map[string]any{
		"cron":   {"rotation_schedule": "* * * * *"},
		"period": {"rotation_period": "60s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			engine, _ := m.connectPrincipal(schedule)
			for range 60 {
				m.goOn(c, time.Minute, time.Minute)
				require.Less(t, len(m.secretIDs(engine)), credential.MaxOAuthSecrets)
			}
			require.Empty(t, m.told("root-rotate-fail"))
			require.GreaterOrEqual(t, len(m.told("root-rotate")), 29)
			require.Zero(t, m.read("config").Data["rotation_failures"])
		})
	}
}

// TestTheLifeOfTheEnginesTokenOutlastsAnOutage shows that a short period doesn't make the engine's token short-lived: it asks for the
// longest life that the workspace is likely to give.
func TestTheLifeOfTheEnginesTokenOutlastsAnOutage(t *testing.T) {
	t.Parallel()
	for longest, life := range map[time.Duration]time.Duration{14 * day: 14 * day, 10 * day: 7 * day, 3 * day: day} {
		t.Run(longest.String(), func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t, simulator.WithMaxTokenLifetime(longest))
			m.connect(map[string]any{"token": m.byHand(300 * day), "rotation_period": "1h", "max_retries": 0})
			m.goOn(c, 61*time.Minute, time.Minute)
			require.Len(t, m.told("root-rotate"), 1)
			made := m.read("config").Data
			require.WithinDuration(t, c.now().Add(life), m.moment(made["expiry_time"]), time.Hour)
			m.requireRoot()
			c.advance(life - time.Hour)
			m.restartAt(c)
			m.goOn(c, 2*time.Hour, time.Minute)
			m.requireRoot()
			require.NotEqual(t, made["credential_id"], m.read("config").Data["credential_id"])
		})
	}
}

// TestGraceIsBounded shows that a role can't have so many tokens in their grace that its identity has no place for another.
func TestGraceIsBounded(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{credential.PAT, credential.OBOToken} {
		for name, schedule := range map[string]map[string]any{"period": {"rotation_period": "60s"}, "cron": {"rotation_schedule": "* * * * *"}} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				m, c := newTimedMount(t, simulator.WithTokenQuota(maxInGrace+3))
				m.connect(map[string]any{"max_retries": 0})
				role := map[string]any{"credential_type": kind, "rotation_grace_period": "8760h"}
				maps.Copy(role, schedule)
				if kind == credential.OBOToken {
					role["application_id"] = m.workspace.AddServicePrincipal("bi", false).ApplicationID
				}
				for _, grace := range []string{"8760h", "3001s"} {
					role["rotation_grace_period"] = grace
					resp, err := m.do(logical.UpdateOperation, "static-roles/a", role)
					m.refused(resp, err, "rotation_grace_period: ", "50m at most")
				}
				require.Empty(t, m.minted())
				role["rotation_grace_period"] = "3000s"
				m.write("static-roles/a", role)
				resp, err := m.do(logical.UpdateOperation, "static-roles/a", map[string]any{"rotation_grace_period": "3001s"})
				m.refused(resp, err, "rotation_grace_period: ")
				for range 70 {
					m.goOn(c, time.Minute, time.Minute)
					require.LessOrEqual(t, len(m.minted()), maxInGrace+2)
				}
				require.Empty(t, m.told("static-rotate-fail"))
				require.Greater(t, len(m.minted()), maxInGrace-3)
			})
		}
	}
}

// TestTheGraceOfARareScheduleIsAnHour shows that the default doesn't grow with what a schedule can't foresee, and that a schedule which
// no credential outlives is refused.
func TestTheGraceOfARareScheduleIsAnHour(t *testing.T) {
	t.Parallel()
	for cron, accepted := range map[string]bool{"0 0 29 2 *": false, "0 0 1 1 *": true, "0 0 31 12 *": true} {
		for _, kind := range credential.Names(credential.Static) {
			for _, wait := range []time.Duration{0, 10 * day, 306 * day, 500 * day} {
				t.Run(cron+" "+kind+" "+wait.String(), func(t *testing.T) {
					t.Parallel()
					m, c := newTimedMount(t)
					m.connect(map[string]any{"max_retries": 0})
					sp := m.workspace.AddServicePrincipal("bi", false)
					c.advance(wait)
					role := map[string]any{"credential_type": kind, "rotation_schedule": cron}
					if kind != credential.PAT {
						role["application_id"] = sp.ApplicationID
					}
					resp, err := m.do(logical.UpdateOperation, "static-roles/a", role)
					if !accepted {
						m.refused(resp, err, "rotation_")
						require.Empty(t, m.minted())
						return
					}
					m.requireOK(resp, err)
					require.EqualValues(t, 3600, resp.Data["rotation_grace_period"])
					next := m.moment(resp.Data["next_vault_rotation"])
					require.True(t, m.moment(resp.Data["expiry_time"]).After(next.Add(time.Hour)))
				})
			}
		}
	}
}

// TestAnEndedCredentialWithoutAScheduleIsWarnedOf shows what readers of a credential are told that nobody has replaced in time.
func TestAnEndedCredentialWithoutAScheduleIsWarnedOf(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.write("static-roles/a", map[string]any{"credential_type": "pat", "lifetime": "1h"})
	require.Empty(t, m.read("static-creds/a").Warnings)
	c.advance(3 * time.Hour)
	creds := m.read("static-creds/a")
	require.EqualValues(t, 60, creds.Data["ttl"])
	for _, resp := range []*logical.Response{creds, m.read("static-roles/a")} {
		require.Len(t, resp.Warnings, 1)
		require.Contains(t, resp.Warnings[0], "The credential ended at Databricks at "+creds.Data["expiry_time"].(string)+"; replace it by rotate-role")
	}
	m.write("rotate-role/a", nil)
	creds = m.read("static-creds/a")
	require.Empty(t, creds.Warnings)
	require.Empty(t, m.read("static-roles/a").Warnings)
	require.Greater(t, creds.Data["ttl"], int64(3500))
	require.Equal(t, http.StatusOK, m.whoami(creds.Data["token_value"].(string)))
}

// TestAPeriodLongerThanTheWorkspaceAllows shows that the engine takes what life the workspace gives, and rotates more often then.
func TestAPeriodLongerThanTheWorkspaceAllows(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t, simulator.WithMaxTokenLifetime(30*day))
	m.connect()
	m.write("config/rotate-root", nil) // 30 days
	m.write("config", map[string]any{"rotation_period": "960h"})
	m.goOn(c, 40*day, 6*time.Hour)
	m.requireRoot()
}

// TestALongerPeriodAfterTheClockWasAhead shows that nothing of a wrong clock is left when the schedule is changed.
func TestALongerPeriodAfterTheClockWasAhead(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_period": "6h"})
	b := m.backend.(*backend)
	c.runAhead(5 * 365 * day)
	m.tick()
	m.tick()
	c.runAhead(0)
	b.nextRun.touch()
	m.tick()
	for _, path := range []string{"config", "static-roles/x"} {
		m.write(path, map[string]any{"rotation_period": "4320h"})
		m.tick()
		shown := m.read(path).Data
		require.True(t, m.moment(shown["next_vault_rotation"]).Before(m.moment(shown["expiry_time"])), path)
	}
}

// TestWhatWasRetiredBeforeTheClockWasAheadIsRemoved shows that a wrong clock is no reason to take a credential for ended.
func TestWhatWasRetiredBeforeTheClockWasAheadIsRemoved(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	m.write("config/rotate-root", nil)
	m.write("config/rotate-root", nil) // the first is retired
	b := m.backend.(*backend)
	c.runAhead(5 * 365 * day)
	m.tick()
	m.tick()
	c.runAhead(0)
	b.nextRun.touch()
	m.goOn(c, 20*time.Hour, 10*time.Minute)
	require.Len(t, m.minted(), 1)
}
