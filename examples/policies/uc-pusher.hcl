# For a team that pushes secrets into its own schema of Unity Catalog, here "main.team_a". The team can't read values through Vault or
# access other schemas. Who reads values at Databricks is up to READ SECRET there.
#
# For another schema, copy both rules. Name every catalog and schema in full: Databricks ignores the case of names, but Vault does not,
# so a rule that allows "databricks/uc-secrets/*" and another that denies one schema do not protect that schema.

# Many secrets at once. prune=true deletes the secrets that were not sent, and dry_run=true returns their names, so this rule also
# allows deleting and listing. Omit it for a team that must do neither.
path "databricks/uc-secrets/main/team_a" {
  capabilities = ["update", "list"]
}

# One secret at a time, permanently or with a ttl. Giving it to another owner, who could then read it and keep the engine from deleting
# it, is not allowed.
path "databricks/uc-secrets/main/team_a/+" {
  capabilities      = ["update"]
  denied_parameters = {
    "owner" = []
  }
}
