# An OpenBao server (2.6 or later) that downloads the plugin from an OCI registry and registers it by itself.

storage "raft" {
  path    = "/opt/openbao/data"
  node_id = "one"
}

# OpenBao counts the strings of a JSON body, keys and values: 1,000 at most unless raised. A push of 1,000 secrets has 2,005.
listener "tcp" {
  address                  = "0.0.0.0:8200"
  tls_cert_file            = "/opt/openbao/tls/cert.pem"
  tls_key_file             = "/opt/openbao/tls/key.pem"
  max_request_json_strings = 4000
}

api_addr     = "https://bao.example.com:8200"
cluster_addr = "https://bao.example.com:8201"

plugin_directory     = "/opt/openbao/plugins"
plugin_auto_download = true
plugin_auto_register = true

# The sum is that of the binary, not of the image.
plugin "secret" "databricks" {
  image       = "registry.example.com/vault-plugin-secrets-databricks"
  version     = "v1.0.0"
  binary_name = "vault-plugin-secrets-databricks"
  sha256sum   = "0000000000000000000000000000000000000000000000000000000000000000"
}
