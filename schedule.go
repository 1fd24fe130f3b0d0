// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/rotation"
)

const (
	keyRotationPeriod   = "rotation_period"
	keyRotationSchedule = "rotation_schedule"
	keyRotationWindow   = "rotation_window"
	keyLastRotation     = "last_vault_rotation"
	keyNextRotation     = "next_vault_rotation"

	keyRotationFailures = "rotation_failures"
	keyRotationError    = "last_rotation_error"
	keyRotationRetry    = "next_rotation_attempt"
)

const (
	// minRotationPeriod is Vault's tick: nothing can be rotated more often.
	minRotationPeriod = time.Minute

	// minRotationWindow is what Vault's own rotation manager demands.
	minRotationWindow = time.Hour

	// firstRetry and longestRetry bound the wait after a rotation that failed; it doubles from one to the other.
	firstRetry   = time.Minute
	longestRetry = time.Hour

	// longestLead is how long before its end a credential is replaced at the latest, if it lives long enough.
	longestLead = 7 * 24 * time.Hour
)

// schedule says when something is rotated by itself: every period, or by a cron schedule in UTC, or, with neither, never.
// Durations are whole seconds.
type schedule struct {
	Period int64  `json:"rotation_period"`
	Cron   string `json:"rotation_schedule"`
	Window int64  `json:"rotation_window"`
}

// scheduleFields are the fields of a schedule in a request.
func scheduleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		keyRotationPeriod: {
			Type:        framework.TypeDurationSecond,
			Description: "Rotate by itself this long after the last rotation, a minute at least. 0 means not.",
		},
		keyRotationSchedule: {
			Type:        framework.TypeString,
			Description: "Rotate by itself at these times: a cron schedule of five fields, in UTC, for example \"0 3 * * SAT\". Instead of rotation_period.",
		},
		keyRotationWindow: {
			Type:        framework.TypeDurationSecond,
			Description: "How long after a time of rotation_schedule the rotation may still begin, an hour at least; a time that was missed by more is left out. 0 means that it is made up for.",
		},
	}
}

// automatic tells whether there are times to rotate at.
func (s schedule) automatic() bool { return s.Period > 0 || s.Cron != "" }

// check refuses a schedule that Vault could not keep.
func (s schedule) check(now time.Time) error {
	switch {
	case s.Period < 0 || seconds(s.Period) > maxLifetime:
		return badField(keyRotationPeriod, "%ds is out of range; send 0 (not by itself), or %d to %d seconds (730 days)", s.Period, int64(minRotationPeriod/time.Second), int64(maxLifetime/time.Second))
	case s.Period > 0 && seconds(s.Period) < minRotationPeriod:
		return badField(keyRotationPeriod, "%ds is too short; Vault looks once a minute, so send at least 60 seconds", s.Period)
	case s.Period > 0 && s.Cron != "":
		return badField(keyRotationSchedule, "can't be used together with %s; send the other one as 0 or empty", keyRotationPeriod)
	case s.Window != 0 && s.Cron == "":
		return badField(keyRotationWindow, "belongs to %s; leave it out, or send 0", keyRotationSchedule)
	case s.Window != 0 && seconds(s.Window) < minRotationWindow || s.Window > int64(maxLifetime/time.Second):
		return badField(keyRotationWindow, "%ds is out of range; send 0 (none), or at least %d seconds", s.Window, int64(minRotationWindow/time.Second))
	case s.Cron == "":
		return nil
	case strings.Contains(s.Cron, "TZ="):
		return badField(keyRotationSchedule, "names a time zone; schedules are in UTC")
	}
	parsed, err := rotation.DefaultScheduler.Parse(s.Cron)
	if err != nil {
		return badField(keyRotationSchedule, "%q is no cron schedule of five fields (minute, hour, day of month, month, day of week): %s", s.Cron, err)
	}
	next := parsed.Next(now.UTC())
	if next.IsZero() || next.Sub(now) > maxLifetime {
		return badField(keyRotationSchedule, "%q never comes, or not within 730 days, the longest that a credential lives", s.Cron)
	}
	return nil
}

// after is the first time to rotate that comes after t; zero where there is none. The schedule has been checked.
func (s schedule) after(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Second)
	switch {
	case s.Period > 0:
		return t.Add(seconds(s.Period))
	case s.Cron != "":
		parsed, err := rotation.DefaultScheduler.Parse(s.Cron)
		if err != nil {
			return time.Time{}
		}
		return parsed.Next(t)
	default:
		return time.Time{}
	}
}

// spans are the shortest and the longest time from one rotation to the nth after it, as far as they can be foreseen. The schedule
// is automatic.
func (s schedule) spans(n int, now time.Time) (shortest, longest time.Duration) {
	if s.Period > 0 {
		period := time.Duration(n) * seconds(s.Period)
		return period, period
	}
	const foreseen = 1000 // more than two years of daily ones
	times := []time.Time{s.after(now)}
	for i := 1; i < foreseen; i++ {
		next := s.after(times[i-1])
		if next.IsZero() || next.Sub(now) > 2*maxLifetime {
			break
		}
		times = append(times, next)
		if i < n {
			continue
		}
		span := next.Sub(times[i-n])
		if longest = max(longest, span); shortest == 0 || span < shortest {
			shortest = span
		}
	}
	if shortest == 0 {
		return maxLifetime, maxLifetime // further apart than can be foreseen
	}
	return shortest, longest
}

// need is how long a credential made now must live to see its successor, with room for one that is late: as late as
// another rotation would come, but no more than a week.
func (s schedule) need(now time.Time) time.Duration {
	next := s.after(now)
	room := min(max(s.after(next).Sub(next), time.Hour), longestLead)
	return next.Sub(now).Truncate(time.Second) + seconds(s.Window) + room + time.Second
}

// addTo shows the schedule in an answer.
func (s schedule) addTo(data map[string]any) {
	data[keyRotationPeriod] = s.Period
	data[keyRotationSchedule] = s.Cron
	data[keyRotationWindow] = s.Window
}

// withRotation adds to the fields of an answer those of a schedule and of how it goes.
func withRotation(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	for name, field := range map[string]*framework.FieldSchema{
		keyRotationPeriod:   {Type: framework.TypeInt64, Required: true, Description: "Seconds from one rotation to the next; 0 for none."},
		keyRotationSchedule: {Type: framework.TypeString, Required: true, Description: "Cron schedule in UTC; empty for none."},
		keyRotationWindow:   {Type: framework.TypeInt64, Required: true, Description: "Seconds that a rotation may be late; 0 for any."},
		keyLastRotation:     {Type: framework.TypeString, Required: true, Description: "When Vault last replaced the credential, RFC 3339; null for never."},
		keyNextRotation:     {Type: framework.TypeString, Required: true, Description: "When Vault will next replace it, RFC 3339; null for never."},
		keyRotationFailures: {Type: framework.TypeInt, Required: true, Description: "Attempts that failed since then, one after the other."},
		keyRotationError:    {Type: framework.TypeString, Required: true, Description: "Why the last of them failed; empty when none did."},
		keyRotationRetry:    {Type: framework.TypeString, Required: true, Description: "When the next attempt is made after a failure, RFC 3339; null for none."},
	} {
		fields[name] = field
	}
	return fields
}
