// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/databricks/databricks-sdk-go/service/workspace"
)

// The operations of the Secrets API, as errors and counters name them.
const (
	opScopeCreate  = "secrets/scopes/create"
	opScopeDelete  = "secrets/scopes/delete"
	opScopeList    = "secrets/scopes/list"
	opSecretPut    = "secrets/put"
	opSecretDelete = "secrets/delete"
	opSecretGet    = "secrets/get"
	opSecretList   = "secrets/list"
	opACLPut       = "secrets/acls/put"
	opACLDelete    = "secrets/acls/delete"
	opACLGet       = "secrets/acls/get"
	opACLList      = "secrets/acls/list"
)

// Limits of the Secrets API (Databricks guide "Secret management").
const (
	// MaxSecretValue is how many bytes a secret may have.
	MaxSecretValue = 128 << 10
	// MaxSecretName is how many characters the name of a scope or a key may have.
	MaxSecretName = 128
	// MaxSecretsPerScope is how many keys a scope may have.
	MaxSecretsPerScope = 1000
)

// The kinds of secret scopes.
const (
	BackendDatabricks    = "DATABRICKS"
	BackendAzureKeyVault = "AZURE_KEYVAULT"
)

// Scope is a secret scope. The Keyvault fields are those of a scope that mirrors an Azure Key Vault.
type Scope struct {
	Name               string
	BackendType        string // BackendDatabricks or BackendAzureKeyVault
	KeyvaultResourceID string
	KeyvaultDNSName    string
	KeyvaultTenantID   string // only sent; Databricks never returns it
}

// SecretInfo is what Databricks lists of a secret.
type SecretInfo struct {
	Key     string
	Updated time.Time // UTC, to the millisecond
}

// ACL is the permission of a principal on a scope: READ, WRITE or MANAGE.
type ACL struct {
	Principal  string // user name, display name of a group, or application id of a service principal
	Permission string
}

// CreateScope makes a secret scope (Databricks REST reference, Secrets API, create scope). initialManagePrincipal may be
// "users" or empty. It is repeated like an idempotent call: a scope of the name can exist only once, so the worst that a
// repetition meets is an error with the code RESOURCE_ALREADY_EXISTS.
func (c *Client) CreateScope(ctx context.Context, scope Scope, initialManagePrincipal string) error {
	// The SDK's type knows no tenant_id, so the body is ours and only the sending is the SDK's.
	type keyvault struct {
		ResourceID string `json:"resource_id"`
		DNSName    string `json:"dns_name"`
		TenantID   string `json:"tenant_id,omitempty"`
	}
	body := struct {
		Scope                  string    `json:"scope"`
		InitialManagePrincipal string    `json:"initial_manage_principal,omitempty"`
		BackendType            string    `json:"scope_backend_type,omitempty"`
		Keyvault               *keyvault `json:"backend_azure_keyvault,omitempty"`
	}{Scope: scope.Name, InitialManagePrincipal: initialManagePrincipal, BackendType: scope.BackendType}
	if scope.BackendType == BackendAzureKeyVault {
		body.Keyvault = &keyvault{ResourceID: scope.KeyvaultResourceID, DNSName: scope.KeyvaultDNSName, TenantID: scope.KeyvaultTenantID}
	}
	_, err := c.do(ctx, call{op: opScopeCreate, signed: true}, func(ctx context.Context) error {
		return c.send(ctx, http.MethodPost, "/api/2.0/secrets/scopes/create", body, nil)
	})
	return err
}

// DeleteScope removes a scope with its secrets and permissions. One that does not exist is an error of kind [NotFound].
func (c *Client) DeleteScope(ctx context.Context, scope string) error {
	_, err := c.do(ctx, call{op: opScopeDelete, deletes: true, signed: true}, func(ctx context.Context) error {
		return c.secrets.DeleteScope(ctx, workspace.DeleteScope{Scope: scope})
	})
	return err
}

// ListScopes returns the scopes of the workspace (Databricks REST reference, Secrets API, which has no pages).
func (c *Client) ListScopes(ctx context.Context) ([]Scope, error) {
	var scopes []Scope
	_, err := c.do(ctx, call{op: opScopeList, result: true, signed: true}, func(ctx context.Context) error {
		listed, err := c.secrets.ListScopesAll(ctx)
		if err != nil {
			return err
		}
		scopes = make([]Scope, 0, len(listed))
		for _, s := range listed {
			scope := Scope{Name: s.Name, BackendType: string(s.BackendType)}
			if s.KeyvaultMetadata != nil {
				scope.KeyvaultResourceID, scope.KeyvaultDNSName = s.KeyvaultMetadata.ResourceId, s.KeyvaultMetadata.DnsName
			}
			scopes = append(scopes, scope)
		}
		return nil
	})
	return scopes, err
}

// PutSecretString stores a text in UTF-8, the empty one included, in place of what the key holds (Databricks REST
// reference, Secrets API, put secret). Databricks takes [MaxSecretValue] bytes at most. No error repeats a value of 4
// characters or more, even if Databricks does.
func (c *Client) PutSecretString(ctx context.Context, scope, key string, value Secret) error {
	if !utf8.ValidString(value.Reveal()) {
		// In JSON, what is not UTF-8 would arrive as something else.
		return notSent(opSecretPut, "the text is not valid UTF-8; store it as bytes")
	}
	return c.putSecret(ctx, value, workspace.PutSecret{
		Scope: scope, Key: key, StringValue: value.Reveal(), ForceSendFields: []string{"StringValue"},
	})
}

// PutSecretBytes is [Client.PutSecretString] for bytes of any kind.
func (c *Client) PutSecretBytes(ctx context.Context, scope, key string, value []byte) error {
	encoded := base64.StdEncoding.EncodeToString(value)
	return c.putSecret(ctx, Secret(value), workspace.PutSecret{
		Scope: scope, Key: key, BytesValue: encoded, ForceSendFields: []string{"BytesValue"},
	})
}

func (c *Client) putSecret(ctx context.Context, private Secret, put workspace.PutSecret) error {
	_, err := c.do(ctx, call{op: opSecretPut, private: private, signed: true}, func(ctx context.Context) error {
		return c.secrets.PutSecret(ctx, put)
	})
	return err
}

// DeleteSecret removes a secret. One that does not exist, or whose scope does not, is an error of kind [NotFound], and so is one of which still
// says before a repetition that it no longer is what was meant. Without still, the request is repeated as it is.
func (c *Client) DeleteSecret(ctx context.Context, scope, key string, still Recheck) error {
	_, err := c.do(ctx, call{op: opSecretDelete, deletes: true, signed: true, recheck: still}, func(ctx context.Context) error {
		return c.secrets.DeleteSecret(ctx, workspace.DeleteSecret{Scope: scope, Key: key})
	})
	return err
}

// GetSecret returns the bytes of a secret, where the workspace gives them to REST clients at all: the reference keeps the
// method to notebooks, and a workspace that does so refuses with BAD_REQUEST.
func (c *Client) GetSecret(ctx context.Context, scope, key string) ([]byte, error) {
	var value []byte
	_, err := c.do(ctx, call{op: opSecretGet, result: true, signed: true}, func(ctx context.Context) error {
		secret, err := c.secrets.GetSecret(ctx, workspace.GetSecretRequest{Scope: scope, Key: key})
		if err != nil {
			return err
		}
		if secret.Key == "" && secret.Value == "" {
			// An empty secret has its key at least.
			return errIncomplete
		}
		value, err = base64.StdEncoding.DecodeString(secret.Value)
		return err
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

// ListSecrets returns the keys of a scope. A scope that does not exist is an error of kind [NotFound].
func (c *Client) ListSecrets(ctx context.Context, scope string) ([]SecretInfo, error) {
	var infos []SecretInfo
	_, err := c.do(ctx, call{op: opSecretList, result: true, signed: true}, func(ctx context.Context) error {
		listed, err := c.secrets.ListSecretsAll(ctx, workspace.ListSecretsRequest{Scope: scope})
		if err != nil {
			return err
		}
		infos = make([]SecretInfo, 0, len(listed))
		for _, s := range listed {
			infos = append(infos, SecretInfo{Key: s.Key, Updated: moment(s.LastUpdatedTimestamp)})
		}
		return nil
	})
	return infos, err
}

// PutACL gives a principal a permission on a scope, instead of the one it has, if any.
func (c *Client) PutACL(ctx context.Context, scope string, acl ACL) error {
	_, err := c.do(ctx, call{op: opACLPut, signed: true}, func(ctx context.Context) error {
		return c.secrets.PutAcl(ctx, workspace.PutAcl{Scope: scope, Principal: acl.Principal, Permission: workspace.AclPermission(acl.Permission)})
	})
	return err
}

// DeleteACL takes a principal's own permission on a scope. That there is none is an error of kind [NotFound].
func (c *Client) DeleteACL(ctx context.Context, scope, principal string) error {
	_, err := c.do(ctx, call{op: opACLDelete, deletes: true, signed: true}, func(ctx context.Context) error {
		return c.secrets.DeleteAcl(ctx, workspace.DeleteAcl{Scope: scope, Principal: principal})
	})
	return err
}

// GetACL returns a principal's own permission on a scope, not what it has through groups. That there is none is an error
// of kind [NotFound]. Databricks answers from a cache that may be minutes old.
func (c *Client) GetACL(ctx context.Context, scope, principal string) (*ACL, error) {
	var acl ACL
	_, err := c.do(ctx, call{op: opACLGet, result: true, signed: true}, func(ctx context.Context) error {
		item, err := c.secrets.GetAcl(ctx, workspace.GetAclRequest{Scope: scope, Principal: principal})
		if err != nil {
			return err
		}
		if item.Principal == "" || item.Permission == "" {
			return errIncomplete
		}
		acl = ACL{Principal: item.Principal, Permission: string(item.Permission)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &acl, nil
}

// ListACLs returns the permissions on a scope. A scope that does not exist is an error of kind [NotFound].
func (c *Client) ListACLs(ctx context.Context, scope string) ([]ACL, error) {
	var acls []ACL
	_, err := c.do(ctx, call{op: opACLList, result: true, signed: true}, func(ctx context.Context) error {
		items, err := c.secrets.ListAclsAll(ctx, workspace.ListAclsRequest{Scope: scope})
		if err != nil {
			return err
		}
		acls = make([]ACL, 0, len(items))
		for _, item := range items {
			acls = append(acls, ACL{Principal: item.Principal, Permission: string(item.Permission)})
		}
		return nil
	})
	return acls, err
}
