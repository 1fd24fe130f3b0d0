#!/bin/bash
# SPDX-License-Identifier: MPL-2.0
#
# usage: deploy.sh <target>
#
# Logs in to Vault with the identity token of the CI job (VAULT_ID_TOKEN), mints a credential, and deploys the bundle with it.
# At the end, however it comes, the Vault token is revoked, and so is the credential.
set -euo pipefail
target=$1

VAULT_TOKEN=$(vault write -field=token auth/jwt/login role=databricks-ci jwt="$VAULT_ID_TOKEN")
export VAULT_TOKEN
trap 'vault token revoke -self' EXIT

minted=$(vault read -format=json databricks/creds/ci)
DATABRICKS_HOST=$(jq --raw-output .data.host <<<"$minted")
DATABRICKS_TOKEN=$(jq --raw-output .data.token_value <<<"$minted")
export DATABRICKS_HOST DATABRICKS_TOKEN
unset minted

databricks bundle deploy --target "$target"
