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

// skews are differences by which Vault's clock may be ahead.
var skews = map[string]time.Duration{"right": 0, "ahead": 3 * time.Minute, "behind": -3 * time.Minute, "far ahead": 3 * time.Hour, "far behind": -3 * time.Hour}

// skewed is a mount with the scope "etl", whose clock is ahead by the time given, and that has seen a few answers of Databricks.
func skewed(t *testing.T, ahead time.Duration) (*mount, *clock) {
	m, c := newTimedMount(t)
	c.runAhead(ahead)
	m.makeReady()
	m.workspace.AddScope("etl", m.admin)
	m.impatient()
	m.seeAnswers()
	return m, c
}

// seeAnswers makes calls that tell the time at Databricks.
func (m *mount) seeAnswers() {
	m.t.Helper()
	for range 4 {
		m.list("secrets/etl")
	}
}

// dieAfter loses the reply to the matching request, and all that the plugin does after that, as if its process had died.
func (m *mount) dieAfter(c *clock, path string, request func() (*logical.Response, error)) {
	m.t.Helper()
	logged := false
	m.storage.onEach(func(op, key string) error {
		if logged {
			return logical.ErrReadOnly
		}
		if op == "put" {
			logged = true
			m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: path, Reset: true, AfterEffect: true, Times: 1})
			m.workspace.Inject(simulator.Fault{Reset: true})
		}
		return nil
	})
	m.failure(request())
	m.revive(c)
}

// What a lost reply leaves is found, however wrong Vault's clock is, and also when it is corrected in between.
func TestALostWriteIsFoundWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	for name, ahead := range skews {
		for change, by := range map[string]time.Duration{"": 0, ", then set right": -ahead, ", then wrong": 10 * time.Minute} {
			t.Run(name+change, func(t *testing.T) {
				t.Parallel()
				m, c := skewed(t, ahead)
				sp := m.workspace.AddServicePrincipal("bi", false)
				m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})
				m.dieAfter(c, secretPutPath, func() (*logical.Response, error) {
					return m.do(logical.UpdateOperation, "secrets/etl/k", leasedValue)
				})
				_, there := m.has("k")
				require.True(t, there)
				m.seeAnswers()
				m.dieAfter(c, secretsPath+"*", func() (*logical.Response, error) { return m.do(logical.ReadOperation, "creds/job", nil) })
				require.Len(t, m.secretIDs(sp), 1)
				c.runAhead(ahead + by)
				m.lapse(c, 10*time.Minute, time.Minute)
				_, there = m.has("k")
				require.False(t, there)
				require.Empty(t, m.secretIDs(sp))
				require.Empty(t, m.walEntries())
			})
		}
	}
}

// Nor is the service principal of a live lease removed because Vault's clock is ahead.
func TestTidySparesALiveLeaseWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	for name, ahead := range skews {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := skewed(t, 0)
			m.write("roles/app", map[string]any{"credential_type": "service_principal", "ttl": "30m", "max_ttl": "1h"})
			m.mint("app")
			principals := func() int {
				n := 0
				for _, p := range m.workspace.ServicePrincipals() {
					if p.ID != m.admin.ID {
						n++
					}
				}
				return n
			}
			require.Equal(t, 1, principals())
			c.runAhead(ahead)
			m.seeAnswers()
			m.write("tidy", nil)
			<-m.backend.(*backend).tidy.run.done
			require.Equal(t, 1, principals())
			c.advance(5 * time.Hour)
			m.seeAnswers()
			m.write("tidy", nil)
			<-m.backend.(*backend).tidy.run.done
			require.Zero(t, principals())
		})
	}
}

// A credential that has ended by Vault's clock alone is revoked at Databricks.
func TestRevocationDoesNotTrustAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	m, c := skewed(t, 0)
	m.write("roles/job", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	creds := m.mint("job")
	c.runAhead(3 * time.Hour)
	m.seeAnswers()
	m.end(creds.Secret)
	require.Equal(t, http.StatusForbidden, m.whoami(creds.Data["token_value"].(string)))
}

// While the time at Databricks isn't known, what goes by it is put off.
func TestWithoutATimeNothingIsUndoneByIt(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]func(m *mount, c *clock) (show func()){
		"unknown": func(m *mount, _ *clock) func() {
			return m.workspace.Inject(simulator.Fault{NoDate: true}).Clear
		},
		"unstable": func(m *mount, c *clock) func() {
			c.runAhead(20 * time.Minute)
			return func() { m.seeAnswers() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := skewed(t, 0)
			sp := m.workspace.AddServicePrincipal("bi", false)
			lost, _ := m.workspace.AddOAuthSecret(sp, 2*time.Hour)
			m.restartAt(c)
			m.fillLog(1, func(int) intent {
				now := m.backend.(*backend).now()
				return intent{Started: now, Expires: now.Add(3 * time.Hour), Credential: &credentialIntent{Type: "oauth_secret", Role: "job", ServicePrincipalID: sp.ID, Lifetime: 7200}}
			})
			show := hide(m, c)
			require.ErrorContains(t, m.failure(m.rollback()), "put off until it is known what time it is at Databricks")
			require.Equal(t, []string{lost}, m.secretIDs(sp))
			require.Len(t, m.walEntries(), 1)
			if name == "unstable" {
				c.runAhead(0)
			}
			show()
			m.rolledBack()
			require.Empty(t, m.secretIDs(sp))
		})
	}
}

// status shows what is known of the clocks.
func TestStatusShowsTheClocks(t *testing.T) {
	t.Parallel()
	m, c := skewed(t, -3*time.Minute)
	status := m.read("status").Data
	require.InDelta(t, 180, status["clock_offset"], 1)
	require.Equal(t, true, status["clock_stable"])
	m.restartAt(c)
	require.Nil(t, m.read("status").Data["clock_offset"])
}

// A lease whose credential has ended is revoked without a call, also while the mount is connected to another workspace, whose clock is of no
// interest.
func TestRevocationOfWhatHasEndedElsewhere(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	lease := m.mint("etl").Secret
	other := simulator.New(simulator.WithClock(c.now), simulator.WithWorkspaceID("4711"))
	t.Cleanup(other.Close)
	token, _ := other.AddToken(other.AddUser("engine@example.com", true), "another", 0)
	m.canaries.add(token)
	m.write("config", map[string]any{"host": other.URL(), "token": token})
	c.advance(3 * time.Hour)
	other.ResetCalls()
	m.end(lease)
	require.Empty(t, other.Calls())
}

// While Databricks can't be asked for the time, a revocation fails until the credential must have ended by any clock, and then it only warns.
func TestRevocationOfWhatEndedLongAgo(t *testing.T) {
	t.Parallel()
	m, c := skewed(t, 0)
	lease := m.mint("etl").Secret
	m.workspace.Inject(simulator.Fault{Reset: true})
	c.advance(3 * time.Hour)
	m.failure(m.revoke(lease))
	c.advance(clockFar)
	m.end(lease)
	require.Contains(t, m.log.String(), "[WARN]  a credential that ended by itself long ago could not be revoked")
}
