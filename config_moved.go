// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

// sameLogin reports whether both configs name the same identity, as far as can be told without asking Databricks.
func (c *configEntry) sameLogin(other *configEntry) bool {
	return c.AuthType == other.AuthType && c.ClientID == other.ClientID && c.AzureTenantID == other.AzureTenantID && c.AzureClientID == other.AzureClientID &&
		(c.AuthType != client.AuthPAT || c.Token == other.Token)
}

// warnOfMove warns of the leases that the new config can't revoke, or perhaps not, although the old one can, and of what they leave for
// ever. Old is one without a host if there was none.
func (b *backend) warnOfMove(ctx context.Context, req *logical.Request, resp *logical.Response, old, config *configEntry) {
	if old.Host == "" {
		return
	}
	was, now := old.knownOrigin(), config.knownOrigin()
	known := old.Identity != nil && config.Identity != nil
	var problem, ends string
	switch {
	case !was.sameWorkspace(now):
		problem = fmt.Sprintf("Leases made at %s can't be revoked over the new connection, which leads to %s", was.describe(), now.describe())
		if cmp.Or(was.WorkspaceID, now.WorkspaceID) == "" || !known {
			problem += ", unless that is another name of the same workspace"
		}
		ends = ": tokens and OAuth secrets end by their own expiry, but not the service principals of leases."
	case known && was.OwnerID != now.OwnerID:
		problem = fmt.Sprintf("The identity changed from %s to %s", old.Identity.UserName, config.Identity.UserName)
		ends = ". Leases of the old one can be revoked only while the new one is a workspace admin, or may manage the scopes in question; otherwise tokens and OAuth secrets end by their own expiry, but not the service principals of leases."
	case !known && !old.sameLogin(config):
		problem = "It isn't known whether the identity is that of before"
		ends = ". If it is another, leases of the old one can be revoked only while the new one is a workspace admin, or may manage the scopes in question; otherwise tokens and OAuth secrets end by their own expiry, but not the service principals of leases."
	default:
		return
	}
	left, err := b.outstanding(ctx, req.Storage, was)
	stays := ""
	switch {
	case err != nil:
		stays = fmt.Sprintf(" Leased secrets, leased permissions and delivered copies have no expiry; it could not be counted how many there are: %s", err)
	case !left.none():
		stays = fmt.Sprintf(" What has no expiry stays: %s. To remove that, write the config of before again, then: %s; and only then change it.", left, left.revokeCommands(req.MountPoint))
	}
	resp.AddWarning(problem + ends + stays)
}
