// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault makes matching requests go wrong. Method to Share choose the requests;
// the rest says what happens to them. A fault that only holds, delays or leaves
// the date out lets the request go on afterwards. Of several replies the first of Reset, Close, HTML,
// Status or Body, and Truncate counts.
//
// Where several faults match a request, the one that was injected first acts,
// and the later ones do not even see it: they count the requests that earlier
// ones let pass. So two faults with Times 1 act on one request each, in turn.
type Fault struct {
	Method string // "" = any
	Path   string // exact, or a prefix if it ends in "*"; "" = any
	Offset int    // let this many matching requests through first
	Times  int    // then act on this many; 0 = for ever until cleared
	Every  int    // if > 0, act only on every Nth match after Offset
	// Share, if > 0, is the probability with which the fault acts on a request
	// that the fields above choose; 1 is certain. The choice depends only on the
	// seed ([WithSeed]), on how many faults were injected before this one, and on
	// the request's number, so that n requests meet as many faults in each run. Of
	// two faults, the second acts on its share of what the first let pass.
	Share float64

	Delay  time.Duration // wait first; ends early, and with it the request, when the client goes away
	Hold   chan struct{} // if not nil, hold the request until the channel is closed; ends early as Delay does
	Status int           // answer with this status…
	Header http.Header   // …these headers…
	// ErrorCode and Message go into the standard envelope, under /scim/ into
	// the SCIM one and under /oidc/ into the one of RFC 6749. Both have defaults
	// that fit Status.
	ErrorCode, Message string
	Body               string // …or with this literal body; Status 0 is then 200
	Reset              bool   // cut the connection with a TCP reset
	Close              bool   // close the connection without an answer
	HTML               bool   // answer with an HTML login page; Status 0 is then 200
	NoDate             bool   // leave the Date header out of the answer, whichever it is
	Truncate           bool   // send the real answer cut off in the middle, as a complete HTTP message
	// AfterEffect runs the handler first, so that its effect is kept: with Reset
	// or Close, the reply is lost. Delay and Hold then come after the effect.
	AfterEffect bool
}

// InjectedFault is a fault at work.
type InjectedFault struct {
	fault Fault
	list  *faultList
	dice  *rand.Rand // for Share
	seen  int        // matching requests so far
	hits  int
}

type faultList struct {
	seed uint64

	mu       sync.Mutex
	active   []*InjectedFault
	injected uint64 // ever
}

// Inject sets a fault to work until it is used up or cleared.
func (w *Workspace) Inject(f Fault) *InjectedFault {
	w.faults.mu.Lock()
	defer w.faults.mu.Unlock()
	injected := &InjectedFault{fault: f, list: &w.faults, dice: rand.New(rand.NewPCG(w.faults.seed, w.faults.injected))}
	w.faults.injected++
	w.faults.active = append(w.faults.active, injected)
	return injected
}

// ClearFaults removes all faults. Requests that are held or delayed stay so.
func (w *Workspace) ClearFaults() {
	w.faults.mu.Lock()
	defer w.faults.mu.Unlock()
	w.faults.active = nil
}

// Hits is the number of requests on which the fault has acted, counted when
// they arrive.
func (i *InjectedFault) Hits() int {
	i.list.mu.Lock()
	defer i.list.mu.Unlock()
	return i.hits
}

// Clear removes the fault. Requests that it holds or delays stay so.
func (i *InjectedFault) Clear() {
	i.list.mu.Lock()
	defer i.list.mu.Unlock()
	i.list.active = slices.DeleteFunc(i.list.active, func(other *InjectedFault) bool { return other == i })
}

// match returns the fault that acts on a request, or nil.
func (l *faultList) match(method, path string) *Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.active {
		f := &i.fault
		if !matches(f.Method, f.Path, endpoint{method, path}) || f.Times > 0 && i.hits >= f.Times {
			continue
		}
		i.seen++
		if nth := i.seen - f.Offset; nth > 0 && (f.Every <= 0 || nth%f.Every == 0) && (f.Share <= 0 || i.dice.Float64() < f.Share) {
			i.hits++
			return f
		}
	}
	return nil
}

// apply plays the fault on r, whose real answer is next's.
func (f *Fault) apply(r *request, next func() *reply) *reply {
	var answer *reply
	if f.AfterEffect {
		answer = next()
	}
	if !f.wait(r) {
		return &reply{cut: abort}
	}
	if replaced := f.reply(r); replaced != nil {
		return replaced
	}
	if answer == nil {
		answer = next()
	}
	if f.Truncate {
		answer.body = answer.body[:len(answer.body)/2]
	}
	return answer
}

// wait returns false if the client went away, or the workspace was closed,
// before the fault's delay and hold were over.
func (f *Fault) wait(r *request) bool {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return false
		}
	}
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-r.Context().Done():
			return false
		}
	}
	return true
}

// reply is what replaces the real answer, nil if nothing does.
func (f *Fault) reply(r *request) *reply {
	var re *reply
	status := f.Status
	if status == 0 {
		status = http.StatusOK
	}
	switch {
	case f.Reset:
		return &reply{cut: reset}
	case f.Close:
		return &reply{cut: hangUp}
	case f.HTML:
		re = literalReply(status, loginPage)
	case f.Body != "":
		re = literalReply(status, f.Body)
	case f.Status >= 400:
		re = refuse(f.Status, f.errorCode(r), f.message()).reply(r)
		re.status = f.Status // whatever [WithStatuses] says
	case f.Status != 0:
		re = &reply{status: f.Status, header: http.Header{}}
	default:
		return nil
	}
	for name, values := range f.Header {
		re.header[http.CanonicalHeaderKey(name)] = values
	}
	return re
}

const loginPage = `<!DOCTYPE html>
<html><head><title>Databricks - Sign In</title></head>
<body><form action="/login.html" method="post"><h1>Sign in to Databricks</h1></form></body></html>
`

func literalReply(status int, body string) *reply {
	contentType := "text/plain; charset=utf-8"
	switch {
	case strings.HasPrefix(body, "<"):
		contentType = "text/html; charset=utf-8"
	case strings.HasPrefix(body, "{"), strings.HasPrefix(body, "["):
		contentType = "application/json"
	}
	return &reply{status: status, header: http.Header{"Content-Type": {contentType}}, body: []byte(body)}
}

// errorCodes are the codes that Databricks documents for a status.
var errorCodes = map[int]string{
	http.StatusBadRequest:          "BAD_REQUEST",
	http.StatusUnauthorized:        "UNAUTHENTICATED",
	http.StatusForbidden:           "PERMISSION_DENIED",
	http.StatusNotFound:            "NOT_FOUND",
	http.StatusConflict:            "ABORTED",
	http.StatusTooManyRequests:     "REQUEST_LIMIT_EXCEEDED",
	http.StatusInternalServerError: "INTERNAL_ERROR",
	http.StatusNotImplemented:      "NOT_IMPLEMENTED",
	http.StatusServiceUnavailable:  "TEMPORARILY_UNAVAILABLE",
	http.StatusGatewayTimeout:      "DEADLINE_EXCEEDED",
}

func (f *Fault) errorCode(r *request) string {
	if f.ErrorCode != "" {
		return f.ErrorCode
	}
	if underOIDC(r) {
		switch {
		case f.Status == http.StatusUnauthorized:
			return "invalid_client"
		case f.Status >= 500:
			return "temporarily_unavailable"
		}
		return "invalid_request" // throttling included (terraform-provider-databricks issue 2042)
	}
	if code := errorCodes[f.Status]; code != "" {
		return code
	}
	return "UNKNOWN"
}

func (f *Fault) message() string {
	switch {
	case f.Message != "":
		return f.Message
	case f.Status == http.StatusTooManyRequests:
		return "Temporarily throttled, too many requests"
	}
	return http.StatusText(f.Status)
}

// abort ends a request whose client has gone away.
func abort(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// reset makes the client see "connection reset by peer".
func reset(out http.ResponseWriter) {
	conn := takeOver(out)
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// hangUp makes the client see the end of the stream.
func hangUp(out http.ResponseWriter) { _ = takeOver(out).Close() }

// takeOver works for every HTTP/1.1 request, and no other is served.
func takeOver(out http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(out).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return conn
}
