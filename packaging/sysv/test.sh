#!/bin/sh
# Tests the init script with a stand-in for the agent: packaging/sysv/test.sh [SHELL]
# With QGA=path/to/qemu-ga also with the real agent, on a unix socket.
#
# Everything happens below a temporary directory: the script is tried in a copy
# whose absolute paths lead there. Needs no root.

set -u
# Under nohup nobody below could be told to reload.
case $(sed -n 's/^SigIgn:.*\(.\)$/\1/p' /proc/$$/status) in
[13579bdf]) exec env --default-signal=HUP "$0" "$@" ;;
esac
SHELL_UNDER_TEST=${1:-sh}
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(mktemp -d)
failures=0
count=0

cleanup() {
    for file in "$ROOT"/var/run/*.pid; do
        [ -s "$file" ] && kill -KILL "$(cat "$file")" 2>/dev/null
    done
    rm -rf "$ROOT"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$ROOT/etc/init.d" "$ROOT/etc/sysconfig" "$ROOT/etc/default" "$ROOT/lib/lsb" \
    "$ROOT/usr/sbin" "$ROOT/usr/bin" "$ROOT/var/run" "$ROOT/var/lock/subsys" "$ROOT/bin" \
    "$ROOT/dev" "$ROOT/sys/class/virtio-ports"
SCRIPT=$ROOT/etc/init.d/qemu-ga
sed -e "s#/etc/#$ROOT/etc/#g; s#/lib/lsb#$ROOT/lib/lsb#g; s#/var/#$ROOT/var/#g" \
    -e "s#/usr/\(s*bin\)/qemu-ga#$ROOT/usr/\1/qemu-ga#g; s#/sys/class#$ROOT/sys/class#g" \
    -e "s|/dev/[$]|$ROOT/dev/\$|g; s|^PATH=|PATH=$ROOT/bin:|" "$HERE/qemu-ga" >"$SCRIPT" || exit 1
printf '#!/bin/sh\ncat "%s/uid"\n' "$ROOT" >"$ROOT/bin/id"
chmod 755 "$SCRIPT" "$ROOT/bin/id"
echo 0 >"$ROOT/uid"

# The stand-in keeps its last arguments and understands what the script needs.
cat >"$ROOT/agent" <<AGENT
#!/bin/sh
[ -e "$ROOT/broken" ] && { echo "broken configuration" >&2; exit 1; }
method=virtio-serial path=$ROOT/dev/port pidfile=$ROOT/var/run/qemu-ga.pid retry=false action=run
for arg; do
    case \$arg in
    --method=*) method=\${arg#*=} ;;
    --path=*) path=\${arg#*=} ;;
    --pidfile=*) pidfile=\${arg#*=} ;;
    -r | --retry-path) retry=true ;;
    --daemonize) action=daemon ;;
    --dump-conf) action=dump ;;
    esac
done
case \$action in
dump)
    printf '[general]\ndaemon=false\nmethod=%s\npath=%s\npidfile=%s\nretry-path=%s\n' \\
        "\$method" "\$path" "\$pidfile" "\$retry"
    ;;
daemon)
    printf '%s\n' "\$@" >"$ROOT/arguments"
    [ -e "$ROOT/busy" ] && { echo "port is busy" >&2; exit 1; }
    rm -f "$ROOT/ready"
    (
        trap 'rm -f "\$pidfile"; exit 0' TERM
        [ -e "$ROOT/deaf" ] && trap '' TERM
        trap ': >"$ROOT/reloaded"' HUP
        : >"$ROOT/ready"
        while :; do sleep 0.1; done
    ) </dev/null >/dev/null 2>&1 &
    echo \$! >"\$pidfile"
    until [ -e "$ROOT/ready" ]; do sleep 0.1; done
    ;;
esac
AGENT
chmod 755 "$ROOT/agent"
install_agent() { cp "$ROOT/agent" "$ROOT/usr/sbin/qemu-ga"; }
install_agent
: >"$ROOT/dev/port"

# expect STATUS TEXT ACTION: runs the script; TEXT must be in what it prints.
expect() {
    count=$((count + 1))
    out=$("$SHELL_UNDER_TEST" "$SCRIPT" ${3+"$3"} 2>&1)
    got=$?
    [ "$got" -eq "$1" ] || fail "${3-no action}: status $got, wanted $1: $out"
    case $out in
    *"$2"*) ;;
    *) fail "${3-no action}: wanted '$2' in: $out" ;;
    esac
}

fail() {
    echo "FAILED (line: $step) $*"
    failures=$((failures + 1))
}

# Whether a file appears within half a minute.
appears() {
    tries=300
    until [ -e "$1" ]; do
        [ $((tries -= 1)) -gt 0 ] || return 1
        sleep 0.1
    done
}

argument() {
    grep -qxF -e "$1" "$ROOT/arguments" || fail "argument $1 missing in: $(tr '\n' ' ' <"$ROOT/arguments")"
}

no_argument() {
    grep -q -e "$1" "$ROOT/arguments" && fail "argument $1 in: $(tr '\n' ' ' <"$ROOT/arguments")"
}

settings() { cat >"$ROOT/etc/sysconfig/qemu-ga"; }
pid() { cat "$ROOT/var/run/qemu-ga.pid"; }

step='life of a service'
expect 3 'not running' status
expect 0 '' start
expect 0 'is running' status
[ -e "$ROOT/var/lock/subsys/qemu-ga" ] || fail "no lock file"
no_argument --method
before=$(pid)
expect 0 'already running' start
[ "$(pid)" = "$before" ] || fail "second start made another agent"
expect 0 '' reload
appears "$ROOT/reloaded" || fail "no HUP"
expect 0 '' restart
[ "$(pid)" = "$before" ] && fail "restart kept the agent"
before=$(pid)
expect 0 '' try-restart
[ "$(pid)" = "$before" ] && fail "try-restart kept the agent"
expect 0 '' condrestart
expect 0 '' force-reload
expect 0 '' stop
[ -e "$ROOT/var/lock/subsys/qemu-ga" ] && fail "lock file left"
expect 3 '' status
expect 0 'not running' stop
expect 7 'not running' reload
expect 0 '' try-restart
expect 0 '' condrestart
expect 3 '' status

step='usage'
expect 2 usage
expect 2 usage frobnicate

step='what is left behind'
echo 4194305 >"$ROOT/var/run/qemu-ga.pid"
expect 1 'qemu-ga.pid exists' status
sleep 30 &
other=$!
echo "$other" >"$ROOT/var/run/qemu-ga.pid"
expect 1 exists status
expect 0 'not running' stop
kill -0 "$other" || fail "a foreign process was killed"
kill "$other"
rm "$ROOT/var/run/qemu-ga.pid"
: >"$ROOT/var/lock/subsys/qemu-ga"
expect 2 'subsys/qemu-ga exists' status
rm "$ROOT/var/lock/subsys/qemu-ga"

step='not possible'
rm "$ROOT/dev/port"
expect 0 'dev/port does not exist' start
expect 3 '' status
: >"$ROOT/dev/port"
: >"$ROOT/busy"
expect 1 'port is busy' start
rm "$ROOT/busy"
expect 0 '' start
: >"$ROOT/broken"
expect 6 configuration restart
rm "$ROOT/broken"
expect 0 running status
rm "$ROOT/usr/sbin/qemu-ga"
expect 0 '' stop
expect 5 'not installed' start
install_agent
: >"$ROOT/broken"
expect 6 configuration start
rm "$ROOT/broken"
echo 1000 >"$ROOT/uid"
expect 4 root start
expect 4 root stop
expect 3 '' status
echo 0 >"$ROOT/uid"

step='an agent that does not end'
: >"$ROOT/deaf"
expect 0 '' start
settings <<END
STOP_TIMEOUT=1
END
expect 0 '' stop
expect 3 '' status
rm "$ROOT/deaf"

step='settings of RHEL 6'
: >"$ROOT/dev/ttyS1"
settings <<END
TRANSPORT_METHOD="isa-serial"
DEVPATH="$ROOT/dev/ttyS1"
LOGFILE="$ROOT/var/log/my log"
PIDFILE="$ROOT/var/run/other.pid"
BLACKLIST_RPC="guest-file-open guest-file-close,  guest-exec"
FSFREEZE_HOOK_ENABLE=1
END
expect 0 '' start
argument --daemonize
argument --method=isa-serial
argument "--path=$ROOT/dev/ttyS1"
argument "--logfile=$ROOT/var/log/my log"
argument "--pidfile=$ROOT/var/run/other.pid"
argument --block-rpcs=guest-file-open,guest-file-close,guest-exec
argument --fsfreeze-hook
expect 0 running status
expect 0 '' stop
[ -e "$ROOT/var/run/other.pid" ] && fail "other.pid left"
settings <<END
FSFREEZE_HOOK_ENABLE=0
FSFREEZE_HOOK_PATHNAME=/some/hook
END
expect 0 '' restart
no_argument fsfreeze
settings <<END
FSFREEZE_HOOK_PATHNAME=/some/hook
FILTER_RPC_ARGS="--allow-rpcs=guest-ping,guest-sync --verbose"
BLOCK_RPCS=guest-*
END
expect 0 '' restart
argument --fsfreeze-hook=/some/hook
argument --allow-rpcs=guest-ping,guest-sync
argument --verbose
argument '--block-rpcs=guest-*'
echo FSFREEZE_HOOK_PATHNAME=/dev/null | settings
expect 0 '' restart
no_argument fsfreeze
settings </dev/null

step='settings of Debian'
cat >"$ROOT/etc/default/qemu-guest-agent" <<END
TRANSPORT=vsock-listen:3:1234
DAEMON_ARGS="-v --retry-path"
END
expect 0 '' restart
argument --method=vsock-listen
argument --path=3:1234
argument -v
echo "TRANSPORT=virtio-serial:$ROOT/dev/none" >"$ROOT/etc/default/qemu-guest-agent"
expect 0 'dev/none does not exist' restart
expect 3 '' status
echo 'DAEMON_ARGS=-r' >>"$ROOT/etc/default/qemu-guest-agent"
expect 0 '' start
argument -r
expect 0 '' stop
rm "$ROOT/etc/default/qemu-guest-agent"

step='a port without udev'
mkdir "$ROOT/sys/class/virtio-ports/vport1p1"
echo port >"$ROOT/sys/class/virtio-ports/vport1p1/name"
: >"$ROOT/dev/vport1p1"
rm "$ROOT/dev/port"
expect 0 '' start
argument "--path=$ROOT/dev/vport1p1"
argument --method=virtio-serial
expect 0 '' stop
: >"$ROOT/dev/port"

step='functions of the Red Hat family'
cat >"$ROOT/etc/init.d/functions" <<'END'
umask 022
success() { printf '[  OK  ]'; }
failure() { printf '[FAILED]'; return 1; }
status() { echo "not this one"; return 99; }
END
expect 0 'OK' start
expect 0 'is running' status
expect 0 'OK' stop
: >"$ROOT/busy"
expect 1 'FAILED' start
rm "$ROOT/busy" "$ROOT/etc/init.d/functions"

step='functions of the LSB'
cat >"$ROOT/lib/lsb/init-functions" <<'END'
log_daemon_msg() { printf '%s: %s' "$1" "$2"; }
log_end_msg() { if [ "$1" -eq 0 ]; then echo .; else echo ' failed!'; fi; return "$1"; }
END
expect 0 'Starting: qemu-ga.' start
expect 0 'Stopping: qemu-ga.' stop
: >"$ROOT/busy"
expect 1 'failed!' start
rm "$ROOT/busy" "$ROOT/lib/lsb/init-functions"

if [ -n "${QGA-}" ]; then
    step="the real $QGA"
    cp "$QGA" "$ROOT/usr/sbin/qemu-ga"
    real() {
        settings <<END
TRANSPORT=$1
PIDFILE=$ROOT/var/run/qemu-ga.pid
DAEMON_ARGS="--statedir=$ROOT/var/run"
END
    }
    real "unix-listen:$ROOT/sock"
    expect 3 '' status
    expect 0 '' start
    expect 0 'is running' status
    [ -S "$ROOT/sock" ] || fail "no socket"
    before=$(pid)
    expect 0 '' restart
    [ "$(pid)" = "$before" ] && fail "restart kept the agent"
    expect 0 '' stop
    expect 3 '' status
    : >"$ROOT/var/run/qga.state.isfrozen"
    expect 0 '' start
    expect 0 'is running' status
    expect 0 'already running' start
    expect 0 '' stop
    expect 3 '' status
    rm -f "$ROOT/var/run/qga.state.isfrozen"
    real nonsense:/x
    expect 1 '' start # QEMU's own agent before 8.0 says 0 here
fi

echo "init script under $SHELL_UNDER_TEST: $count calls, $failures failures"
[ "$failures" -eq 0 ]
