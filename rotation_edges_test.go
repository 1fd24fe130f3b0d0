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
	b.agenda.touch()
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
	b.agenda.touch()
	m.goOn(c, 20*time.Hour, 10*time.Minute)
	require.Len(t, m.minted(), 1)
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

// TestAnUnreadableStaticRoleHoldsUpNoOther shows that rollbacks, rotations and deletes go on beside an entry that makes no sense.
func TestAnUnreadableStaticRoleHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) *mount {
		m, _ := delivering(t)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "static/a", Value: []byte(`{}`)}))
		return m
	}
	t.Run("rollback for a static role", func(t *testing.T) {
		m := setup(t)
		m.workspace.Inject(simulator.Fault{Path: createPath, Reset: true, AfterEffect: true, Times: 1})
		m.failure(m.do(logical.UpdateOperation, "static-roles/b", map[string]any{"credential_type": "pat"}))
		m.rolledBack()
		require.Empty(t, m.minted())
	})
	t.Run("rollback of a leased OAuth secret", func(t *testing.T) {
		m := setup(t)
		sp := m.workspace.AddServicePrincipal("job", false)
		m.write("roles/job", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID})
		m.loseSecret()
		m.rolledBack()
		require.Empty(t, m.secretIDs(sp))
	})
	t.Run("rotation of the config's secret", func(t *testing.T) {
		m := setup(t)
		m.connectPrincipal(nil)
		m.write("config/rotate-root", nil)
	})
	t.Run("delete of a token", func(t *testing.T) {
		m := setup(t)
		_, id := m.workspace.AddToken(m.admin, "by hand", 0)
		resp, err := m.do(logical.DeleteOperation, "tokens/"+id, nil)
		m.requireOK(resp, err)
	})
}

// TestScopesStayAtTheFirstRotation shows that a token whose scopes can be told from none is not replaced.
func TestScopesStayAtTheFirstRotation(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"empty": "{}", "others": tokenList(t, nil, []string{"sql"})} {
		t.Run(name, func(t *testing.T) {
			m, scopes := scopedRoot(t)
			m.workspace.Inject(simulator.Fault{Path: listPath, Status: http.StatusOK, Body: body, Times: 1})
			resp, err := m.do(logical.UpdateOperation, "config/rotate-root", nil)
			if err == nil && !resp.IsError() {
				require.Equal(t, scopes, m.scopesOf(resp.Data["credential_id"].(string)))
			}
		})
	}
}

// TestOneRolePerPlaceAtOnce lets two roles be created for the same place at the same time.
func TestOneRolePerPlaceAtOnce(t *testing.T) {
	t.Parallel()
	m, _ := delivering(t)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold, Times: 1})
	first := make(chan error, 1)
	go func() {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: "static-roles/a", Data: daily("k"), Storage: m.storage, MountPoint: "databricks/"})
		if err == nil {
			err = resp.Error()
		}
		first <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	second := make(chan error, 1)
	go func() {
		resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: "static-roles/b", Data: daily("k"), Storage: m.storage, MountPoint: "databricks/"})
		if err == nil {
			err = resp.Error()
		}
		second <- err
	}()
	time.AfterFunc(200*time.Millisecond, func() { close(hold) })
	a, b := <-first, <-second
	require.False(t, a == nil && b == nil, "both deliver to the same place")
}

// TestGraceAfterALongerPeriod shows that a credential is replaced early enough to have its grace.
func TestGraceAfterALongerPeriod(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_period": "24h", "rotation_grace_period": "24h"})
	role := m.write("static-roles/x", map[string]any{"rotation_period": "720h"}).Data
	require.False(t, m.moment(role["next_vault_rotation"]).After(m.moment(role["expiry_time"]).Add(-day)), "the grace is left")
	_ = c
}

// TestTidyAfterTheClockWasAhead shows that tidy does not wait for a date that a wrong clock has set.
func TestTidyAfterTheClockWasAhead(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.goOn(c, 2*time.Hour, time.Minute)
	c.runAhead(5 * 365 * day)
	m.goOn(c, 2*time.Minute, time.Minute)
	c.runAhead(0)
	m.goOn(c, 2*day, time.Hour)
	require.False(t, m.moment(m.tidyStatus()["next_automatic"]).After(c.now().Add(30*day)))
}
