// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxPause bounds how long one throttled answer may hold up the whole client, whatever it asked for.
	maxPause = 30 * time.Second
	// maxSpread bounds the random delay that keeps released waiters from arriving all at once.
	maxSpread = 250 * time.Millisecond
)

// gate holds every request of a client back after Databricks throttled one of them.
type gate struct {
	mu    sync.Mutex
	opens time.Time
}

// pause closes the gate for d, [maxPause] at most. It never opens a gate earlier than it would have opened.
func (g *gate) pause(d time.Duration) {
	opens := time.Now().Add(min(d, maxPause))
	g.mu.Lock()
	defer g.mu.Unlock()
	if opens.After(g.opens) {
		g.opens = opens
	}
}

// left returns how long the gate stays closed, zero or less when it is open.
func (g *gate) left() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.opens)
}

// wait returns zero once the gate is open. It returns at once, with the time left, when the gate opens only after the
// context's deadline, and with an error when the context ends while waiting.
func (g *gate) wait(ctx context.Context) (time.Duration, error) {
	for {
		left := g.left()
		if left <= 0 {
			return 0, nil
		}
		if !fits(ctx, left) {
			return left, nil
		}
		if err := Sleep(ctx, left+spread(left)); err != nil {
			return 0, err
		}
	}
}

// spread returns a random delay of up to a quarter of d, [maxSpread] at most.
func spread(d time.Duration) time.Duration {
	return rand.N(min(d/4, maxSpread) + 1)
}

// fits reports whether a wait of d ends before the context's deadline.
func fits(ctx context.Context, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > d
}

// Sleep waits for d, or returns the context's error as soon as it ends.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
