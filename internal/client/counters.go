// SPDX-License-Identifier: MPL-2.0

package client

import (
	"sync"
	"time"
)

// Counters counts calls and their latencies by operation. The zero value is ready to use, it may be shared by any number
// of clients, and it must not be copied.
type Counters struct {
	mu          sync.Mutex
	ops         map[string]*opTotals
	lastFailure Failure
	outage      int // see Failure.Outage
}

// Failure is a call that failed.
type Failure struct {
	Text string    // the text of its [Error]; "" for no failure yet
	Time time.Time // when it had failed
	Kind Kind

	// Outage is how many calls in a row up to now Databricks did not serve: it was out of reach, did not answer in time, failed or throttled,
	// or did not admit the credential. It is 0 again after a call that was served with the credential; what is refused for another reason
	// neither counts nor ends the row.
	Outage int
}

// OpCounts is what was counted for one operation since its [Counters] was created.
type OpCounts struct {
	Calls     int64         // calls asked for, failed ones included
	Errors    int64         // calls that failed in the end. That what was asked for does not exist is an answer, not a failure
	Retries   int64         // attempts beyond the first of each call
	Throttled int64         // answers that asked to slow down
	Mean      time.Duration // mean latency of a call, retries and waits included
	Max       time.Duration // longest latency of a call, retries and waits included
}

type opTotals struct {
	calls, errors, retries, throttled int64
	total, max                        time.Duration
}

func (c *Counters) record(ca *call, took time.Duration, failure *Error) {
	failed := failure != nil && !(failure.Kind == NotFound && ca.mayBeAbsent())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ops == nil {
		c.ops = make(map[string]*opTotals)
	}
	t := c.ops[ca.op]
	if t == nil {
		t = &opTotals{}
		c.ops[ca.op] = t
	}
	t.calls++
	switch {
	case !failed:
		if ca.signed {
			c.outage = 0
		}
	case failure.Kind == Canceled:
		t.errors++
	default:
		t.errors++
		if failure.Kind.Outage() {
			c.outage++
		}
		c.lastFailure = Failure{Text: failure.Error(), Time: time.Now(), Kind: failure.Kind}
	}
	t.retries += int64(max(ca.attempts-1, 0))
	t.throttled += int64(ca.throttled)
	t.total += took
	t.max = max(t.max, took)
}

// Snapshot returns the counts so far by operation, such as "token/create". Access tokens are fetched under "oidc/token",
// "oidc/exchange" and "entra/token".
func (c *Counters) Snapshot() map[string]OpCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := make(map[string]OpCounts, len(c.ops))
	for op, t := range c.ops {
		counts[op] = OpCounts{
			Calls:     t.calls,
			Errors:    t.errors,
			Retries:   t.retries,
			Throttled: t.throttled,
			Mean:      t.total / time.Duration(t.calls),
			Max:       t.max,
		}
	}
	return counts
}

// LastFailure returns the latest call that failed, calls whose caller gave up excepted.
func (c *Counters) LastFailure() Failure {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.lastFailure
	last.Outage = c.outage
	return last
}
