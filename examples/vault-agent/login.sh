#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# usage: login.sh <name> <policy file>
#
# Lets Vault Agent log in as the AppRole <name>, with one policy, and writes role id and secret id into the folder that the
# configurations here name. Run it as the user that Agent runs as, with a Vault token that may write policies and AppRoles.
set -eu
name=$1 policy=$2
folder=/etc/vault-agent/$name
umask 077

mkdir -p "$folder"
vault policy write "databricks-$name" "$policy"
vault write "auth/approle/role/$name" token_policies="databricks-$name" token_period=1h
vault read -field=role_id "auth/approle/role/$name/role-id" >"$folder/role-id"
vault write -force -field=secret_id "auth/approle/role/$name/secret-id" >"$folder/secret-id"
