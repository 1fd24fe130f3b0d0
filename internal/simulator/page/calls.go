// SPDX-License-Identifier: MPL-2.0

package page

import (
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	// keptCalls is how many calls are kept for those who come, or who fall behind.
	keptCalls = 200

	// longestPath bounds what a caller can make the page keep and show.
	longestPath = 160
)

// call is what is shown of one.
type call struct {
	Number    int    `json:"n"`    // from 1
	Time      int64  `json:"time"` // of its arrival, in Unix milliseconds
	Took      int64  `json:"took"` // in milliseconds
	Method    string `json:"method"`
	Path      string `json:"path"`
	Status    int    `json:"status"` // 0 = the connection was cut
	Principal string `json:"principal,omitempty"`
	Fault     bool   `json:"fault,omitempty"`
}

// calls keeps the last ones in a ring. Followers read from it at their own
// speed, each from where it stopped: one that falls behind misses some and is
// told how many, and nobody waits for it.
type calls struct {
	mu   sync.Mutex
	ring [keptCalls]call
	last int // number of the newest
}

func (l *calls) add(c simulator.Call) {
	shown := call{
		Time: c.Time.UnixMilli(), Took: max(0, time.Since(c.Time).Milliseconds()),
		Method: strings.Clone(c.Method[:min(len(c.Method), 16)]), Path: strings.Clone(c.Path[:min(len(c.Path), 4*longestPath)]),
		Status: c.Status, Principal: c.Principal, Fault: c.Fault,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	shown.Number = l.last
	l.ring[l.last%keptCalls] = shown
}

// count is the number of calls so far.
func (l *calls) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// since lists the calls after number, and how many of those are kept no more.
func (l *calls) since(number int) (list []call, missed int) {
	l.mu.Lock()
	oldest := max(number+1, l.last-keptCalls+1)
	for n := oldest; n <= l.last; n++ {
		list = append(list, l.ring[n%keptCalls])
	}
	l.mu.Unlock()
	for i := range list {
		list[i].Path = shownPath(list[i].Path)
	}
	return list, oldest - number - 1
}

var (
	// credential matches tokens and secrets, which a path may contain by mistake.
	credential = regexp.MustCompile(`(dapi|dose)[0-9a-f]{16,}|(eyJ)[0-9A-Za-z_-]{8,}\.[0-9A-Za-z._-]+`)

	// hash matches ids of tokens and secrets. That of a token is the SHA-256 of its value.
	hash = regexp.MustCompile(`\b([0-9a-f]{8})[0-9a-f]{24,}\b`)
)

// shownPath makes a path printable, cuts what is a credential, and bounds the rest.
func shownPath(path string) string {
	path = (&url.URL{Path: path}).EscapedPath()
	path = hash.ReplaceAllString(credential.ReplaceAllString(path, "$1$2…"), "$1…")
	if len(path) > longestPath { // what is left of it is ASCII, but for an ellipsis
		path = strings.ToValidUTF8(path[:longestPath], "") + "…"
	}
	return path
}
