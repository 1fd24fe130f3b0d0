// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"sync"
)

// turns lets one request at a time change the same thing at Databricks, such as the permission of a principal on a scope. A
// turn is held over calls to Databricks, which knows no compare-and-set; it holds up nobody but those who change the very
// same thing, and they can give up.
type turns struct {
	mu      sync.Mutex
	waiting map[string]*turn
}

type turn struct {
	free chan struct{} // holds one element when nobody has the turn
	n    int           // how many have it or wait for it
}

// take waits for the turn and answers how to leave it.
func (t *turns) take(ctx context.Context, what string) (leave func(), err error) {
	t.mu.Lock()
	if t.waiting == nil {
		t.waiting = make(map[string]*turn)
	}
	mine := t.waiting[what]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		t.waiting[what] = mine
	}
	mine.n++
	t.mu.Unlock()

	quit := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.n--; mine.n == 0 {
			delete(t.waiting, what)
		}
	}
	select {
	case <-mine.free:
		return func() { mine.free <- struct{}{}; quit() }, nil
	case <-ctx.Done():
		quit()
		return nil, ctx.Err()
	}
}
