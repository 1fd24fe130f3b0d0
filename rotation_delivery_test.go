// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// putFaults are the ways in which a put of a secret fails.
var putFaults = map[string]simulator.Fault{
	"503 before":   {Path: secretPutPath, Status: 503, Times: 1},
	"503 after":    {Path: secretPutPath, Status: 503, Times: 1, AfterEffect: true},
	"500 before":   {Path: secretPutPath, Status: 500, Times: 1},
	"500 after":    {Path: secretPutPath, Status: 500, Times: 1, AfterEffect: true},
	"reset before": {Path: secretPutPath, Reset: true, Times: 1},
	"reset after":  {Path: secretPutPath, Reset: true, Times: 1, AfterEffect: true},
}

// failPut lets the next put of a secret fail. If it is done all the same, the engine's look at that fails, too: the list after so many.
func (m *mount) failPut(fault simulator.Fault, lists int) {
	m.workspace.Inject(fault)
	if fault.AfterEffect {
		m.workspace.Inject(simulator.Fault{Path: secretListPath, Status: 500, Offset: lists, Times: 1})
	}
}

// delivering is a mount with the scope "etl", on a clock.
func delivering(t *testing.T) (*mount, *clock) {
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.workspace.AddScope("etl", m.admin)
	return m, c
}

// daily is a static role that delivers to the key of the scope "etl".
func daily(key string, more ...string) map[string]any {
	role := map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": key}
	for i := 0; i+1 < len(more); i += 2 {
		role[more[i]] = more[i+1]
	}
	return role
}

// TestARoleThatCouldNotBeCreatedRemovesNothingOfOthers lets the first delivery of a role fail: neither the role nor anything that it
// made stays, and what was in the key before goes only if the delivery went over it.
func TestARoleThatCouldNotBeCreatedRemovesNothingOfOthers(t *testing.T) {
	t.Parallel()
	for name, fault := range putFaults {
		for _, before := range []string{"", "somebody else's"} {
			t.Run(name+" "+before, func(t *testing.T) {
				t.Parallel()
				m, c := delivering(t)
				if before != "" {
					m.workspace.PutSecret("etl", "k", []byte(before))
				}
				c.advance(time.Second)
				m.failPut(fault, 2)
				require.ErrorContains(t, m.failure(m.do(logical.UpdateOperation, "static-roles/x", daily("k"))), "not created")
				value, there := m.has("k")
				switch {
				case before == "" || fault.AfterEffect:
					require.False(t, there, "a copy of a credential that is gone")
				default:
					require.Equal(t, before, value)
				}
				m.absent("static-roles/x")
				require.Empty(t, m.minted())
				m.workspace.PutSecret("etl", "k", []byte("written since"))
				m.goOn(c, 10*time.Minute, time.Minute)
				value, _ = m.has("k")
				require.Equal(t, "written since", value)
				require.Empty(t, m.walEntries())
			})
		}
	}
}

// TestDeletingAnUndeliveredRoleRemovesNothingOfOthers lets somebody write the key after a delivery failed: at once where it is certain
// that nothing was put, and otherwise when it can't have been the role's put any more.
func TestDeletingAnUndeliveredRoleRemovesNothingOfOthers(t *testing.T) {
	t.Parallel()
	for name, fault := range putFaults {
		since := []time.Duration{3 * time.Minute, time.Hour}
		if !fault.Reset && !fault.AfterEffect {
			since = append(since, time.Millisecond, 30*time.Second)
		}
		for _, since := range since {
			t.Run(name+" "+since.String(), func(t *testing.T) {
				t.Parallel()
				m, c := delivering(t)
				m.write("static-roles/x", daily("k"))
				c.advance(day + time.Minute)
				m.failPut(fault, 1)
				m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403}) // and nothing after it
				m.tick()
				require.Equal(t, false, m.read("static-roles/x").Data["delivered"])
				c.advance(since)
				m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
				resp, err := m.do(logical.DeleteOperation, "static-roles/x", nil)
				m.requireOK(resp, err)
				value, _ := m.has("k")
				require.Equal(t, "somebody else's", value)
				require.Empty(t, m.minted())
				m.absent("static-roles/x")
			})
		}
	}
}

// TestDeletingAnUndeliveredRoleRemovesItsOwn shows that the copy goes of which it wasn't certain that it was put.
func TestDeletingAnUndeliveredRoleRemovesItsOwn(t *testing.T) {
	t.Parallel()
	for name, fault := range putFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := delivering(t)
			m.write("static-roles/x", daily("k"))
			c.advance(day + time.Minute)
			m.workspace.Inject(fault)
			m.tick()
			resp, err := m.do(logical.DeleteOperation, "static-roles/x", nil)
			m.requireOK(resp, err)
			_, there := m.has("k")
			require.False(t, there)
			require.Empty(t, m.minted())
		})
	}
}

// TestMovingAfterADeliveryThatIsNotCertain shows that no copy stays at a place that the role has left, whatever became of the last
// delivery there.
func TestMovingAfterADeliveryThatIsNotCertain(t *testing.T) {
	t.Parallel()
	for name, fault := range putFaults {
		for to, ref := range map[string]map[string]any{
			"another key": {"deliver_key": "two"},
			"nowhere":     {"deliver_scope": "", "deliver_key": ""},
		} {
			t.Run(name+" to "+to, func(t *testing.T) {
				t.Parallel()
				m, c := delivering(t)
				m.write("static-roles/x", daily("one"))
				c.advance(day + time.Minute)
				m.failPut(fault, 1)
				m.tick()
				require.Equal(t, false, m.read("static-roles/x").Data["delivered"])
				m.write("static-roles/x", ref)
				m.goOn(c, 100*time.Minute, time.Minute)
				_, there := m.has("one")
				require.False(t, there)
				value, there := m.has("two")
				require.Equal(t, to == "another key", there)
				if there {
					require.Equal(t, m.read("static-creds/x").Data["token_value"], value)
				}
				require.Empty(t, m.read("static-roles/x").Data["pending_error"])
				require.Len(t, m.minted(), 1)
			})
		}
	}
}

// TestADeliveryWhoseReplyIsLostIsOne shows that the engine looks whether a put was done that failed.
func TestADeliveryWhoseReplyIsLostIsOne(t *testing.T) {
	t.Parallel()
	for name, fault := range putFaults {
		if !fault.AfterEffect {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := delivering(t)
			m.workspace.Inject(fault)
			require.Equal(t, true, m.write("static-roles/x", daily("k")).Data["delivered"])
			c.advance(day + time.Minute)
			m.workspace.Inject(fault)
			m.workspace.ResetCalls()
			m.tick()
			role := m.read("static-roles/x").Data
			require.Equal(t, true, role["delivered"])
			require.Empty(t, role["pending_error"])
			require.Equal(t, 1, m.workspace.Count("", secretPutPath))
		})
	}
}

// TestGraceBeginsWithTheDelivery shows that whoever has read the secret scope just before a delivery that was late has as much time as
// anybody.
func TestGraceBeginsWithTheDelivery(t *testing.T) {
	t.Parallel()
	m, c := delivering(t)
	m.write("static-roles/x", daily("k", "rotation_grace_period", "1h"))
	old, _ := m.has("k")
	c.advance(day + time.Minute)
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 500})
	m.goOn(c, 3*time.Hour, time.Minute)
	value, _ := m.has("k")
	require.Equal(t, old, value)
	require.Equal(t, http.StatusOK, m.whoami(old), "what is delivered works")
	m.workspace.ClearFaults()
	for range 70 {
		m.goOn(c, time.Minute, time.Minute)
		if m.read("static-roles/x").Data["delivered"] == true {
			break
		}
	}
	value, _ = m.has("k")
	require.NotEqual(t, old, value)
	m.goOn(c, 59*time.Minute, time.Minute)
	require.Equal(t, http.StatusOK, m.whoami(old), "and goes on for the grace period")
	m.goOn(c, 5*time.Minute, time.Minute)
	require.Equal(t, http.StatusForbidden, m.whoami(old))
	require.Len(t, m.minted(), 1)
}

// TestGraceOfWhatIsNotDeliveredBeginsWithTheRotation shows that nothing else is prolonged.
func TestGraceOfWhatIsNotDeliveredBeginsWithTheRotation(t *testing.T) {
	t.Parallel()
	m, c := delivering(t)
	role := daily("k", "rotation_grace_period", "1h")
	delete(role, "deliver_scope")
	delete(role, "deliver_key")
	m.write("static-roles/x", role)
	old := m.read("static-creds/x").Data["token_value"].(string)
	c.advance(day + time.Minute)
	m.tick()
	m.goOn(c, 58*time.Minute, time.Minute)
	require.Equal(t, http.StatusOK, m.whoami(old))
	m.write("static-roles/x", map[string]any{"deliver_scope": "etl", "deliver_key": "k"})
	m.goOn(c, 5*time.Minute, time.Minute)
	require.Equal(t, http.StatusForbidden, m.whoami(old))
}

// TestOneRolePerPlace shows that two static roles never overwrite each other's copies.
func TestOneRolePerPlace(t *testing.T) {
	t.Parallel()
	m, c := delivering(t)
	m.write("static-roles/a", daily("k"))
	for _, ref := range [][2]string{{"etl", "k"}, {"ETL", "k"}, {"etl", "K"}} {
		role := daily(ref[1], "deliver_scope", ref[0])
		resp, err := m.do(logical.UpdateOperation, "static-roles/b", role)
		m.refused(resp, err, "deliver_key: ", `static role "a"`)
	}
	require.Len(t, m.minted(), 1)
	m.write("static-roles/b", daily("other"))
	resp, err := m.do(logical.UpdateOperation, "static-roles/b", map[string]any{"deliver_key": "k"})
	m.refused(resp, err, "deliver_key: ", `static role "a"`)
	m.write("static-roles/a", daily("k", "rotation_grace_period", "2h"))
	m.goOn(c, 3*day, time.Hour)
	for name, key := range map[string]string{"a": "k", "b": "other"} {
		value, _ := m.has(key)
		require.Equal(t, m.read("static-creds/" + name).Data["token_value"], value)
	}

	// A place that a role has left is free.
	m.write("static-roles/a", map[string]any{"deliver_key": "moved"})
	m.write("static-roles/b", map[string]any{"deliver_key": "k"})
	m.goOn(c, 3*day, time.Hour)
	value, _ := m.has("k")
	require.Equal(t, m.read("static-creds/b").Data["token_value"], value)
	_, there := m.has("other")
	require.False(t, there)
}

// TestAWriteRightAfterAnUncertainPutStays shows that the engine looks at once whether a put that failed was done, so that what somebody writes next is not taken for it.
func TestAWriteRightAfterAnUncertainPutStays(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"503 after", "500 after", "reset after"} {
		t.Run(name, func(t *testing.T) {
			m, c := delivering(t)
			m.write("static-roles/x", daily("k"))
			c.advance(day + time.Minute)
			m.workspace.Inject(putFaults[name])
			m.tick()
			c.advance(30 * time.Second)
			m.write("secrets/etl/k", map[string]any{"string_value": "somebody else's"})
			resp, err := m.do(logical.DeleteOperation, "static-roles/x", nil)
			m.requireOK(resp, err)
			value, _ := m.has("k")
			require.Equal(t, "somebody else's", value)
		})
	}
}

// elsewhere connects the mount to another workspace, as an admin there, and returns it.
func (m *mount) elsewhere() *simulator.Workspace {
	m.t.Helper()
	other := simulator.New(simulator.WithWorkspaceID("4242"))
	m.t.Cleanup(other.Close)
	engine := other.AddUser("engine@example.com", true)
	token, _ := other.AddToken(engine, "", 0)
	m.canaries.add(token)
	other.AddScope("etl", engine)
	m.write("config", map[string]any{"host": other.URL(), "token": token})
	return other
}

// requireOnlyItsOwn requires that the workspace was never sent the credential of another one.
func requireOnlyItsOwn(t *testing.T, other *simulator.Workspace, foreign string) {
	t.Helper()
	for _, call := range other.Calls() {
		require.NotContains(t, string(call.Body), foreign, call.Path)
	}
}

// TestACredentialIsDeliveredNowhereElse shows that a credential whose delivery is pending, or gets another place, is not sent to the workspace
// that the config was moved to.
func TestACredentialIsDeliveredNowhereElse(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.workspace.AddScope("etl", m.admin)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "k"})
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 500})
	m.write("rotate-role/bi", nil)
	secret := m.read("static-creds/bi").Data["token_value"].(string)
	m.canaries.add(secret)
	other := m.elsewhere()
	for range 3 {
		c.advance(time.Hour)
		_, _ = m.rollback()
	}
	answer := m.write("static-roles/bi", map[string]any{"deliver_key": "another"})
	require.Contains(t, warnings(answer), "no longer connected")
	require.Equal(t, false, answer.Data["delivered"])
	encoded := base64.StdEncoding.EncodeToString([]byte(secret))
	requireOnlyItsOwn(t, other, secret)
	requireOnlyItsOwn(t, other, encoded)
}

// TestACopyElsewhereIsNotForgotten shows that a copy in the workspace of before is not taken for gone because the present one has none.
func TestACopyElsewhereIsNotForgotten(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	m.workspace.AddScope("etl", m.admin)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_scope": "etl", "deliver_key": "k"})
	m.elsewhere()
	resp, err := m.do(logical.DeleteOperation, "static-roles/bi", nil)
	require.ErrorContains(t, m.failure(resp, err), "no longer connected")
	m.write("config", map[string]any{"host": m.workspace.URL(), "token": m.token})
	m.gone("static-roles/bi")
	require.Empty(t, m.scope("etl").Secrets)
	require.Empty(t, m.minted())
}

// TestNoGraceForWhatNobodyCanRead shows that a credential is not kept for the sake of a copy that is gone.
func TestNoGraceForWhatNobodyCanRead(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	m.workspace.AddScope("etl", m.admin)
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_grace_period": 0, "deliver_scope": "etl", "deliver_key": "k"})
	leaked := m.read("static-creds/bi").Data["token_value"].(string)
	m.canaries.add(leaked)
	m.gone("scopes/etl")
	m.write("rotate-role/bi", nil)
	require.NotEqual(t, http.StatusOK, m.whoami(leaked))
}
