// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/workspace"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	pathSecrets      = "/api/2.0/secrets"
	pathScopesCreate = pathSecrets + "/scopes/create"
	pathScopesDelete = pathSecrets + "/scopes/delete"
	pathScopesList   = pathSecrets + "/scopes/list"
)

// secretsOf is the official client of a principal.
func secretsOf(t testing.TB, w *simulator.Workspace, p simulator.Principal) *workspace.SecretsAPI {
	t.Helper()
	token, _ := w.AddToken(p, "", 0)
	return workspace.NewSecrets(sdk(t, w, token))
}

// withAlice is a workspace with a user who is no admin, and a token of hers.
func withAlice(t testing.TB, opts ...simulator.Option) (w *simulator.Workspace, alice simulator.Principal, token string) {
	t.Helper()
	w = start(t, opts...)
	alice = w.AddUser("alice@example.com", false)
	token, _ = w.AddToken(alice, "", 0)
	return w, alice, token
}

// requireDone checks for the success of a request without a result.
func requireDone(t testing.TB, a answer) {
	t.Helper()
	require.Equal(t, 200, a.status, a.body)
	require.Equal(t, "{}", a.body)
}

func requireMessage(t testing.TB, a answer, status int, code, message string) {
	t.Helper()
	requireRefused(t, a, status, code)
	require.Equal(t, message, a.json(t)["message"])
}

func scopeNames(w *simulator.Workspace) (names []string) {
	for _, scope := range w.Scopes() {
		names = append(names, scope.Name)
	}
	return names
}

func TestScopesThroughTheSDK(t *testing.T) {
	t.Parallel()
	w := start(t)
	alice := w.AddUser("alice@example.com", false)
	sp := w.AddServicePrincipal("etl", false)
	api := secretsOf(t, w, alice)

	none, err := api.ListScopesAll(t.Context())
	require.NoError(t, err)
	require.Empty(t, none)
	require.Empty(t, w.Scopes())

	require.NoError(t, api.CreateScope(t.Context(), workspace.CreateScope{Scope: "own"}))
	require.NoError(t, api.CreateScope(t.Context(), workspace.CreateScope{
		Scope: "Everybodys", InitialManagePrincipal: "users", ScopeBackendType: workspace.ScopeBackendTypeDatabricks,
	}))
	require.NoError(t, secretsOf(t, w, sp).CreateScope(t.Context(), workspace.CreateScope{Scope: "a.b_c-d@e9"}))

	all, err := api.ListScopesAll(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 3)
	for i, name := range []string{"a.b_c-d@e9", "Everybodys", "own"} {
		require.Equal(t, name, all[i].Name)
		require.Equal(t, workspace.ScopeBackendTypeDatabricks, all[i].BackendType)
		require.Nil(t, all[i].KeyvaultMetadata)
	}
	nothing := map[string]simulator.Secret{}
	require.Equal(t, []simulator.Scope{
		{Name: "a.b_c-d@e9", BackendType: "DATABRICKS", Secrets: nothing, ACLs: map[string]string{sp.ApplicationID: "MANAGE"}},
		{Name: "Everybodys", BackendType: "DATABRICKS", Secrets: nothing, ACLs: map[string]string{"users": "MANAGE"}},
		{Name: "own", BackendType: "DATABRICKS", Secrets: nothing, ACLs: map[string]string{"alice@example.com": "MANAGE"}},
	}, w.Scopes())

	err = api.CreateScope(t.Context(), workspace.CreateScope{Scope: "own"})
	require.ErrorIs(t, err, apierr.ErrResourceAlreadyExists)
	require.ErrorContains(t, err, "Scope own already exists!")

	require.NoError(t, api.DeleteScopeByScope(t.Context(), "own"))
	require.ErrorIs(t, api.DeleteScopeByScope(t.Context(), "own"), apierr.ErrResourceDoesNotExist)
	require.Equal(t, []string{"a.b_c-d@e9", "Everybodys"}, scopeNames(w))
}

func TestScopesOnTheWire(t *testing.T) {
	t.Parallel()
	w, _, token := withAlice(t)
	requireDone(t, send(t, w, "GET", pathScopesList, token, ""))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"s","scope_backend_type":"databricks","unknown":1}`))
	require.JSONEq(t, `{"scopes":[{"name":"s","backend_type":"DATABRICKS"}]}`, send(t, w, "GET", pathScopesList, token, "").body)
	requireDone(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"s"}`))
	requireDone(t, send(t, w, "GET", pathScopesList, token, ""))
	requireMessage(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"s"}`), 404, "RESOURCE_DOES_NOT_EXIST", "Scope s does not exist!")
	requireRefused(t, send(t, w, "POST", pathScopesDelete, token, `{}`), 400, "INVALID_PARAMETER_VALUE")
	requireRefused(t, send(t, w, "POST", pathScopesDelete, token, `{`), 400, "MALFORMED_REQUEST")
	requireRefused(t, send(t, w, "DELETE", pathScopesDelete, token, ""), 404, "ENDPOINT_NOT_FOUND")
}

func TestTokensNeedTheScopeSecrets(t *testing.T) {
	t.Parallel()
	w, _, root := withAlice(t)
	with, _ := mint(t, w, root, `{"scopes":["secrets"]}`)
	without, _ := mint(t, w, root, `{"scopes":["authentication","scim"]}`)
	for path, method := range map[string]string{
		"/scopes/create": "POST", "/scopes/delete": "POST", "/scopes/list": "GET",
		"/put": "POST", "/delete": "POST", "/get": "GET", "/list": "GET",
		"/acls/put": "POST", "/acls/delete": "POST", "/acls/get": "GET", "/acls/list": "GET",
	} {
		requireRefused(t, send(t, w, method, pathSecrets+path, "", ""), 401, 401.0)
		a := send(t, w, method, pathSecrets+path, without, "{}")
		requireRefused(t, a, 403, 403.0)
		require.Contains(t, a.json(t)["message"], "does not have required scopes: secrets ")
		require.NotEqual(t, 403, send(t, w, method, pathSecrets+path, with, "{}").status, path)
	}
}

func TestRefusalsOfNewScopes(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	admin, _ := w.AddToken(w.AddUser("root@example.com", true), "", 0)
	w.AddScope("Taken", alice)
	longest := strings.Repeat("s", 128)
	for _, try := range []struct {
		body   string
		status int
		code   string
	}{
		{`{`, 400, "MALFORMED_REQUEST"},
		{``, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":""}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"a b"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"a/b"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"a\n"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"ä"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"` + longest + `s"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"s","initial_manage_principal":"admins"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"s","initial_manage_principal":"alice@example.com"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"s","scope_backend_type":"HASHICORP_VAULT"}`, 400, "INVALID_PARAMETER_VALUE"},
		{`{"scope":"databricks-reserved"}`, 401, "CUSTOMER_UNAUTHORIZED"},
		{`{"scope":"Databricks-Reserved.x"}`, 401, "CUSTOMER_UNAUTHORIZED"},
		{`{"scope":"tAKEN"}`, 400, "RESOURCE_ALREADY_EXISTS"},
	} {
		for _, who := range []string{token, admin} {
			requireRefused(t, send(t, w, "POST", pathScopesCreate, who, try.body), try.status, try.code)
		}
	}
	require.Equal(t, []string{"Taken"}, scopeNames(w))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"`+longest+`"}`))
}

func TestScopeNamesIgnoreCase(t *testing.T) {
	t.Parallel()
	w, _, token := withAlice(t)
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"Prod"}`))
	requireMessage(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"PROD"}`), 400, "RESOURCE_ALREADY_EXISTS", "Scope PROD already exists!")
	requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"pROD","key":"k","string_value":"v"}`))
	require.Equal(t, "k", send(t, w, "GET", pathGet+"?scope=prod&key=k", token, "").json(t)["key"])
	require.Equal(t, "Prod", w.Scopes()[0].Name)
	require.Contains(t, w.Scopes()[0].Secrets, "k")
	requireDone(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"prod"}`))
	require.Empty(t, w.Scopes())
}

func TestScopeLimit(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t, simulator.WithScopeLimit(2))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"one"}`))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"two"}`))
	requireRefused(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"three"}`), 400, "RESOURCE_LIMIT_EXCEEDED")
	requireRefused(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"one"}`), 400, "RESOURCE_ALREADY_EXISTS")
	requireDone(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"one"}`))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"three"}`))
	w.AddScope("by hand", alice) // no limit and no rule about names

	w, alice, token = withAlice(t)
	for i := range 999 {
		w.AddScope(fmt.Sprint(i), alice)
	}
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"last"}`))
	requireRefused(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"more"}`), 400, "RESOURCE_LIMIT_EXCEEDED")
	require.Len(t, send(t, w, "GET", pathScopesList, token, "").json(t)["scopes"], 1000)
}

func TestDeletingAScopeDeletesWhatIsInIt(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	w.AddScope("s", alice)
	w.PutSecret("s", "k", []byte("v"))
	w.PutACL("s", "users", "READ")
	requireDone(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"s"}`))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"s"}`))
	require.Equal(t, []simulator.Scope{{
		Name: "s", BackendType: "DATABRICKS", Secrets: map[string]simulator.Secret{}, ACLs: map[string]string{"alice@example.com": "MANAGE"},
	}}, w.Scopes())
}

func TestReservedScopesStay(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	w.AddScope("databricks-reserved-internal", alice)
	requireRefused(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"DATABRICKS-reserved-internal"}`), 400, "BAD_REQUEST")
	require.Len(t, w.Scopes(), 1)
}

func TestWithoutPremium(t *testing.T) {
	t.Parallel()
	w, _, token := withAlice(t, simulator.WithoutPremium())
	requireMessage(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"s"}`), 400, "BAD_REQUEST",
		`Premium Tier is disabled in this workspace. Secret scopes can only be created with initial_manage_principal "users".`)
	require.Empty(t, w.Scopes())
	requireDone(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"s","initial_manage_principal":"users"}`))
	require.Equal(t, map[string]string{"users": "MANAGE"}, w.Scopes()[0].ACLs)
}

func TestKeyVaultScopes(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t, simulator.WithAzureKeyVault())
	api := secretsOf(t, w, alice)
	vault := workspace.AzureKeyVaultSecretScopeMetadata{ResourceId: "/subscriptions/1/vaults/v", DnsName: "https://v.vault.azure.net/"}
	require.NoError(t, api.CreateScope(t.Context(), workspace.CreateScope{
		Scope: "akv", ScopeBackendType: workspace.ScopeBackendTypeAzureKeyvault, BackendAzureKeyvault: &vault,
	}))
	all, err := api.ListScopesAll(t.Context())
	require.NoError(t, err)
	require.Equal(t, workspace.ScopeBackendTypeAzureKeyvault, all[0].BackendType)
	require.Equal(t, &vault, all[0].KeyvaultMetadata)
	require.Equal(t, "AZURE_KEYVAULT", w.Scopes()[0].BackendType)
	require.Equal(t, map[string]string{"alice@example.com": "MANAGE"}, w.Scopes()[0].ACLs)

	requireDone(t, send(t, w, "POST", pathScopesDelete, token, `{"scope":"akv"}`))
	requireDone(t, send(t, w, "POST", pathScopesCreate, token,
		`{"scope":"akv","scope_backend_type":"azure_keyvault","backend_azure_keyvault":{"resource_id":"r","dns_name":"d","tenant_id":"t"}}`))
	require.JSONEq(t, `{"scopes":[{"name":"akv","backend_type":"AZURE_KEYVAULT","keyvault_metadata":{"resource_id":"r","dns_name":"d","tenant_id":"t"}}]}`,
		send(t, w, "GET", pathScopesList, token, "").body)

	for _, incomplete := range []string{``, `,"backend_azure_keyvault":{}`, `,"backend_azure_keyvault":{"resource_id":"r"}`, `,"backend_azure_keyvault":{"dns_name":"d"}`} {
		requireRefused(t, send(t, w, "POST", pathScopesCreate, token, `{"scope":"x","scope_backend_type":"AZURE_KEYVAULT"`+incomplete+`}`), 400, "BAD_REQUEST")
	}
}

func TestKeyVaultScopesNeedAnEntraToken(t *testing.T) {
	t.Parallel()
	w, _, pat := withAlice(t)
	sp := w.AddServicePrincipal("etl", true)
	_, secret := w.AddOAuthSecret(sp, 0)
	access := grant(t, w, sp.ApplicationID, secret, "").json(t)["access_token"].(string)
	for _, token := range []string{pat, access} {
		a := send(t, w, "POST", pathScopesCreate, token,
			`{"scope":"akv","scope_backend_type":"AZURE_KEYVAULT","backend_azure_keyvault":{"resource_id":"r","dns_name":"d"}}`)
		requireMessage(t, a, 400, "INVALID_PARAMETER_VALUE", "Scope with Azure KeyVault must have userAADToken defined!")
	}
	require.Empty(t, w.Scopes())
}

func TestSecretsOfAKeyVaultAreReadOnly(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t, simulator.WithAzureKeyVault())
	bob, _ := w.AddToken(w.AddUser("bob@example.com", false), "", 0)
	requireDone(t, send(t, w, "POST", pathScopesCreate, token,
		`{"scope":"akv","scope_backend_type":"AZURE_KEYVAULT","backend_azure_keyvault":{"resource_id":"r","dns_name":"d"}}`))
	w.PutSecret("akv", "from-the-vault", []byte("v"))
	for path, body := range map[string]string{
		pathPut:          `{"scope":"akv","key":"k","string_value":"v"}`,
		pathSecretDelete: `{"scope":"akv","key":"from-the-vault"}`,
	} {
		requireRefused(t, send(t, w, "POST", path, token, body), 400, "BAD_REQUEST")
		requireRefused(t, send(t, w, "POST", path, bob, body), 403, "PERMISSION_DENIED")
	}
	got, err := secretsOf(t, w, alice).GetSecret(t.Context(), workspace.GetSecretRequest{Scope: "akv", Key: "from-the-vault"})
	require.NoError(t, err)
	require.Equal(t, "dg==", got.Value)
	requireRefused(t, send(t, w, "GET", pathGet+"?scope=akv&key=absent", token, ""), 404, "RESOURCE_DOES_NOT_EXIST")
	for _, key := range []string{"no_underscores", strings.Repeat("k", 128)} {
		requireRefused(t, send(t, w, "GET", pathGet+"?scope=akv&key="+key, token, ""), 400, "INVALID_PARAMETER_VALUE")
	}
	require.Len(t, w.Scopes()[0].Secrets, 1)
	requireDone(t, send(t, w, "POST", pathPutACL, token, `{"scope":"akv","principal":"users","permission":"READ"}`))
	require.Equal(t, 200, send(t, w, "GET", pathGet+"?scope=akv&key=from-the-vault", bob, "").status)
}

// What only parts outside the workspace bring about, or a real workspace does
// not do although it is documented, comes from faults.
func TestRemainingDocumentedCodesComeFromFaults(t *testing.T) {
	t.Parallel()
	w, alice, _ := withAlice(t)
	api := secretsOf(t, w, alice)
	for _, try := range []struct {
		fault simulator.Fault
		call  func() error
		is    error
	}{
		{simulator.Fault{Path: pathScopesCreate, Status: 401, ErrorCode: "UNAUTHENTICATED"}, func() error {
			return api.CreateScope(t.Context(), workspace.CreateScope{Scope: "s"})
		}, apierr.ErrUnauthenticated},
		{simulator.Fault{Path: pathGet, Status: 403, ErrorCode: "PERMISSION_DENIED"}, func() error {
			_, err := api.GetSecret(t.Context(), workspace.GetSecretRequest{Scope: "s", Key: "k"})
			return err
		}, apierr.ErrPermissionDenied},
		{simulator.Fault{Path: pathGet, Status: 400, ErrorCode: "MALFORMED_REQUEST"}, func() error {
			_, err := api.GetSecret(t.Context(), workspace.GetSecretRequest{Scope: "s", Key: "k"})
			return err
		}, apierr.ErrBadRequest},
		{simulator.Fault{Path: pathPutACL, Status: 400, ErrorCode: "RESOURCE_ALREADY_EXISTS"}, func() error {
			return api.PutAcl(t.Context(), workspace.PutAcl{Scope: "s", Principal: "users", Permission: "READ"})
		}, apierr.ErrResourceAlreadyExists},
		{simulator.Fault{Path: pathScopesList, Status: 403, ErrorCode: "PERMISSION_DENIED"}, func() error {
			_, err := api.ListScopesAll(t.Context())
			return err
		}, apierr.ErrPermissionDenied},
	} {
		fault := w.Inject(try.fault)
		err := try.call()
		fault.Clear()
		require.ErrorIs(t, err, try.is)
		var apiErr *apierr.APIError
		require.ErrorAs(t, err, &apiErr)
		require.Equal(t, try.fault.ErrorCode, apiErr.ErrorCode)
		require.Equal(t, 1, fault.Hits())
	}
}

func TestOneOfManyCreatesOfAScopeWins(t *testing.T) {
	t.Parallel()
	w, _, token := withAlice(t)
	var group sync.WaitGroup
	statuses := make([]int, 16)
	for i := range statuses {
		group.Go(func() {
			a, _ := try(w, "POST", pathScopesCreate, token, `{"scope":"s"}`)
			statuses[i] = a.status
		})
	}
	group.Wait()
	counts := map[int]int{}
	for _, status := range statuses {
		counts[status]++
	}
	require.Equal(t, map[int]int{200: 1, 400: 15}, counts)
	require.Len(t, w.Scopes(), 1)
}

func TestScopesByHand(t *testing.T) {
	t.Parallel()
	w, alice, token := withAlice(t)
	w.AddScope("s", alice)
	value := []byte("value")
	w.PutSecret("S", "k", value)
	value[0] = 'X'
	w.PutSecret("s", "empty", nil)

	copied := w.Scopes()[0]
	copied.Secrets["k"].Value[0] = 'X'
	delete(copied.ACLs, "alice@example.com")
	copied.Secrets["other"] = simulator.Secret{}
	require.Equal(t, "value", string(w.Scopes()[0].Secrets["k"].Value))
	require.Len(t, w.Scopes()[0].ACLs, 1)
	require.Len(t, w.Scopes()[0].Secrets, 2)
	require.Empty(t, w.Calls())
	require.JSONEq(t, `{"key":"empty","value":""}`, send(t, w, "GET", pathGet+"?scope=s&key=empty", token, "").body)

	stranger := start(t).AddUser("stranger@example.com", false)
	require.Panics(t, func() { w.AddScope("S", alice) })
	require.Panics(t, func() { w.AddScope("other", stranger) })
	require.Panics(t, func() { w.PutSecret("absent", "k", nil) })
	require.Panics(t, func() { w.PutACL("absent", "users", "READ") })
	require.Panics(t, func() { w.PutACL("s", "nobody", "READ") })
	require.Panics(t, func() { w.PutACL("s", "users", "read") })
	require.Len(t, w.Scopes(), 1)
}
