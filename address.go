// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// roleNameFields are the paths below which a name is part of a storage key, and the fields of the names.
var roleNameFields = map[string]string{
	"roles": keyName, "creds": keyRole,
	"static-roles": keyName, "static-creds": keyName, "rotate-role": keyName,
}

// checkAddress returns a fieldError for a path that names something which can't be addressed, although the name may exist at
// Databricks or matches the pattern of the path. It comes before the framework, whose own answer would be an internal error or that
// there is nothing.
func checkAddress(req *logical.Request) error {
	switch req.Operation {
	case logical.HelpOperation, logical.RenewOperation, logical.RevokeOperation, logical.RollbackOperation:
		return nil // nothing is to begin
	}
	area, rest, _ := strings.Cut(req.Path, "/")
	rest = strings.TrimSuffix(rest, "/")
	if field := roleNameFields[area]; field != "" && !strings.Contains(rest, "/") {
		if err := checkStorable(field, rest); err != nil || area != "creds" {
			return err
		}
		return checkMountPath(req)
	}
	switch area {
	case "scopes":
	case "secrets":
		if req.Operation != logical.ListOperation && strings.HasSuffix(req.Path, "/") && strings.Contains(rest, "/") {
			_, key, _ := strings.Cut(rest, "/")
			return badField(keyKey, "%q ends in a slash, by which keys are only listed; leave it out", key+"/")
		}
		return nil // a key may have slashes
	case "uc-secrets":
		if parts := strings.Count(rest, "/"); parts == 0 || parts > 2 {
			return badField(keyName, "%q doesn't name a schema or a secret of Unity Catalog; the path is uc-secrets/<catalog>/<schema>/<name>, and no name has a slash", rest)
		}
		return nil
	case "acls":
		if req.Operation != logical.ListOperation {
			return nil // a principal may have slashes
		}
	default:
		return nil
	}
	if !strings.Contains(rest, "/") {
		return nil
	}
	return badField(keyScope, "%q has a slash, and a scope with a slash in its name can't be addressed through Vault", rest)
}

// checkStorable returns a fieldError for a name that Vault can't store an entry under, or a lease, whose id begins with the path of its
// request: its storage refuses two consecutive dots (logical.StorageView). For a lease it does so only after the engine has answered, and
// revokes what was made, which for a secret deletes the value that was overwritten.
func checkStorable(field, name string) error {
	if strings.Contains(name, "..") {
		return badField(field, "%q has two consecutive dots, and Vault can't store such a name; use another", name)
	}
	return nil
}

// checkLease returns a fieldError for a lease that Vault can't store because of the path of its request, which consists of the mount's
// path, the scope and the name of a key or a principal.
func checkLease(req *logical.Request, scope, field, name string) error {
	if err := checkStorable(keyScope, scope); err != nil {
		return err
	}
	if err := checkStorable(field, name); err != nil {
		return err
	}
	return checkMountPath(req)
}

// checkMountPath is checkStorable for the path of the mount, with which the id of each lease begins.
func checkMountPath(req *logical.Request) error {
	if strings.Contains(req.MountPoint, "..") {
		return badField("mount", "its path %q has two consecutive dots, and Vault can't store leases of such a path; move it with vault secrets move", req.MountPoint)
	}
	return nil
}

// existsAtDatabricks is the existence check of what only Databricks knows. Vault calls it before it looks at policies, so a token without
// any right could otherwise cause calls; and as the answer is always the same, the capability that such a write needs is always update.
func existsAtDatabricks(context.Context, *logical.Request, *framework.FieldData) (bool, error) {
	return true, nil
}
