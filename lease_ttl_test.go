// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestTermsHold draws thousands of configurations and checks what must hold of every lease.
func TestTermsHold(t *testing.T) {
	t.Parallel()
	draw := rand.New(rand.NewPCG(1, 2))
	duration := func() int64 {
		switch draw.IntN(4) {
		case 0:
			return 0
		case 1:
			return int64(draw.IntN(100))
		default:
			return int64(draw.IntN(int(maxLifetime / time.Second)))
		}
	}
	for range 20000 {
		longest := seconds(1 + duration())
		sys := logical.StaticSystemView{DefaultLeaseTTLVal: min(seconds(1+duration()), longest), MaxLeaseTTLVal: longest}
		config := &configEntry{TTL: duration(), MaxTTL: duration()}
		role := &roleEntry{TTL: duration(), MaxTTL: duration()}
		requested := seconds(duration())

		got, err := decideTerms(sys, config, role, requested)
		require.NoError(t, err)
		require.Positive(t, got.ttl)
		require.LessOrEqual(t, got.ttl, got.maxTTL)
		require.LessOrEqual(t, got.maxTTL, longest)
		require.LessOrEqual(t, got.lifetime(), maxLifetime)
		require.Equal(t, got.maxTTL+lifetimeSkew, got.lifetime())
		if role.MaxTTL > 0 {
			require.LessOrEqual(t, got.maxTTL, seconds(role.MaxTTL))
		}
		want := requested
		if want == 0 {
			want = seconds(cmp.Or(role.TTL, config.TTL))
		}
		if want > got.ttl {
			require.NotEmpty(t, got.warnings, "what is shortened is said")
		} else {
			require.Empty(t, got.warnings)
		}

		// Renewing at any moment promises nothing past the credential's end.
		now := time.Now()
		issued := now.Add(-seconds(duration()))
		l := &lease{TTL: int64(got.ttl / time.Second), Expires: issued.Add(got.lifetime()), Role: "etl"}
		later := &roleEntry{TTL: duration(), MaxTTL: duration()}
		secret := &logical.Secret{LeaseOptions: logical.LeaseOptions{IssueTime: issued, Increment: seconds(duration())}}
		renewed, err := renewTerms(sys, config, later, secret, l, now)
		if err != nil {
			continue
		}
		require.Positive(t, renewed.ttl)
		require.LessOrEqual(t, renewed.ttl, longest)
		// Vault calculates once more, from maxTTL and what the client asked for.
		final, _, err := framework.CalculateTTL(sys, secret.Increment, renewed.ttl, 0, renewed.maxTTL, 0, issued)
		if err != nil {
			require.ErrorContains(t, err, "past the max TTL", "a second later there may be nothing left, and Vault refuses")
			continue
		}
		for _, ttl := range []time.Duration{renewed.ttl, final} {
			require.False(t, now.Truncate(time.Second).Add(ttl).After(l.Expires), "%s over", now.Add(ttl).Sub(l.Expires))
		}
	}
}

func TestTermsWithoutRoom(t *testing.T) {
	t.Parallel()
	_, err := decideTerms(logical.StaticSystemView{}, &configEntry{}, &roleEntry{}, 0)
	require.Error(t, err)
}

func TestGrantedLife(t *testing.T) {
	t.Parallel()
	requested := time.Hour + lifetimeSkew
	for name, row := range map[string]struct {
		granted, left time.Duration
		ttl, maxTTL   time.Duration
		warning       string
		refused       string
	}{
		"as asked":           {requested, requested - time.Second, time.Minute, time.Hour, "", ""},
		"a slow create":      {requested, time.Hour - 5*time.Second, time.Minute, time.Hour - 5*time.Second, "The credential took long to make, so the lease can last no longer than 59m55s instead of max_ttl, 1h.", ""},
		"less":               {10*time.Minute + 500*time.Millisecond, 10*time.Minute + 400*time.Millisecond, time.Minute, 10 * time.Minute, "a life of 10m although 1h1m were asked for, so the lease can last no longer than 10m instead of max_ttl, 1h.", ""},
		"as long as max_ttl": {time.Hour, time.Hour - time.Millisecond, time.Minute, time.Hour - time.Second, "a life of 1h although 1h1m were asked for, so the lease can last no longer than 59m59s instead of max_ttl, 1h.", ""},
		"less than the ttl":  {30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second, "a life of 30s although 1h1m were asked for, so the lease can last no longer than 30s instead of max_ttl, 1h.", ""},
		"much more":          {maxLifetime, maxLifetime, time.Minute, time.Hour, "a life of 730d although 1h1m were asked for; the lease revokes it earlier.", ""},
		"for ever":           {0, 0, 0, 0, "", "never ends"},
		"next to nothing":    {900 * time.Millisecond, 900 * time.Millisecond, 0, 0, "", "has ended by now"},
		"ended in the past":  {time.Second, -time.Minute, 0, 0, "", "has ended by now"},
		"a negative life":    {-time.Second, -time.Second, 0, 0, "", "never ends"},
	} {
		given := terms{ttl: time.Minute, maxTTL: time.Hour}
		err := given.capTo(&credential.Credential{Lifetime: row.granted}, requested, row.left)
		if row.refused != "" {
			require.ErrorContains(t, err, row.refused, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, row.ttl, given.ttl, name)
		require.Equal(t, row.maxTTL, given.maxTTL, name)
		require.Contains(t, strings.Join(given.warnings, "\n"), row.warning, name)
		require.Equal(t, row.warning == "", len(given.warnings) == 0, name)
	}
}

// TestLeaseOfWhatEndsByItself is as long as what is left of the credential, and not a second longer.
func TestLeaseOfWhatEndsByItself(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		ttl, requested time.Duration
		lifetime, left time.Duration
		lease          time.Duration
		warning        string
		refused        bool
	}{
		"as asked":              {time.Hour, 0, time.Hour, time.Hour - time.Millisecond, time.Hour - time.Second, "", false},
		"rounded up":            {15 * time.Minute, 0, 15*time.Minute + 1900*time.Millisecond, 15 * time.Minute, 15 * time.Minute, "", false},
		"rounded down":          {15 * time.Minute, 15 * time.Minute, 15*time.Minute - 900*time.Millisecond, 15 * time.Minute, 14*time.Minute + 59*time.Second, "", false},
		"longer":                {10 * time.Minute, 0, time.Hour, time.Hour, time.Hour, "live for 1h and can't be revoked, so the lease is as long, although ttl is 10m", false},
		"shorter than asked":    {time.Hour, 3 * time.Hour, time.Hour, time.Hour, time.Hour, "although ttl is 3h", false},
		"made slowly":           {time.Hour, 0, time.Hour, 50 * time.Minute, 50 * time.Minute, "", false},
		"ended while it waited": {time.Hour, 0, 10 * time.Second, 900 * time.Millisecond, 0, "", true},
		"ended long ago":        {time.Hour, 0, 10 * time.Second, -time.Minute, 0, "", true},
	} {
		given := terms{ttl: row.ttl, requested: row.requested, maxTTL: time.Hour}
		err := given.endByItself(row.lifetime, row.left, "logins")
		if row.refused {
			require.ErrorContains(t, err, "have ended by now", name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, []time.Duration{row.lease, row.lease}, []time.Duration{given.ttl, given.maxTTL}, name)
		require.Contains(t, strings.Join(given.warnings, "\n"), row.warning, name)
		require.Equal(t, row.warning == "", len(given.warnings) == 0, "%s: %v", name, given.warnings)
	}
}

func TestLeaseSurvivesStorage(t *testing.T) {
	t.Parallel()
	want := &lease{
		origin: origin{Host: "https://example.com", WorkspaceID: "1", OwnerID: "2"}, CredentialType: "pat", ID: "abc", Role: "etl", TTL: 600,
		Expires: time.Now().UTC(), Dead: time.Now().UTC(), Delivered: &writtenSecret{secretRef: secretRef{Scope: "s", Key: "k"}, Updated: time.UnixMilli(1).UTC()},
	}
	internal, err := want.internalData()
	require.NoError(t, err)
	got, err := leaseOf(&logical.Secret{InternalData: internal})
	require.NoError(t, err)
	require.True(t, want.Expires.Equal(got.Expires))
	require.True(t, want.Dead.Equal(got.Dead))
	got.Expires, got.Dead = want.Expires, want.Dead
	require.Equal(t, want, got)
}

func TestTimesAreRFC3339(t *testing.T) {
	t.Parallel()
	require.Equal(t, "", rfc3339(time.Time{}))
	require.Equal(t, "2026-01-02T03:04:05Z", rfc3339(time.Date(2026, 1, 2, 5, 4, 5, 6, time.FixedZone("", 7200))))
}
