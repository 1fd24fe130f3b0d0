// SPDX-License-Identifier: MPL-2.0

package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// counted is a server that counts the connections to it.
type counted struct {
	*httptest.Server
	opened, closed atomic.Int64

	mu     sync.Mutex
	tokens []string // the Authorization of each request
}

func newCounted(t *testing.T, secure bool) *counted {
	s := &counted{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.tokens = append(s.tokens, r.Header.Get("Authorization"))
		s.mu.Unlock()
		healthy(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.opened.Add(1)
		case http.StateClosed:
			s.closed.Add(1)
		}
	}
	if secure {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// pem returns the certificate of the server.
func (s *counted) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// unrelatedCert returns a certificate that nobody else knows.
func unrelatedCert(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: rand.Text()}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestClientsThatTrustTheSameShareConnections(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			t.Parallel()
			s := newCounted(t, secure)
			var want []string
			for i := range 5 {
				cfg := patConfig(s.URL)
				cfg.Token = Secret(fmt.Sprintf("dapi-of-mount-%d", i))
				cfg.RateLimit, cfg.RequestTimeout, cfg.MaxRetries = float64(i), time.Duration(i+1)*time.Second, i // of the client alone
				if secure {
					cfg.CACert = s.pem()
				}
				c, err := New(cfg)
				require.NoError(t, err)
				_, err = c.CreateToken(t.Context(), aMinute)
				require.NoError(t, err)
				want = append(want, "Bearer "+cfg.Token.Reveal())
			}
			require.EqualValues(t, 1, s.opened.Load())
			require.Equal(t, want, s.tokens, "each signs with its own token")
		})
	}
}

// TestClientsThatTrustOthersShareNoConnection: a connection that one client trusts must not serve another, which does not.
func TestClientsThatTrustOthersShareNoConnection(t *testing.T) {
	t.Parallel()
	s := newCounted(t, true)
	trusting := patConfig(s.URL)
	trusting.CACert = s.pem()
	connect := func(cfg Config) error {
		c, err := New(cfg)
		require.NoError(t, err)
		_, err = c.CreateToken(t.Context(), aMinute)
		return err
	}
	require.NoError(t, connect(trusting))
	for name, cert := range map[string]string{"the system's alone": "", "another": unrelatedCert(t)} {
		stranger := patConfig(s.URL)
		stranger.CACert, stranger.Token = cert, "dapi-of-a-stranger"
		err := connect(stranger)
		require.ErrorContains(t, err, "the certificate of Databricks can't be trusted", name)
		require.NoError(t, connect(trusting), "and the other way round")
	}
	require.NotContains(t, s.tokens, "Bearer dapi-of-a-stranger", "nothing was sent before the certificate was verified")
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	t.Run("HTTP/1.1", func(t *testing.T) {
		t.Parallel()
		var open atomic.Int64
		synctest.Test(t, func(t *testing.T) {
			network := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
			srv := &http.Server{Handler: http.HandlerFunc(healthy), ConnState: func(_ net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					open.Add(1)
				case http.StateClosed:
					open.Add(-1)
				}
			}}
			go func() { _ = srv.Serve(network) }()
			c, err := New(patConfig(localhost))
			require.NoError(t, err)
			ownConnections(c)
			c.transport.base.DialContext = network.dial
			for range 2 {
				_, err = c.CreateToken(t.Context(), aMinute)
				require.NoError(t, err)
				time.Sleep(idleTimeout - time.Second)
				synctest.Wait()
				require.EqualValues(t, 1, open.Load(), "it may yet be of use")
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			require.Zero(t, open.Load())
			_ = srv.Close()
			synctest.Wait()
		})
	})
	t.Run("HTTP/2", func(t *testing.T) {
		t.Parallel()
		s := newCounted(t, true)
		cfg := patConfig(s.URL)
		cfg.CACert = s.pem()
		c := newClient(t, cfg)
		c.transport.base.IdleConnTimeout = 10 * time.Millisecond
		_, err := c.CreateToken(t.Context(), aMinute)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return s.closed.Load() == 1 }, 10*time.Second, 10*time.Millisecond)
	})
}

// TestPoolsOfNobodyAreCollected: a mount that is gone, or that trusts other certificates now, must not leave its pool behind.
func TestPoolsOfNobodyAreCollected(t *testing.T) {
	t.Parallel()
	known := func(cert string) bool {
		pools.mu.Lock()
		defer pools.mu.Unlock()
		_, ok := pools.byRoots[strings.TrimSpace(cert)]
		return ok
	}
	s := newCounted(t, true)
	kept := patConfig(s.URL)
	kept.CACert = unrelatedCert(t)
	client, err := New(kept)
	require.NoError(t, err)
	gone := patConfig(s.URL)
	gone.CACert = s.pem() + unrelatedCert(t)
	func() {
		c, err := New(gone)
		require.NoError(t, err)
		c.transport.base.IdleConnTimeout = time.Millisecond
		_, err = c.CreateToken(t.Context(), aMinute)
		require.NoError(t, err)
	}()
	require.True(t, known(gone.CACert))
	require.Eventually(t, func() bool {
		runtime.GC()
		return !known(gone.CACert)
	}, 30*time.Second, 10*time.Millisecond)
	require.True(t, known(kept.CACert), "it is in use")
	runtime.KeepAlive(client)
}
