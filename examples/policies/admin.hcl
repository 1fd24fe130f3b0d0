# Sets up the engine: its connection, its roles, static roles and the secret scopes. Sees and deletes tokens out of band, and ends all
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

# What a static role made is never in its answers, but may be delivered into a secret scope.
path "databricks/static-roles" {
  capabilities = ["list"]
}

path "databricks/static-roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Removes what the mount made and no longer owns, and nothing else.
path "databricks/tidy" {
  capabilities = ["update"]
}

path "databricks/tidy/status" {
  capabilities = ["read"]
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
