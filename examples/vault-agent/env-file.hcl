# Keeps a Databricks token in a file that a service reads, for example by EnvironmentFile= of systemd.
# Policy: ../policies/consumer.hcl

# The variable VAULT_ADDR takes precedence.
vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/etl/role-id"
      secret_id_file_path                 = "/etc/vault-agent/etl/secret-id"
      remove_secret_id_file_after_reading = false # Agent logs in again when its token has ended
    }
  }
}

# Agent renews the lease, and mints the next token before the lease ends. The command runs after each write.
template {
  destination = "/run/databricks/databricks.env"
  perms       = "0600"
  contents    = <<EOT
{{ with secret "databricks/creds/etl" -}}
DATABRICKS_HOST={{ .Data.host }}
DATABRICKS_TOKEN={{ .Data.token_value }}
{{ end -}}
EOT

  exec {
    command = ["/etc/vault-agent/reload.sh"]
  }
}
