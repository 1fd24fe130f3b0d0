// SPDX-License-Identifier: MPL-2.0

// Package simulator runs a Databricks workspace in memory, on a loopback port,
// that answers on the wire like the real one: the same paths, envelopes, status
// codes, quotas and expiries, as far as they are documented or have been
// observed. Tests and demonstrations use it where no real workspace is at hand.
//
// [New] starts a [Workspace]. Its methods play the administrator who adds
// principals and credentials by hand, read back what exists, show every request
// that arrived ([Workspace.Calls]) and make requests fail in chosen ways
// ([Workspace.Inject]).
//
// What is served today:
//
//	GET    /api/2.0/preview/scim/v2/Me
//	GET    /api/2.0/preview/scim/v2/ServicePrincipals
//	POST   /api/2.0/preview/scim/v2/ServicePrincipals
//	GET    /api/2.0/preview/scim/v2/ServicePrincipals/{id}
//	PUT    /api/2.0/preview/scim/v2/ServicePrincipals/{id}
//	PATCH  /api/2.0/preview/scim/v2/ServicePrincipals/{id}
//	DELETE /api/2.0/preview/scim/v2/ServicePrincipals/{id}
//	GET    /api/2.0/preview/scim/v2/Groups
//	POST   /api/2.0/preview/scim/v2/Groups
//	GET    /api/2.0/preview/scim/v2/Groups/{id}
//	PUT    /api/2.0/preview/scim/v2/Groups/{id}
//	PATCH  /api/2.0/preview/scim/v2/Groups/{id}
//	DELETE /api/2.0/preview/scim/v2/Groups/{id}
//	GET    /api/2.0/preview/scim/v2/Users
//	GET    /api/2.0/preview/scim/v2/Users/{id}
//	GET    /api/2.0/accounts/servicePrincipals/{sp_id}/credentials/secrets
//	POST   /api/2.0/accounts/servicePrincipals/{sp_id}/credentials/secrets
//	DELETE /api/2.0/accounts/servicePrincipals/{sp_id}/credentials/secrets/{secret_id}
//	POST   /api/2.0/token/create
//	GET    /api/2.0/token/list
//	POST   /api/2.0/token/delete
//	PATCH  /api/2.0/token/{token_id}
//	POST   /api/2.0/token-management/on-behalf-of/tokens
//	GET    /api/2.0/token-management/tokens
//	GET    /api/2.0/token-management/tokens/{token_id}
//	DELETE /api/2.0/token-management/tokens/{token_id}
//	POST   /api/2.0/secrets/scopes/create
//	POST   /api/2.0/secrets/scopes/delete
//	GET    /api/2.0/secrets/scopes/list
//	POST   /api/2.0/secrets/put
//	POST   /api/2.0/secrets/delete
//	GET    /api/2.0/secrets/get
//	GET    /api/2.0/secrets/list
//	POST   /api/2.0/secrets/acls/put
//	POST   /api/2.0/secrets/acls/delete
//	GET    /api/2.0/secrets/acls/get
//	GET    /api/2.0/secrets/acls/list
//	POST   /api/2.1/unity-catalog/secrets
//	GET    /api/2.1/unity-catalog/secrets
//	GET    /api/2.1/unity-catalog/secrets/{full_name}
//	PATCH  /api/2.1/unity-catalog/secrets/{full_name}
//	DELETE /api/2.1/unity-catalog/secrets/{full_name}
//	GET    /api/2.1/clusters/list
//	GET    /api/2.1/clusters/get
//	GET    /api/2.0/libraries/all-cluster-statuses
//	GET    /api/2.0/libraries/cluster-status
//	GET    /api/2.0/instance-profiles/list
//	GET    /api/2.2/jobs/list
//	GET    /api/2.2/jobs/get
//	GET    /api/2.0/dbfs/list
//	GET    /api/2.0/dbfs/get-status
//	GET    /api/2.0/workspace/list
//	GET    /api/2.0/workspace/get-status
//	POST   /api/2.0/postgres/credentials
//	GET    /api/2.0/postgres/projects/{project}/branches/{branch}/endpoints/{endpoint}
//	POST   /api/2.0/database/credentials
//	GET    /api/2.0/database/instances/{name}
//	POST   /oidc/v1/token
//	GET    /oidc/.well-known/oauth-authorization-server
//	GET    /.well-known/databricks-config
//	POST   /{tenant_id}/oauth2/token
//
// The last one stands in for Microsoft Entra ID. With [WithAccount], the account
// has service principals, groups, secrets and OAuth endpoints of the same form
// under /api/2.0/accounts/{account_id}/ and /oidc/accounts/{account_id}/.
//
// A token endpoint takes assume_group: the access token then has the rights of the
// group instead of its owner's.
//
// Clusters, libraries, instance profiles, jobs, files and notebooks are a few fixed
// ones, for tokens to be tried on.
//
// Everything else is 404 ENDPOINT_NOT_FOUND. A new endpoint is one line in the
// table in server.go and one handler.
//
// The server speaks HTTP/1.1 only, so that a fault which cuts a connection hits
// exactly one request. State lives in memory and is kept until the workspace is
// dropped: dead tokens are remembered for [Workspace.AllTokens].
//
// Where the real service's behaviour is not known, the choice made here is named
// in the comment of the handler concerned.
package simulator
