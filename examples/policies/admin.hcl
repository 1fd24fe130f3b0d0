# Configures the engine: its connection, roles, static roles and secret scopes. Lists and deletes tokens regardless of their
# leases, and revokes all leases of a role in an emergency. Does not allow minting, or reading and writing secrets and
# permissions.

path "databricks/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

path "databricks/roles" {
  capabilities = ["list"]
}

path "databricks/roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# A static role never returns its credential, but may have it delivered into a secret scope.
path "databricks/static-roles" {
  capabilities = ["list"]
}

path "databricks/static-roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Removes what the mount created and no longer uses.
path "databricks/tidy" {
  capabilities = ["update"]
}

path "databricks/tidy/status" {
  capabilities = ["read"]
}

# Deleting a scope deletes its secrets: omit "delete" if administrators must not do that.
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
