#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Prints the path of a Vault server binary on stdout; everything else it has to say goes to stderr.
# In this order: $VAULT_BIN, which may also be OpenBao's `bao`, `vault` on PATH if it is 1.20 or later, the copy built earlier, a copy built now from
# test/vault (once; it is kept in .cache/vault).
set -eu

version=1.21.1
root=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '%s\n' "find-vault: $*" >&2; }
die() { say "$*"; exit 1; }

# version_of prints the version of a Vault binary, as 1.21.1; nothing when the program is not HashiCorp Vault.
version_of() {
  env -u VAULT_ADDR -u VAULT_NAMESPACE "$1" version 2>/dev/null </dev/null |
    sed -n 's/^Vault v\([0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' | head -n 1
}

# openbao_version_of prints the version of an OpenBao binary; nothing when the program is not OpenBao.
openbao_version_of() {
  env -u BAO_ADDR -u VAULT_ADDR "$1" version 2>/dev/null </dev/null |
    sed -n 's/^OpenBao v\([0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' | head -n 1
}

# new_enough tells whether a version is 1.20 or later: external plugins built against the current SDK are tested from there.
new_enough() {
  major=${1%%.*}
  minor=${1#*.}
  minor=${minor%%.*}
  [ "$major" -gt 1 ] || { [ "$major" -eq 1 ] && [ "$minor" -ge 20 ]; }
}

if [ -n "${VAULT_BIN:-}" ]; then
  [ -f "$VAULT_BIN" ] && [ -x "$VAULT_BIN" ] ||
    die "VAULT_BIN is '$VAULT_BIN', which is not an executable file. Point it at a Vault binary, or unset it to have one found or built."
  if [ -z "$(version_of "$VAULT_BIN")" ]; then
    bao=$(openbao_version_of "$VAULT_BIN")
    [ -n "$bao" ] ||
      die "VAULT_BIN is '$VAULT_BIN', but '$VAULT_BIN version' does not answer like HashiCorp Vault or OpenBao. Point it at one, or unset it."
    say "'$VAULT_BIN' is OpenBao $bao: tests of what it does differently are skipped, and say so."
  fi
  case $VAULT_BIN in
    /*) echo "$VAULT_BIN" ;;
    *) echo "$(cd "$(dirname "$VAULT_BIN")" && pwd)/$(basename "$VAULT_BIN")" ;;
  esac
  exit 0
fi

if on_path=$(command -v vault 2>/dev/null) && [ -x "$on_path" ]; then
  found=$(version_of "$on_path")
  if [ -z "$found" ]; then
    say "'$on_path' is not HashiCorp Vault: passed over."
  elif new_enough "$found"; then
    echo "$on_path"
    exit 0
  else
    say "'$on_path' is Vault $found, older than 1.20: passed over."
  fi
fi

command -v go >/dev/null 2>&1 || die "no Vault found and no Go to build one with. Install Go (https://go.dev/dl), or set VAULT_BIN."

# What was built from another go.mod or for another system is another file.
key=$(cksum <"$root/test/vault/go.mod" | sed 's/ .*//')
dir=$root/.cache/vault/$version/$(go env GOOS)_$(go env GOARCH)-$key
bin=$dir/vault
log=$dir/build.log
lock=$dir/lock

if [ -x "$bin" ]; then
  echo "$bin"
  exit 0
fi

mkdir -p "$dir"

# The lock is a symbolic link whose target is the holder's process id: made in one step, and readable by those who wait.
waited=0
until ln -s "$$" "$lock" 2>/dev/null; do
  holder=$(readlink "$lock" 2>/dev/null || true)
  if [ -n "$holder" ] && { ! kill -0 "$holder" 2>/dev/null || [ -n "$(find "$log" -mmin +2 2>/dev/null)" ]; }; then
    # Its holder has died, or is another program that got the same id after a restart: a live one touches the log every
    # 15 seconds. Two waiters may both come here and then both build: that costs time and breaks nothing.
    rm -f "$lock"
    continue
  fi
  [ $((waited % 15)) -ne 0 ] || say "waiting for the Vault build of process ${holder:-?} (${waited} s)"
  sleep 1
  waited=$((waited + 1))
done
progress='' build=''
temp=$bin.$$
cleanup() {
  for child in $progress $build; do kill "$child" 2>/dev/null || true; done
  rm -f "$temp" "$lock"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -x "$bin" ]; then
  echo "$bin"
  exit 0
fi

say "building Vault $version once, into .cache/vault (4 to 10 minutes on two cores)"
began=$(date +%s)
elapsed() { echo $(($(date +%s) - began)); }
: >"$log"
(
  trap 'kill "$nap" 2>/dev/null; exit 0' TERM
  while :; do
    sleep 15 &
    nap=$!
    wait "$nap"
    touch "$log"
    downloaded=$(grep -c '^go: downloading' "$log" || true)
    compiled=$(grep -vc '^go: ' "$log" || true)
    say "$(elapsed) s: $downloaded modules fetched, $compiled packages compiled"
  done
) >/dev/null &
progress=$!

# In the background, since a shell in the foreground would answer a signal only when the build is through.
(cd "$root/test/vault" && exec go build -v -tags minimal -trimpath -buildvcs=false -ldflags '-s -w' -o "$temp" github.com/hashicorp/vault) 2>"$log" &
build=$!
if ! wait "$build"; then
  build=
  tail -n 20 "$log" >&2
  die "building Vault failed; the log is $log. Without access to the Go module proxy, set VAULT_BIN to a Vault 1.20 or later."
fi
build=
built=$(version_of "$temp")
[ "$built" = "$version" ] || die "built a Vault that calls itself '$built', expected $version: correct the version in scripts/find-vault.sh or test/vault/go.mod."
mv -f "$temp" "$bin"
say "built in $(elapsed) s"
echo "$bin"
