// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/duration"
)

const (
	// clockTolerance is what a comparison of times of the two clocks allows for: what is known of their offset comes from a header
	// with whole seconds, on answers that take their time.
	clockTolerance = 5 * time.Second

	// clockNear is an offset that is relied on even while it moves, as when NTP corrects a clock.
	clockNear = time.Minute

	// clockFresh is how long a measured offset is relied on, where the monotonic clock can't tell whether Vault's clock was set since.
	clockFresh = 10 * time.Minute

	// lateEffect is how long after an operation has given up its last request may still take effect.
	lateEffect = time.Minute

	// clockFar is how far past its end by Vault's clock something is taken to have ended where Databricks does not tell the time, and how
	// long an offset is relied on at all.
	clockFar = 24 * time.Hour
)

// clockError says why a comparison of times of both clocks was put off.
type clockError struct{ reason string }

func (e *clockError) Error() string {
	return "put off until it is known what time it is at Databricks: " + e.reason
}

// clockOffset returns what must be added to a time by Vault's clock to get the time by Databricks' clock. It fails with a clockError
// where that isn't certain: when no answer has told it lately on this connection, or when the clocks are more than clockNear apart by a
// difference that changes. now is the present time by Vault's clock.
func (c *connection) clockOffset(now time.Time) (time.Duration, error) {
	measured := c.client.Clock()
	switch {
	case !measured.Known || !fresh(measured.Measured, now):
		return 0, &clockError{"no answer of Databricks has told it lately"}
	case measured.Offset.Abs() > clockNear && !measured.Stable:
		return 0, &clockError{fmt.Sprintf("its clock differs from Vault's by about %s, and the difference changes; check the time of the Vault server", duration.Text(measured.Offset.Round(time.Second)))}
	}
	return measured.Offset, nil
}

// fresh reports whether Vault's clock went on as usual between the two times.
func fresh(measured, now time.Time) bool {
	wall := now.Round(0).Sub(measured.Round(0))
	monotonic := func(t time.Time) bool { return t != t.Round(0) }
	if !monotonic(measured) || !monotonic(now) {
		return wall.Abs() <= clockFresh
	}
	passed := now.Sub(measured)
	return passed <= clockFar && (passed-wall).Abs() <= clockTolerance
}

// passed reports whether the moment has passed by both clocks, so that a clock that is ahead ends nothing early.
func (c *connection) passed(now, moment time.Time) (bool, error) {
	if !now.After(moment) {
		return false, nil
	}
	offset, err := c.clockOffset(now)
	if err != nil {
		return false, err
	}
	return now.Add(offset).After(moment), nil
}

// expired reports whether a credential whose end, by Vault's clock, is given is known to have ended at Databricks. Without a config, be it a
// retained one, there is no other clock to go by.
func (b *backend) expired(ctx context.Context, s logical.Storage, end time.Time) bool {
	now := b.now()
	if !now.After(end) {
		return false
	}
	conn, err := b.endingConnection(ctx, s)
	if err != nil {
		return errors.Is(err, errNotConfigured)
	}
	passed, err := conn.passed(now, end)
	return err == nil && passed
}

// remote returns a time of Vault's clock by Databricks' clock, and zero where the offset is not known or changes. now is the present time
// by Vault's clock.
func (c *connection) remote(at, now time.Time) time.Time {
	offset, err := c.clockOffset(now)
	if err != nil || !c.client.Clock().Stable {
		return time.Time{}
	}
	return at.UTC().Add(offset)
}

// window is the time by Databricks' clock during which something was done there.
type window struct{ from, to time.Time }

// writeWindow returns when a write that began at the given time, by Vault's clock, can have been done. remote is the same time by Databricks'
// clock, zero for unknown. The clocks are allowed clockTolerance. now is the present time by Vault's clock.
func (c *connection) writeWindow(now, started, remote time.Time) (window, error) {
	if remote.IsZero() {
		offset, err := c.clockOffset(now)
		if err != nil {
			return window{}, err
		}
		remote = started.Add(offset)
	}
	return window{remote.Add(-clockTolerance), remote.Add(mintBudget + lateEffect)}, nil
}

// has reports whether the time lies in the window.
func (w window) has(at time.Time) bool { return !at.Before(w.from) && !at.After(w.to) }
