// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// slowest is the rate, in requests per second, below which throttling slows no client.
	slowest = 1
	// firstCut is the least rate to which the first throttled answer slows a client that had no ceiling. It keeps a client
	// that sent next to nothing in the second before, and so has no rate worth halving, from starting at the slowest.
	firstCut = 10
	// tolerated is how many throttled answers among [windowSize] are put up with. A workspace that throttles a few requests
	// whatever their rate does not slow the client down, and one with a limit is asked for little more than that.
	tolerated  = 2
	windowSize = 20
	// cutShare is what is left of the rate after more than that (as in RFC 9438).
	cutShare = 0.7
	// growth is by which share of the rate one answer raises it, as if the rate were leastGrown at least. A window of answers
	// raises it by a quarter, which is less than what a cut takes.
	growth     = 0.0115
	leastGrown = 20
	// calm is after how long the ceiling is lifted, counted from the last throttled answer and the last wait for a turn.
	calm = 10 * time.Second
	// maxSpread bounds the random delay that keeps throttled requests from being repeated all at once.
	maxSpread = 250 * time.Millisecond
)

// throttle bounds the rate of requests to one host after the host throttled one of them, which halves the rate. From then on
// it counts answers in windows. More throttled ones in a window than are tolerated lower the rate by a share, and each other
// answer to a request that had to wait for its turn raises it a little. The ceiling is lifted after a while in which nothing
// was throttled and no request had to wait. Use [newThrottle].
type throttle struct {
	// turn is held by the request whose turn is next. Only this one has a reservation with the limiter, so that a cut
	// applies at once to all that wait.
	turn chan struct{}

	mu      sync.Mutex
	limiter *rate.Limiter // nil without a ceiling
	window  window
	queued  int       // requests that wait for a reservation
	busy    time.Time // last throttled answer, or when the last one that had to wait was let through
	meter   meter
}

// window is a number of answers to requests that were all let through after the last one ended. So what is throttled together
// counts together, and a rate is judged by its own answers.
type window struct {
	number              int
	bound               bool // a request had to wait
	answered, throttled int
}

// admission says how a request was let through.
type admission struct {
	window int
	waited bool
}

func newThrottle() *throttle { return &throttle{turn: make(chan struct{}, 1)} }

// admit returns once a request may be sent. When its turn comes only after the context's deadline, it returns how long to
// wait instead: at once where the present rate tells, else at the deadline. It fails when the context is canceled.
func (t *throttle) admit(ctx context.Context) (admission, time.Duration, error) {
	limiter, left, free := t.enter()
	if limiter == nil {
		return free, 0, nil
	}
	delay, waited, err := t.await(ctx, limiter, left)
	if errors.Is(err, context.DeadlineExceeded) {
		return admission{}, max(left, time.Second/slowest), nil
	}
	if err != nil || delay > 0 {
		return admission{}, delay, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pass(waited), 0, nil
}

// await returns a delay of zero when it is the request's turn, and how long that takes when it is beyond the context's
// deadline. left is how long it takes at the present rate.
func (t *throttle) await(ctx context.Context, limiter *rate.Limiter, left time.Duration) (delay time.Duration, waited bool, err error) {
	if !fits(ctx, left) {
		t.leave(0)
		return left, false, nil
	}
	select {
	case t.turn <- struct{}{}:
	default:
		waited = true
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			t.leave(0)
			return 0, true, ctx.Err()
		}
	}
	defer func() { <-t.turn }()
	reservation := limiter.Reserve()
	delay = reservation.Delay()
	t.leave(delay)
	if delay == 0 {
		return 0, waited, nil
	}
	if !fits(ctx, delay) {
		reservation.Cancel()
		return delay, true, nil
	}
	if err := Sleep(ctx, delay); err != nil {
		reservation.Cancel()
		return 0, true, err
	}
	return 0, true, nil
}

// enter lets a request through when there is no ceiling. Else it returns the limiter with which the request has to wait, and
// for how long at the present rate; [throttle.leave] must follow.
func (t *throttle) enter() (*rate.Limiter, time.Duration, admission) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limiter != nil && t.queued == 0 && time.Since(t.busy) >= calm {
		t.limiter = nil
	}
	if t.limiter == nil {
		return nil, 0, t.pass(false)
	}
	t.queued++
	missing := float64(t.queued) - t.limiter.Tokens()
	return t.limiter, time.Duration(max(missing, 0) / float64(t.limiter.Limit()) * float64(time.Second)), admission{}
}

// leave ends the wait for a reservation, which makes the request wait for another delay.
func (t *throttle) leave(delay time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queued--
	if at := time.Now().Add(delay); delay > 0 && at.After(t.busy) {
		t.busy = at
	}
}

// pass counts a request that is sent now. The lock must be held.
func (t *throttle) pass(waited bool) admission {
	t.meter.add(time.Now())
	t.window.bound = t.window.bound || waited
	return admission{t.window.number, waited}
}

// answer takes note of an answer to a request.
func (t *throttle) answer(a admission, throttled bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if throttled && now.After(t.busy) {
		t.busy = now
	}
	w := &t.window
	if t.limiter == nil && !throttled || a.window != w.number {
		return
	}
	w.answered++
	switch {
	case !throttled && a.waited: // one that did not have to wait shows nothing about a higher rate
		current := float64(t.limiter.Limit())
		t.set(current + growth*max(current, leastGrown))
	case throttled:
		w.throttled++
		if t.limiter == nil {
			t.set(max(t.meter.rate(now)/2, firstCut))
			t.next()
		} else if w.throttled > tolerated {
			t.set(max(t.current(now)*cutShare, slowest))
			t.next()
		}
	}
	if w.answered >= windowSize {
		t.next()
	}
}

// next begins another window. The lock must be held.
func (t *throttle) next() { t.window = window{number: t.window.number + 1} }

// current returns the rate under a ceiling: the ceiling itself where requests had to wait for it, else what was sent lately.
// The lock must be held.
func (t *throttle) current(now time.Time) float64 {
	ceiling := float64(t.limiter.Limit())
	if t.window.bound {
		return ceiling
	}
	return min(ceiling, max(t.meter.rate(now), firstCut))
}

// set changes the ceiling. A tenth of a second's requests may be made up for, since timers are late. The lock must be held.
func (t *throttle) set(limit float64) {
	burst := 1 + int(limit/10)
	if t.limiter == nil {
		t.limiter = rate.NewLimiter(rate.Limit(limit), burst)
		return
	}
	t.limiter.SetLimit(rate.Limit(limit))
	t.limiter.SetBurst(burst)
}

// meter tells how many requests a second were sent lately. It counts by seconds and takes those of the second before as
// evenly spread.
type meter struct {
	start         time.Time // of the second
	before, count int
}

func (m *meter) roll(now time.Time) {
	switch passed := now.Sub(m.start); {
	case passed >= 2*time.Second:
		m.start, m.before, m.count = now, 0, 0
	case passed >= time.Second:
		m.start, m.before, m.count = m.start.Add(time.Second), m.count, 0
	}
}

func (m *meter) add(now time.Time) {
	m.roll(now)
	m.count++
}

// rate returns the rate of the last second or, when that began with the first request for long, since then.
func (m *meter) rate(now time.Time) float64 {
	m.roll(now)
	passed := now.Sub(m.start).Seconds()
	if m.before == 0 {
		return float64(m.count) / max(passed, 0.25)
	}
	return float64(m.count) + float64(m.before)*(1-passed)
}

// spread returns a random delay of up to a quarter of d, [maxSpread] at most.
func spread(d time.Duration) time.Duration {
	return rand.N(min(d/4, maxSpread) + 1)
}

// fits reports whether a wait of d ends before the context's deadline.
func fits(ctx context.Context, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > d
}

// Sleep waits for d, or returns the context's error as soon as it ends.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
