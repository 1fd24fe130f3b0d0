#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# What should pass before a commit, in less than a minute if the caches of Go and staticcheck are warm. "make test" runs all the rest: the long unit
# tests, the race detector, tests on a real Vault server, chaos.
set -eu
cd "$(dirname "$0")/.."

step() { printf '%s\n' "check: $*"; }

step "gofmt"
unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { printf '%s\n' "check: not formatted; run 'gofmt -w' on:" "$unformatted" >&2; exit 1; }

step "go vet and staticcheck"
go vet -tags e2e ./...
go tool -modfile=test/tools/go.mod staticcheck -tags e2e ./...

step "short unit tests, without the race detector"
GOGC=400 go test -short -timeout 5m ./...
step "ok"
