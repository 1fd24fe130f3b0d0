# For inventories and audits: lists scopes, their keys and when each key was last written. Does not allow reading values or
# permissions, or changing anything.

path "databricks/scopes" {
  capabilities = ["list"]
}

path "databricks/secrets" {
  capabilities = ["list"]
}

# The plus sign matches the name of one scope only: databricks/secrets/<scope>/<key> is not included. The list has all keys
# of the scope, those with slashes too.
path "databricks/secrets/+" {
  capabilities = ["list"]
}
