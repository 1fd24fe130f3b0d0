// SPDX-License-Identifier: MPL-2.0

package client

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkThrottledAtRandom deletes tokens with 64 callers at a server that answers at once, throttles 5 % of all requests
// whatever their rate, and fails 1 %. Run it with -benchtime 20000x: the rate of a few calls tells nothing.
func BenchmarkThrottledAtRandom(b *testing.B) {
	const callers = 64
	throttled, unavailable := answer(429, envelope("REQUEST_LIMIT_EXCEEDED", "slow down"), "Retry-After", "1"), answer(503, "")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := rand.N(100); {
		case n < 5:
			throttled(w, r)
		case n < 6:
			unavailable(w, r)
		default:
			healthy(w, r)
		}
	}))
	b.Cleanup(s.Close)
	cfg := patConfig(s.URL)
	cfg.MaxRetries = DefaultMaxRetries
	c, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := c.DeleteToken(b.Context(), mintedID); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(c.counters.Snapshot()[opTokenDelete].Max.Seconds(), "longest-s")
}
