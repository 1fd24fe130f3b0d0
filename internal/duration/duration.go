// SPDX-License-Identifier: MPL-2.0

// Package duration writes durations in the one form that all messages of the engine have.
package duration

import (
	"fmt"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Text returns the duration as users of Vault write it, so that it can be sent as it is shown: 45s, 15m, 1h30m, 32d. From two
// whole days on they are days. From a second on, fractions are cut.
func Text(d time.Duration) string {
	if d >= time.Second || d <= -time.Second {
		d = d.Truncate(time.Second)
	}
	if d%day == 0 && (d >= 2*day || d <= -2*day) {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Seconds is Text of a number of seconds.
func Seconds(n int64) string { return Text(time.Duration(n) * time.Second) }
