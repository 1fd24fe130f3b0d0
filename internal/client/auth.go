// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"sync"
	"time"
)

const (
	// maxRefreshAhead is how long before its expiry a token is replaced at the earliest.
	maxRefreshAhead = 10 * time.Minute
	// refreshPause is how long a token that still serves is not replaced again after a failed attempt.
	refreshPause = time.Minute
	// maxMargin is how long before its expiry a token counts as expired at the earliest, for requests on their way and
	// clocks that differ.
	maxMargin = 30 * time.Second
)

// accessToken is a bearer token and when to replace it.
type accessToken struct {
	value   string
	refresh time.Time // from here on it is replaced in the background
	expiry  time.Time // from here on it is never used
}

// newAccessToken sets the times of a token that was asked for at the given moment, and that counts as expired by the margin
// before it does expire.
func newAccessToken(value string, asked time.Time, lifetime, margin time.Duration) accessToken {
	expiry := asked.Add(lifetime - margin)
	return accessToken{
		value:   value,
		refresh: expiry.Add(-min(lifetime/2, maxRefreshAhead)),
		expiry:  expiry,
	}
}

// tokenCache keeps one access token. However many callers wait for a token, one fetch is under way. It runs apart from all of
// them, so that a caller that gives up does not affect the others, and no lock is held during it.
type tokenCache struct {
	op    string // of its fetches, for errors
	fetch func(context.Context) (accessToken, error)

	mu          sync.Mutex
	current     accessToken
	flight      *flight   // the fetch under way, else nil
	pausedUntil time.Time // no refresh in the background before
}

// flight is one fetch. Its result may be read once done is closed.
type flight struct {
	done  chan struct{}
	token accessToken
	err   error
}

// token returns a token that has not expired, or the error of the fetch that it waited for, or the context's error.
func (c *tokenCache) token(ctx context.Context) (string, error) {
	c.mu.Lock()
	now := time.Now()
	if now.Before(c.current.expiry) {
		if c.flight == nil && !now.Before(c.current.refresh) && !now.Before(c.pausedUntil) {
			c.launch()
		}
		value := c.current.value
		c.mu.Unlock()
		return value, nil
	}
	if c.flight == nil {
		c.launch()
	}
	f := c.flight
	c.mu.Unlock()

	select {
	case <-f.done:
		return f.token.value, f.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// drop forgets a token that Databricks refused, unless it was replaced already.
func (c *tokenCache) drop(value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.value == value {
		c.current = accessToken{}
	}
}

// launch starts a fetch. The lock must be held.
func (c *tokenCache) launch() {
	f := &flight{done: make(chan struct{})}
	c.flight = f
	go func() {
		f.token, f.err = c.fetchSafely()
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.err == nil {
			c.current = f.token
		} else {
			c.pausedUntil = time.Now().Add(refreshPause)
		}
		c.flight = nil
		close(f.done)
	}()
}

// fetchSafely turns a panic into an error: nothing above this goroutine could recover, and every mount of the process would
// crash.
func (c *tokenCache) fetchSafely() (token accessToken, err error) {
	defer func() {
		if recover() != nil {
			err = &Error{Op: c.op, Kind: Unavailable, Unprocessed: true, what: "fetching an access token failed within the plugin"}
		}
	}()
	return c.fetch(context.Background())
}
