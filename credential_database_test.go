// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	shopEndpoint = "projects/shop/branches/production/endpoints/primary"
	shopHost     = "ep-shop-1.database.us-east-1.cloud.databricks.com"

	endpointLoginPath = "/api/2.0/postgres/credentials"
	instanceLoginPath = "/api/2.0/database/credentials"
)

// databaseReady is a mount that is connected as a service principal, with an endpoint, two instances and a role of the engine's own for each.
func databaseReady(t *testing.T, opts ...simulator.Option) (*mount, simulator.Principal) {
	m, engine := m2mReady(t, opts...)
	m.workspace.AddDatabaseEndpoint(shopEndpoint, shopHost)
	m.workspace.AddDatabaseInstance("orders", "instance-orders.database.cloud.databricks.com")
	m.workspace.AddDatabaseInstance("stock", "instance-stock.database.cloud.databricks.com")
	m.write("roles/shop", map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint, "ttl": "15m"})
	m.write("roles/orders", map[string]any{"credential_type": "database_credential", "database_instances": "orders"})
	m.workspace.ResetCalls()
	return m, engine
}

// login logs in with a new credential, which must say when it ends.
func (m *mount) databaseSession(creds *logical.Response) simulator.DatabaseSession {
	m.t.Helper()
	session, ok := m.workspace.DatabaseLogin(creds.Data["username"].(string), m.hidden(creds, "password"))
	require.True(m.t, ok)
	require.WithinDuration(m.t, session.Expires, m.moment(creds.Data["expiry_time"]), 2*time.Second)
	require.WithinDuration(m.t, session.Expires, time.Now().Add(creds.Secret.TTL), 5*time.Second)
	require.False(m.t, creds.Secret.Renewable)
	return session
}

func TestDatabaseCredentialOfTheEngine(t *testing.T) {
	t.Parallel()
	m, engine := databaseReady(t)
	creds := m.mint("shop")
	require.Equal(t, []string{"POST " + endpointLoginPath}, m.requests(), "a mint is one call")
	require.Equal(t, map[string]any{"endpoint": shopEndpoint, "ttl": "900s"}, m.body(0))
	require.Equal(t, map[string]any{
		"username": engine.ApplicationID, "password": creds.Data["password"], "host": shopHost, "port": 5432, "expiry_time": creds.Data["expiry_time"],
	}, creds.Data)
	require.Empty(t, creds.Warnings)
	require.Equal(t, []string{shopEndpoint}, m.databaseSession(creds).Databases)
	require.InDelta(t, 900, creds.Secret.TTL.Seconds(), 2)
	m.workspace.ResetCalls()
	orders := m.mint("orders")
	require.Equal(t, []string{"POST " + instanceLoginPath}, m.requests())
	require.Equal(t, []any{"orders"}, m.body(0)["instance_names"])
	require.NotContains(t, m.body(0), "ttl")
	require.Equal(t, "instance-orders.database.cloud.databricks.com", orders.Data["host"])
	require.Equal(t, []string{"instances/orders"}, m.databaseSession(orders).Databases)
	require.InDelta(t, 3600, orders.Secret.TTL.Seconds(), 2)

	// It ends by itself, and nothing else ends it.
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	m.workspace.ResetCalls()
	m.end(creds.Secret)
	require.Empty(t, m.requests())
	_, ok := m.workspace.DatabaseLogin(engine.ApplicationID, creds.Data["password"].(string))
	require.True(t, ok, "as is honestly said")
	require.Empty(t, m.walEntries())
}

func TestDatabaseCredentialOfAServicePrincipal(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]simulator.Option{"": nil, "whose tokens end with the secret": {simulator.WithSecretDeleteKillsTokens()}} {
		m, _ := databaseReady(t, opts...)
		job := m.workspace.AddServicePrincipal("job", false)
		m.write("roles/job", map[string]any{"credential_type": "database_credential", "application_id": job.ApplicationID, "database_endpoint": shopEndpoint, "claims": "shop.public.orders,shop.public.items"})
		m.workspace.ResetCalls()
		creds := m.mint("job")
		require.Equal(t, job.ApplicationID, creds.Data["username"], name)
		session := m.databaseSession(creds)
		require.Equal(t, []string{"shop.public.orders", "shop.public.items"}, session.Tables)
		require.InDelta(t, 3600, creds.Secret.TTL.Seconds(), 2, "the longest life, unless ttl is set")
		require.Empty(t, m.workspace.OAuthSecrets(job), "the secret lives for seconds")
		requests := m.requests()
		require.Equal(t, []string{"POST " + grantPath, "POST " + endpointLoginPath}, requests[len(requests)-3:len(requests)-1], "it is made while the secret lives")
		require.Contains(t, requests[len(requests)-1], "DELETE ")
		_, ok := m.workspace.DatabaseLogin(m.admin.UserName, creds.Data["password"].(string))
		require.False(t, ok, "it is nobody else's")
		require.Empty(t, m.walEntries())
	}
}

func TestDatabaseCredentialLife(t *testing.T) {
	t.Parallel()
	m, _ := databaseReady(t)
	for ttl, want := range map[string]time.Duration{"5m": 5 * time.Minute, "10m": 10 * time.Minute, "1h": time.Hour} {
		creds := m.write("creds/shop", map[string]any{"ttl": ttl})
		require.InDelta(t, want.Seconds(), creds.Secret.TTL.Seconds(), 2)
		require.InDelta(t, want.Seconds(), time.Until(m.databaseSession(creds).Expires).Seconds(), 5, "it is the credential's own life")
		require.Empty(t, creds.Warnings)
	}
	creds := m.write("creds/shop", map[string]any{"ttl": "8h"})
	require.InDelta(t, 3600, creds.Secret.TTL.Seconds(), 2)
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "ttl of 8h is more than the 1h")
	m.write("roles/shop", map[string]any{"max_ttl": "20m"})
	creds = m.write("creds/shop", map[string]any{"ttl": "1h"})
	require.InDelta(t, 1200, creds.Secret.TTL.Seconds(), 2)
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "than the 20m")

	m.workspace.ResetCalls()
	for role, data := range map[string]map[string]any{"shop": {"ttl": "4m59s"}, "orders": {"ttl": "30m"}} {
		resp, err := m.do(logical.UpdateOperation, "creds/"+role, data)
		m.refused(resp, err, "ttl: ", "is too short", "1h")
	}
	resp, err := m.do(logical.UpdateOperation, "creds/shop", map[string]any{"scopes": "sql"})
	m.refused(resp, err, "scopes: has no meaning for credential_type database_credential")
	require.Empty(t, m.requests())
	m.write("config", map[string]any{"ttl": "1m", "max_ttl": "2m"})
	creds = m.mint("orders")
	require.InDelta(t, 3600, creds.Secret.TTL.Seconds(), 2, "the lease is as long as the credential")
	require.Contains(t, strings.Join(creds.Warnings, "\n"), "live for 1h at least and can't be revoked, so they outlive the 2m that the config and the mount allow")
	for role, at := range map[string]string{"shop": "5m", "orders": "1h"} {
		require.Contains(t, strings.Join(m.write("roles/"+role, map[string]any{"max_ttl": ""}).Warnings, "\n"), "live for "+at+" at least and can't be revoked, so they outlive the 2m")
	}
	require.Contains(t, strings.Join(m.mint("shop").Warnings, "\n"), "outlive the 2m")
	m.write("config", map[string]any{"ttl": "", "max_ttl": ""})
	m.system.MaxLeaseTTLVal = 4 * time.Minute
	m.restart() // Vault's answers are kept for seconds
	require.Contains(t, strings.Join(m.mint("shop").Warnings, "\n"), "outlive the 4m")
	m.system.MaxLeaseTTLVal = 10 * time.Minute
	m.restart()
	require.Empty(t, m.mint("shop").Warnings)
}

func TestDatabaseIsLookedUpOnce(t *testing.T) {
	t.Parallel()
	m, _ := databaseReady(t)
	write := func(data map[string]any, lookups int, host string) *logical.Response {
		t.Helper()
		m.workspace.ResetCalls()
		data["credential_type"] = "database_credential"
		written := m.write("roles/db", data)
		require.Len(t, m.requests(), lookups, "%v", m.requests())
		require.Equal(t, host, written.Data["database_host"])
		require.Equal(t, written.Data, m.read("roles/db").Data)
		return written
	}
	m.mint("orders")
	resp := write(map[string]any{"database_endpoint": shopEndpoint}, 1, shopHost)
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "connections that it has opened outlive even that")
	write(map[string]any{"ttl": "10m"}, 0, shopHost)
	write(m.read("roles/db").Data, 0, shopHost)
	write(map[string]any{"database_endpoint": "", "database_instances": "stock", "ttl": ""}, 1, "instance-stock.database.cloud.databricks.com")
	resp = write(map[string]any{"database_instances": "stock,orders"}, 2, "")
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "there are several instances")
	require.NotContains(t, m.mint("db").Data, "host", "nor that of the workspace")
	write(map[string]any{"claims": "a.b.c"}, 0, "")
	write(map[string]any{"database_host": "pool.example.com"}, 0, "pool.example.com")
	require.Equal(t, "pool.example.com", m.mint("db").Data["host"])
	write(map[string]any{"database_instances": "orders"}, 1, "instance-orders.database.cloud.databricks.com")

	// A host that is sent is kept, but the database must exist even so. That of another database is not the new one's.
	write(map[string]any{"database_instances": "stock", "database_host": "pool.example.com"}, 1, "pool.example.com")
	body := m.read("roles/db").Data
	body["database_instances"] = "orders"
	write(body, 1, "instance-orders.database.cloud.databricks.com")
	body = m.read("roles/db").Data
	body["database_instances"], body["database_endpoint"] = "", shopEndpoint
	write(body, 1, shopHost)
	write(map[string]any{"database_endpoint": "", "database_instances": "orders,stock", "database_host": "pool.example.com"}, 2, "pool.example.com")
	write(map[string]any{"database_instances": "orders"}, 1, "instance-orders.database.cloud.databricks.com")

	before := m.read("roles/db").Data
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"neither":              {map[string]any{"database_instances": ""}, []string{"database_endpoint: is missing", "or database_instances"}},
		"both":                 {map[string]any{"database_endpoint": shopEndpoint}, []string{"database_instances: can't be combined with database_endpoint"}},
		"no such instance":     {map[string]any{"database_instances": "nothing"}, []string{`database_instances: there is no "nothing" at ` + m.workspace.URL()}},
		"nothing, with a host": {map[string]any{"database_instances": "nothing", "database_host": "pool.example.com"}, []string{`database_instances: there is no "nothing" at ` + m.workspace.URL()}},
		"a path":               {map[string]any{"database_instances": "../x"}, []string{"database_instances: "}},
		"an ttl for instances": {map[string]any{"ttl": "30m"}, []string{"ttl: 30m is out of range", "always lives for 1h"}},
		"a host with a scheme": {map[string]any{"database_host": "https://x"}, []string{"database_host: ", "not a host name"}},
		"a host with a port":   {map[string]any{"database_host": "x:5432"}, []string{"database_host: "}},
		"half a table":         {map[string]any{"claims": "public.orders"}, []string{`claims: "public.orders"`, "catalog.schema.table"}},
		"another type":         {map[string]any{"credential_type": "pat"}, []string{"has no meaning for credential_type pat"}},
		"scopes":               {map[string]any{"scopes": "sql"}, []string{"scopes: has no meaning"}},
		"a number":             {map[string]any{"database_endpoint": 7}, []string{"database_endpoint: is not a string"}},
	} {
		resp, err := m.do(logical.UpdateOperation, "roles/db", row.data)
		m.refused(resp, err, row.words...)
		require.Equal(t, before, m.read("roles/db").Data, name)
	}
	for field, values := range map[string][]any{
		"database_endpoint": {"shop", "projects/shop/branches/b", "projects/../branches/b/endpoints/e", "projects/a/branches/b/endpoints/e/x", "projects/a/branches/b/endpoints/e?x", "projects/a/branches/b/endpoints/none", "/projects/a/branches/b/endpoints/e"},
		"ttl":               {"4m", "2h", "299"},
		"max_ttl":           {"4m", 1},
	} {
		for _, value := range values {
			data := map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint}
			data[field] = value
			resp, err := m.do(logical.UpdateOperation, "roles/new", data)
			m.refused(resp, err, field+": ")
		}
	}

	// The engine may make logins to what it may not look at.
	for _, status := range []int{403, 404} {
		m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: "/api/2.0/postgres/*", Status: status, ErrorCode: map[int]string{403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND"}[status]})
		resp := m.write("roles/blind", map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint})
		require.Contains(t, strings.Join(resp.Warnings, "\n"), "The host of the database isn't known")
		require.Empty(t, resp.Data["database_host"])
		creds := m.mint("blind")
		require.NotContains(t, creds.Data, "port")
		m.databaseSession(creds)
		m.workspace.ClearFaults()
	}
	m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: "/api/2.0/postgres/*", Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"})
	resp, err := m.do(logical.UpdateOperation, "roles/wrong", map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint})
	m.refused(resp, err, "database_endpoint: Databricks does not take", "INVALID_PARAMETER_VALUE")
	m.workspace.ClearFaults()
	require.Equal(t, shopHost, m.write("roles/blind", map[string]any{"ttl": "10m"}).Data["database_host"], "the next write asks again")

	// One that only a service principal may see is taken, if its host is sent.
	job := m.workspace.AddServicePrincipal("job", false)
	m.workspace.Inject(simulator.Fault{Method: http.MethodGet, Path: "/api/2.0/postgres/*", Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST"})
	hidden := map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint, "application_id": job.ApplicationID}
	resp, err = m.do(logical.UpdateOperation, "roles/hidden", hidden)
	m.refused(resp, err, "database_endpoint: there is no", "that the engine's identity may see", "send its host as database_host")
	hidden["database_host"] = "pool.example.com"
	written := m.write("roles/hidden", hidden)
	require.Equal(t, "pool.example.com", written.Data["database_host"])
	require.Contains(t, strings.Join(written.Warnings, "\n"), "Databricks does not show the engine's identity a database "+shopEndpoint)
	require.NotContains(t, strings.Join(written.Warnings, "\n"), "send it as database_host")
	m.databaseSession(m.mint("hidden"))
	m.workspace.ClearFaults()

	account, _ := accountReady(t)
	resp, err = account.do(logical.UpdateOperation, "roles/db", map[string]any{"credential_type": "database_credential", "database_endpoint": shopEndpoint})
	account.refused(resp, err, "credential_type: database_credential needs a workspace")
}

func TestDatabaseCredentialFaults(t *testing.T) {
	t.Parallel()
	m, engine := databaseReady(t)
	job := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/job", map[string]any{"credential_type": "database_credential", "application_id": job.ApplicationID, "database_endpoint": shopEndpoint})
	m.write("config", map[string]any{"max_retries": 0})
	who := map[string]string{"shop": "the engine's identity, " + engine.ApplicationID, "job": "service principal " + job.ApplicationID}
	for role, identity := range who {
		for name, row := range map[string]struct {
			fault simulator.Fault
			words []string
		}{
			"forbidden": {simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED"}, []string{identity, "may not log in to database endpoint " + shopEndpoint, "PERMISSION_DENIED"}},
			"no API":    {simulator.Fault{Status: 404, ErrorCode: "ENDPOINT_NOT_FOUND"}, []string{identity, "database endpoint " + shopEndpoint, "this workspace has no Lakebase API"}},
			"not there": {simulator.Fault{Status: 403, Body: `{"error_code":403,"message":"Invalid access to Org: 4242"}`}, []string{identity, "database endpoint " + shopEndpoint}},
			"narrow":    {simulator.Fault{Status: 403, Body: `{"error_code":403,"message":"Provided access token does not have required scopes: postgres"}`}, []string{identity, "required scopes: postgres"}},
			"gone":      {simulator.Fault{Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST"}, []string{"database endpoint " + shopEndpoint + " is unknown there; correct database_endpoint"}},
		} {
			row.fault.Path = endpointLoginPath
			m.workspace.Inject(row.fault)
			resp, err := m.do(logical.ReadOperation, "creds/"+role, nil)
			m.refused(resp, err, row.words...)
			require.Equal(t, role == "shop" && name == "narrow", strings.Contains(m.failure(resp, err).Error(), "the credential in the config"), name)
			require.Empty(t, m.walEntries(), name)
			m.workspace.ClearFaults()
		}
		for name, fault := range map[string]simulator.Fault{
			"no token":     {Body: `{"expire_time":"2030-01-01T00:00:00Z"}`},
			"no life":      {Body: `{"token":"a-token-of-a-database","expire_time":"2020-01-01T00:00:00Z"}`},
			"no end":       {Body: `{"token":"a-token-of-a-database"}`},
			"no JSON":      {HTML: true},
			"down":         {Status: 503},
			"a broken end": {Reset: true, AfterEffect: true},
		} {
			fault.Path = endpointLoginPath
			m.workspace.Inject(fault)
			resp, err := m.do(logical.ReadOperation, "creds/"+role, nil)
			m.coded(http.StatusBadGateway, resp, err)
			require.Empty(t, m.workspace.OAuthSecrets(job), name)
			m.workspace.ClearFaults()
		}
		m.rolledBack()
	}
	m.databaseSession(m.mint("job"))

	// A secret that could not be deleted is left to the rollback, and what was made by it is good.
	m.workspace.Inject(simulator.Fault{Method: http.MethodDelete, Path: secretsPath + "*", Status: 503, Times: 1})
	creds := m.mint("job")
	require.Len(t, m.workspace.OAuthSecrets(job), 1)
	m.restart()
	m.rolledBack()
	require.Empty(t, m.workspace.OAuthSecrets(job))
	m.databaseSession(creds)
}

func TestDatabaseCredentialDelivered(t *testing.T) {
	t.Parallel()
	m, engine := databaseReady(t)
	m.workspace.AddScope("etl", engine)
	creds := m.write("creds/shop", delivered)
	require.Equal(t, map[string]any{
		"username": engine.ApplicationID, "host": shopHost, "port": 5432, "expiry_time": creds.Data["expiry_time"], "deliver_scope": "etl", "deliver_key": "k",
	}, creds.Data)
	value, there := m.has("k")
	require.True(t, there)
	_, ok := m.workspace.DatabaseLogin(engine.ApplicationID, value)
	require.True(t, ok)
	m.end(creds.Secret)
	_, there = m.has("k")
	require.False(t, there, "the copy is removed")

	resp, err := m.do(logical.UpdateOperation, "static-roles/db", map[string]any{"credential_type": "database_credential"})
	m.refused(resp, err, `credential_type: "database_credential" can't be static`)
}
