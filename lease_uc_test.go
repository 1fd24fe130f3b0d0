// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const ucOne = ucPath + "/main.app.k"

func TestLeasedUCSecret(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	resp := m.write("uc-secrets/main/app/k", leasedValue)
	require.Equal(t, []string{"GET " + ucOne, "POST " + ucPath}, m.requests(), "a lease looks before it, and the answer says when it was written")
	stored, _ := m.uc("k")
	require.Equal(t, "canary-leased", stored.Value)
	require.Equal(t, "main.app.k", resp.Data["full_name"])
	require.Equal(t, rfc3339(stored.Updated), resp.Data["last_updated_time"])
	require.Equal(t, time.Hour, resp.Secret.TTL)
	require.True(t, resp.Secret.Renewable)
	require.Equal(t, "main.app.k", resp.Secret.InternalData["uc_secret"])
	require.Empty(t, m.walEntries())
	require.Len(t, m.records(), 1)

	m.workspace.ResetCalls()
	m.end(resp.Secret)
	require.Equal(t, []string{"GET " + ucOne, "DELETE " + ucOne}, m.requests())
	require.Empty(t, m.workspace.UCSecrets("main", "app"))
	require.Empty(t, m.records())
	m.end(resp.Secret)
	require.Len(t, m.told("uc-secret-revoke"), 2)

	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/app/k", map[string]any{"string_value": "canary-leased", "ttl": "1h", "if_absent": true})
	m.requireOK(resp, err)
	refused, err := m.do(logical.UpdateOperation, "uc-secrets/main/app/K", map[string]any{"string_value": "canary-second", "ttl": "1h", "if_absent": true})
	m.refused(refused, err, "if_absent", "main.app.K already exists")
	m.workspace.DropUCSchema("main", "app")
	m.end(resp.Secret)
}

func TestLeasedUCSecretIsOursOnly(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	for name, change := range map[string]func(){
		"written elsewhere":  func() { m.workspace.PutUCSecret("main.app.k", "theirs", m.admin) },
		"written over Vault": func() { m.write("uc-secrets/MAIN/app/k", map[string]any{"string_value": "canary-durable"}) },
		"pushed": func() {
			m.write("uc-secrets/main/app", map[string]any{"secrets": map[string]any{"k": "canary-durable"}})
		},
	} {
		lease := m.write("uc-secrets/main/app/k", leasedValue).Secret
		change()
		m.end(lease)
		_, there := m.uc("k")
		require.True(t, there, name)
		m.rolledBack()
		_, there = m.uc("k")
		require.True(t, there, name)
	}
	require.Contains(t, m.log.String(), "a leased secret was overwritten since, so it is left alone: uc_secret=main.app.k")
}

// A create in if_absent may meet a secret that somebody has stored since the engine looked: that is neither overwritten nor removed.
func TestALeaseThatMustNotOverwriteLeavesWhatItMeets(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 404, Body: `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Secret does not exist."}`, Times: 1})
	m.workspace.PutUCSecret("main.app.k", "theirs", m.admin)
	resp, err := m.do(logical.UpdateOperation, "uc-secrets/main/app/k", map[string]any{"string_value": "canary-leased", "ttl": "1h", "if_absent": true})
	m.refused(resp, err, "already exists and was not overwritten")
	stored, _ := m.uc("k")
	require.Equal(t, "theirs", stored.Value)
	require.Empty(t, m.walEntries())
	m.rolledBack()
	_, there := m.uc("k")
	require.True(t, there)
}

// Whatever is lost of a leased write, nothing stays of it, and nothing goes that others have written.
func TestLeasedUCSecretFaults(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		for name, fault := range map[string]simulator.Fault{
			"503 before":   {Status: 503},
			"500 after":    {Status: 500, AfterEffect: true},
			"reset before": {Reset: true},
			"reset after":  {Reset: true, AfterEffect: true},
		} {
			t.Run(fmt.Sprint(name, " ", before), func(t *testing.T) {
				t.Parallel()
				m, c := newTimedMount(t)
				m.connect(map[string]any{"max_retries": 0})
				m.workspace.AddUCSchema("main", "app", m.admin)
				fault.Method, fault.Path, fault.Times = "POST", ucPath, 1
				if before {
					m.workspace.PutUCSecret("main.app.k", "old", m.admin)
					fault.Method, fault.Path = "PATCH", ucOne
				}
				c.advance(time.Second)
				m.workspace.Inject(fault)
				if fault.AfterEffect {
					m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 500, Offset: 1, Times: 1}) // the look at what was done
				}
				m.failure(m.do(logical.UpdateOperation, "uc-secrets/main/app/k", leasedValue))
				_, there := m.uc("k")
				require.Equal(t, before || fault.AfterEffect, there)
				if fault.AfterEffect {
					require.Len(t, m.walEntries(), 1)
				}
				m.workspace.ClearFaults()
				m.rolledBack()
				stored, there := m.uc("k")
				if fault.AfterEffect {
					require.False(t, there, "%v", stored)
				} else if before {
					require.Equal(t, "old", stored.Value)
				}
				require.Empty(t, m.records())
			})
		}
	}
}

// TestLostUCCreateWhoseUpdateIsRefused loses the answer to a create. Its repetition finds the secret, and the update that follows is refused: what
// the create stored is removed all the same.
func TestLostUCCreateWhoseUpdateIsRefused(t *testing.T) {
	t.Parallel()
	for what, request := range map[string]struct {
		path string
		data map[string]any
	}{
		"leased":    {"uc-secrets/main/app/k", leasedValue},
		"delivered": {"creds/etl", map[string]any{"deliver_uc": "main.app.k"}},
		"static":    {"static-roles/s", map[string]any{"credential_type": "pat", "deliver_uc": "main.app.k"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			m := withSchema(t)
			m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 503, AfterEffect: true, Times: 1})
			refusal := m.workspace.Inject(simulator.Fault{Method: "PATCH", Path: ucOne, Status: 403, ErrorCode: "PERMISSION_DENIED"})
			resp, err := m.do(logical.UpdateOperation, request.path, request.data)
			require.Equal(t, 1, refusal.Hits())
			m.workspace.ClearFaults()
			if what == "static" { // it has its credential, and delivers it later
				m.requireOK(resp, err)
				_, there := m.uc("k")
				require.True(t, there, "the answer alone was lost")
				_, err = m.do(logical.DeleteOperation, request.path, nil)
				require.NoError(t, err)
			} else {
				m.failure(resp, err)
			}
			m.rolledBack()
			_, there := m.uc("k")
			require.False(t, there)
			require.Empty(t, m.records())
			require.Empty(t, m.minted())
		})
	}
}

// The rollback of a write of unknown outcome leaves what was written through the mount since.
func TestLeasedUCSecretRepeated(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	m.impatient()
	m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Reset: true, AfterEffect: true, Times: 1})
	m.workspace.Inject(simulator.Fault{Method: "DELETE", Path: ucOne, Status: 503})
	m.failure(m.do(logical.UpdateOperation, "uc-secrets/main/app/k", leasedValue))
	require.Len(t, m.walEntries(), 1)
	m.workspace.ClearFaults()
	m.restart()
	m.write("uc-secrets/main/APP/k", map[string]any{"string_value": "canary-durable"})
	require.Empty(t, m.walEntries())
	m.rolledBack()
	stored, _ := m.uc("k")
	require.Equal(t, "canary-durable", stored.Value)
}
