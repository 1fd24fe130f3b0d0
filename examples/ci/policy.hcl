# For CI jobs: mints from one role. Revoking the job's own Vault token, which revokes what it minted, is allowed by Vault's
# default policy.

path "databricks/creds/ci" {
  capabilities      = ["read"]
  denied_parameters = {
    "*" = []
  }
}
