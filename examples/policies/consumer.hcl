# Mints tokens from one role, here "etl", and ends them early.
#
# Vault's default policy lets the holder look up and renew the leases. A role's ttl, scopes and comment are what its
# administrator wrote, and the token is for the caller: no parameter is allowed, neither in a write nor in the query of a
# read, so the caller can't have the token delivered into a secret scope. For callers that may narrow a role, add "update"
# and replace denied_parameters by
#   allowed_parameters = { "ttl" = [], "scopes" = [], "comment" = [] }

path "databricks/creds/etl" {
  capabilities      = ["read"]
  denied_parameters = {
    "*" = []
  }
}

# Ends leases of this role only, as 'vault lease revoke' does. Without this rule a token lives until its lease ends.
path "sys/leases/revoke/databricks/creds/etl/*" {
  capabilities = ["update"]
}

# The same for clients that put the id of the lease into the body.
path "sys/leases/revoke" {
  capabilities       = ["update"]
  allowed_parameters = {
    "lease_id" = ["databricks/creds/etl/*"]
    "sync"     = []
  }
}
