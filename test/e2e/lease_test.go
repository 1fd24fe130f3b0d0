// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// skew bounds how much longer than its lease could live a token may live upstream.
const skew = 5 * time.Minute

func TestMintedTokenIsThePromisedOne(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.workspace.ResetCalls()

	secret := m.mint("etl")
	require.Equal(t, 1, m.workspace.Count("", "*"), "a mint is one call")
	require.Equal(t, 1, m.workspace.Count("POST", "/api/2.0/token/create"))
	require.True(t, m.works(tokenOf(secret)))
	require.Equal(t, 3600, secret.LeaseDuration, "the lease lasts for the role's ttl")
	require.True(t, secret.Renewable)
	require.Equal(t, m.workspace.URL(), secret.Data["host"])

	token, live := m.upstream(tokenIDOf(secret))
	require.True(t, live, "the answer names the token by its id")
	require.Equal(t, m.admin.ID, token.Owner, "a pat belongs to the engine's identity")
	require.Equal(t, token.Comment, secret.Data["comment"])
	require.Contains(t, token.Comment, "etl", "the comment names the role")

	lifetime := token.Expires.Sub(token.Created)
	require.GreaterOrEqual(t, lifetime, 2*time.Hour, "the token must outlive the longest lease")
	require.LessOrEqual(t, lifetime, 2*time.Hour+skew)
	require.WithinDuration(t, token.Expires, timeOf(t, secret.Data["expiry_time"]), time.Second)
	require.WithinDuration(t, token.Created, timeOf(t, secret.Data["creation_time"]), time.Second)
}

func TestCommentNamesTheEntityThatAsked(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)

	mounts, err := m.client.Sys().ListAuth()
	require.NoError(t, err)
	alias := m.path + "-person"
	entity, err := m.client.Logical().Write("identity/entity", data{"name": "jane-doe-of-" + m.path})
	require.NoError(t, err)
	_, err = m.client.Logical().Write("identity/entity-alias", data{
		"name": alias, "canonical_id": entity.Data["id"], "mount_accessor": mounts["token/"].Accessor,
	})
	require.NoError(t, err)
	require.NoError(t, m.client.Sys().PutPolicy(m.path, fmt.Sprintf(`path "%s/creds/etl" { capabilities = ["read"] }`, m.path)))
	_, err = m.client.Logical().Write("auth/token/roles/"+m.path, data{"allowed_entity_aliases": alias, "allowed_policies": m.path})
	require.NoError(t, err)
	login, err := m.client.Auth().Token().CreateWithRole(&api.TokenCreateRequest{EntityAlias: alias, Policies: []string{m.path}}, m.path)
	require.NoError(t, err)

	person, err := server.client(login.Auth.ClientToken)
	require.NoError(t, err)
	secret, err := person.Logical().Read(m.path + "/creds/etl")
	require.NoError(t, err)
	server.secret(tokenOf(secret), "a token minted by "+t.Name())
	token, live := m.upstream(tokenIDOf(secret))
	require.True(t, live)
	require.Contains(t, token.Comment, "jane-doe-of-"+m.path)
	require.Contains(t, token.Comment, "etl")
}

func TestRenewalStaysInsideTheUpstreamExpiryAndMakesNoCall(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret := m.mint("etl")
	m.workspace.ResetCalls()

	renewed, err := m.client.Sys().Renew(secret.LeaseID, int((30 * time.Hour).Seconds()))
	require.NoError(t, err)
	require.LessOrEqual(t, renewed.LeaseDuration, 7200, "no more than max_ttl is promised")
	require.Greater(t, renewed.LeaseDuration, 3600, "the renewal has prolonged the lease")

	// The role allows more by now, the token does not: it can't be prolonged upstream.
	m.write("roles/etl", data{"credential_type": "pat", "ttl": "100h", "max_ttl": "200h"})
	renewed, err = m.client.Sys().Renew(secret.LeaseID, int((100 * time.Hour).Seconds()))
	require.NoError(t, err)
	require.LessOrEqual(t, renewed.LeaseDuration, 7200+int(skew.Seconds()))
	require.Zero(t, m.workspace.Count("", "/api/2.0/token/*"), "a renewal is local")

}

func TestLeaseOfADeletedRoleIsRevokedButNotRenewed(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret := m.mint("etl")
	_, err := m.client.Logical().Delete(m.path + "/roles/etl")
	require.NoError(t, err)
	_, err = m.client.Sys().Renew(secret.LeaseID, 60)
	requireRefused(t, err, 400, "etl", "deleted")
	require.True(t, m.works(tokenOf(secret)))
	m.revoke(secret)
	require.False(t, m.works(tokenOf(secret)))
}

func TestExpiredLeaseKillsTheToken(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/brief", data{"credential_type": "pat", "ttl": "2s", "max_ttl": "1h"})
	secret := m.mint("brief")
	require.True(t, m.works(tokenOf(secret)))
	require.Eventually(t, func() bool { return !m.works(tokenOf(secret)) }, patience, 100*time.Millisecond)
	require.Empty(t, m.minted())
}

func TestRevokedLeaseKillsTheTokenWithOneCall(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	revoked, kept := m.mint("etl"), m.mint("etl")
	m.workspace.ResetCalls()
	m.revoke(revoked)
	require.Equal(t, 1, m.workspace.Count("", "*"))
	require.Equal(t, 1, m.workspace.Count("POST", "/api/2.0/token/delete"))
	require.False(t, m.works(tokenOf(revoked)))
	require.True(t, m.works(tokenOf(kept)), "the other lease lives on")
}

func TestRevokingWhatIsAlreadyGoneUpstreamSucceeds(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret := m.mint("etl")
	require.True(t, m.workspace.RevokeToken(tokenIDOf(secret)))
	m.revoke(secret)
	_, err := m.client.Sys().Lookup(secret.LeaseID)
	requireRefused(t, err, 400, "invalid lease")
}

func TestPrefixRevocationKillsFiftyTokens(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	var group errgroup.Group
	for range 50 {
		group.Go(func() error {
			_, err := m.tryMint("etl", nil)
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.Len(t, m.minted(), 50)
	require.NoError(t, m.client.Sys().RevokePrefix(m.path+"/creds/etl"))
	require.Eventually(t, func() bool { return len(m.minted()) == 0 }, patience, 100*time.Millisecond)
}

func TestDisablingTheMountRevokesEverything(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	for range 5 {
		m.mint("etl")
	}
	require.Len(t, m.minted(), 5)
	require.NoError(t, m.client.Sys().Unmount(m.path))
	require.Empty(t, m.minted())
	require.True(t, m.works(m.token), "a token made by hand is not ours to delete")
}

func TestCallerMayNarrowButNotWiden(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("roles/scoped", data{"credential_type": "pat", "ttl": "1h", "max_ttl": "2h", "scopes": "sql,secrets"})

	secret, err := m.tryMint("scoped", data{"ttl": "10m", "scopes": "sql"})
	require.NoError(t, err)
	require.Equal(t, 600, secret.LeaseDuration)
	require.Empty(t, secret.Warnings)
	require.Equal(t, []any{"sql"}, secret.Data["scopes"])
	token, live := m.upstream(tokenIDOf(secret))
	require.True(t, live)
	require.Equal(t, []string{"sql"}, token.Scopes)

	m.workspace.ResetCalls()
	_, err = m.tryMint("scoped", data{"scopes": "sql,all-apis"})
	requireRefused(t, err, 400, "scopes", "all-apis")
	require.Zero(t, m.workspace.Count("", "*"), "nothing was asked of Databricks")

	// The role of newConfiguredMount names no scopes, so the caller may.
	secret, err = m.tryMint("etl", data{"scopes": "clusters"})
	require.NoError(t, err)
	require.Equal(t, []any{"clusters"}, secret.Data["scopes"])
}

func TestLongerTTLThanAllowedIsCappedWithAWarning(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret, err := m.tryMint("etl", data{"ttl": "50h"})
	require.NoError(t, err)
	require.Equal(t, 7200, secret.LeaseDuration)
	require.NotEmpty(t, secret.Warnings)
	require.Contains(t, fmt.Sprint(secret.Warnings), "ttl")
}

func TestMountMaximumCapsTheRoleWithAWarning(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	require.NoError(t, m.client.Sys().TuneMountAllowNil(m.path, api.TuneMountConfigInput{
		DefaultLeaseTTL: ptr("10m"), MaxLeaseTTL: ptr("30m"),
	}))
	secret := m.mint("etl")
	require.Equal(t, 1800, secret.LeaseDuration)
	require.NotEmpty(t, secret.Warnings)
	token, live := m.upstream(tokenIDOf(secret))
	require.True(t, live)
	require.LessOrEqual(t, token.Expires.Sub(token.Created), 30*time.Minute+skew, "the token lives no longer than the lease could")
}

func ptr[T any](value T) *T { return &value }
