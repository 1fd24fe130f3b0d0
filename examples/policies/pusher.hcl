# A team that pushes secrets into a scope of its own, here "team-a". It sees no value again, and nothing of other scopes.
#
# Copy both rules for a further scope. Name every scope in full: Databricks ignores the case of scope names and Vault
# does not, so a rule that allows "databricks/secrets/*" and another that denies one scope are no protection.

# Many at once. With prune=true the scope becomes equal to what is sent, and with dry_run=true the names of its keys are
# told, so who may push many may also delete and list. Leave this rule out for a team that must do neither.
path "databricks/secrets/team-a" {
  capabilities = ["update", "list"]
}

# One at a time, for good or with a ttl. Without "update" the team could add secrets but not overwrite any.
path "databricks/secrets/team-a/+" {
  capabilities = ["create", "update"]
}
