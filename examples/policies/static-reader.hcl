# Reads the current credential of one static role, here "bi", and nothing else: neither how it is rotated, nor any other.
#
# This is what a program or its Vault Agent needs. Name each role in full: databricks/static-creds/* would be all of them.

path "databricks/static-creds/bi" {
  capabilities = ["read"]
}
