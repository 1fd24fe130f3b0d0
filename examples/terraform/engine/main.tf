# The engine as Terraform resources: mount, config, roles, static roles, scopes, permissions, policies.
#
# Durations are in seconds, since that is how the engine returns them: with "15m" every plan would show a change.

terraform {
  required_version = ">= 1.10"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.9"
    }
  }
}

variable "databricks_host" {
  type        = string
  description = "URL of the workspace, such as https://dbc-a1b2c3d4-e5f6.cloud.databricks.com"
}

# Terraform stores what it writes in its state. So give the token to the first apply only: the next one, without it, removes it
# from the state, and the engine goes on with the one that it has.
variable "databricks_token" {
  type        = string
  sensitive   = true
  default     = null
  description = "Personal access token of the engine's identity, for the first apply"
}

variable "application_id" {
  type        = string
  description = "Application id of the service principal that CI deploys as"
}

resource "vault_mount" "databricks" {
  path = "databricks"
  type = "vault-plugin-secrets-databricks"
}

resource "vault_generic_endpoint" "config" {
  path                 = "${vault_mount.databricks.path}/config"
  ignore_absent_fields = true

  data_json = jsonencode(merge(
    { host = var.databricks_host, max_ttl = 86400 },
    var.databricks_token == null ? {} : { token = var.databricks_token },
  ))
}

resource "vault_generic_endpoint" "role_etl" {
  depends_on           = [vault_generic_endpoint.config]
  path                 = "${vault_mount.databricks.path}/roles/etl"
  ignore_absent_fields = true

  data_json = jsonencode({
    credential_type = "pat"
    ttl             = 900
    max_ttl         = 3600
  })
}

# What Terraform itself uses: see ../workspace. It can't renew or revoke, so the credential ends soon.
resource "vault_generic_endpoint" "role_ci" {
  depends_on           = [vault_generic_endpoint.config]
  path                 = "${vault_mount.databricks.path}/roles/ci"
  ignore_absent_fields = true

  data_json = jsonencode({
    credential_type = "obo_token"
    application_id  = var.application_id
    ttl             = 1800
    max_ttl         = 1800
  })
}

resource "vault_generic_endpoint" "static_role_dash" {
  depends_on           = [vault_generic_endpoint.config]
  path                 = "${vault_mount.databricks.path}/static-roles/dash"
  ignore_absent_fields = true

  data_json = jsonencode({
    credential_type       = "pat"
    rotation_period       = 86400
    rotation_grace_period = 3600
  })
}

# Deleting a scope deletes its secrets, so a destroy leaves it.
resource "vault_generic_endpoint" "scope_team_a" {
  depends_on           = [vault_generic_endpoint.config]
  path                 = "${vault_mount.databricks.path}/scopes/team-a"
  ignore_absent_fields = true
  disable_delete       = true

  data_json = jsonencode({})
}

resource "vault_generic_endpoint" "permission_engineers" {
  depends_on           = [vault_generic_endpoint.scope_team_a]
  path                 = "${vault_mount.databricks.path}/acls/team-a/engineers"
  ignore_absent_fields = true

  data_json = jsonencode({ permission = "READ" })
}

resource "vault_policy" "consumer" {
  name   = "databricks-etl"
  policy = file("${path.module}/../../policies/consumer.hcl")
}

resource "vault_policy" "pusher" {
  name   = "databricks-team-a"
  policy = file("${path.module}/../../policies/pusher.hcl")
}

resource "vault_policy" "terraform" {
  name   = "databricks-terraform"
  policy = <<-EOT
    path "${vault_mount.databricks.path}/creds/ci" {
      capabilities = ["read"]
    }
  EOT
}
