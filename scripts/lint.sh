#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Everything that can be said of the code without running it. Ends with the first kind of complaint.
set -eu
cd "$(dirname "$0")/.."

fail() { printf '%s\n' "lint: $*" >&2; exit 1; }

echo "lint: gofmt"
sources=$(find . -name .cache -prune -o -name .git -prune -o -name '*.go' -print)
# shellcheck disable=SC2086 # Go's file names have no blanks.
unformatted=$(gofmt -l $sources)
[ -z "$unformatted" ] || fail "not formatted; run 'gofmt -w' on:
$unformatted"

echo "lint: licence headers"
# shellcheck disable=SC2086
unmarked=$(grep -L 'SPDX-License-Identifier: MPL-2.0' $sources scripts/*.sh .ci/run || true)
[ -z "$unmarked" ] || fail "no 'SPDX-License-Identifier: MPL-2.0' line in:
$unmarked"

echo "lint: shell syntax"
for script in scripts/*.sh; do sh -n "$script"; done
bash -n .ci/run

echo "lint: go vet"
go vet ./...
go vet -tags e2e ./test/e2e/ ./test/cluster/
(cd test/floor && go vet ./...)
(cd test/tools && go vet ./...)
(cd test/page && go vet ./...)

echo "lint: staticcheck"
go tool -modfile=test/tools/go.mod staticcheck ./...
go tool -modfile=test/tools/go.mod staticcheck -tags e2e ./test/e2e/ ./test/cluster/
(cd test/tools && go tool staticcheck ./...)

for module in . test/vault test/tools test/floor test/page; do
  echo "lint: go mod tidy -diff in $module"
  (cd "$module" && go mod tidy -diff) || fail "go.mod or go.sum of '$module' is not tidy; run 'go mod tidy' there"
done
echo "lint: ok"
