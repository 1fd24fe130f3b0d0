// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestCallLog(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	alice := w.AddUser("alice@example.com", false)
	sp := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(sp, 0)
	token, _ := w.AddToken(alice, "", 0)
	require.Empty(t, w.Calls()) // made by hand, so not logged

	a := send(t, w, "POST", pathCreate+"?x=1&x=2", token, `{"comment":"c"}`)
	send(t, w, "GET", pathManaged, token, "")
	send(t, w, "GET", pathMe, "", "")
	grant(t, w, sp.ApplicationID, secret, "")
	calls := w.Calls()
	require.Len(t, calls, 4)
	require.Equal(t, clock.Now(), calls[0].Time)
	require.Equal(t, "POST", calls[0].Method)
	require.Equal(t, pathCreate, calls[0].Path)
	require.Equal(t, url.Values{"x": {"1", "2"}}, calls[0].Query)
	require.Equal(t, "Bearer "+token, calls[0].Header.Get("Authorization"))
	require.JSONEq(t, `{"comment":"c"}`, string(calls[0].Body))
	require.Equal(t, a.header.Get("X-Request-Id"), calls[0].RequestID)
	for i, expected := range []struct {
		principal string
		status    int
		effect    bool
	}{{alice.ID, 200, true}, {alice.ID, 403, true}, {"", 401, false}, {sp.ID, 200, true}} {
		require.Equal(t, expected.principal, calls[i].Principal)
		require.Equal(t, expected.status, calls[i].Status)
		require.Equal(t, expected.effect, calls[i].Effect)
		require.False(t, calls[i].Fault)
	}

	require.Equal(t, 1, w.Count("POST", pathCreate))
	require.Equal(t, 0, w.Count("GET", pathCreate))
	require.Equal(t, 1, w.Count("", pathCreate))
	require.Equal(t, 3, w.Count("", "/api/*"))
	require.Equal(t, 2, w.Count("GET", "*"))
	require.Equal(t, 4, w.Count("", ""))
	w.ResetCalls()
	require.Empty(t, w.Calls())
	require.Zero(t, w.Count("", ""))
}

func TestWithoutCallLogStillCounts(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithoutCallLog())
	send(t, w, "GET", pathMe, "", "")
	require.Empty(t, w.Calls())
	require.Equal(t, 1, w.Count("GET", pathMe))
}

func TestObserverSeesTheOutcome(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []simulator.Call
	w := start(t, simulator.WithoutCallLog(), simulator.WithObserver(func(c simulator.Call) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, c)
	}))
	alice := w.AddUser("alice@example.com", false)
	token, _ := w.AddToken(alice, "", 0)
	send(t, w, "GET", pathMe, token, "")
	w.Inject(simulator.Fault{Close: true})
	_, err := try(w, "GET", pathMe, token, "")
	require.Error(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, seen, 2)
	require.Equal(t, 200, seen[0].Status)
	require.Equal(t, alice.ID, seen[0].Principal)
	require.Equal(t, 0, seen[1].Status)
	require.True(t, seen[1].Fault)
}
