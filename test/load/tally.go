// SPDX-License-Identifier: MPL-2.0

package main

import (
	"net/http"
	"sync"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	createPath = "/api/2.0/token/create"
	deletePath = "/api/2.0/token/delete"
)

// tally counts the answers of a workspace.
type tally struct {
	mu      sync.Mutex
	answers map[answer]int
	goal    int           // deletions to wait for
	reached chan struct{} // closed when there were as many
}

type answer struct {
	path   string
	status int
}

func newTally(deletions int) *tally {
	return &tally{answers: map[answer]int{}, goal: deletions, reached: make(chan struct{})}
}

func (t *tally) observe(c simulator.Call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := answer{c.Path, c.Status}
	t.answers[key]++
	if key == (answer{deletePath, http.StatusOK}) && t.answers[key] == t.goal {
		close(t.reached)
	}
}

// count returns the answers to a path ("" for any) with a status (0 for any).
func (t *tally) count(path string, status int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	total := 0
	for key, n := range t.answers {
		if (path == "" || path == key.path) && (status == 0 || status == key.status) {
			total += n
		}
	}
	return total
}
