// SPDX-License-Identifier: MPL-2.0

package client

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// testClock is a time that tests move.
type testClock struct {
	mu   sync.Mutex
	at   time.Time
	pace time.Duration // it moves by this with every look
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(c.pace)
	return c.at
}

func (c *testClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

var noon = time.Date(2026, 10, 1, 12, 0, 0, 900_000_000, time.UTC)

// skewed is a workspace whose clock is ahead of ours, and a client of it.
func skewed(t *testing.T, skew time.Duration) (w *simulator.Workspace, theirs, ours *testClock, c *Client) {
	t.Helper()
	theirs, ours = &testClock{at: noon.Add(skew)}, &testClock{at: noon}
	w = simulator.New(simulator.WithClock(theirs.now))
	t.Cleanup(w.Close)
	token, _ := w.AddToken(w.AddUser("alice@example.com", true), "root", 0)
	cfg := patConfig(w.URL())
	cfg.Token, cfg.Now = Secret(token), ours.now
	return w, theirs, ours, newClient(t, cfg)
}

func requireOffset(t *testing.T, want time.Duration, got ClockOffset) {
	t.Helper()
	require.True(t, got.Known)
	require.InDelta(t, want.Seconds(), got.Offset.Seconds(), 0.5)
}

func TestClockOffset(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{0, 3 * time.Minute, -3 * time.Minute, 3 * time.Hour, -3 * time.Hour} {
		_, _, ours, c := skewed(t, skew)
		require.Equal(t, ClockOffset{}, c.Clock(), "nothing is known before the first answer")
		for i := range clockSamples {
			ours.move(time.Millisecond)
			list(t, c, 1)
			requireOffset(t, skew, c.Clock())
			require.Equal(t, i+1 == clockSamples, c.Clock().Stable)
			require.Equal(t, ours.now(), c.Clock().Measured)
		}
	}
}

func TestClockStep(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func(theirs, ours *testClock){
		"theirs": func(theirs, _ *testClock) { theirs.move(time.Hour) },
		"ours":   func(_, ours *testClock) { ours.move(-time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, theirs, ours, c := skewed(t, 0)
			list(t, c, clockSamples)
			require.True(t, c.Clock().Stable)
			step(theirs, ours)
			require.True(t, c.Clock().Stable, "nobody can know yet")
			for i := range clockSamples {
				list(t, c, 1)
				requireOffset(t, time.Hour, c.Clock())
				require.Equal(t, i+1 == clockSamples, c.Clock().Stable)
			}
			theirs.move(time.Second)
			list(t, c, 1)
			require.True(t, c.Clock().Stable, "a difference that is within the uncertainty")
		})
	}
}

func TestClockByAnyAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 404, 429, 503} {
		w, _, _, c := skewed(t, time.Hour)
		c.transport.maxRetries = 0
		w.Inject(simulator.Fault{Status: status})
		_, err := c.ListTokens(t.Context())
		require.Equal(t, status, failureOf(t, err).Status)
		requireOffset(t, time.Hour, c.Clock())
	}
}

func TestClockWithoutADate(t *testing.T) {
	t.Parallel()
	w, _, _, c := skewed(t, time.Hour)
	none := w.Inject(simulator.Fault{NoDate: true})
	list(t, c, 1)
	require.False(t, c.Clock().Known)
	none.Clear()
	for _, date := range []string{"", "yesterday", "1759320000", "Thu, 32 Oct 2026 12:00:00 GMT"} {
		malformed := w.Inject(simulator.Fault{Status: 400, Header: http.Header{"Date": {date}}})
		_, err := c.ListTokens(t.Context())
		require.Equal(t, 400, failureOf(t, err).Status)
		malformed.Clear()
		require.False(t, c.Clock().Known, date)
	}
	list(t, c, 1)
	requireOffset(t, time.Hour, c.Clock())
}

func TestClockIgnoresSlowAnswersAndSteps(t *testing.T) {
	t.Parallel()
	for _, pace := range []time.Duration{11 * time.Second, -time.Second} {
		_, _, ours, c := skewed(t, time.Hour)
		ours.pace = pace
		list(t, c, 1)
		require.False(t, c.Clock().Known, pace)
	}
	_, _, ours, c := skewed(t, time.Hour)
	ours.pace = 8 * time.Second // at 8 s it was sent and at 16 s answered
	list(t, c, 1)
	requireOffset(t, time.Hour-12*time.Second, c.Clock())
}

func TestClockTakesTheMostCertainSample(t *testing.T) {
	t.Parallel()
	var c clock
	// The requests take as long as given, and are answered at once or only in the end; the clocks do not differ.
	for _, sample := range []struct{ answered, took time.Duration }{{8 * time.Second, 8 * time.Second}, {0, 0}, {0, 8 * time.Second}} {
		c.measure(noon.Add(sample.answered).Format(http.TimeFormat), noon, noon.Add(sample.took))
	}
	require.True(t, c.offset().Stable, "what differs is within the uncertainty of the slow ones")
	requireOffset(t, 0, c.offset())
	c.measure(noon.Add(10*time.Second).Format(http.TimeFormat), noon, noon)
	require.False(t, c.offset().Stable)
	requireOffset(t, 10*time.Second, c.offset())
}

func TestClockOfTheLoginHostDoesNotCount(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(w http.ResponseWriter, r *http.Request) {
		at := noon
		if strings.HasSuffix(r.URL.Path, "/oauth2/token") {
			at = noon.Add(time.Hour)
		}
		w.Header().Set("Date", at.Format(http.TimeFormat))
		healthy(w, r)
	})
	cfg := azureConfig(s.URL)
	cfg.Now = (&testClock{at: noon}).now
	c := newClient(t, cfg)
	_, err := c.transport.cache.token(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, s.all())
	require.False(t, c.Clock().Known)
	list(t, c, 1)
	requireOffset(t, 0, c.Clock())
}

func TestClockIsTheSystemsUnlessSet(t *testing.T) {
	t.Parallel()
	c := newClient(t, patConfig(newServer(t).URL))
	before := time.Now()
	list(t, c, 1)
	require.True(t, c.Clock().Known)
	require.WithinRange(t, c.Clock().Measured, before.Round(0), time.Now())
}
