# Manages the permissions on one scope, here "etl", permanently or with a ttl. Does not allow reading or writing secrets.
#
# Users with this policy can also grant themselves a permission at Databricks, but not in Vault.

path "databricks/acls/etl" {
  capabilities = ["list"]
}

# A star rather than a plus sign, because the name of a principal may contain slashes.
path "databricks/acls/etl/*" {
  capabilities      = ["read", "update", "delete"]
  denied_parameters = {
    "force" = []
  }
}

# Protects the engine's own permission on the scope. Replace the name by the engine's user name or application id, exactly as
# shown by 'vault read databricks/status': the engine rejects other spellings of it. Vault does not check the parameters of a
# delete, so denied_parameters alone would not prevent the owner from locking out the engine with force=true.
path "databricks/acls/etl/engine@example.com" {
  capabilities = ["read"]
}
