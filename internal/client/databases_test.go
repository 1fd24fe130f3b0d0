// SPDX-License-Identifier: MPL-2.0

package client

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDatabaseLogin(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(10 * time.Minute).UTC().Truncate(time.Millisecond)
	endpoint := Database{Endpoint: "projects/shop/branches/main/endpoints/primary"}
	instances := Database{Instances: []string{"orders", "stock"}, Tables: []string{"a.b.c"}}
	for name, row := range map[string]struct {
		wanted       NewDatabaseLogin
		field        string
		path, body   string
		authorizedBy string
	}{
		"endpoint": {NewDatabaseLogin{Database: endpoint, Lifetime: 10 * time.Minute, RequestID: "n"}, "expire_time", "/api/2.0/postgres/credentials",
			`{"endpoint":"projects/shop/branches/main/endpoints/primary","ttl":"600s"}`, patConfig("").Token.Reveal()},
		"instances": {NewDatabaseLogin{Database: instances, RequestID: "n"}, "expiration_time", "/api/2.0/database/credentials",
			`{"instance_names":["orders","stock"],"request_id":"n","claims":[{"permission_set":"READ_ONLY","resources":[{"table_name":"a.b.c"}]}]}`, patConfig("").Token.Reveal()},
		"of another identity": {NewDatabaseLogin{Database: endpoint, Lifetime: 5 * time.Minute, Bearer: "foreign-access-token"}, "expire_time", "/api/2.0/postgres/credentials",
			`{"endpoint":"projects/shop/branches/main/endpoints/primary","ttl":"300s"}`, "foreign-access-token"},
	} {
		s := newScript(t, answer(200, fmt.Sprintf(`{"token":"password-of-the-database","%s":"%s"}`, row.field, soon.Format(time.RFC3339Nano))))
		c := newClient(t, patConfig(s.URL))
		login, err := c.CreateDatabaseLogin(t.Context(), row.wanted)
		require.NoError(t, err, name)
		require.Equal(t, Secret("password-of-the-database"), login.Password)
		require.Equal(t, soon, login.Expires)
		require.InDelta(t, 600, login.Lifetime.Seconds(), 3)
		require.NotContains(t, fmt.Sprintf("%+v", login), "password-of")
		sent := s.all()[0]
		require.Equal(t, "POST "+row.path, sent.line)
		require.JSONEq(t, row.body, sent.body)
		require.Equal(t, "Bearer "+row.authorizedBy, sent.header.Get("Authorization"))
		require.Equal(t, row.wanted.Bearer != "", c.LastSuccess().IsZero(), "another's token says nothing of our credential")
	}

	// A refusal repeats neither token, and says nothing of our credential where it isn't ours.
	for _, row := range []struct {
		body string
		kind Kind
		hint string
	}{
		{`{"error_code":"UNAUTHENTICATED","message":"bad foreign-access-token"}`, Refused, "check that the service principal is active"},
		{`{"error_code":403,"message":"Invalid access to Org: 4242"}`, NotInWorkspace, "add it to the workspace"},
		{`{"error_code":403,"message":"Provided access token does not have required scopes: postgres"}`, ScopeMissing, "a policy of the account"},
		{`{"error_code":403,"message":"Unauthorized network access to workspace: 4242"}`, NetworkDenied, "this network"},
	} {
		s := newScript(t, answer(403, row.body))
		_, err := newClient(t, oauthConfig(s.URL)).CreateDatabaseLogin(t.Context(), NewDatabaseLogin{Database: endpoint, Lifetime: 5 * time.Minute, Bearer: "foreign-access-token"})
		require.True(t, IsKind(err, row.kind), "%v", err)
		require.ErrorContains(t, err, row.hint)
		for _, not := range []string{"foreign-access-token", "config", "connect with", "azure_workspace_resource_id", "this identity"} {
			require.NotContains(t, err.Error(), not)
		}
		require.Len(t, s.all(), 1)
	}
	s := newScript(t, answer(503, `{"error_code":"TEMPORARILY_UNAVAILABLE","message":"Authentication is temporarily unavailable"}`))
	_, err := newClient(t, patConfig(s.URL)).CreateDatabaseLogin(t.Context(), NewDatabaseLogin{Database: endpoint, Lifetime: 5 * time.Minute, Bearer: "foreign-access-token"})
	require.True(t, IsKind(err, Unavailable))
	require.NotContains(t, err.Error(), "auth_type")

	// A workspace without Lakebase has no such path. A gateway's 404 doesn't say so.
	for body, words := range map[string]string{
		`{"error_code":"ENDPOINT_NOT_FOUND","message":"No API found for 'POST /postgres/credentials'"}`: "this workspace has no Lakebase API",
		"404 page not found": hintHost,
	} {
		s := newScript(t, answer(404, body))
		c := newClient(t, patConfig(s.URL))
		for _, wanted := range []NewDatabaseLogin{{Database: endpoint, Lifetime: 5 * time.Minute}, {Database: instances}, {Database: instances, Bearer: "foreign-access-token"}} {
			_, err := c.CreateDatabaseLogin(t.Context(), wanted)
			require.True(t, IsKind(err, Refused))
			require.ErrorContains(t, err, words)
		}
		_, err := c.EndpointHost(t.Context(), endpoint.Endpoint)
		require.ErrorContains(t, err, words)
		_, err = c.InstanceHost(t.Context(), "orders")
		require.ErrorContains(t, err, words)
	}

	for _, body := range []string{`{}`, `{"token":"x"}`, `{"token":"","expire_time":"2100-01-01T00:00:00Z"}`, `{"token":"x","expire_time":"soon"}`, `{"token":"x","expire_time":"2001-01-01T00:00:00Z"}`} {
		s := newScript(t, answer(200, body))
		_, err := newClient(t, patConfig(s.URL)).CreateDatabaseLogin(t.Context(), NewDatabaseLogin{Database: endpoint, Lifetime: 5 * time.Minute})
		require.True(t, IsKind(err, Unavailable), body)
	}
	_, err = newClient(t, patConfig(s.URL)).CreateDatabaseLogin(t.Context(), NewDatabaseLogin{Database: endpoint})
	require.True(t, IsKind(err, Refused), "it would live for as long as Databricks likes")
}

func TestDatabaseHosts(t *testing.T) {
	t.Parallel()
	s := newScript(t, answer(200, `{"status":{"hosts":{"host":"ep.example.com","read_only_host":"ro.example.com"}}}`), answer(200, `{"read_write_dns":"i.example.com"}`), answer(200, `{"name":"x"}`),
		answer(404, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no"}`))
	c := newClient(t, patConfig(s.URL))
	host, err := c.EndpointHost(t.Context(), "projects/p/branches/b/endpoints/e")
	require.NoError(t, err)
	require.Equal(t, "ep.example.com", host)
	host, err = c.InstanceHost(t.Context(), "orders")
	require.NoError(t, err)
	require.Equal(t, "i.example.com", host)
	host, err = c.InstanceHost(t.Context(), "orders")
	require.NoError(t, err)
	require.Empty(t, host)
	_, err = c.InstanceHost(t.Context(), "orders")
	require.True(t, IsGone(err))
	require.Equal(t, "GET /api/2.0/postgres/projects/p/branches/b/endpoints/e", s.all()[0].line)
	require.Equal(t, "GET /api/2.0/database/instances/orders", s.all()[1].line)
}
