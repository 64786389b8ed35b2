#!/bin/sh
# Tries a package out against Debian's own one: packaging/deb/test-install.sh FILE.deb
#
# Installs it over qemu-guest-agent, upgrades, removes and purges it, and goes back
# to Debian's package, in a chroot of the machine's own release. The chroot is made
# by debootstrap once and kept below target/deb-test; each run works on a copy.
# Needs root and a Debian machine. Exit status 77: cannot be done here, and why.

set -u
PATH=$PATH:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive LC_ALL=C

HERE=$(cd "$(dirname "$0")" && pwd)
CRATE=$(cd "$HERE/../.." && pwd)
CACHE=${CARGO_TARGET_DIR:-$CRATE/target}/deb-test

cannot() {
    echo "test-install.sh: $*" >&2
    exit 77
}

[ -f "${1-}" ] || { echo "usage: $0 FILE.deb" >&2; exit 2; }
OURS=$(readlink -f "$1")
[ "$(id -u)" = 0 ] || cannot "needs root for a chroot"

# ---- the chroot with Debian's package ------------------------------------------

# shellcheck disable=SC1091
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME-}")
[ -n "$suite" ] || cannot "this is no Debian release"
base=$CACHE/$suite-1

if [ ! -e "$base/complete" ]; then
    if ! command -v debootstrap >/dev/null; then
        { apt-get update && apt-get install -y --no-install-recommends debootstrap; } >&2 ||
            cannot "debootstrap cannot be installed"
    fi
    # The first of the machine's own sources that carries the release itself.
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' |
        awk -F'|' -v suite="$suite" '$2 == suite && $3 == "main" { print $1; exit }')
    [ -n "$mirror" ] || cannot "apt knows no source for Debian $suite"
    proxy=$(apt-config dump --format '%v' Acquire::http::Proxy)
    [ -z "$proxy" ] || export http_proxy="$proxy"
    echo "debootstrap $suite (once)"
    rm -rf "$base"
    mkdir -p "$base/debs"
    if ! debootstrap --variant=minbase --cache-dir="$base/debs" \
        --include=systemd,udev,qemu-guest-agent "$suite" "$base/root" "$mirror" >"$base/log" 2>&1; then
        tail -n 20 "$base/log"
        echo "FAILED: debootstrap"
        exit 1
    fi
    find "$base/debs" -name '*.deb' ! -name 'qemu-guest-agent_*' -delete
    : >"$base/complete"
fi

# ---- the test, in namespaces that take every process along when they end ---------

if [ -z "${TEST_INSTALL_INSIDE-}" ]; then
    TEST_INSTALL_INSIDE=1 exec unshare --mount --pid --fork --kill-child sh "$0" "$OURS"
fi

ROOT=$CACHE/run
rm -rf "$ROOT"
cp -a "$base/root" "$ROOT" || exit 1
mount -t proc proc "$ROOT/proc" || exit 1
mount -t tmpfs tmpfs "$ROOT/run" || exit 1
mount -t tmpfs tmpfs "$ROOT/tmp" || exit 1
cp "$OURS" "$ROOT/tmp/ours.deb"
cp "$base"/debs/qemu-guest-agent_*.deb "$ROOT/tmp/stock.deb" || exit 1
: >"$ROOT/tmp/no-sources"
# Let the packages start and stop the service, though nothing booted in here.
printf '#!/bin/sh\nexit 0\n' >"$ROOT/usr/sbin/policy-rc.d"
chmod 755 "$ROOT/usr/sbin/policy-rc.d"

failures=0
fail() {
    echo "FAILED ($step) $*"
    failures=$((failures + 1))
}

inside() { chroot "$ROOT" "$@" </dev/null; }

# must COMMAND...: runs it in the chroot and shows its output only if it fails.
must() {
    inside "$@" >"$ROOT/tmp/output" 2>&1 && return
    fail "$*:"
    sed 's/^/    /' "$ROOT/tmp/output"
}

apt() { must apt-get -o Dir::Etc::SourceList=/tmp/no-sources -o Dir::Etc::SourceParts=/dev/null -y "$@"; }

# shellcheck disable=SC2016
installed() { [ "$(inside dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# same INSTALLED SOURCE: an installed file is that of the source tree.
same() { cmp -s "$ROOT$1" "$CRATE/$2" || fail "$1 is not $2"; }

# Is what the package promises there, and all of it ours?
ours_is_installed() {
    installed qemu-ga-rs || fail "qemu-ga-rs is not installed"
    installed qemu-guest-agent && fail "Debian's package is still installed"
    for lib in /lib /usr/lib; do
        same "$lib/systemd/system/qemu-guest-agent.service" systemd/qemu-guest-agent.service
        same "$lib/udev/rules.d/60-qemu-guest-agent.rules" systemd/60-qemu-guest-agent.rules
    done
    same /etc/init.d/qemu-guest-agent packaging/sysv/qemu-ga
    [ "$(readlink "$ROOT/etc/init.d/qemu-ga")" = qemu-guest-agent ] || fail "no init script qemu-ga"
    [ -x "$ROOT/etc/init.d/qemu-guest-agent" ] || fail "the init script cannot be executed"
    [ -x "$ROOT/etc/qemu/fsfreeze-hook" ] || fail "the hook cannot be executed"
    [ -d "$ROOT/etc/qemu/fsfreeze-hook.d" ] || fail "no directory for hooks"
    [ -e "$ROOT/usr/share/man/man8/qemu-ga.8.gz" ] || fail "no man page"
    case $(inside /usr/sbin/qemu-ga --version) in
    *qemu-ga-rs*) ;;
    *) fail "/usr/sbin/qemu-ga is not ours" ;;
    esac
    [ -z "$(inside dpkg-divert --list '*qemu-guest-agent*')" ] || fail "a diversion is left"
    [ "$(readlink "$ROOT/etc/systemd/system/qemu-guest-agent.service")" != /dev/null ] || fail "the unit is masked"
    [ -L "$ROOT/etc/systemd/system/qemu-ga.service" ] || fail "no alias qemu-ga.service"
    [ "$(inside systemctl is-enabled qemu-guest-agent.service)" = enabled ] || fail "the unit is not enabled"
    ls "$ROOT"/etc/rc2.d/S*qemu-guest-agent >/dev/null 2>&1 || fail "the init script is not started at boot"
    must dpkg --verify qemu-ga-rs
    must systemd-analyze verify --man=no qemu-guest-agent.service
}

stock_is_installed() {
    installed qemu-guest-agent || fail "Debian's package is not installed"
    installed qemu-ga-rs && fail "qemu-ga-rs is still installed"
    must dpkg --verify qemu-guest-agent
    [ -z "$(inside dpkg --verify qemu-guest-agent)" ] || fail "files of Debian's package differ"
    [ -e "$ROOT/lib/systemd/system/qemu-guest-agent.service" ] || fail "no unit"
    [ -e "$ROOT/lib/udev/rules.d/60-qemu-guest-agent.rules" ] || fail "no udev rule"
    [ -e "$ROOT/etc/init.d/qemu-ga" ] && fail "our init script is left"
}

pid() { cat "$ROOT/run/qemu-ga.pid" 2>/dev/null; }
step="dpkg installs over Debian's package"
installed qemu-guest-agent || fail "Debian's package is missing in the chroot"
must dpkg -i /tmp/ours.deb
ours_is_installed

step='what depends on the name qemu-guest-agent'
mkdir -p "$ROOT/tmp/dependent/DEBIAN"
cat >"$ROOT/tmp/dependent/DEBIAN/control" <<END
Package: dependent
Version: 1
Architecture: all
Maintainer: nobody
Depends: qemu-guest-agent (>= 1:8)
Description: needs the agent
END
must dpkg-deb --build /tmp/dependent /tmp/dependent.deb
must dpkg -i /tmp/dependent.deb
must dpkg --purge dependent

step="purging the remains of Debian's package"
must dpkg --purge qemu-guest-agent
[ -x "$ROOT/etc/init.d/qemu-guest-agent" ] || fail "our init script is gone"
[ -x "$ROOT/etc/qemu/fsfreeze-hook" ] || fail "our hook is gone"
must dpkg --verify qemu-ga-rs

step='an upgrade'
echo '# changed by the administrator' >>"$ROOT/etc/qemu/fsfreeze-hook"
echo 'TRANSPORT=unix-listen:/run/qga.sock' >"$ROOT/etc/default/qemu-guest-agent"
must /etc/init.d/qemu-ga start
before=$(pid)
[ -n "$before" ] || fail "the agent does not start"
must dpkg -i /tmp/ours.deb
grep -q administrator "$ROOT/etc/qemu/fsfreeze-hook" || fail "a changed hook was overwritten"
[ "$(pid)" != "$before" ] || fail "the agent was not restarted"
must /etc/init.d/qemu-guest-agent status
[ -S "$ROOT/run/qga.sock" ] || fail "the agent has no socket"

step='removal'
before=$(pid)
must dpkg --remove qemu-ga-rs
[ -d "$ROOT/proc/$before" ] && fail "the agent still runs"
for file in /usr/sbin/qemu-ga /lib/systemd/system/qemu-guest-agent.service \
    /lib/udev/rules.d/60-qemu-guest-agent.rules /etc/init.d/qemu-ga; do
    [ -e "$ROOT$file" ] && fail "$file is left"
done
grep -q administrator "$ROOT/etc/qemu/fsfreeze-hook" || fail "the hook is gone"

step='purge'
must dpkg --purge qemu-ga-rs
left=$(cd "$ROOT" && find . -xdev -name '*qemu-g*' \
    ! -path './etc/default/*' ! -path './var/cache/*' ! -path './var/lib/dpkg/info/*' ! -path './proc/*')
[ -z "$left" ] || fail "left: $left"
[ -e "$ROOT/etc/qemu" ] && fail "/etc/qemu is left: $(ls "$ROOT/etc/qemu")"
rm "$ROOT/etc/default/qemu-guest-agent"

step="a first installation, and back to Debian's package with apt"
must dpkg -i /tmp/ours.deb
ours_is_installed
apt install /tmp/stock.deb
stock_is_installed
must dpkg --purge qemu-ga-rs
stock_is_installed

step="apt installs over Debian's package"
apt install /tmp/ours.deb
ours_is_installed

step='back with dpkg'
must dpkg --remove qemu-ga-rs
must dpkg -i /tmp/stock.deb
stock_is_installed

umount "$ROOT/tmp" "$ROOT/run" "$ROOT/proc"
rm -rf "$ROOT"
echo "package $(basename "$OURS"): $failures failures"
[ "$failures" -eq 0 ]
