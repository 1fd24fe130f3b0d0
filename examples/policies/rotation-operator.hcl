# Sees how rotations go, and rotates at once: for an on-call engineer after a leak, and for monitoring. Sees no credential,
# and changes neither schedules nor roles.
#
# A credential of before lives on for its grace. Whoever must end it at once needs "update" on databricks/static-roles/<name>
# to set rotation_grace_period=0 first. The one that was made by hand takes "delete" on databricks/tokens/<token_id>.

path "databricks/config/rotate-root" {
  capabilities = ["update"]
}

path "databricks/rotate-role/+" {
  capabilities = ["update"]
}

path "databricks/config" {
  capabilities = ["read"]
}

path "databricks/static-roles" {
  capabilities = ["list"]
}

path "databricks/static-roles/+" {
  capabilities = ["read"]
}

path "databricks/status" {
  capabilities = ["read"]
}
