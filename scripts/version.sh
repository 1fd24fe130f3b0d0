#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Prints the version of the working tree, a semantic version with a leading "v" that is also a valid tag of an image:
#
#   v0.2.0                              at the tag v0.2.0
#   v0.2.1-dev.12.gabc1234              12 commits after it: later than v0.2.0, earlier than v0.2.1
#   v0.3.0-rc.1.dev.2.gabc1234          2 commits after the tag v0.3.0-rc.1
#   v0.2.1-dev.12.gabc1234.dirty        with changes that are not committed, or files that git does not know
#   v0.1.1-dev[.12.gabc1234]            no tag is known (or no commit either: a source archive)
set -eu
cd "$(dirname "$0")/.."

first=v0.1.0 # the last release that has no tag

next() { # of v1.2.3: v1.2.4-dev; of v1.2.3-rc.1: v1.2.3-rc.1.dev
  case $1 in
    *-*) echo "$1.dev" ;;
    *) echo "${1%.*}.$((${1##*.} + 1))-dev" ;;
  esac
}

commit=$(git rev-parse --verify --quiet HEAD 2>/dev/null) || { next $first; exit; }
commit=$(echo "$commit" | cut -c-7) # As git shortens it, but as long everywhere.
dirty=
[ -z "$(git status --porcelain)" ] || dirty=.dirty
tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null) || tag=
since=$(git rev-list --count ${tag:+"$tag.."}HEAD)
if [ -n "$tag" ] && [ "$since" = 0 ] && [ -z "$dirty" ]; then
  echo "$tag"
else
  echo "$(next "${tag:-$first}").$since.g$commit$dirty"
fi
