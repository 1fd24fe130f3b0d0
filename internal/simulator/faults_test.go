// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/settings"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// withRoot is a workspace with one token of a user.
func withRoot(t testing.TB, opts ...simulator.Option) (w *simulator.Workspace, root string) {
	t.Helper()
	w = start(t, opts...)
	root, _ = w.AddToken(w.AddUser("alice@example.com", true), "root", 0)
	return w, root
}

// lastCall is the newest entry of the log.
func lastCall(t testing.TB, w *simulator.Workspace) simulator.Call {
	t.Helper()
	calls := w.Calls()
	require.NotEmpty(t, calls)
	return calls[len(calls)-1]
}

func TestFaultStatusInEveryEnvelope(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		path  string
		fault simulator.Fault
		body  string
	}{
		{pathList, simulator.Fault{Status: 429}, `{"error_code":"REQUEST_LIMIT_EXCEEDED","message":"Temporarily throttled, too many requests"}`},
		{pathList, simulator.Fault{Status: 503}, `{"error_code":"TEMPORARILY_UNAVAILABLE","message":"Service Unavailable"}`},
		{pathList, simulator.Fault{Status: 403, ErrorCode: "403", Message: "Invalid access token."}, `{"error_code":403,"message":"Invalid access token."}`},
		{pathList, simulator.Fault{Status: 400, ErrorCode: "QUOTA_EXCEEDED", Message: "full"}, `{"error_code":"QUOTA_EXCEEDED","message":"full"}`},
		{pathList, simulator.Fault{Status: 418}, `{"error_code":"UNKNOWN","message":"I'm a teapot"}`},
		{pathMe, simulator.Fault{Status: 500, ErrorCode: "REQUEST_LIMIT_EXCEEDED", Message: "Workspace"},
			`{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"detail":"REQUEST_LIMIT_EXCEEDED: Workspace","status":"500"}`},
		{pathOIDC, simulator.Fault{Status: 429}, `{"error":"invalid_request","error_description":"Temporarily throttled, too many requests"}`},
		{pathOIDC, simulator.Fault{Status: 401}, `{"error":"invalid_client","error_description":"Unauthorized"}`},
		{pathOIDC, simulator.Fault{Status: 503}, `{"error":"temporarily_unavailable","error_description":"Service Unavailable"}`},
		{pathOIDC, simulator.Fault{Status: 400, ErrorCode: "invalid_scope"}, `{"error":"invalid_scope","error_description":"Bad Request"}`},
	} {
		w, root := withRoot(t)
		w.Inject(try.fault)
		a := send(t, w, "GET", try.path, root, "")
		require.Equal(t, try.fault.Status, a.status)
		require.JSONEq(t, try.body, a.body)
		require.NotEmpty(t, a.header.Get("X-Request-Id"))
		call := lastCall(t, w)
		require.True(t, call.Fault)
		require.False(t, call.Effect)
		require.Equal(t, try.fault.Status, call.Status)
	}
}

func TestFaultThroughTheSDK(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	w.Inject(simulator.Fault{Path: pathCreate, Status: 403, ErrorCode: "PERMISSION_DENIED", Message: "no"})
	_, err := settings.NewTokens(sdk(t, w, root)).Create(t.Context(), settings.CreateTokenRequest{LifetimeSeconds: 60})
	require.ErrorIs(t, err, apierr.ErrPermissionDenied)
	var apiErr *apierr.APIError
	require.ErrorAs(t, err, &apiErr)
	require.Equal(t, "PERMISSION_DENIED", apiErr.ErrorCode)
	require.Len(t, w.Tokens(), 1)
}

func TestFaultHeadersAndLiteralBodies(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	for _, try := range []struct {
		fault       simulator.Fault
		status      int
		body        string
		contentType string
	}{
		{simulator.Fault{Body: `{"a":1}`}, 200, `{"a":1}`, "application/json"},
		{simulator.Fault{Body: `[1]`}, 200, `[1]`, "application/json"},
		{simulator.Fault{Status: 502, Body: `<html>bad gateway</html>`}, 502, `<html>bad gateway</html>`, "text/html; charset=utf-8"},
		{simulator.Fault{Status: 500, Body: "CODE: text"}, 500, "CODE: text", "text/plain; charset=utf-8"},
		{simulator.Fault{Status: 500, Body: "x", Header: http.Header{"content-type": {"a/b"}}}, 500, "x", "a/b"},
		{simulator.Fault{Status: 204}, 204, "", ""},
		{simulator.Fault{Status: 302, Header: http.Header{"Location": {"https://elsewhere.example/"}}}, 302, "", ""},
		{simulator.Fault{HTML: true}, 200, "<!DOCTYPE html>", "text/html; charset=utf-8"},
		{simulator.Fault{HTML: true, Status: 403}, 403, "<!DOCTYPE html>", "text/html; charset=utf-8"},
	} {
		fault := w.Inject(try.fault)
		a := send(t, w, "GET", pathList, root, "")
		fault.Clear()
		require.Equal(t, try.status, a.status)
		require.True(t, strings.HasPrefix(a.body, try.body), a.body)
		require.Equal(t, try.contentType, a.header.Get("Content-Type"))
		for name := range try.fault.Header {
			require.Equal(t, try.fault.Header[name][0], a.header.Get(name))
		}
	}
	w.Inject(simulator.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}})
	require.Equal(t, "7", send(t, w, "GET", pathList, root, "").header.Get("Retry-After"))
}

func TestFaultOffsetTimesAndEvery(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		fault simulator.Fault
		hits  string // by request, x = hit
	}{
		{simulator.Fault{}, "xxxxxxxxxx"},
		{simulator.Fault{Times: 2}, "xx........"},
		{simulator.Fault{Offset: 3}, "...xxxxxxx"},
		{simulator.Fault{Offset: 1, Times: 2}, ".xx......."},
		{simulator.Fault{Every: 3}, "..x..x..x."},
		{simulator.Fault{Every: 1}, "xxxxxxxxxx"},
		{simulator.Fault{Offset: 2, Every: 3, Times: 2}, "....x..x.."},
	} {
		w, root := withRoot(t)
		try.fault.Status = 503
		fault := w.Inject(try.fault)
		var hits string
		for range 10 {
			if send(t, w, "GET", pathList, root, "").status == 503 {
				hits += "x"
			} else {
				hits += "."
			}
		}
		require.Equal(t, try.hits, hits, "%+v", try.fault)
		require.Equal(t, strings.Count(hits, "x"), fault.Hits())
	}
}

func TestFaultMatching(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	w.Inject(simulator.Fault{Method: "POST", Path: pathCreate, Status: 501})
	w.Inject(simulator.Fault{Path: "/api/2.0/token-management/*", Status: 502})
	require.Equal(t, 200, send(t, w, "GET", pathList, root, "").status)
	require.Equal(t, 404, send(t, w, "GET", pathCreate, root, "").status)
	require.Equal(t, 501, send(t, w, "POST", pathCreate, root, "").status)
	require.Equal(t, 502, send(t, w, "GET", pathManaged, root, "").status)
	require.Equal(t, 502, send(t, w, "GET", pathManaged+"/x", root, "").status)
	w.ClearFaults()
	require.Equal(t, 200, send(t, w, "POST", pathCreate, root, "").status)
}

func TestSeveralFaultsTakeTurns(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	first := w.Inject(simulator.Fault{Status: 429, Times: 1})
	second := w.Inject(simulator.Fault{Status: 503, Times: 1})
	var got []int
	for range 3 {
		got = append(got, send(t, w, "GET", pathList, root, "").status)
	}
	require.Equal(t, []int{429, 503, 200}, got)
	require.Equal(t, 1, first.Hits())
	require.Equal(t, 1, second.Hits())

	// A later fault counts what an earlier one lets pass, so it is never starved.
	w.Inject(simulator.Fault{Status: 429, Every: 2})
	rare := w.Inject(simulator.Fault{Status: 503, Every: 4})
	for range 16 {
		send(t, w, "GET", pathList, root, "")
	}
	require.Equal(t, 2, rare.Hits())
}

func TestResetAndClose(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		var opts []simulator.Option
		if secured {
			opts = append(opts, simulator.WithTLS())
		}
		w, root := withRoot(t, opts...)
		exchange := func() error {
			host := w.URL()[strings.Index(w.URL(), "//")+2:]
			conn, err := net.Dial("tcp", host)
			require.NoError(t, err)
			if secured {
				// The certificate is another test's matter.
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			defer conn.Close()
			_, err = io.WriteString(conn, "POST "+pathCreate+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+root+"\r\nContent-Length: 2\r\n\r\n{}")
			require.NoError(t, err)
			_, err = bufio.NewReader(conn).ReadByte()
			return err
		}
		w.Inject(simulator.Fault{Reset: true, Times: 1})
		require.ErrorIs(t, exchange(), syscall.ECONNRESET)
		w.Inject(simulator.Fault{Close: true, Times: 1})
		require.ErrorIs(t, exchange(), io.EOF)
		require.Len(t, w.Tokens(), 1)
		require.False(t, lastCall(t, w).Effect)

		w.Inject(simulator.Fault{Reset: true, AfterEffect: true, Times: 1})
		require.ErrorIs(t, exchange(), syscall.ECONNRESET)
		require.Len(t, w.Tokens(), 2)
		w.Inject(simulator.Fault{Close: true, AfterEffect: true, Times: 1})
		require.ErrorIs(t, exchange(), io.EOF)
		require.Len(t, w.Tokens(), 3)
		call := lastCall(t, w)
		require.Zero(t, call.Status)
		require.True(t, call.Effect)
		require.True(t, call.Fault)
		require.Equal(t, w.Tokens()[0].Owner, call.Principal)
		require.NoError(t, exchange())
	}
}

func TestStatusAfterEffect(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	w.Inject(simulator.Fault{Status: 504, AfterEffect: true})
	require.Equal(t, 504, send(t, w, "POST", pathCreate, root, `{}`).status)
	require.Len(t, w.Tokens(), 2)
	require.True(t, lastCall(t, w).Effect)
}

func TestTruncatedAnswersAreCompleteMessagesOfBrokenJSON(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	w.Inject(simulator.Fault{Truncate: true})
	for _, try := range []struct{ method, path string }{{"GET", pathList}, {"POST", pathCreate}, {"POST", pathDelete}} {
		a := send(t, w, try.method, try.path, root, `{"token_id":"`+w.Tokens()[len(w.Tokens())-1].ID+`"}`)
		require.Equal(t, 200, a.status)
		require.NotEmpty(t, a.body)
		require.False(t, json.Valid([]byte(a.body)), a.body)
		require.True(t, lastCall(t, w).Effect)
	}
	require.Len(t, w.AllTokens(), 2)
	require.Len(t, w.Tokens(), 1)
}

func TestHold(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		w, root := withRoot(t)
		release := make(chan struct{})
		fault := w.Inject(simulator.Fault{Path: pathCreate, Hold: release, AfterEffect: after})
		status := make(chan int, 1)
		go func() {
			a, _ := try(w, "POST", pathCreate, root, `{}`)
			status <- a.status
		}()
		require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
		require.Equal(t, 200, send(t, w, "GET", pathList, root, "").status) // others go on
		if after {
			require.Eventually(t, func() bool { return len(w.Tokens()) == 2 }, 10*time.Second, time.Millisecond)
		} else {
			require.Len(t, w.Tokens(), 1)
		}
		require.Zero(t, w.Calls()[0].Status)
		fault.Clear() // what is held stays held
		require.Empty(t, status)
		close(release)
		require.Equal(t, 200, <-status)
		require.Len(t, w.Tokens(), 2)
	}
}

func TestDelayComesBeforeTheEffectOrAfterIt(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	w.Inject(simulator.Fault{Delay: time.Millisecond, Times: 1})
	require.Equal(t, 200, send(t, w, "GET", pathList, root, "").status)
	require.True(t, lastCall(t, w).Fault)
	w.Inject(simulator.Fault{Delay: time.Millisecond, Status: 503, Times: 1})
	require.Equal(t, 503, send(t, w, "GET", pathList, root, "").status)
}

func TestDelayAndHoldEndWithTheClient(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for _, fault := range []simulator.Fault{{Delay: time.Hour}, {Hold: make(chan struct{})}} {
			w, root := withRoot(t)
			fault.AfterEffect = after
			injected := w.Inject(fault)
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() {
				req, _ := http.NewRequestWithContext(ctx, "POST", w.URL()+pathCreate, strings.NewReader(`{}`))
				req.Header.Set("Authorization", "Bearer "+root)
				_, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
				failed <- err
			}()
			require.Eventually(t, func() bool { return injected.Hits() == 1 }, 10*time.Second, time.Millisecond)
			cancel()
			require.ErrorIs(t, <-failed, context.Canceled)
			if after {
				require.Eventually(t, func() bool { return lastCall(t, w).Fault }, 10*time.Second, time.Millisecond)
				require.Len(t, w.Tokens(), 2)
			} else {
				require.Eventually(t, func() bool { return lastCall(t, w).Fault }, 10*time.Second, time.Millisecond)
				require.Len(t, w.Tokens(), 1)
			}
			require.Zero(t, lastCall(t, w).Status)
		}
	}
}

func TestBodyThatNeverCompletesHasNoEffect(t *testing.T) {
	t.Parallel()
	w, root := withRoot(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL(), "http://"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST "+pathCreate+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+root+"\r\nContent-Length: 20\r\n\r\n{}")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { return w.Count("POST", pathCreate) == 1 }, 10*time.Second, time.Millisecond)
	require.Zero(t, lastCall(t, w).Status)
	require.False(t, lastCall(t, w).Effect)
	require.Len(t, w.Tokens(), 1)
}

// sharedHits sends requests one after the other, and says on which a fault acted.
func sharedHits(t *testing.T, fault simulator.Fault, requests int, opts ...simulator.Option) (hits string) {
	t.Helper()
	w, root := withRoot(t, opts...)
	fault.Status = 503
	w.Inject(fault)
	for range requests {
		if send(t, w, "GET", pathList, root, "").status == 503 {
			hits += "x"
		} else {
			hits += "."
		}
	}
	return hits
}

func TestFaultShare(t *testing.T) {
	t.Parallel()
	const requests = 200
	half := simulator.Fault{Share: 0.5}
	hits := sharedHits(t, half, requests)
	require.InDelta(t, requests/2, strings.Count(hits, "x"), 40)
	require.Equal(t, hits, sharedHits(t, half, requests), "the same seed")
	require.NotEqual(t, hits, sharedHits(t, half, requests, simulator.WithSeed(7)))
	require.Equal(t, sharedHits(t, half, requests, simulator.WithSeed(7)), sharedHits(t, half, requests, simulator.WithSeed(7)))
	require.Equal(t, "xxxxx", sharedHits(t, simulator.Fault{Share: 1}, 5))
	require.Equal(t, 3, strings.Count(sharedHits(t, simulator.Fault{Share: 0.5, Times: 3}, 50), "x"))
}

func TestFaultSharesOfLostAnswers(t *testing.T) {
	t.Parallel()
	const requests = 200
	w, root := withRoot(t, simulator.WithoutCallLog())
	throttled := w.Inject(simulator.Fault{Path: pathCreate, Status: 429, Share: 0.3})
	lost := w.Inject(simulator.Fault{Path: pathCreate, Close: true, AfterEffect: true, Share: 0.3})
	got := map[int]int{}
	for range requests {
		a, _ := try(w, "POST", pathCreate, root, `{}`)
		got[a.status]++
	}
	require.Equal(t, map[int]int{429: throttled.Hits(), 0: lost.Hits(), 200: requests - throttled.Hits() - lost.Hits()}, got)
	require.InDelta(t, requests*0.3, throttled.Hits(), 35)
	require.InDelta(t, requests*0.7*0.3, lost.Hits(), 30)
	require.Len(t, w.Tokens(), 1+got[0]+got[200], "a lost answer has its effect")
}

func TestDate(t *testing.T) {
	t.Parallel()
	c := newClock()
	w, root := withRoot(t, simulator.WithClock(c.Now))
	require.Equal(t, "Thu, 01 Oct 2026 12:00:00 GMT", send(t, w, "GET", pathList, root, "").header.Get("Date"))
	c.advance(3 * time.Hour)
	for _, fault := range []simulator.Fault{{Status: 429}, {HTML: true}, {Body: "x"}, {Status: 204}, {Truncate: true}, {Delay: time.Nanosecond}} {
		injected := w.Inject(fault)
		require.Equal(t, "Thu, 01 Oct 2026 15:00:00 GMT", send(t, w, "GET", pathList, root, "").header.Get("Date"))
		injected.Clear()
		fault.NoDate = true
		injected = w.Inject(fault)
		require.Empty(t, send(t, w, "GET", pathList, root, "").header.Values("Date"))
		injected.Clear()
	}
	w.Inject(simulator.Fault{NoDate: true})
	a := send(t, w, "GET", pathList, root, "")
	require.Equal(t, 200, a.status)
	require.Empty(t, a.header.Values("Date"))
}
