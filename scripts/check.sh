#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# What should pass before a commit, in about a minute on two cores if caches are warm. "make test" runs all the rest: the long unit tests, the race
# detector, tests on a real Vault server, chaos.
set -eu
cd "$(dirname "$0")/.."

step() { printf '%s\n' "check: $*"; }

step "gofmt"
unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { printf '%s\n' "check: not formatted; run 'gofmt -w' on:" "$unformatted" >&2; exit 1; }

# Analysing all packages takes as long as all the tests. What is committed has passed "make lint".
changed=$({ git diff --name-only HEAD -- '*.go'; git ls-files --others --exclude-standard -- '*.go'; } | while read -r file; do
  [ ! -e "$file" ] || dirname "$file"
done | sort -u | grep -v -E '^test/(floor|page|tools|vault)(/|$)' | sed 's|^|./|' || true)

step "go vet and staticcheck of what has changed (${changed:-nothing}), and beside them the short unit tests, without the race detector"
report=$(mktemp)
trap 'rm -f "$report"' EXIT
# shellcheck disable=SC2086 # Folders of Go packages have no blanks.
{ [ -z "$changed" ] || { go vet -tags e2e $changed && go tool -modfile=test/tools/go.mod staticcheck -tags e2e $changed; }; } >"$report" 2>&1 &
analysis=$!
tests=0
GOGC=400 go test -short -parallel 8 -timeout 5m ./... || tests=$?
wait "$analysis" || { cat "$report" >&2; exit 1; }
[ "$tests" = 0 ] || exit "$tests"
step "ok"
