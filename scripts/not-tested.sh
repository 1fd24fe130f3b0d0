#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Says which end-to-end tests will be skipped for want of a program, and what they would show: go test prints nothing about skipped tests.
set -u
cd "$(dirname "$0")/.."

missing() { printf '%s\n' "*** NOT TESTED: $*"; }
has() { command -v "$1" >/dev/null 2>&1; }

if found=$(scripts/find-postgres.sh 2>&1); then
  echo "PostgreSQL for the login to a real database: $found"
else
  missing "the login to a real database: $found"
fi
if ! has terraform; then
  missing "examples/terraform with Terraform itself: there is no terraform in PATH"
elif [ -z "${TF_PROVIDER_VAULT:-}" ]; then
  missing "examples/terraform with the real provider: TF_PROVIDER_VAULT=<path of terraform-provider-vault> is not set"
elif [ -z "${TF_PROVIDER_DATABRICKS:-}" ]; then
  missing "the ephemeral credential of examples/terraform: TF_PROVIDER_DATABRICKS=<path of terraform-provider-databricks> is not set"
fi
for program in jq curl; do
  has "$program" || missing "examples/ci/deploy.sh: there is no $program in PATH"
done
git cat-file -e 'f8d87bd^{commit}' 2>/dev/null || missing "the upgrade from v0.1.0: this clone does not have its commit (git fetch --unshallow)"
