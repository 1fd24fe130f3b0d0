// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"fmt"
	"slices"

	"vault-plugin-secrets-databricks/internal/client"
)

// fieldAssumeGroup is the field of a role that names the group whose rights its credentials have.
const fieldAssumeGroup = "assume_group"

// fitsAssumed returns a *FieldError if access tokens with a group's rights can't be made over the connection: only the OAuth of a workspace has
// them. A token of a named service principal always comes from Databricks' OAuth, whatever the engine itself is connected with.
func fitsAssumed(conn Conn, spec Spec) error {
	const instead = "leave assume_group out, or "
	switch {
	case spec.Assumed == client.Group{}:
		return nil
	case conn.Client().AccountTokens():
		return &FieldError{fieldAssumeGroup, "access tokens of an account can't have a group's rights, and the mount is connected to an account; " + instead + "use a mount of the workspace"}
	case spec.Named():
		return nil
	case conn.AuthType() == client.AuthPAT:
		return &FieldError{fieldAssumeGroup, "the mount is connected with a personal access token, which can't be exchanged for a token with a group's rights; name a service principal, or connect the mount with OAuth"}
	case conn.AuthType() == client.AuthAzureClientSecret:
		return &FieldError{fieldAssumeGroup, "access tokens of Entra ID, which the mount is connected with, can't have a group's rights; " + instead + "name a service principal, or connect the mount with auth_type oauth-m2m or oidc"}
	}
	return nil
}

// explainAssumed adds to a refusal of a token with a group's rights who may not assume which group, and what to do.
func explainAssumed(err error, who string, spec Spec) error {
	if spec.Assumed.ID == "" || !client.IsKind(err, client.PermissionDenied) {
		return err
	}
	return explain("%s can't assume the group %q (id %s); make it a member of the group, give it the Assume permission on the group, or correct assume_group of the role (a write of it alone looks the group up again): %w",
		who, spec.Assumed.DisplayName, spec.Assumed.ID, err)
}

// assumedWarnings returns the warnings for access tokens with a group's rights.
func assumedWarnings(spec Spec) []string {
	warnings := []string{"A workspace that does not know assume_group, which is in Public Preview, may ignore it and give tokens all rights of the identity. Try once what a token of this role may do."}
	if len(spec.Scopes) == 0 || slices.ContainsFunc(spec.Scopes, func(scope string) bool { return scope == allAPIs || scope == "authentication" }) {
		warnings = append(warnings, "Tokens of this role may be able to create personal access tokens, which outlive them, and which may have all rights of the identity: Databricks does not document that it refuses that to a token with a group's rights. Send scopes that hold neither authentication nor all-apis.")
	}
	if client.IsAdminGroup(spec.Assumed.DisplayName) {
		warnings = append(warnings, fmt.Sprintf("Credentials of this role have all the rights of a workspace admin, since they assume the group %q. Name a group that has only the rights that the role's users need.", spec.Assumed.DisplayName))
	}
	return warnings
}
