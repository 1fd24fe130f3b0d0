// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"vault-plugin-secrets-databricks/internal/credential"
)

// accessTo returns the access of the connection to something that was made over the given one.
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

// origin identifies the connection over which something was made. It is stored in leases and in the write-ahead log, so that
// they are never applied to another workspace or identity by mistake: there, a "not found" would count as already revoked.
type origin struct {
	Host        string `json:"host"`
	WorkspaceID string `json:"workspace_id"`
	AccountID   string `json:"account_id,omitempty"` // on an account mount
	OwnerID     string `json:"owner_id"`
}

// describe returns the origin as messages show it: one host may serve several accounts or workspaces.
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

// origin returns the origin of what is made over the connection. The workspace id is the one that Databricks reports, or else
// the config's. It looks up the identity if that is not known yet.
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
