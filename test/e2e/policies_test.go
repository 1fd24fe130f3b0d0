// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// loginAs logs in with one of the policies that users are given, as it is in its file but for the path of the mount.
func (m *mount) loginAs(policy string) *person {
	m.t.Helper()
	text, err := os.ReadFile("../../examples/policies/" + policy + ".hcl")
	require.NoError(m.t, err)
	return &person{mount: m, client: m.loginWith(strings.ReplaceAll(string(text), "databricks/", m.path+"/"))}
}

// person is somebody with a policy, and tries things below a mount.
type person struct {
	*mount
	client *api.Client
}

// try does one thing: "read", "list", "write" or "delete" a path.
func (p *person) try(operation, path string, body data) (*api.Secret, error) {
	path = p.path + "/" + path
	switch operation {
	case "read":
		return p.client.Logical().Read(path)
	case "list":
		return p.client.Logical().List(path)
	case "delete":
		return p.client.Logical().Delete(path)
	}
	return p.client.Logical().Write(path, body)
}

func (p *person) may(operation, path string, body data) *api.Secret {
	p.t.Helper()
	secret, err := p.try(operation, path, body)
	require.NoError(p.t, err, "%s %s", operation, path)
	return secret
}

// mayNot tries what the policy must refuse. It must be Vault that refuses it, and Databricks must hear nothing of it.
func (p *person) mayNot(operation, path string, body data) {
	p.t.Helper()
	before := p.workspace.Count("", "/api/2.0/secrets/*") + p.workspace.Count("POST", "*")
	_, err := p.try(operation, path, body)
	requireRefused(p.t, err, 403, "permission denied")
	require.Equal(p.t, before, p.workspace.Count("", "/api/2.0/secrets/*")+p.workspace.Count("POST", "*"), "%s %s", operation, path)
}

// mayDoNothingWith tries every operation on every path.
func (p *person) mayDoNothingWith(paths ...string) {
	p.t.Helper()
	for _, path := range paths {
		for _, operation := range []string{"read", "list", "write", "delete"} {
			p.mayNot(operation, path, data{})
		}
	}
}

// mayNotSneakTo is mayNot for paths that Vault's API client would tidy up.
func (p *person) mayNotSneakTo(path string, body data) {
	p.t.Helper()
	text, err := json.Marshal(body)
	require.NoError(p.t, err)
	request, err := http.NewRequest(http.MethodPut, server.addr+"/v1/"+p.path+"/"+path, bytes.NewReader(text))
	require.NoError(p.t, err)
	request.Header.Set("X-Vault-Token", p.client.Token())
	before := p.workspace.Count("POST", "*")
	// A redirection to the tidy path is answered, not followed.
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(p.t, err)
	response.Body.Close()
	require.GreaterOrEqual(p.t, response.StatusCode, 300)
	require.Equal(p.t, before, p.workspace.Count("POST", "*"))
}

// policyMount has two scopes with a secret each, and a role named etl.
func policyMount(t *testing.T) *mount {
	t.Helper()
	m := newConfiguredMount(t)
	m.workspace.AddGroup("engineers")
	for _, scope := range []string{"team-a", "team-b", "etl"} {
		m.write("scopes/"+scope, data{})
		m.write("secrets/"+scope+"/there", data{"string_value": server.secret("kept-from-"+scope+"-policies", "a secret")})
	}
	return m
}

func TestPolicyOfAPusher(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	team := m.loginAs("pusher")
	value := data{"string_value": server.secret("pushed-by-a-team", "a secret")}
	team.may("write", "secrets/team-a/new", value)
	team.may("write", "secrets/team-a/new", value)
	team.may("write", "secrets/team-a/sub/new", value)
	lease := team.may("write", "secrets/team-a/leased", data{"string_value": "pushed-by-a-team", "ttl": "1h"})
	require.NotEmpty(t, lease.LeaseID)
	require.ElementsMatch(t, []any{"there", "new", "sub/new", "leased"}, team.may("list", "secrets/team-a", nil).Data["keys"])
	team.may("write", "secrets/team-a", data{"secrets": data{"only": "pushed-by-a-team"}, "prune": true})
	require.Equal(t, map[string]any{"only": "pushed-by-a-team", "leased": "pushed-by-a-team"}, m.stored("team-a"))

	team.mayNot("read", "secrets/team-a/only", nil)
	team.mayNot("delete", "secrets/team-a/only", nil)
	team.mayDoNothingWith("secrets/team-b", "secrets/team-b/there", "secrets/TEAM-B/there", "secrets/team-ab/there", "secrets/TEAM-A/only", "secrets/team-b/sub/key",
		"scopes", "scopes/team-a", "scopes/team-b", "secrets", "acls/team-a", "acls/team-a/engineers", "config", "roles/etl", "creds/etl", "tokens", "status")
	team.mayNotSneakTo("secrets/team-a/", data{"secrets": data{"a": "x"}})
	team.mayNotSneakTo("secrets/team-a/../team-b/there", value)
	require.Equal(t, map[string]any{"there": "kept-from-team-b-policies"}, m.stored("team-b"))
}

func TestPolicyOfAnAdder(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	adder := m.loginAs("adder")
	added := server.secret("added-by-a-team", "a secret")
	for key, more := range map[string]data{"string": {"if_absent": "true"}, "bool": {"if_absent": true}, "leased": {"if_absent": true, "ttl": "1h"}} {
		more["string_value"] = added
		adder.may("write", "secrets/team-a/"+key, more)
	}
	require.ElementsMatch(t, []any{"there", "string", "bool", "leased"}, adder.may("list", "secrets/team-a", nil).Data["keys"])

	before := m.stored("team-a")
	other := "written-over-it"
	for _, key := range []string{"there", "THERE", "string", "leased"} {
		_, err := adder.try("write", "secrets/team-a/"+key, data{"string_value": other, "if_absent": true})
		requireRefused(t, err, 400, "if_absent: ", "exists")
		for _, value := range []any{nil, false, "false", "1", "T", "TRUE"} {
			adder.mayNot("write", "secrets/team-a/"+key, data{"string_value": other, "if_absent": value})
		}
		// Vault's policies let lists and texts pass if all of their elements are allowed, also without any, so the engine must refuse them.
		for _, value := range []any{1, "", " ", ",", []any{}, []any{true}, []any{"true"}, "true,true", " true", "true,false"} {
			_, err := adder.try("write", "secrets/team-a/"+key, data{"string_value": other, "if_absent": value})
			require.Error(t, err, "%#v", value)
		}
		adder.mayNot("write", "secrets/team-a/"+key, data{"string_value": other})
		adder.mayNot("write", "secrets/team-a/"+key, data{"string_value": other, "if_absent": true, "force": true})
		adder.mayNot("write", "secrets/team-a/"+key, data{"string_value": other, "if_absent": true, "IF_ABSENT": false})
		adder.mayNot("delete", "secrets/team-a/"+key, nil)
		adder.mayNot("read", "secrets/team-a/"+key, nil)
	}
	adder.may("write", "secrets/team-a/sub/key", data{"string_value": added, "if_absent": true})
	_, err := adder.try("write", "secrets/team-a/SUB/key", data{"string_value": other, "if_absent": true})
	requireRefused(t, err, 400, "if_absent: ", "exists")
	before["sub/key"] = added
	adder.mayNotSneakTo("secrets/team-a/", data{"secrets": data{"there": other}, "if_absent": true})
	adder.mayNot("write", "secrets/team-a", data{"secrets": data{"there": other}})
	adder.mayNot("write", "secrets/team-a", data{"secrets": data{"there": other}, "if_absent": true})
	require.Equal(t, before, m.stored("team-a"))
	adder.mayDoNothingWith("secrets/team-b", "secrets/team-b/there", "secrets/TEAM-A/there", "scopes", "scopes/team-a", "acls/team-a", "acls/team-a/engineers",
		"config", "roles/etl", "creds/etl", "tokens", "status")
}

// TestPolicyWithUpdateCanWrite what is there and what is not.
func TestPolicyWithUpdateCanWrite(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	updater := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/*" { capabilities = ["update"] }`, m.path))}
	value := server.secret("written-with-update-only", "a secret")
	for range 2 {
		updater.may("write", "scopes/new", data{})
		updater.may("write", "secrets/new/key", data{"string_value": value})
		updater.may("write", "secrets/new/leased", data{"string_value": value, "ttl": "1h"})
		updater.may("write", "acls/new/engineers", data{"permission": "READ"})
	}
	creator := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/*" { capabilities = ["create"] }`, m.path))}
	for _, path := range []string{"scopes/other", "secrets/new/other", "acls/new/users"} {
		creator.mayNot("write", path, data{"string_value": value, "permission": "READ"})
	}
}

// TestATokenWithoutRightsCausesNoCall on any path, existing or not: Vault makes its existence checks before it looks at policies.
func TestATokenWithoutRightsCausesNoCall(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	m.mint("etl")
	nobody := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/none" { capabilities = ["read"] }`, m.path))}
	m.workspace.ResetCalls()
	for _, path := range []string{
		"config", "config/rotate-root", "roles/etl", "roles/new", "roles/a..b", "creds/etl", "creds/new", "static-roles/bi", "static-creds/bi", "rotate-role/bi", "tokens", "tokens/x",
		"scopes", "scopes/etl", "scopes/new", "scopes/a/b", "secrets", "secrets/etl", "secrets/etl/there", "secrets/etl/new", "secrets/new/k", "secrets/etl/a/b", "secrets/etl/a..b",
		"acls/etl", "acls/etl/engineers", "acls/etl/new", "acls/new/engineers", "acls/etl/a/b", "status", "tidy", "tidy/status",
	} {
		for _, operation := range []string{"read", "list", "write", "delete"} {
			_, err := nobody.try(operation, path, data{"string_value": "x", "permission": "READ", "ttl": "1h", "if_absent": true, "secrets": data{"a": "x"}})
			requireRefused(t, err, 403, "permission denied")
		}
	}
	require.Empty(t, m.workspace.Calls())
}

func TestPolicyOfAReaderOfNames(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	reader := m.loginAs("reader-of-names")
	for _, path := range []string{"scopes", "secrets"} {
		require.ElementsMatch(t, []any{"team-a", "team-b", "etl"}, reader.may("list", path, nil).Data["keys"])
	}
	keys := reader.may("list", "secrets/team-b", nil)
	require.Equal(t, []any{"there"}, keys.Data["keys"])
	require.NotContains(t, fmt.Sprint(keys.Data), "kept-from-")

	reader.mayDoNothingWith("secrets/team-a/there", "secrets/team-b/there", "scopes/etl", "acls/etl", "acls/etl/engineers", "config", "roles", "creds/etl", "tokens", "status")
	reader.mayNot("write", "secrets/team-a", data{"secrets": data{"a": "x"}})
	reader.mayNot("write", "secrets/team-a", data{"secrets": data{"a": "x"}, "dry_run": true})
}

func TestPolicyOfAnOwnerOfACLs(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	m.workspace.AddGroup("team/data")
	owner := m.loginAs("acl-owner")
	owner.may("write", "acls/etl/engineers", data{"permission": "READ"})
	owner.may("write", "acls/etl/team/data", data{"permission": "WRITE", "ttl": "1h"})
	require.Equal(t, "READ", owner.may("read", "acls/etl/engineers", nil).Data["permission"])
	require.ElementsMatch(t, []any{m.admin.UserName, "engineers", "team/data"}, owner.may("list", "acls/etl", nil).Data["keys"])
	owner.may("write", "acls/etl/engineers", data{"permission": "WRITE"})
	owner.may("delete", "acls/etl/engineers", nil)
	owner.may("delete", "acls/etl/team/data", nil)
	require.Equal(t, map[string]string{m.admin.UserName: "MANAGE"}, m.scope("etl").ACLs)

	require.Equal(t, "MANAGE", owner.may("read", "acls/etl/"+m.admin.UserName, nil).Data["permission"])
	owner.mayNot("write", "acls/etl/engineers", data{"permission": "READ", "force": true})
	owner.mayNot("write", "acls/etl/"+m.admin.UserName, data{"permission": "READ"})
	owner.mayNot("delete", "acls/etl/"+m.admin.UserName, nil)
	force := map[string][]string{"force": {"true"}}
	_, err := owner.client.Logical().DeleteWithData(m.path+"/acls/etl/"+m.admin.UserName, force)
	requireRefused(t, err, 403)
	_, err = owner.client.Logical().DeleteWithData(m.path+"/acls/etl/"+strings.ToUpper(m.admin.UserName), force)
	requireRefused(t, err, 400, "principal: ", "in another spelling")
	require.Equal(t, map[string]string{m.admin.UserName: "MANAGE"}, m.scope("etl").ACLs)

	owner.mayDoNothingWith("acls/team-a", "acls/team-a/engineers", "acls/ETL/engineers", "scopes", "scopes/etl", "secrets", "secrets/etl", "secrets/etl/there",
		"config", "roles", "creds/etl", "tokens", "status")
}

func TestPolicyOfAnAdministrator(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	leased := m.mint("etl")
	admin := m.loginAs("admin")
	admin.may("read", "config", nil)
	admin.may("write", "config", data{"ttl": "2h"})
	admin.may("write", "roles/other", data{"credential_type": "pat", "ttl": "5m"})
	admin.may("read", "roles/other", nil)
	require.ElementsMatch(t, []any{"etl", "other"}, admin.may("list", "roles", nil).Data["keys"])
	admin.may("delete", "roles/other", nil)
	admin.may("write", "static-roles/bi", data{"credential_type": "pat", "rotation_period": "24h"})
	require.NotContains(t, fmt.Sprint(admin.may("read", "static-roles/bi", nil).Data), m.creds("bi").secret)
	admin.may("list", "static-roles", nil)
	admin.mayDoNothingWith("static-creds/bi", "rotate-role/bi", "config/rotate-root")
	for _, body := range []data{{"deliver_scope": "etl", "deliver_key": "k"}, {"deliver_scope": "etl"}, {"deliver_key": "k"}, {"Deliver_Scope": "etl", "deliver_key": "k"}} {
		body["credential_type"] = "pat"
		for _, role := range []string{"bi", "new"} {
			admin.mayNot("write", "static-roles/"+role, body)
			_, err := admin.client.Logical().JSONMergePatch(context.Background(), m.path+"/static-roles/"+role, body)
			requireRefused(t, err, 403)
		}
	}
	require.Equal(t, []string{"bi"}, m.keys("static-roles"))
	require.Equal(t, map[string]any{"there": "kept-from-etl-policies"}, m.stored("etl"))
	admin.may("delete", "static-roles/bi", nil)
	admin.mayNot("write", "scopes/open", data{"initial_manage_principal": "users"})
	admin.may("write", "scopes/new", data{})
	admin.may("read", "scopes/new", nil)
	admin.may("list", "scopes", nil)
	admin.may("delete", "scopes/new", nil)
	admin.may("list", "tokens", nil)
	admin.may("read", "tokens/"+tokenIDOf(leased), nil)
	admin.may("read", "status", nil)
	require.NoError(t, admin.client.Sys().RevokePrefix(m.path+"/creds/etl"))
	require.False(t, m.works(tokenOf(leased)))

	admin.mayDoNothingWith("creds/etl", "secrets", "secrets/etl", "secrets/etl/there", "acls/etl", "acls/etl/engineers")
	requireRefused(t, admin.client.Sys().RevokePrefix(m.path), 403)
	requireRefused(t, admin.client.Sys().PutPolicy(m.path, `path "*" { capabilities = ["sudo"] }`), 403)
	admin.may("delete", "config", nil)
}

func TestPolicyOfAConsumer(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	m.write("roles/other", data{"credential_type": "pat"})
	foreign := m.mint("other")
	consumer := m.loginAs("consumer")
	secret := consumer.may("read", "creds/etl", nil)
	server.secret(tokenOf(secret), "a token minted by "+t.Name())
	_, err := consumer.client.Sys().Renew(secret.LeaseID, 600)
	require.NoError(t, err)
	_, err = consumer.client.Sys().Lookup(secret.LeaseID)
	require.NoError(t, err)

	inBody := func(lease *api.Secret) error {
		_, err := consumer.client.Logical().Write("sys/leases/revoke", data{"lease_id": lease.LeaseID, "sync": true})
		return err
	}
	requireRefused(t, consumer.client.Sys().RevokeWithOptions(revokeNow(foreign)), 403)
	requireRefused(t, inBody(foreign), 403)
	require.True(t, m.works(tokenOf(foreign)))
	require.NoError(t, consumer.client.Sys().RevokeWithOptions(revokeNow(secret)))
	require.False(t, m.works(tokenOf(secret)))
	secret = consumer.may("read", "creds/etl", nil)
	require.NoError(t, inBody(secret))
	require.False(t, m.works(server.secret(tokenOf(secret), "a token minted by "+t.Name())))

	consumer.mayNot("write", "creds/etl", data{"ttl": "1m"})
	consumer.mayNot("write", "creds/etl", data{"deliver_scope": "etl", "deliver_key": "there"})
	deliver := map[string][]string{"deliver_scope": {"etl"}, "deliver_key": {"there"}}
	_, err = consumer.client.Logical().ReadWithData(m.path+"/creds/etl", deliver)
	requireRefused(t, err, 403)
	require.Equal(t, map[string]any{"there": "kept-from-etl-policies"}, m.stored("etl"))
	consumer.mayDoNothingWith("creds/other", "config", "roles", "roles/etl", "scopes", "scopes/etl", "secrets", "secrets/etl", "secrets/etl/there",
		"acls/etl", "acls/etl/engineers", "tokens", "status")
}

func TestPolicyBindsDeliveryToOneScope(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	courier := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/creds/etl" {
		capabilities       = ["update"]
		allowed_parameters = { "deliver_scope" = ["etl"], "deliver_key" = [] }
	}`, m.path))}
	courier.may("write", "creds/etl", data{"deliver_scope": "etl", "deliver_key": "token"})
	token, ok := m.value("etl", "token")
	require.True(t, ok)
	require.True(t, m.works(server.secret(token, "a delivered token")))
	for _, scope := range []string{"team-a", "ETL", "etl2"} {
		courier.mayNot("write", "creds/etl", data{"deliver_scope": scope, "deliver_key": "token"})
	}
	courier.mayNot("write", "creds/etl", data{"deliver_scope": "etl", "deliver_key": "token", "ttl": "1m"})
}

// TestPolicyIsNotMetByNothing: Vault lets empty values pass whatever values a policy allows, and compares words as they are.
func TestPolicyIsNotMetByNothing(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	bound := &person{mount: m, client: m.loginWith(fmt.Sprintf(`
		path "%[1]s/creds/etl" {
			capabilities        = ["update"]
			required_parameters = ["scopes", "deliver_scope", "deliver_key"]
			allowed_parameters  = { "scopes" = ["sql"], "deliver_scope" = ["etl"], "deliver_key" = ["token"] }
		}
		path "%[1]s/acls/etl/*" {
			capabilities      = ["update"]
			denied_parameters = { "permission" = ["WRITE", "MANAGE"] }
		}`, m.path))}
	bound.may("write", "creds/etl", data{"scopes": "sql", "deliver_scope": "etl", "deliver_key": "token"})
	for _, body := range []data{
		{"scopes": "", "deliver_scope": "etl", "deliver_key": "token"}, {"scopes": []any{}, "deliver_scope": "etl", "deliver_key": "token"},
		{"scopes": "sql", "deliver_scope": "", "deliver_key": ""}, {"scopes": "sql", "deliver_scope": []any{}, "deliver_key": []any{}},
	} {
		_, err := bound.try("write", "creds/etl", body)
		requireRefused(t, err, 400)
	}
	bound.may("write", "acls/etl/engineers", data{"permission": "READ"})
	bound.mayNot("write", "acls/etl/engineers", data{"permission": "MANAGE"})
	for _, permission := range []any{"manage", "Manage", "MANAGE ", []any{"MANAGE"}} {
		_, err := bound.try("write", "acls/etl/engineers", data{"permission": permission})
		require.Error(t, err, "%v", permission)
	}
	require.Equal(t, "READ", m.permission("etl", "engineers"))
}

func TestPolicyEndsLeasesOfOneScope(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	lease := func(path string, body data) *api.Secret {
		body["ttl"] = "1h"
		return m.write(path, body)
	}
	secret := lease("secrets/team-a/leased", data{"string_value": "leased-under-a-policy"})
	grant := lease("acls/team-a/engineers", data{"permission": "READ"})
	others := []*api.Secret{lease("secrets/team-b/leased", data{"string_value": "leased-under-a-policy"}), lease("acls/team-b/engineers", data{"permission": "READ"})}
	team := m.loginWith(fmt.Sprintf(`
		path "sys/leases/revoke/%[1]s/secrets/team-a/leased/+" { capabilities = ["update"] }
		path "sys/leases/revoke/%[1]s/acls/team-a/*" { capabilities = ["update"] }`, m.path))
	for _, other := range others {
		requireRefused(t, team.Sys().RevokeWithOptions(revokeNow(other)), 403)
	}
	below := lease("secrets/team-a/leased/below", data{"string_value": "leased-under-a-policy"})
	requireRefused(t, team.Sys().RevokeWithOptions(revokeNow(below)), 403)
	require.NoError(t, team.Sys().RevokeWithOptions(revokeNow(secret)))
	require.NoError(t, team.Sys().RevokeWithOptions(revokeNow(grant)))
	require.NotContains(t, m.stored("team-a"), "leased")
	require.Contains(t, m.stored("team-a"), "leased/below")
	require.Empty(t, m.permission("team-a", "engineers"))
	require.Contains(t, m.stored("team-b"), "leased")
	require.Equal(t, "READ", m.permission("team-b", "engineers"))
}

// TestPolicyForPartOfAScope allows the keys that begin with a prefix, and no other spelling of it.
func TestPolicyForPartOfAScope(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	value := data{"string_value": server.secret("kept-in-a-part-of-a-scope", "a secret")}
	m.write("secrets/etl/other/key", value)
	part := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/secrets/etl/part/*" { capabilities = ["read", "update", "delete", "list"] }`, m.path))}
	part.may("write", "secrets/etl/part/key", value)
	part.may("write", "secrets/etl/part/sub/key", value)
	require.Equal(t, value["string_value"], part.may("read", "secrets/etl/part/key", nil).Data["string_value"])
	require.ElementsMatch(t, []any{"key", "sub/key"}, part.may("list", "secrets/etl/part", nil).Data["keys"])
	require.ElementsMatch(t, []any{"key"}, part.may("list", "secrets/etl/part/sub", nil).Data["keys"])
	part.may("delete", "secrets/etl/part/key", nil)
	part.mayDoNothingWith("secrets/etl", "secrets/etl/there", "secrets/etl/other", "secrets/etl/other/key", "secrets/etl/PART/key", "secrets/ETL/part/key", "secrets/etl/parts/key")
	part.mayNotSneakTo("secrets/etl/part/../other/key", value)
	part.mayNotSneakTo("secrets/etl/part//key", value)
	part.mayNotSneakTo("secrets/etl/part/%2e%2e/other/key", value)
	require.Equal(t, map[string]any{"there": "kept-from-etl-policies", "other/key": value["string_value"], "part/sub/key": value["string_value"]}, m.stored("etl"))
	plus := &person{mount: m, client: m.loginWith(fmt.Sprintf(`path "%s/secrets/etl/+" { capabilities = ["update"] }`, m.path))}
	plus.may("write", "secrets/etl/plain", value)
	plus.mayNot("write", "secrets/etl/part/key", value)
}

func TestPolicyOfAStaticReader(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	for _, name := range []string{"dash", "dash2", "other"} {
		m.write("static-roles/"+name, data{"credential_type": "pat", "rotation_period": "24h"})
	}
	reader := m.loginAs("static-reader")
	shared := reader.may("read", "static-creds/dash", nil)
	require.Equal(t, m.creds("dash").secret, tokenOf(shared))
	require.Empty(t, shared.LeaseID)

	reader.mayNot("write", "static-creds/dash", data{})
	reader.mayNot("delete", "static-creds/dash", nil)
	reader.mayNot("list", "static-creds/dash", nil)
	reader.mayDoNothingWith("static-creds/other", "static-creds/dash2", "static-creds/DASH", "static-creds", "static-roles", "static-roles/dash", "rotate-role/dash",
		"config", "config/rotate-root", "roles", "roles/etl", "creds/etl", "scopes", "secrets/etl/there", "acls/etl", "tokens", "status")
	reader.mayNotSneakTo("static-creds/dash/../other", data{})
	require.Equal(t, tokenOf(shared), m.creds("dash").secret)
}

func TestPolicyOfARotationOperator(t *testing.T) {
	t.Parallel()
	m := policyMount(t)
	m.write("static-roles/bi", data{"credential_type": "pat", "rotation_period": "24h"})
	before := m.creds("bi")
	operator := m.loginAs("rotation-operator")
	seen := []*api.Secret{
		operator.may("write", "rotate-role/bi", data{}),
		operator.may("write", "config/rotate-root", data{}),
		operator.may("read", "static-roles/bi", nil),
		operator.may("list", "static-roles", nil),
		operator.may("read", "config", nil),
		operator.may("read", "status", nil),
	}
	after := m.creds("bi")
	require.NotEqual(t, before.id, after.id)
	require.NotEmpty(t, m.read("config")["credential_id"])
	for _, secret := range seen {
		for _, value := range []string{before.secret, after.secret, m.token} {
			require.NotContains(t, fmt.Sprint(secret.Data), value)
		}
	}

	operator.mayDoNothingWith("static-creds/bi", "static-creds", "roles", "roles/etl", "creds/etl", "scopes", "secrets/etl/there", "acls/etl", "tokens", "tokens/"+m.tokenID)
	for _, path := range []string{"static-roles/bi", "config"} {
		operator.mayNot("write", path, data{"rotation_period": "48h"})
		operator.mayNot("delete", path, nil)
	}
}
