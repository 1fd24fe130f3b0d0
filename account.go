// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// workspacePaths are the first elements of the paths whose objects are in a workspace. An account has no such APIs.
var workspacePaths = []string{"scopes", "secrets", "uc-secrets", "acls", "tokens"}

// checkPlane returns a fieldError, without a call, for a request about something of a workspace on a mount that is connected to an account.
// Databricks' answer would be that it knows no such path, as if the host were wrong.
func (b *backend) checkPlane(ctx context.Context, req *logical.Request) error {
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation, logical.ReadOperation, logical.ListOperation:
	default:
		return nil
	}
	path, _, _ := strings.Cut(req.Path, "/")
	if !slices.Contains(workspacePaths, path) {
		return nil
	}
	if conn, err := b.connection(ctx, req.Storage); err == nil && conn.account {
		return badField(path, "are in a workspace, and this mount is connected to account %s; use a mount whose host is the URL of the workspace", conn.config.AccountID)
	}
	return nil
}

// delivers returns a fieldError if the connection is to an account, which has no secrets to deliver to.
func (c *connection) delivers(to secretRef) error {
	if !c.account {
		return nil
	}
	if to.UC != "" {
		return badField(keyDeliverUC, "is in a metastore that a workspace leads to, and this mount is connected to account %s; leave it out, or use a mount whose host is the URL of the workspace", c.config.AccountID)
	}
	return badField(keyDeliverScope, "is in a workspace, and this mount is connected to account %s; leave it and %s out, or use a mount whose host is the URL of the workspace", c.config.AccountID, keyDeliverKey)
}

// addPlaneWarning warns of an account id where it has no effect.
func addPlaneWarning(resp *logical.Response, conn *connection) {
	if config := conn.config; config.AccountID != "" && config.WorkspaceID == "" && !conn.account {
		resp.AddWarning(fmt.Sprintf("account_id has no effect, because %s is the host of a workspace, and the mount works on that. For a mount of the account, host is the account console, for example https://accounts.cloud.databricks.com; for a host that serves several workspaces, send workspace_id, too.", config.Host))
	}
}
