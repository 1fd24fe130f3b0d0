// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/common/types/fieldmask"
	"github.com/databricks/databricks-sdk-go/service/catalog"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const pathUC = "/api/2.1/unity-catalog/secrets"

func ucBody(name string) string {
	return fmt.Sprintf(`{"name":%q,"catalog_name":"main","schema_name":"app","value":"v"}`, name)
}

func TestUCSecretsServeTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now))
	owner := w.AddUser("owner@example.com", false)
	token, _ := w.AddToken(owner, "", 0)
	w.AddUCSchema("main", "app", owner)
	api := catalog.NewSecretsUc(sdk(t, w, token))

	created, err := api.CreateSecret(t.Context(), catalog.CreateSecretRequest{Secret: catalog.Secret{Name: "Key", CatalogName: "main", SchemaName: "app", Value: "first", Comment: "c"}})
	require.NoError(t, err)
	require.Equal(t, "main.app.key", created.FullName, "names are stored in lower case")
	require.Empty(t, created.Value, "the value is input only")
	require.Empty(t, created.EffectiveValue)
	require.Equal(t, owner.UserName, created.Owner)
	_, err = api.CreateSecret(t.Context(), catalog.CreateSecretRequest{Secret: catalog.Secret{Name: "key", CatalogName: "MAIN", SchemaName: "app", Value: "v"}})
	require.ErrorContains(t, err, "already exists")

	updated, err := api.UpdateSecret(t.Context(), catalog.UpdateSecretRequest{
		FullName: "main.app.key", Secret: catalog.Secret{Value: "second", Comment: "not in the mask"}, UpdateMask: *fieldmask.New([]string{"value"}),
	})
	require.NoError(t, err)
	require.True(t, updated.UpdateTime.AsTime().After(created.UpdateTime.AsTime()), "although the clock stands still")
	require.Equal(t, "c", updated.Comment)

	got, err := api.GetSecret(t.Context(), catalog.GetSecretRequest{FullName: "main.app.key"})
	require.NoError(t, err)
	require.Empty(t, got.EffectiveValue)
	require.Equal(t, updated.UpdateTime, got.UpdateTime)
	got, err = api.GetSecret(t.Context(), catalog.GetSecretRequest{FullName: "main.app.key", IncludeValue: true})
	require.NoError(t, err)
	require.Equal(t, "second", got.EffectiveValue)

	listed, err := api.ListSecretsAll(t.Context(), catalog.ListSecretsRequest{CatalogName: "main", SchemaName: "app"})
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.NoError(t, api.DeleteSecret(t.Context(), catalog.DeleteSecretRequest{FullName: "main.app.key"}))
	require.Empty(t, w.UCSecrets("main", "app"))
}

func TestUCSecretsInSecondsAndInAnotherMetastore(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := start(t, simulator.WithClock(clock.Now), simulator.WithUCTimes(time.Second))
	owner := w.AddUser("owner@example.com", false)
	token, _ := w.AddToken(owner, "", 0)
	w.AddUCSchema("main", "app", owner)
	created := send(t, w, "POST", pathUC, token, ucBody("k")).json(t)
	w.AttachUCMetastore("another")
	updated := send(t, w, "PATCH", pathUC+"/main.app.k?update_mask=value", token, `{"value":"w"}`).json(t)
	require.Equal(t, created["update_time"], updated["update_time"], "two writes of one second have one time")
	require.Equal(t, clock.Now().UTC().Truncate(time.Second).Format(time.RFC3339), updated["update_time"])
	require.NotEqual(t, "another", created["metastore_id"])
	require.Equal(t, "another", updated["metastore_id"])
}

func TestUCSecretsGoByPrivilege(t *testing.T) {
	t.Parallel()
	w := start(t)
	owner, jane, root := w.AddUser("owner@example.com", false), w.AddUser("jane@example.com", false), w.AddUser("root@example.com", true)
	ownerToken, _ := w.AddToken(owner, "", 0)
	janeToken, _ := w.AddToken(jane, "", 0)
	rootToken, _ := w.AddToken(root, "", 0)
	w.AddUCSchema("main", "app", owner)
	w.PutUCSecret("main.app.k", "v", owner)
	one := pathUC + "/main.app.k"
	list := pathUC + "?catalog_name=main&schema_name=app"

	requireRefused(t, send(t, w, "POST", pathUC, janeToken, ucBody("own")), 403, "PERMISSION_DENIED")
	requireRefused(t, send(t, w, "GET", one, janeToken, ""), 403, "PERMISSION_DENIED")
	require.Equal(t, "{}", send(t, w, "GET", list, janeToken, "").body, "what one may not see is not listed")
	requireRefused(t, send(t, w, "GET", one+"?include_value=true", rootToken, ""), 403, "PERMISSION_DENIED")
	require.Equal(t, 200, send(t, w, "GET", one, rootToken, "").status)
	requireRefused(t, send(t, w, "PATCH", one+"?update_mask=value", rootToken, `{"value":"w"}`), 403, "PERMISSION_DENIED")

	w.GrantOnUCSecret("main.app.k", simulator.PrivilegeReadSecret, jane)
	require.Equal(t, "v", send(t, w, "GET", one+"?include_value=true", janeToken, "").json(t)["effective_value"])
	requireRefused(t, send(t, w, "PATCH", one+"?update_mask=value", janeToken, `{"value":"w"}`), 403, "PERMISSION_DENIED")
	w.GrantOnUCSecret("main.app.k", simulator.PrivilegeWriteSecret, jane)
	require.Equal(t, 200, send(t, w, "PATCH", one+"?update_mask=value", janeToken, `{"value":"w"}`).status)
	requireRefused(t, send(t, w, "PATCH", one+"?update_mask=value,comment", janeToken, `{"value":"x","comment":"c"}`), 403, "PERMISSION_DENIED")
	require.Equal(t, "w", w.UCSecrets("main", "app")["k"].Value, "all or nothing")
	requireRefused(t, send(t, w, "DELETE", one, janeToken, ""), 403, "PERMISSION_DENIED")

	w.GrantCreateUCSecret("main", "app", jane)
	require.Equal(t, 200, send(t, w, "POST", pathUC, janeToken, ucBody("own")).status)
	require.Equal(t, 200, send(t, w, "PATCH", one+"?update_mask=owner", rootToken, `{"owner":"jane@example.com"}`).status)
	requireRefused(t, send(t, w, "DELETE", one, ownerToken, ""), 403, "PERMISSION_DENIED")
	require.Equal(t, 200, send(t, w, "DELETE", one, janeToken, "").status)

	limited, _ := mint(t, w, ownerToken, `{"scopes":["sql"]}`)
	require.Equal(t, 403, send(t, w, "GET", list, limited, "").status)
	limited, _ = mint(t, w, ownerToken, `{"scopes":["unity-catalog"]}`)
	require.Equal(t, 200, send(t, w, "GET", list, limited, "").status)
}

func TestUCSecretsRefuse(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithUCSecretLimit(2), simulator.WithUCPage(1))
	owner := w.AddUser("owner@example.com", false)
	token, _ := w.AddToken(owner, "", 0)
	w.AddUCSchema("main", "app", owner)
	require.Equal(t, 200, send(t, w, "POST", pathUC, token, ucBody("k")).status)
	requireRefused(t, send(t, w, "POST", pathUC, token, ucBody("K")), 409, "RESOURCE_ALREADY_EXISTS")
	requireRefused(t, send(t, w, "POST", pathUC, token, ucBody("a.b")), 400, "INVALID_PARAMETER_VALUE")
	requireRefused(t, send(t, w, "POST", pathUC, token, `{"name":"k","catalog_name":"main","schema_name":"none","value":"v"}`), 404, "SCHEMA_DOES_NOT_EXIST")
	requireRefused(t, send(t, w, "POST", pathUC, token, `{"name":"n","catalog_name":"main","schema_name":"app"}`), 400, "INVALID_PARAMETER_VALUE")
	large := strings.Replace(ucBody("n"), `"v"`, `"`+strings.Repeat("v", 60<<10+1)+`"`, 1)
	requireRefused(t, send(t, w, "POST", pathUC, token, large), 400, "INVALID_PARAMETER_VALUE")
	requireRefused(t, send(t, w, "GET", pathUC+"/main.app.none", token, ""), 404, "RESOURCE_DOES_NOT_EXIST")
	requireRefused(t, send(t, w, "GET", pathUC+"/app.k", token, ""), 400, "INVALID_PARAMETER_VALUE")
	requireRefused(t, send(t, w, "PATCH", pathUC+"/main.app.k?update_mask=name", token, `{"value":"v"}`), 400, "INVALID_PARAMETER_VALUE")
	requireRefused(t, send(t, w, "PATCH", pathUC+"/main.app.k?update_mask=owner", token, `{"owner":"nobody"}`), 404, "PRINCIPAL_DOES_NOT_EXIST")
	requireRefused(t, send(t, w, "GET", pathUC+"?catalog_name=main", token, ""), 400, "INVALID_PARAMETER_VALUE")
	require.Equal(t, 200, send(t, w, "POST", pathUC, token, ucBody("l")).status)
	requireRefused(t, send(t, w, "POST", pathUC, token, ucBody("m")), 400, "RESOURCE_LIMIT_EXCEEDED")
	page := send(t, w, "GET", pathUC+"?catalog_name=main&schema_name=app&page_size=500", token, "").json(t)
	require.Len(t, page["secrets"], 1)
	require.Equal(t, "k", page["next_page_token"])
	w.DropUCSchema("main", "app")
	requireRefused(t, send(t, w, "DELETE", pathUC+"/main.app.k", token, ""), 404, "SCHEMA_DOES_NOT_EXIST")

	missing := start(t, simulator.WithoutUCSecrets())
	token, _ = missing.AddToken(missing.AddUser("owner@example.com", true), "", 0)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		requireRefused(t, send(t, missing, method, pathUC+"/main.app.k", token, ""), 404, "ENDPOINT_NOT_FOUND")
	}
}
