#!/bin/sh
# shellcheck disable=SC2016
# Tests the shipped freeze hook as a script: packaging/fsfreeze-hook-test.sh [SHELL]

set -u
SHELL_UNDER_TEST=${1:-sh}
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(mktemp -d)
failures=0
trap 'rm -rf "$ROOT"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$ROOT/fsfreeze-hook.d"
HOOK=$ROOT/fsfreeze-hook
D=$ROOT/fsfreeze-hook.d
cp "$HERE/fsfreeze-hook" "$HOOK" || exit 1

fail() {
    echo "FAILED ($step) $*"
    failures=$((failures + 1))
}

# script NAME [COMMAND]: notes its name and argument, then runs COMMAND.
script() {
    printf '#!/bin/sh\necho "%s $1" >>"%s/calls"\n%s\n' "$1" "$ROOT" "${2-}" >"$D/$1"
    chmod 755 "$D/$1"
}

# expect STATUS CALLS ARGUMENT...: runs the hook; the scripts called, in order.
expect() {
    want=$1 calls=$2
    shift 2
    : >"$ROOT/calls"
    "$SHELL_UNDER_TEST" "$HOOK" "$@" >"$ROOT/stdout" 2>"$ROOT/stderr"
    got=$?
    [ "$got" -eq "$want" ] || fail "$*: status $got, wanted $want: $(cat "$ROOT/stderr")"
    got=$(tr '\n' ',' <"$ROOT/calls")
    [ "$got" = "$calls" ] || fail "$*: called '$got', wanted '$calls'"
}

step='usage'
expect 2 ''
expect 2 '' frees

step='nothing to do'
expect 0 '' freeze
expect 0 '' thaw

step='order'
script 10-first 'echo first says $1'
script '20 second'
script 30-third
expect 0 '10-first freeze,20 second freeze,30-third freeze,' freeze
grep -q 'first says freeze' "$ROOT/stdout" || fail "output lost"
expect 0 '30-third thaw,20 second thaw,10-first thaw,' thaw

step='what is skipped'
for suffix in '~' .bak .orig .rpmnew .rpmorig .rpmsave .sample .dpkg-old .dpkg-new \
    .dpkg-tmp .dpkg-dist .dpkg-bak .dpkg-backup .dpkg-remove; do
    script "40-x$suffix"
done
echo 'not executable' >"$D/README"
mkdir "$D/50-directory"
expect 0 '10-first freeze,20 second freeze,30-third freeze,' freeze
expect 0 '30-third thaw,20 second thaw,10-first thaw,' thaw

step='a script that fails to freeze'
script '20 second' '[ "$1" = thaw ] || { echo cannot sleep >&2; exit 3; }'
expect 1 '10-first freeze,20 second freeze,20 second thaw,10-first thaw,' freeze
grep -q 'cannot sleep' "$ROOT/stderr" || fail "stderr: $(cat "$ROOT/stderr")"
grep -q '20 second failed to freeze' "$ROOT/stderr" || fail "stderr: $(cat "$ROOT/stderr")"

step='a script that fails to thaw'
script '20 second' '[ "$1" = freeze ]'
expect 1 '30-third thaw,20 second thaw,10-first thaw,' thaw

echo "freeze hook under $SHELL_UNDER_TEST: $failures failures"
[ "$failures" -eq 0 ]
