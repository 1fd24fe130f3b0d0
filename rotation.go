// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"time"
)

// earliest is the first of the times that isn't zero.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// rotationFailed says loudly that a rotation failed that nobody waits for.
func (b *backend) rotationFailed(ctx context.Context, kind, path, what string, p *progress, why error) {
	b.Logger().Error("a rotation failed; it is tried again", "what", what, "failures", p.Failures, "next_attempt", rfc3339(p.Retry), "error", why)
	b.event(ctx, kind+"-fail", path, "failures", fmt.Sprint(p.Failures), "next_attempt", rfc3339(p.Retry))
}

// progress is how the rotations of something go. It is stored, so that a restart changes nothing about it.
type progress struct {
	Last time.Time `json:"last_vault_rotation,omitzero"`
	Next time.Time `json:"next_vault_rotation,omitzero"` // zero for never

	Failures int       `json:"rotation_failures,omitempty"` // one after the other, since the last success
	Error    string    `json:"last_rotation_error,omitempty"`
	Retry    time.Time `json:"next_rotation_attempt,omitzero"`
}

// due is when the credential is to be replaced: when the schedule says so, but in good time before it ends, whatever became of
// the schedule since it was made. Margin is how much of its life must be left then. The zero time is for never.
func (p *progress) due(k *kept, margin time.Duration) time.Time {
	if p.Next.IsZero() || k.Lifetime <= 0 || !p.Next.Add(margin).After(k.Created.Add(seconds(k.Lifetime))) {
		return p.Next
	}
	return earliest(p.Next, k.latest(margin))
}

// at is when the next attempt to replace the credential is made; zero for never.
func (p *progress) at(k *kept, margin time.Duration) time.Time {
	due := p.due(k, margin)
	if !due.IsZero() && p.Retry.After(due) {
		return p.Retry
	}
	return due
}

// corrected takes back what was decided while the clock was ahead, and tells whether there was such a thing.
func (p *progress) corrected(s schedule, now time.Time) bool {
	before := *p
	if next := s.after(now); !next.IsZero() && p.Next.After(next) {
		p.Next = next
	}
	if p.Retry.After(now.Add(longestRetry)) {
		p.Retry = time.Time{}
	}
	if p.Last.After(now) {
		p.Last = now.UTC().Truncate(time.Second)
	}
	return *p != before
}

// missed tells whether the time to rotate has passed by more than the window.
func (p *progress) missed(s schedule, now time.Time) bool {
	return s.Cron != "" && s.Window > 0 && !p.Next.IsZero() && now.After(p.Next.Add(seconds(s.Window)))
}

// succeeded begins the wait for the next time.
func (p *progress) succeeded(s schedule, now time.Time) {
	*p = progress{Last: now.UTC().Truncate(time.Second), Next: s.after(now)}
}

// failed begins the wait before another attempt.
func (p *progress) failed(now time.Time, why error) {
	wait := longestRetry
	if p.Failures < 10 {
		wait = min(firstRetry<<p.Failures, longestRetry)
	}
	p.Failures++
	p.Error, p.Retry = why.Error(), now.UTC().Add(wait).Truncate(time.Second)
}

// skip leaves the time that was missed out. What failed before stays to be seen.
func (p *progress) skip(s schedule, now time.Time) {
	p.Next, p.Retry = s.after(now), time.Time{}
}

// restart begins to wait anew, as if the credential had been made now.
func (p *progress) restart(s schedule, now time.Time) {
	*p = progress{Last: p.Last, Next: s.after(now)}
}

// reschedule takes note of another schedule. A period counts from the last rotation, or from now when there was none.
func (p *progress) reschedule(s schedule, now time.Time) {
	from := now
	if s.Period > 0 && !p.Last.IsZero() {
		from = p.Last
	}
	p.restart(s, from)
}

// addTo shows the progress in an answer; next is when the credential is due.
func (p *progress) addTo(data map[string]any, next time.Time) {
	for field, at := range map[string]time.Time{keyLastRotation: p.Last, keyNextRotation: next, keyRotationRetry: p.Retry} {
		data[field] = nil
		if !at.IsZero() {
			data[field] = rfc3339(at)
		}
	}
	data[keyRotationFailures] = p.Failures
	data[keyRotationError] = p.Error
}
