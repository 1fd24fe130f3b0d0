# Reads the current credential of one static role, here "dash". Does not allow reading the role itself, or any other role.
#
# This is what a program or its Vault Agent needs. Name each role in full: databricks/static-creds/* would allow all roles.

path "databricks/static-creds/dash" {
  capabilities = ["read"]
}
