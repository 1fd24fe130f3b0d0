// SPDX-License-Identifier: MPL-2.0

package duration

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{
		"0s": 0, "45s": 45 * time.Second, "15m": 15 * time.Minute, "1h": time.Hour, "1h30m": 90 * time.Minute, "1h0m5s": time.Hour + 5*time.Second,
		"10m10s": 610 * time.Second, "20m": 20 * time.Minute, "10h": 10 * time.Hour, "24h": day, "2d": 2 * day, "-2d": -2 * day, "36h": 36 * time.Hour, "32d": 768 * time.Hour, "730d": 730 * day,
		"768h1m": 768*time.Hour + time.Minute, "-1s": -time.Second, "-1h": -time.Hour, "900ms": 900 * time.Millisecond,
	} {
		require.Equal(t, want, Text(d))
	}
	require.Equal(t, "59m59s", Text(time.Hour-time.Millisecond))
	require.Equal(t, "24h", Text(day+time.Millisecond))
	require.Equal(t, "15m", Seconds(900))
}

// TestVaultReadsIt shows that what a message says can be sent.
func TestVaultReadsIt(t *testing.T) {
	t.Parallel()
	schema := map[string]*framework.FieldSchema{"ttl": {Type: framework.TypeDurationSecond}}
	for n := 1; n < 1<<14; n = n*3/2 + 1 {
		for _, seconds := range []int{n, n * 60, n * 3600, n * 86400} {
			data := &framework.FieldData{Raw: map[string]any{"ttl": Seconds(int64(seconds))}, Schema: schema}
			require.NoError(t, data.Validate())
			require.Equal(t, seconds, data.Get("ttl"))
		}
	}
}
