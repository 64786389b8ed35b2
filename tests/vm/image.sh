#!/bin/sh
# Build the guest images of the VM suite, once, into a cache; print the directory that holds them.
#
#   tests/vm/image.sh            (also run by the tests and by the demo themselves)
#
# The directory holds: vmlinuz, initrd, systemd.img, sysv.img and openrc.img (root file systems), home.img
# (ext4) and srv.img (xfs), swap.img, database.img. Nothing is mounted and no loop device is used;
# the agent under test is not part of the images, it is put into a copy for each run.
#
# Cache: $QGA_VM_CACHE, by default target/vm-cache below the crate; the key is a hash of this recipe.
# As root, missing packages are installed. Exit status 77: cannot be done here, the reason is on stderr.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${QGA_VM_CACHE:-${CARGO_TARGET_DIR:-$here/../../target}/vm-cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

say() { echo "image.sh: $*" >&2; }
cannot() { say "$*"; exit 77; }

# One build at a time; the others wait here and then find the result.
exec 9>"$cache/lock"
flock 9

# ---- what the host must have ---------------------------------------------------------------------

# The newest plain kernel of the distribution; the cloud flavours lack half of the drivers.
newest_kernel() {
    for vmlinuz in /boot/vmlinuz-*-amd64; do
        version=${vmlinuz#/boot/vmlinuz-}
        case $version in *cloud* | *rt*) continue ;; esac
        [ -r "$vmlinuz" ] && [ -d "/lib/modules/$version/kernel" ] && echo "$version"
    done | sort -V | tail -n 1
}

missing_packages() {
    command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86
    command -v debootstrap >/dev/null || echo debootstrap
    command -v mke2fs >/dev/null || echo e2fsprogs
    command -v modprobe >/dev/null || echo kmod
    command -v cpio >/dev/null || echo cpio
    busybox --list-full 2>/dev/null | grep -q '^sbin/switch_root$' && ! ldd "$(command -v busybox)" >/dev/null 2>&1 || echo busybox-static
    [ -n "$(newest_kernel)" ] || echo linux-image-amd64
}

PATH=$PATH:/usr/sbin:/sbin
export PATH
[ "$(uname -m)" = x86_64 ] || cannot "the guest images are for x86_64, this machine is $(uname -m)"
missing=$(missing_packages | tr '\n' ' ')
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || cannot "missing: $missing(and no apt-get to install them with)"
    [ "$(id -u)" = 0 ] || cannot "missing packages: $missing(run as root once, or: apt-get install $missing)"
    say "installing: $missing"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends $missing; } >&2
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] || cannot "still missing after the installation: $missing"
fi

# The guest runs what the host built, so it is of the host's release: same C library.
kernel=$(newest_kernel)
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || suite=bookworm

key=$(cat "$here/image.sh" "$here"/guest/* | cat - /dev/fd/3 3<<KEY | sha256sum | cut -c1-16
$suite $kernel
KEY
)
out=$cache/$key
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi
[ "$(id -u)" = 0 ] || cannot "no guest image in $cache yet, and building it (debootstrap) needs root: run tests/vm/image.sh as root once"

# ---- the root file systems -----------------------------------------------------------------------

# As the machine's own apt has it: the first source that carries the release itself.
mirror=$(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' |
    awk -F'|' -v suite="$suite" '$2 == suite && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || cannot "apt on this machine knows no source for Debian $suite"
proxy=$(apt-config dump --format '%v' Acquire::http::Proxy)
[ -z "$proxy" ] || export http_proxy="$proxy"

work=$cache/$key.partial
rm -rf "$work"
mkdir -p "$work/debs"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

common=udev,kmod,procps,e2fsprogs,xfsprogs,socat
# Tools for disks and links, in the systemd guest.
tools=strace,lvm2,fdisk,btrfs-progs,dosfstools,dmsetup,mdadm,iproute2
# What a test or a command may ask the guest to have, beyond what the boot itself needs.
early="virtio_pci virtio_blk crc32c_generic ext4 xfs virtio_console vsock_loopback button"
late="virtio_net virtio_scsi sd_mod ahci ata_piix nvme btrfs dm-mod loop vfat nls_ascii rtc_cmos"
# The other buses and layers of disks and files, and what links can be made of.
late="$late sym53c8xx megaraid_sas vmw_pvscsi sr_mod floppy xhci_pci usb_storage uas sdhci_pci
    mmc_block raid1 dm-crypt dm-delay xts nls_cp437 overlay fuse dummy 8021q bridge
    veth tun wireguard ipip ip6_tunnel"

bootstrap() { # name, packages
    say "debootstrap $suite: the $1 guest (a minute or two)"
    debootstrap --variant=minbase --cache-dir="$work/debs" --include="$2" \
        "$suite" "$work/$1" "$mirror" >"$work/$1.log" 2>&1 || {
        tail -n 20 "$work/$1.log" >&2
        say "debootstrap failed"
        exit 1
    }
}

# What a tree lacks of some packages, as files in NAME-debs.
download() { # name, tree, package...
    name=$1 tree=$2
    shift 2
    mkdir -p "$work/$name-debs/partial"
    set -- apt-get -q -y --no-install-recommends --download-only -o Debug::NoLocking=1 -o Dir::Cache::pkgcache= \
        -o Dir::State::status="$work/$tree/var/lib/dpkg/status" -o Dir::Cache::archives="$work/$name-debs" install "$@"
    "$@" >"$work/$name.log" 2>&1 || { apt-get -q update >&2 && "$@" >"$work/$name.log" 2>&1; } || {
        cat "$work/$name.log" >&2
        exit 1
    }
}

# Copies of the modules, unpacked, in the order in which they can be inserted.
modules() { # destination, module...
    destination=$1
    shift
    for module; do
        modprobe -S "$kernel" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r file; do
        name=${file#/lib/modules/"$kernel"/}
        mkdir -p "$destination/$(dirname "$name")"
        cp "$file" "$destination/$name"
        case $name in
        *.xz) unxz "$destination/$name" && name=${name%.xz} ;;
        *.zst) unzstd -q --rm "$destination/$name" && name=${name%.zst} ;;
        esac
        echo "$name"
    done
}

furnish() { # tree
    tree=$1
    cp "$here/guest/shell" "$tree/usr/local/sbin/test-shell"
    chmod 755 "$tree/usr/local/sbin/test-shell"
    cp "$here/guest/fstab" "$tree/etc/fstab"
    echo guest >"$tree/etc/hostname"
    echo 0123456789abcdef0123456789abcdef >"$tree/etc/machine-id"
    mkdir -p "$tree/lib/modules/$kernel" "$tree/mnt/snapshot" "$tree/etc/qemu/fsfreeze-hook.d"
    modules "$tree/lib/modules/$kernel" $early $late >/dev/null
    cp "/lib/modules/$kernel"/modules.builtin* "/lib/modules/$kernel/modules.order" "$tree/lib/modules/$kernel/"
    depmod -b "$tree" "$kernel"
    rm -rf "$tree"/usr/share/doc/* "$tree"/usr/share/man/* "$tree"/usr/share/locale/* "$tree"/usr/share/info/* \
        "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/*
}

pack() { # tree, image, size
    truncate -s "$3" "$2"
    mke2fs -q -F -t ext4 -L "$(basename "$2" .img)" -d "$1" "$2"
}

# People who log in: sessions of logind, and keys that a real sshd takes.
bootstrap systemd "$common,$tools,systemd,systemd-sysv,dbus,libpam-systemd,openssh-server"
furnish "$work/systemd"
cp "$here/guest/shell.service" "$work/systemd/etc/systemd/system/test-shell.service"
install -D -m 644 "$here/guest/udev-trigger.conf" \
    "$work/systemd/etc/systemd/system/systemd-udev-trigger.service.d/test.conf"
chroot "$work/systemd" systemctl -q enable test-shell.service
# shellcheck disable=SC2046  # one unit a word
chroot "$work/systemd" systemctl -q mask $(grep -v '^#' "$here/guest/masked-units")
# Started by the tests that need it.
chroot "$work/systemd" systemctl -q disable ssh.service
chroot "$work/systemd" systemctl -q set-default multi-user.target
pack "$work/systemd" "$work/systemd.img" 1G

# xfs needs its own mkfs, which the guest's tree has: no need to install it on the host.
truncate -s 320M "$work/systemd/srv.img"
chroot "$work/systemd" mkfs.xfs -q -L srv /srv.img
mv "$work/systemd/srv.img" "$work/srv.img"

# Database servers, for their freeze hooks: a disk for /mnt/database, with data directories to start
# from, so that the other tests do not carry them along. Made in the systemd guest's tree, which is
# packed already, of whatever that lacks.
say "the disk with the databases"
database=mnt/database
mkdir -p "$work/systemd/$database"
download database systemd mariadb-server-core mariadb-client-core redis-tools
for package in "$work/database-debs"/*.deb; do dpkg-deb -x "$package" "$work/systemd/$database"; done
chroot "$work/systemd" env LD_LIBRARY_PATH="/$database/usr/lib/x86_64-linux-gnu:/$database/lib/x86_64-linux-gnu" \
    "/$database/usr/bin/mariadb-install-db" \
    --no-defaults --basedir="/$database/usr" --datadir="/$database/mysql" --user=nobody --innodb-log-file-size=8M \
    --skip-test-db --force >"$work/database.log" 2>&1 || { cat "$work/database.log" >&2; exit 1; }
# Its name makes it one.
ln -s redis-check-rdb "$work/systemd/$database/usr/bin/redis-server"
rm -rf "$work/systemd/$database/usr/share/doc" "$work/systemd/$database/usr/share/man"
pack "$work/systemd/$database" "$work/database.img" 320M

bootstrap sysv "$common,sysvinit-core,sysv-rc,initscripts"
furnish "$work/sysv"
cp "$here/guest/inittab" "$work/sysv/etc/inittab"
# The script goes over every device; with fewer rules that takes a third of the time.
for rules in "$work"/sysv/lib/udev/rules.d/*; do
    case ${rules##*/} in 50-udev-default.rules | 60-persistent-storage.rules) ;; *) rm "$rules" ;; esac
done
for script in $(grep -v '^#' "$here/guest/masked-scripts"); do
    chroot "$work/sysv" update-rc.d -f "$script" remove >/dev/null 2>&1
done
pack "$work/sysv" "$work/sysv.img" 1G

say "the OpenRC guest"
download openrc sysv openrc
cp "$work"/openrc-debs/*.deb "$work/sysv/tmp"
chroot "$work/sysv" sh -c 'dpkg --force-depends --remove sysv-rc && dpkg -i /tmp/*.deb && rm /tmp/*.deb' \
    >"$work/openrc.log" 2>&1 || { cat "$work/openrc.log" >&2; exit 1; }
# As rc-update does, of a service that is still to come.
ln -s /etc/init.d/qemu-guest-agent "$work/sysv/etc/runlevels/default"
pack "$work/sysv" "$work/openrc.img" 1G

mkdir "$work/home"
pack "$work/home" "$work/home.img" 64M
truncate -s 640M "$work/swap.img"
chmod 600 "$work/swap.img"
mkswap -q -L swap "$work/swap.img" >/dev/null

# ---- kernel and initial ram disk -----------------------------------------------------------------

say "initrd for $kernel"
cp "/boot/vmlinuz-$kernel" "$work/vmlinuz"
chmod 644 "$work/vmlinuz"
initrd=$work/initrd.tree
mkdir -p "$initrd/bin" "$initrd/modules"
cp "$(command -v busybox)" "$initrd/bin/busybox"
cp "$here/guest/init" "$initrd/init"
cp "$here/guest/shell" "$initrd/bin/test-shell"
chmod 755 "$initrd/init" "$initrd/bin/test-shell"
modules "$initrd/modules" $early >"$initrd/modules/order"
(cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

rm -rf "$work/systemd" "$work/sysv" "$work/home" "$initrd" "$work"/*debs
touch "$work/complete"
# Images of older recipes are of no use any more.
find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name runs ! -name "$key.partial" -exec rm -rf {} +
mv "$work" "$out"
trap - EXIT
say "done: $out ($(du -sh "$out" | cut -f1) on disk)"
echo "$out"
