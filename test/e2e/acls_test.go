// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestKilledPluginLeavesNothingBehind kills the plugin while Databricks has stored a leased secret, a leased permission and
// a delivered token, and has not answered yet.
func TestKilledPluginLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	plugin := newOwnPlugin(t)
	m := newMountOf(t, plugin)
	m.configure()
	m.workspace.AddGroup("engineers")
	m.write("scopes/etl", data{})
	m.write("acls/etl/engineers", data{"permission": "READ"})
	hold := make(chan struct{})
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", AfterEffect: true, Hold: hold})
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/acls/put", AfterEffect: true, Hold: hold})

	writes := map[string]data{
		"secrets/etl/leased": {"string_value": server.secret("leased-to-a-killed-plugin", "a leased secret"), "ttl": "1h"},
		"acls/etl/engineers": {"permission": "WRITE", "ttl": "1h"},
		"creds/etl":          {"deliver_scope": "etl", "deliver_key": "delivered"},
	}
	var ended, succeeded atomic.Int64
	for path, body := range writes {
		go func() {
			if _, err := m.tryWrite(path, body); err == nil {
				succeeded.Add(1)
			}
			ended.Add(1)
		}()
	}
	require.Eventually(t, func() bool {
		return len(m.stored("etl")) == 2 && len(m.minted()) == 1 && m.permission("etl", "engineers") == "WRITE"
	}, patience, 10*time.Millisecond)
	calls := func() int { return m.workspace.Count("POST", "/api/2.0/secrets/*") }
	for ended.Load() < int64(len(writes)) {
		before := calls()
		for _, pid := range processesOf(t, plugin) {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		// Vault may repeat a request once in a new process, where it is held again. A process that has only just started is
		// let be: Vault 1.21 does not get over its death until the plugin is reloaded.
		require.Eventually(t, func() bool { return ended.Load() == int64(len(writes)) || calls() > before }, patience, 10*time.Millisecond)
	}
	require.Zero(t, succeeded.Load())
	m.workspace.ClearFaults()

	require.Eventually(t, func() bool {
		return len(m.stored("etl")) == 0 && len(m.minted()) == 0 && m.permission("etl", "engineers") == "READ"
	}, orphanPatience, time.Second, "what the plugin had written is undone, and the permission of before is back")
}

// TestRepetitionOfAFailedWriteIsKept: a write fails with an unknown outcome, the user writes the same again and succeeds.
// The rollback of the first must leave the second alone.
func TestRepetitionOfAFailedWriteIsKept(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	m.workspace.AddGroup("sentinels")
	m.write("config", data{"max_retries": 0})
	leased := data{"string_value": server.secret("written-twice-after-a-lost-reply", "a leased secret"), "ttl": "1h"}
	granted := data{"permission": "WRITE", "ttl": "1h"}
	delivered := data{"deliver_scope": "etl", "deliver_key": "delivered"}
	lose := func(path, api string, body data) {
		fault := m.workspace.Inject(simulator.Fault{Path: api, Times: 1, AfterEffect: true, Reset: true})
		_, err := m.tryWrite(path, body)
		requireRefused(t, err, 502)
		require.Equal(t, 1, fault.Hits())
	}
	const put = "/api/2.0/secrets/put"
	lose("secrets/etl/leased", put, leased)
	lose("acls/etl/engineers", "/api/2.0/secrets/acls/put", granted)
	lose("creds/etl", put, delivered)
	lose("acls/etl/sentinels", "/api/2.0/secrets/acls/put", granted)
	require.NotEmpty(t, m.write("secrets/etl/leased", leased).LeaseID)
	grant := m.write("acls/etl/engineers", granted)
	credential := m.write("creds/etl", delivered)

	// The last of the failed writes is the youngest: when it is undone, the others have had their turn or have it now.
	require.Eventually(t, func() bool { return m.permission("etl", "sentinels") == "" }, orphanPatience, time.Second)
	intact := func() bool { return len(m.stored("etl")) == 2 && m.permission("etl", "engineers") == "WRITE" }
	require.Never(t, func() bool { return !intact() }, 3*time.Second, 100*time.Millisecond, "the rollback of the failed write must not undo the one that succeeded")
	value, _ := m.value("etl", "delivered")
	require.True(t, m.works(server.secret(value, "a delivered token")))
	m.revoke(grant)
	require.Empty(t, m.permission("etl", "engineers"))
	m.revoke(credential)
	require.NotContains(t, m.stored("etl"), "delivered")
}

func TestPermissionIsWrittenReadListedAndTaken(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	job := m.workspace.AddServicePrincipal("job", false)
	m.requireAbsent("acls/etl/engineers")

	for _, permission := range []string{"WRITE", "MANAGE", "READ"} {
		written := m.write("acls/etl/engineers", data{"permission": permission})
		want := data{"scope": "etl", "principal": "engineers", "permission": permission}
		require.Equal(t, want, written.Data)
		require.Empty(t, written.LeaseID)
		require.Equal(t, want, m.read("acls/etl/engineers"))
		require.Equal(t, permission, m.permission("etl", "engineers"))
	}
	m.write("acls/etl/"+job.ApplicationID, data{"permission": "WRITE"})
	require.ElementsMatch(t, []string{"engine@example.com", "engineers", job.ApplicationID}, m.keys("acls/etl"))
	require.Equal(t, data{"permission": "READ"}, m.details("acls/etl")["engineers"])

	m.delete("acls/etl/engineers")
	m.requireAbsent("acls/etl/engineers")
	require.NotContains(t, m.keys("acls/etl"), "engineers")
	_, err := m.tryWrite("acls/etl/engineers", data{"permission": "OWN"})
	requireRefused(t, err, 400, "permission", "READ, WRITE, MANAGE")
	_, err = m.tryWrite("acls/etl/engineers", data{})
	requireRefused(t, err, 400, "permission")
}

// oddPrincipals are names of groups that need care in a URL.
var oddPrincipals = []string{
	"data engineers", "team/data", "team/data/etl", "jane.doe+etl@example.com", "équipe données", "研究/開発", "🚀 team",
	"100% sure", "a%2Fb", "%20", "team?x=1", "a#b", "semi;colon", `quote"s`, "it's", "comma,sep", "star*", "a & b", "a=b",
	`back\slash`, "(brackets) [too] {and} <these>", "trailing blank ",
}

func TestPrincipalsMayHaveAnyName(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, principal := range oddPrincipals {
		m.workspace.AddGroup(principal)
		lease := m.write("acls/etl/"+principal, data{"permission": "WRITE", "ttl": "1h"})
		require.Equal(t, "WRITE", m.permission("etl", principal), "%q", principal)
		require.Equal(t, data{"scope": "etl", "principal": principal, "permission": "WRITE"}, m.read("acls/etl/"+principal))
		require.Contains(t, m.keys("acls/etl"), principal)
		m.revoke(lease)
		require.Empty(t, m.permission("etl", principal), "%q", principal)
		m.write("acls/etl/"+principal, data{"permission": "READ"})
		m.delete("acls/etl/" + principal)
		require.Empty(t, m.permission("etl", principal), "%q", principal)
	}
}

// TestLeaseThatVaultCannotKeepLeavesNoPermission: Vault keeps no lease whose path has two dots in a row.
func TestLeaseThatVaultCannotKeepLeavesNoPermission(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("a..b")
	_, err := m.tryWrite("acls/etl/a..b", data{"permission": "WRITE", "ttl": "1h"})
	require.Error(t, err)
	require.Empty(t, m.permission("etl", "a..b"))
	m.write("acls/etl/a..b", data{"permission": "READ"})
	require.Equal(t, "READ", m.permission("etl", "a..b"), "without a lease it is a name like any other")
}

// TestPrincipalsArePercentEncodedInURLs speaks HTTP without Vault's API client: %2F in a path is a slash of the name, as a
// slash itself is, and %25 is a percent sign.
func TestPrincipalsArePercentEncodedInURLs(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	put := func(escaped string) {
		request, err := http.NewRequest(http.MethodPut, server.addr+"/v1/"+m.path+"/acls/etl/"+escaped, strings.NewReader(`{"permission":"READ"}`))
		require.NoError(t, err)
		request.Header.Set("X-Vault-Token", server.rootToken)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode, escaped)
	}
	for _, principal := range oddPrincipals {
		m.workspace.AddGroup(principal)
		put(url.PathEscape(principal))
		require.Equal(t, "READ", m.permission("etl", principal), "%q", principal)
		m.delete("acls/etl/" + principal)
	}
	put("team/data")
	require.Equal(t, "READ", m.permission("etl", "team/data"))
}

func TestLeasedPermissionRestoresWhatItReplaced(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	for _, before := range []string{"", "READ", "MANAGE"} {
		m.workspace.PutACL("etl", "engineers", before)
		lease := m.write("acls/etl/engineers", data{"permission": "WRITE", "ttl": "1h"})
		require.Equal(t, 3600, lease.LeaseDuration)
		require.True(t, lease.Renewable)
		require.Equal(t, data{"scope": "etl", "principal": "engineers", "permission": "WRITE"}, lease.Data)
		require.Equal(t, "WRITE", m.permission("etl", "engineers"))
		m.revoke(lease)
		require.Equal(t, before, m.permission("etl", "engineers"))
	}

	lease := m.write("acls/etl/engineers", data{"permission": "READ", "ttl": "1h"})
	renewed, err := m.client.Sys().Renew(lease.LeaseID, 7200)
	require.NoError(t, err)
	require.Equal(t, 7200, renewed.LeaseDuration)
	m.revoke(lease)
	require.Equal(t, "MANAGE", m.permission("etl", "engineers"))

	m.write("acls/etl/engineers", data{"permission": "READ", "ttl": "2s"})
	require.Equal(t, "READ", m.permission("etl", "engineers"))
	require.Eventually(t, func() bool { return m.permission("etl", "engineers") == "MANAGE" }, patience, 100*time.Millisecond)
}

func TestOverlappingGrantsEndInAnyOrder(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	grant := func(permission string) *api.Secret {
		return m.write("acls/etl/engineers", data{"permission": permission, "ttl": "1h"})
	}
	now := func() string { return m.permission("etl", "engineers") }
	for _, before := range []string{"", "READ"} {
		m.workspace.PutACL("etl", "engineers", before)
		first, last := grant("MANAGE"), grant("WRITE")
		require.Equal(t, "WRITE", now(), "the last one counts")
		m.revoke(last)
		require.Equal(t, "MANAGE", now(), "what remains is back")
		m.revoke(first)
		require.Equal(t, before, now())

		first, last = grant("MANAGE"), grant("WRITE")
		m.revoke(first)
		require.Equal(t, "WRITE", now(), "the last one goes on")
		m.revoke(last)
		require.Equal(t, before, now())

		one, two := grant("WRITE"), grant("WRITE")
		m.revoke(one)
		require.Equal(t, "WRITE", now())
		m.revoke(two)
		require.Equal(t, before, now())
	}
}

func TestGrantsOverlapHoweverTheScopeIsSpelt(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	first := m.write("acls/etl/engineers", data{"permission": "READ", "ttl": "1h"})
	last := m.write("acls/ETL/engineers", data{"permission": "WRITE", "ttl": "1h"}) // Databricks ignores case
	m.revoke(first)
	require.Equal(t, "WRITE", m.permission("etl", "engineers"))
	m.revoke(last)
	require.Empty(t, m.permission("etl", "engineers"), "no lease is left, so no permission is")
}

func TestPermissionThatWasChangedSinceIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, group := range []string{"changed", "for-good", "taken", "scopeless"} {
		m.workspace.AddGroup(group)
	}
	m.write("scopes/gone", data{})
	grant := func(scope, group string) *api.Secret {
		return m.write("acls/"+scope+"/"+group, data{"permission": "WRITE", "ttl": "1h"})
	}
	leases := []*api.Secret{grant("etl", "changed"), grant("etl", "for-good"), grant("etl", "taken"), grant("gone", "scopeless")}
	m.workspace.PutACL("etl", "changed", "MANAGE")
	m.write("acls/etl/for-good", data{"permission": "WRITE"}) // the same, but without a ttl
	m.delete("acls/etl/taken")
	m.delete("scopes/gone")
	for _, lease := range leases {
		m.revoke(lease)
	}
	require.Equal(t, map[string]string{m.admin.UserName: "MANAGE", "changed": "MANAGE", "for-good": "WRITE"}, m.scope("etl").ACLs)
	requireLogged(t, "[WARN]", "permission was changed since", "principal=changed")
}

func TestEngineDoesNotLockItselfOut(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	engine := m.workspace.AddServicePrincipal("engine", false)
	m.workspace.AddGroup("platform", engine)
	m.configureAs(engine)
	m.write("scopes/own", data{})
	for _, err := range []error{
		writing("acls/own/"+engine.UserName, data{"permission": "READ"})(m),
		writing("acls/own/"+engine.UserName, data{"permission": "WRITE", "ttl": "1h"})(m),
		deleting("acls/own/" + engine.UserName)(m),
	} {
		requireRefused(t, err, 400, "lock itself out", "force=true")
	}
	require.Equal(t, map[string]string{engine.UserName: "MANAGE"}, m.scope("own").ACLs)

	m.workspace.AddScope("through-group", m.admin)
	m.workspace.PutACL("through-group", "platform", "MANAGE")
	requireRefused(t, deleting("acls/through-group/platform")(m), 400, "lock itself out", "platform")
	m.write("acls/through-group/"+engine.UserName, data{"permission": "MANAGE"})
	m.delete("acls/through-group/platform") // the engine has MANAGE of its own by now

	m.write("acls/own/"+engine.UserName, data{"permission": "READ", "force": true})
	require.Equal(t, "READ", m.permission("own", engine.UserName))
	requireRefused(t, writing("acls/own/"+engine.UserName, data{"permission": "MANAGE"})(m), 400, "PERMISSION_DENIED", "needs MANAGE")
	_, err := m.client.Logical().DeleteWithData(m.path+"/acls/through-group/"+engine.UserName, map[string][]string{"force": {"true"}})
	require.NoError(t, err)
	require.NotContains(t, m.scope("through-group").ACLs, engine.UserName)
}

func TestWaitReturnsWhenDatabricksShowsTheChange(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	m.workspace.SetACLDelay(3)
	waited := m.write("acls/etl/engineers", data{"permission": "READ", "wait": true})
	require.Empty(t, waited.Warnings)
	require.Equal(t, data{"scope": "etl", "principal": "engineers", "permission": "READ"}, m.read("acls/etl/engineers"), "the delay is over")

	lease := m.write("acls/etl/engineers", data{"permission": "WRITE", "ttl": "1h", "wait": true})
	require.NotEmpty(t, lease.LeaseID)
	require.Equal(t, "WRITE", m.read("acls/etl/engineers")["permission"])
	m.revoke(lease)
	require.Equal(t, "READ", m.permission("etl", "engineers"))

	_, err := m.client.Logical().DeleteWithData(m.path+"/acls/etl/engineers", map[string][]string{"wait": {"true"}})
	require.NoError(t, err)
	m.requireAbsent("acls/etl/engineers")

	m.write("acls/etl/engineers", data{"permission": "READ"})
	m.requireAbsent("acls/etl/engineers") // nobody waited, so Databricks shows what was before
}
