// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a network within the process, so that real HTTP runs on the fake time of a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, errors.New("the network is down")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// bubble runs a test in fake time, with a client of the given config and a server whose handler it is given.
func bubble(t *testing.T, cfg Config, handler http.HandlerFunc, test func(t *testing.T, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
		go func() { _ = srv.Serve(network) }()
		c, err := New(cfg)
		require.NoError(t, err)
		ownConnections(c)
		c.transport.base.DialContext = network.dial
		defer func() {
			c.transport.base.CloseIdleConnections()
			_ = srv.Close()
			synctest.Wait()
		}()
		test(t, c)
	})
}

// inTurn answers with the given handlers in order, and properly from then on.
func inTurn(first ...http.HandlerFunc) http.HandlerFunc {
	return (&server{}).handler(first...).ServeHTTP
}

const localhost = "http://localhost"

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	t.Run("seconds", func(t *testing.T) {
		bubble(t, patConfig(localhost), inTurn(answer(429, "", "Retry-After", "7")), func(t *testing.T, c *Client) {
			start := time.Now()
			created, err := c.CreateToken(t.Context(), aMinute)
			require.NoError(t, err)
			require.True(t, created.Retried)
			require.GreaterOrEqual(t, time.Since(start), 7*time.Second)
			require.Less(t, time.Since(start), 9*time.Second)
		})
	})
	t.Run("date", func(t *testing.T) {
		handler := inTurn(func(w http.ResponseWriter, r *http.Request) {
			answer(503, "", "Retry-After", time.Now().Add(9*time.Second).UTC().Format(http.TimeFormat))(w, r)
		})
		bubble(t, patConfig(localhost), handler, func(t *testing.T, c *Client) {
			start := time.Now()
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Since(start), 8*time.Second)
			require.Less(t, time.Since(start), 12*time.Second)
		})
	})
	t.Run("in the details", func(t *testing.T) {
		body := `{"error_code":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retry_delay":"6s"}]}`
		bubble(t, patConfig(localhost), inTurn(answer(429, body)), func(t *testing.T, c *Client) {
			start := time.Now()
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Since(start), 6*time.Second)
		})
	})
	t.Run("beyond the budget", func(t *testing.T) {
		for _, status := range []int{429, 503} {
			bubble(t, patConfig(localhost), inTurn(answer(status, "", "Retry-After", "120")), func(t *testing.T, c *Client) {
				start := time.Now()
				_, err := c.CreateToken(t.Context(), aMinute)
				e := failureOf(t, err)
				require.Equal(t, Throttled, e.Kind)
				require.Equal(t, 2*time.Minute, e.RetryAfter)
				require.False(t, e.Unprocessed)
				require.True(t, strings.HasSuffix(err.Error(), "; try again in 2m"), err.Error())
				require.Zero(t, time.Since(start), "it must fail at once")
			})
		}
	})
	t.Run("beyond the caller's deadline", func(t *testing.T) {
		bubble(t, patConfig(localhost), inTurn(answer(429, "", "Retry-After", "10")), func(t *testing.T, c *Client) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			_, err := c.ListTokens(ctx)
			require.Equal(t, Throttled, failureOf(t, err).Kind)
			require.Zero(t, time.Since(start))
		})
	})
}

func TestBudget(t *testing.T) {
	t.Parallel()
	t.Run("silence", func(t *testing.T) {
		cfg := patConfig(localhost)
		cfg.MaxRetries = 100
		bubble(t, cfg, hang, func(t *testing.T, c *Client) {
			start := time.Now()
			_, err := c.ListTokens(t.Context())
			e := failureOf(t, err)
			require.Equal(t, Timeout, e.Kind)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, CallBudget, time.Since(start))
			require.EqualValues(t, 2, c.counters.Snapshot()[opTokenList].Retries)
			require.Equal(t, CallBudget, c.counters.Snapshot()[opTokenList].Max)
		})
	})
	t.Run("one attempt", func(t *testing.T) {
		bubble(t, patConfig(localhost), hang, func(t *testing.T, c *Client) {
			start := time.Now()
			_, err := c.CreateToken(t.Context(), aMinute)
			require.Equal(t, Timeout, failureOf(t, err).Kind)
			require.Contains(t, err.Error(), "waited 20s; check the network between here and Databricks, or raise request_timeout")
			require.Equal(t, DefaultRequestTimeout, time.Since(start))
		})
	})
	t.Run("failures", func(t *testing.T) {
		cfg := patConfig(localhost)
		cfg.MaxRetries = 1000
		var requests atomic.Int64
		bubble(t, cfg, func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			answer(503, envelope("TEMPORARILY_UNAVAILABLE", "Authentication is temporarily unavailable"))(w, r)
		}, func(t *testing.T, c *Client) {
			start := time.Now()
			_, err := c.CreateToken(t.Context(), aMinute)
			e := failureOf(t, err)
			require.Equal(t, Unavailable, e.Kind)
			require.Equal(t, 503, e.Status)
			require.ErrorContains(t, err, "Authentication is temporarily unavailable; "+hintAuthDown)
			require.Less(t, time.Since(start), CallBudget)
			require.Greater(t, time.Since(start), CallBudget-backoffCap)
			require.Less(t, requests.Load(), int64(30), "the back-off must grow")
		})
	})
	t.Run("never connected", func(t *testing.T) {
		bubble(t, patConfig(localhost), nil, func(t *testing.T, c *Client) {
			c.transport.base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			_, err := c.CreateToken(t.Context(), aMinute)
			e := failureOf(t, err)
			require.Equal(t, Timeout, e.Kind)
			require.True(t, e.Unprocessed)
		})
	})
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	cfg := patConfig(localhost)
	cfg.RateLimit = 2
	bubble(t, cfg, healthy, func(t *testing.T, c *Client) {
		start := time.Now()
		for range 5 {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
		}
		require.Equal(t, 2*time.Second, time.Since(start).Round(time.Millisecond))

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := c.CreateToken(ctx, aMinute)
		e := failureOf(t, err)
		require.Equal(t, Throttled, e.Kind)
		require.True(t, e.Unprocessed)
		require.Contains(t, err.Error(), "rate_limit")

		impatient, giveUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, giveUp)
		_, err = c.CreateToken(impatient, aMinute)
		require.Equal(t, Canceled, failureOf(t, err).Kind)
	})
}

func TestNoCeilingOfTheSDK(t *testing.T) {
	t.Parallel()
	bubble(t, patConfig(localhost), healthy, func(t *testing.T, c *Client) {
		start := time.Now()
		for range 100 {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
		}
		require.Zero(t, time.Since(start))
	})
}

func TestBackoffIsBounded(t *testing.T) {
	t.Parallel()
	tr := &transport{backoffBase: backoffBase}
	for retry := range 100 {
		for range 20 {
			d := tr.delay(retry, &Error{})
			require.GreaterOrEqual(t, d, backoffBase/2)
			require.LessOrEqual(t, d, backoffCap)
		}
	}
	require.LessOrEqual(t, tr.delay(0, &Error{}), backoffBase)
	require.GreaterOrEqual(t, tr.delay(50, &Error{}), backoffCap/2)
}

// tokenEndpoint counts the tokens that it gives, each of them another. All other paths answer properly.
type tokenEndpoint struct {
	issued   atomic.Int64
	lifetime time.Duration
	fail     atomic.Bool
	slow     time.Duration
	accepted func(token string) bool // nil accepts all
}

func (e *tokenEndpoint) handler(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/oidc/v1/token" {
		if e.accepted != nil && !e.accepted(r.Header.Get("Authorization")) {
			answer(403, `{"error_code":403,"message":"Invalid access token."}`)(w, r)
			return
		}
		healthy(w, r)
		return
	}
	n := e.issued.Add(1)
	time.Sleep(e.slow)
	if e.fail.Load() {
		answer(400, `{"error":"invalid_grant"}`)(w, r)
		return
	}
	answer(200, fmt.Sprintf(`{"access_token":"access-token-%d","token_type":"Bearer","expires_in":%s}`, n, strconv.Itoa(int(e.lifetime/time.Second))))(w, r)
}

func TestTokenIsRefreshedAheadOfItsExpiry(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour}
	bubble(t, oauthConfig(localhost), endpoint.handler, func(t *testing.T, c *Client) {
		list := func() {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
			synctest.Wait()
		}
		list()
		time.Sleep(49 * time.Minute)
		list()
		require.EqualValues(t, 1, endpoint.issued.Load())
		time.Sleep(time.Minute)
		list()
		require.EqualValues(t, 2, endpoint.issued.Load(), "ten minutes before the expiry")
		time.Sleep(49 * time.Minute)
		list()
		require.EqualValues(t, 2, endpoint.issued.Load(), "the new token counts from its own start")
	})
}

func TestFailedRefreshPauses(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour}
	bubble(t, oauthConfig(localhost), endpoint.handler, func(t *testing.T, c *Client) {
		_, err := c.ListTokens(t.Context())
		require.NoError(t, err)
		time.Sleep(51 * time.Minute)
		endpoint.fail.Store(true)
		for range 10 {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err, "the old token still serves")
			synctest.Wait()
		}
		require.EqualValues(t, 2, endpoint.issued.Load(), "one failed refresh, then a pause")
		time.Sleep(refreshPause)
		_, err = c.ListTokens(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 3, endpoint.issued.Load())

		time.Sleep(8 * time.Minute)
		_, err = c.CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.Equal(t, opOIDCToken, e.Op, "an expired token is never used")
		require.Equal(t, "invalid_grant", e.ErrorCode)
		require.True(t, e.Unprocessed)

		endpoint.fail.Store(false)
		_, err = c.CreateToken(t.Context(), aMinute)
		require.NoError(t, err, "the next call tries anew")
	})
}

func TestWaitersGiveUpOnTheirOwn(t *testing.T) {
	t.Parallel()
	endpoint := &tokenEndpoint{lifetime: time.Hour, slow: 5 * time.Second}
	bubble(t, oauthConfig(localhost), endpoint.handler, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := c.CreateToken(ctx, aMinute) // the one that starts the fetch
			e := failureOf(t, err)
			require.Equal(t, Timeout, e.Kind)
			require.Equal(t, opTokenCreate, e.Op)
			require.True(t, e.Unprocessed)
		})
		synctest.Wait()
		wg.Go(func() {
			start := time.Now()
			_, err := c.CreateToken(t.Context(), aMinute)
			require.NoError(t, err)
			require.Equal(t, 5*time.Second, time.Since(start))
		})
		wg.Wait()
		require.EqualValues(t, 1, endpoint.issued.Load())
	})
}

func TestTokenWithoutAnEndLastsAnHour(t *testing.T) {
	t.Parallel()
	var issued atomic.Int64
	bubble(t, oauthConfig(localhost), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oidc/v1/token" {
			issued.Add(1)
			answer(200, `{"access_token":"access-token-one"}`)(w, r)
			return
		}
		healthy(w, r)
	}, func(t *testing.T, c *Client) {
		for range 3 {
			_, err := c.ListTokens(t.Context())
			require.NoError(t, err)
			time.Sleep(20 * time.Minute)
		}
		require.EqualValues(t, 1, issued.Load())
		_, err := c.ListTokens(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, issued.Load())
	})
}
