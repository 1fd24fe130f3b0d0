# Mints tokens from one role, here "etl", and revokes them early.
#
# Vault's default policy lets the caller look up and renew the leases. This policy denies all parameters, in a write and in
# the query of a read: the caller gets the role's ttl, scopes and comment, and can't have the token delivered into a secret
# scope. To let callers narrow a role, add "update" and replace denied_parameters with
#   allowed_parameters = { "ttl" = [], "scopes" = [], "comment" = [] }

path "databricks/creds/etl" {
  capabilities      = ["read"]
  denied_parameters = {
    "*" = []
  }
}

# Revokes leases of this role only, as 'vault lease revoke' does. Without this rule, a token lasts until its lease ends.
path "sys/leases/revoke/databricks/creds/etl/*" {
  capabilities = ["update"]
}

# The same for clients that send the lease id in the request body.
path "sys/leases/revoke" {
  capabilities       = ["update"]
  allowed_parameters = {
    "lease_id" = ["databricks/creds/etl/*"]
    "sync"     = []
  }
}
