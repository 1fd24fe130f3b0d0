#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# usage: setup.sh <application id of the service principal that deploys>
#
# Lets jobs of one GitLab project, on its protected main branch, mint a credential. For GitHub, the issuer is
# https://token.actions.githubusercontent.com, the audience https://github.com/<owner>, and bound_claims has
# {"repository": "<owner>/<repository>", "ref": "refs/heads/main"}.
set -eu

vault write databricks/roles/ci credential_type=obo_token application_id="$1" ttl=30m max_ttl=1h
vault policy write databricks-ci policy.hcl
vault auth enable jwt
vault write auth/jwt/config oidc_discovery_url=https://gitlab.example.com bound_issuer=https://gitlab.example.com
vault write auth/jwt/role/databricks-ci - <<'JSON'
{
  "role_type": "jwt",
  "user_claim": "project_path",
  "bound_audiences": ["https://vault.example.com:8200"],
  "bound_claims": {"project_path": "data/etl", "ref": "main", "ref_protected": "true"},
  "token_policies": ["databricks-ci"],
  "token_ttl": "30m",
  "token_max_ttl": "1h"
}
JSON
