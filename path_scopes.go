// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keyScope                  = "scope"
	keyInitialManagePrincipal = "initial_manage_principal"
	keyScopeBackendType       = "scope_backend_type"
	keyBackendType            = "backend_type"
	keyKeyvaultResourceID     = "keyvault_resource_id"
	keyKeyvaultDNSName        = "keyvault_dns_name"
	keyKeyvaultTenantID       = "keyvault_tenant_id"

	principalUsers = "users"
)

func pathScopes() []*framework.Path {
	write := []framework.Response{{Description: "The scope.", Fields: scopeResponseFields}}
	return []*framework.Path{
		{
			Pattern: "scopes/?",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "scopes",
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: readOperation((*backend).listScopes, "List the secret scopes of the workspace.", listResponseFields),
			},
			HelpSynopsis:    "List the secret scopes of the workspace.",
			HelpDescription: strings.TrimSpace(scopesHelp),
		},
		{
			Pattern: "scopes/(?P<" + keyScope + ">[^/]+)",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "scope",
			},
			Fields: map[string]*framework.FieldSchema{
				keyScope: {
					Type:        framework.TypeString,
					Description: "Name of the scope.",
					Required:    true,
				},
				keyInitialManagePrincipal: {
					Type:          framework.TypeString,
					Description:   `Principal that can manage the new scope: "users" for all users of the workspace, or empty for the engine's identity.`,
					AllowedValues: []any{"", principalUsers},
				},
				keyScopeBackendType: {
					Type:          framework.TypeString,
					Description:   `"DATABRICKS", or "AZURE_KEYVAULT" for a read-only mirror of an Azure Key Vault.`,
					Default:       client.BackendDatabricks,
					AllowedValues: []any{client.BackendDatabricks, client.BackendAzureKeyVault},
				},
				keyKeyvaultResourceID: {
					Type:        framework.TypeString,
					Description: "Azure resource id of the Key Vault, for AZURE_KEYVAULT.",
				},
				keyKeyvaultDNSName: {
					Type:        framework.TypeString,
					Description: "DNS name of the Key Vault, for AZURE_KEYVAULT.",
				},
				keyKeyvaultTenantID: {
					Type:        framework.TypeString,
					Description: "Entra tenant of the Key Vault, for AZURE_KEYVAULT, if Databricks requires it.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: writeOperation((*backend).writeScope, "Create a secret scope. Succeeds if it exists with the same settings; scopes can't be changed.", write,
					framework.RequestExample{Description: "A scope that the engine manages.", Data: map[string]any{}},
					framework.RequestExample{Description: "A scope that all users manage.", Data: map[string]any{keyInitialManagePrincipal: principalUsers}},
				),
				logical.DeleteOperation: deleteOperation((*backend).deleteScope, "Delete a scope with its secrets and permissions."),
				logical.ReadOperation: &framework.PathOperation{
					Callback:  on((*backend).readScope),
					Summary:   "Read a scope.",
					Responses: map[int][]framework.Response{http.StatusOK: write},
				},
			},
			ExistenceCheck:  existsAtDatabricks,
			HelpSynopsis:    "A secret scope.",
			HelpDescription: strings.TrimSpace(scopesHelp),
		},
	}
}

var listResponseFields = map[string]*framework.FieldSchema{
	"keys":     {Type: framework.TypeStringSlice, Description: "Names."},
	"key_info": {Type: framework.TypeMap, Description: "Details of each, by name."},
}

var scopeResponseFields = map[string]*framework.FieldSchema{
	keyScope:              {Type: framework.TypeString, Required: true, Description: "Name of the scope."},
	keyName:               {Type: framework.TypeString, Required: true, Description: "The same, as earlier versions called it."},
	keyScopeBackendType:   {Type: framework.TypeString, Required: true, Description: "DATABRICKS or AZURE_KEYVAULT."},
	keyBackendType:        {Type: framework.TypeString, Required: true, Description: "The same, as earlier versions called it."},
	keyKeyvaultResourceID: {Type: framework.TypeString, Description: "Azure resource id of the Key Vault."},
	keyKeyvaultDNSName:    {Type: framework.TypeString, Description: "DNS name of the Key Vault."},
}

func (b *backend) listScopes(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	scopes, err := conn.client.ListScopes(ctx)
	if err != nil {
		return nil, explainSecrets(err, "", permissionRead)
	}
	names, infos := make([]string, 0, len(scopes)), make(map[string]any, len(scopes))
	for i := range scopes {
		info := scopeData(&scopes[i])
		delete(info, keyName)
		delete(info, keyScope)
		names = append(names, scopes[i].Name)
		infos[scopes[i].Name] = info
	}
	return logical.ListResponseWithInfo(names, infos), nil
}

func (b *backend) readScope(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	scope, err := b.findScope(ctx, req, data)
	if err != nil || scope == nil {
		return nil, err
	}
	return &logical.Response{Data: scopeData(scope)}, nil
}

// writeScope creates a scope. An existing scope with the same settings is left unchanged. One with other settings is an error,
// since Databricks can't change scopes.
func (b *backend) writeScope(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	want, err := wantedScope(data)
	if err != nil {
		return nil, err
	}
	manager := data.Get(keyInitialManagePrincipal).(string)
	if manager != "" && manager != principalUsers {
		return nil, badField(keyInitialManagePrincipal, "%q can't manage a new scope; Databricks allows %q only, or leave it out and write acls/%s/<principal>", manager, principalUsers, want.Name)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	existing, err := b.findScope(ctx, req, data)
	if err != nil {
		return nil, err
	}
	if existing == nil {
		err = conn.client.CreateScope(ctx, *want, manager)
		if err == nil {
			b.event("scope-write", req.Path, "scope", want.Name)
			return &logical.Response{Data: scopeData(want)}, nil
		}
		if !hasCode(err, "RESOURCE_ALREADY_EXISTS") {
			return nil, explainScope(err, want)
		}
		// Created meanwhile by somebody else, or by an earlier attempt whose answer was lost.
		exists := err
		if existing, err = b.findScope(ctx, req, data); err != nil {
			return nil, err
		}
		if existing == nil {
			return nil, exists
		}
	}
	if err := sameScope(existing, want); err != nil {
		return nil, err
	}
	if manager == principalUsers {
		acl, err := conn.client.GetACL(ctx, existing.Name, principalUsers)
		if err != nil && !client.IsGone(err) {
			return nil, explainSecrets(err, want.Name, permissionManage)
		}
		if err != nil || acl.Permission != permissionManage {
			return nil, badField(keyInitialManagePrincipal, "scope %q exists, and %s doesn't have MANAGE on it; write acls/%s/%s permission=MANAGE to change that", existing.Name, principalUsers, existing.Name, principalUsers)
		}
	}
	return &logical.Response{Data: scopeData(existing)}, nil
}

// deleteScope deletes a scope and the records of its leased permissions. If it fails halfway, it can be repeated.
func (b *backend) deleteScope(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(keyScope).(string)
	if err := checkName(keyScope, name); err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := conn.client.DeleteScope(ctx, name); err != nil && !client.IsGone(err) {
		return nil, explainSecrets(err, name, permissionManage)
	}
	made, err := conn.origin(ctx)
	if err != nil {
		return nil, err
	}
	if err := forgetScope(ctx, req.Storage, made, name); err != nil {
		return nil, fmt.Errorf("scope %q was deleted, but the records of its leased permissions could not be deleted; delete it again: %w", name, err)
	}
	b.event("scope-delete", req.Path, "scope", name)
	return &logical.Response{}, nil
}

const scopesHelp = `
Secret scopes hold the secrets that notebooks and jobs read. Writing a scope that
already exists in the same form succeeds; scopes can't be changed.

  vault write -f databricks/scopes/etl
  vault list -detailed databricks/scopes
  vault write databricks/scopes/mirror scope_backend_type=AZURE_KEYVAULT \
      keyvault_resource_id=/subscriptions/… keyvault_dns_name=https://….vault.azure.net/
  vault delete databricks/scopes/etl

Deleting a scope deletes its secrets and permissions.
`
