// SPDX-License-Identifier: MPL-2.0

package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	// pace is how often a follower looks for news.
	pace = 100 * time.Millisecond

	// quiet is how often one hears something even if nothing happens.
	quiet = 15 * time.Second

	// patience is how long a follower may leave what it was sent unread.
	patience = 10 * time.Second

	// An outline is made anew after calls, though not more often than soonest
	// and not for more than 5 % of the time; without calls, what has expired or
	// was changed by hand is seen after latest.
	soonest, latest = 200 * time.Millisecond, 2 * time.Second

	// shownEntries is how many entries a list has.
	shownEntries = 100
)

// state is what the workspace holds, as JSON that all followers share.
type state struct {
	workspace *simulator.Workspace
	calls     func() int // so far

	mu      sync.Mutex
	faults  map[string]*simulator.InjectedFault // those that are on, by id
	json    []byte
	version int // of json, from 1
	built   time.Time
	cost    time.Duration // of building it
	seen    int           // calls, when it was built
}

func (s *state) open(w *simulator.Workspace, calls func() int) {
	s.workspace, s.calls, s.faults = w, calls, map[string]*simulator.InjectedFault{}
}

// newer returns the state, and its version, if it isn't of that version.
func (s *state) newer(version int) ([]byte, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls()
	age := time.Since(s.built)
	if age > latest || calls != s.seen && age > max(soonest, 20*s.cost) {
		begun := time.Now()
		made, err := json.Marshal(struct {
			simulator.Outline
			Faults []fault `json:"faults"`
		}{s.workspace.Outline(shownEntries), s.shownFaults()})
		if err != nil {
			panic(err) // can't be: there is nothing in it that JSON doesn't know
		}
		// A comment or a name may contain one by mistake.
		made = credential.ReplaceAll(made, []byte("$1$2…"))
		if !bytes.Equal(made, s.json) {
			s.json = made
			s.version++
		}
		s.built, s.seen, s.cost = time.Now(), calls, time.Since(begun)
	}
	if version == s.version {
		return nil, version
	}
	return s.json, s.version
}

// follow sends events until the client goes away or the workspace ends: "state",
// whenever it is another, and "calls". Both begin with what there is already.
func (p *Page) follow(out http.ResponseWriter, in *http.Request) {
	select {
	case p.followers <- struct{}{}:
		defer func() { <-p.followers }()
	default:
		http.Error(out, "Too many follow this page already.", http.StatusServiceUnavailable)
		return
	}
	out.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(out)
	send := func(event string, data any) bool {
		encoded, err := json.Marshal(data)
		if err != nil {
			panic(err) // can't be, as above
		}
		_ = stream.SetWriteDeadline(time.Now().Add(patience)) // a failure shows when writing
		if _, err := fmt.Fprintf(out, "event: %s\ndata: %s\n\n", event, encoded); err != nil {
			return false
		}
		return stream.Flush() == nil
	}

	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	version, number, first, heard := 0, 0, true, time.Now()
	for {
		news, current := p.state.newer(version)
		if news != nil {
			version, heard = current, time.Now()
			if !send("state", map[string]any{"now": time.Now().UnixMilli(), "state": json.RawMessage(news)}) {
				return
			}
		}
		if list, missed := p.calls.since(number); first || len(list) > 0 {
			heard, number = time.Now(), number+missed+len(list)
			if first {
				missed = 0
			}
			if !send("calls", map[string]any{"first": first, "missed": missed, "calls": append([]call{}, list...), "total": number}) {
				return
			}
			first = false
		}
		if time.Since(heard) > quiet {
			heard = time.Now()
			if !send("quiet", nil) { // notices a client that has gone away
				return
			}
		}
		select {
		case <-ticker.C:
		case <-in.Context().Done():
			return
		}
	}
}
