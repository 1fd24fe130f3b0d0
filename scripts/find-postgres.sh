#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Prints the folder with the programs of a PostgreSQL server that the end-to-end tests can start, or says on stderr why there is none.
set -eu

die() { printf '%s\n' "$*" >&2; exit 1; }

IFS=:
for dir in $PATH /usr/lib/postgresql/*/bin; do
  all=1
  for name in initdb postgres psql pg_isready pg_config; do
    [ -x "$dir/$name" ] || all=
  done
  if [ -n "$all" ]; then
    case "$("$dir/pg_config" --configure 2>/dev/null)" in
      '' | *--with-ldap*) ;;
      *) die "the PostgreSQL in $dir was built without LDAP" ;;
    esac
    if [ "$(id -u)" = 0 ] && ! id postgres >/dev/null 2>&1 && ! id nobody >/dev/null 2>&1; then
      die "root can't run PostgreSQL, and there is no user postgres or nobody"
    fi
    echo "$dir"
    exit 0
  fi
done
die "no PostgreSQL server is installed (Debian has one in the package postgresql)"
