// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/client"
	"github.com/databricks/databricks-sdk-go/config"
	"github.com/stretchr/testify/require"
)

const (
	shopEndpoint = "projects/shop/branches/production/endpoints/primary"
	shopHost     = "ep-shop-1.database.us-east-1.cloud.databricks.com"
)

// requireLogin holds a login to a database against what its role and its answer promise.
func (r *tableRow) requireLogin(t *testing.T, c *credential) {
	t.Helper()
	server.secret(c.token, "the password of a database")
	name := r.engine.UserName
	if r.kind.whose == "named" {
		name = r.named.ApplicationID
	}
	require.Equal(t, []any{name, shopHost, json.Number("5432")}, []any{c.Data["username"], c.Data["host"], c.Data["port"]})
	session, ok := r.workspace.DatabaseLogin(name, c.token)
	require.True(t, ok)
	database := shopEndpoint
	if r.kind.instances {
		database = "instances/orders"
	}
	require.Equal(t, []string{database}, session.Databases)
	require.WithinDuration(t, session.Expires, timeOf(t, c.Data["expiry_time"]), 2*time.Second)
	require.False(t, c.Renewable)
	require.InDelta(t, time.Until(session.Expires).Seconds(), c.LeaseDuration, 60, "the lease is as long as the login")
}

// requireNoService uses the password of a database where an access token belongs.
func (r *tableRow) requireNoService(t *testing.T) {
	t.Helper()
	r.write("roles/app", r.role())
	password := server.secret(r.mint("app").Data["password"].(string), "the password of a database")
	c, err := client.New(&config.Config{Host: r.workspace.URL(), Token: password, Credentials: config.PatCredentials{}, Loaders: []config.Loader{noLoader{}}})
	require.NoError(t, err)
	for name, s := range sdkServices {
		_, _, err := s.list(t.Context(), c)
		require.Error(t, err, "%s: it is good for the database alone", name)
	}
}

// TestDatabaseCredentialsLogInToPostgreSQL logs in to a real PostgreSQL server with what Vault has minted. The server asks the simulated workspace, as
// Lakebase asks Databricks: at the login, and never again.
func TestDatabaseCredentialsLogInToPostgreSQL(t *testing.T) {
	t.Parallel()
	m := connect(t, connection{"oauth-m2m", false})
	job := m.workspace.AddServicePrincipal("job", false)
	postgres := startPostgres(t, func(user, password string) bool {
		_, ok := m.workspace.DatabaseLogin(user, password)
		return ok
	})
	for _, role := range []string{m.engine.ApplicationID, job.ApplicationID} {
		postgres.admin(t, fmt.Sprintf(`CREATE ROLE "%s" LOGIN`, role))
	}
	postgres.admin(t, `CREATE TABLE orders (id int); INSERT INTO orders VALUES (7); GRANT SELECT ON orders TO "`+job.ApplicationID+`"`)
	m.workspace.AddDatabaseEndpoint(shopEndpoint, "127.0.0.1")
	m.workspace.AddDatabaseInstance("orders", "127.0.0.1")

	m.write("roles/own", data{"credential_type": "database_credential", "database_instances": "orders"})
	m.write("roles/job", data{"credential_type": "database_credential", "database_endpoint": shopEndpoint, "application_id": job.ApplicationID, "ttl": "5m", "claims": "shop.public.orders"})
	for _, role := range []string{"own", "job"} {
		login := m.mint(role)
		password := server.secret(login.Data["password"].(string), "the password of a database")
		user := login.Data["username"].(string)
		require.Equal(t, "127.0.0.1", login.Data["host"])
		who, err := postgres.query(user, password, "SELECT current_user")
		require.NoError(t, err)
		require.Equal(t, user, who)
		if role == "job" {
			id, err := postgres.query(user, password, "SELECT id FROM orders")
			require.NoError(t, err)
			require.Equal(t, "7", id)
			session, _ := m.workspace.DatabaseLogin(user, password)
			require.Equal(t, []string{"shop.public.orders"}, session.Tables)
		}
		for name, with := range map[string][2]string{"another's": {m.admin.UserName, password}, "no password": {user, "x"}, "a part": {user, strings.TrimSuffix(password, "A")[:len(password)-2]}} {
			_, err = postgres.query(with[0], with[1], "SELECT 1")
			require.ErrorContains(t, err, "authentication failed", name)
		}
	}

	// Neither a revocation nor the end of the credential closes what is open, but nobody can log in any more after its end.
	login := m.mint("job")
	user, password := login.Data["username"].(string), server.secret(login.Data["password"].(string), "the password of a database")
	session := postgres.open(t, user, password)
	require.Equal(t, "7", session.ask(t, "SELECT id FROM orders;"))
	m.revoke(login)
	_, err := postgres.query(user, password, "SELECT 1")
	require.NoError(t, err, "Databricks can't revoke it")
	m.ahead.Store(int64(6 * time.Minute))
	_, err = postgres.query(user, password, "SELECT 1")
	require.ErrorContains(t, err, "authentication failed", "it has ended by itself")
	require.Equal(t, "7", session.ask(t, "SELECT id FROM orders;"))
}

func TestPolicyOfADatabaseLogin(t *testing.T) {
	t.Parallel()
	m := connect(t, connections[1])
	m.workspace.AddScope("etl", m.engine)
	m.workspace.AddDatabaseEndpoint(shopEndpoint, shopHost)
	for _, role := range []string{"shop", "other"} {
		m.write("roles/"+role, data{"credential_type": "database_credential", "database_endpoint": shopEndpoint, "ttl": "15m"})
	}
	program := m.loginAs("database-login")
	for _, body := range []data{nil, {"ttl": "5m"}} {
		operation := "read"
		if body != nil {
			operation = "write"
		}
		login := program.may(operation, "creds/shop", body)
		_, ok := m.workspace.DatabaseLogin(m.engine.ApplicationID, server.secret(login.Data["password"].(string), "the password of a database"))
		require.True(t, ok)
		_, err := program.client.Sys().Lookup(login.LeaseID)
		require.NoError(t, err)
	}
	program.mayNot("write", "creds/shop", data{"deliver_scope": "etl", "deliver_key": "k"})
	program.mayNot("write", "creds/shop", data{"deliver_uc": "main.etl.k"})
	program.mayNot("write", "creds/shop", data{"ttl": "5m", "comment": "c"})
	_, err := program.client.Logical().ReadWithData(m.path+"/creds/shop", map[string][]string{"deliver_scope": {"etl"}, "deliver_key": {"k"}})
	require.Error(t, err)
	require.Empty(t, m.stored("etl"))
	program.mayDoNothingWith("creds/other", "roles/shop", "config", "scopes/etl", "secrets/etl/k", "tokens")
}
