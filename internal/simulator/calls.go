// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Call is one request that arrived. Query, Header and Body are shared with the
// log and must not be changed.
type Call struct {
	Time      time.Time
	Method    string
	Path      string // without the query, decoded
	Query     url.Values
	Header    http.Header
	Body      []byte
	Principal string // id of who was authenticated, "" if nobody was
	Status    int    // 0 = no answer: the connection was cut, or the request is still being worked on
	RequestID string
	Fault     bool // a fault acted on it
	Effect    bool // its handler ran
}

type endpoint struct{ method, path string }

// callLog counts requests when they arrive, and completes their entries before
// they are answered.
type callLog struct {
	keep   bool
	mu     sync.Mutex
	list   []*Call
	counts map[endpoint]int
}

func (l *callLog) begin(now time.Time, r *request) *Call {
	record := &Call{
		Time: now, Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(),
		Header: r.Header, Body: r.body, RequestID: r.id,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[endpoint{r.Method, r.URL.Path}]++
	if l.keep {
		l.list = append(l.list, record)
	}
	return record
}

func (l *callLog) finish(record *Call, r *request, status int, fault bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	record.Status, record.Fault, record.Effect = status, fault, r.effect
	if r.caller != nil {
		record.Principal = r.caller.ID
	}
}

// Calls lists the requests so far, in the order of their arrival.
func (w *Workspace) Calls() []Call {
	w.calls.mu.Lock()
	defer w.calls.mu.Unlock()
	list := make([]Call, len(w.calls.list))
	for i, record := range w.calls.list {
		list[i] = *record
	}
	return list
}

// Count is the number of requests that arrived with this method ("" = any) and
// path (exact, or a prefix if it ends in "*"; "" = any).
func (w *Workspace) Count(method, path string) int {
	w.calls.mu.Lock()
	defer w.calls.mu.Unlock()
	total := 0
	for e, n := range w.calls.counts {
		if matches(method, path, e) {
			total += n
		}
	}
	return total
}

// ResetCalls forgets all calls and counts.
func (w *Workspace) ResetCalls() {
	w.calls.mu.Lock()
	defer w.calls.mu.Unlock()
	w.calls.list = nil
	clear(w.calls.counts)
}

// matches reports whether e fits a method and a path, which is exact or a prefix
// ending in "*". An empty one fits anything.
func matches(method, path string, e endpoint) bool {
	if method != "" && method != e.method {
		return false
	}
	if prefix, ok := strings.CutSuffix(path, "*"); ok {
		return strings.HasPrefix(e.path, prefix)
	}
	return path == "" || path == e.path
}
