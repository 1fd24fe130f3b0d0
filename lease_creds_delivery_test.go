// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

var delivered = map[string]any{"deliver_scope": "etl", "deliver_key": "k"}

func (m *mount) deliver() *logical.Response {
	m.t.Helper()
	resp := m.write("creds/etl", delivered)
	require.NotNil(m.t, resp.Secret)
	return resp
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	resp := m.deliver()
	token, there := m.has("k")
	require.True(t, there)
	require.Regexp(t, `^dapi[0-9a-f]{32}$`, token, "exactly the token")
	require.Equal(t, http.StatusOK, m.whoami(token))
	require.NotContains(t, resp.Data, "token_value")
	require.Equal(t, "etl", resp.Data["deliver_scope"])
	require.Equal(t, "k", resp.Data["deliver_key"])
	require.Equal(t, m.minted()[0].ID, resp.Data["token_id"])
	for name, value := range resp.Data {
		require.NotContains(t, value, token, name)
	}
	require.Equal(t, 10*time.Minute, resp.Secret.TTL)
	require.Empty(t, m.walEntries())
	m.requireDiscreet(resp, nil)
	for _, event := range m.sent() {
		require.NotContains(t, event.Event.GetMetadata().AsMap(), token)
	}

	renewed, err := m.leaseRequest(logical.RenewOperation, resp.Secret)
	m.requireOK(renewed, err)
	for range 2 {
		m.end(resp.Secret)
		require.Equal(t, http.StatusForbidden, m.whoami(token))
		_, there = m.has("k")
		require.False(t, there)
		require.Empty(t, m.minted())
	}

	m.workspace.PutSecret("etl", "k", []byte("old"))
	m.deliver()
	token, _ = m.has("k")
	require.Equal(t, http.StatusOK, m.whoami(token), "what is in the key is overwritten")
}

func TestDeliveryRefusesBadInput(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.ResetCalls()
	for name, row := range map[string]struct {
		data map[string]any
		word string
	}{
		"no scope":  {map[string]any{"deliver_key": "k"}, "deliver_scope: is missing; deliver_key needs it"},
		"no key":    {map[string]any{"deliver_scope": "etl"}, "deliver_key: is missing; deliver_scope needs it"},
		"bad scope": {map[string]any{"deliver_scope": "a/b", "deliver_key": "k"}, `deliver_scope: "a/b" is no valid name`},
		"bad key":   {map[string]any{"deliver_scope": "etl", "deliver_key": "a b"}, `deliver_key: "a b" is no valid name`},
	} {
		resp, err := m.do(logical.UpdateOperation, "creds/etl", row.data)
		m.refused(resp, err, row.word)
		require.Empty(t, m.workspace.Calls(), name)
	}
}

// TestDeliveryFails shows that a credential which could not be delivered does not stay, and neither does its copy.
func TestDeliveryFails(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		setup  func(m *mount)
		word   string
		mints  int
		walled bool
	}{
		"no scope":    {func(m *mount) { m.gone("scopes/etl") }, "write scopes/etl", 1, false},
		"put refused": {func(m *mount) { m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 403}) }, "needs WRITE", 1, false},
		"put broken":  {func(m *mount) { m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 500}) }, "secrets/put", 1, true},
		"put lost": {func(m *mount) {
			m.workspace.Inject(simulator.Fault{Path: secretPutPath, Reset: true, AfterEffect: true})
		}, "secrets/put", 1, false},
		"put throttled": {func(m *mount) {
			m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: 429, Header: http.Header{"Retry-After": {"3600"}}})
		}, "secrets/put", 1, true},
		"list refused before": {func(m *mount) { m.workspace.Inject(simulator.Fault{Path: secretListPath, Status: 403}) }, "needs READ", 0, false},
		"list refused after":  {func(m *mount) { m.workspace.Inject(simulator.Fault{Path: secretListPath, Offset: 1, Status: 403}) }, "needs READ", 1, true},
		"list throttled after": {func(m *mount) {
			m.workspace.Inject(simulator.Fault{Path: secretListPath, Offset: 1, Status: 429, Header: http.Header{"Retry-After": {"3600"}}})
		}, "secrets/list", 1, true},
		"create refused":        {func(m *mount) { m.workspace.Inject(simulator.Fault{Path: createPath, Status: 403}) }, "token/create", 1, false},
		"create lost":           {func(m *mount) { m.workspace.Inject(simulator.Fault{Path: createPath, Reset: true, AfterEffect: true}) }, "token/create", 1, true},
		"put lost, undo broken": {func(m *mount) { m.breakDelivery(deletePath) }, "secrets/put", 1, true},
		"put lost, copy stuck":  {func(m *mount) { m.breakDelivery(secretDeletePath) }, "secrets/put", 1, true},
		"storage": {func(m *mount) {
			m.onCommit(func() error {
				m.storage.onEach(nil)
				return errors.New("disk full")
			})
		}, "disk full", 1, false},
	} {
		for _, before := range []string{"", "as before"} {
			t.Run(name+" "+before, func(t *testing.T) {
				t.Parallel()
				m := withScope(t)
				m.impatient()
				if before != "" {
					m.workspace.PutSecret("etl", "k", []byte(before))
				}
				row.setup(m)
				require.ErrorContains(t, m.failure(m.do(logical.UpdateOperation, "creds/etl", delivered)), row.word)
				require.Equal(t, row.mints, m.workspace.Count("", createPath))
				require.Equal(t, row.walled, len(m.walEntries()) == 1)
				m.workspace.ClearFaults()
				m.forgetThrottling()
				m.restart()
				m.rolledBack()
				require.Empty(t, m.minted())
				value, there := m.has("k")
				require.Equal(t, there, value == "as before", "neither the token nor anything else of ours")
			})
		}
	}
}

// breakDelivery loses the answer to the put, and lets a call fail that would undo it.
func (m *mount) breakDelivery(path string) {
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Reset: true, AfterEffect: true})
	m.workspace.Inject(simulator.Fault{Path: path, Status: 503})
}

func TestDeliveryRefusedLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: secretPutPath, Hold: hold, Status: 403})
	failed := make(chan error)
	go func() {
		resp, err := m.do(logical.UpdateOperation, "creds/etl", delivered)
		if err == nil {
			err = resp.Error()
		}
		failed <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
	close(hold)
	require.ErrorContains(t, <-failed, "could not be delivered to etl/k, so it is revoked")
	value, _ := m.has("k")
	require.Equal(t, "somebody else's", value)
	require.Empty(t, m.minted())
	require.Empty(t, m.walEntries())
}

func TestDeliveryRevoke(t *testing.T) {
	t.Parallel()

	t.Run("overwritten since", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		resp := m.deliver()
		m.workspace.PutSecret("etl", "k", []byte("somebody else's"))
		m.end(resp.Secret)
		require.Empty(t, m.minted())
		value, _ := m.has("k")
		require.Equal(t, "somebody else's", value)
		require.Contains(t, m.log.String(), "was overwritten since, so it is left alone")
	})

	t.Run("delivered again", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		first := m.deliver()
		second := m.deliver()
		m.end(first.Secret)
		token, there := m.has("k")
		require.True(t, there)
		require.Equal(t, http.StatusOK, m.whoami(token))
		m.end(second.Secret)
		_, there = m.has("k")
		require.False(t, there)
	})

	t.Run("fails in the middle and is repeated", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.impatient()
		resp := m.deliver()
		m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 503})
		revoked, err := m.revoke(resp.Secret)
		m.coded(http.StatusBadGateway, revoked, err, "the credential was revoked, but not its copy in etl/k")
		require.Empty(t, m.minted())
		m.workspace.ClearFaults()
		m.end(resp.Secret)
		_, there := m.has("k")
		require.False(t, there)
	})

	t.Run("after the credential has ended by itself", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		resp := m.deliver()
		resp.Secret.InternalData["dead"] = time.Now().Add(-time.Second).Format(time.RFC3339Nano)
		m.workspace.ResetCalls()
		m.end(resp.Secret)
		require.Zero(t, m.workspace.Count("", deletePath))
		_, there := m.has("k")
		require.False(t, there)
	})

	t.Run("over another workspace", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		resp := m.deliver()
		elsewhere := simulator.New(simulator.WithWorkspaceID("4242"))
		t.Cleanup(elsewhere.Close)
		token, _ := elsewhere.AddToken(elsewhere.AddUser("engine@example.com", true), "", 0)
		m.write("config", map[string]any{"host": elsewhere.URL(), "token": token})
		revoked, err := m.revoke(resp.Secret)
		m.refused(revoked, err, "host: ", "connect it to the first again", "its copy in etl/k stays")
	})

	t.Run("the scope is gone", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		resp := m.deliver()
		m.gone("scopes/etl")
		m.end(resp.Secret)
		require.Empty(t, m.minted())
	})
}

// TestDeliveryTwin lets the create be repeated: the rollback removes a twin, and keeps the credential and what was delivered.
func TestDeliveryTwin(t *testing.T) {
	t.Parallel()
	for _, twin := range []bool{false, true} {
		m := withScope(t)
		m.workspace.Inject(simulator.Fault{Path: createPath, Status: 429, Times: 1, AfterEffect: twin})
		resp := m.deliver()
		token, _ := m.has("k")
		require.Len(t, m.walEntries(), 1)
		m.restart()
		m.rolledBack()
		require.Len(t, m.minted(), 1)
		require.Equal(t, resp.Data["token_id"], m.minted()[0].ID)
		still, there := m.has("k")
		require.True(t, there)
		require.Equal(t, token, still)
		m.end(resp.Secret)
		_, there = m.has("k")
		require.False(t, there)
		require.Empty(t, m.minted())
	}
}

// TestDeliveryCrash kills the process after each step: the rollback of the next one removes what it finds.
func TestDeliveryCrash(t *testing.T) {
	t.Parallel()
	for step, faults := range map[string][]simulator.Fault{
		"after the create": {{Path: createPath, Reset: true, AfterEffect: true}},
		"after the put":    {{Path: secretPutPath, Reset: true, AfterEffect: true}, {Path: deletePath, Status: 503}},
		"after the stamp":  {{Path: deletePath, Status: 503}},
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.impatient()
			for _, fault := range faults {
				m.workspace.Inject(fault)
			}
			if step == "after the stamp" {
				m.onCommit(func() error { return errors.New("killed") })
			}
			m.failure(m.do(logical.UpdateOperation, "creds/etl", delivered))
			require.Len(t, m.minted(), 1)
			_, there := m.has("k")
			require.Equal(t, strings.HasPrefix(step, "after the create"), !there)
			_, in := m.walIntent()
			require.Equal(t, "k", in.Secret.Key)
			m.storage.onEach(nil)
			m.workspace.ClearFaults()
			m.restart()
			m.rolledBack()
			require.Empty(t, m.minted())
			_, there = m.has("k")
			require.False(t, there)
		})
	}
}

// TestAPanicBeforeADeliveryHoldsNoLock shows that the locks which a mint has taken are released even when it breaks.
func TestAPanicBeforeADeliveryHoldsNoLock(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	conn, err := m.backend.(*backend).connection(t.Context(), m.storage)
	require.NoError(t, err)
	whole := conn.client
	conn.client = nil // the list of the scope's secrets, under the lock, is the first to use it
	_, err = m.do(logical.UpdateOperation, "creds/etl", delivered)
	require.ErrorContains(t, err, "the stack is in Vault's log")
	require.Zero(t, m.backend.(*backend).secretLocks.Len())
	conn.client = whole
	m.deliver()
}
