#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# usage: register.sh <plugin directory> <version>
#
# Registers the plugin by hand, from the plugin directory of the server, and enables it. The version must be the plugin's own, which
# "vault-plugin-secrets-databricks -version" prints; server.hcl has it, too. Where the server registers the plugin
# itself, as server.hcl says, only the last command is needed.
set -eu
sum=$(sha256sum "$1/vault-plugin-secrets-databricks" | cut -d' ' -f1)

bao plugin register -sha256="$sum" -command=vault-plugin-secrets-databricks -version="$2" secret databricks
bao secrets enable -path=databricks databricks
