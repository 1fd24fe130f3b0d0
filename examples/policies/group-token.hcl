# For somebody who works with access tokens that have the rights of a group, from one role, here "analysts" (credential_type=oauth_token,
# assume_group=analysts). May ask for fewer scopes than the role has. Can't have the token delivered, and can't have another group's rights:
# callers can't name the group, and this policy names one role.
#
# Nobody should write roles who may not have the rights of every group that the engine's identity may assume, and its own. A policy can't
# bind a writer to one group: Vault lets an empty value pass, whatever allowed_parameters says, and a role with an empty assume_group has the
# identity's own rights.
#
# There is no rule for revoking leases: Databricks can't revoke access tokens.

path "databricks/creds/analysts" {
  capabilities       = ["read", "update"]
  allowed_parameters = {
    "scopes" = []
  }
}
