//! File systems on layers of block devices: each is followed down to the disks it lies on.

use serde_json::{Value, json};

use crate::hardware::names_of;
use crate::harness::SOON;
use crate::harness::guest::Guest;
use crate::shared;

const NONE: &Value = &Value::Null;

/// What is made of which disk; `$virtio` and the like stand for the guest's nodes.
const MAKE: &str = "set -ex; modprobe -a btrfs loop; mkdir -p /mnt/vfat /mnt/crypt /mnt/md /mnt/btrfs /mnt/sub /mnt/paths /mnt/loop
    printf 'size=300M\\ntype=83\\n' | sfdisk -q $virtio
    udevadm settle
    mkfs.vfat -n VFAT ${virtio}2; mount ${virtio}2 /mnt/vfat
    first=$(blockdev --getsz ${virtio}1) second=$(blockdev --getsz $vscsi)
    printf '0 %s linear %s 0\\n%s %s linear %s 0\\n' $first ${virtio}1 $first $second $vscsi | dmsetup create test-linear
    dmsetup create test-crypt --table \"0 $((first + second)) crypt aes-xts-plain64 $(printf %064d 7) 0 \
        /dev/mapper/test-linear 0\"
    mkfs.ext4 -q /dev/mapper/test-crypt; mount /dev/mapper/test-crypt /mnt/crypt
    mdadm --create /dev/md0 --run --quiet --level=1 --raid-devices=2 --metadata=1.2 --assume-clean $serial $sata
    mkfs.ext4 -q /dev/md0; mount /dev/md0 /mnt/md
    mkfs.btrfs -q -m raid1 -d raid1 $ide $nvme; btrfs -q device scan; mount $ide /mnt/btrfs
    btrfs -q subvolume create /mnt/btrfs/sub; mount -o subvol=sub $nvme /mnt/sub
    mkfs.ext4 -q $paths; mount $paths /mnt/paths
    truncate -s 8M /run/loop.img; mkfs.ext4 -q /run/loop.img; mount -o loop /run/loop.img /mnt/loop
    sync; udevadm settle";

const UNMAKE: &str = "for d in sub btrfs vfat crypt md paths loop; do umount /mnt/$d; done; rm -f /run/loop.img
    dmsetup remove test-crypt; dmsetup remove test-linear; mdadm --stop /dev/md0
    for d in $virtio $vscsi $serial $sata $ide $nvme $paths; do wipefs -qaf $d* ; done
    sfdisk -q --delete $virtio; udevadm settle; true";

/// The nodes of the disks as shell variables.
fn nodes(guest: &mut Guest) -> String {
    let named = [
        ("virtio", "virtio"),
        ("vscsi", "vscsi"),
        ("serial", "vscsi-serial"),
        ("sata", "sata"),
        ("ide", "ide"),
        ("nvme", "nvme"),
        ("paths", "multipath"),
    ];
    let (variables, ids): (Vec<&str>, Vec<&str>) = named.into_iter().unzip();
    let names = names_of(guest, &ids);
    variables.iter().zip(names).map(|(variable, name)| format!("{variable}=/dev/{name}\n")).collect()
}

fn mount<'l>(list: &'l Value, point: &str) -> &'l Value {
    let found = list.as_array().expect("a list").iter().find(|entry| entry["mountpoint"] == point);
    found.unwrap_or_else(|| panic!("{point} is listed: {list}"))
}

/// Nodes and slots of the disks below a file system, in the order given.
fn below(info: &Value) -> Vec<(String, i64)> {
    let disks = info["disk"].as_array().expect("a list");
    let node = |disk: &Value| disk["dev"].as_str().unwrap_or_default().to_owned();
    disks.iter().map(|disk| (node(disk), disk["pci-controller"]["slot"].as_i64().unwrap_or(-1))).collect()
}

fn check_file_systems(guest: &mut Guest, list: &Value, node: &dyn Fn(&str) -> String) {
    let expected = [
        ("/mnt/vfat", "vfat", vec![(node("virtio") + "2", 0x10)]),
        ("/mnt/crypt", "ext4", vec![(node("virtio") + "1", 0x10), (node("vscsi"), 0x12)]),
        ("/mnt/md", "ext4", vec![(node("serial"), 0x12), (node("sata"), 0x17)]),
        ("/mnt/btrfs", "btrfs", vec![(node("ide"), 1), (node("nvme"), 0x19)]),
        // Both paths.
        ("/mnt/paths", "ext4", vec![(node("paths"), 0x1a), (node("paths"), 0x1b)]),
        ("/mnt/loop", "ext4", vec![]),
    ];
    for (point, kind, mut disks) in expected {
        let info = mount(list, point);
        assert_eq!(info["type"], kind);
        let mut found = below(info);
        found.sort();
        disks.sort();
        assert_eq!(found, disks, "{point}");
        let name = guest.shell.ok(&format!("basename $(readlink -f $(findmnt -no SOURCE {point}))"));
        assert_eq!(info["name"], name, "{point}");
        // Blocks in all, free, and free for others than root.
        let sizes = guest.shell.ok(&format!("sync -f {point}; stat -f -c '%S %b %f %a' {point}"));
        let sizes: Vec<u64> = sizes.split(' ').map(|size| size.parse().expect("a number")).collect();
        let &[unit, all, free, available] = sizes.as_slice() else { panic!("{sizes:?}") };
        assert_eq!(info["total-bytes-privileged"], all * unit, "{point}");
        assert_eq!(info["used-bytes"], (all - free) * unit, "{point}");
        assert_eq!(info["total-bytes"], (all - free + available) * unit, "{point}");
    }
    // One element for each file system, latest mount first.
    let points: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|e| e["mountpoint"].as_str()).collect();
    let latest = ["/mnt/loop", "/mnt/paths", "/mnt/btrfs", "/mnt/md", "/mnt/crypt", "/mnt/vfat"];
    assert_eq!(points[..6], latest, "{points:?}");
    assert!(!points.contains(&"/mnt/sub"), "the same file system as /mnt/btrfs");
}

fn check_disks(guest: &mut Guest, list: &Value, node: &dyn Fn(&str) -> String) {
    let entry = |node: &str| {
        let found = list.as_array().expect("a list").iter().find(|entry| entry["name"] == node);
        found.unwrap_or_else(|| panic!("{node} is listed: {list}")).clone()
    };
    for number in ["1", "2"] {
        let partition = node("virtio") + number;
        let expected = json!({"name": partition, "partition": true, "dependencies": [node("virtio")]});
        assert_eq!(entry(&partition), expected);
    }
    let mut mapped = |name: &str| guest.shell.ok(&format!("readlink -f /dev/mapper/{name}"));
    let (linear, crypt) = (mapped("test-linear"), mapped("test-crypt"));
    for (name, alias, mut below) in [
        (&linear, Some("test-linear"), vec![node("virtio") + "1", node("vscsi")]),
        (&crypt, Some("test-crypt"), vec![linear.clone()]),
        (&"/dev/md0".to_owned(), None, vec![node("serial"), node("sata")]),
    ] {
        let entry = entry(name);
        assert_eq!(entry.get("alias").and_then(Value::as_str), alias, "{entry}");
        assert!(entry.get("address").is_none(), "attached to nothing: {entry}");
        below.sort();
        assert_eq!(entry["dependencies"], json!(below), "{entry}");
    }
}

#[test]
fn file_systems_are_followed_down_to_their_disks() {
    if shared::known_of_stock("knows neither all devices of btrfs nor paths to NVMe disks") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let nodes = nodes(&mut guest);
    let node = |variable: &str| {
        let line = nodes.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
        line.expect("a variable").to_owned()
    };
    guest.shell.ok(&(nodes.clone() + MAKE));
    let file_systems = agent.get("guest-get-fsinfo", NONE);
    check_file_systems(&mut guest, &file_systems, &node);
    let disks = agent.get("guest-get-disks", NONE);
    check_disks(&mut guest, &disks, &node);
    guest.shell.ok(&(nodes.clone() + UNMAKE));
}
