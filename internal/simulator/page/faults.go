// SPDX-License-Identifier: MPL-2.0

package page

import (
	"net/http"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// preset is a fault that can be switched on.
type preset struct {
	id, title, text string
	fault           simulator.Fault
}

// presets are in the order in which they are shown. All of them leave the token
// endpoints alone but the first.
var presets = []preset{
	{"down", "Databricks is down", "Every call is answered 503.", simulator.Fault{Status: http.StatusServiceUnavailable}},
	{"throttled", "Throttled", "Every API call is answered 429, with Retry-After: 2.", simulator.Fault{
		Path: "/api/*", Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"2"}},
	}},
	{"slow", "Slow", "Every API call takes 3 seconds longer.", simulator.Fault{Path: "/api/*", Delay: 3 * time.Second}},
	{"flaky", "Flaky", "Every third API call is answered 500.", simulator.Fault{
		Path: "/api/*", Status: http.StatusInternalServerError, Every: 3,
	}},
	{"lost", "Replies to writes are lost", "Writes are carried out, but the connection is cut before the answer.", simulator.Fault{
		Method: http.MethodPost, Path: "/api/*", AfterEffect: true, Reset: true,
	}},
	{"refused", "Credentials are refused", "Every API call is answered 403: Invalid access token.", simulator.Fault{
		Path: "/api/*", Status: http.StatusForbidden, ErrorCode: "403", Message: "Invalid access token.",
	}},
	{"login", "A login page in the way", "Every API call is answered with the HTML of a sign-in page.", simulator.Fault{Path: "/api/*", HTML: true}},
}

// fault is a preset as it is shown.
type fault struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Text  string `json:"text"`
	On    bool   `json:"on"`
	Hits  int    `json:"hits"` // since it was switched on
}

// switchFault returns false if there is no such fault. One that is on already
// stays as it is.
func (s *state) switchFault(id string, on bool) bool {
	for _, p := range presets {
		if p.id != id {
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch injected := s.faults[id]; {
		case on && injected == nil:
			s.faults[id] = s.workspace.Inject(p.fault)
		case !on && injected != nil:
			injected.Clear()
			delete(s.faults, id)
		}
		s.built = time.Time{} // all who follow shall see it
		return true
	}
	return false
}

func (s *state) listFaults() []fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shownFaults()
}

// shownFaults lists all presets. The caller holds the mutex.
func (s *state) shownFaults() []fault {
	var list []fault
	for _, p := range presets {
		shown := fault{ID: p.id, Title: p.title, Text: p.text}
		if injected := s.faults[p.id]; injected != nil {
			shown.On, shown.Hits = true, injected.Hits()
		}
		list = append(list, shown)
	}
	return list
}
