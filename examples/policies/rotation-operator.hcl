# For monitoring, and for an on-call engineer who rotates credentials after a leak. Shows the results of rotations and
# rotates immediately. Does not allow reading credentials, or changing schedules or roles.
#
# After a rotation, the previous credential stays valid for its grace period. To end it at once, set
# rotation_grace_period=0 before the rotation, which needs "update" on databricks/static-roles/<name>. To delete a token
# that an operator created, "delete" on databricks/tokens/<token_id> is needed.
#
# Rotations are refused while too many credentials are in their grace. end_oldest_grace=true then ends the oldest one's: to
# deny that, add denied_parameters = { "end_oldest_grace" = [] } to databricks/rotate-role/+.

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
