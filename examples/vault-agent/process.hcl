# Runs a process with a Databricks token in its environment, and restarts it with the next token. No file has the token.
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

# Both variables are of the same token: Agent reads a path once, however many templates name it.
env_template "DATABRICKS_HOST" {
  contents             = "{{ with secret \"databricks/creds/etl\" }}{{ .Data.host }}{{ end }}"
  error_on_missing_key = true
}

env_template "DATABRICKS_TOKEN" {
  contents             = "{{ with secret \"databricks/creds/etl\" }}{{ .Data.token_value }}{{ end }}"
  error_on_missing_key = true
}

# The process gets 30 seconds to end after the signal. Agent ends when the process ends by itself, with the same status.
exec {
  command                   = ["/usr/local/bin/etl"]
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
