#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# usage: register.sh <plugin directory>
#
# Registers the plugin by hand, from the plugin directory of the server, and enables it. Where the server registers the plugin
# itself, as server.hcl says, only the last command is needed.
set -eu
sum=$(sha256sum "$1/vault-plugin-secrets-databricks" | cut -d' ' -f1)

bao plugin register -sha256="$sum" -command=vault-plugin-secrets-databricks -version=v1.0.0 secret databricks
bao secrets enable -path=databricks databricks
