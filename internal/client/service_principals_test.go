// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	appID  = "6f5ccf28-d83a-4957-9bfb-5bbfac551410"
	spBody = `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:ServicePrincipal"],"id":"1234567890123456","applicationId":"` + appID + `","displayName":"vault-etl","active":true,"groups":[{"value":"987","display":"etl"}]}`
)

var (
	spValue = ServicePrincipal{ID: "1234567890123456", ApplicationID: appID, DisplayName: "vault-etl", Active: true}
	scimWS  = "/api/2.0/preview/scim/v2/"
)

func spList(total int, resources ...string) string {
	list := ""
	if len(resources) > 0 {
		list = `,"Resources":[` + strings.Join(resources, ",") + `]`
	}
	return fmt.Sprintf(`{"totalResults":%d,"startIndex":1,"itemsPerPage":%d%s}`, total, len(resources), list)
}

func spNamed(name string) string {
	return `{"id":"` + name + `","applicationId":"app-` + name + `","displayName":` + inJSON(name) + `}`
}

func TestServicePrincipalRequests(t *testing.T) {
	t.Parallel()
	newSP := NewServicePrincipal{DisplayName: "vault <&> é", GroupIDs: []string{"987", "988"}, Entitlements: []string{"workspace-access"}}
	table := []struct {
		name    string
		answer  http.HandlerFunc
		do      func(context.Context, *Client) (any, error)
		want    any
		request string // method and path below the SCIM base
		query   string
		body    string
	}{
		{"get", answer(200, spBody), func(ctx context.Context, c *Client) (any, error) {
			return c.GetServicePrincipal(ctx, "1234567890123456")
		},
			&spValue, "GET ServicePrincipals/1234567890123456", "", ""},
		{"find", answer(200, spList(1, spBody)), func(ctx context.Context, c *Client) (any, error) {
			return c.FindServicePrincipal(ctx, strings.ToUpper(appID))
		}, &spValue, "GET ServicePrincipals", "attributes=id,applicationId,displayName,active,groups,roles\ncount=10000\nfilter=applicationId eq \"" + strings.ToUpper(appID) + "\"\nstartIndex=1", ""},
		{"named", answer(200, spList(2, spBody, `{"id":"2","displayName":"Vault-other"}`)), func(ctx context.Context, c *Client) (any, error) {
			return c.ServicePrincipalsNamed(ctx, `vault-`)
		}, []ServicePrincipal{spValue}, "GET ServicePrincipals", "attributes=id,applicationId,displayName,active\ncount=10000\nfilter=displayName co \"vault-\"\nstartIndex=1", ""},
		{"delete", answer(204, ""), func(ctx context.Context, c *Client) (any, error) {
			return nil, c.DeleteServicePrincipal(ctx, "1234567890123456")
		}, nil, "DELETE ServicePrincipals/1234567890123456", "", ""},
		{"group", answer(200, `{"totalResults":2,"Resources":[{"id":"7","displayName":"Data \"Eng\\"},{"id":"8","displayName":"data \"eng\\"}]}`), func(ctx context.Context, c *Client) (any, error) {
			return c.GroupID(ctx, `Data "Eng\`)
		}, "7", "GET Groups", "attributes=id,displayName\ncount=10000\nfilter=displayName eq \"Data \\\"Eng\\\\\"\nstartIndex=1", ""},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, account := range []bool{false, true} {
				s := newScript(t, onAccount(row.answer))
				cfg, base := patConfig(s.URL), scimWS
				if account {
					cfg, base = accountConfig(s.URL), accountPath+"/scim/v2/"
				}
				got, err := row.do(t.Context(), newClient(t, cfg))
				require.NoError(t, err)
				require.Equal(t, row.want, got)
				all := s.all()
				last := all[len(all)-1]
				method, path, _ := strings.Cut(row.request, " ")
				require.Equal(t, method+" "+base+path, last.line)
				require.Equal(t, row.query, last.query)
				require.Equal(t, row.body, last.body)
			}
		})
	}

	t.Run("create", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, answer(201, spBody))
		cfg := patConfig(s.URL)
		cfg.WorkspaceID = "900800700600"
		sp, retried, err := newClient(t, cfg).CreateServicePrincipal(t.Context(), newSP)
		require.NoError(t, err)
		require.False(t, retried)
		require.Equal(t, &spValue, sp)
		sent := s.all()[0]
		require.Equal(t, "POST "+scimWS+"ServicePrincipals", sent.line)
		require.Equal(t, "900800700600", sent.header.Get("X-Databricks-Workspace-Id"))
		require.JSONEq(t, `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:ServicePrincipal"],"active":true,"displayName":"vault <&> é",
			"groups":[{"value":"987"},{"value":"988"}],"entitlements":[{"value":"workspace-access"}]}`, sent.body)
	})
	t.Run("create on an account", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, onAccount(answer(201, spBody)))
		c := newClient(t, accountConfig(s.URL))
		for _, bad := range []NewServicePrincipal{{Entitlements: newSP.Entitlements}, {GroupIDs: newSP.GroupIDs}} {
			_, _, err := c.CreateServicePrincipal(t.Context(), bad)
			e := failureOf(t, err)
			require.Equal(t, Refused, e.Kind)
			require.True(t, e.Unprocessed)
		}
		require.Empty(t, s.all())
		sp, _, err := c.CreateServicePrincipal(t.Context(), NewServicePrincipal{DisplayName: "x"})
		require.NoError(t, err)
		require.Equal(t, &spValue, sp)
		sent := s.all()[1]
		require.Equal(t, "POST "+accountPath+"/scim/v2/ServicePrincipals", sent.line)
		require.Equal(t, "Bearer account-token", sent.header.Get("Authorization"))
		require.Empty(t, sent.header.Get("X-Databricks-Workspace-Id"))
		require.JSONEq(t, `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:ServicePrincipal"],"active":true,"displayName":"x"}`, sent.body)
	})
}

func TestListsComeInPages(t *testing.T) {
	t.Parallel()
	for name, turns := range map[string][]http.HandlerFunc{
		"with a total":    {answer(200, spList(3, spNamed("v1"), spNamed("v2"))), answer(500, ""), answer(200, spList(3, spNamed("v3")))},
		"without a total": {answer(200, spList(0, spNamed("v1"), spNamed("v2"))), answer(200, spList(0, spNamed("v3"))), answer(200, spList(0))},
		"shorter by now":  {answer(200, spList(9, spNamed("v1"), spNamed("v2"))), answer(200, spList(9, spNamed("v3"))), answer(200, spList(3))},
	} {
		s := newScript(t, turns...)
		c := newClient(t, patConfig(s.URL))
		listed, err := c.ServicePrincipalsNamed(t.Context(), "v")
		require.NoError(t, err, name)
		require.Len(t, listed, 3, name)
		require.Equal(t, "app-v3", listed[2].ApplicationID)
		all := s.all()
		require.Len(t, all, 3, name)
		require.Contains(t, all[0].query, "startIndex=1")
		require.Contains(t, all[1].query, "startIndex=3")
	}

	s := newScript(t, answer(200, spList(0, spNamed("v1"))))
	_, err := newClient(t, patConfig(s.URL)).ServicePrincipalsNamed(t.Context(), "v")
	e := failureOf(t, err)
	require.Equal(t, Unavailable, e.Kind)
	require.Contains(t, err.Error(), "the list has no end")
	require.Len(t, s.all(), maxPages)

	s = newScript(t, answer(200, spList(3, spNamed("v1"), spNamed("v2"))), answer(403, scim("403", "is only accessible by admins")))
	listed, err := newClient(t, patConfig(s.URL)).ServicePrincipalsNamed(t.Context(), "v")
	require.Equal(t, PermissionDenied, failureOf(t, err).Kind)
	require.Nil(t, listed, "half a list must not pass for a whole one")
}

func TestAbsentInAList(t *testing.T) {
	t.Parallel()
	for _, body := range []string{spList(0), spList(1, spNamed("other")), emptyObject} {
		c := newClient(t, patConfig(newScript(t, answer(200, body)).URL))
		_, err := c.FindServicePrincipal(t.Context(), appID)
		e := failureOf(t, err)
		require.Equal(t, NotFound, e.Kind)
		require.Equal(t, "scim/service-principals/list", e.Op)
		require.Equal(t, `scim/service-principals/list: Databricks does not know it: no service principal has the application id "`+appID+`"`, err.Error())

		_, err = c.GroupID(t.Context(), "etl")
		require.Equal(t, NotFound, failureOf(t, err).Kind)
		require.Contains(t, err.Error(), `scim/groups/list: Databricks does not know it: no group has the display name "etl"`)

		named, err := c.ServicePrincipalsNamed(t.Context(), "vault-")
		require.NoError(t, err)
		require.Empty(t, named)
	}
}

func TestAListThatIsAbsentIsNotEmpty(t *testing.T) {
	t.Parallel()
	c := newClient(t, patConfig(newScript(t, answer(404, scim("404", "Account x not found."))).URL))
	_, find := c.FindServicePrincipal(t.Context(), appID)
	_, named := c.ServicePrincipalsNamed(t.Context(), "vault-")
	_, group := c.GroupID(t.Context(), "etl")
	for _, err := range []error{find, named, group} {
		e := failureOf(t, err)
		require.Equal(t, Refused, e.Kind)
		require.Contains(t, err.Error(), "Account x not found.; check that host")
	}
}

func TestAmbiguousGroup(t *testing.T) {
	t.Parallel()
	c := newClient(t, patConfig(newScript(t, answer(200, `{"totalResults":2,"Resources":[{"id":"7","displayName":"etl"},{"id":"8","displayName":"etl"}]}`)).URL))
	_, err := c.GroupID(t.Context(), "etl")
	e := failureOf(t, err)
	require.Equal(t, Refused, e.Kind)
	require.Equal(t, `scim/groups/list: the group is not the only one of its name: "etl" is the display name of the groups 7, 8; rename one of them`, err.Error())
}

func TestEmptyPrefixIsRefused(t *testing.T) {
	t.Parallel()
	s := newScript(t, healthy)
	_, err := newClient(t, patConfig(s.URL)).ServicePrincipalsNamed(t.Context(), "")
	require.True(t, failureOf(t, err).Unprocessed)
	require.Empty(t, s.all())
}

func TestIDsInPathsAreChecked(t *testing.T) {
	t.Parallel()
	s := newScript(t, healthy)
	c := newClient(t, patConfig(s.URL))
	ctx := t.Context()
	for _, id := range []string{"", ".", "..", "a/b", "a?b", "a b", "a%2fb", "é", strings.Repeat("a", 129)} {
		_, get := c.GetServicePrincipal(ctx, id)
		_, create := c.CreateOAuthSecret(ctx, id, time.Hour, nil)
		_, list := c.ListOAuthSecrets(ctx, id)
		for _, err := range []error{get, create, list, c.DeleteServicePrincipal(ctx, id), c.DeleteOAuthSecret(ctx, id, "a"), c.DeleteOAuthSecret(ctx, "1", id)} {
			e := failureOf(t, err)
			require.Equal(t, Refused, e.Kind)
			require.True(t, e.Unprocessed)
			require.Contains(t, err.Error(), "id, which has letters")
		}
	}
	require.Empty(t, s.all())
}

// creates are the calls that must not make two of anything.
var creates = []struct {
	op   string
	body string
	do   func(context.Context, *Client) (retried bool, err error)
}{
	{"scim/service-principals/create", spBody, func(ctx context.Context, c *Client) (bool, error) {
		_, retried, err := c.CreateServicePrincipal(ctx, NewServicePrincipal{DisplayName: "x"})
		return retried, err
	}},
	{"oauth-secrets/create", oauthSecretBody, func(ctx context.Context, c *Client) (bool, error) {
		secret, err := c.CreateOAuthSecret(ctx, "1", time.Hour, nil)
		return secret != nil && secret.Retried, err
	}},
	{"token-management/create-obo", createdBody, func(ctx context.Context, c *Client) (bool, error) {
		created, err := c.CreateOBOToken(ctx, CreateOBOTokenRequest{ApplicationID: appID, Lifetime: time.Hour})
		return created != nil && created.Retried, err
	}},
}

func TestCreatesAreRepeatedOnlyWhenTurnedAway(t *testing.T) {
	t.Parallel()
	table := []struct {
		name    string
		fault   http.HandlerFunc
		retried bool
		kind    Kind
	}{
		{"429", answer(429, ""), true, 0},
		{"503", answer(503, scim("503", "busy")), true, 0},
		{"reset", reset, false, Unavailable},
		{"500", answer(500, ""), false, Unavailable},
		{"throttled as SCIM does", answer(500, scim("500", "REQUEST_LIMIT_EXCEEDED: Workspace 1")), false, Throttled},
		{"nothing in it", answer(200, emptyObject), false, Unavailable},
		{"empty", answer(200, ""), false, Unavailable},
		{"truncated", answer(200, `{"id":"1","secret":"dose9999`), false, Unavailable},
	}
	for _, create := range creates {
		for _, row := range table {
			t.Run(create.op+" "+row.name, func(t *testing.T) {
				t.Parallel()
				s := newScript(t, row.fault, answer(200, create.body))
				retried, err := create.do(t.Context(), newClient(t, patConfig(s.URL)))
				if row.retried {
					require.NoError(t, err)
					require.True(t, retried)
					require.Len(t, s.all(), 2)
					return
				}
				e := failureOf(t, err)
				require.Equal(t, row.kind.String(), e.Kind.String())
				require.Equal(t, create.op, e.Op)
				require.False(t, e.Unprocessed)
				require.NotContains(t, err.Error(), "dose")
				require.Len(t, s.all(), 1)
			})
		}
	}
}

func TestSCIMErrors(t *testing.T) {
	t.Parallel()
	table := []struct {
		name   string
		status int
		body   string
		kind   Kind
		text   string
	}{
		{"exists", 409, scim("409", "Service principal with application ID x already exists."), Refused, "SCIM_409 (HTTP 409): Service principal with application ID x already exists."},
		{"exists, with another status", 500, scim("500", "Service principal with application ID x already exists."), Refused, "already exists."},
		{"not admin", 403, scim("403", "POST /api/2.0/preview/scim/v2/ServicePrincipals is only accessible by admins."), PermissionDenied, "only accessible by admins"},
		{"account full", 400, envelope("QUOTA_EXCEEDED", "Cannot have more than 10000 users and service principals in one account"), QuotaExceeded, "10000"},
		{"account full, in words", 400, scim("400", "Cannot have more than 10000 users and service principals in one account"), QuotaExceeded, "10000"},
		{"account full, as a code in words", 403, scim("403", "QUOTA_EXCEEDED: no"), QuotaExceeded, "no"},
		{"no such group", 404, scim("404", "Group with id 1 not found."), NotFound, "Group with id 1"},
		{"entitlements", 400, `{"detail":"Entitlements are managed in workspaces","scimType":"invalidValue","status":"400"}`, Refused, "invalidValue Entitlements"},
		{"credential", 401, `{"error_code":401,"message":"Credential was not sent or was of an unsupported type for this API."}`, Unauthenticated, "unsupported type"},
		{"about to expire", 403, `{"message":"The token expires within 30 seconds"}`, Unauthenticated, "30 seconds"},
	}
	for _, row := range table {
		s := newScript(t, answer(row.status, row.body))
		cfg := patConfig(s.URL)
		cfg.MaxRetries = 0
		_, _, err := newClient(t, cfg).CreateServicePrincipal(t.Context(), NewServicePrincipal{DisplayName: "x"})
		e := failureOf(t, err)
		require.Equal(t, row.kind.String(), e.Kind.String(), row.name)
		require.Contains(t, err.Error(), row.text, row.name)
		require.Equal(t, row.status < 500, e.Unprocessed, row.name)
	}
}

func TestWhatIsGone(t *testing.T) {
	t.Parallel()
	deletes := map[string]func(context.Context, *Client) error{
		"service principal": func(ctx context.Context, c *Client) error { return c.DeleteServicePrincipal(ctx, "1") },
		"secret":            func(ctx context.Context, c *Client) error { return c.DeleteOAuthSecret(ctx, "1", "a") },
	}
	table := []struct {
		name   string
		status int
		body   string
		gone   bool
	}{
		{"SCIM", 404, scim("404", "1 not found"), true},
		{"code", 404, envelope("NOT_FOUND", "no"), true},
		{"older code", 400, envelope("RESOURCE_DOES_NOT_EXIST", "no"), true},
		{"in words", 400, envelope("INVALID_PARAMETER_VALUE", "NOUN 1 does not exist"), true},
		{"in words without a code", 404, `{"message":"NOUN 1 was not found"}`, true},
		{"other words", 400, envelope("INVALID_PARAMETER_VALUE", "The workspace does not exist"), false},
		{"other words without a code", 404, `{"message":"no route"}`, false},
		{"unknown path", 404, envelope("ENDPOINT_NOT_FOUND", "No API found for NOUN"), false},
		{"proxy", 404, "<html>NOUN not found</html>", false},
		{"refused", 400, envelope("INVALID_PARAMETER_VALUE", "NOUN is special"), false},
	}
	for noun, remove := range deletes {
		for _, row := range table {
			s := newScript(t, answer(row.status, strings.ReplaceAll(row.body, "NOUN", noun)))
			e := failureOf(t, remove(t.Context(), newClient(t, patConfig(s.URL))))
			require.Equal(t, row.gone, e.Kind == NotFound, "%s, %s: %v", noun, row.name, e)
			require.Len(t, s.all(), 1)
		}
		s := newScript(t, reset, answer(503, ""), answer(204, ""))
		require.NoError(t, remove(t.Context(), newClient(t, patConfig(s.URL))), "a delete may be repeated")
		require.Len(t, s.all(), 3)
	}
	c := newClient(t, patConfig(newScript(t, answer(400, envelope("INVALID_PARAMETER_VALUE", "Service principal 1 does not exist"))).URL))
	require.Equal(t, NotFound, failureOf(t, c.DeleteOAuthSecret(t.Context(), "1", "a")).Kind, "the secret went with its service principal")
}

func TestNoSuchServicePrincipal(t *testing.T) {
	t.Parallel()
	for _, body := range []string{scim("404", "User 1 not found."), `{"error_code":404,"message":"no"}`, envelope("RESOURCE_DOES_NOT_EXIST", "no")} {
		sp, err := newClient(t, patConfig(newScript(t, answer(404, body)).URL)).GetServicePrincipal(t.Context(), "1")
		e := failureOf(t, err)
		require.Equal(t, NotFound, e.Kind)
		require.Equal(t, "scim/service-principals/get", e.Op)
		require.Nil(t, sp)
	}
}

func TestIncompleteServicePrincipal(t *testing.T) {
	t.Parallel()
	for _, body := range []string{emptyObject, `{"id":"1"}`, `{"applicationId":"x"}`, `{"id":{"a":1}}`} {
		_, err := newClient(t, patConfig(newScript(t, answer(200, body)).URL)).GetServicePrincipal(t.Context(), "1")
		require.Equal(t, Unavailable, failureOf(t, err).Kind, body)
	}
}

func TestMeOnAnAccount(t *testing.T) {
	t.Parallel()
	s := newScript(t, onAccount(answer(200, spList(1, spBody))))
	who, err := newClient(t, accountConfig(s.URL)).Me(t.Context())
	require.NoError(t, err)
	require.Equal(t, &Identity{ID: "1234567890123456", UserName: appID, DisplayName: "vault-etl", ServicePrincipal: true}, who)

	_, err = newClient(t, accountConfig(newScript(t, onAccount(answer(200, spList(0)))).URL)).Me(t.Context())
	e := failureOf(t, err)
	require.Equal(t, Refused, e.Kind, "nobody's absence may be read into it")
	require.Contains(t, err.Error(), "the account does not know the identity of this connection")
	require.Contains(t, err.Error(), "check account_id")

	_, err = newClient(t, accountConfig(newScript(t, onAccount(answer(403, scim("403", "no")))).URL)).Me(t.Context())
	require.Equal(t, PermissionDenied, failureOf(t, err).Kind)
}
