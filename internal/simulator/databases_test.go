// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/common/types/duration"
	"github.com/databricks/databricks-sdk-go/service/database"
	"github.com/databricks/databricks-sdk-go/service/postgres"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestDatabasesThroughTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	const endpoint = "projects/shop/branches/main/endpoints/primary"
	w.AddDatabaseEndpoint(endpoint, "ep.example.com")
	w.AddDatabaseInstance("orders", "orders.example.com")
	etl := w.AddServicePrincipal("etl", false)
	_, secret := w.AddOAuthSecret(etl, 0)
	c := sdkM2M(t, w, etl.ApplicationID, secret)

	found, err := postgres.NewPostgres(c).GetEndpoint(t.Context(), postgres.GetEndpointRequest{Name: endpoint})
	require.NoError(t, err)
	require.Equal(t, "ep.example.com", found.Status.Hosts.Host)
	instance, err := database.NewDatabase(c).GetDatabaseInstance(t.Context(), database.GetDatabaseInstanceRequest{Name: "orders"})
	require.NoError(t, err)
	require.Equal(t, "orders.example.com", instance.ReadWriteDns)

	login, err := postgres.NewPostgres(c).GenerateDatabaseCredential(t.Context(), postgres.GenerateDatabaseCredentialRequest{
		Endpoint: endpoint, Ttl: duration.New(10 * time.Minute),
		Claims: []postgres.RequestedClaims{{PermissionSet: "READ_ONLY", Resources: []postgres.RequestedResource{{TableName: "a.b.c"}}}},
	})
	require.NoError(t, err)
	session, ok := w.DatabaseLogin(etl.ApplicationID, login.Token)
	require.True(t, ok)
	require.Equal(t, []string{"a.b.c"}, session.Tables)
	require.WithinDuration(t, clock.Now().Add(10*time.Minute), session.Expires, time.Second)
	other, err := database.NewDatabase(c).GenerateDatabaseCredential(t.Context(), database.GenerateDatabaseCredentialRequest{InstanceNames: []string{"orders"}})
	require.NoError(t, err)
	for user, password := range map[string]string{"operator@example.com": login.Token, etl.ApplicationID: login.Token + "x", "": ""} {
		_, ok := w.DatabaseLogin(user, password)
		require.False(t, ok)
	}
	clock.advance(11 * time.Minute)
	_, ok = w.DatabaseLogin(etl.ApplicationID, login.Token)
	require.False(t, ok, "it has expired")
	_, ok = w.DatabaseLogin(etl.ApplicationID, other.Token)
	require.True(t, ok, "it lives for an hour")
	w.SetWorkspaceMember(etl, false)
	_, ok = w.DatabaseLogin(etl.ApplicationID, other.Token)
	require.False(t, ok)

	user := w.AddUser("operator@example.com", true)
	token, _ := w.AddToken(user, "", time.Hour)
	for body, status := range map[string]int{
		`{"endpoint":"` + endpoint + `"}`:                                                                            200,
		`{"endpoint":"` + endpoint + `","ttl":"299s"}`:                                                               400,
		`{"endpoint":"` + endpoint + `","ttl":"3601s"}`:                                                              400,
		`{"endpoint":"` + endpoint + `","ttl":"soon"}`:                                                               400,
		`{"endpoint":"projects/none/branches/b/endpoints/e"}`:                                                        404,
		`{"endpoint":"` + endpoint + `","claims":[{"permission_set":"WRITE","resources":[{"table_name":"a.b.c"}]}]}`: 400,
		`{}`: 400,
	} {
		require.Equal(t, status, send(t, w, "POST", "/api/2.0/postgres/credentials", token, body).status, body)
	}
}
