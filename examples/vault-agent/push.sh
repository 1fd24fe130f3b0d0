#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# usage: push.sh <rendered file> <file with Agent's token>
#
# Pushes the file that Agent has rendered into the scope. Agent runs this after each change of the file, with its own address of
# Vault as VAULT_ADDR. It does not repeat a failed command while the file is unchanged, so after a failure the file is removed:
# then Agent renders it again, and pushes.
set -u
file=$1 token=$2

if ! VAULT_TOKEN=$(cat "$token") vault write databricks/secrets/team-a "@$file" >/dev/null; then
  rm -f "$file"
  exit 1
fi
