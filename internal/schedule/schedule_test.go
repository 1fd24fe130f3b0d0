// SPDX-License-Identifier: MPL-2.0

package schedule

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // a Sunday

// TestStoredForm shows that the JSON keys are those that are in the storage of existing mounts.
func TestStoredForm(t *testing.T) {
	stored, err := json.Marshal(Schedule{Period: 1, Cron: "x", Window: 2})
	require.NoError(t, err)
	require.JSONEq(t, `{"rotation_period":1,"rotation_schedule":"x","rotation_window":2}`, string(stored))
}

// TestCheck shows which schedules are refused, and which field is to blame.
func TestCheck(t *testing.T) {
	day := int64(24 * 60 * 60)
	for _, row := range []struct {
		s      Schedule
		field  string // empty when it is accepted
		reason string
	}{
		{Schedule{}, "", ""},
		{Schedule{Period: 60}, "", ""},
		{Schedule{Period: 730 * day}, "", ""},
		{Schedule{Cron: "*/5 * * * *"}, "", ""},
		{Schedule{Cron: "0 3 * * SAT", Window: 3600}, "", ""},
		{Schedule{Cron: "0 3 1 1 *", Window: 730 * day}, "", ""},
		{Schedule{Period: -60}, FieldPeriod, "out of range"},
		{Schedule{Period: 730*day + 1}, FieldPeriod, "out of range"},
		{Schedule{Period: math.MaxInt64}, FieldPeriod, "out of range"},
		{Schedule{Period: 59}, FieldPeriod, "too short"},
		{Schedule{Period: 60, Cron: "0 3 * * *"}, FieldCron, "together with rotation_period"},
		{Schedule{Window: 3600}, FieldWindow, "belongs to rotation_schedule"},
		{Schedule{Period: 60, Window: 3600}, FieldWindow, "belongs to rotation_schedule"},
		{Schedule{Cron: "0 3 * * *", Window: 3599}, FieldWindow, "1h to 730d"},
		{Schedule{Cron: "0 3 * * *", Window: -1}, FieldWindow, "out of range"},
		{Schedule{Cron: "0 3 * * *", Window: 730*day + 1}, FieldWindow, "out of range"},
		{Schedule{Cron: "0 3 * * *", Window: math.MaxInt64}, FieldWindow, "out of range"},
		{Schedule{Cron: "CRON_TZ=UTC 0 3 * * *"}, FieldCron, "UTC"},
		{Schedule{Cron: "0 0 3 * * *"}, FieldCron, "five fields"},
		{Schedule{Cron: "weekly"}, FieldCron, "five fields"},
		{Schedule{Cron: "0 3 31 2 *"}, FieldCron, "never comes"},
		{Schedule{Cron: "0 13 29 2 *"}, FieldCron, "730d"},
	} {
		err := row.s.Check(noon)
		if row.field == "" {
			require.NoError(t, err, "%+v", row.s)
			continue
		}
		var bad *FieldError
		require.ErrorAs(t, err, &bad, "%+v", row.s)
		require.Equal(t, row.field, bad.Field, "%+v", row.s)
		require.Contains(t, bad.Reason, row.reason, "%+v", row.s)
		require.EqualError(t, err, row.field+": "+bad.Reason)
	}
}

// TestAfter shows when the next rotation is.
func TestAfter(t *testing.T) {
	for _, row := range []struct {
		s    Schedule
		from time.Time
		want string
	}{
		{Schedule{Period: 90}, noon.Add(1500 * time.Millisecond), "2026-03-01T12:01:31Z"},
		{Schedule{Period: 90}, noon.In(time.FixedZone("", 3600)), "2026-03-01T12:01:30Z"},
		{Schedule{Cron: "30 3 * * *"}, noon, "2026-03-02T03:30:00Z"},
		{Schedule{Cron: "0 12 * * *"}, noon, "2026-03-02T12:00:00Z"},
		{Schedule{Cron: "0 3 * * SAT"}, noon, "2026-03-07T03:00:00Z"},
	} {
		require.Equal(t, row.want, row.s.After(row.from).Format(time.RFC3339Nano), "%+v", row.s)
	}
	require.Zero(t, Schedule{}.After(noon))
	require.Zero(t, Schedule{Cron: "weekly"}.After(noon))
}

// TestSpans shows how far rotations are apart.
func TestSpans(t *testing.T) {
	day := 24 * time.Hour
	for _, row := range []struct {
		s                 Schedule
		n                 int
		shortest, longest time.Duration
	}{
		{Schedule{Period: 60}, 1, time.Minute, time.Minute},
		{Schedule{Period: 60}, 3, 3 * time.Minute, 3 * time.Minute},
		{Schedule{Cron: "0 3 * * *"}, 1, day, day},
		{Schedule{Cron: "0 3 1 * *"}, 1, 28 * day, 31 * day},
		{Schedule{Cron: "0 3 * * MON,FRI"}, 1, 3 * day, 4 * day},
		{Schedule{Cron: "0 3 * * MON,FRI"}, 2, 7 * day, 7 * day},
		{Schedule{Cron: "0 3 1 1 *"}, 50, Longest, Longest},
	} {
		shortest, longest := row.s.Spans(row.n, noon)
		require.Equal(t, row.shortest, shortest, "%+v", row)
		require.Equal(t, row.longest, longest, "%+v", row)
	}
}

// TestNeed shows how long a credential must live.
func TestNeed(t *testing.T) {
	day := 24 * time.Hour
	for _, row := range []struct {
		s    Schedule
		want time.Duration
	}{
		{Schedule{Period: 60}, time.Minute + time.Hour},
		{Schedule{Period: 24 * 60 * 60}, 2 * day},
		{Schedule{Period: 30 * 24 * 60 * 60}, 37 * day},
		{Schedule{Cron: "0 12 * * *", Window: 3600}, 2*day + time.Hour},
	} {
		require.Equal(t, row.want+time.Second, row.s.Need(noon), "%+v", row.s)
	}
}

// TestBackoff shows that the wait doubles from a minute to an hour.
func TestBackoff(t *testing.T) {
	m := time.Minute
	for i, want := range []time.Duration{m, m, 2 * m, 4 * m, 8 * m, 16 * m, 32 * m, 60 * m, 60 * m} {
		require.Equal(t, want, Backoff(i), i)
	}
	require.Equal(t, LongestRetry, Backoff(math.MaxInt))
	require.Equal(t, FirstRetry, Backoff(math.MinInt+1))
}

// FuzzSchedule shows that a schedule which is accepted never ends, and that a credential lives longer than it needs to.
func FuzzSchedule(f *testing.F) {
	f.Add(int64(60), "", int64(0), int64(1772366400))
	f.Add(int64(0), "0 3 * * SAT", int64(3600), int64(1772366400))
	f.Add(int64(0), "*/7 1-5 29 2 *", int64(0), int64(1709164800))
	f.Add(int64(0), "CRON_TZ=Asia/Tokyo 0 0 * * *", int64(0), int64(0))
	f.Fuzz(func(t *testing.T, period int64, cron string, window, unix int64) {
		now := time.Unix(unix%4_000_000_000, 0).UTC()
		s := Schedule{Period: period, Cron: cron, Window: window}
		if s.Check(now) != nil {
			return
		}
		if !s.Automatic() {
			require.True(t, s.After(now).IsZero())
			return
		}
		next := s.After(now)
		require.True(t, next.After(now), "%+v at %s: %s", s, now, next)
		require.True(t, s.After(next).After(next), "%+v at %s: %s", s, now, next)
		shortest, longest := s.Spans(1, now)
		require.Positive(t, shortest)
		require.LessOrEqual(t, shortest, longest)
		require.Greater(t, s.Need(now), next.Sub(now))
	})
}
