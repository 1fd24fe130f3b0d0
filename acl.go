// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// unknownPrincipal tells whether Databricks does not know the principal any more, for which it has no code of its own.
func unknownPrincipal(err error) bool {
	var remote *client.Error
	return errors.As(err, &remote) && remote.ErrorCode == "INVALID_PARAMETER_VALUE" && strings.Contains(strings.ToLower(remote.Message), "principal")
}

func permissionWord(permission string) string {
	if permission == "" {
		return "none"
	}
	return permission
}

var permissions = []string{permissionRead, permissionWrite, permissionManage}

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

// permissionOf answers a principal's own permission, "" for none.
func permissionOf(ctx context.Context, conn *connection, place aclPlace) (string, error) {
	acl, err := conn.client.GetACL(ctx, place.Scope, place.Principal)
	if client.IsGone(err) {
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
		if err = conn.client.DeleteACL(ctx, place.Scope, place.Principal); client.IsGone(err) {
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
	if client.IsGone(err) {
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
