// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	keyPrincipal  = "principal"
	keyPermission = "permission"
	keyForce      = "force"
	keyWait       = "wait"

	permissionRead   = "READ"
	permissionWrite  = "WRITE"
	permissionManage = "MANAGE"

	// maxPrincipal bounds the name of a principal, in bytes; e-mail addresses and group names are shorter.
	maxPrincipal = 1024

	// waitBudget is how long wait=true looks for a permission to become visible. Databricks keeps permissions in caches
	// (Terraform provider for Databricks, which retries for minutes); Vault's clients give up after 60 seconds.
	waitBudget = 45 * time.Second
)

var permissions = []string{permissionRead, permissionWrite, permissionManage}

func (b *backend) pathACLs() []*framework.Path {
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
				logical.ListOperation: &framework.PathOperation{
					Callback:  b.listACLs,
					Summary:   "List who has a permission on a scope.",
					Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: listResponseFields}}},
				},
			},
			HelpSynopsis:    "List who has a permission on a scope.",
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
					Description: "User name, display name of a group, or application id of a service principal. May hold any character, slashes and spaces included.",
					Required:    true,
				},
				keyPermission: {
					Type:          framework.TypeString,
					Description:   "READ, WRITE or MANAGE; each includes those before it.",
					Required:      true,
					AllowedValues: []any{permissionRead, permissionWrite, permissionManage},
				},
				keyTTL: {
					Type:        framework.TypeDurationSecond,
					Description: "Makes the permission a lease: when it ends, the permission that it replaced is put back, unless somebody has changed it since. More than the mount's maximum is capped, with a warning.",
				},
				keyForce: {
					Type:        framework.TypeBool,
					Description: "Go on even if the engine loses its own MANAGE on the scope.",
					Query:       true,
				},
				keyWait: {
					Type:        framework.TypeBool,
					Description: fmt.Sprintf("Answer only when Databricks shows the change, or with a warning after %d seconds: it keeps permissions in caches.", int(waitBudget/time.Second)),
					Query:       true,
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.writeOperation(b.writeACL, "Give a principal a permission on a scope.", write,
					framework.RequestExample{Description: "For good.", Data: map[string]any{keyPermission: permissionRead}},
					framework.RequestExample{Description: "For an hour.", Data: map[string]any{keyPermission: permissionWrite, keyTTL: "1h"}},
				),
				logical.UpdateOperation: b.writeOperation(b.writeACL, "Change a principal's permission on a scope.", write),
				logical.DeleteOperation: b.writeOperation(b.deleteACL, "Take a principal's permission on a scope.",
					[]framework.Response{{Description: "Taken, or there was none.", Fields: map[string]*framework.FieldSchema{}}}),
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.readACL,
					Summary:   "Read a principal's own permission on a scope, not what it has through groups.",
					Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: aclResponseFields}}},
				},
			},
			ExistenceCheck:  b.aclExists,
			HelpSynopsis:    "A principal's permission on a scope.",
			HelpDescription: strings.TrimSpace(aclsHelp),
		},
	}
}

var aclResponseFields = map[string]*framework.FieldSchema{
	keyPrincipal:  {Type: framework.TypeString, Required: true, Description: "Who has the permission."},
	keyPermission: {Type: framework.TypeString, Required: true, Description: "READ, WRITE or MANAGE."},
}

// aclPlace is a principal on a scope.
type aclPlace struct {
	Scope     string `json:"scope"`
	Principal string `json:"principal"`
}

func (p aclPlace) String() string { return fmt.Sprintf("%s on %s", p.Principal, p.Scope) }

func aclPlaceOf(data *framework.FieldData) (aclPlace, error) {
	place := aclPlace{Scope: data.Get(keyScope).(string), Principal: data.Get(keyPrincipal).(string)}
	if err := checkName(keyScope, place.Scope); err != nil {
		return place, err
	}
	if len(place.Principal) > maxPrincipal || strings.TrimSpace(place.Principal) == "" || strings.ContainsFunc(place.Principal, unicode.IsControl) {
		return place, badField(keyPrincipal, "%q can't be one; send a user name, the display name of a group or the application id of a service principal, of %d bytes at most", place.Principal, maxPrincipal)
	}
	return place, nil
}

func (b *backend) aclExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	place, err := aclPlaceOf(data)
	if err != nil {
		return false, nil
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return false, remoteCheck(err)
	}
	permission, err := permissionOf(ctx, conn, place)
	if err != nil {
		// Who may only create must not change what could not be looked at.
		return true, remoteCheck(err)
	}
	return permission != "", nil
}

// permissionOf answers a principal's own permission, "" for none.
func permissionOf(ctx context.Context, conn *connection, place aclPlace) (string, error) {
	acl, err := conn.client.GetACL(ctx, place.Scope, place.Principal)
	if isGone(err) {
		return "", nil
	}
	if err != nil {
		return "", explainSecrets(err, place.Scope, permissionManage)
	}
	return acl.Permission, nil
}

// setPermission makes the principal's own permission what is wanted, "" for none.
func setPermission(ctx context.Context, conn *connection, place aclPlace, want string) error {
	var err error
	if want == "" {
		if err = conn.client.DeleteACL(ctx, place.Scope, place.Principal); isGone(err) {
			err = nil
		}
	} else {
		err = conn.client.PutACL(ctx, place.Scope, client.ACL{Principal: place.Principal, Permission: want})
		if hasCode(err, "RESOURCE_ALREADY_EXISTS") {
			// Documented, although Databricks was only ever seen to overwrite.
			if has, readErr := permissionOf(ctx, conn, place); readErr == nil && has == want {
				err = nil
			}
		}
	}
	return explainSecrets(err, place.Scope, permissionManage)
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
	if isGone(err) {
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
	place, err := aclPlaceOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	permission, err := permissionOf(ctx, conn, place)
	if err != nil || permission == "" {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{keyPrincipal: place.Principal, keyPermission: permission}}, nil
}

func (b *backend) writeACL(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	place, err := aclPlaceOf(data)
	if err != nil {
		return nil, err
	}
	permission := strings.ToUpper(data.Get(keyPermission).(string))
	if !slices.Contains(permissions, permission) {
		return nil, badField(keyPermission, "%q is unknown; use %s", data.Get(keyPermission), strings.Join(permissions, ", "))
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := b.guardManage(ctx, req.Storage, conn, place, permission, data.Get(keyForce).(bool)); err != nil {
		return nil, err
	}

	resp := &logical.Response{}
	asked, err := askedTTL(data)
	if err != nil {
		return nil, err
	}
	if asked > 0 {
		resp, err = b.leaseGrant(ctx, req, conn, place, permission, asked, data.Get(keyWait).(bool))
	} else {
		err = b.changeForGood(ctx, req.Storage, conn, place, permission)
	}
	if err != nil {
		return nil, err
	}
	b.event(ctx, "acl-write", req.Path, "scope", place.Scope, "principal", place.Principal, "permission", permission)
	resp.Data = map[string]any{keyPrincipal: place.Principal, keyPermission: permission}
	if resp.Secret == nil && data.Get(keyWait).(bool) {
		awaitPermission(ctx, conn, place, permission, resp)
	}
	return resp, nil
}

func (b *backend) deleteACL(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	place, err := aclPlaceOf(data)
	if err != nil {
		return nil, err
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := b.guardManage(ctx, req.Storage, conn, place, "", data.Get(keyForce).(bool)); err != nil {
		return nil, err
	}
	if err := b.changeForGood(ctx, req.Storage, conn, place, ""); err != nil {
		return nil, err
	}
	b.event(ctx, "acl-delete", req.Path, "scope", place.Scope, "principal", place.Principal)
	resp := &logical.Response{}
	if data.Get(keyWait).(bool) {
		awaitPermission(ctx, conn, place, "", resp)
	}
	return resp, nil
}

// guardManage refuses a change after which the engine could no longer manage the scope: of its own permission, or of that
// of the last of its groups that manages it for good. Groups change, so Databricks is asked which they are now.
func (b *backend) guardManage(ctx context.Context, s logical.Storage, conn *connection, place aclPlace, permission string, force bool) error {
	if permission == permissionManage || force {
		return nil
	}
	made, err := conn.origin(ctx)
	if err != nil {
		return err
	}
	identity, err := conn.client.Me(ctx)
	if err != nil {
		return err
	}
	groups := append(identity.Groups, principalUsers)
	named := func(name string) func(string) bool {
		return func(other string) bool { return strings.EqualFold(name, other) }
	}
	own := strings.EqualFold(place.Principal, identity.UserName)
	if !own && !slices.ContainsFunc(groups, named(place.Principal)) {
		return nil
	}
	acls, err := conn.client.ListACLs(ctx, place.Scope)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return explainSecrets(err, place.Scope, permissionManage)
	}
	manages, others := false, false
	for _, acl := range acls {
		if acl.Permission != permissionManage {
			continue
		}
		switch {
		case strings.EqualFold(acl.Principal, place.Principal):
			manages = true
		case strings.EqualFold(acl.Principal, identity.UserName), slices.ContainsFunc(groups, named(acl.Principal)):
			leased, err := readGrants(ctx, s, grantsKey(made, aclPlace{Scope: place.Scope, Principal: acl.Principal}))
			if err != nil {
				return err
			}
			others = others || leased == nil || len(leased.Leases) == 0
		}
	}
	if !manages || others && !own {
		return nil
	}
	return badField(keyPrincipal, "the engine manages scope %q through %q and would lock itself out; send force=true to do it all the same", place.Scope, place.Principal)
}

// awaitPermission looks until Databricks shows the permission, "" for none, and else adds a warning.
func awaitPermission(ctx context.Context, conn *connection, place aclPlace, want string, resp *logical.Response) {
	ctx, cancel := context.WithTimeout(ctx, waitBudget)
	defer cancel()
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		has, err := permissionOf(ctx, conn, place)
		if err == nil && has == want {
			return
		}
		if sleepErr := sleep(ctx, wait); sleepErr != nil {
			if err == nil {
				err = fmt.Errorf("it still shows %q", has)
			}
			resp.AddWarning(fmt.Sprintf("The change was made, but Databricks does not show it yet (%s). It may take some minutes to work everywhere.", err))
			return
		}
	}
}

const aclsHelp = `
Who may do what in a scope: READ its secrets, WRITE them, or MANAGE the scope.
Permissions are per scope, not per key. Databricks keeps them in caches, so a
change may take some minutes to work everywhere; wait=true waits for it.

  vault write databricks/acls/etl/data-engineers permission=READ
  vault write databricks/acls/etl/jane@example.com permission=WRITE ttl=1h
  vault read databricks/acls/etl/data-engineers
  vault list -detailed databricks/acls/etl
  vault delete databricks/acls/etl/data-engineers

With a ttl the permission is a lease: when it ends, what it replaced is put back.
Writing a permission without a ttl makes it stay, whatever leases there are.
`
