// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"
)

// outcome is what must come of a call whose first request meets a fault.
type outcome struct {
	requests    int64
	ok          bool
	kind        Kind
	unprocessed bool
	retried     bool
}

func TestFaults(t *testing.T) {
	t.Parallel()
	const page = `<html><body>Sign in, dapi99999999aaaaaaaa</body></html>`
	unknown := outcome{requests: 1, kind: Unavailable}
	repeated := outcome{requests: 2, ok: true}
	table := []struct {
		name           string
		fault          http.HandlerFunc
		create, delete outcome
	}{
		{"reset after the request", reset, unknown, repeated},
		{"truncated body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, createdBody)
		}, unknown, repeated},
		{"too slow", hang, outcome{requests: 1, kind: Timeout}, repeated},
		{"slow body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{`)
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}, outcome{requests: 1, kind: Timeout}, repeated},
		{"429", answer(429, envelope("RESOURCE_EXHAUSTED", "slow down")), outcome{requests: 2, ok: true, retried: true}, repeated},
		{"429 without a body", answer(429, ""), outcome{requests: 2, ok: true, retried: true}, repeated},
		{"503", answer(503, "upstream connect error"), outcome{requests: 2, ok: true, retried: true}, repeated},
		{"500", answer(500, envelope("INTERNAL_ERROR", "Unexpected error")), unknown, repeated},
		{"502", answer(502, "<html>bad gateway</html>"), unknown, repeated},
		{"504", answer(504, envelope("DEADLINE_EXCEEDED", "deadline exceeded")), unknown, repeated},
		{"501", answer(501, envelope("NOT_IMPLEMENTED", "no")), unknown, unknown},
		{"408", answer(408, ""), outcome{requests: 1, kind: Timeout}, outcome{requests: 1, kind: Timeout}},
		{"throttled as SCIM does", answer(500, `{"detail":"REQUEST_LIMIT_EXCEEDED: Workspace 1 exceeded","status":"500"}`), outcome{requests: 1, kind: Throttled}, repeated},
		{"throttled by the code alone", answer(400, envelope("REQUEST_LIMIT_EXCEEDED", "busy")), outcome{requests: 1, kind: Throttled}, repeated},
		{"web page", answer(200, page, "Content-Type", "text/html"), unknown, unknown},
		{"truncated JSON", answer(200, createdBody[:40]), unknown, unknown},
		{"too large", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, strings.Repeat(" ", maxBody), createdBody)
		}, unknown, unknown},
		{"quota", answer(400, envelope("QUOTA_EXCEEDED", "600 tokens")), outcome{requests: 1, kind: QuotaExceeded, unprocessed: true}, outcome{requests: 1, kind: QuotaExceeded, unprocessed: true}},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example.com/login.html?secret=1", http.StatusFound)
		}, outcome{requests: 1, kind: Refused}, outcome{requests: 1, kind: Refused}},
		{"credential refused", answer(403, `{"error_code":403,"message":"Invalid access token."}`), outcome{requests: 1, kind: Unauthenticated, unprocessed: true}, outcome{requests: 1, kind: Unauthenticated, unprocessed: true}},
		{"empty", answer(200, ""), unknown, outcome{requests: 1, ok: true}},
		{"blank", answer(200, " \n"), unknown, outcome{requests: 1, ok: true}},
		{"no content", answer(204, ""), unknown, outcome{requests: 1, ok: true}},
		{"null", answer(200, "null"), unknown, outcome{requests: 1, ok: true}},
		{"no value", answer(200, `{"token_info":{"token_id":"x"}}`), unknown, outcome{requests: 1, ok: true}},
		{"wrong types", answer(200, `{"token_value":{"a":"dapi99999999aaaaaaaa"}}`), unknown, outcome{requests: 1, ok: true}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			check := func(s *server, want outcome, op string, err error) {
				require.Equal(t, want.requests, s.requests.Load(), op)
				if want.ok {
					require.NoError(t, err, op)
					return
				}
				e := failureOf(t, err)
				require.Equal(t, want.kind.String(), e.Kind.String(), "%s: %v", op, err)
				require.Equal(t, want.unprocessed, e.Unprocessed, "%s: %v", op, err)
				require.Equal(t, op, e.Op)
				for _, leak := range []string{"dapi", "<html>", "Request log", "secret=", "Content-Type"} {
					require.NotContains(t, err.Error(), leak)
				}
			}
			start := func() (*server, *Client) {
				s := newServer(t, row.fault)
				cfg := patConfig(s.URL)
				if strings.Contains(row.name, "slow") {
					cfg.RequestTimeout = 500 * time.Millisecond
				}
				return s, newClient(t, cfg)
			}

			s, c := start()
			created, err := c.CreateToken(t.Context(), aMinute)
			check(s, row.create, opTokenCreate, err)
			if row.create.ok {
				require.Equal(t, row.create.retried, created.Retried)
				require.Equal(t, mintedToken, created.Value.Reveal())
			}

			s, c = start()
			check(s, row.delete, opTokenDelete, c.DeleteToken(t.Context(), mintedID))

			// Once more below the methods, to see how often the SDK asked.
			s, c = start()
			var seen *call
			_, err = c.do(t.Context(), call{op: opTokenDelete, deletes: true, signed: true}, func(ctx context.Context) error {
				seen = ctx.Value(callKey{}).(*call)
				return c.tokens.Delete(ctx, settings.RevokeTokenRequest{TokenId: mintedID})
			})
			check(s, row.delete, opTokenDelete, err)
			require.Equal(t, 1, seen.trips)
		})
	}
}

func TestTheSDKGetsOneTrip(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newClient(t, patConfig(s.URL))
	_, err := c.do(t.Context(), call{op: opTokenList, result: true, signed: true}, func(ctx context.Context) error {
		_, err := c.tokens.ListAll(ctx)
		require.NoError(t, err)
		_, err = c.tokens.ListAll(ctx)
		return err
	})
	require.Error(t, err)
	require.EqualValues(t, 1, s.requests.Load())
}

func TestRequestsOfNoCallAreNotSent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newClient(t, patConfig(s.URL))
	_, err := c.tokens.ListAll(t.Context())
	require.Error(t, err)
	require.Zero(t, s.requests.Load())
}

func TestOtherOriginsGetNothing(t *testing.T) {
	t.Parallel()
	mine, other := newServer(t), newServer(t)
	c := newClient(t, patConfig(mine.URL))
	_, err := c.do(t.Context(), call{op: "x", signed: true}, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, other.URL, nil)
		require.NoError(t, err)
		_, err = c.transport.RoundTrip(req)
		return err
	})
	e := failureOf(t, err)
	require.True(t, e.Unprocessed)
	require.Equal(t, Refused, e.Kind)
	require.Zero(t, other.requests.Load())
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("no more") }
func (brokenBody) Close() error             { return nil }

func TestUnreadableRequestIsNotSent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newClient(t, patConfig(s.URL))
	_, err := c.do(t.Context(), call{op: "x"}, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, brokenBody{})
		require.NoError(t, err)
		_, err = c.transport.RoundTrip(req)
		return err
	})
	require.True(t, failureOf(t, err).Unprocessed)
	require.Zero(t, s.requests.Load())
}

func TestCreateIsRepeatedWhenNothingWasSent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newClient(t, patConfig(s.URL))
	var dials atomic.Int64
	dial := c.transport.base.DialContext
	c.transport.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) <= 2 {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return dial(ctx, network, addr)
	}
	created, err := c.CreateToken(t.Context(), aMinute)
	require.NoError(t, err)
	require.False(t, created.Retried, "nothing was sent twice")
	require.EqualValues(t, 1, s.requests.Load())
	require.EqualValues(t, 3, dials.Load())
	require.EqualValues(t, 2, c.counters.Snapshot()[opTokenCreate].Retries)
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Close()
	c := newClient(t, patConfig(s.URL))
	_, err := c.CreateToken(t.Context(), aMinute)
	e := failureOf(t, err)
	require.Equal(t, Unavailable, e.Kind)
	require.True(t, e.Unprocessed)
	require.Contains(t, err.Error(), "can't be reached")
	require.Contains(t, err.Error(), "check host, the network between here and Databricks, and ca_cert")
	require.NotContains(t, err.Error(), testToken)
}

func TestDoubtOutlivesLaterCertainty(t *testing.T) {
	t.Parallel()
	// The first answer leaves open whether a token was made. The refusal of the second attempt can't change that.
	s := newServer(t, answer(429, ""), answer(400, envelope("INVALID_PARAMETER_VALUE", "no")))
	_, err := newClient(t, patConfig(s.URL)).CreateToken(t.Context(), aMinute)
	e := failureOf(t, err)
	require.Equal(t, Refused, e.Kind)
	require.False(t, e.Unprocessed)
	require.EqualValues(t, 2, s.requests.Load())
}

func TestNoRetries(t *testing.T) {
	t.Parallel()
	s := newServer(t, answer(503, ""))
	cfg := patConfig(s.URL)
	cfg.MaxRetries = 0
	_, err := newClient(t, cfg).ListTokens(t.Context())
	require.Equal(t, 503, failureOf(t, err).Status)
	require.EqualValues(t, 1, s.requests.Load())
}

func TestCancellation(t *testing.T) {
	t.Parallel()
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		s := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := newClient(t, patConfig(s.URL)).CreateToken(ctx, aMinute)
		e := failureOf(t, err)
		require.Equal(t, Canceled, e.Kind)
		require.True(t, e.Unprocessed)
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, s.requests.Load())
	})
	t.Run("during", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			cancel()
			hang(w, r)
		})
		_, err := newClient(t, patConfig(s.URL)).CreateToken(ctx, aMinute)
		e := failureOf(t, err)
		require.Equal(t, Canceled, e.Kind)
		require.False(t, e.Unprocessed)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("between attempts", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			answer(503, "", "Retry-After", "30")(w, r)
			time.AfterFunc(10*time.Millisecond, cancel)
		})
		_, err := newClient(t, patConfig(s.URL)).CreateToken(ctx, aMinute)
		e := failureOf(t, err)
		require.Equal(t, Canceled, e.Kind)
		require.False(t, e.Unprocessed)
	})
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, hang)
		_, err := newClient(t, patConfig(s.URL)).CreateToken(in(t, 50*time.Millisecond), aMinute)
		e := failureOf(t, err)
		require.Equal(t, Timeout, e.Kind)
		require.False(t, e.Unprocessed)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestRedirectSaysWhereTo(t *testing.T) {
	t.Parallel()
	other := newServer(t)
	s := newServer(t,
		func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/login.html?token=abc", http.StatusTemporaryRedirect)
		},
		answer(302, ""),
		answer(302, "", "Location", "/login.html?error=private-link-validation-error:1"),
		answer(302, "", "Location", "https://a b"),
	)
	c := newClient(t, patConfig(s.URL))
	_, err := c.Me(t.Context())
	require.Contains(t, err.Error(), "redirected the request (HTTP 307): to "+other.URL+"; check that host is")
	require.NotContains(t, err.Error(), "login.html")
	require.Zero(t, other.requests.Load())
	_, err = c.Me(t.Context())
	require.Contains(t, err.Error(), "did not say where to")
	_, err = c.Me(t.Context())
	require.Contains(t, err.Error(), "private link")
	_, err = c.Me(t.Context())
	require.Contains(t, err.Error(), "did not say where to")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := &server{}
	var proto atomic.Value
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		proto.Store(r.Proto)
		healthy(w, r)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)

	t.Run("untrusted", func(t *testing.T) {
		c := newClient(t, patConfig(s.URL))
		_, err := c.CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.Equal(t, Unavailable, e.Kind)
		require.True(t, e.Unprocessed)
		require.Contains(t, err.Error(), "check ca_cert")
		require.Zero(t, c.counters.Snapshot()[opTokenCreate].Retries, "it would not heal")
		require.Zero(t, s.requests.Load())
	})
	t.Run("trusted by ca_cert", func(t *testing.T) {
		cfg := patConfig(s.URL)
		cfg.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
		_, err := newClient(t, cfg).CreateToken(t.Context(), aMinute)
		require.NoError(t, err)
		require.Equal(t, "HTTP/2.0", proto.Load())
	})
	t.Run("plain HTTP behind https", func(t *testing.T) {
		plain := newServer(t)
		c := newClient(t, patConfig(strings.Replace(plain.URL, "http://", "https://", 1)))
		_, err := c.CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.True(t, e.Unprocessed)
		require.Equal(t, Unavailable, e.Kind)
		require.Contains(t, err.Error(), "check host")
	})
}

func TestManyConnectionsAreReused(t *testing.T) {
	t.Parallel()
	s := &server{}
	var opened atomic.Int64
	s.Server = httptest.NewUnstartedServer(s.handler())
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	c := newClient(t, patConfig(s.URL))
	for range 50 {
		_, err := c.CreateToken(t.Context(), aMinute)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, opened.Load())
}
