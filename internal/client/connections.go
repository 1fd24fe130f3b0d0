// SPDX-License-Identifier: MPL-2.0

package client

import (
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"
	"weak"
)

// idleTimeout is after how long a connection that nobody uses is closed.
const idleTimeout = 60 * time.Second

// pools has the connection pools that clients use, by the certificates that they trust beyond the system's.
var pools = struct {
	mu      sync.Mutex
	byRoots map[string]weak.Pointer[http.Transport]
}{byRoots: make(map[string]weak.Pointer[http.Transport])}

// connections returns the pool of connections for a config. Clients that trust the same certificates share one, for all hosts, and so a
// connection to the same host. That is safe because a connection depends on nothing else of a config: who we are is said in the header of
// each request, and a certificate is verified for the host that it was dialled for. Clients that trust others never meet on a
// connection. A pool needs no closing: it closes idle connections itself, and is collected when neither a client nor a connection is left.
func (cfg *Config) connections() (*http.Transport, error) {
	key := strings.TrimSpace(cfg.CACert)
	pools.mu.Lock()
	defer pools.mu.Unlock()
	if pool := pools.byRoots[key].Value(); pool != nil {
		return pool, nil
	}
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	pool := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:   10 * time.Second,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       idleTimeout,
		ExpectContinueTimeout: time.Second,
	}
	pools.byRoots[key] = weak.Make(pool)
	runtime.AddCleanup(pool, forgetPool, key)
	return pool, nil
}

// forgetPool removes the entry of a pool that was collected, unless there is another by now.
func forgetPool(key string) {
	pools.mu.Lock()
	defer pools.mu.Unlock()
	if pools.byRoots[key].Value() == nil {
		delete(pools.byRoots, key)
	}
}
