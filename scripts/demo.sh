#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# A guided tour of the engine: a Vault dev server of its own, a workspace, one token from birth to death, a secret scope with
# a secret and a permission for an hour, and rotations: of the engine's own credential, and of a shared one.
#
#   scripts/demo.sh          runs the tour and cleans up
#   scripts/demo.sh --stay   sets up, then leaves everything running until Ctrl-C
#
# The workspace is a simulated one, unless DATABRICKS_HOST is set together with DATABRICKS_TOKEN, or with
# DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET: then it is that real one. 'make demo' builds what this needs first.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
plugin=vault-plugin-secrets-databricks
stay=
case "${1:-}" in
  '') ;;
  --stay) stay=1 ;;
  *) echo "usage: scripts/demo.sh [--stay]" >&2; exit 2 ;;
esac

# The tour takes what it needs of Databricks' variables and hides the rest, as it hides the user's own Vault.
host=${DATABRICKS_HOST:-}
token=${DATABRICKS_TOKEN:-}
client_id=${DATABRICKS_CLIENT_ID:-}
client_secret=${DATABRICKS_CLIENT_SECRET:-}
vault_bin=${VAULT_BIN:-}
for name in $(env | sed -n -e 's/^\(VAULT_[A-Z0-9_]*\)=.*/\1/p' -e 's/^\(DATABRICKS_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') red=$(printf '\033[31m') off=$(printf '\033[0m')
else bold='' dim='' red='' off=''; fi

work=$(mktemp -d "${TMPDIR:-/tmp}/databricks-demo.XXXXXX")
vault_pid='' simulator_pid='' page='' mounted='' scope='' static='' failed=1
cleanup() {
  status=$?
  trap - EXIT
  trap '' INT TERM
  # No lease holds the credentials of a static role.
  [ -z "$static" ] || vault delete databricks/static-roles/dash >/dev/null 2>&1 || echo "demo: the tokens of the static role dash could not be deleted; their comments begin with 'Vault static role dash'" >&2
  # The scope is the tour's own, and goes with what is in it.
  [ -z "$scope" ] || vault delete "databricks/scopes/$scope" >/dev/null 2>&1 || echo "demo: the secret scope $scope could not be deleted; please delete it by hand" >&2
  # Disabling the mount revokes its leases: a token minted in a real workspace must not outlive an interrupted tour.
  [ -z "$mounted" ] || vault secrets disable databricks >/dev/null 2>&1 || true
  [ -z "$vault_pid" ] || kill "$vault_pid" 2>/dev/null || true
  [ -z "$vault_pid" ] || wait "$vault_pid" 2>/dev/null || true
  [ -z "$simulator_pid" ] || kill "$simulator_pid" 2>/dev/null || true
  [ -z "$simulator_pid" ] || wait "$simulator_pid" 2>/dev/null || true
  if [ -n "$failed" ]; then
    [ -f "$work/vault.log" ] || [ -f "$work/simulator.log" ] || rm -rf "$work"
    printf '\n%s\n' "The demo stopped before its end, and left nothing running." >&2
    [ ! -f "$work/vault.log" ] || echo "  Vault's log:          $work/vault.log" >&2
    [ ! -f "$work/simulator.log" ] || echo "  the simulator's log:  $work/simulator.log" >&2
    [ "$status" -ne 0 ] || status=1
  else
    rm -rf "$work"
  fi
  exit "$status"
}
trap cleanup EXIT
trap 'failed=; printf "\nInterrupted: cleaning up.\n"; exit 130' INT
trap 'exit 143' TERM

die() { printf '%s\n' "${red}demo: $*${off}" >&2; exit 1; }

# shorten keeps the beginning of anything that is a token.
shorten() { sed -e 's/\(dapi[0-9a-f]\{4\}\)[0-9a-f][0-9a-f-]*/\1…/g' -e 's/\(dose[0-9a-z]\{4\}\)[0-9a-z]*/\1…/g' -e 's/\(eyJ[A-Za-z0-9_-]\{5\}\)[A-Za-z0-9_.-]*/\1…/g'; }

steps=0
step() {
  steps=$((steps + 1))
  printf '\n%s\n%s\n' "${bold}$steps. $1${off}" "${dim}   $2${off}"
}

# show prints a command as a person would type it; quoted where it needs to be.
show() {
  line=
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./:=@%+,-]*) word="'$word'" ;;
    esac
    line="$line $word"
  done
  printf '   %s\n' "${bold}\$${line}${off}" | shorten
}

# must shows a command, runs it and prints what it said; the tour ends if it fails.
must() {
  show "$@"
  if "$@" >"$work/out" 2>&1; then
    sed 's/^/   /' "$work/out" | shorten
  else
    sed 's/^/   /' "$work/out" | shorten >&2
    die "that command failed, and was expected to succeed.$hint"
  fi
}

# must_fail is its opposite: the refusal is the point.
must_fail() {
  show "$@"
  if "$@" >"$work/out" 2>&1; then
    sed 's/^/   /' "$work/out" | shorten >&2
    die "that command succeeded, and was expected to be refused.$hint"
  fi
  sed 's/^/   /' "$work/out" | shorten
}

vault() { "$vault_bin" "$@"; }

# field prints one field of the table that the last command printed.
field() { sed -n "s/^$1  *//p" "$work/out" | head -n 1; }

sha256() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum "$1"; else shasum -a 256 "$1"; fi | sed 's/ .*//'
}

# free_port_guess gives a port to try. Whether it is free, the server that binds it will say.
attempt=0
free_port_guess() { echo $((20000 + ($$ * 7 + $(date +%S | sed 's/^0//') * 131 + attempt * 1009) % 30000)); }

for program in "$plugin" databricks-simulator; do
  [ -x "$root/bin/$program" ] || die "bin/$program is not there: run 'make build' (or 'make demo', which does)"
done
if [ -n "$host" ] && [ -z "$token" ] && { [ -z "$client_id" ] || [ -z "$client_secret" ]; }; then
  die "DATABRICKS_HOST is set, but neither DATABRICKS_TOKEN nor DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET are. Set them, or unset DATABRICKS_HOST for the simulated workspace."
fi
vault_bin=$(VAULT_BIN=$vault_bin "$root/scripts/find-vault.sh") || die "no Vault to run; see the message above"

# Everything below has a home of its own: no ~/.vault-token is read or written.
mkdir -p "$work/home" "$work/plugins"
cp "$root/bin/$plugin" "$work/plugins/"

hint=" The logs below may say more."
[ -z "$host" ] || hint=" Check DATABRICKS_HOST, the credential and its right to create tokens and secret scopes; without DATABRICKS_HOST the demo uses a simulated workspace."

# A terminal sends Ctrl-C to everything in the foreground. The servers are kept out of it, so that they live until cleanup.
apart() { [ ! -t 0 ] || set -m; }

step "A workspace" "Something that answers like Databricks."
if [ -n "$host" ]; then
  echo "   the real one at $host"
else
  token=dapi$(od -An -N16 -tx1 /dev/urandom | sed 's/[^0-9a-f]//g;' | head -n 1)
  apart
  HOME=$work/home DATABRICKS_SIMULATOR_TOKEN=$token "$root/bin/databricks-simulator" -addr 127.0.0.1:0 >"$work/simulator.log" 2>&1 &
  simulator_pid=$!
  set +m
  tries=0
  until host=$(sed -n 's|.*\(http://127\.0\.0\.1:[1-9][0-9]*\).*|\1|p' "$work/simulator.log" | head -n 1) && [ -n "$host" ]; do
    tries=$((tries + 1))
    kill -0 "$simulator_pid" 2>/dev/null && [ "$tries" -lt 100 ] || { cat "$work/simulator.log" >&2; die "the simulator did not start; what it said is above"; }
    sleep 0.1
  done
  page=$host/simulator/
  echo "   a simulated one at $host"
  echo "   Open $page in a browser to watch what happens in it."
fi

step "A Vault server" "In memory, on a port of its own, with the plugin in its plugin directory."
root_token=demo-$(od -An -N8 -tx1 /dev/urandom | sed 's/[^0-9a-f]//g')
started=
while [ -z "$started" ]; do
  attempt=$((attempt + 1))
  [ "$attempt" -le 5 ] || die "Vault did not start, on five different ports; its log says why. VAULT_BIN=<path> uses another Vault."
  port=$(free_port_guess)
  apart
  HOME=$work/home "$vault_bin" server -dev -dev-listen-address="127.0.0.1:$port" -dev-root-token-id="$root_token" \
    -dev-no-store-token -dev-plugin-dir="$work/plugins" -dev-plugin-init=false -log-level=debug >"$work/vault.log" 2>&1 &
  vault_pid=$!
  set +m
  tries=0
  while kill -0 "$vault_pid" 2>/dev/null && [ "$tries" -lt 300 ]; do
    # The line is awaited in our server's own log: another server may well answer on that port.
    if grep -q 'Root Token: ' "$work/vault.log"; then started=1; break; fi
    tries=$((tries + 1))
    sleep 0.1
  done
  if [ -z "$started" ]; then
    kill "$vault_pid" 2>/dev/null || true
    wait "$vault_pid" 2>/dev/null || true
  fi
done
export PATH="$root/bin:$PATH" HOME="$work/home" VAULT_ADDR="http://127.0.0.1:$port" VAULT_TOKEN="$root_token"
echo "   $(vault version) at $VAULT_ADDR"

step "Register the plugin" "Vault runs a plugin only if its checksum is in the catalogue."
must vault plugin register -sha256="$(sha256 "$work/plugins/$plugin")" secret "$plugin"

step "Enable it" "One mount is one workspace."
must vault secrets enable -path=databricks "$plugin"
mounted=1

step "Tell it where the workspace is, and who it is there" "It asks Databricks whether that is true before it stores anything. The secret comes from stdin (the '-'), so that it is in no process list."
if [ -n "$token" ]; then
  printf '%s' "$token" >"$work/secret"
  set -- vault write databricks/config host="$host" token=-
else
  printf '%s' "$client_secret" >"$work/secret"
  set -- vault write databricks/config host="$host" client_id="$client_id" client_secret=-
fi
must "$@" <"$work/secret"
rm -f "$work/secret"

step "A role" "What may be minted, and for how long."
must vault write databricks/roles/etl credential_type=pat ttl=15m max_ttl=1h

if [ -n "$stay" ]; then
  printf '\n%s\n' "${bold}It is all yours. In another terminal:${off}"
  cat <<EOF
   export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=$VAULT_TOKEN
   vault read databricks/creds/etl
   vault write -f databricks/scopes/demo
   vault write databricks/secrets/demo/greeting string_value=hello
   vault path-help databricks

EOF
  if [ -n "$page" ]; then
    printf '\n%s\n' "${bold}The workspace${off} holds what the commands of docs/ name:"
    # The banner of the simulator says who there is. The lines about the engine's own access are in it, too.
    sed -n '/^  host /,/^$/p' "$work/simulator.log" | sed '/^$/d; s/^/ /'
  fi
  cat <<EOF

   Vault is $vault_bin; its log is $work/vault.log
   Ctrl-C ends it all.
EOF
  wait "$vault_pid" || true
  die "Vault ended by itself"
fi

step "Mint a token" "Every read is a new token with a lease."
must vault read databricks/creds/etl
minted=$(field token_value)
lease=$(field lease_id)
token_id=$(field token_id)
[ -n "$minted" ] && [ -n "$lease" ] && [ -n "$token_id" ] || die "the answer lacks token_value, lease_id or token_id"

step "Use it" "Databricks knows the token, and whose it is."
DATABRICKS_HOST=$host DATABRICKS_TOKEN=$minted
export DATABRICKS_HOST DATABRICKS_TOKEN
must databricks-simulator whoami

step "Look at the lease" "Vault knows when it ends. Renewal stays inside what was promised at the start."
must vault lease lookup "$lease"

step "Look at the token" "What Databricks knows of it. The comment names role and caller; the value is never shown again."
must vault read "databricks/tokens/$token_id"

step "Revoke it" "One call to Databricks."
must vault lease revoke -sync "$lease"

step "Try it again" "It is dead, long before its expiry."
must_fail databricks-simulator whoami

step "How is the engine?" "Who it is upstream, since when that is known, and what it asked for."
must vault read -format=yaml databricks/status

step "A secret scope" "It holds the secrets that notebooks and jobs read. The name is the tour's own, and the scope is deleted at the end."
name=vault-demo-$(od -An -N8 -tx1 /dev/urandom | sed 's/[^0-9a-f]//g')
scope=$name
must vault write -f "databricks/scopes/$name"

step "Push a secret" "The value comes from stdin again, and is in no answer and no log."
od -An -N16 -tx1 /dev/urandom | sed 's/[^0-9a-f]//g' | head -n 1 | tr -d '\n' >"$work/secret"
must vault write "databricks/secrets/$name/api-key" string_value=- <"$work/secret"
rm -f "$work/secret"
must vault list -detailed "databricks/secrets/$name"

step "Give a group access for an hour" "A permission with a ttl is a lease. wait=true waits until Databricks shows it."
must vault write "databricks/acls/$name/users" permission=READ ttl=1h wait=true
lease=$(field lease_id)
[ -n "$lease" ] || die "the answer lacks lease_id"
must vault list -detailed "databricks/acls/$name"

step "Revoke it" "What it replaced is put back, which is nothing here. Without this it would be in an hour."
must vault lease revoke -sync "$lease"
tries=0
while vault read "databricks/acls/$name/users" >/dev/null 2>&1 && [ "$tries" -lt 60 ]; do
  # A real workspace keeps permissions in caches.
  tries=$((tries + 1))
  sleep 1
done
must_fail vault read "databricks/acls/$name/users"

step "A credential that is shared" "For a program that can't take leases. It is replaced every week, and kept in the secret scope, too."
static=1
must vault write databricks/static-roles/dash credential_type=pat rotation_period=168h rotation_grace_period=1h \
  deliver_scope="$name" deliver_key=dash-token

step "Read it" "All who may read it get the same. No lease, and no call to Databricks."
must vault read databricks/static-creds/dash
before=$(field token_value)
[ -n "$before" ] || die "the answer lacks token_value"

step "Rotate it now" "The one before is in retired_ids: it lives on for rotation_grace_period. The scope has the new one."
must vault write -f databricks/rotate-role/dash
must vault read databricks/static-creds/dash
after=$(field token_value)
[ -n "$after" ] && [ "$after" != "$before" ] || die "the credential was not replaced"
must vault list -detailed "databricks/secrets/$name"

step "Both work" "First the old one, then the new one: whoever read it an hour ago has time to read again."
DATABRICKS_TOKEN=$before
must databricks-simulator whoami
DATABRICKS_TOKEN=$after
must databricks-simulator whoami

step "Delete the static role" "Both tokens and the copy in the scope go with it."
must vault delete databricks/static-roles/dash
static=
must_fail databricks-simulator whoami
DATABRICKS_TOKEN=$before
must_fail databricks-simulator whoami

step "Delete the scope" "With all that is in it."
must vault delete "databricks/scopes/$name"
scope=

if [ -n "$simulator_pid" ]; then
  # Only in the simulated workspace: in a real one the credential that you gave would no longer be the engine's.
  step "Replace the engine's own credential" "Every 30 days, and now. The new one is not shown. The one that you gave is an operator's, so the engine leaves it alone and says how to delete it."
  must vault write databricks/config rotation_period=720h
  must vault write -f databricks/config/rotate-root
  made_by_hand=$(field hand_made_credentials | tr -d '[]')
  [ -n "$made_by_hand" ] || die "the answer lacks hand_made_credentials"

  step "Delete the previous credential" "With the command from the warning. The engine keeps working with its own."
  DATABRICKS_TOKEN=$token
  must databricks-simulator whoami
  must vault delete "databricks/tokens/$made_by_hand"
  must_fail databricks-simulator whoami
  must vault read databricks/creds/etl
fi

failed=
printf '\n%s\n' "${bold}That was it.${off} Everything has been cleaned up. 'make dev' sets up the same and leaves it to you."
