// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/sync/singleflight"
)

const (
	// attemptTimeout limits one attempt to get a token from Vault, with all its requests.
	attemptTimeout = 30 * time.Second

	// patience is how long a request waits for an attempt. The SDKs wait for 10 seconds.
	patience = 5 * time.Second

	// jitter is by how much the end of something may differ between two answers of Vault, which are in whole seconds.
	jitter = 2 * time.Second

	// closeTimeout limits the revocations at the end.
	closeTimeout = 15 * time.Second

	// revokedAfter is how long after the end of a lease Vault may take to revoke it.
	revokedAfter = 10 * time.Second

	// idlePace is how often the Vault token is looked at while nobody asks, unless it is to be renewed sooner.
	idlePace = time.Hour
)

// margin is how long before the end of its lease a token is said to expire, so that no request is on its way when it ends.
func margin(life time.Duration) time.Duration { return min(life/20, 30*time.Second) }

// ahead is how long before it expires a token is replaced. SDKs ask for the next one when half of its life is over, or 20 minutes before it
// expires if that is later (databricks-sdk-go, config/experimental/auth/cache.go). By then it should be there.
func ahead(life time.Duration) time.Duration {
	return min(life/2, 20*time.Minute) + min(life/10, 5*time.Minute)
}

// accessToken is what requests are answered with. An SDK keeps it until it expires.
type accessToken struct {
	host, value string
	expires     time.Time
}

// credential is a leased token.
type credential struct {
	*leased
	owner   owner
	expires time.Time // what askers are told
	due     time.Time // when it is to be replaced or renewed
	given   bool      // to somebody
	letGo   bool      // nobody asks: its lease is left to end
}

// newCredential calculates the times of a token from what is known of its lease and the owner of that.
func newCredential(l *leased, o owner, at time.Time) *credential {
	c := &credential{leased: l, owner: o}
	end := l.end
	if c.endsWithOwner() {
		end = o.end
	}
	c.expires = end.Add(-margin(end.Sub(at)))
	c.due = c.expires.Add(-ahead(c.expires.Sub(at)))
	if !o.due.IsZero() && o.due.Before(c.due) {
		c.due = o.due
	}
	return c
}

// endsWithOwner reports whether the Vault token ends before the lease would, and the token of Databricks then.
func (c *credential) endsWithOwner() bool {
	return c.revocable && !c.owner.end.IsZero() && c.owner.end.Before(c.end)
}

// over reports whether Vault has revoked the lease by itself.
func (c *credential) over() bool { return now().After(c.end.Add(revokedAfter)) }

func (c *credential) accessToken() accessToken {
	return accessToken{host: c.host, value: c.value, expires: c.expires}
}

// keeper has a token ready for as long as somebody asks at least once in the life of one, as SDKs do. One attempt to get it is made at a
// time, for all who ask. While nobody asks, no lease is kept: the next who asks waits for a new one.
//
// No token is revoked while somebody may use it: an SDK that was given it keeps it until the time that it was told, just before the lease
// ends. So a token that is replaced is revoked only if nobody was given it, or when the keeper closes.
type keeper struct {
	vault   *vault
	log     *log.Logger
	flights singleflight.Group
	stop    chan struct{}
	changed chan struct{} // the time of the next attempt has changed

	mu        sync.Mutex
	current   *credential
	asked     time.Time // when somebody last did
	replaced  []*credential
	failure   error // of the last attempt
	notBefore time.Time
	backoff   *backoff.ExponentialBackOff
	closed    bool
}

func newKeeper(v *vault, logger *log.Logger) *keeper {
	return &keeper{
		vault: v, log: logger, stop: make(chan struct{}), changed: make(chan struct{}, 1),
		backoff: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0)),
	}
}

// start gets the first token, and keeps one until the keeper is closed.
func (k *keeper) start() (accessToken, error) {
	if err := k.attempt(); err != nil {
		return accessToken{}, err
	}
	first := k.current.accessToken()
	go k.keep()
	return first, nil
}

func (k *keeper) keep() {
	for {
		timer := time.NewTimer(k.untilNext())
		select {
		case <-timer.C:
			_, _, _ = k.flights.Do("", func() (any, error) { return nil, k.refresh() })
		case <-k.changed:
		case <-k.stop:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func (k *keeper) untilNext() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.current.due
	if k.notBefore.After(next) {
		next = k.notBefore
	}
	return next.Sub(now())
}

// token returns a token, which lives on for more than half of a new one's life or 20 minutes unless Vault has failed to give the next one.
func (k *keeper) token(ctx context.Context) (accessToken, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range 2 { // the first attempt may be one that was under way, to let the lease go
		if t, ok, due := k.give(); ok && !due {
			return t, nil
		}
		select {
		case <-k.flights.DoChan("", func() (any, error) { return nil, k.refresh() }):
		case <-ctx.Done():
		}
	}
	if t, ok, _ := k.give(); ok {
		return t, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failure != nil {
		return accessToken{}, k.failure
	}
	return accessToken{}, errors.New("no answer of Vault yet; ask again")
}

// give returns the token that there is, and whether it is to be replaced.
func (k *keeper) give() (t accessToken, ok, due bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := now()
	k.asked = at
	if k.closed || k.current == nil || !at.Before(k.current.expires) {
		return accessToken{}, false, true
	}
	k.current.given = true
	return k.current.accessToken(), true, k.isDue(at)
}

// isDue reports whether an attempt is to be made. The caller holds the mutex.
func (k *keeper) isDue(at time.Time) bool {
	return !at.Before(k.current.due) || k.current.letGo && !k.isIdle(at)
}

// isIdle reports whether nobody has asked for as long as a token lives, so that nobody has one that still works. The caller holds the mutex.
func (k *keeper) isIdle(at time.Time) bool { return at.Sub(k.asked) > k.current.duration }

// refresh makes an attempt if one is due. After a failure the next ones come later and later.
func (k *keeper) refresh() error {
	k.mu.Lock()
	at, before := now(), k.failure
	if k.closed || !k.isDue(at) || at.Before(k.notBefore) {
		k.mu.Unlock()
		return before
	}
	expires := k.current.expires
	k.mu.Unlock()

	err := k.attempt()

	k.mu.Lock()
	k.failure = err
	if err != nil {
		k.notBefore = now().Add(k.backoff.NextBackOff())
	} else {
		k.notBefore = time.Time{}
		k.backoff.Reset()
	}
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default:
	}
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		left := "There is no access token now"
		if now().Before(expires) {
			left = "The present access token lasts until " + expires.Format(time.RFC3339)
		}
		k.log.Printf("%s. %s; trying again", err, left)
	case err == nil && before != nil:
		k.log.Print("Vault gives access tokens again")
	}
	return err
}

// attempt renews the lease of the present token if that lets it live on as long as a new one, and else gets a new one. If nobody asks, it
// does neither, and only keeps the Vault token alive.
func (k *keeper) attempt() error {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	if err := k.vault.loadToken(); err != nil {
		return err
	}
	self, err := k.vault.self(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	present := k.current
	if present != nil && k.isIdle(now()) {
		due := now().Add(idlePace)
		if !self.due.IsZero() && self.due.Before(due) {
			due = self.due
		}
		k.postpone(due, true)
		k.mu.Unlock()
		return nil
	}
	k.mu.Unlock()
	if present != nil && present.owner.id == self.id && now().Before(present.expires) {
		kept, err := k.extend(ctx, present, self)
		if kept || err != nil {
			return err
		}
	}
	read, err := k.vault.read(ctx)
	if err != nil {
		return err
	}
	at := now()
	next := newCredential(read, self, at)
	if present != nil && next.expires.Before(present.expires) {
		k.revoke(next)
		k.mu.Lock()
		k.postpone(present.expires.Add(-next.expires.Sub(at)), false) // when a new one lives as long as what is left of this one
		k.mu.Unlock()
		if next.endsWithOwner() {
			return endsWith(self)
		}
		return nil
	}
	k.mu.Lock()
	k.current = next
	unused := present != nil && !present.given
	if present != nil && present.given {
		k.replaced = slices.DeleteFunc(append(k.replaced, present), (*credential).over)
	}
	k.mu.Unlock()
	if unused {
		k.revoke(present)
	}
	return nil
}

// postpone leaves the present token as it is, until due. The caller holds the mutex.
func (k *keeper) postpone(due time.Time, letGo bool) {
	c := *k.current
	c.due, c.letGo = due, letGo
	k.current = &c
}

// extend makes the present token live on, and reports whether that is long enough to keep it.
func (k *keeper) extend(ctx context.Context, present *credential, self owner) (kept bool, err error) {
	lease := *present.leased
	if lease.renewable {
		if renewed, err := k.vault.renew(ctx, &lease); err != nil || !renewed {
			return false, err
		}
	}
	at, longest := now(), lease
	longest.end = at.Add(lease.duration)
	next := newCredential(&lease, self, at)
	switch {
	case next.expires.Sub(at) <= ahead(newCredential(&longest, self, at).expires.Sub(at)):
		return false, nil
	case next.endsWithOwner() && next.expires.Sub(present.expires) < jitter:
		return false, endsWith(self)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next.given = present.given
	k.current = next
	return true, nil
}

func endsWith(o owner) error {
	return fmt.Errorf("the Vault token ends at %s, and access tokens end with it: log in again, or write a new token to -token-file", o.end.Format(time.RFC3339))
}

// revoke ends a token that nobody uses.
func (k *keeper) revoke(c *credential) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := k.vault.revoke(ctx, c.leaseID); err != nil {
		k.log.Print(err)
	}
}

// close revokes every token that still lives. It waits for an attempt that is under way, since that may bring another one.
func (k *keeper) close() error {
	k.mu.Lock()
	k.closed = true
	close(k.stop)
	k.mu.Unlock()
	_, _, _ = k.flights.Do("", func() (any, error) { return nil, nil })

	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := k.vault.loadToken(); err != nil {
		k.log.Print(err) // The one that was read last may do.
	}
	var failed error
	for _, c := range append(k.replaced, k.current) {
		if c.over() {
			continue
		}
		if err := k.vault.revoke(ctx, c.leaseID); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%w. Its access token ends by itself at %s", err, c.end.Format(time.RFC3339)))
		}
	}
	return failed
}
