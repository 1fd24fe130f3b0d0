# Keeps the current credential of a static role in a file. It is shared by all who read it, and has no lease.
# Policy: ../policies/static-reader.hcl

# The variable VAULT_ADDR takes precedence.
vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/dash/role-id"
      secret_id_file_path                 = "/etc/vault-agent/dash/secret-id"
      remove_secret_id_file_after_reading = false # Agent logs in again when its token has ended
    }
  }
}

# Agent reads again when the credential has been rotated, as its ttl and rotation_period say. The previous one goes on working
# for the role's rotation_grace_period.
template {
  destination = "/run/databricks/dash.env"
  perms       = "0600"
  contents    = <<EOT
{{ with secret "databricks/static-creds/dash" -}}
DATABRICKS_HOST={{ .Data.host }}
DATABRICKS_TOKEN={{ .Data.token_value }}
{{ end -}}
EOT
}
