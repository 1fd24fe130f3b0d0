// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// accessTo returns the access of the connection to something that was made over the given one.
func (c *connection) accessTo(ctx context.Context, made origin) (credential.Access, error) {
	now, err := c.origin(ctx)
	if err != nil {
		return credential.AccessNone, err
	}
	switch {
	case !made.sameWorkspace(now):
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

// sameWorkspace reports whether both lead to the same workspace or account.
func (o origin) sameWorkspace(other origin) bool {
	if o.WorkspaceID != "" && other.WorkspaceID != "" {
		return o.WorkspaceID == other.WorkspaceID
	}
	return o.Host == other.Host && o.AccountID == other.AccountID
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
	return c.config.originOf(identity), nil
}

// originOf returns the origin of what the identity makes over a connection with the config.
func (c *configEntry) originOf(identity *client.Identity) origin {
	made := origin{Host: c.Host, WorkspaceID: cmp.Or(identity.WorkspaceID, c.WorkspaceID), OwnerID: identity.ID}
	if c.account() {
		made.AccountID = c.AccountID
	}
	return made
}

// knownOrigin is originOf the identity that is stored with the config. Of one that was never verified, only the config's own fields are
// known.
func (c *configEntry) knownOrigin() origin {
	if c.Identity == nil {
		return c.originOf(new(client.Identity))
	}
	return c.originOf(c.Identity)
}
