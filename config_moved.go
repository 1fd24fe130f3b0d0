// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
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

// removeLeftBehind removes the credentials that rotations made for the config of before, if the new one leads elsewhere: over that they could
// not be removed any more, and they live for up to two years. What is left is a warning.
func (b *backend) removeLeftBehind(ctx context.Context, req *logical.Request, resp *logical.Response, old, config *configEntry) {
	if old.Host == "" || old.knownOrigin().sameWorkspace(config.knownOrigin()) || old.sameSecret(config) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	bounded, cancel := context.WithTimeout(ctx, retainedBudget)
	defer cancel()
	gone, warnings := b.removeCredentials(bounded, old, old.Rotation.all())
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
	if len(gone) == 0 {
		return
	}
	err := b.changeRotation(ctx, req.Storage, func(c *configEntry) { c.Rotation.forget(gone) })
	if err != nil {
		b.Logger().Warn("the config still names credentials that were removed", "error", err)
	}
}

// warnOfAdmin warns of the roles that give an admin's rights since the config has an admin's credential: when they were written, it had not.
func (b *backend) warnOfAdmin(ctx context.Context, req *logical.Request, resp *logical.Response, old, config *configEntry) {
	was, is := credential.Known{Identity: old.Identity}, credential.Known{Identity: config.Identity}
	if was.Admin() || !is.Admin() {
		return
	}
	roles := b.rolesThat(ctx, req.Storage, func(_ string, role *roleEntry) bool {
		own := slices.Contains([]string{credential.OAuthToken, credential.Database}, role.CredentialType) && role.ServicePrincipalID == "" && role.AssumeGroupID == ""
		return own || role.CredentialType == credential.PAT
	})
	if roles != "" {
		resp.AddWarning(fmt.Sprintf("The engine's identity is %s, who is a workspace admin, so these roles give an admin's rights or logins: %s. Prefer types of a service principal.", config.Identity.UserName, roles))
	}
}

// warnOfLookups warns of the roles whose ids, group or database were looked up at the workspace of before: elsewhere, the same may be those of others.
func (b *backend) warnOfLookups(ctx context.Context, req *logical.Request, resp *logical.Response, old, config *configEntry) {
	here := config.knownOrigin()
	if old.Host == "" || old.knownOrigin().sameWorkspace(here) {
		return
	}
	if roles := b.rolesThat(ctx, req.Storage, func(name string, role *roleEntry) bool { return role.fitsPlace(name, here) != nil }); roles != "" {
		resp.AddWarning("What these roles name was looked up at another workspace, so nothing is minted for them until they are written again: " + roles + ".")
	}
}

// rolesThat returns the paths of the roles, static ones as they are minted for, for which is returns true, as a text; "" for none. It leaves out
// those that can't be read.
func (b *backend) rolesThat(ctx context.Context, s logical.Storage, is func(name string, role *roleEntry) bool) string {
	var paths []string
	add := func(prefix, path string, read func(name string) *roleEntry) {
		stored, err := s.List(ctx, prefix)
		if err != nil {
			b.Logger().Warn("the roles that a change of the config concerns could not be listed", "error", err)
		}
		for _, name := range stored {
			if role := read(name); role != nil && is(name, role) {
				paths = append(paths, path+name)
			}
		}
	}
	add(roleStoragePrefix, "roles/", func(name string) *roleEntry {
		role, err := b.peekRole(ctx, s, name)
		if err != nil {
			return nil
		}
		return role
	})
	add(staticStoragePrefix, "static-roles/", func(name string) *roleEntry {
		e, err := b.static(ctx, s, name)
		if err != nil || e == nil {
			return nil
		}
		return e.mints()
	})
	const most = 10
	if len(paths) > most {
		return fmt.Sprintf("%s and %d more", joinIDs(paths[:most]), len(paths)-most)
	}
	return joinIDs(paths)
}
