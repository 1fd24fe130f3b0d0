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
	var most int // slashes that a path of the area has
	switch area {
	case "scopes":
		most = 0
	case "secrets":
		most = 1
		if req.Operation == logical.ListOperation {
			most = 0
		}
	case "acls":
		if req.Operation != logical.ListOperation {
			return nil // a principal may have slashes
		}
	default:
		return nil
	}
	if strings.Count(rest, "/") <= most {
		return nil
	}
	if most == 0 && req.Operation == logical.ListOperation {
		return badField(keyScope, "%q has a slash, and a scope with a slash in its name can't be addressed through Vault; what is in scope %q is listed as a whole", rest, strings.SplitN(rest, "/", 2)[0])
	}
	if most == 0 {
		return badField(keyScope, "%q has a slash, and a scope with a slash in its name can't be addressed through Vault", rest)
	}
	return badField(keyKey, "%q has too many slashes: neither a scope nor a key with a slash in its name can be addressed through Vault", rest)
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
