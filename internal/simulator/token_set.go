// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"container/heap"
	"time"
)

// token is a personal access token. Its value is kept nowhere: the id is the
// SHA-256 of it, which is all that authentication needs. It is guarded by the
// workspace's mutex.
type token struct {
	id        string
	comment   string
	owner     *principal
	creator   *principal
	created   time.Time
	expires   time.Time // zero = never
	lastUsed  time.Time // zero = never
	scopes    []string  // empty = everything
	autoscope autoscope
	deleted   bool
	counted   bool // in its set's count
}

// autoscope tells where a token's scopes come from (Databricks REST reference,
// Token API, autoscope_state).
type autoscope string

const (
	autoscopeDisabled     autoscope = "AUTOSCOPE_STATE_DISABLED"
	autoscopeRunning      autoscope = "AUTOSCOPE_STATE_RUNNING"
	autoscopeUserSelected autoscope = "AUTOSCOPE_STATE_USER_SELECTED"
)

func (t *token) liveAt(now time.Time) bool {
	return !t.deleted && (t.expires.IsZero() || now.Before(t.expires))
}

// tokenSet holds the tokens of one principal such that adding, deleting and
// counting cost no more than a logarithm of their number.
type tokenSet struct {
	all      []*token // in order of creation; dead ones are swept out at times
	expiring expiryHeap
	count    int // not deleted and not yet seen to be expired
}

func (s *tokenSet) add(t *token) {
	if len(s.all) > 2*s.count+64 {
		s.sweep(t.created)
	}
	s.all = append(s.all, t)
	s.count++
	t.counted = true
	if !t.expires.IsZero() {
		heap.Push(&s.expiring, t)
	}
}

// delete marks a live token of the set as deleted.
func (s *tokenSet) delete(t *token) {
	t.deleted = true
	s.uncount(t)
}

func (s *tokenSet) uncount(t *token) {
	if t.counted {
		t.counted = false
		s.count--
	}
}

// countLive is the number of live tokens, for clocks that don't go backwards.
func (s *tokenSet) countLive(now time.Time) int {
	for len(s.expiring) > 0 && !now.Before(s.expiring[0].expires) {
		s.uncount(heap.Pop(&s.expiring).(*token))
	}
	return s.count
}

// live lists the live tokens in order of creation.
func (s *tokenSet) live(now time.Time) []*token {
	s.sweep(now)
	return s.all
}

func (s *tokenSet) sweep(now time.Time) {
	kept := make([]*token, 0, s.countLive(now))
	for _, t := range s.all {
		if t.liveAt(now) {
			kept = append(kept, t)
		}
	}
	s.all = kept
}

// expiryHeap is a heap.Interface with the soonest expiry on top.
type expiryHeap []*token

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiryHeap) Push(t any)        { *h = append(*h, t.(*token)) }
func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
