# Decides who may read, write and manage one scope, here "etl", for good or with a ttl. Reads and writes no secrets.
#
# Whoever may write permissions may also give one to themselves: at Databricks, not in Vault.

path "databricks/acls/etl" {
  capabilities = ["list"]
}

# The star, not a plus sign, since the name of a principal may hold slashes.
path "databricks/acls/etl/*" {
  capabilities      = ["create", "read", "update", "delete"]
  denied_parameters = {
    "force" = []
  }
}

# The engine's own permission on the scope is not the owner's business: put the engine's user name or application id here,
# as 'vault read databricks/status' shows it. Vault checks no parameters of deletes, so denied_parameters alone would not
# keep the owner from locking the engine out with force=true.
path "databricks/acls/etl/engine@example.com" {
  capabilities = ["read"]
}
