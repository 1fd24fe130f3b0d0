// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func TestDistinctLifetimes(t *testing.T) {
	t.Parallel()
	var given lifetimes
	seen := map[time.Duration]bool{}
	for range int(offsetRange(time.Hour) / time.Second) {
		lifetime, unique := given.distinct(time.Now(), "1", time.Hour)
		require.True(t, unique)
		require.False(t, seen[lifetime])
		require.GreaterOrEqual(t, lifetime, time.Hour)
		require.Less(t, lifetime, time.Hour+offsetRange(time.Hour))
		seen[lifetime] = true
	}
	lifetime, unique := given.distinct(time.Now(), "1", time.Hour)
	require.False(t, unique)
	require.GreaterOrEqual(t, lifetime, time.Hour)
	_, unique = given.distinct(time.Now(), "2", time.Hour)
	require.True(t, unique, "each service principal has its own")

	for key := range given.used {
		given.used[key] = time.Now().Add(-time.Second)
	}
	_, unique = given.distinct(time.Now(), "1", time.Hour)
	require.True(t, unique, "after a while they are free again")
	require.Len(t, given.used, 1)

	for range 100 {
		lifetime, _ = given.distinct(time.Now(), "3", maxLifetime)
		require.LessOrEqual(t, lifetime, maxLifetime, "Databricks refuses more")
	}
}

// TestLifetimesOfOpenIntentsAreNotGivenOut shows that a new process learns from the write-ahead log which lifetimes another create
// has asked for.
func TestLifetimesOfOpenIntentsAreNotGivenOut(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	sp := m.workspace.AddServicePrincipal("bi", false)
	role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "lifetime": "72h"}
	m.workspace.Inject(lostCreates["reply lost"])
	m.failure(m.do(logical.UpdateOperation, "static-roles/x", role))
	_, in := m.walIntent()
	lost := seconds(in.Credential.Lifetime)
	other := 72 * time.Hour
	if lost == other {
		other += time.Second
	}

	m.restartAt(c)
	m.leaveLifetimes(c, sp, 72*time.Hour, false, lost, other)
	m.write("static-roles/x", role)
	secrets := m.workspace.OAuthSecrets(sp)
	require.Len(t, secrets, 2)
	require.Equal(t, lost, secrets[0].Expires.Sub(secrets[0].Created))
	require.Equal(t, other, secrets[1].Expires.Sub(secrets[1].Created))
	m.rolledBack()
	require.Equal(t, []string{secrets[1].ID}, m.secretIDs(sp))
}
