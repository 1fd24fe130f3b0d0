# For a program that logs in to a Lakebase database with what one role mints, here "shop". It may ask for a shorter life than the role's
# ("ttl", 5 minutes at least for an endpoint), and can't have the password delivered into a secret.
#
# Vault's default policy lets it look up the leases. There is no rule for revoking them: a revocation ends neither the password nor open
# connections, so choose a short ttl in the role.

path "databricks/creds/shop" {
  capabilities       = ["read", "update"]
  allowed_parameters = {
    "ttl" = []
  }
}
