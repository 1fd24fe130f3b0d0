// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-databricks/internal/client"
)

// Known is what the engine knows of a role's identities when the role is written.
type Known struct {
	Account     bool                     // the mount is connected to an account
	Identity    *client.Identity         // the engine's; nil if it isn't known
	Unknown     string                   // why it isn't known, if somebody should be warned of that; else empty
	Principal   *client.ServicePrincipal // the one that the role names; nil if it was not looked up
	HostUnknown string                   // why the host of the role's database isn't known; empty if it is
	Hidden      []string                 // the databases that Databricks does not show the engine's identity, which a service principal may see
	Unmanaged   bool                     // Databricks refused the engine to list the service principal's secrets
}

// Admin reports whether the engine's identity is known to be an admin where the mount is connected.
func (k Known) Admin() bool {
	return k.Identity != nil && (k.Identity.Admin || k.Identity.AccountAdmin)
}

// notAdmin reports whether the engine's identity is known to be no admin. On an account that isn't certain.
func (k Known) notAdmin() bool { return k.Identity != nil && !k.Account && !k.Admin() }

// adminName says what an admin is where the mount is connected.
func (k Known) adminName() string {
	if k.Account {
		return "an account admin"
	}
	return "a workspace admin"
}

// adminWarnings returns the warning for credentials that act as the engine's own identity, if that is an admin.
func adminWarnings(known Known, spec Spec) []string {
	if known.Unknown != "" {
		return []string{fmt.Sprintf("It isn't known whether the engine's identity is an admin (%s). If it is, credentials of this role have all its rights.", known.Unknown)}
	}
	if !known.Admin() {
		return nil
	}
	return []string{fmt.Sprintf("Credentials of this role have all the rights of %s, who is %s. Safer are %s; or connect the mount as an identity with only the rights that the role's users need.",
		known.Identity.UserName, known.adminName(), safer(spec))}
}

// safer lists the types with which a role of the kind need not act as the engine.
func safer(spec Spec) string {
	if spec.Stored {
		return fmt.Sprintf("%s or %s of a named service principal", OBOToken, OAuthSecret)
	}
	return fmt.Sprintf("%s, %s, %s of a named service principal, or %s", OBOToken, OAuthSecret, OAuthToken, ServicePrincipal)
}

// principalWarnings returns the warning for credentials that act as a named service principal, if that is an admin.
func principalWarnings(known Known, spec Spec) []string {
	admin := known.Principal != nil && known.Principal.Admin
	// The engine's own identity can be named, too.
	admin = admin || known.Admin() && strings.EqualFold(known.Identity.UserName, spec.ApplicationID)
	if !admin {
		return nil
	}
	return []string{fmt.Sprintf("Credentials of this role have all the rights of service principal %s, which is %s. Name one that has only the rights that the role's users need.",
		spec.ApplicationID, known.adminName())}
}

// groupWarnings returns the warning for service principals that are made members of the workspace's admins.
func groupWarnings(spec Spec) []string {
	if !slices.ContainsFunc(spec.Groups, client.IsAdminGroup) {
		return nil
	}
	return []string{`Each service principal of this role is a workspace admin, since it is made a member of the group "admins". Name groups that have only the rights that the role's users need.`}
}

// secretWarnings returns the warning for OAuth secrets that the engine can't make.
func secretWarnings(known Known, spec Spec) []string {
	if !known.Unmanaged {
		return nil
	}
	return []string{fmt.Sprintf("Mints of this role will fail: Databricks does not let the engine's identity handle the secrets of service principal %s. Make it %s, or the manager of that service principal.",
		spec.ServicePrincipalID, known.adminName())}
}

// onlyAdminsWarnings returns the warning for what only workspace admins can make.
func onlyAdminsWarnings(known Known, what string) []string {
	if known.Unknown != "" && !known.Account {
		return []string{fmt.Sprintf("It isn't known whether the engine's identity is a workspace admin (%s). If it isn't, mints of this role will fail: only a workspace admin can make %s.", known.Unknown, what)}
	}
	if !known.notAdmin() {
		return nil
	}
	return []string{fmt.Sprintf("Mints of this role will fail: only a workspace admin can make %s, and the engine's identity, %s, isn't one.", what, known.Identity.UserName)}
}

// scopeWarnings warns of API scopes with which a credential can escape the limits of its lease.
func scopeWarnings(spec Spec) []string {
	if !slices.Contains(spec.Scopes, "authentication") {
		return nil
	}
	return []string{`A credential with the scope "authentication" can create further ones with any scope, which outlive the lease.`}
}
