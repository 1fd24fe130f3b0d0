#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs every fuzz target of the module, one after the other, each for $FUZZTIME (10s unless told).
set -eu
cd "$(dirname "$0")/.."

ran=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    echo "== $package $target"
    go test -run '^$' -fuzz "^${target}\$" -fuzztime "${FUZZTIME:-10s}" "$package"
    ran=$((ran + 1))
  done
done
[ "$ran" -gt 0 ] || { echo "fuzz: no fuzz target found" >&2; exit 1; }
echo "fuzz: $ran targets, nothing found"
