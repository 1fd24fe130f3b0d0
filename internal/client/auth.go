// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	// maxRefreshAhead is how long before its expiry a token is replaced at the earliest.
	maxRefreshAhead = 10 * time.Minute
	// refreshPause is how long a token that still serves is left alone after its replacement could not be had.
	refreshPause = time.Minute
	// maxMargin is how long before its expiry a token counts as expired at the earliest, for requests on their way and
	// clocks that differ.
	maxMargin = 30 * time.Second
	// defaultLifetime is that of a token without expires_in (Databricks documentation, OAuth machine-to-machine: 1 hour).
	defaultLifetime = time.Hour
)

// accessToken is a bearer token and when to replace it.
type accessToken struct {
	value   string
	refresh time.Time // from here on it is replaced in the background
	expiry  time.Time // from here on it is never used
}

// newAccessToken sets the times of a token that was asked for at the given moment.
func newAccessToken(value string, asked time.Time, lifetime time.Duration) accessToken {
	expiry := asked.Add(lifetime - min(lifetime/10, maxMargin))
	return accessToken{
		value:   value,
		refresh: expiry.Add(-min(lifetime/2, maxRefreshAhead)),
		expiry:  expiry,
	}
}

// tokenCache keeps one access token. However many callers wait for a token, one fetch is under way. It runs apart from all
// of them, so that a caller who gives up takes nothing from the others, and no lock is held over it.
type tokenCache struct {
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

// fetchSafely turns a panic into an error: nobody above this goroutine could, and it would end every mount of the process.
func (c *tokenCache) fetchSafely() (token accessToken, err error) {
	defer func() {
		if recover() != nil {
			err = &Error{Op: opOIDCToken, Kind: Unavailable, Unprocessed: true, what: "fetching an access token failed within the plugin"}
		}
	}()
	return c.fetch(context.Background())
}

var errNoAccessToken = errors.New("no access token in the answer")

// fetchToken asks the token endpoint for an access token (RFC 6749, section 4.4; Databricks documentation, OAuth
// machine-to-machine).
func (c *Client) fetchToken(ctx context.Context, grant *clientcredentials.Config) (accessToken, error) {
	var token accessToken
	asked := time.Now()
	_, err := c.do(ctx, call{op: opOIDCToken, result: true}, func(ctx context.Context) error {
		ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: c.transport})
		granted, err := grant.Token(ctx)
		if err != nil {
			return err
		}
		lifetime := defaultLifetime
		if !granted.Expiry.IsZero() {
			lifetime = time.Until(granted.Expiry)
		}
		if lifetime <= 0 || strings.ContainsFunc(granted.AccessToken, notInHeader) {
			return errNoAccessToken
		}
		token = newAccessToken(granted.AccessToken, asked, lifetime)
		return nil
	})
	return token, err
}

// tokenURL returns the token endpoint of a workspace, or of an account on the hosts that serve accounts only (Databricks
// documentation, OAuth machine-to-machine).
func tokenURL(host, accountID string) string {
	if accountID != "" && isAccountHost(host) {
		return fmt.Sprintf("%s/oidc/accounts/%s/v1/token", host, url.PathEscape(accountID))
	}
	return host + "/oidc/v1/token"
}

func isAccountHost(host string) bool {
	return strings.HasPrefix(host, "https://accounts.") || strings.HasPrefix(host, "https://accounts-dod.")
}
