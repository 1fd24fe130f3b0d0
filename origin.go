// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"vault-plugin-secrets-databricks/internal/credential"
)

// accessTo tells how the connection can get at what origin made.
func (c *connection) accessTo(ctx context.Context, made origin) (credential.Access, error) {
	now, err := c.origin(ctx)
	if err != nil {
		return credential.AccessNone, err
	}
	sameWorkspace := made.Host == now.Host && made.AccountID == now.AccountID
	if made.WorkspaceID != "" && now.WorkspaceID != "" {
		sameWorkspace = made.WorkspaceID == now.WorkspaceID
	}
	switch {
	case !sameWorkspace:
		return credential.AccessNone, nil
	case made.OwnerID != now.OwnerID:
		return credential.AccessAdmin, nil
	default:
		return credential.AccessOwn, nil
	}
}

// origin says over which connection something was made. It is kept in leases and in the write-ahead log, so that they are
// never applied to another workspace or another identity by mistake, which would look like "already gone".
type origin struct {
	Host        string `json:"host"`
	WorkspaceID string `json:"workspace_id"`
	AccountID   string `json:"account_id,omitempty"` // on an account mount
	OwnerID     string `json:"owner_id"`
}

// describe is the origin as messages show it: one host may serve several accounts or workspaces.
func (o origin) describe() string {
	switch {
	case o.AccountID != "":
		return o.Host + " (account " + o.AccountID + ")"
	case o.WorkspaceID != "":
		return o.Host + " (workspace " + o.WorkspaceID + ")"
	default:
		return o.Host
	}
}

// origin of what the connection makes. The workspace is the one that Databricks names, or else the one that the config
// routes to.
func (c *connection) origin(ctx context.Context) (origin, error) {
	identity, err := c.whoami(ctx)
	if err != nil {
		return origin{}, err
	}
	made := origin{Host: c.config.Host, WorkspaceID: cmp.Or(identity.WorkspaceID, c.config.WorkspaceID), OwnerID: identity.ID}
	if c.account {
		made.AccountID = c.config.AccountID
	}
	return made, nil
}
