// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-databricks/internal/duration"
)

const (
	backoffBase = 200 * time.Millisecond
	backoffCap  = 5 * time.Second
)

// call is one call of the package's methods. It travels to the transport in the request's context, since the HTTP method shows
// neither what is being done nor whether it may be repeated: Databricks' deletes are POSTs.
type call struct {
	op      string
	creates bool     // makes something, so a second attempt might make a second one
	deletes bool     // removes something, so its absence may come as a 400 in words
	result  bool     // must be answered with a JSON object
	signed  bool     // carries our bearer token
	bearer  Secret   // the access token of another identity that it carries instead, if signed is false
	recheck Recheck  // asked before each repetition, if not nil
	private Secret   // what the request carries and no error may repeat
	secrets []string // more of that, for credentials, which look like nothing else

	trips     int         // how often the SDK asked for the request, which must be once
	attempts  int         // requests sent, or tried to be
	throttled int         // answers that asked to slow down
	doubt     bool        // an earlier attempt may have had an effect
	retried   bool        // an earlier attempt was answered with 429 or 503
	status    int         // of the successful answer, 0 without one
	header    http.Header // of the successful answer
	failure   *Error      // why there is no successful answer
}

// mayBeAbsent reports whether an answer that there is no such thing answers the call, instead of failing it.
func (ca *call) mayBeAbsent() bool {
	return ca.deletes || (ca.signed || ca.bearer != "") && ca.result && !ca.creates
}

type callKey struct{}

// errSettled stands for the failure kept in the call. Its text is a constant because the SDK repeats requests whose error
// holds certain words, and would show the rest.
var errSettled = errors.New("settled by the transport")

// transport carries out the requests of one client. It alone decides about attempts: it buffers the request to repeat it,
// reads the answer to its end within each attempt's time, and waits as Databricks asks.
type transport struct {
	origin         string          // scheme and host, the only ones ever sent to but for loginOrigin
	loginOrigin    string          // scheme and host of Entra ID, for entra/token alone; "" without it
	base           *http.Transport // shared with other clients, see connections
	token          Secret          // of a static credential
	cache          *tokenCache     // of a fetched one, else nil
	management     *tokenCache     // of the token that goes with resourceID, nil without it
	resourceID     string          // of the workspace in Azure, "" when it need not be told
	userAgent      string
	attemptTimeout time.Duration
	maxRetries     int
	backoffBase    time.Duration
	limiter        *rate.Limiter // nil without a ceiling
	throttle       *throttle     // of the requests to origin
	loginThrottle  *throttle     // of the requests to loginOrigin
	clock          clock         // of origin
	secrets        []string      // the configured ones, to be scrubbed
}

// RoundTrip is [transport.send] for the SDK.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		_ = req.Body.Close()
		if err != nil {
			return nil, errSettled
		}
	}
	answer, err := t.send(req, body)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode:    answer.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(bytes.NewReader(answer.body)),
		ContentLength: int64(len(answer.body)),
		Request:       req,
	}, nil
}

// send answers a request of a call, whose body is given apart, with a success or fails with [errSettled] and the reason in the call.
func (t *transport) send(req *http.Request, body []byte) (*reply, error) {
	ca, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errSettled
	}
	ca.trips++
	if ca.trips > 1 {
		return nil, errSettled
	}
	answer, failure := t.settle(req, body, ca)
	if failure != nil {
		failure.Unprocessed = failure.Unprocessed && !ca.doubt
		ca.failure = failure
		return nil, errSettled
	}
	ca.status, ca.header = answer.status, answer.header
	answer.body = bytes.TrimSpace(answer.body)
	return answer, nil
}

// settle sends the request, and repeats it as far as that is needed and allowed.
func (t *transport) settle(req *http.Request, body []byte, ca *call) (*reply, *Error) {
	ctx := req.Context()
	allowed, pace := t.origin, t.throttle
	if ca.op == opEntraToken {
		allowed, pace = t.loginOrigin, t.loginThrottle
	}
	if origin := req.URL.Scheme + "://" + req.URL.Host; origin != allowed {
		return nil, notSent(ca.op, "it was for %q instead of %q", origin, allowed)
	}
	renewed := false
	asked := 0 // answers that said when to repeat the request
	for retry := 0; ; {
		sig, failure := t.sign(ctx, ca)
		if failure != nil {
			return nil, failure
		}
		admitted, failure := t.admit(ctx, ca, pace)
		if failure != nil {
			return nil, failure
		}
		ca.attempts++
		answer, failure := t.attempt(ctx, req, body, ca, sig)
		switch {
		case failure == nil:
			pace.answer(admitted, false)
			return answer, nil
		case failure.Kind == Throttled:
			ca.throttled++
			pace.answer(admitted, true)
		case failure.Status != 0 && !failure.transient:
			pace.answer(admitted, false)
		}
		if failure.Kind == Unauthenticated && ca.signed && t.cache != nil && !renewed {
			renewed = true
			t.cache.drop(sig.bearer)
			if t.management != nil {
				t.management.drop(sig.management)
			}
			continue
		}
		if failure.Kind == Unauthenticated && ca.signed && t.cache != nil {
			failure.Issued, failure.what, failure.hint = true, "Databricks does not accept the access token", hintIssued
		}
		delay := t.delay(retry, failure)
		if !failure.transient || ca.creates && !repeatable(failure) {
			return nil, failure
		}
		if failure.RetryAfter > 0 && !fits(ctx, failure.RetryAfter) {
			failure.Kind = Throttled
			return nil, failure
		}
		if failure.RetryAfter > 0 {
			asked++
		}
		// A retry at a time that Databricks named counts half, since it is likely to succeed and Databricks expects it.
		if retry-asked/2 >= t.maxRetries || !fits(ctx, delay) {
			return nil, failure
		}
		ca.doubt = ca.doubt || !failure.Unprocessed
		ca.retried = ca.retried || failure.Status != 0
		retry++
		if err := Sleep(ctx, delay); err != nil {
			return nil, ended(ca.op, err, ca.doubt)
		}
		if ca.recheck != nil {
			still, err := ca.recheck(ctx)
			if err != nil {
				return nil, failure
			}
			if !still {
				return nil, &Error{Op: ca.op, Kind: NotFound, Message: "it was no longer there when the request was to be repeated"}
			}
		}
	}
}

// Recheck reports whether what a delete is about to be repeated for is still what was meant: between two attempts, somebody may have put
// something else in its place.
type Recheck func(ctx context.Context) (still bool, err error)

// repeatable reports whether a create that failed may be sent again: when nothing of it was sent, or when it was turned
// away for now, which most likely but not certainly means that it was not processed.
func repeatable(e *Error) bool {
	return e.Unprocessed || e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable
}

// delay returns how long to wait after the failure of the given retry, the first attempt being 0: a back-off that doubles,
// half of it random, and no less than what Databricks asked for.
func (t *transport) delay(retry int, failure *Error) time.Duration {
	full := backoffCap
	if retry < 16 {
		full = min(t.backoffBase<<retry, backoffCap)
	}
	backoff := full/2 + rand.N(full/2+1)
	if failure.RetryAfter > 0 {
		return max(backoff, failure.RetryAfter+spread(failure.RetryAfter))
	}
	return backoff
}

// signature authenticates a request to Databricks. Its parts are empty where they are not sent.
type signature struct {
	bearer     string
	management string // for a service principal of Azure that has yet to enter the workspace
}

// sign returns what to sign the call with, nothing for a call that carries no token.
func (t *transport) sign(ctx context.Context, ca *call) (signature, *Error) {
	if !ca.signed {
		return signature{bearer: ca.bearer.Reveal()}, nil
	}
	if t.cache == nil {
		return signature{bearer: t.token.Reveal()}, nil
	}
	var sig signature
	var err error
	sig.bearer, err = t.cache.token(ctx)
	if err == nil && t.management != nil {
		sig.management, err = t.management.token(ctx)
	}
	if err == nil {
		return sig, nil
	}
	var failure *Error
	if !errors.As(err, &failure) {
		return signature{}, ended(ca.op, err, false)
	}
	own := *failure
	own.Unprocessed = true
	return signature{}, &own
}

// admit waits for the request's turn after earlier ones were throttled and, before a request to Databricks, for the
// configured rate.
func (t *transport) admit(ctx context.Context, ca *call, pace *throttle) (admission, *Error) {
	admitted, left, err := pace.admit(ctx)
	if err == nil && left > 0 {
		return admitted, &Error{Op: ca.op, Kind: Throttled, Message: "earlier requests were throttled, and the turn of this one comes later than the call may wait", RetryAfter: left, Unprocessed: true}
	}
	if err == nil && t.limiter != nil && ca.op != opEntraToken {
		if err = t.limiter.Wait(ctx); err != nil && ctx.Err() == nil {
			return admitted, &Error{Op: ca.op, Kind: Throttled, Unprocessed: true, what: "too many requests are waiting for their turn", hint: "raise rate_limit in the config or ask less often"}
		}
	}
	if err != nil {
		return admitted, ended(ca.op, err, false)
	}
	return admitted, nil
}

// attempt sends the request once and reads the whole answer within the attempt's time.
func (t *transport) attempt(ctx context.Context, req *http.Request, body []byte, ca *call, sig signature) (*reply, *Error) {
	attemptCtx, cancel := context.WithTimeout(ctx, t.attemptTimeout)
	defer cancel()
	var connected, wrote atomic.Bool
	out := req.WithContext(httptrace.WithClientTrace(attemptCtx, &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { connected.Store(true) },
		WroteHeaders: func() { wrote.Store(true) },
	}))
	out.Header = maps.Clone(req.Header)
	out.Body, out.GetBody, out.ContentLength = http.NoBody, nil, 0
	if len(body) > 0 {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		if !ca.creates {
			// net/http may repeat a request automatically, in HTTP/2 even after it was processed, but only with this.
			out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		}
	}
	out.Header.Set("User-Agent", t.userAgent)
	if sig.bearer != "" {
		out.Header.Set("Authorization", "Bearer "+sig.bearer)
	}
	if sig.management != "" {
		out.Header.Set("X-Databricks-Azure-Workspace-Resource-Id", t.resourceID)
		out.Header.Set("X-Databricks-Azure-SP-Management-Token", sig.management)
	}

	started := t.clock.now()
	answer, err := t.exchange(out, func(header http.Header) {
		if ca.op != opEntraToken {
			t.clock.measure(header.Get("Date"), started, t.clock.now())
		}
	})
	var failure *Error
	if err != nil {
		// After a time-out, the request may still leave a connection that it had got.
		sent := wrote.Load() || connected.Load() && attemptCtx.Err() != nil
		failure = t.lost(ctx, attemptCtx, ca, err, sent)
	} else {
		failure = judge(ca, req, answer)
	}
	if failure == nil {
		return answer, nil
	}
	failure.hide(ca.private.Reveal())
	failure.tidy(slices.Concat([]string{sig.bearer, sig.management}, ca.secrets, t.secrets)...)
	return nil, failure
}

var errTooLarge = errors.New("it is larger than 16 MiB")

// exchange sends a request and reads the answer to its end. It calls answered with the header as soon as that is there.
func (t *transport) exchange(req *http.Request, answered func(http.Header)) (*reply, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answered(resp.Header)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, errTooLarge
	}
	return &reply{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// lost judges an attempt without an answer. sent reports whether Databricks can have received the request.
func (t *transport) lost(ctx, attemptCtx context.Context, ca *call, err error, sent bool) *Error {
	if cause := ctx.Err(); cause != nil {
		return ended(ca.op, cause, sent)
	}
	if attemptCtx.Err() != nil {
		e := ended(ca.op, attemptCtx.Err(), sent)
		e.Message = "waited " + duration.Text(t.attemptTimeout)
		e.hint = "check the network between here and Databricks, or raise request_timeout"
		e.transient = true
		return e
	}
	if errors.Is(err, errTooLarge) {
		return unreadable(ca.op, 0, err.Error(), hintHost)
	}
	e := &Error{Op: ca.op, Kind: Unavailable, Message: err.Error(), transient: true}
	var badCert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &badCert):
		e.what, e.transient, e.Unprocessed = "the certificate of Databricks can't be trusted", false, true
		e.hint = "check ca_cert and host"
	case errors.Is(err, http.ErrSchemeMismatch):
		e.what, e.transient, e.Unprocessed = "the host does not speak TLS", false, true
		e.hint = "check host"
	case !sent:
		e.what, e.Unprocessed = "Databricks can't be reached", true
	case refusedStream(err):
		e.what, e.Unprocessed = "Databricks closed the connection", true
	default:
		e.what = "the connection to Databricks broke before the answer was complete"
	}
	return e
}

// refusedStream reports whether an HTTP/2 server said that it did not process the request (RFC 9113, section 8.7). net/http
// has no types for these errors, so their texts have to do; an unknown one counts as processed.
func refusedStream(err error) bool {
	text := err.Error()
	return strings.Contains(text, "stream error: stream ID") && strings.Contains(text, "; REFUSED_STREAM") || strings.Contains(text, "received Server's graceful shutdown GOAWAY")
}
