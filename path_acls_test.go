// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// acl is the permission of a principal on the scope "etl", "" for none.
func (m *mount) acl(principal string) string { return m.scope("etl").ACLs[principal] }

func TestACLs(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("engineers")
	for _, permission := range []string{"WRITE", "MANAGE", "READ"} {
		want := permission
		resp := m.write("acls/etl/engineers", map[string]any{"permission": permission})
		require.Equal(t, map[string]any{"scope": "etl", "principal": "engineers", "permission": want}, resp.Data)
		require.Nil(t, resp.Secret)
		require.Equal(t, want, m.acl("engineers"))
		require.Equal(t, resp.Data, m.read("acls/etl/engineers").Data)
	}
	for _, path := range []string{"acls/etl", "acls/etl/"} {
		resp, err := m.do(logical.ListOperation, path, nil)
		m.requireOK(resp, err)
		require.Equal(t, map[string]any{
			"keys":     []string{"engine@example.com", "engineers"},
			"key_info": map[string]any{"engine@example.com": map[string]any{"permission": "MANAGE"}, "engineers": map[string]any{"permission": "READ"}},
		}, resp.Data)
	}
	for range 2 {
		m.gone("acls/etl/engineers")
		require.Nil(t, m.read("acls/etl/engineers"))
	}
	resp, err := m.do(logical.ListOperation, "acls/nowhere", nil)
	m.requireOK(resp, err)
	require.Nil(t, resp)
	require.Empty(t, m.walEntries())
	var kinds []string
	for _, event := range m.sent() {
		if kind := string(event.Type); strings.Contains(kind, "acl") {
			kinds = append(kinds, strings.TrimPrefix(kind, "databricks/acl-"))
		}
	}
	require.Equal(t, []string{"write", "write", "write", "delete", "delete"}, kinds)
}

// principals are names that have to survive a path, a query and a body.
var principals = []string{
	"data engineers", "team/data", "team//data", "team/", "jane.doe+etl@example.com", "équipe données", "研究/開発", "🚀 team", "100% sure", "a%2Fb", "a+b c",
	"question?x=1&y=2", "hash#1", "semi;colon", `quote"s`, `back\slash`, "star*", "..", "../up", "a..b@x", "ends in.", ".begins", "a.b", " leading", "trailing ", "{{x}}", strings.Repeat("n", maxPrincipal),
}

func TestACLPrincipals(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, principal := range principals {
		m.workspace.AddGroup(principal)
		m.write("acls/etl/"+principal, map[string]any{"permission": "READ"})
		require.Equal(t, "READ", m.acl(principal), "%q", principal)
		if strings.Contains(principal, "..") {
			m.workspace.ResetCalls()
			resp, err := m.do(logical.UpdateOperation, "acls/etl/"+principal, map[string]any{"permission": "WRITE", "ttl": "1h"})
			m.refused(resp, err, "principal: ", "two consecutive dots")
			require.Empty(t, m.workspace.Calls(), "%q", principal)
			require.Equal(t, "READ", m.read("acls/etl/" + principal).Data["permission"])
			continue
		}
		lease := m.write("acls/etl/"+principal, map[string]any{"permission": "WRITE", "ttl": "1h"}).Secret
		require.Equal(t, map[string]any{"scope": "etl", "principal": principal, "permission": "WRITE"}, m.read("acls/etl/"+principal).Data)
		resp, err := m.revoke(lease)
		m.requireOK(resp, err)
		require.Equal(t, "READ", m.acl(principal), "%q", principal)
	}
	resp, err := m.do(logical.ListOperation, "acls/etl", nil)
	m.requireOK(resp, err)
	require.Len(t, resp.Data["keys"], len(principals)+1)
	for _, principal := range principals {
		m.gone("acls/etl/" + principal)
	}
	require.Len(t, m.scope("etl").ACLs, 1)
}

func TestACLsRefuseBadInput(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.ResetCalls()
	read := map[string]any{"permission": "READ"}
	for name, row := range map[string]struct {
		path  string
		data  map[string]any
		words []string
	}{
		"no permission":       {"acls/etl/users", nil, []string{`permission: "" is unknown; use READ, WRITE, MANAGE`}},
		"unknown permission":  {"acls/etl/users", map[string]any{"permission": "OWN"}, []string{`permission: "OWN" is unknown`}},
		"blank principal":     {"acls/etl/  ", read, []string{"principal: ", "can't be one"}},
		"a tab":               {"acls/etl/a\tb", read, []string{"principal: ", "can't be one"}},
		"too long":            {"acls/etl/" + strings.Repeat("n", maxPrincipal+1), read, []string{"principal: ", "1024 bytes"}},
		"less than a second":  {"acls/etl/users", map[string]any{"permission": "READ", "ttl": "10ms"}, []string{"ttl: ", "whole number of seconds"}},
		"a ttl in words":      {"acls/etl/users", map[string]any{"permission": "READ", "ttl": "long"}, []string{"ttl: "}},
		"force in words":      {"acls/etl/users", map[string]any{"permission": "READ", "force": "perhaps"}, []string{"force: "}},
		"principal in a list": {"acls/etl/users", map[string]any{"permission": []any{"READ", "WRITE"}}, []string{"permission"}},
	} {
		resp, err := m.do(logical.UpdateOperation, row.path, row.data)
		got := m.failure(resp, err)
		for _, word := range row.words {
			require.ErrorContains(t, got, word, name)
		}
	}
	for _, op := range []logical.Operation{logical.ReadOperation, logical.DeleteOperation} {
		resp, err := m.do(op, "acls/etl/a\tb", nil)
		m.refused(resp, err, "principal: ")
	}
	require.Zero(t, m.workspace.Count("", aclPutPath))
	require.Len(t, m.scope("etl").ACLs, 1)
}

// TestACLAlreadyExists holds against a workspace that does as the reference says, though none was seen to.
func TestACLAlreadyExists(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutACL("etl", "users", "READ")
	m.workspace.Inject(simulator.Fault{Path: aclPutPath, Status: 400, ErrorCode: "RESOURCE_ALREADY_EXISTS"})
	m.write("acls/etl/users", map[string]any{"permission": "READ"})
	for _, ttl := range []string{"", "1h"} {
		data := map[string]any{"permission": "WRITE"}
		if ttl != "" {
			data["ttl"] = ttl
		}
		resp, err := m.do(logical.UpdateOperation, "acls/etl/users", data)
		m.refused(resp, err, "delete acls/etl/<principal> first")
		require.Empty(t, m.walEntries())
	}
	require.Equal(t, "READ", m.acl("users"))
}

func TestACLLockOut(t *testing.T) {
	t.Parallel()
	lower := func(m *mount, path string, more map[string]any) (*logical.Response, error) {
		data := map[string]any{"permission": "WRITE"}
		for k, v := range more {
			data[k] = v
		}
		return m.do(logical.UpdateOperation, path, data)
	}
	for name, admin := range map[string]bool{"an admin": true, "no admin": false} {
		t.Run("by its own name, "+name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			self := m.admin.UserName
			if !admin {
				self = m.reconnectAs("weak@example.com").UserName
				m.workspace.PutACL("etl", self, "MANAGE")
			}
			for _, path := range []string{"acls/etl/" + self, "acls/etl/" + strings.ToUpper(self), "acls/ETL/" + self} {
				for _, more := range []map[string]any{nil, {"ttl": "1h"}, {"force": false}} {
					resp, err := lower(m, path, more)
					m.refused(resp, err, "principal: ", "would lock itself out", "force=true")
				}
				resp, err := m.do(logical.DeleteOperation, path, nil)
				m.refused(resp, err, "principal: ", "would lock itself out", "force=true")
			}
			require.Equal(t, "MANAGE", m.acl(self))
			// A policy that protects the engine's name protects it in one spelling.
			for _, data := range []map[string]any{{"permission": "WRITE", "force": true}, {"permission": "MANAGE"}, {"permission": "READ", "ttl": "1h", "force": true}} {
				resp, err := m.do(logical.UpdateOperation, "acls/etl/"+strings.ToUpper(self), data)
				m.refused(resp, err, "principal: ", "in another spelling", self)
			}
			refusedAs, err := m.do(logical.DeleteOperation, "acls/etl/"+strings.ToUpper(self), map[string]any{"force": true})
			m.refused(refusedAs, err, "principal: ", "in another spelling", self)
			require.Equal(t, "MANAGE", m.acl(self))
			m.write("acls/etl/"+self, map[string]any{"permission": "MANAGE"})
			m.write("acls/etl/"+self, map[string]any{"permission": "WRITE", "force": true})
			require.Equal(t, "WRITE", m.acl(self))
			if !admin {
				resp, err := m.do(logical.DeleteOperation, "acls/etl/"+self, nil)
				m.refused(resp, err, "needs MANAGE")
				m.workspace.PutACL("etl", self, "MANAGE")
			}
			resp, err := m.do(logical.DeleteOperation, "acls/etl/"+self, map[string]any{"force": true})
			m.requireOK(resp, err)
			require.Empty(t, m.acl(self))
		})
	}

	t.Run("through a group", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		self := m.workspace.AddUser("weak@example.com", false)
		m.workspace.AddGroup("owners", self)
		m.workspace.AddGroup("helpers", self)
		m.workspace.AddGroup("strangers")
		token, _ := m.workspace.AddToken(self, "the engine's own", 0)
		m.write("config", map[string]any{"token": token})
		for _, group := range []string{"owners", "strangers"} {
			m.workspace.PutACL("etl", group, "MANAGE")
		}
		m.workspace.PutACL("etl", "helpers", "READ")

		for _, path := range []string{"acls/etl/owners", "acls/etl/OWNERS"} {
			resp, err := lower(m, path, nil)
			m.refused(resp, err, "principal: ", "would lock itself out")
			resp, err = m.do(logical.DeleteOperation, path, nil)
			m.refused(resp, err, "principal: ", "would lock itself out")
		}
		m.gone("acls/etl/helpers")
		m.gone("acls/etl/strangers")

		m.write("acls/etl/helpers", map[string]any{"permission": "MANAGE"})
		resp, err := lower(m, "acls/etl/owners", nil)
		m.requireOK(resp, err)
		resp, err = lower(m, "acls/etl/helpers", nil)
		m.refused(resp, err, "would lock itself out")
		m.write("acls/etl/weak@example.com", map[string]any{"permission": "MANAGE"})
		resp, err = lower(m, "acls/etl/helpers", nil)
		m.requireOK(resp, err)
		require.Equal(t, map[string]string{"engine@example.com": "MANAGE", "owners": "WRITE", "helpers": "WRITE", "weak@example.com": "MANAGE"}, m.scope("etl").ACLs)
	})

	t.Run("where it can't be told", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.gone("acls/nowhere/engine@example.com")
		m.workspace.Inject(simulator.Fault{Path: aclListPath, Status: 403, Times: 1})
		resp, err := m.do(logical.DeleteOperation, "acls/etl/engine@example.com", nil)
		m.refused(resp, err, "needs MANAGE")
		m.write("config", map[string]any{"verify_connection": false, "max_retries": 0})
		m.workspace.Inject(simulator.Fault{Path: mePath, Status: 500})
		for _, data := range []map[string]any{{"permission": "READ"}, {"permission": "MANAGE"}, {"permission": "READ", "ttl": "1h", "force": true}} {
			resp, err := m.do(logical.UpdateOperation, "acls/etl/users", data)
			m.coded(http.StatusBadGateway, resp, err, "scim/me")
		}
		resp, err = m.do(logical.DeleteOperation, "acls/etl/users", nil)
		m.coded(http.StatusBadGateway, resp, err)
		require.Len(t, m.scope("etl").ACLs, 1)
	})
}

func TestACLWait(t *testing.T) {
	t.Parallel()

	t.Run("until it shows", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.workspace.SetACLDelay(1)
		for _, more := range []map[string]any{nil, {"ttl": "1h"}} {
			data := map[string]any{"permission": "READ", "wait": true}
			for k, v := range more {
				data[k] = v
			}
			m.workspace.ResetCalls()
			resp := m.write("acls/etl/users", data)
			require.Empty(t, resp.Warnings)
			require.Equal(t, more != nil, resp.Secret != nil)
			calls := m.workspace.Calls()
			require.Equal(t, http.StatusOK, calls[len(calls)-1].Status, "the last read showed it")
			require.Equal(t, aclGetPath, calls[len(calls)-1].Path)
			resp, err := m.do(logical.DeleteOperation, "acls/etl/users", map[string]any{"wait": true})
			m.requireOK(resp, err)
			require.Empty(t, resp.Warnings)
			require.Nil(t, m.read("acls/etl/users"))
		}
		m.workspace.ResetCalls()
		m.write("acls/etl/users", map[string]any{"permission": "READ"})
		calls := m.workspace.Calls()
		require.Equal(t, aclPutPath, calls[len(calls)-1].Path, "who does not ask for it does not wait")
	})

	for name, fault := range map[string]*simulator.Fault{
		"it still shows": nil,
		"HTTP 403":       {Path: aclGetPath, Offset: 2, Status: 403},
	} {
		t.Run("in vain: "+name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			m.workspace.SetACLDelay(1 << 20)
			if fault != nil {
				m.workspace.Inject(*fault)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
			defer cancel()
			resp, err := m.send(ctx, logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "READ", "wait": true})
			m.requireOK(resp, err)
			require.Equal(t, "READ", m.acl("users"), "the change was made")
			require.Contains(t, strings.Join(resp.Warnings, "\n"), "The change was made, but Databricks does not show it yet")
			require.Contains(t, strings.Join(resp.Warnings, "\n"), name)
		})
	}
}

// TestACLPlainWriteStorageFaults shows that a permission for good ends the leases of the same principal, or fails.
func TestACLPlainWriteStorageFaults(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	lease := m.write("acls/etl/users", map[string]any{"permission": "READ", "ttl": "1h"}).Secret
	m.storage.onEach(func(op, key string) error {
		if op == "put" {
			return fmt.Errorf("disk full")
		}
		return nil
	})
	_, err := m.do(logical.UpdateOperation, "acls/etl/users", map[string]any{"permission": "WRITE"})
	require.ErrorContains(t, err, "disk full")
	m.storage.onEach(nil)
	m.write("acls/etl/users", map[string]any{"permission": "WRITE"})
	resp, err := m.revoke(lease)
	m.requireOK(resp, err)
	require.Equal(t, "WRITE", m.acl("users"))
}

func TestACLRequests(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.AddGroup("strangers")
	m.workspace.ResetCalls()
	m.write("acls/etl/strangers", map[string]any{"permission": "READ"})
	calls := m.workspace.Calls()
	require.Len(t, calls, 3, "who the engine is, what was there, and the write")
	var body map[string]any
	require.NoError(t, json.Unmarshal(calls[2].Body, &body))
	require.Equal(t, map[string]any{"scope": "etl", "principal": "strangers", "permission": "READ"}, body)
}
