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

func TestDeliveryToUnityCatalog(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	resp := m.write("creds/etl", map[string]any{"deliver_uc": "main.app.token"})
	require.Equal(t, []string{"GET " + ucPath + "/main.app.token", "POST /api/2.0/token/create", "POST " + ucPath}, m.requests())
	require.Equal(t, "main.app.token", resp.Data["deliver_uc"])
	require.NotContains(t, resp.Data, "token_value")
	require.NotContains(t, resp.Data, "deliver_scope")
	stored, _ := m.uc("token")
	require.Equal(t, http.StatusOK, m.whoami(stored.Value))
	require.Len(t, m.records(), 1)
	m.requireDiscreet(resp, nil)

	renewed, err := m.leaseRequest(logical.RenewOperation, resp.Secret)
	m.requireOK(renewed, err)
	for range 2 {
		m.end(renewed.Secret)
		require.Equal(t, http.StatusForbidden, m.whoami(stored.Value))
		require.Empty(t, m.ucNames())
		require.Empty(t, m.records())
	}

	// The next one goes over the first, whose end leaves it.
	first := m.write("creds/etl", map[string]any{"deliver_uc": "main.app.token"})
	second := m.write("creds/etl", map[string]any{"deliver_uc": "Main.App.TOKEN"})
	m.end(first.Secret)
	require.Len(t, m.ucNames(), 1)
	m.end(second.Secret)
	require.Empty(t, m.ucNames())
	require.Empty(t, m.minted())
}

func TestDeliveryToUnityCatalogRefusesBadInput(t *testing.T) {
	t.Parallel()
	m := withSchema(t)
	for name, row := range map[string]struct {
		data map[string]any
		word string
	}{
		"two parts":  {map[string]any{"deliver_uc": "app.token"}, "<catalog>.<schema>.<name>"},
		"four parts": {map[string]any{"deliver_uc": "a.b.c.d"}, "<catalog>.<schema>.<name>"},
		"no part":    {map[string]any{"deliver_uc": "main..token"}, "no valid name"},
		"slash":      {map[string]any{"deliver_uc": "main.app.a/b"}, "no valid name"},
		"empty":      {map[string]any{"deliver_uc": ""}, "is empty"},
		"two places": {map[string]any{"deliver_uc": "main.app.token", "deliver_scope": "etl", "deliver_key": "k"}, "can't be sent together"},
	} {
		resp, err := m.do(logical.UpdateOperation, "creds/etl", row.data)
		m.refused(resp, err, "deliver_uc", row.word)
		delete(row.data, "credential_type")
		static := map[string]any{"credential_type": "pat", "rotation_period": "24h"}
		for field, value := range row.data {
			static[field] = value
		}
		if name != "empty" {
			resp, err = m.do(logical.UpdateOperation, "static-roles/x", static)
			m.refused(resp, err, "deliver_uc", row.word)
		}
	}
	resp, err := m.do(logical.ReadOperation, "creds/etl", map[string]any{"deliver_uc": "main.app.token"})
	m.refused(resp, err, "deliver_uc")
	require.Empty(t, m.workspace.Calls())

	resp, err = m.do(logical.UpdateOperation, "creds/etl", map[string]any{"deliver_uc": "main.none.token"})
	m.refused(resp, err, "could not be delivered to main.none.token, so it is revoked", "no schema main.none")
	require.Empty(t, m.minted())
	require.Empty(t, m.walEntries())
	resp, err = m.do(logical.UpdateOperation, "static-roles/x", map[string]any{"credential_type": "pat", "deliver_uc": "main.none.token"})
	m.refused(resp, err, "deliver_uc: there is no schema main.none")
	require.Empty(t, m.minted())
}

func TestStaticRoleDeliversToUnityCatalog(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.workspace.AddUCSchema("main", "app", m.admin)
	m.workspace.AddScope("etl", m.admin)
	role := map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "0", "deliver_uc": "main.app.bi"}
	resp := m.write("static-roles/bi", role)
	require.Equal(t, "main.app.bi", resp.Data["deliver_uc"])
	require.Equal(t, true, resp.Data["delivered"])
	first, _ := m.uc("bi")
	require.Equal(t, first.Value, m.read("static-creds/bi").Data["token_value"])

	c.advance(time.Second)
	m.write("rotate-role/bi", nil)
	second, _ := m.uc("bi")
	require.NotEqual(t, first.Value, second.Value)
	require.Equal(t, http.StatusOK, m.whoami(second.Value))
	require.Equal(t, http.StatusForbidden, m.whoami(first.Value))

	// It is the only one there.
	refused, err := m.do(logical.UpdateOperation, "static-roles/other", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_uc": "MAIN.app.bi"})
	m.refused(refused, err, "deliver_uc", `where static role "bi" delivers to`)
	refused, err = m.do(logical.UpdateOperation, "uc-secrets/main/app/BI", leasedValue)
	m.refused(refused, err, "where a static role delivers")

	// It moves to a scope and back: a place that is named takes the place of the other.
	c.advance(time.Second)
	resp = m.write("static-roles/bi", map[string]any{"deliver_scope": "etl", "deliver_key": "bi"})
	require.Equal(t, "", resp.Data["deliver_uc"])
	require.Empty(t, m.ucNames())
	value, _ := m.has("bi")
	require.Equal(t, second.Value, value)
	c.advance(time.Second)
	resp = m.write("static-roles/bi", map[string]any{"deliver_uc": "main.app.bi"})
	require.Equal(t, "", resp.Data["deliver_scope"])
	_, there := m.has("bi")
	require.False(t, there)
	back, _ := m.uc("bi")
	require.Equal(t, second.Value, back.Value)

	// An empty field names no place, and half a place is none.
	c.advance(time.Second)
	resp = m.write("static-roles/bi", map[string]any{"deliver_scope": "etl", "deliver_key": "bi", "deliver_uc": ""})
	require.Equal(t, "etl", resp.Data["deliver_scope"])
	c.advance(time.Second)
	resp = m.write("static-roles/bi", map[string]any{"deliver_uc": "main.app.bi", "deliver_scope": ""})
	require.Equal(t, "", resp.Data["deliver_key"])
	require.Equal(t, "main.app.bi", resp.Data["deliver_uc"])
	for half, other := range map[string]string{"deliver_scope": "deliver_key", "deliver_key": "deliver_scope"} {
		for _, data := range []map[string]any{{half: "etl"}, {half: "etl", "deliver_uc": ""}, {half: "etl", other: ""}} {
			refused, err = m.do(logical.UpdateOperation, "static-roles/bi", data)
			m.refused(refused, err, other+": is missing; "+half+" needs it")
		}
	}

	// A delivery that fails is repeated.
	m.workspace.Inject(simulator.Fault{Method: "PATCH", Path: ucPath + "/main.app.bi", Status: 500, Times: 1})
	c.advance(time.Second)
	resp = m.write("rotate-role/bi", nil)
	require.NotEmpty(t, resp.Warnings)
	stale, _ := m.uc("bi")
	require.Equal(t, second.Value, stale.Value)
	require.Equal(t, http.StatusOK, m.whoami(second.Value), "which lives until it is replaced there")
	c.advance(24 * time.Hour / 2)
	m.youngTick()
	fresh, _ := m.uc("bi")
	require.Equal(t, m.read("static-creds/bi").Data["token_value"], fresh.Value)

	m.gone("static-roles/bi")
	require.Empty(t, m.ucNames())
}

// A delivery that Databricks turns away is not taken for done, nor its copy for the role's, because somebody else writes at the same time.
func TestADeliveryThatIsTurnedAwayTakesNobodysSecret(t *testing.T) {
	t.Parallel()
	t.Run("of another owner", func(t *testing.T) {
		t.Parallel()
		m := withSchema(t)
		m.impatient()
		owner := m.workspace.AddUser("owner@example.com", false)
		m.workspace.PutUCSecret("main.app.k", "theirs", owner)
		for _, privilege := range []string{simulator.PrivilegeWriteSecret, simulator.PrivilegeManage} {
			m.workspace.GrantOnUCSecret("main.app.k", privilege, m.admin)
		}
		m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h", "deliver_uc": "main.app.k"})
		resp, err := m.during(simulator.Fault{Method: "PATCH", Path: ucOne, Status: 503}, func() (*logical.Response, error) {
			return m.do(logical.UpdateOperation, "rotate-role/bi", nil)
		}, func() { m.workspace.PutUCSecret("main.app.k", "theirs again", owner) })
		m.requireOK(resp, err)
		require.Equal(t, false, resp.Data["delivered"])
		require.Contains(t, warnings(resp), "deliver the credential to main.app.k: uc-secrets/update")
		m.gone("static-roles/bi")
		stored, _ := m.uc("k")
		require.Equal(t, "theirs again", stored.Value)
	})
	for name, row := range map[string]struct {
		effect, readable, theirs bool
		stays                    bool
		log                      string
	}{
		"by another mount of the identity":  {readable: true, theirs: true, stays: true},
		"its own":                           {readable: true, effect: true},
		"of which the value can't be read":  {effect: true, stays: true, log: "it can't be told whether what is there now is somebody else's"},
		"theirs, whose value can't be read": {theirs: true, stays: true, log: "it can't be told whether what is there now is somebody else's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withSchema(t)
			m.impatient()
			m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "24h"})
			m.workspace.Inject(simulator.Fault{Method: "POST", Path: ucPath, Status: 429, AfterEffect: row.effect, Times: 1})
			m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 500, Offset: 1, Times: 1}) // the look at what was done
			require.Equal(t, false, m.write("static-roles/bi", map[string]any{"deliver_uc": "main.app.k"}).Data["delivered"])
			if row.theirs {
				m.workspace.PutUCSecret("main.app.k", "another mount's", m.admin)
			}
			if !row.readable {
				m.workspace.Inject(simulator.Fault{Method: "GET", Path: ucOne, Status: 403, ErrorCode: "PERMISSION_DENIED", Times: 1})
			}
			m.forgetThrottling()
			m.write("static-roles/bi", map[string]any{"deliver_uc": ""})
			_, there := m.uc("k")
			require.Equal(t, row.stays, there)
			require.Contains(t, m.log.String(), row.log)
		})
	}
}
