// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// secretReady is a connected mount with the role "job" of a service principal.
func secretReady(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	m := ready(t, opts...)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID, "scopes": "sql,jobs", "ttl": "10m", "max_ttl": "1h"})
	m.workspace.ResetCalls()
	return m, sp
}

func TestOAuthSecret(t *testing.T) {
	t.Parallel()
	m, sp := secretReady(t)
	creds := m.mint("job")
	require.Equal(t, []string{"POST " + secretsPath + "…/secrets"}, m.requests(), "a mint is one call")
	require.Equal(t, secretsPath+sp.ID+"/credentials/secrets", m.workspace.Calls()[0].Path)
	sent := m.body(0)
	require.Equal(t, []any{"sql", "jobs"}, sent["scopes"])
	lifetime, err := time.ParseDuration(sent["lifetime"].(string))
	require.NoError(t, err)
	require.GreaterOrEqual(t, lifetime, 61*time.Minute, "max_ttl, a minute, and what tells it from others")
	require.Less(t, lifetime, 61*time.Minute+offsetRange(61*time.Minute))

	secret := m.workspace.OAuthSecrets(sp)[0]
	value := m.hidden(creds, "client_secret")
	require.Equal(t, map[string]any{
		"host": m.workspace.URL(), "client_id": sp.ApplicationID, "client_secret": value, "secret_id": secret.ID,
		"expiry_time": rfc3339(secret.Expires), "scopes": []string{"sql", "jobs"},
	}, creds.Data)
	require.Equal(t, lifetime, secret.Expires.Sub(secret.Created))
	require.Equal(t, []string{"sql", "jobs"}, secret.Scopes)
	state := m.workspace.Introspect(m.login(grantPath, sp.ApplicationID, value))
	require.True(t, state.Live)
	require.Equal(t, sp.ID, state.Owner.ID)
	require.Equal(t, []string{"sql", "jobs"}, state.Scopes)
	require.Equal(t, 10*time.Minute, creds.Secret.TTL)
	require.Equal(t, time.Hour, creds.Secret.MaxTTL)
	require.True(t, creds.Secret.Renewable)
	require.Empty(t, creds.Warnings)
	require.Empty(t, m.walEntries())
	m.renewed(creds.Secret, 10*time.Minute)

	for range 2 {
		m.workspace.ResetCalls()
		m.end(creds.Secret)
		require.Equal(t, []string{"DELETE " + secretsPath + "…/secrets/…"}, m.requests(), "a revoke is one call, and gone is success")
		require.Empty(t, m.login(grantPath, sp.ApplicationID, value))
	}

	creds = m.write("creds/job", map[string]any{"scopes": "jobs", "comment": "OPS-1"})
	require.Equal(t, []string{"jobs"}, creds.Data["scopes"])
	require.Equal(t, []string{"jobs"}, m.workspace.OAuthSecrets(sp)[0].Scopes)
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "comment was left out")
	resp, err := m.do(logical.UpdateOperation, "creds/job", map[string]any{"scopes": "all-apis"})
	m.refused(resp, err, `scopes: "all-apis" is not among the role's`)

	// With its service principal, a secret is gone.
	resp, err = m.do(logical.DeleteOperation, "roles/job", nil)
	m.requireOK(resp, err)
	m.workspace.ResetCalls()
	require.NoError(t, m.removeByHand(sp))
	m.end(creds.Secret)
}

// removeByHand deletes a service principal behind the engine's back.
func (m *mount) removeByHand(sp simulator.Principal) error {
	req, err := http.NewRequest(http.MethodDelete, m.workspace.URL()+principalsPath+"/"+sp.ID, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+m.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusNoContent {
		return errors.New(resp.Status)
	}
	return resp.Body.Close()
}

func TestOAuthSecretFaults(t *testing.T) {
	t.Parallel()
	rows := lateCreate(http.MethodPost, secretsPath+"*")
	rows["no such service principal"] = mintFault{[]simulator.Fault{{Method: http.MethodPost, Path: secretsPath + "*", Status: 404, ErrorCode: "NOT_FOUND", Message: "Service principal 1 does not exist."}}, 400, "there is no service principal", false, 0, 1}
	mintFaults(t, rows,
		func(t *testing.T) *mount { m, _ := secretReady(t); return m },
		func(m *mount) int { return len(m.workspace.OAuthSecrets(m.only("job"))) },
		func(m *mount) int { return m.workspace.Count(http.MethodPost, secretsPath+"*") }, 1,
		func(m *mount, resp *logical.Response) {
			value := m.hidden(resp, "client_secret")
			require.True(m.t, m.workspace.Introspect(m.login(grantPath, m.only("job").ApplicationID, value)).Live)
		})
}

// only is the service principal with this name.
func (m *mount) only(name string) simulator.Principal {
	m.t.Helper()
	for _, sp := range m.workspace.ServicePrincipals() {
		if sp.DisplayName == name {
			return sp
		}
	}
	require.Fail(m.t, "no service principal "+name)
	return simulator.Principal{}
}

func TestOAuthSecretLimit(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]simulator.Option{
		"as assumed":                  nil,
		"as if throttled":             {simulator.WithSecretQuotaError(429, "RESOURCE_EXHAUSTED")},
		"with a code that is unknown": {simulator.WithSecretQuotaError(409, "TOO_MANY")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, sp := secretReady(t, opts...)
			seen := map[time.Duration]bool{}
			var last *logical.Response
			for range 5 {
				last = m.mint("job")
			}
			for _, secret := range m.workspace.OAuthSecrets(sp) {
				seen[secret.Expires.Sub(secret.Created)] = true
			}
			require.Len(t, seen, 5, "each lifetime is unique")
			m.workspace.ResetCalls()
			resp, err := m.do(logical.ReadOperation, "creds/job", nil)
			m.refused(resp, err, "a service principal can have 5 OAuth secrets, and "+sp.ID+" has 5", "vault lease revoke -prefix", "oauth_token", "service_principal", "HTTP 4")
			require.Equal(t, []string{"POST " + secretsPath + "…/secrets", "GET " + secretsPath + "…/secrets"}, m.requests())
			require.Len(t, m.workspace.OAuthSecrets(sp), 5)
			m.rolledBack()
			require.Len(t, m.workspace.OAuthSecrets(sp), 5)
			m.end(last.Secret)
			m.mint("job")
		})
	}

	t.Run("can't be counted", func(t *testing.T) {
		t.Parallel()
		m, sp := secretReady(t)
		for range 5 {
			m.workspace.AddOAuthSecret(sp, time.Hour)
		}
		m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: secretsPath + "*", Status: 403})
		resp, err := m.do(logical.ReadOperation, "creds/job", nil)
		m.refused(resp, err, "RESOURCE_LIMIT_EXCEEDED")
	})
}

// loseSecret mints a secret whose reply is lost.
func (m *mount) loseSecret() {
	m.t.Helper()
	fault := m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: secretsPath + "*", AfterEffect: true, Reset: true, Times: 1})
	m.failure(m.do(logical.ReadOperation, "creds/job", nil))
	fault.Clear()
	require.Len(m.t, m.walEntries(), 1)
}

func TestOAuthSecretRollback(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*mount, simulator.Principal, intent) {
		m, sp := secretReady(t)
		m.workspace.AddOAuthSecret(sp, time.Hour)
		m.loseSecret()
		_, in := m.walIntent()
		require.Equal(t, sp.ID, in.Credential.ServicePrincipalID)
		return m, sp, in
	}

	t.Run("what looks alike is left alone", func(t *testing.T) {
		t.Parallel()
		m, sp, in := setup(t)
		m.workspace.AddOAuthSecret(sp, 0)
		m.workspace.AddOAuthSecret(sp, seconds(in.Credential.Lifetime+1))
		other := m.workspace.AddServicePrincipal("other", false)
		m.workspace.AddOAuthSecret(other, seconds(in.Credential.Lifetime))
		lost := m.workspace.OAuthSecrets(sp)[1]
		require.Equal(t, seconds(in.Credential.Lifetime), lost.Expires.Sub(lost.Created))
		m.rolledBack()
		require.Len(t, m.workspace.OAuthSecrets(sp), 3)
		require.NotContains(t, m.workspace.OAuthSecrets(sp), lost)
		require.Len(t, m.workspace.OAuthSecrets(other), 1)
		require.Contains(t, m.log.String(), lost.ID)
	})

	t.Run("where two fit, neither is touched, and the log says so once", func(t *testing.T) {
		t.Parallel()
		m, sp, in := setup(t)
		_, twin := m.workspace.AddOAuthSecret(sp, seconds(in.Credential.Lifetime))
		for range 2 {
			m.rolledBack()
			require.Len(t, m.workspace.OAuthSecrets(sp), 3)
		}
		require.NotEmpty(t, m.login(grantPath, sp.ApplicationID, twin))
		log := m.log.String()
		require.Equal(t, 1, strings.Count(log, "2 OAuth secrets of service principal "+sp.ID))
		require.Contains(t, log, "none is touched")
		require.Contains(t, log, "it ends by itself by "+rfc3339(in.Expires))
		require.Contains(t, log, "[ERROR]")
	})

	for name, by := range map[string]time.Duration{"made long before": -2 * clockNear, "made long after": mintBudget + 2*clockNear} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, sp, _ := setup(t)
			m.age(by)
			m.rolledBack()
			require.Len(t, m.workspace.OAuthSecrets(sp), 2)
		})
	}

	t.Run("the service principal is gone", func(t *testing.T) {
		t.Parallel()
		m, sp, _ := setup(t)
		require.NoError(t, m.removeByHand(sp))
		m.rolledBack()
	})

	t.Run("fails and is repeated", func(t *testing.T) {
		t.Parallel()
		m, sp, _ := setup(t)
		m.write("config", map[string]any{"max_retries": 0})
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			fault := m.workspace.Inject(simulator.Fault{Method: method, Path: secretsPath + "*", Status: 503})
			resp, err := m.rollback()
			require.NoError(t, err)
			require.ErrorContains(t, resp.Error(), "503")
			require.Len(t, m.walEntries(), 1)
			fault.Clear()
		}
		m.rolledBack()
		require.Len(t, m.workspace.OAuthSecrets(sp), 1)
	})

	t.Run("after a restart, with a lease beside it", func(t *testing.T) {
		t.Parallel()
		m, sp, _ := setup(t)
		creds := m.mint("job")
		m.restart()
		m.rolledBack()
		require.Len(t, m.workspace.OAuthSecrets(sp), 2)
		require.NotEmpty(t, m.login(grantPath, sp.ApplicationID, creds.Data["client_secret"].(string)))
	})

	t.Run("a change of the config confuses nothing", func(t *testing.T) {
		t.Parallel()
		m, sp, in := setup(t)
		lifetimes := map[int64]bool{in.Credential.Lifetime: true}
		for range 40 {
			m.write("config", map[string]any{"ttl": 60 + len(lifetimes)})
			creds := m.mint("job")
			made := m.workspace.OAuthSecrets(sp)[2]
			lifetimes[int64(made.Expires.Sub(made.Created)/time.Second)] = true
			m.end(creds.Secret)
		}
		require.Len(t, lifetimes, 41)
	})

	t.Run("too many at once to be told apart", func(t *testing.T) {
		t.Parallel()
		m, sp := secretReady(t)
		given := &m.backend.(*backend).lifetimes
		for range int(offsetRange(61*time.Minute) / time.Second) {
			_, unique := given.distinct(time.Now(), sp.ID, 61*time.Minute)
			require.True(t, unique)
		}
		m.loseSecret()
		m.rolledBack()
		require.Len(t, m.workspace.OAuthSecrets(sp), 1, "it may be somebody's")
		require.Contains(t, m.log.String(), "than can be told apart")
		m.end(m.mint("job").Secret)
	})
}

func TestOAuthSecretForAsLongAsThereIs(t *testing.T) {
	t.Parallel()
	m, _ := secretReady(t)
	m.system.MaxLeaseTTLVal = 2 * maxLifetime
	m.write("roles/job", map[string]any{"ttl": "730h", "max_ttl": int64(maxLifetime / time.Second)})
	creds := m.mint("job")
	require.InDelta(t, maxLifetime, creds.Secret.MaxTTL, float64(3*time.Minute))
}

func TestOAuthSecretIntentHoldsNoSecret(t *testing.T) {
	t.Parallel()
	m, _ := secretReady(t)
	m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: secretsPath + "*", Status: 429, Times: 1})
	creds := m.mint("job")
	_, in := m.walIntent()
	require.Equal(t, creds.Data["secret_id"], in.Credential.KeepID)
	m.hidden(creds, "client_secret")
	entry, err := m.storage.Get(t.Context(), framework.WALPrefix+m.walEntries()[0])
	require.NoError(t, err)
	require.NotContains(t, string(entry.Value), "dose")
}

// TestOAuthSecretGrantedOtherwise shows that a lease is true of what Databricks made, whatever was asked for.
func TestOAuthSecretGrantedOtherwise(t *testing.T) {
	t.Parallel()
	m, _ := secretReady(t)
	reply := func(expires string) {
		m.workspace.ClearFaults()
		m.workspace.Inject(simulator.Fault{Method: http.MethodPost, Path: secretsPath + "*", Status: 200, Body: fmt.Sprintf(`{"id":"granted","secret":"dose0","scopes":["sql","jobs"],"create_time":%q%s}`, time.Now().UTC().Format(time.RFC3339), expires)})
	}
	reply(fmt.Sprintf(`,"expire_time":%q`, time.Now().Add(5*time.Minute).UTC().Format(time.RFC3339)))
	creds := m.mint("job")
	require.LessOrEqual(t, creds.Secret.MaxTTL, 5*time.Minute)
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "so the lease can last no longer")

	reply("")
	resp, err := m.do(logical.ReadOperation, "creds/job", nil)
	m.coded(http.StatusBadGateway, resp, err, "never ends", "removed again")
	require.Equal(t, 1, m.workspace.Count(http.MethodDelete, secretsPath+"*"))
	require.Empty(t, m.walEntries())
}

func TestOAuthSecretDelivered(t *testing.T) {
	t.Parallel()
	m, sp := secretReady(t)
	m.workspace.AddScope("etl", m.admin)
	creds := m.write("creds/job", delivered)
	value, there := m.has("k")
	require.True(t, there)
	require.NotContains(t, creds.Data, "client_secret")
	require.Equal(t, sp.ApplicationID, creds.Data["client_id"])
	require.NotEmpty(t, m.login(grantPath, sp.ApplicationID, value))
	m.end(creds.Secret)
	_, there = m.has("k")
	require.False(t, there)
	require.Empty(t, m.workspace.OAuthSecrets(sp))

	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403})
	m.failure(m.do(logical.UpdateOperation, "creds/job", delivered))
	require.Empty(t, m.workspace.OAuthSecrets(sp), "a failed delivery leaves no credential")
	require.Empty(t, m.walEntries())
}

// Another mount may have leased a secret of the same service principal and lifetime at about the same time. What was created after the
// request had failed is not this mount's for certain, so it is left to its own end, and the log says so.
func TestOAuthSecretOfAnotherMountIsSpared(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		after time.Duration // from the failure to the other's create
		ours  bool
	}{"at once": {0, true}, "later": {20 * time.Second, false}, "much later": {4 * time.Minute, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			sp := m.workspace.AddServicePrincipal("bi", false)
			m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})
			m.workspace.Inject(lostCreates["never arrived"])
			m.failure(m.do(logical.ReadOperation, "creds/job", nil))
			_, in := m.walIntent()
			require.False(t, in.Ended.IsZero())
			c.advance(row.after)
			m.workspace.AddOAuthSecret(sp, seconds(in.Credential.Lifetime))
			c.advance(3 * time.Minute)
			m.youngTick()
			require.Empty(t, m.walEntries())
			require.Equal(t, row.ours, len(m.workspace.OAuthSecrets(sp)) == 0)
			require.Equal(t, row.after == 20*time.Second, strings.Contains(m.log.String(), "or another client's"))
		})
	}
}

// The longer a secret lives, the more lifetimes there are to choose from.
func TestOffsetRange(t *testing.T) {
	t.Parallel()
	for lifetime, want := range map[time.Duration]time.Duration{
		2 * time.Minute: time.Minute, time.Hour: 72 * time.Second, 24 * time.Hour: 1728 * time.Second, 90 * day: time.Hour,
		maxLifetime - minLifetimeOffset: minLifetimeOffset,
	} {
		require.Equal(t, want, offsetRange(lifetime), lifetime)
	}
}

// What a process left that died during a create is removed only if it would live for long, and was created when such a create usually is.
func TestOAuthSecretOfADeadProcess(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		ttl     string
		after   time.Duration
		removed bool
	}{
		"long":        {"8h", time.Second, true},
		"long, late":  {"8h", 30 * time.Second, false},
		"short":       {"10m", time.Second, false},
		"short, late": {"10m", 30 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.system.MaxLeaseTTLVal = 24 * time.Hour
			m.connect(map[string]any{"max_retries": 0})
			m.workspace.AddScope("etl", m.admin)
			sp := m.workspace.AddServicePrincipal("bi", false)
			m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "ttl": row.ttl, "max_ttl": row.ttl})
			m.seeAnswers()
			m.dieAfter(c, "/nowhere", func() (*logical.Response, error) { return m.do(logical.ReadOperation, "creds/job", nil) })
			_, in := m.walIntent()
			require.True(t, in.Ended.IsZero())
			c.advance(row.after)
			m.workspace.AddOAuthSecret(sp, seconds(in.Credential.Lifetime))
			m.pass(c, 3*time.Minute)
			require.Empty(t, m.walEntries())
			require.Equal(t, row.removed, len(m.workspace.OAuthSecrets(sp)) == 0)
			require.NotEqual(t, row.removed, strings.Contains(m.log.String(), "or another client's"))
		})
	}
}

// TestASecretWhoseServicePrincipalLeftTheWorkspaceIsNoted shows that a lease ends whose service principal the workspace no longer knows, and
// that the log says what may be left: the account knows it, and its secret works there.
func TestASecretWhoseServicePrincipalLeftTheWorkspaceIsNoted(t *testing.T) {
	t.Parallel()
	m, sp := secretReady(t, simulator.WithAccount("6c8d4a52-0000-4000-8000-0123456789ab"))
	creds, gone := m.mint("job"), m.mint("job")
	m.end(gone.Secret)
	m.end(gone.Secret)
	require.Empty(t, m.logged("[WARN]"), "the secret is gone, and nothing is left")

	m.workspace.SetWorkspaceMember(sp, false)
	m.end(creds.Secret)
	require.Len(t, m.workspace.OAuthSecrets(sp), 1)
	require.Len(t, m.logged("[WARN]", "no longer in the workspace", "service_principal_id="+sp.ID, "secret_id="+creds.Data["secret_id"].(string)), 1)
}
