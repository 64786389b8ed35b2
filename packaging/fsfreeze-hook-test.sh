#!/bin/sh
# shellcheck disable=SC2016
# Tests the freeze hook: packaging/fsfreeze-hook-test.sh [SHELL]
#
# Works below a temporary directory, on a copy of the hook whose paths lead there.

set -u
SHELL_UNDER_TEST=${1:-sh}
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(mktemp -d)
failures=0
trap 'rm -rf "$ROOT"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$ROOT/hooks/fsfreeze-hook.d" "$ROOT/run" "$ROOT/log" "$ROOT/bin"
HOOK=$ROOT/hooks/fsfreeze-hook
D=$ROOT/hooks/fsfreeze-hook.d
LOG=$ROOT/log/qga-fsfreeze-hook.log
sed "s#^RUN=/run#RUN=$ROOT/run#; s#/var/log#$ROOT/log#; s#^PATH=#PATH=$ROOT/bin:#" \
    "$HERE/fsfreeze-hook" >"$HOOK" || exit 1
chmod 755 "$HOOK"

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
    [ -s "$ROOT/stdout" ] && fail "$*: output on stdout"
}

# The log of a thaw is written by a process of its own.
logged() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        grep -q -e "$1" "$LOG" 2>/dev/null && return
        sleep 0.2
    done
    fail "'$1' is not in the log"
}

step='usage'
expect 2 ''
expect 2 '' frees

step='nothing to do'
expect 0 '' freeze
expect 0 '' thaw
[ -e "$LOG" ] && fail "log written for nothing"

step='order'
script 10-first 'echo first says $1'
script 20-second
script 30-third
expect 0 '10-first freeze,20-second freeze,30-third freeze,' freeze
logged 'first says freeze'
expect 0 '30-third thaw,20-second thaw,10-first thaw,' thaw
logged 'first says thaw'
expect 0 '' thaw
[ "$(stat -c %a "$LOG")" = 600 ] || fail "log has mode $(stat -c %a "$LOG")"

step='a freeze that nobody thawed'
expect 0 '10-first freeze,20-second freeze,30-third freeze,' freeze
expect 0 '30-third thaw,20-second thaw,10-first thaw,10-first freeze,20-second freeze,30-third freeze,' freeze
expect 0 '30-third thaw,20-second thaw,10-first thaw,' thaw

step='what is skipped'
for suffix in '~' .bak .orig .rpmnew .rpmorig .rpmsave .sample .dpkg-old .dpkg-new \
    .dpkg-tmp .dpkg-dist .dpkg-bak .dpkg-backup .dpkg-remove; do
    script "40-x$suffix"
done
echo 'not executable' >"$D/README"
mkdir "$D/50-directory"
expect 0 '10-first freeze,20-second freeze,30-third freeze,' freeze
expect 0 '30-third thaw,20-second thaw,10-first thaw,' thaw

step='a script that fails to freeze'
script 20-second '[ "$1" = thaw ] || { echo cannot sleep; exit 3; }'
expect 1 '10-first freeze,20-second freeze,20-second thaw,10-first thaw,' freeze
grep -q '20-second failed with status 3: cannot sleep' "$ROOT/stderr" ||
    fail "stderr: $(cat "$ROOT/stderr")"
logged '20-second failed with status 3'
expect 0 '' thaw

step='a script that fails to thaw'
script 20-second '[ "$1" = freeze ]'
expect 0 '10-first freeze,20-second freeze,30-third freeze,' freeze
expect 1 '30-third thaw,20-second thaw,10-first thaw,' thaw
expect 0 '' thaw

step='a script that comes or goes'
script 20-second
expect 0 '10-first freeze,20-second freeze,30-third freeze,' freeze
script 05-new
rm "$D/20-second"
expect 1 '30-third thaw,10-first thaw,' thaw
rm "$D/05-new"

step='a hook that is killed half way'
script 20-second 'if [ "$1" = freeze ]; then sleep 30; fi'
: >"$ROOT/calls"
setsid "$SHELL_UNDER_TEST" "$HOOK" freeze &
hook=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
    grep -q 20-second "$ROOT/calls" && break
    sleep 0.2
done
kill -KILL "-$hook" 2>/dev/null || kill -KILL "$hook"
wait "$hook" 2>/dev/null
expect 0 '20-second thaw,10-first thaw,' thaw
rm "$D/20-second"

step='a script that others may change'
script 20-second
chmod 757 "$D/20-second"
expect 1 '10-first freeze,10-first thaw,' freeze
grep -q '20-second refused' "$ROOT/stderr" || fail "stderr: $(cat "$ROOT/stderr")"
rm "$D/20-second"

step='a log that blocks'
rm -f "$LOG"
expect 0 '10-first freeze,30-third freeze,' freeze
rm -f "$LOG"
mkfifo "$LOG"
start=$(date +%s)
expect 0 '30-third thaw,10-first thaw,' thaw
[ $(($(date +%s) - start)) -lt 5 ] || fail "the thaw waited for the log"
timeout 10 cat "$LOG" | grep -q 'first says thaw' || fail "output of the thaw lost"
rm -f "$LOG"

step='a log that cannot be written'
printf '#!/bin/sh\necho "$*" >"%s/logger"\ncat >>"%s/logger"\n' "$ROOT" "$ROOT" >"$ROOT/bin/logger"
chmod 755 "$ROOT/bin/logger"
mkdir "$LOG"
expect 0 '10-first freeze,30-third freeze,' freeze
grep -q -e '-t qemu-ga-freeze-hook' "$ROOT/logger" || fail "logger not called"
grep -q 'first says freeze' "$ROOT/logger" || fail "nothing for the logger"
expect 0 '30-third thaw,10-first thaw,' thaw

step='names with blanks'
rm -f "$D/10-first" "$D/30-third"
script 'a name'
expect 0 'a name freeze,' freeze
expect 0 'a name thaw,' thaw

sleep 0.5
[ "$(ls "$ROOT/run/qemu-ga-fsfreeze-hook")" = '' ] ||
    fail "left in /run: $(ls "$ROOT/run/qemu-ga-fsfreeze-hook")"

echo "freeze hook under $SHELL_UNDER_TEST: $failures failures"
[ "$failures" -eq 0 ]
