# Configures the engine: its connection, roles, static roles and secret scopes. Lists and deletes tokens regardless of their
# leases, and revokes all leases of a role in an emergency. Does not allow minting, or reading and writing secrets and
# permissions.
#
# A static role that is delivered into a scope hands its credential to everybody who may read that scope at Databricks. So this
# policy can neither begin nor move a delivery, nor choose who manages a new scope. A static role that somebody else has had
# delivered can still be given another credential_type, such as pat, which is the engine's own identity: where that matters,
# leave static-roles/+ to a policy of its own.

path "databricks/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

path "databricks/roles" {
  capabilities = ["list"]
}

path "databricks/roles/+" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# A static role never returns its credential.
path "databricks/static-roles" {
  capabilities = ["list"]
}

path "databricks/static-roles/+" {
  capabilities      = ["create", "read", "update", "patch", "delete"]
  denied_parameters = {
    "deliver_scope" = []
    "deliver_key"   = []
    "deliver_uc"    = []
  }
}

# Removes what the mount created and no longer uses.
path "databricks/tidy" {
  capabilities = ["update"]
}

path "databricks/tidy/status" {
  capabilities = ["read"]
}

# Deleting a scope deletes its secrets: omit "delete" if administrators must not do that.
path "databricks/scopes" {
  capabilities = ["list"]
}

path "databricks/scopes/+" {
  capabilities      = ["read", "update", "delete"]
  denied_parameters = {
    "initial_manage_principal" = []
  }
}

path "databricks/tokens" {
  capabilities = ["list"]
}

path "databricks/tokens/+" {
  capabilities = ["read", "delete"]
}

path "databricks/status" {
  capabilities = ["read"]
}

path "sys/leases/revoke-prefix/databricks/creds/+" {
  capabilities = ["update", "sudo"]
}
