# Sets up the engine: its connection, its roles and the secret scopes. Sees and deletes tokens out of band, and ends all
# leases of a role in an emergency. Mints nothing, and reads and writes neither secrets nor permissions.

path "databricks/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

path "databricks/roles" {
  capabilities = ["list"]
}

path "databricks/roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Deleting a scope deletes its secrets: leave "delete" out where administrators must not.
path "databricks/scopes" {
  capabilities = ["list"]
}

path "databricks/scopes/+" {
  capabilities = ["create", "read", "update", "delete"]
}

path "databricks/tokens" {
  capabilities = ["list"]
}

path "databricks/tokens/+" {
  capabilities = ["read", "delete"]
}

path "databricks/status" {
  capabilities = ["read"]
}

path "sys/leases/revoke-prefix/databricks/creds/+" {
  capabilities = ["update", "sudo"]
}
