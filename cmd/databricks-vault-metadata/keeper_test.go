// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vaultServer speaks as much of Vault's API as the command does. Its leases last for a second or two, as no role's would.
type vaultServer struct {
	*httptest.Server
	seconds atomic.Int64 // that a lease lasts
	reads   atomic.Int64
	asked   atomic.Pointer[http.Request] // for a credential, the last time
	onRead  func(n int64)

	onRevoke atomic.Pointer[func()]
	mu       sync.Mutex
	revoked  []string
}

func newVaultServer(t *testing.T, seconds int64) *vaultServer {
	s := &vaultServer{onRead: func(int64) {}}
	s.seconds.Store(seconds)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lease, revokes := strings.CutPrefix(r.URL.Path, "/v1/sys/leases/revoke/")
		switch r.URL.Path {
		case "/v1/auth/token/lookup-self":
			fmt.Fprint(w, `{"data":{"ttl":0,"accessor":"a","creation_time":1,"renewable":false}}`)
		case "/v1/databricks/creds/etl":
			n := s.reads.Add(1)
			s.asked.Store(r)
			s.onRead(n)
			fmt.Fprintf(w, `{"lease_id":"lease-%d","lease_duration":%d,"renewable":false,"data":{"host":%q,"token_value":"token-%d"}}`, n, s.seconds.Load(), host, n)
		default:
			if !revokes {
				http.Error(w, `{"errors":["unexpected"]}`, http.StatusTeapot)
				return
			}
			if do := s.onRevoke.Load(); do != nil {
				(*do)()
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.revoked = append(s.revoked, lease)
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	t.Cleanup(s.Close)
	t.Setenv("VAULT_ADDR", s.URL)
	t.Setenv("HOME", t.TempDir())
	return s
}

func (s *vaultServer) revocations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.revoked...)
}

func started(t *testing.T) *keeper {
	v, err := newVault("databricks", "etl", "", nil)
	require.NoError(t, err)
	k := newKeeper(v, log.New(io.Discard, "", 0))
	_, err = k.start()
	require.NoError(t, err)
	return k
}

// over makes the present token expire.
func (k *keeper) over() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current.expires, k.current.due = now(), now()
}

// nearlyOver leaves 10 minutes of the present token.
func (k *keeper) nearlyOver() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current.end = now().Add(10 * time.Minute)
	k.current.expires, k.current.due = k.current.end, now()
}

func TestATokenThatNobodyWasGivenIsRevokedWhenItIsReplaced(t *testing.T) {
	s := newVaultServer(t, 2)
	k := started(t)
	k.mu.Lock()
	k.asked = now() // and was given another one
	k.mu.Unlock()
	require.Eventually(t, func() bool { return len(s.revocations()) > 0 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, "lease-1", s.revocations()[0])
	require.NoError(t, k.close())
}

// TestAllWhoAskWhenTheTokenIsOverShareOneRead: as after a machine has slept.
func TestAllWhoAskWhenTheTokenIsOverShareOneRead(t *testing.T) {
	s := newVaultServer(t, 3600)
	k := started(t)
	k.over()
	all := make(chan struct{})
	s.onRead = func(int64) { <-all }
	const askers = 50
	var asking, answered sync.WaitGroup
	asking.Add(askers)
	for range askers {
		answered.Go(func() {
			asking.Done()
			got, err := k.token(t.Context())
			if err != nil || got.value != "token-2" {
				t.Errorf("%q, %v", got.value, err)
			}
		})
	}
	asking.Wait()
	close(all)
	answered.Wait()
	require.EqualValues(t, 2, s.reads.Load())
	require.NoError(t, k.close())
}

func TestATokenThatComesWhileItClosesIsRevoked(t *testing.T) {
	s := newVaultServer(t, 3600)
	k := started(t)
	reading, goOn := make(chan struct{}), make(chan struct{})
	s.onRead = func(int64) { close(reading); <-goOn }
	_, ok, _ := k.give()
	require.True(t, ok)
	k.over()
	go func() { _, _ = k.token(t.Context()) }()
	<-reading
	closed := make(chan error)
	go func() { closed <- k.close() }()
	require.Eventually(t, func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.closed }, time.Minute, time.Millisecond)
	close(goOn)
	require.NoError(t, <-closed)
	require.ElementsMatch(t, []string{"lease-1", "lease-2"}, s.revocations())
	_, err := k.token(t.Context())
	require.Error(t, err, "it gives none after that")
}

// TestTheNextTokenIsThereWhenAnSDKAsks: SDKs ask from half of a token's life on, or 20 minutes before it expires if that is later.
func TestTheNextTokenIsThereWhenAnSDKAsks(t *testing.T) {
	at := now()
	for _, life := range []time.Duration{2 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour, 700 * 24 * time.Hour} {
		c := newCredential(&leased{end: at.Add(life), duration: life}, owner{}, at)
		told := c.expires.Sub(at)
		require.Less(t, told, life)
		require.Less(t, c.due.Sub(at), told-min(told/2, 20*time.Minute), "%s", life)
		require.Greater(t, c.due.Sub(at), told/3, "%s: but not sooner than it must be", life)
	}
}

func TestATokenEndsWithTheVaultTokenThatLeasedIt(t *testing.T) {
	at := now()
	o := owner{end: at.Add(10 * time.Minute), due: at.Add(2 * time.Minute)}
	pat := newCredential(&leased{end: at.Add(time.Hour), revocable: true}, o, at)
	require.True(t, pat.expires.Before(o.end))
	require.Equal(t, o.due, pat.due, "renewing the Vault token makes it live on")
	oauth := newCredential(&leased{end: at.Add(time.Hour)}, o, at)
	require.True(t, oauth.expires.After(at.Add(55*time.Minute)), "which ends with nothing but itself")
}

// TestWhileNobodyAsksNoLeaseIsKept: the first one ends by itself, and the next who asks gets a new one.
func TestWhileNobodyAsksNoLeaseIsKept(t *testing.T) {
	s := newVaultServer(t, 1)
	k := started(t)
	letGo := func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.current.letGo && now().After(k.current.end)
	}
	require.Eventually(t, letGo, time.Minute, 10*time.Millisecond)
	require.EqualValues(t, 1, s.reads.Load())
	s.seconds.Store(3600)
	got, err := k.token(t.Context())
	require.NoError(t, err)
	require.Equal(t, "token-2", got.value)
	require.False(t, letGo())
	require.EqualValues(t, 2, s.reads.Load())
	require.NoError(t, k.close())
	require.Contains(t, s.revocations(), "lease-2")
}

// TestAFailureWhileNobodyAsksNamesNoTokenThatHasEnded: it is logged, since the Vault token may end meanwhile.
func TestAFailureWhileNobodyAsksNamesNoTokenThatHasEnded(t *testing.T) {
	s := newVaultServer(t, 3600)
	k := started(t)
	var said strings.Builder
	k.log = log.New(&said, "", 0)
	k.over()
	s.Close()
	require.Error(t, k.refresh())
	require.Contains(t, said.String(), "There is no access token now; trying again")
	require.Error(t, k.close())
}

// TestAnAskerWhoComesWhenTheLeaseIsLetGoGetsAWholeToken: what is left of the present one's life may be too short.
func TestAnAskerWhoComesWhenTheLeaseIsLetGoGetsAWholeToken(t *testing.T) {
	newVaultServer(t, 3600)
	k := started(t)
	k.nearlyOver()
	k.mu.Lock()
	k.postpone(now().Add(time.Hour), true)
	k.mu.Unlock()
	// The attempt that is under way was begun when nobody had asked.
	begun, goOn := make(chan struct{}), make(chan struct{})
	go k.flights.Do("", func() (any, error) { close(begun); <-goOn; return nil, nil })
	<-begun
	answer := make(chan string)
	go func() {
		got, _ := k.token(t.Context())
		answer <- got.value
	}()
	require.Eventually(t, func() bool { k.mu.Lock(); defer k.mu.Unlock(); return !k.asked.IsZero() }, time.Minute, time.Millisecond)
	close(goOn)
	require.Equal(t, "token-2", <-answer)
	require.NoError(t, k.close())
}

// TestARoleThatMakesShorterTokensNowIsReadOnceMore: until a new token lives as long as what is left of the present one, none is made.
func TestARoleThatMakesShorterTokensNowIsReadOnceMore(t *testing.T) {
	s := newVaultServer(t, 3600)
	k := started(t)
	_, err := k.token(t.Context())
	require.NoError(t, err)
	s.seconds.Store(60)
	k.nearlyOver()
	for range 3 {
		got, err := k.token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "token-1", got.value)
	}
	require.EqualValues(t, 2, s.reads.Load())
	require.Equal(t, []string{"lease-2"}, s.revocations())
	k.mu.Lock()
	require.NoError(t, k.failure)
	require.WithinRange(t, k.current.due, k.current.expires.Add(-time.Minute), k.current.expires.Add(-50*time.Second))
	k.mu.Unlock()
	require.NoError(t, k.close())
}
