// SPDX-License-Identifier: MPL-2.0

// Package schedule computes when a credential is rotated: by a period, by a cron schedule in UTC, or never automatically.
//
// Its functions are pure: they take times and return times, and read no clock. Times that they return are in UTC and whole
// seconds. A schedule computes meaningful times only after Check has accepted it.
package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/rotation"

	"vault-plugin-secrets-databricks/internal/duration"
)

// Names of the fields of a schedule, in requests and in storage.
const (
	FieldPeriod = "rotation_period"
	FieldCron   = "rotation_schedule"
	FieldWindow = "rotation_window"
)

const (
	// Longest is the longest time from one rotation to the next: the longest life of a credential at Databricks.
	Longest = 730 * 24 * time.Hour

	// MinPeriod is the shortest period. Vault calls a plugin's periodic function about once a minute, so nothing can be
	// rotated more often.
	MinPeriod = time.Minute

	// MinWindow is the shortest window, which is the one that Vault's rotation manager demands.
	MinWindow = time.Hour

	// LongestLead is the longest time before its end at which a credential is replaced, if it lives long enough.
	LongestLead = 7 * 24 * time.Hour

	// FirstRetry and LongestRetry bound the wait after a failure. See Backoff.
	FirstRetry   = time.Minute
	LongestRetry = time.Hour
)

// Schedule says when something is rotated automatically: every Period, at the times of Cron, or, with neither, never. It is
// stored as part of other entries, so its JSON keys must stay.
type Schedule struct {
	Period int64  `json:"rotation_period"`   // seconds from one rotation to the next; 0 for none
	Cron   string `json:"rotation_schedule"` // five fields, in UTC; empty for none
	Window int64  `json:"rotation_window"`   // seconds after a time of Cron in which a rotation may begin; 0 for no limit
}

// FieldError is the error of Check. Field is the name of the field that is wrong, Reason what is wrong with it.
type FieldError struct {
	Field, Reason string
}

// Error returns the field and the reason.
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

func badField(field, format string, args ...any) error {
	return &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// Automatic reports whether there are times to rotate at.
func (s Schedule) Automatic() bool { return s.Period > 0 || s.Cron != "" }

// Check returns a *FieldError when the schedule can't be followed: a value is out of range, two fields exclude each other, or
// Cron isn't a cron schedule or has no time within Longest after now.
func (s Schedule) Check(now time.Time) error {
	const longest = int64(Longest / time.Second)
	switch {
	case s.Period < 0 || s.Period > longest:
		return badField(FieldPeriod, "%s is out of range; send 0 (not by itself), or %s to %s", duration.Seconds(s.Period), duration.Text(MinPeriod), duration.Text(Longest))
	case s.Period > 0 && seconds(s.Period) < MinPeriod:
		return badField(FieldPeriod, "%s is too short; Vault looks once a minute, so send at least %s", duration.Seconds(s.Period), duration.Text(MinPeriod))
	case s.Period > 0 && s.Cron != "":
		return badField(FieldCron, "can't be used together with %s; send the other one as 0 or empty", FieldPeriod)
	case s.Window != 0 && s.Cron == "":
		return badField(FieldWindow, "belongs to %s; leave it out, or send 0", FieldCron)
	case s.Window != 0 && s.Window < int64(MinWindow/time.Second) || s.Window > longest:
		return badField(FieldWindow, "%s is out of range; send 0 (none), or %s to %s", duration.Seconds(s.Window), duration.Text(MinWindow), duration.Text(Longest))
	case s.Cron == "":
		return nil
	case strings.Contains(s.Cron, "TZ="):
		return badField(FieldCron, "names a time zone; schedules are in UTC")
	}
	parsed, err := rotation.DefaultScheduler.Parse(s.Cron)
	if err != nil {
		return badField(FieldCron, "%q is no cron schedule of five fields (minute, hour, day of month, month, day of week): %s", s.Cron, err)
	}
	next := parsed.Next(now.UTC())
	if next.IsZero() || next.Sub(now) > Longest {
		return badField(FieldCron, "%q never comes, or not within %s, the longest that a credential lives", s.Cron, duration.Text(Longest))
	}
	return nil
}

// After returns the first time to rotate that comes after t, with Period counted from t. It returns the zero time when there
// is none.
func (s Schedule) After(t time.Time) time.Time {
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

// Spans returns the shortest and the longest time from one rotation to the nth after it, as far as they can be foreseen from
// now. Where they can't, both are Longest. The schedule must be automatic, and n positive.
func (s Schedule) Spans(n int, now time.Time) (shortest, longest time.Duration) {
	if s.Period > 0 {
		period := time.Duration(n) * seconds(s.Period)
		return period, period
	}
	const foreseen = 1000 // more than two years of daily rotations
	times := []time.Time{s.After(now)}
	for i := 1; i < foreseen; i++ {
		next := s.After(times[i-1])
		if next.IsZero() || next.Sub(now) > 2*Longest {
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
		return Longest, Longest
	}
	return shortest, longest
}

// Need returns how long a credential made now must live to be replaced before it ends, even by a rotation that is late: by
// Window, and then by as much as the rotation after it comes later, an hour at least and LongestLead at most. The schedule must
// be automatic.
func (s Schedule) Need(now time.Time) time.Duration {
	next := s.After(now)
	room := min(max(s.After(next).Sub(next), time.Hour), LongestLead)
	return next.Sub(now).Truncate(time.Second) + seconds(s.Window) + room + time.Second
}

// Backoff returns how long to wait after so many failures in a row, at least 1: FirstRetry, then twice as long each time, up to
// LongestRetry.
func Backoff(failures int) time.Duration {
	const doublings = 6 // more than from FirstRetry to LongestRetry
	return min(FirstRetry<<min(max(failures-1, 0), doublings), LongestRetry)
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
