# Resources in Databricks, by a credential that Vault mints for each run.
#
# An ephemeral resource is in no state and no plan file. Terraform reads it once for a plan and once for an apply. It neither
# renews the lease nor revokes it at the end: the role's ttl must be as long as a run, and should not be much longer.

terraform {
  required_version = ">= 1.10"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.9"
    }
    databricks = {
      source  = "databricks/databricks"
      version = ">= 1.50"
    }
  }
}

ephemeral "vault_generic_secret" "databricks" {
  path = "databricks/creds/ci"
}

provider "databricks" {
  host  = ephemeral.vault_generic_secret.databricks.data["host"]
  token = ephemeral.vault_generic_secret.databricks.data["token_value"]
}

data "databricks_current_user" "ci" {}

output "deploys_as" {
  value = data.databricks_current_user.ci.user_name
}
