# For a team that pushes secrets into its own scope, here "team-a". The team can't read values or access other scopes.
#
# For another scope, copy both rules. Name every scope in full: Databricks ignores the case of scopes and keys, but Vault
# does not, so a rule that allows "databricks/secrets/*" and another that denies one scope do not protect that scope.

# Many secrets at once. prune=true deletes the keys that were not sent, and dry_run=true returns the names of keys, so
# this rule also allows deleting and listing. Omit it for a team that must do neither.
path "databricks/secrets/team-a" {
  capabilities = ["update", "list"]
}

# One secret at a time, permanently or with a ttl. A star rather than a plus sign, because keys may contain slashes. For a
# team that may add secrets but not overwrite any, see adder.hcl.
path "databricks/secrets/team-a/*" {
  capabilities = ["update"]
}
