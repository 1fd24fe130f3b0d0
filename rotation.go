// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-databricks/internal/schedule"
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
func (p *progress) corrected(s schedule.Schedule, now time.Time) bool {
	before := *p
	if next := s.After(now); !next.IsZero() && p.Next.After(next) {
		p.Next = next
	}
	if p.Retry.After(now.Add(schedule.LongestRetry)) {
		p.Retry = time.Time{}
	}
	if p.Last.After(now) {
		p.Last = now.UTC().Truncate(time.Second)
	}
	return *p != before
}

// missed tells whether the time to rotate has passed by more than the window.
func (p *progress) missed(s schedule.Schedule, now time.Time) bool {
	return s.Cron != "" && s.Window > 0 && !p.Next.IsZero() && now.After(p.Next.Add(seconds(s.Window)))
}

// succeeded begins the wait for the next time.
func (p *progress) succeeded(s schedule.Schedule, now time.Time) {
	*p = progress{Last: now.UTC().Truncate(time.Second), Next: s.After(now)}
}

// failed begins the wait before another attempt.
func (p *progress) failed(now time.Time, why error) {
	p.Failures++
	p.Error, p.Retry = why.Error(), now.UTC().Add(schedule.Backoff(p.Failures)).Truncate(time.Second)
}

// skip leaves the time that was missed out. What failed before stays to be seen.
func (p *progress) skip(s schedule.Schedule, now time.Time) {
	p.Next, p.Retry = s.After(now), time.Time{}
}

// restart begins to wait anew, as if the credential had been made now.
func (p *progress) restart(s schedule.Schedule, now time.Time) {
	*p = progress{Last: p.Last, Next: s.After(now)}
}

// reschedule takes note of another schedule. A period counts from the last rotation, or from now when there was none.
func (p *progress) reschedule(s schedule.Schedule, now time.Time) {
	from := now
	if s.Period > 0 && !p.Last.IsZero() {
		from = p.Last
	}
	p.restart(s, from)
}

// latest is when a successor must be there, by Vault's clock: a quarter of the credential's life before its end, a week at most, but
// the margin at least. The zero time is for a credential that is not known to end.
func (k *kept) latest(margin time.Duration) time.Time {
	life := seconds(k.Lifetime)
	if life <= 0 {
		return time.Time{}
	}
	lead := min(max(min(life/4, schedule.LongestLead), margin), life/2)
	return k.Created.Add(life - lead).UTC().Truncate(time.Second)
}

// retired is a credential that has a successor, and lives on for those who still have it.
type retired struct {
	kept
	Until time.Time `json:"until"`
	Grace int64     `json:"grace"` // seconds that it was to live on at first
}

// retire ends the grace of a credential in due course.
func (k kept) retire(now time.Time, grace time.Duration) retired {
	return retired{kept: k, Until: now.UTC().Add(grace).Truncate(time.Second), Grace: int64(grace / time.Second)}
}

// corrected takes back a date of a credential that was made while the clock was ahead, and tells whether there was one.
func (k *kept) corrected(now time.Time) bool {
	if !k.Created.After(now) {
		return false
	}
	k.Created = now.UTC()
	return true
}

// corrected takes back a date that was set while the clock was ahead, and tells whether there was one.
func (r *retired) corrected(now time.Time) bool {
	latest := now.UTC().Add(seconds(r.Grace) + schedule.LongestRetry).Truncate(time.Second)
	if !r.Until.After(latest) {
		return false
	}
	r.Until = latest
	return true
}
