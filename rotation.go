// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-databricks/internal/schedule"
)

// rotationState is what is stored of the rotations of one credential, so that a restart neither causes nor postpones one. It is
// part of the entries of the config and of static roles, so its JSON keys must stay. Times are in UTC, by Vault's clock.
type rotationState struct {
	Last time.Time `json:"last_vault_rotation,omitzero"`
	Next time.Time `json:"next_vault_rotation,omitzero"` // by the schedule; zero for never

	// Failures counts the attempts to rotate that failed in a row, LastError says why the last of them failed, and NextRetry is
	// when the next one is made at the earliest.
	Failures  int       `json:"rotation_failures,omitempty"`
	LastError string    `json:"last_rotation_error,omitempty"`
	NextRetry time.Time `json:"next_rotation_attempt,omitzero"`

	// Retired has the credentials that were replaced and have not been removed yet.
	Retired []retired `json:"retired,omitempty"`

	// PendingFailures, PendingError and PendingRetry are the same as above for the work that follows a rotation: delivery of the
	// new credential, and removal of retired ones.
	PendingFailures int       `json:"tried,omitempty"`
	PendingError    string    `json:"trouble,omitempty"`
	PendingRetry    time.Time `json:"again,omitzero"`
}

// retired is a credential that has a successor, and lives on for those who still use it.
type retired struct {
	storedCredential
	Until time.Time `json:"until"` // it is removed from then on
	Grace int64     `json:"grace"` // seconds that it was to live on at first
}

// retire returns the credential as one that is removed after the grace.
func (k storedCredential) retire(now time.Time, grace time.Duration) retired {
	return retired{storedCredential: k, Until: now.UTC().Add(grace).Truncate(time.Second), Grace: int64(grace / time.Second)}
}

// latest returns when a successor must be there, by Vault's clock: a quarter of the credential's life before its end, a week at
// most, but the margin at least. It returns the zero time for a credential that is not known to end.
func (k *storedCredential) latest(margin time.Duration) time.Time {
	life := seconds(k.Lifetime)
	if life <= 0 {
		return time.Time{}
	}
	lead := min(max(min(life/4, schedule.LongestLead), margin), life/2)
	return k.Created.Add(life - lead).UTC().Truncate(time.Second)
}

// all returns the current credential, if it has an id, and the retired ones.
func (s *rotationState) all(current *storedCredential) []storedCredential {
	var all []storedCredential
	if current.ID != "" {
		all = append(all, *current)
	}
	for _, old := range s.Retired {
		all = append(all, old.storedCredential)
	}
	return all
}

// forget drops the retired credentials with the ids.
func (s *rotationState) forget(ids []string) {
	s.Retired = slices.DeleteFunc(s.Retired, func(old retired) bool { return slices.Contains(ids, old.ID) })
}

// succeeded records a rotation.
func (s *rotationState) succeeded(sched schedule.Schedule, now time.Time) {
	s.Last = now.UTC().Truncate(time.Second)
	s.restart(sched, now)
}

// restart begins to wait for the next rotation as if the credential had been created at the time given.
func (s *rotationState) restart(sched schedule.Schedule, from time.Time) {
	s.Next, s.Failures, s.LastError, s.NextRetry = sched.After(from), 0, "", time.Time{}
}

// reschedule takes another schedule. A period counts from the last rotation, or from now when there was none.
func (s *rotationState) reschedule(sched schedule.Schedule, now time.Time) {
	from := now
	if sched.Period > 0 && !s.Last.IsZero() {
		from = s.Last
	}
	s.restart(sched, from)
}

// failed records an attempt that failed, and puts the next one off.
func (s *rotationState) failed(now time.Time, why error) {
	s.Failures++
	s.LastError, s.NextRetry = why.Error(), retryTime(now, schedule.Backoff(s.Failures))
}

// pending records how the work that follows a rotation went: why it failed, or nil when none is left. Wait says how long the next
// attempt is put off after so many failures in a row.
func (s *rotationState) pending(now time.Time, why error, wait func(failures int) time.Duration) {
	if why == nil {
		s.PendingFailures, s.PendingError, s.PendingRetry = 0, "", time.Time{}
		return
	}
	s.PendingFailures++
	s.PendingError, s.PendingRetry = why.Error(), retryTime(now, wait(s.PendingFailures))
}

func retryTime(now time.Time, wait time.Duration) time.Time {
	return now.UTC().Add(wait).Truncate(time.Second)
}

// earliest returns the first of the times that aren't zero.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// rotationView is a stored rotation together with what else of its entry decides when something is to be done. Its methods are
// pure functions of it and of the time. It shares the entry's memory.
type rotationView struct {
	*rotationState
	current  *storedCredential
	schedule schedule.Schedule // that is followed; none where rotation is suspended
	margin   time.Duration     // how much of the credential's life must be left when it is replaced

	managed  bool                // Vault's rotation manager follows the schedule
	deleting bool                // all that is left to do is to remove what was made
	urgent   bool                // there is work that waits for no time
	mustStay func(*retired) bool // a retired credential that must stay for now; nil for none
}

// due returns when the credential is to be replaced, zero for never: when the schedule says so, but in good time before it ends,
// whatever became of the schedule since it was made.
func (v rotationView) due() time.Time {
	if v.Next.IsZero() || v.current.Lifetime <= 0 || !v.Next.Add(v.margin).After(v.current.Created.Add(seconds(v.current.Lifetime))) {
		return v.Next
	}
	return earliest(v.Next, v.current.latest(v.margin))
}

// nextAttempt returns when the engine next attempts to replace the credential, zero for never. Where Vault's rotation manager
// follows the schedule, that is only in good time before the credential ends: the manager may have lost the schedule.
func (v rotationView) nextAttempt() time.Time {
	at := v.due()
	switch {
	case v.deleting:
		return time.Time{}
	case v.managed:
		at = v.current.latest(v.margin)
	}
	if !at.IsZero() && v.NextRetry.After(at) {
		return v.NextRetry
	}
	return at
}

// nextPending returns when there is next other work to do than to rotate, zero for never.
func (v rotationView) nextPending() time.Time {
	var at time.Time
	if v.urgent {
		at = time.Unix(0, 0).UTC()
	}
	for i := range v.Retired {
		if old := &v.Retired[i]; v.mustStay == nil || !v.mustStay(old) {
			at = earliest(at, old.Until)
		}
	}
	if !at.IsZero() && v.PendingRetry.After(at) {
		return v.PendingRetry
	}
	return at
}

// next returns when there is next anything to do, zero for never.
func (v rotationView) next() time.Time { return earliest(v.nextAttempt(), v.nextPending()) }

// ready reports whether there is something to do now.
func (v rotationView) ready(now time.Time) bool {
	next := v.next()
	return !next.IsZero() && !next.After(now)
}

// missed reports whether the time to rotate has passed by more than the window.
func (v rotationView) missed(now time.Time) bool {
	return !v.managed && v.schedule.Cron != "" && v.schedule.Window > 0 && !v.Next.IsZero() && now.After(v.Next.Add(seconds(v.schedule.Window)))
}

// skip waits for the next time of the schedule. What failed before stays to be seen.
func (v rotationView) skip(now time.Time) {
	v.Next, v.NextRetry = v.schedule.After(now), time.Time{}
}

// correct moves dates that lie further ahead than can be, as they do when they were stored while the clock was ahead, to the latest
// that can be. It reports whether there were any; the outcome must then be stored. To correct them on each reading would not do:
// the latest moment for a rotation moves with the clock, so it would never come.
func (v rotationView) correct(now time.Time) bool {
	now = now.UTC()
	second, corrected := now.Truncate(time.Second), false
	limit := func(date *time.Time, latest, to time.Time) {
		if date.After(latest) {
			*date, corrected = to, true
		}
	}
	if next := v.schedule.After(now); !v.managed && !next.IsZero() {
		limit(&v.Next, next, next)
	}
	limit(&v.Last, now, second)
	limit(&v.NextRetry, now.Add(schedule.LongestRetry), time.Time{})
	limit(&v.PendingRetry, now.Add(schedule.LongestRetry), time.Time{})
	limit(&v.current.Created, now, now)
	for i := range v.Retired {
		old := &v.Retired[i]
		until := second.Add(seconds(old.Grace) + schedule.LongestRetry)
		limit(&old.Until, until, until)
	}
	return corrected
}

// rotationItem is one credential that is rotated, in the storage entry that holds it. Only who holds the entry's lock may use it.
type rotationItem interface {
	labels() rotationLabels

	// load reads the entry. It returns false when there is none, or no connection to rotate over.
	load(ctx context.Context) (found bool, err error)

	// view returns the entry as it was loaded, or saved since.
	view() rotationView

	// change applies the change to the stored entry and saves that, which is what view returns then. When the entry has another
	// credential by now than the loaded one, it returns false and changes nothing.
	change(ctx context.Context, change func(rotationView)) (done bool, err error)

	// rotate replaces the credential, and saves that.
	rotate(ctx context.Context) error

	// followUp does what is left to do after a rotation, and saves what it could do and why it could not do the rest, which is its
	// error, too.
	followUp(ctx context.Context) error
}

// rotationLabels are how logs and events name an item.
type rotationLabels struct {
	key     string   // of the storage entry, and of its lock in rotationLocks
	kind    string   // what it is, in logs
	what    string   // which one it is, in logs
	event   string   // of its rotations; that of a failure has the suffix -fail
	path    string   // that rotates it, for events
	pairs   []string // for all its events, and for logs that name only the kind
	pending string   // what is logged when followUp fails
}

func (b *backend) warn(l rotationLabels, message string, args ...any) {
	for _, pair := range l.pairs {
		args = append(args, pair)
	}
	b.Logger().Warn(message, args...)
}

// reconcile does what is due of the item: it replaces the credential, or records why it could not, and does what is left to do after
// that. It returns when there is more to do, zero for never. Its errors are those that could not be recorded.
func (b *backend) reconcile(ctx context.Context, it rotationItem) (next time.Time, err error) {
	l := it.labels()
	unlock, err := b.rotationLocks.Lock(ctx, l.key)
	if err != nil {
		return time.Time{}, err
	}
	defer unlock()
	if found, err := it.load(ctx); err != nil || !found {
		return time.Time{}, err
	}
	now := b.now()
	if it.view().correct(now) {
		b.warn(l, fmt.Sprintf("dates of the rotation of %s lay further ahead than can be, so they are corrected; was the clock set back?", l.kind))
		done, err := it.change(ctx, func(v rotationView) { v.correct(now) })
		if err != nil || !done {
			b.nextRun.touch() // another credential is stored by now, so the next call looks again
			return time.Time{}, err
		}
	}
	v := it.view()
	if !v.ready(now) {
		return v.next(), nil
	}
	switch attempt := v.nextAttempt(); {
	case attempt.IsZero() || attempt.After(now):
	case v.missed(now):
		missed, skipped := rfc3339(v.Next), false
		if skipped, err = it.change(ctx, func(v rotationView) { v.skip(now) }); err == nil && skipped {
			b.warn(l, fmt.Sprintf("a rotation of %s was left out, because its window has passed", l.kind), "scheduled", missed)
			b.event(l.event+"-fail", l.path, append(l.pairs, "missed", missed)...)
		}
	default:
		if err = it.rotate(ctx); err != nil {
			_, err = b.recordFailure(ctx, it, err, true)
		}
	}
	if err != nil {
		return time.Time{}, err
	}
	// What was stored meanwhile may differ from what was loaded, as after a write whose outcome was uncertain.
	if found, err := it.load(ctx); err != nil || !found {
		return time.Time{}, err
	}
	before := it.view().PendingError
	if why := it.followUp(ctx); why != nil {
		v := it.view()
		next := rfc3339(v.PendingRetry)
		switch {
		case !v.PendingRetry.After(now): // it was not recorded
			return time.Time{}, why
		case before != "" && sameReason(before, v.PendingError): // it was said before
			b.Logger().Debug(l.pending, "what", l.what, "next_attempt", next)
		default:
			b.Logger().Error(l.pending, "what", l.what, "next_attempt", next, "error", why)
			b.event(l.event+"-fail", l.path, append(l.pairs, "next_attempt", next)...)
		}
	}
	return it.view().next(), nil
}

// recordFailure records that the item could not be rotated, even if there is no time left for anything else. It returns false, and
// records nothing, when the storage has another credential by now: after an error that left open whether the new one was saved, or
// because an operator wrote another one. Retry tells whether the engine itself tries again.
func (b *backend) recordFailure(ctx context.Context, it rotationItem, why error, retry bool) (recorded bool, err error) {
	ctx, l := context.WithoutCancel(ctx), it.labels()
	var state rotationState
	var full *graceFullError
	reported := false
	recorded, err = it.change(ctx, func(v rotationView) {
		reported = errors.As(why, &full) && reasonOf(errors.New(v.LastError)) == reasonOf(why)
		v.failed(b.now(), why)
		if full != nil {
			v.NextRetry = full.retryAt(b.now())
		}
		if !retry {
			v.NextRetry = time.Time{}
		}
		state = *v.rotationState
	})
	if err == nil && !recorded {
		b.nextRun.touch()
		b.warn(l, fmt.Sprintf("a rotation of %s ended with an error, but another credential is stored by now", l.kind), "error", why)
		return false, nil
	}
	failures, next := fmt.Sprint(state.Failures), rfc3339(state.NextRetry)
	if reported {
		b.Logger().Debug("a rotation still has to wait", "what", l.what, "next_attempt", next)
		return recorded, err
	}
	b.Logger().Error("a rotation failed; it is tried again", "what", l.what, "failures", failures, "next_attempt", next, "error", why)
	b.event(l.event+"-fail", l.path, append(l.pairs, "failures", failures, "next_attempt", next)...)
	return recorded, err
}

// removeRetired removes at Databricks the credentials that goes is true for. It returns the ids of those that are gone, and why
// others are not.
func (b *backend) removeRetired(ctx context.Context, conn *connection, all []retired, goes func(*retired) bool) (gone []string, err error) {
	var errs []error
	for i := range all {
		if !goes(&all[i]) {
			continue
		}
		if err := b.revokeStored(ctx, conn, &all[i].storedCredential); err != nil {
			errs = append(errs, err)
		} else {
			gone = append(gone, all[i].ID)
		}
	}
	return gone, errors.Join(errs...)
}
