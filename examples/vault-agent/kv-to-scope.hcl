# Makes a secret scope of Databricks follow a secret in Vault's KV store: what is added, changed or removed in KV is so in the
# scope at the next poll.
# Policy: kv-to-scope-policy.hcl

# The variable VAULT_ADDR takes precedence.
vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/team-a/role-id"
      secret_id_file_path                 = "/etc/vault-agent/team-a/secret-id"
      remove_secret_id_file_after_reading = false # Agent logs in again when its token has ended
    }
  }

  # Agent's own token, for the script.
  sink "file" {
    config = {
      path = "/run/databricks/vault-token"
      mode = 0600
    }
  }
}

# How often Agent polls KV.
template_config {
  static_secret_render_interval = "1m"
}

# The file has the values, so its folder should be in memory (tmpfs) and only for Agent's user.
template {
  destination = "/run/databricks/team-a.json"
  perms       = "0600"
  contents    = <<EOT
{{ with secret "kv/data/team-a" -}}
{"secrets": {{ .Data.data | toJSON }}, "prune": true}
{{ end -}}
EOT

  exec {
    command = ["/etc/vault-agent/push.sh", "/run/databricks/team-a.json", "/run/databricks/vault-token"]
    timeout = "5m"
  }
}
