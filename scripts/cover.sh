#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs the unit tests with coverage of the engine and its packages; prints the total, writes cover.html, and
# fails below $COVER_MIN percent (95 unless told). $RACE is -race or empty.
set -eu
cd "$(dirname "$0")/.."

min=${COVER_MIN:-95}
# shellcheck disable=SC2086 # RACE is one word or none.
go test ${RACE:-} -covermode=atomic -coverprofile=cover.out -coverpkg=.,./internal/... . ./internal/...
go tool cover -html=cover.out -o cover.html
total=$(go tool cover -func=cover.out | sed -n 's/^total:.*[[:space:]]\([0-9.]*\)%$/\1/p')
echo "coverage: $total % of statements (details in cover.html)"
[ "${total%.*}" -ge "$min" ] || { echo "coverage: below $min %" >&2; exit 1; }
