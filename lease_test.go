// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"math/rand/v2"
	"testing"
	"time"

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
		asked := seconds(duration())

		got, err := decideTerms(sys, config, role, asked)
		require.NoError(t, err)
		require.Positive(t, got.ttl)
		require.LessOrEqual(t, got.ttl, got.maxTTL)
		require.LessOrEqual(t, got.maxTTL, longest)
		require.LessOrEqual(t, got.lifetime(), maxLifetime)
		require.Equal(t, got.maxTTL+lifetimeSkew, got.lifetime())
		if role.MaxTTL > 0 {
			require.LessOrEqual(t, got.maxTTL, seconds(role.MaxTTL))
		}
		want := asked
		if want == 0 {
			want = seconds(firstSet(role.TTL, config.TTL))
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
		require.NoError(t, err)
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

func TestGrant(t *testing.T) {
	t.Parallel()
	given := terms{ttl: time.Minute, maxTTL: time.Hour}
	given.grant(time.Hour + lifetimeSkew)
	require.Equal(t, terms{ttl: time.Minute, maxTTL: time.Hour}, given)
	given.grant(10*time.Minute + 500*time.Millisecond)
	require.Equal(t, time.Minute, given.ttl)
	require.Equal(t, 10*time.Minute, given.maxTTL)
	require.Len(t, given.warnings, 1)
}

func TestLeaseSurvivesStorage(t *testing.T) {
	t.Parallel()
	want := &lease{
		origin: origin{Host: "https://example.com", WorkspaceID: "1", OwnerID: "2"}, CredentialType: "pat", ID: "abc", Role: "etl", TTL: 600,
		Expires: time.Now().UTC(),
	}
	got, err := leaseOf(&logical.Secret{InternalData: want.internalData()})
	require.NoError(t, err)
	require.True(t, want.Expires.Equal(got.Expires))
	got.Expires = want.Expires
	require.Equal(t, want, got)
}

func TestTimesAreRFC3339(t *testing.T) {
	t.Parallel()
	require.Equal(t, "", rfc3339(time.Time{}))
	require.Equal(t, "2026-01-02T03:04:05Z", rfc3339(time.Date(2026, 1, 2, 5, 4, 5, 6, time.FixedZone("", 7200))))
}
