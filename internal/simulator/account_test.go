// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"context"
	"testing"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/client"
	"github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/oauth2"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	accountID        = "c0a80101-1111-2222-3333-444455556666"
	pathAccount      = "/api/2.0/accounts/" + accountID
	pathAccountSPs   = pathAccount + "/scim/v2/ServicePrincipals"
	pathAccountGroup = pathAccount + "/scim/v2/Groups"
	pathAccountOIDC  = "/oidc/accounts/" + accountID + "/v1/token"
)

// sdkAccount is the official client of an account. On a loopback host, only the
// host's metadata can tell the SDK that it is one.
func sdkAccount(t testing.TB, w *simulator.Workspace, clientID, secret string) *client.DatabricksClient {
	t.Helper()
	return sdkWith(t, &config.Config{
		Host: w.URL(), AccountID: accountID, ClientID: clientID, ClientSecret: secret, Credentials: config.M2mCredentials{},
		HostMetadataResolver: func(context.Context, string) (*config.HostMetadata, error) {
			return &config.HostMetadata{HostType: config.AccountHost, AccountID: accountID, OIDCEndpoint: w.URL() + "/oidc/accounts/{account_id}"}, nil
		},
	})
}

// grantAt asks a token endpoint with credentials in the form.
func grantAt(t testing.TB, w *simulator.Workspace, path string, form string) answer {
	t.Helper()
	return send(t, w, "POST", path, "", form, "Content-Type", formType)
}

// withAccount is a workspace of an account, with an account admin who is no
// admin of the workspace.
func withAccount(t testing.TB, opts ...simulator.Option) (w *simulator.Workspace, root simulator.Principal, secret, access string) {
	t.Helper()
	w = start(t, append(opts, simulator.WithAccount(accountID))...)
	root = w.AddAccountAdmin(w.AddServicePrincipal("root", false))
	require.True(t, w.AddAccountAdmin(root).AccountAdmin)
	_, secret = w.AddOAuthSecret(root, 0)
	a := grantAt(t, w, pathAccountOIDC, "grant_type=client_credentials&client_id="+root.ApplicationID+"&client_secret="+secret)
	require.Equal(t, 200, a.status, a.body)
	return w, root, secret, a.json(t)["access_token"].(string)
}

func TestAccountThroughTheSDK(t *testing.T) {
	t.Parallel()
	w, root, secret, _ := withAccount(t)
	require.Equal(t, accountID, w.AccountID())
	c := sdkAccount(t, w, root.ApplicationID, secret)
	sps := iam.NewAccountServicePrincipalsV2(c)

	made, err := sps.Create(t.Context(), iam.CreateAccountServicePrincipalRequest{DisplayName: "etl"})
	require.NoError(t, err)
	require.Len(t, w.ServicePrincipals(), 1) // root alone: the account's own are in no workspace
	all, err := sps.ListAll(t.Context(), iam.ListAccountServicePrincipalsRequest{Filter: `displayName eq "etl"`})
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, made.ApplicationId, all[0].ApplicationId)

	groups := iam.NewAccountGroupsV2(c)
	readers, err := groups.Create(t.Context(), iam.CreateAccountGroupRequest{DisplayName: "admins", Members: values(made.Id)})
	require.NoError(t, err) // the workspace's group of this name is another
	require.Equal(t, "Group", readers.Meta.ResourceType)
	listed, err := groups.ListAll(t.Context(), iam.ListAccountGroupsRequest{})
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Empty(t, listed[0].Members)
	got, err := groups.Get(t.Context(), iam.GetAccountGroupRequest{Id: readers.Id})
	require.NoError(t, err)
	require.Equal(t, []string{made.Id}, valuesIn(got.Members))
	sp, err := sps.Get(t.Context(), iam.GetAccountServicePrincipalRequest{Id: made.Id})
	require.NoError(t, err)
	require.Equal(t, made.Id, sp.Id)

	secrets := oauth2.NewServicePrincipalSecrets(c)
	own, err := secrets.Create(t.Context(), oauth2.CreateServicePrincipalSecretRequest{ServicePrincipalId: made.Id, Lifetime: "60s"})
	require.NoError(t, err)
	list, err := secrets.ListAll(t.Context(), oauth2.ListServicePrincipalSecretsRequest{ServicePrincipalId: made.Id})
	require.NoError(t, err)
	require.Len(t, list, 1)

	// Its secret opens the account's door, but not yet that of the account's API,
	// nor the workspace's.
	other := iam.NewAccountServicePrincipalsV2(sdkAccount(t, w, made.ApplicationId, own.Secret))
	_, err = other.ListAll(t.Context(), iam.ListAccountServicePrincipalsRequest{})
	require.ErrorContains(t, err, "disabled for users without account admin status")
	require.Equal(t, 401, grant(t, w, made.ApplicationId, own.Secret, "").status)
	require.NoError(t, sps.Patch(t.Context(), iam.PatchAccountServicePrincipalRequest{
		Id: made.Id, Schemas: []iam.PatchSchema{"urn:ietf:params:scim:api:messages:2.0:PatchOp"},
		Operations: []iam.Patch{{Op: iam.PatchOpAdd, Path: "roles", Value: values("account_admin")}},
	}))
	all, err = other.ListAll(t.Context(), iam.ListAccountServicePrincipalsRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"account_admin"}, valuesIn(all[1].Roles))

	require.NoError(t, secrets.Delete(t.Context(), oauth2.DeleteServicePrincipalSecretRequest{ServicePrincipalId: made.Id, SecretId: own.Id}))
	require.NoError(t, sps.Delete(t.Context(), iam.DeleteAccountServicePrincipalRequest{Id: made.Id}))
	require.ErrorIs(t, sps.Delete(t.Context(), iam.DeleteAccountServicePrincipalRequest{Id: made.Id}), apierr.ErrNotFound)
	got, err = groups.Get(t.Context(), iam.GetAccountGroupRequest{Id: readers.Id})
	require.NoError(t, err)
	require.Empty(t, got.Members)
	require.NoError(t, groups.Delete(t.Context(), iam.DeleteAccountGroupRequest{Id: readers.Id}))
	require.Len(t, w.Groups(), 1)
}

func TestWhoMayEnterTheAccount(t *testing.T) {
	t.Parallel()
	w, root, secret, access := withAccount(t)
	pat, _ := w.AddToken(root, "", 0)
	workspaceToken := grant(t, w, root.ApplicationID, secret, "").json(t)["access_token"].(string)
	require.False(t, w.Introspect(workspaceToken).Account)
	require.True(t, w.Introspect(access).Account)
	paths := []string{
		pathAccountSPs, pathAccountGroup + "/731", pathAccount + "/servicePrincipals/" + root.ID + "/credentials/secrets", pathAccount + "/unknown",
	}
	for _, path := range paths {
		for _, token := range []string{"", pat, workspaceToken} {
			a := send(t, w, "GET", path, token, "")
			requireRefused(t, a, 401, 401.0)
			require.Equal(t, "Credential was not sent or was of an unsupported type for this API.", a.json(t)["message"])
		}
		requireRefused(t, send(t, w, "GET", path, "bogus", ""), 403, 403.0)
	}
	require.Equal(t, 200, send(t, w, "GET", paths[0], access, "").status)
	requireSCIM(t, send(t, w, "GET", paths[1], access, ""), 404, "", "731") // of the workspace
	require.Equal(t, 200, send(t, w, "GET", paths[2], access, "").status)
	requireRefused(t, send(t, w, "GET", paths[3], access, ""), 404, "ENDPOINT_NOT_FOUND")

	// A token of the account is good for the workspace, too.
	require.Equal(t, root.ID, send(t, w, "GET", pathMe, access, "").json(t)["id"])

	// Another account is none of ours.
	requireSCIM(t, send(t, w, "GET", "/api/2.0/accounts/other/scim/v2/Groups", access, ""), 404, "", "NOT_FOUND: Account other")
	require.Equal(t, 404, grantAt(t, w, "/oidc/accounts/other/v1/token", "grant_type=client_credentials").status)

	// An account is not had by default.
	w, _, token := withAdmin(t)
	require.Empty(t, w.AccountID())
	requireSCIM(t, send(t, w, "GET", pathAccountSPs, token, ""), 404, "", "ENDPOINT_NOT_FOUND")
	a := grantAt(t, w, pathAccountOIDC, "grant_type=client_credentials")
	require.Equal(t, 404, a.status)
	require.Equal(t, "ENDPOINT_NOT_FOUND", a.json(t)["error"])
}

func TestAccountRefusesEntitlements(t *testing.T) {
	t.Parallel()
	w, root, _, access := withAccount(t)
	for _, path := range []string{pathAccountSPs, pathAccountGroup} {
		requireSCIM(t, send(t, w, "POST", path, access, `{"displayName":"x","entitlements":[{"value":"workspace-access"}]}`), 400, "invalidValue", "workspace level")
	}
	require.Equal(t, 200, send(t, w, "PUT", pathAccountSPs+"/"+root.ID, access, `{"displayName":"root","roles":[{"value":"account_admin"}]}`).status)
	require.Equal(t, 200, send(t, w, "PUT", pathAccountSPs+"/"+root.ID, access, `{"displayName":"root"}`).status)
	require.Equal(t, 403, send(t, w, "GET", pathAccountSPs, access, "").status) // it gave its role away
}

// TestWorkspacesLetGoOfServicePrincipals shows what the account keeps of those
// that are deleted from its workspace.
func TestWorkspacesLetGoOfServicePrincipals(t *testing.T) {
	t.Parallel()
	w, _, _, access := withAccount(t)
	admin, _ := w.AddToken(w.AddUser("admin@example.com", true), "", 0)
	a := send(t, w, "POST", pathSPs, admin, `{"displayName":"etl","entitlements":[{"value":"workspace-access"}]}`)
	id, appID := a.json(t)["id"].(string), a.json(t)["applicationId"].(string)
	sp := servicePrincipal(t, w, id)
	pat, _ := w.AddToken(sp, "", 0)
	_, secret := w.AddOAuthSecret(sp, 0)
	form := "grant_type=client_credentials&client_id=" + appID + "&client_secret=" + secret
	ofWorkspace := grant(t, w, appID, secret, "").json(t)["access_token"].(string)
	ofAccount := grantAt(t, w, pathAccountOIDC, form).json(t)["access_token"].(string)
	require.Equal(t, 200, send(t, w, "GET", pathMe, ofAccount, "").status)

	require.Equal(t, 204, send(t, w, "DELETE", pathSPs+"/"+id, admin, "").status)
	require.Equal(t, 404, send(t, w, "GET", pathSPs+"/"+id, admin, "").status)
	require.Equal(t, 404, send(t, w, "GET", secretsPath(sp), admin, "").status)
	require.NotContains(t, send(t, w, "GET", pathSPs, admin, "").body, id)
	for _, token := range []string{pat, ofWorkspace} {
		requireRefused(t, send(t, w, "GET", pathMe, token, ""), 403, 403.0)
		require.False(t, w.Introspect(token).Live)
	}
	a = send(t, w, "GET", pathMe, ofAccount, "")
	requireRefused(t, a, 403, 403.0)
	require.Equal(t, "Invalid access to Org: "+w.ID(), a.json(t)["message"])
	require.True(t, w.Introspect(ofAccount).Live)
	require.Equal(t, 401, grant(t, w, appID, secret, "").status)
	require.Equal(t, 200, grantAt(t, w, pathAccountOIDC, form).status)
	require.Len(t, w.OAuthSecrets(sp), 1)

	kept := send(t, w, "GET", pathAccountSPs+"/"+id, access, "")
	require.Equal(t, 200, kept.status)
	require.NotContains(t, kept.json(t), "entitlements")
	require.Equal(t, 204, send(t, w, "DELETE", pathAccountSPs+"/"+id, access, "").status)
	require.Equal(t, 401, grantAt(t, w, pathAccountOIDC, form).status)
	require.Empty(t, w.OAuthSecrets(sp))
	require.False(t, w.Introspect(ofAccount).Live)
}

func TestUnifiedHost(t *testing.T) {
	t.Parallel()
	w, _, _, access := withAccount(t, simulator.WithUnifiedHost(), simulator.WithWorkspaceID("7001"))
	a := send(t, w, "GET", pathList, access, "")
	requireRefused(t, a, 400, "INVALID_PARAMETER_VALUE")
	require.Contains(t, a.json(t)["message"], "X-Databricks-Workspace-Id")
	require.Equal(t, 400, send(t, w, "GET", "/api/2.0/accounts/servicePrincipals/1/credentials/secrets", access, "").status)
	requireRefused(t, send(t, w, "GET", pathList, access, "", "X-Databricks-Workspace-Id", "7002"), 400, "INVALID_PARAMETER_VALUE")
	for _, header := range []string{"X-Databricks-Workspace-Id", "X-Databricks-Org-Id"} {
		require.Equal(t, 200, send(t, w, "GET", pathList, access, "", header, "7001").status)
	}
	require.Equal(t, 200, send(t, w, "GET", pathAccountSPs, access, "").status)

	meta := send(t, w, "GET", "/.well-known/databricks-config", "", "").json(t)
	require.Equal(t, "unified", meta["host_type"])
	require.Equal(t, accountID, meta["account_id"])
	require.Equal(t, w.URL()+"/oidc/accounts/{account_id}", meta["oidc_endpoint"])
	require.NotContains(t, meta, "workspace_id")
	doc := send(t, w, "GET", "/oidc/accounts/"+accountID+"/.well-known/oauth-authorization-server", "", "").json(t)
	require.Equal(t, w.URL()+pathAccountOIDC, doc["token_endpoint"])
}
