// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// reasons are the names of the reasons for the verdict that status gives.
func (m *mount) reasons() (verdict string, names []string) {
	m.t.Helper()
	calls := len(m.workspace.Calls())
	status := m.read("status").Data
	require.Len(m.t, m.workspace.Calls(), calls, "no call")
	for _, reason := range status["reasons"].([]any) {
		r := reason.(map[string]any)
		names = append(names, r["reason"].(string))
		require.Contains(m.t, status["verdict_text"], r["reason"].(string)+": "+r["text"].(string)+". "+r["advice"].(string))
		require.NotEmpty(m.t, r["text"])
	}
	return status["verdict"].(string), names
}

// fails makes requests that must fail.
func (m *mount) fails(times int, op logical.Operation, path string) {
	m.t.Helper()
	for range times {
		resp, err := m.do(op, path, nil)
		require.True(m.t, err != nil || resp.IsError(), "%v", resp)
	}
}

// TestEveryReasonOfAVerdict brings each reason about, and has no other with it than those that go with it.
func TestEveryReasonOfAVerdict(t *testing.T) {
	t.Parallel()
	const deletePath = "/api/2.0/token/delete"
	static := map[string]any{"credential_type": "pat", "rotation_period": "1h", "rotation_grace_period": "1m"}
	down := simulator.Fault{Path: createPath, Status: 503, ErrorCode: "TEMPORARILY_UNAVAILABLE"}
	tests := map[string]struct {
		verdict string
		breaks  func(m *mount, c *clock)
		with    []string // other reasons
	}{
		"not_configured": {verdictFailing, func(m *mount, _ *clock) {
			resp, err := m.do(logical.DeleteOperation, "config", map[string]any{"force": true})
			m.requireOK(resp, err)
		}, nil},
		"split_brain": {verdictFailing, func(m *mount, c *clock) {
			m.backend.(*backend).splitBrain.Store(&splitBrainError{"ab12", c.now()})
		}, nil},
		"credential_refused": {verdictFailing, func(m *mount, _ *clock) {
			m.workspace.RevokeToken(storedTokenID(m))
			m.fails(1, logical.ReadOperation, "creds/etl")
		}, nil},
		"databricks_unavailable": {verdictFailing, func(m *mount, _ *clock) {
			m.workspace.Inject(down)
			m.fails(manyFailures, logical.ReadOperation, "creds/etl")
		}, []string{"mints_failing"}},
		"credential_ended": {verdictFailing, func(m *mount, c *clock) {
			m.write("config", map[string]any{"token": m.byHand(time.Hour)})
			c.advance(2 * time.Hour)
		}, nil},
		"token_quota_full": {verdictFailing, func(m *mount, _ *clock) {
			for range credential.MaxTokens {
				m.workspace.AddToken(m.admin, "somebody's", time.Hour)
			}
			m.list("tokens")
		}, nil},
		"mints_failing": {verdictFailing, func(m *mount, _ *clock) {
			m.workspace.Inject(simulator.Fault{Path: createPath, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"})
			m.fails(manyFailures, logical.ReadOperation, "creds/etl")
		}, nil},
		"retained_unusable": {verdictFailing, func(m *mount, _ *clock) {
			resp, err := m.do(logical.DeleteOperation, "config", map[string]any{"force": true})
			m.requireOK(resp, err)
			require.NoError(m.t, m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: retainedStorageKey, Value: []byte("?")}))
		}, []string{"not_configured"}},
		"revocations_failing": {verdictDegraded, func(m *mount, _ *clock) {
			creds := m.mint("etl")
			m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 500, Times: 1})
			_, err := m.revoke(creds.Secret)
			require.Error(m.t, err)
		}, nil},
		"rotation_failing": {verdictDegraded, func(m *mount, c *clock) {
			m.write("static-roles/bi", static)
			m.workspace.Inject(down)
			c.advance(time.Hour)
			m.tick()
		}, nil},
		"rotation_late": {verdictDegraded, func(m *mount, c *clock) {
			m.write("config", map[string]any{"rotation_period": "24h"})
			c.advance(24*time.Hour + rotationLate + time.Minute)
		}, nil},
		"credential_ends_soon": {verdictDegraded, func(m *mount, _ *clock) {
			m.write("config", map[string]any{"token": m.byHand(10 * 24 * time.Hour)})
		}, nil},
		"rotation_leftover": {verdictDegraded, func(m *mount, c *clock) {
			m.write("static-roles/bi", static)
			m.write("rotate-role/bi", nil)
			m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 500, Times: 1})
			c.advance(2 * time.Minute)
			m.tick()
		}, nil},
		"static_role_unreadable": {verdictDegraded, func(m *mount, _ *clock) {
			require.NoError(m.t, m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: staticStoragePrefix + "bi", Value: []byte("?")}))
		}, nil},
		"token_quota_high": {verdictDegraded, func(m *mount, _ *clock) {
			for range credential.MaxTokens*quotaHigh/100 - 2 { // the engine's own is one more
				m.workspace.AddToken(m.admin, "somebody's", time.Hour)
			}
			m.list("tokens")
			_, names := m.reasons()
			require.Empty(m.t, names)
			m.mint("etl")
			m.list("tokens")
		}, nil},
		"undo_failing": {verdictDegraded, func(m *mount, c *clock) {
			m.loseMint()
			m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/list", Status: 400, ErrorCode: "INVALID_STATE"})
			c.advance(walMinAge + time.Minute)
			_ = m.tickErr()
		}, nil},
		"undo_late": {verdictDegraded, func(m *mount, c *clock) {
			m.tick()
			m.loseMint()
			c.advance(walMinAge + undoLate + time.Minute)
		}, nil},
		"tidy_failing": {verdictDegraded, func(m *mount, _ *clock) {
			m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token-management/tokens", Status: 500})
			require.Equal(m.t, tidyFailed, m.tidyUp()["state"])
		}, nil},
		"clock_skew": {verdictDegraded, func(m *mount, c *clock) {
			c.runAhead(2 * time.Minute)
			for range 3 {
				m.list("tokens")
			}
		}, nil},
		"events_dropped": {verdictDegraded, func(m *mount, _ *clock) {
			m.onEvent(func(context.Context, string) error { return errors.New("the bus is full") })
			m.write("roles/etl", map[string]any{"ttl": "5m"})
			m.sent()
		}, nil},
	}
	for _, rule := range verdictRules {
		require.Contains(t, tests, rule.reason, "every reason has a test")
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t, simulator.WithTokenQuota(2*credential.MaxTokens))
			m.makeReady()
			m.impatient()
			verdict, names := m.reasons()
			require.Equal(t, verdictOK, verdict, "%v", names)

			test.breaks(m, c)
			verdict, names = m.reasons()
			require.Equal(t, test.verdict, verdict, "%v", names)
			require.ElementsMatch(t, append(slices.Clone(test.with), name), names)
		})
	}
}

// loseMint mints a token whose answer is lost.
func (m *mount) loseMint() {
	m.t.Helper()
	m.workspace.Inject(simulator.Fault{Path: createPath, Reset: true, AfterEffect: true, Times: 1})
	m.fails(1, logical.ReadOperation, "creds/etl")
}

// TestAReasonEndsWithItsCause: what was mended needs nobody to acknowledge it.
func TestAReasonEndsWithItsCause(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.impatient()
	m.write("static-roles/bi", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
	creds := m.mint("etl")
	m.loseMint()
	m.workspace.Inject(simulator.Fault{Status: 500})
	m.fails(manyFailures, logical.ReadOperation, "creds/etl")
	_, err := m.revoke(creds.Secret)
	require.Error(t, err)
	c.advance(time.Hour)
	_ = m.tickErr()
	verdict, names := m.reasons()
	require.Equal(t, verdictFailing, verdict)
	require.Subset(t, names, []string{"databricks_unavailable", "mints_failing", "revocations_failing", "rotation_failing", "undo_failing"})
	require.True(t, slices.IsSortedFunc(names, func(a, b string) int {
		at := func(name string) int {
			return slices.IndexFunc(verdictRules, func(r verdictRule) bool { return r.reason == name })
		}
		return at(a) - at(b)
	}), "the worst first: %v", names)

	m.workspace.ClearFaults()
	m.forgetThrottling()
	m.mint("etl")
	m.end(creds.Secret)
	c.advance(time.Hour)
	m.rolledBack()
	verdict, names = m.reasons()
	require.Equal(t, verdictOK, verdict, "%v", names)
	require.Empty(t, m.read("status").Data["verdict_text"])
}

// TestMistakesOfCallersAreNoReason: nobody may wake the operator of a mount by sending it nonsense.
func TestMistakesOfCallersAreNoReason(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.impatient()
	for range manyFailures {
		for path, data := range map[string]map[string]any{
			"creds/none": nil, "creds/etl": {"ttl": "-1"}, "secrets/none/k": {"string_value": "a value"}, "rotate-role/none": nil,
		} {
			resp, err := m.do(logical.UpdateOperation, path, data)
			require.True(t, err != nil || resp.IsError(), path)
		}
	}
	verdict, names := m.reasons()
	require.Equal(t, verdictOK, verdict, "%v", names)
	require.Zero(t, m.read("status").Data["credentials_mint_failures"])
}

// TestAnIdentityWithLittleRightsIsNoReason: the daily look for service principals fails where the identity may not list them.
func TestAnIdentityWithLittleRightsIsNoReason(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.reconnectAs("user@example.com")
	m.workspace.Inject(simulator.Fault{Path: principalsPath, Status: 403, ErrorCode: "PERMISSION_DENIED"})
	m.tick()
	c.advance(2 * tidyRetry)
	m.tick()
	require.Equal(t, tidyFailed, m.awaitTidy()["state"])
	verdict, names := m.reasons()
	require.Equal(t, verdictOK, verdict, "%v", names)
}

// TestStatusCountsCredentials follows leases through their lives, and a restart.
func TestStatusCountsCredentials(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.impatient()
	sp := m.workspace.AddServicePrincipal("etl", false)
	m.write("roles/short", map[string]any{"credential_type": "oauth_token", "application_id": sp.ApplicationID})
	m.workspace.AddScope("etl", m.admin)
	requireCounts := func(minted, live, revoked, mintFailures, revokeFailures int64) {
		t.Helper()
		status := m.read("status").Data
		require.Equal(t, []any{minted, live, revoked, mintFailures, revokeFailures}, []any{
			status["credentials_minted"], status["credentials_minted_still_live"], status["credentials_revoked"], status["credentials_mint_failures"], status["credentials_revoke_failures"],
		})
	}
	requireCounts(0, 0, 0, 0, 0)
	require.Nil(t, m.read("status").Data["recorded_leases"], "this process has not read them")
	one, two, token := m.mint("etl").Secret, m.mint("etl").Secret, m.mint("short").Secret
	requireCounts(3, 3, 0, 0, 0)
	m.end(one)
	m.end(token) // which Databricks can't revoke
	requireCounts(3, 2, 1, 0, 0)
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Status: 500, Times: 1})
	_, err := m.revoke(two)
	require.Error(t, err)
	m.loseMint()
	requireCounts(3, 2, 1, 1, 1)
	types := m.read("status").Data["credentials"].(map[string]any)
	require.Equal(t, map[string]any{
		"pat":         map[string]any{"minted": int64(2), "minted_still_live": int64(1), "revoked": int64(1), "mint_failures": int64(1), "revoke_failures": int64(1)},
		"oauth_token": map[string]any{"minted": int64(1), "minted_still_live": int64(1), "revoked": int64(0), "mint_failures": int64(0), "revoke_failures": int64(0)},
	}, types)

	// What a process before this one minted is none of its own.
	m.restartAt(c)
	three := m.mint("etl").Secret
	m.end(two)
	requireCounts(1, 1, 1, 0, 0)
	m.end(three)
	requireCounts(1, 0, 2, 0, 0)

	// What has ended by itself lives no more, whether it was revoked or not, and takes no memory.
	m.mint("etl")
	delivered, err := m.do(logical.UpdateOperation, "creds/etl", map[string]any{"deliver_scope": "etl", "deliver_key": "k"})
	m.requireOK(delivered, err)
	requireCounts(3, 2, 2, 0, 0)
	m.tick()
	require.Equal(t, 1, m.read("status").Data["recorded_leases"])
	c.advance(2 * time.Hour)
	m.backend.(*backend).credentials.forget(c.now())
	require.Empty(t, m.backend.(*backend).credentials.types["pat"].ends)
	requireCounts(3, 0, 2, 0, 0)
}

// TestStatusSaysHowFullTheQuotaIs as far as it is known without a call.
func TestStatusSaysHowFullTheQuotaIs(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	require.NotContains(t, m.read("status").Data, "tokens_used")
	m.connect(map[string]any{"verify_connection": false})
	m.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	status := m.read("status").Data
	require.Equal(t, []any{nil, credential.MaxTokens, nil}, []any{status["tokens_used"], status["tokens_quota"], status["tokens_seen_time"]})
	m.mint("etl")
	m.mint("etl")
	status = m.read("status").Data
	require.Equal(t, []any{2, nil}, []any{status["tokens_used"], status["tokens_seen_time"]}, "what was minted here")
	m.list("tokens")
	status = m.read("status").Data
	require.Equal(t, 3, status["tokens_used"], "the engine's own, too")
	require.WithinDuration(t, time.Now(), m.moment(status["tokens_seen_time"]), time.Minute)
}

// TestStatusSaysWhatEndsSoon lists what no rotation replaces in time.
func TestStatusSaysWhatEndsSoon(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.write("config", map[string]any{"token": m.byHand(20 * 24 * time.Hour)})
	m.write("static-roles/manual", map[string]any{"credential_type": "pat", "lifetime": "240h"})
	m.write("static-roles/rotated", map[string]any{"credential_type": "pat", "rotation_period": "1h"})
	ends := func() (soon []string) {
		t.Helper()
		for _, item := range m.read("status").Data["ends_soon"].([]any) {
			item := item.(map[string]any)
			require.Equal(t, item["path"] == "config", item["operator_created"])
			require.True(t, m.moment(item["expiry_time"]).After(c.now().Add(-24*time.Hour)))
			soon = append(soon, item["path"].(string))
		}
		return soon
	}
	require.Equal(t, []string{"static-roles/manual", "config"}, ends(), "the first to end first")
	m.write("config", map[string]any{"rotation_period": "24h"})
	m.write("rotate-role/manual", nil)
	require.Equal(t, []string{"static-roles/manual"}, ends(), "a schedule is enough")
	resp, err := m.do(logical.DeleteOperation, "static-roles/manual", nil)
	m.requireOK(resp, err)
	require.Empty(t, ends())
}

// TestAStandbySaysThatItIsOne: it neither rotates nor rolls back, so that it has nothing to say of these.
func TestAStandbySaysThatItIsOne(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.makeReady()
	m.tick()
	m.loseMint()
	m.write("config", map[string]any{"rotation_period": "24h"})
	require.Equal(t, true, m.read("status").Data["background_work"])
	m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	c.advance(48 * time.Hour)
	status := m.read("status").Data
	require.Equal(t, false, status["background_work"])
	require.Nil(t, status["undo_failing"])
	_, names := m.reasons()
	require.Empty(t, names)

	// A performance secondary rolls back what it began itself, and rotates nothing.
	m.system.ReplicationStateVal = consts.ReplicationPerformanceSecondary
	require.Equal(t, false, m.read("status").Data["background_work"])
	_, names = m.reasons()
	require.Equal(t, []string{"undo_late"}, names)
}
