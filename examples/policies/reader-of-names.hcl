# Sees which scopes there are, which keys they have and when each was last written. Sees no value and no permission, and
# changes nothing: for inventories and audits.

path "databricks/scopes" {
  capabilities = ["list"]
}

path "databricks/secrets" {
  capabilities = ["list"]
}

# The plus sign stands for the name of any scope, and for no more: databricks/secrets/<scope>/<key> is not in this rule.
path "databricks/secrets/+" {
  capabilities = ["list"]
}
