// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// throttledFor answers that the next request should come after some seconds.
func throttledFor(seconds string) http.HandlerFunc {
	return answer(429, envelope("REQUEST_LIMIT_EXCEEDED", "slow down"), "Retry-After", seconds)
}

// list makes calls at once, all of which must succeed, and waits for them.
func list(t *testing.T, c *Client, calls int) {
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
		})
	}
	wg.Wait()
}

// crawl has requests throttled, one after the other, until the client is at its slowest.
func crawl(t *testing.T, c *Client, refuse *atomic.Bool) {
	t.Helper()
	refuse.Store(true)
	for range 1 + 7*(tolerated+1) { // 10 * 0.7^7 is less than 1
		_, err := c.ListTokens(t.Context())
		require.Equal(t, Throttled, failureOf(t, err).Kind)
	}
	refuse.Store(false)
	require.EqualValues(t, slowest, c.transport.throttle.limiter.Limit())
}

// refusing throttles while it is told to, and answers properly else.
func refusing(refuse *atomic.Bool) http.HandlerFunc {
	throttled := throttledFor("60")
	return func(w http.ResponseWriter, r *http.Request) {
		if refuse.Load() {
			throttled(w, r)
			return
		}
		healthy(w, r)
	}
}

func TestThrottlingHoldsOneRequestBack(t *testing.T) {
	t.Parallel()
	bubble(t, patConfig(localhost), inTurn(throttledFor("10")), func(t *testing.T, c *Client) {
		first := make(chan error, 1)
		go func() {
			_, err := c.CreateToken(t.Context(), aMinute)
			first <- err
		}()
		synctest.Wait()
		list(t, c, 30)
		require.Empty(t, first, "the others must not wait for the one that was throttled")
		require.NoError(t, <-first)
	})
}

func TestThrottlingOfOneRequestForLong(t *testing.T) {
	t.Parallel()
	bubble(t, patConfig(localhost), inTurn(throttledFor("100000000000")), func(t *testing.T, c *Client) {
		start := time.Now()
		_, err := c.ListTokens(t.Context())
		require.Equal(t, maxRetryAfter, failureOf(t, err).RetryAfter)
		list(t, c, 1)
		require.Less(t, time.Since(start), time.Second)
	})
}

func TestThrottlingOfEverythingSlowsToACrawl(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	arrivals := map[int]int{} // by second
	start := time.Time{}
	throttled := throttledFor("1")
	bubble(t, patConfig(localhost), func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		arrivals[int(time.Since(start).Seconds())]++
		mu.Unlock()
		throttled(w, r)
	}, func(t *testing.T, c *Client) {
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for ctx.Err() == nil {
					err := c.DeleteToken(ctx, mintedID)
					require.Equal(t, Throttled, failureOf(t, err).Kind)
					_ = Sleep(ctx, 100*time.Millisecond)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, arrivals[0], 80, "64 that had no ceiling, and few after them")
		for second := 10; second < 60; second++ {
			require.LessOrEqual(t, arrivals[second], 2, "second %d", second)
		}
	})
}

func TestThrottledTogetherCountsOnce(t *testing.T) {
	t.Parallel()
	const together = 50
	release := make(chan struct{})
	var requests atomic.Int64
	throttled := throttledFor("1")
	bubble(t, patConfig(localhost), func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= together {
			<-release
			throttled(w, r)
			return
		}
		healthy(w, r)
	}, func(t *testing.T, c *Client) {
		release = make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { list(t, c, together) })
		synctest.Wait()
		require.EqualValues(t, together, requests.Load())
		require.Nil(t, c.transport.throttle.limiter, "nothing was throttled yet")
		close(release)
		synctest.Wait()
		require.EqualValues(t, 1, c.transport.throttle.window.number)
		require.EqualValues(t, together/0.25/2, c.transport.throttle.limiter.Limit(), "half of what was sent")
		wg.Wait()
		require.EqualValues(t, 2*together, requests.Load())
	})
}

func TestFewThrottledAnswersDoNotSlow(t *testing.T) {
	t.Parallel()
	const callers, each = 64, 60
	var requests atomic.Int64
	throttled, unavailable := throttledFor("1"), answer(503, "")
	cfg := patConfig(localhost)
	cfg.MaxRetries = DefaultMaxRetries
	bubble(t, cfg, func(w http.ResponseWriter, r *http.Request) {
		switch n := requests.Add(1); {
		case n%20 == 0:
			throttled(w, r)
		case n%100 == 1:
			unavailable(w, r)
		default:
			healthy(w, r)
		}
	}, func(t *testing.T, c *Client) {
		start := time.Now()
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range each {
					require.NoError(t, c.DeleteToken(t.Context(), mintedID))
				}
			})
		}
		wg.Wait()
		counts := c.counters.Snapshot()[opTokenDelete]
		require.EqualValues(t, callers*each, counts.Calls)
		require.Greater(t, counts.Throttled, int64(callers*each/20))
		// Time stands still but for the waits of the client, so this is far from what a busy machine needs.
		require.Less(t, time.Since(start), time.Duration(counts.Throttled)*time.Second/4, "the waits must overlap")
	})
}

func TestThrottlingSettlesNearTheLimit(t *testing.T) {
	t.Parallel()
	const limit, callers, each = 50, 64, 40
	var mu sync.Mutex
	perSecond := map[int64]int{}
	throttled := throttledFor("1")
	cfg := patConfig(localhost)
	cfg.MaxRetries = DefaultMaxRetries
	bubble(t, cfg, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		mu.Lock()
		perSecond[time.Now().Unix()]++
		refuse := perSecond[time.Now().Unix()] > limit
		mu.Unlock()
		if refuse {
			throttled(w, r)
			return
		}
		healthy(w, r)
	}, func(t *testing.T, c *Client) {
		start := time.Now()
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range each {
					require.NoError(t, c.DeleteToken(t.Context(), mintedID))
				}
			})
		}
		wg.Wait()
		counts := c.counters.Snapshot()[opTokenDelete]
		t.Logf("%d calls, %d throttled, %s", counts.Calls, counts.Throttled, time.Since(start))
		require.Less(t, counts.Throttled, counts.Calls/4)
		require.Less(t, time.Since(start), 2*callers*each/limit*time.Second)
	})
}

func TestCeilingIsLifted(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	bubble(t, patConfig(localhost), refusing(&refuse), func(t *testing.T, c *Client) {
		crawl(t, c, &refuse)
		start := time.Now()
		list(t, c, 10)
		require.Greater(t, time.Since(start), time.Second, "the rate rises slowly")
		time.Sleep(calm)
		start = time.Now()
		list(t, c, 100)
		require.Zero(t, time.Since(start))
	})
}

func TestRateRisesFromACrawl(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	bubble(t, patConfig(localhost), refusing(&refuse), func(t *testing.T, c *Client) {
		crawl(t, c, &refuse)
		for i := range 200 {
			last := c.transport.throttle.limiter.Limit()
			list(t, c, 2)
			require.GreaterOrEqual(t, c.transport.throttle.limiter.Limit(), last, i)
		}
		before := c.transport.throttle.limiter.Limit()
		require.Greater(t, before, rate.Limit(2*firstCut))
		refuse.Store(true)
		for range tolerated + windowSize {
			_, err := c.ListTokens(t.Context())
			require.Equal(t, Throttled, failureOf(t, err).Kind)
		}
		require.Less(t, c.transport.throttle.limiter.Limit(), before/2)
	})
}

func TestTurnThatComesTooLate(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	bubble(t, patConfig(localhost), refusing(&refuse), func(t *testing.T, c *Client) {
		crawl(t, c, &refuse)
		var wg sync.WaitGroup
		wg.Go(func() { list(t, c, 5) })
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.CreateToken(ctx, aMinute)
		e := failureOf(t, err)
		require.Equal(t, Throttled, e.Kind)
		require.True(t, e.Unprocessed, "it was never sent")
		require.Greater(t, e.RetryAfter, 4*time.Second)
		require.Zero(t, time.Since(start), "it must not wait in vain")

		impatient, giveUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, giveUp)
		_, err = c.CreateToken(impatient, aMinute)
		e = failureOf(t, err)
		require.Equal(t, Canceled, e.Kind)
		require.True(t, e.Unprocessed)
		wg.Wait()
		require.Zero(t, c.transport.throttle.queued)
	})
}

func TestTurnThatIsPutOff(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	cfg := patConfig(localhost)
	cfg.MaxRetries = 0
	bubble(t, cfg, refusing(&refuse), func(t *testing.T, c *Client) {
		refuse.Store(true)
		_, err := c.ListTokens(t.Context())
		require.Equal(t, Throttled, failureOf(t, err).Kind)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _, _ = c.ListTokens(t.Context()) })
		}
		synctest.Wait()
		// The present rate lets it pass in about two seconds, but it falls.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err = c.CreateToken(ctx, aMinute)
		e := failureOf(t, err)
		require.Equal(t, Throttled, e.Kind)
		require.True(t, e.Unprocessed)
		require.Positive(t, e.RetryAfter)
		require.Equal(t, 5*time.Second, time.Since(start))
		wg.Wait()
	})
}

func TestRetriesThatWereAskedForCountHalf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		fault      http.HandlerFunc
		maxRetries int
		requests   int64
	}{
		{"with a time", throttledFor("1"), 2, 5},
		{"unavailable with a time", answer(503, "", "Retry-After", "1"), 2, 5},
		{"without a time", answer(429, ""), 2, 3},
		{"no retries", throttledFor("1"), 0, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := patConfig(localhost)
			cfg.MaxRetries = row.maxRetries
			var requests atomic.Int64
			bubble(t, cfg, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				row.fault(w, r)
			}, func(t *testing.T, c *Client) {
				_, err := c.ListTokens(t.Context())
				require.Error(t, err)
				require.Equal(t, row.requests, requests.Load())
			})
		})
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	var m meter
	start := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	require.Zero(t, m.rate(start))
	for range 100 {
		m.add(start)
	}
	at := func(after time.Duration) float64 { return m.rate(start.Add(after)) }
	require.EqualValues(t, 400, at(0), "a burst counts as if it had taken a quarter of a second")
	require.EqualValues(t, 400, at(250*time.Millisecond))
	require.EqualValues(t, 200, at(500*time.Millisecond))
	require.EqualValues(t, 75, at(1250*time.Millisecond))
	m.add(start.Add(1500 * time.Millisecond))
	require.EqualValues(t, 51, at(1500*time.Millisecond))
	require.Zero(t, at(time.Minute))
}
