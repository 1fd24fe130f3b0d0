#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# What should pass before a commit, in half a minute to one and a half on two cores if caches are warm. "make test" runs all the rest: the long
# unit tests, the race detector, tests on a real Vault server, chaos.
set -eu
cd "$(dirname "$0")/.."

step() { printf '%s\n' "check: $*"; }

step "gofmt"
unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { printf '%s\n' "check: not formatted; run 'gofmt -w' on:" "$unformatted" >&2; exit 1; }

step "go vet and staticcheck, and beside them the short unit tests, without the race detector"
report=$(mktemp)
trap 'rm -f "$report"' EXIT
{ go vet -tags e2e ./... && go tool -modfile=test/tools/go.mod staticcheck -tags e2e ./...; } >"$report" 2>&1 &
analysis=$!
tests=0
GOGC=400 go test -short -parallel 8 -timeout 5m ./... || tests=$?
wait "$analysis" || { cat "$report" >&2; exit 1; }
[ "$tests" = 0 ] || exit "$tests"
step "ok"
