// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func scopeData(scope *client.Scope) map[string]any {
	data := map[string]any{keyName: scope.Name, keyScope: scope.Name, keyBackendType: scope.BackendType, keyScopeBackendType: scope.BackendType}
	if scope.BackendType == client.BackendAzureKeyVault {
		data[keyKeyvaultResourceID], data[keyKeyvaultDNSName] = scope.KeyvaultResourceID, scope.KeyvaultDNSName
	}
	return data
}

// findScope returns nil when there is no scope of the name, which Databricks compares without regard to case.
func (b *backend) findScope(ctx context.Context, req *logical.Request, data *framework.FieldData) (*client.Scope, error) {
	name := data.Get(keyScope).(string)
	if err := checkName(keyScope, name); err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	scopes, err := conn.client.ListScopes(ctx)
	if err != nil {
		return nil, explainSecrets(err, name, permissionRead)
	}
	for i := range scopes {
		if strings.EqualFold(scopes[i].Name, name) {
			return &scopes[i], nil
		}
	}
	return nil, nil
}

// wantedScope returns the scope that a request describes. Invalid settings are a fieldError.
func wantedScope(data *framework.FieldData) (*client.Scope, error) {
	want := &client.Scope{
		Name:               data.Get(keyScope).(string),
		BackendType:        data.Get(keyScopeBackendType).(string),
		KeyvaultResourceID: data.Get(keyKeyvaultResourceID).(string),
		KeyvaultDNSName:    data.Get(keyKeyvaultDNSName).(string),
		KeyvaultTenantID:   data.Get(keyKeyvaultTenantID).(string),
	}
	if err := checkName(keyScope, want.Name); err != nil {
		return nil, err
	}
	switch want.BackendType {
	case client.BackendDatabricks:
		for _, field := range []string{keyKeyvaultResourceID, keyKeyvaultDNSName, keyKeyvaultTenantID} {
			if data.Get(field).(string) != "" {
				return nil, badField(field, "belongs to %s=%s", keyScopeBackendType, client.BackendAzureKeyVault)
			}
		}
	case client.BackendAzureKeyVault:
		for _, field := range []string{keyKeyvaultResourceID, keyKeyvaultDNSName} {
			if data.Get(field).(string) == "" {
				return nil, badField(field, "is missing; %s needs %s and %s", client.BackendAzureKeyVault, keyKeyvaultResourceID, keyKeyvaultDNSName)
			}
		}
	default:
		return nil, badField(keyScopeBackendType, "%q is unknown; use %s or %s", want.BackendType, client.BackendDatabricks, client.BackendAzureKeyVault)
	}
	return want, nil
}

// sameScope returns a fieldError if an existing scope has other settings than the wanted one. Databricks never returns the
// tenant, so that isn't compared.
func sameScope(existing, want *client.Scope) error {
	for _, f := range []struct{ field, has, wants string }{
		{keyScopeBackendType, existing.BackendType, want.BackendType},
		{keyKeyvaultResourceID, existing.KeyvaultResourceID, want.KeyvaultResourceID},
		{keyKeyvaultDNSName, existing.KeyvaultDNSName, want.KeyvaultDNSName},
	} {
		if !strings.EqualFold(f.has, f.wants) {
			return badField(f.field, "scope %q exists with %q instead of %q, and scopes can't be changed; delete it first, or use another name", existing.Name, f.has, f.wants)
		}
	}
	return nil
}

// explainScope adds advice to an error of creating a scope (Databricks REST reference, create scope).
func explainScope(err error, want *client.Scope) error {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return err
	}
	switch {
	case remote.Kind == client.QuotaExceeded:
		return fmt.Errorf("the workspace has no room for another scope (1,000 unless support raised it); delete one that is no longer needed: %w", err)
	case want.BackendType == client.BackendAzureKeyVault && (remote.ErrorCode == "INVALID_PARAMETER_VALUE" || remote.ErrorCode == "UNAUTHENTICATED"):
		return fmt.Errorf("only an Entra ID identity that may use the Key Vault can create a scope backed by it, not a personal access token: %w", err)
	case remote.ErrorCode == "CUSTOMER_UNAUTHORIZED":
		return fmt.Errorf("the name %q may be reserved by Databricks; choose another: %w", want.Name, err)
	case remote.ErrorCode == "BAD_REQUEST" && strings.Contains(remote.Message, "Premium"):
		return fmt.Errorf("on a workspace without the Premium plan a scope needs %s=%s: %w", keyInitialManagePrincipal, principalUsers, err)
	case remote.ErrorCode == "BAD_REQUEST" && want.BackendType == client.BackendAzureKeyVault:
		return fmt.Errorf("check %s and %s, and that Databricks may use the Key Vault: %w", keyKeyvaultResourceID, keyKeyvaultDNSName, err)
	case remote.ErrorCode == "INVALID_PARAMETER_VALUE":
		return fmt.Errorf("check the name of the scope and %s: %w", keyInitialManagePrincipal, err)
	case remote.Kind == client.PermissionDenied:
		return fmt.Errorf("the engine's identity may not create secret scopes; let a workspace admin create scope %q and give the identity MANAGE on it: %w", want.Name, err)
	default:
		return explainSecrets(err, want.Name, permissionManage)
	}
}

// nameForm matches the names of scopes (Databricks guide "Secret scopes"), and keyForm those of keys: real workspaces also have slashes in
// them (Databricks Terraform provider, secrets/resource_secret.go).
var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,128}$`)
	keyForm  = regexp.MustCompile(`^[A-Za-z0-9_.@/-]{1,128}$`)
)

func checkName(field, name string) error {
	if !validName(name) {
		return badField(field, "%q is no valid name; use %s", name, nameRule)
	}
	return nil
}

// validName reports whether a scope can have the name. URLs don't preserve "." and "..", so that these could be written, but not read or
// deleted.
func validName(name string) bool { return nameForm.MatchString(name) && name != "." && name != ".." }

const nameRule = `1 to 128 letters, digits, dashes, underscores, periods and @, but not "." or ".."`

func checkKey(field, key string) error {
	if !validKey(key) {
		return badField(field, "%q is no valid name; use %s", key, keyRule)
	}
	return nil
}

// validKey reports whether a key can have the name. What URLs don't preserve, empty parts between slashes included, could be written by a
// push or a delivery, but not read or deleted.
func validKey(key string) bool {
	if !keyForm.MatchString(key) {
		return false
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

const keyRule = `1 to 128 letters, digits, dashes, underscores, periods, @ and slashes. Before, between and after slashes there must be something, but not "." or ".."`
