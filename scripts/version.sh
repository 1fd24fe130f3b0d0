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
#
# Of several tags on one commit it is the highest: the release, and not the candidate that became it.
set -eu
cd "$(dirname "$0")/.."

first=v0.1.0 # the last release that has no tag
releases='v[0-9]*.[0-9]*.[0-9]*'

next() { # of v1.2.3: v1.2.4-dev; of v1.2.3-rc.1: v1.2.3-rc.1.dev
  case $1 in
    *-*) echo "$1.dev" ;;
    *) echo "${1%.*}.$((${1##*.} + 1))-dev" ;;
  esac
}

# An archive may be unpacked within another repository, whose commits and tags are not those of this project.
[ -z "$(git rev-parse --show-prefix 2>/dev/null)" ] && commit=$(git rev-parse --verify --quiet HEAD 2>/dev/null) || { next $first; exit; }
commit=$(echo "$commit" | cut -c-7) # As git shortens it, but as long everywhere.
dirty=
[ -z "$(git status --porcelain --untracked-files=normal)" ] || dirty=.dirty
tag=$(git describe --tags --abbrev=0 --match "$releases" --exclude '*+*' 2>/dev/null) || tag=
if [ -n "$tag" ]; then
  tag=$(git -c versionsort.suffix=- tag --points-at "$tag^{commit}" --sort=-version:refname --list "$releases" | grep -v + | head -n 1)
elif [ "$(git rev-parse --is-shallow-repository)" = true ]; then
  echo "version: no tag is known in this shallow clone, so the version is a guess; 'git fetch --unshallow --tags' gets them" >&2
fi
since=$(git rev-list --count ${tag:+"$tag.."}HEAD)
if [ -n "$tag" ] && [ "$since" = 0 ] && [ -z "$dirty" ]; then
  echo "$tag"
else
  echo "$(next "${tag:-$first}").$since.g$commit$dirty"
fi
