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

// unknownPrincipal reports whether Databricks does not know the principal any more, for which it has no code of its own.
func unknownPrincipal(err error) bool {
	var remote *client.Error
	return errors.As(err, &remote) && remote.ErrorCode == "INVALID_PARAMETER_VALUE" && strings.Contains(strings.ToLower(remote.Message), "principal")
}

// permissionWord returns the permission for a log message, "none" for the empty one.
func permissionWord(permission string) string {
	if permission == "" {
		return "none"
	}
	return permission
}

// permissions are those that Databricks has; each includes the ones before it.
var permissions = []string{permissionRead, permissionWrite, permissionManage}

// aclRef identifies the permission of one principal on one scope.
type aclRef struct {
	Scope     string `json:"scope"`
	Principal string `json:"principal"`
}

func (p aclRef) String() string { return fmt.Sprintf("%s on %s", p.Principal, p.Scope) }

// aclRefOf returns the scope and principal of a request. Invalid names are a fieldError.
func aclRefOf(data *framework.FieldData) (aclRef, error) {
	ref := aclRef{Scope: data.Get(keyScope).(string), Principal: data.Get(keyPrincipal).(string)}
	if err := checkName(keyScope, ref.Scope); err != nil {
		return ref, err
	}
	if len(ref.Principal) > maxPrincipal || strings.TrimSpace(ref.Principal) == "" || strings.ContainsFunc(ref.Principal, unicode.IsControl) {
		return ref, badField(keyPrincipal, "%q can't be one; send a user name, the display name of a group or the application id of a service principal, of %d bytes at most", ref.Principal, maxPrincipal)
	}
	return ref, nil
}

// checkSlashes returns a fieldError when a scope and the beginning of what a path has after it, a principal or a key, are in fact the name of
// a scope with a slash in it, which a path can't tell from a principal or a key with a slash.
func checkSlashes(ctx context.Context, conn *connection, scope, rest string) error {
	if !strings.Contains(rest, "/") {
		return nil
	}
	scopes, err := conn.client.ListScopes(ctx)
	if err != nil {
		return nil // only the explanation is lost
	}
	named := func(name string) func(client.Scope) bool {
		return func(scope client.Scope) bool { return strings.EqualFold(scope.Name, name) }
	}
	if slices.ContainsFunc(scopes, named(scope)) {
		return nil
	}
	path := scope + "/" + rest
	for i, c := range path {
		if c == '/' && i > len(scope) && slices.ContainsFunc(scopes, named(path[:i])) {
			return badField(keyScope, "%q has a slash, and a scope with a slash in its name can't be addressed through Vault", path[:i])
		}
	}
	return nil
}

// permissionOf returns a principal's own permission, "" for none.
func permissionOf(ctx context.Context, conn *connection, ref aclRef) (string, error) {
	acl, err := conn.client.GetACL(ctx, ref.Scope, ref.Principal)
	if client.IsGone(err) {
		return "", nil
	}
	if err != nil {
		return "", explainSecrets(err, ref.Scope, permissionManage)
	}
	return acl.Permission, nil
}

// setPermission sets the principal's own permission; "" deletes it. It is idempotent. The caller holds the permission's lock in
// aclLocks.
func setPermission(ctx context.Context, conn *connection, ref aclRef, want string) error {
	var err error
	if want == "" {
		if err = conn.client.DeleteACL(ctx, ref.Scope, ref.Principal); client.IsGone(err) {
			err = nil
		}
	} else {
		err = conn.client.PutACL(ctx, ref.Scope, client.ACL{Principal: ref.Principal, Permission: want})
		if hasCode(err, "RESOURCE_ALREADY_EXISTS") {
			// Documented, although Databricks was only ever observed to overwrite.
			if has, readErr := permissionOf(ctx, conn, ref); readErr == nil && has == want {
				err = nil
			}
		}
	}
	return explainSecrets(err, ref.Scope, permissionManage)
}

// guardManage refuses a change after which the engine could no longer manage the scope, unless it is forced, and any change of the engine's
// own permission by another spelling of its name than the one that policies name.
func (b *backend) guardManage(ctx context.Context, s logical.Storage, conn *connection, ref aclRef, permission string, force bool) error {
	if permission != permissionManage && !force {
		if err := b.checkLockOut(ctx, s, conn, ref); err != nil {
			return err
		}
	}
	identity, err := conn.whoami(ctx)
	if err != nil {
		return err
	}
	if name := identity.UserName; ref.Principal != name && strings.EqualFold(ref.Principal, name) {
		return badField(keyPrincipal, "%q is the engine's own name in another spelling; send %q, so that policies on it apply", ref.Principal, name)
	}
	return nil
}

// checkLockOut returns a fieldError for the loss of a permission by which the engine manages the scope: its own, or that of the last of its
// groups that manages it without a lease. Groups change, so Databricks is asked which they are now.
func (b *backend) checkLockOut(ctx context.Context, s logical.Storage, conn *connection, ref aclRef) error {
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
	own := strings.EqualFold(ref.Principal, identity.UserName)
	if !own && !slices.ContainsFunc(groups, named(ref.Principal)) {
		return nil
	}
	acls, err := conn.client.ListACLs(ctx, ref.Scope)
	if client.IsGone(err) {
		return nil
	}
	if err != nil {
		return explainSecrets(err, ref.Scope, permissionManage)
	}
	manages, others := false, false
	for _, acl := range acls {
		if acl.Permission != permissionManage {
			continue
		}
		switch {
		case strings.EqualFold(acl.Principal, ref.Principal):
			manages = true
		case strings.EqualFold(acl.Principal, identity.UserName), slices.ContainsFunc(groups, named(acl.Principal)):
			leased, err := readACLRecord(ctx, s, aclRecordKey(made, aclRef{Scope: ref.Scope, Principal: acl.Principal}))
			if err != nil {
				return err
			}
			// A leased permission does not count: when it ends, the engine would be locked out.
			others = others || leased == nil || len(leased.Leases) == 0
		}
	}
	if !manages || others && !own {
		return nil
	}
	return badField(keyPrincipal, "the engine manages scope %q through %q and would lock itself out; send force=true to proceed anyway", ref.Scope, ref.Principal)
}

// awaitPermission polls until Databricks shows the permission, "" for none. If it does not within waitBudget, or ctx ends
// first, a warning is added to resp.
func awaitPermission(ctx context.Context, conn *connection, ref aclRef, want string, resp *logical.Response) {
	ctx, cancel := context.WithTimeout(ctx, waitBudget)
	defer cancel()
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		has, err := permissionOf(ctx, conn, ref)
		if err == nil && has == want {
			return
		}
		if sleepErr := client.Sleep(ctx, wait); sleepErr != nil {
			if err == nil {
				err = fmt.Errorf("it still shows %q", has)
			}
			resp.AddWarning(fmt.Sprintf("The change was made, but Databricks does not show it yet (%s). It may take some minutes to take effect everywhere.", err))
			return
		}
	}
}
