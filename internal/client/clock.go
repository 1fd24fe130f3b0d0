// SPDX-License-Identifier: MPL-2.0

package client

import (
	"net/http"
	"sync"
	"time"
)

const (
	// clockSamples is how many of the latest samples must agree for the offset to be stable.
	clockSamples = 3
	// clockTolerance is by how much two samples may differ beyond their uncertainty.
	clockTolerance = 2 * time.Second
	// maxRoundTrip is how long a request may take to its answer, by our clock, for the answer's date to be a sample.
	maxRoundTrip = 10 * time.Second
)

// ClockOffset is how Databricks' clock differs from ours, as the Date header of its answers shows it.
type ClockOffset struct {
	// Offset is Databricks' clock minus ours, 0 while unknown. While stable, it is off by up to half a second plus half the
	// time that the request took, plus what the clocks have moved since.
	Offset time.Duration
	// Known is true once an answer had a date.
	Known bool
	// Stable is true when the latest three samples agree within their uncertainty plus 2 s. It is false from a step of
	// either clock until three samples have been taken after it.
	Stable bool
	// Measured is the time of the latest sample by our clock, with its monotonic part where it has one, the zero time while unknown.
	Measured time.Time
}

// clock keeps the latest samples of the offset of the workspace's clock.
type clock struct {
	now func() time.Time // our clock

	mu       sync.Mutex
	samples  [clockSamples]clockSample // the latest first
	taken    int                       // clockSamples at most
	measured time.Time
}

// clockSample is one measurement. The offset differs from the true one by the margin at most.
type clockSample struct{ offset, margin time.Duration }

// measure takes a sample from an answer's Date header, which has whole seconds, and so stands for some moment within the second
// that it begins. That moment lay between sending and receiving. Nothing is taken from an answer without a valid date, nor from
// one before or during which our clock did not go on as usual.
func (c *clock) measure(date string, sent, received time.Time) {
	// Without their monotonic part, since a step of the clock between the two must not go unnoticed.
	sent = sent.Round(0)
	took := received.Round(0).Sub(sent)
	if date == "" || took < 0 || took > maxRoundTrip {
		return
	}
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	sample := clockSample{
		offset: at.Add(time.Second / 2).Sub(sent.Add(took / 2)),
		margin: time.Second/2 + took/2,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	copy(c.samples[1:], c.samples[:])
	c.samples[0] = sample
	c.taken = min(c.taken+1, clockSamples)
	c.measured = received
}

// offset returns the most certain of the samples while they agree, else the latest.
func (c *clock) offset() ClockOffset {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken == 0 {
		return ClockOffset{}
	}
	best, stable := c.samples[0], c.taken == clockSamples
	for i, one := range c.samples[:c.taken] {
		if one.margin < best.margin {
			best = one
		}
		for _, other := range c.samples[:i] {
			stable = stable && (one.offset-other.offset).Abs() <= one.margin+other.margin+clockTolerance
		}
	}
	if !stable {
		best = c.samples[0]
	}
	return ClockOffset{Offset: best.offset, Known: true, Stable: stable, Measured: c.measured}
}

// Clock returns how Databricks' clock differs from ours, by the answers of the workspace or account so far, whatever their status.
// Those of Entra ID's login host do not count.
func (c *Client) Clock() ClockOffset { return c.transport.clock.offset() }
