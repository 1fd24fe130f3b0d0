# For an Agent that pushes one KV secret into one scope. It can't read values of the scope or access other scopes.

path "kv/data/team-a" {
  capabilities = ["read"]
}

# A push with prune also deletes keys. Whoever has this policy decides what is in the scope.
path "databricks/secrets/team-a" {
  capabilities = ["update"]
}
