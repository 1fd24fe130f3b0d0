// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keyPrincipal  = "principal"
	keyPermission = "permission"
	keyWait       = "wait"

	permissionRead   = "READ"
	permissionWrite  = "WRITE"
	permissionManage = "MANAGE"

	// maxPrincipal limits the name of a principal, in bytes; e-mail addresses and group names are shorter.
	maxPrincipal = 1024

	// waitBudget is how long wait=true waits for a permission to become visible. Databricks caches permissions (Terraform
	// provider for Databricks, which retries for minutes); Vault's clients time out after 60 seconds.
	waitBudget = 45 * time.Second
)

func pathACLs() []*framework.Path {
	write := []framework.Response{{Description: "The permission. With a ttl it is a lease.", Fields: aclResponseFields}}
	scope := &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the scope.", Required: true}
	return []*framework.Path{
		{
			Pattern: "acls/(?P<" + keyScope + ">[^/]+)/?",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "acls",
			},
			Fields: map[string]*framework.FieldSchema{keyScope: scope},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: readOperation((*backend).listACLs, "List who has a permission on a scope.", listResponseFields),
			},
			HelpSynopsis:    "List the principals with a permission on a scope.",
			HelpDescription: "Lists principals, with their permissions as details:\n\n  vault list -detailed databricks/acls/etl",
		},
		{
			Pattern: "acls/(?P<" + keyScope + ">[^/]+)/(?P<" + keyPrincipal + ">.+)",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "acl",
			},
			Fields: map[string]*framework.FieldSchema{
				keyScope: scope,
				keyPrincipal: {
					Type:        framework.TypeString,
					Description: "User name, display name of a group, or application id of a service principal. May contain any character, including slashes and spaces.",
					Required:    true,
				},
				keyPermission: {
					Type:          framework.TypeString,
					Description:   "READ, WRITE or MANAGE. Each includes those before it.",
					Required:      true,
					AllowedValues: []any{permissionRead, permissionWrite, permissionManage},
				},
				keyTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Makes the permission a lease: when it ends, the previous permission is restored, unless somebody has changed it since. More than the mount's maximum is capped, with a warning.",
				},
				keyForce: {
					Type:        framework.TypeBool,
					Description: "Proceed even if the engine loses its own MANAGE on the scope.",
					Query:       true,
				},
				keyWait: {
					Type:        framework.TypeBool,
					Description: fmt.Sprintf("Return when Databricks shows the change, or with a warning after %d seconds: it caches permissions.", int(waitBudget/time.Second)),
					Query:       true,
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: writeOperation((*backend).writeACL, "Give a principal a permission on a scope, or change it.", write,
					framework.RequestExample{Description: "Without a lease.", Data: map[string]any{keyPermission: permissionRead}},
					framework.RequestExample{Description: "For an hour.", Data: map[string]any{keyPermission: permissionWrite, keyTTL: "1h"}},
				),
				logical.DeleteOperation: deleteOperation((*backend).deleteACL, "Take a principal's permission on a scope.", keyForce, keyWait),
				logical.ReadOperation:   readOperation((*backend).readACL, "Read a principal's own permission on a scope, not what it has through groups.", aclResponseFields),
			},
			ExistenceCheck:  existsAtDatabricks,
			HelpSynopsis:    "A principal's permission on a scope.",
			HelpDescription: strings.TrimSpace(aclsHelp),
		},
	}
}

var aclResponseFields = map[string]*framework.FieldSchema{
	keyScope:      {Type: framework.TypeString, Required: true, Description: "Name of the scope."},
	keyPrincipal:  {Type: framework.TypeString, Required: true, Description: "Principal that has the permission."},
	keyPermission: {Type: framework.TypeString, Required: true, Description: "READ, WRITE or MANAGE."},
}

func (p aclRef) response(permission string) map[string]any {
	return map[string]any{keyScope: p.Scope, keyPrincipal: p.Principal, keyPermission: permission}
}

func (b *backend) listACLs(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	scope := data.Get(keyScope).(string)
	if err := checkName(keyScope, scope); err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	acls, err := conn.client.ListACLs(ctx, scope)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explainSecrets(err, scope, permissionManage)
	}
	names, infos := make([]string, 0, len(acls)), make(map[string]any, len(acls))
	for _, acl := range acls {
		names = append(names, acl.Principal)
		infos[acl.Principal] = map[string]any{keyPermission: acl.Permission}
	}
	return logical.ListResponseWithInfo(names, infos), nil
}

func (b *backend) readACL(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := aclRefOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	permission, err := permissionOf(ctx, conn, ref)
	if err == nil && permission == "" {
		err = checkSlashes(ctx, conn, ref.Scope, ref.Principal)
	}
	if err != nil || permission == "" {
		return nil, err
	}
	return &logical.Response{Data: ref.response(permission)}, nil
}

func (b *backend) writeACL(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := aclRefOf(data)
	if err != nil {
		return nil, err
	}
	requested, err := requestedTTL(data)
	if err != nil {
		return nil, err
	}
	if requested > 0 {
		if err := checkLease(req, ref.Scope, keyPrincipal, ref.Principal); err != nil {
			return nil, err
		}
	}
	permission := data.Get(keyPermission).(string) // as it is: policies compare it, too
	if !slices.Contains(permissions, permission) {
		return nil, badField(keyPermission, "%q is unknown; use %s", data.Get(keyPermission), strings.Join(permissions, ", "))
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := checkSlashes(ctx, conn, ref.Scope, ref.Principal); err != nil {
		return nil, err
	}
	if err := b.guardManage(ctx, req.Storage, conn, ref, permission, data.Get(keyForce).(bool)); err != nil {
		return nil, err
	}

	resp := &logical.Response{}
	if requested > 0 {
		resp, err = b.leaseACL(ctx, req, conn, ref, permission, requested, data.Get(keyWait).(bool))
	} else {
		err = b.setUnleased(ctx, req.Storage, conn, ref, permission)
	}
	if err != nil {
		return nil, err
	}
	if resp.Secret == nil {
		b.event("acl-write", req.Path, "scope", ref.Scope, "principal", ref.Principal, "permission", permission)
	}
	resp.Data = ref.response(permission)
	if resp.Secret == nil && data.Get(keyWait).(bool) {
		awaitPermission(ctx, conn, ref, permission, resp)
	}
	return resp, nil
}

func (b *backend) deleteACL(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	ref, err := aclRefOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := checkSlashes(ctx, conn, ref.Scope, ref.Principal); err != nil {
		return nil, err
	}
	if err := b.guardManage(ctx, req.Storage, conn, ref, "", data.Get(keyForce).(bool)); err != nil {
		return nil, err
	}
	if err := b.setUnleased(ctx, req.Storage, conn, ref, ""); err != nil {
		return nil, err
	}
	b.event("acl-delete", req.Path, "scope", ref.Scope, "principal", ref.Principal)
	resp := &logical.Response{}
	if data.Get(keyWait).(bool) {
		awaitPermission(ctx, conn, ref, "", resp)
	}
	return resp, nil
}

const aclsHelp = `
Permissions on a scope: READ its secrets, WRITE them, or MANAGE the scope. They are
per scope, not per key. Databricks caches them, so a change may take some minutes to
work everywhere; wait=true waits for it.

  vault write databricks/acls/etl/data-engineers permission=READ
  vault write databricks/acls/etl/jane@example.com permission=WRITE ttl=1h
  vault read databricks/acls/etl/data-engineers
  vault list -detailed databricks/acls/etl
  vault delete databricks/acls/etl/data-engineers

With a ttl the permission is a lease: when it ends, the previous permission is
restored. A permission written without a ttl stays, whatever leases there are.
`
