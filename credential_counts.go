// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"maps"
	"sync"
	"time"
)

// credentialCounts counts credentials by type, for status. The zero value is ready to use, and it is safe for concurrent use. Each mint and
// each revocation takes the mutex once, and allocates nothing: atomics would save little, since ends needs a mutex.
type credentialCounts struct {
	mu      sync.Mutex
	types   map[string]*typeCounts
	mints   failureRun
	revokes failureRun
}

// typeCounts is what was counted of one credential type since the plugin started on this node.
type typeCounts struct {
	Minted, Revoked, MintFailures, RevokeFailures int64

	// ends has those of Minted that were not revoked, by the minute after which they have ended at Databricks.
	ends map[int64]int64
}

// failureRun is how many attempts of a kind failed in a row up to now, and the latest of them.
type failureRun struct {
	InARow int
	Text   string
	Time   time.Time
}

func (r *failureRun) failed(now time.Time, why error) {
	r.InARow++
	r.Text, r.Time = why.Error(), now
}

// endMinute is the minute, since 1970, after which a credential that ends at the time has ended.
func endMinute(end time.Time) int64 { return end.Unix()/60 + 1 }

func (c *credentialCounts) of(credentialType string) *typeCounts {
	t := c.types[credentialType]
	if t == nil {
		t = &typeCounts{ends: make(map[int64]int64)}
		if c.types == nil {
			c.types = make(map[string]*typeCounts)
		}
		c.types[credentialType] = t
	}
	return t
}

// minted counts a credential whose lease was returned to Vault, and which has ended at the time end.
func (c *credentialCounts) minted(credentialType string, end time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.of(credentialType)
	t.Minted++
	t.ends[endMinute(end)]++
	c.mints.InARow = 0
}

// mintFailed counts a mint that failed, and not by a mistake of its caller.
func (c *credentialCounts) mintFailed(credentialType string, now time.Time, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of(credentialType).MintFailures++
	c.mints.failed(now, why)
}

// revoked counts a credential that a revocation has ended. own says that this process has minted it.
func (c *credentialCounts) revoked(credentialType string, end time.Time, own bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.of(credentialType)
	t.Revoked++
	c.revokes.InARow = 0
	if minute := endMinute(end); own && t.ends[minute] > 0 {
		if t.ends[minute]--; t.ends[minute] == 0 {
			delete(t.ends, minute)
		}
	}
}

// revokeFailed counts an attempt to revoke that failed.
func (c *credentialCounts) revokeFailed(credentialType string, now time.Time, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of(credentialType).RevokeFailures++
	c.revokes.failed(now, why)
}

// forget drops what has ended, so that the counts take no more memory than there are minutes in which something ends.
func (c *credentialCounts) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.types {
		maps.DeleteFunc(t.ends, func(minute, _ int64) bool { return minute*60 <= now.Unix() })
	}
}

// credentialTotals is credentialCounts at one moment.
type credentialTotals struct {
	types          map[string]typeTotals
	all            typeTotals
	mints, revokes failureRun
}

type typeTotals struct {
	Minted, StillLive, Revoked, MintFailures, RevokeFailures int64
}

// totals returns what was counted so far.
func (c *credentialCounts) totals(now time.Time) credentialTotals {
	c.forget(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	sums := credentialTotals{types: make(map[string]typeTotals, len(c.types)), mints: c.mints, revokes: c.revokes}
	for name, t := range c.types {
		n := typeTotals{Minted: t.Minted, Revoked: t.Revoked, MintFailures: t.MintFailures, RevokeFailures: t.RevokeFailures}
		for _, live := range t.ends {
			n.StillLive += live
		}
		sums.types[name] = n
		sums.all.Minted += n.Minted
		sums.all.StillLive += n.StillLive
		sums.all.Revoked += n.Revoked
		sums.all.MintFailures += n.MintFailures
		sums.all.RevokeFailures += n.RevokeFailures
	}
	return sums
}
