# For a team that adds secrets to its scope, here "team-a", one at a time, permanently or with a ttl, and never overwrites one.
#
# Every write must send if_absent=true, with which the engine refuses to overwrite. The parameters are listed, since a value can
# be demanded only of a parameter that is allowed. The vault command sends "true" as a string, other clients may send it as a
# boolean. Writing many secrets at once ("update" on databricks/secrets/team-a) can overwrite, so it is not allowed. A star
# rather than a plus sign, because keys may contain slashes.

path "databricks/secrets/team-a/*" {
  capabilities        = ["update"]
  required_parameters = ["if_absent"]
  allowed_parameters  = {
    "if_absent"       = [true, "true"]
    "string_value"    = []
    "bytes_value"     = []
    "password_policy" = []
    "ttl"             = []
  }
}

# The names of the keys that are taken.
path "databricks/secrets/team-a" {
  capabilities = ["list"]
}
