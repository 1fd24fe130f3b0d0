// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// byHand is a token for the engine that somebody made by hand, to live for so long; 0 for ever.
func (m *mount) byHand(life time.Duration) string {
	m.t.Helper()
	token, _ := m.workspace.AddToken(m.admin, "by hand", life)
	m.canaries.add(token)
	return token
}

// managedFor is a mount with the config whose host has a rotation manager. The first token is made by hand, to live for so long.
func managedFor(t *testing.T, life time.Duration, config map[string]any, opts ...simulator.Option) (*mount, *clock, *managingHost) {
	t.Helper()
	m, c := newTimedMount(t, opts...)
	h := &managingHost{StaticSystemView: m.system, now: c.now, jobs: map[string]*rotation.RotationJobConfigureRequest{}}
	m.host = h
	m.restartAt(c)
	m.connect(map[string]any{"token": m.byHand(life), "max_retries": 0}, config)
	require.Equal(t, "vault", m.read("status").Data["rotated_by"])
	return m, c, h
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

// TestAManagersLossEndsNoCredential lets the rotation manager lose the schedule of a credential that lives hardly longer than it: the
// engine replaces it in time, each time.
func TestAManagersLossEndsNoCredential(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]time.Duration{"a week": 7 * day, "five hours": 5 * time.Hour, "three hours": 3 * time.Hour} {
		for how, gone := range map[string]bool{"lost": false, "without a manager": true} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				m, c, h := managedFor(t, min(life, 6*time.Hour), map[string]any{"rotation_period": "2h"}, simulator.WithMaxTokenLifetime(life))
				m.write("config/rotate-root", nil)
				h.lose(gone)
				for range 2 * 24 * 6 {
					m.goOn(c, 10*time.Minute, 10*time.Minute)
					m.requireRoot()
				}
				require.GreaterOrEqual(t, len(m.told("root-rotate")), 2*24/4)
			})
		}
	}
}

// TestAManagerThatIsGoneForGood shows that the engine waits for it once, and keeps the schedule from then on.
func TestAManagerThatIsGoneForGood(t *testing.T) {
	t.Parallel()
	m, c, h := managedFor(t, 0, map[string]any{"rotation_period": "1h"})
	h.lose(true)
	for len(m.told("root-rotate")) == 0 {
		m.goOn(c, 5*time.Minute, 5*time.Minute)
		require.True(t, c.now().Before(newClock().at.Add(time.Hour+managedPatience+10*time.Minute)))
	}
	require.Equal(t, "engine", m.read("status").Data["rotated_by"])
	for range 2 * 24 * 12 {
		next := m.moment(m.read("status").Data["next_vault_rotation"])
		require.True(t, next.After(c.now()), "never in the past")
		m.goOn(c, 5*time.Minute, 5*time.Minute)
	}
	require.InDelta(t, 48*60/65, len(m.told("root-rotate")), 5)
	require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), time.Hour+5*time.Minute)
	m.requireRoot()
}

// TestATakeoverThatFailsIsTriedAgain shows that one failure doesn't put it off for another day.
func TestATakeoverThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	m, c, h := managedFor(t, 0, map[string]any{"rotation_period": "24h"})
	h.lose(true)
	m.workspace.Inject(simulator.Fault{Path: createPath, Status: 403, Times: 1})
	m.goOn(c, day+managedPatience-2*time.Minute, time.Minute)
	require.Empty(t, m.told("root-rotate-fail"))
	for range 4 {
		if len(m.told("root-rotate-fail")) == 0 {
			m.goOn(c, time.Minute, time.Minute)
		}
	}
	for _, path := range []string{"config", "status"} {
		state := m.read(path).Data
		require.Equal(t, 1, state["rotation_failures"], path)
		require.WithinDuration(t, c.now().Add(firstRetry), m.moment(state["next_rotation_attempt"]), 2*time.Second, path)
	}
	m.goOn(c, 2*time.Minute, time.Minute)
	require.Len(t, m.told("root-rotate-fail"), 1)
	require.Len(t, m.told("root-rotate"), 1)
	m.requireRoot()
	m.goOn(c, 3*day, 10*time.Minute)
	require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), day+10*time.Minute)
	m.requireRoot()
}

// TestAJobThatIsNoLongerWantedRotatesNothing lets the manager call for a schedule that is no longer stored.
func TestAJobThatIsNoLongerWantedRotatesNothing(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]map[string]any{
		"disabled":  {"disable_automated_rotation": true},
		"no period": {"rotation_period": 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c, _ := managedFor(t, 0, map[string]any{"rotation_period": "24h"})
			m.write("config", off)
			m.workspace.ResetCalls()
			c.advance(day)
			b := m.backend.(*backend)
			require.NoError(t, b.rotateManaged(t.Context(), &logical.Request{Storage: m.storage, MountPoint: "databricks/"}))
			require.Nil(t, m.read("config").Data["last_vault_rotation"])
			require.Zero(t, m.workspace.Count("", createPath))
			require.Empty(t, m.told("root-rotate-fail"))
			m.requireRoot()
		})
	}
}

// TestAHandMadeTokenIsNamedUntilItIsDeleted shows that an operator who reads the config is reminded of it, and no longer than that.
func TestAHandMadeTokenIsNamedUntilItIsDeleted(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"rotation_period": "24h"})
	require.Empty(t, m.read("config").Warnings)
	id := m.write("config/rotate-root", nil).Data["hand_made_credentials"].([]string)[0]
	for range 3 {
		require.Contains(t, strings.Join(m.read("config").Warnings, "\n"), "vault delete databricks/tokens/"+id)
		m.goOn(c, day+time.Hour, time.Hour)
	}
	m.gone("tokens/" + id)
	require.Empty(t, m.read("config").Warnings)
	require.Empty(t, m.read("config").Data["hand_made_credentials"])
	require.NotContains(t, strings.Join(m.write("config/rotate-root", nil).Warnings, "\n"), id)
}

// TestAHandMadeSecretIsNamedByTheRotation shows that only a rotation names it, which is when the engine sees whether it still lives.
func TestAHandMadeSecretIsNamedByTheRotation(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	engine, id := m.connectPrincipal(map[string]any{"rotation_period": "24h"})
	for range 2 {
		require.Contains(t, strings.Join(m.write("config/rotate-root", nil).Warnings, "\n"), "service-principal-secrets-proxy delete "+engine.ID+" "+id)
		require.Empty(t, m.read("config").Warnings)
		m.goOn(c, time.Hour, 10*time.Minute)
	}
	m.workspace.RevokeOAuthSecret(id)
	m.goOn(c, 3*day, time.Hour)
	require.Empty(t, m.read("config").Warnings)
	require.Empty(t, m.read("config").Data["hand_made_credentials"])
	require.NotContains(t, strings.Join(m.write("config/rotate-root", nil).Warnings, "\n"), id)
}

// TestAHandMadeCredentialIsReplacedBeforeItEnds shows it for one that lives for less than the period.
func TestAHandMadeCredentialIsReplacedBeforeItEnds(t *testing.T) {
	t.Parallel()
	schedule := map[string]any{"rotation_period": "720h"}
	for name, begin := range map[string]func(m *mount) *logical.Response{
		"token": func(m *mount) *logical.Response {
			return m.connect(map[string]any{"token": m.byHand(7 * day)}, schedule)
		},
		"token, scheduled later": func(m *mount) *logical.Response {
			m.connect(map[string]any{"token": m.byHand(7 * day)})
			return m.write("config", schedule)
		},
		"token, in place of another": func(m *mount) *logical.Response {
			m.connect(schedule)
			return m.write("config", map[string]any{"token": m.byHand(7 * day)})
		},
		"secret": func(m *mount) *logical.Response {
			engine := m.workspace.AddServicePrincipal("engine", true)
			_, secret := m.workspace.AddOAuthSecret(engine, 7*day)
			m.canaries.add(secret)
			return m.write("config", map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": secret, "rotation_period": "720h"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			written := begin(m)
			require.Empty(t, written.Warnings)
			ends := c.now().Add(7 * day)
			for _, shown := range []map[string]any{written.Data, m.read("config").Data} {
				require.WithinDuration(t, ends, m.moment(shown["expiry_time"]), time.Minute)
				require.True(t, m.moment(shown["next_vault_rotation"]).Before(ends.Add(-time.Hour)), "%s", shown["next_vault_rotation"])
				require.Empty(t, shown["credential_id"])
			}
			m.goOn(c, 7*day-time.Hour, time.Hour)
			require.Len(t, m.told("root-rotate"), 1)
			m.goOn(c, 31*day, 6*time.Hour)
			require.Len(t, m.told("root-rotate"), 2, "then by its period")
			require.Empty(t, m.told("root-rotate-fail"))
			m.write("config", map[string]any{"ttl": "1h"}) // which is verified
		})
	}
}

// TestAnEndThatCannotBeFoundOutIsWarnedOf shows that the operator is told of a hand-made credential whose end isn't known.
func TestAnEndThatCannotBeFoundOutIsWarnedOf(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	fault := m.workspace.Inject(simulator.Fault{Path: listPath, Status: 403})
	resp := m.connect(map[string]any{"rotation_period": "720h", "max_retries": 0})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "could not be found out when the credential ends")
	fault.Clear()
	require.Empty(t, m.write("config", map[string]any{"ttl": "1h"}).Warnings)

	m, _ = newTimedMount(t)
	engine, _ := m.connectPrincipal(nil)
	m.workspace.AddOAuthSecret(engine, 7*day)
	resp = m.write("config", map[string]any{"rotation_period": "720h"})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "isn't known when it ends")
}

// TestARotationThatWaitsForAnotherHasNotFailed lets a tick end while a request has the turn.
func TestARotationThatWaitsForAnotherHasNotFailed(t *testing.T) {
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
			ctx, cancel := context.WithCancel(t.Context())
			ticked := make(chan struct{})
			go func() {
				_ = m.backend.(*backend).tick(ctx, &logical.Request{Storage: m.storage, MountPoint: "databricks/"})
				close(ticked)
			}()
			key := strings.Replace(path, "static-roles/", staticStoragePrefix, 1)
			if path == "config" {
				key = configStorageKey
			}
			require.Eventually(t, func() bool { return m.queue(key) == 2 }, 10*time.Second, time.Millisecond)
			cancel()
			<-ticked
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
				require.Less(t, len(m.secretIDs(engine)), maxOAuthSecrets)
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

// TestGraceIsBounded shows that a role can't have so many tokens in their grace that its identity has no place for another.
func TestGraceIsBounded(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{credentialPAT, credentialOBO} {
		for name, schedule := range map[string]map[string]any{"period": {"rotation_period": "60s"}, "cron": {"rotation_schedule": "* * * * *"}} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				m, c := newTimedMount(t, simulator.WithTokenQuota(maxInGrace+3))
				m.connect(map[string]any{"max_retries": 0})
				role := map[string]any{"credential_type": kind, "rotation_grace_period": "8760h"}
				maps.Copy(role, schedule)
				if kind == credentialOBO {
					role["application_id"] = m.workspace.AddServicePrincipal("bi", false).ApplicationID
				}
				for _, grace := range []string{"8760h", "3001s"} {
					role["rotation_grace_period"] = grace
					resp, err := m.do(logical.UpdateOperation, "static-roles/a", role)
					m.refused(resp, err, "rotation_grace_period: ", "3000 seconds at most")
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
		for _, kind := range staticTypes {
			for _, wait := range []time.Duration{0, 10 * day, 306 * day, 500 * day} {
				t.Run(cron+" "+kind+" "+wait.String(), func(t *testing.T) {
					t.Parallel()
					m, c := newTimedMount(t)
					m.connect(map[string]any{"max_retries": 0})
					sp := m.workspace.AddServicePrincipal("bi", false)
					c.advance(wait)
					role := map[string]any{"credential_type": kind, "rotation_schedule": cron}
					if kind != credentialPAT {
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
