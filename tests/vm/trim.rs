//! Trimming, as the host sees it: images shrink. And a trim that takes long holds nobody up.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::hardware::{SLOW, THIN, names_of};
use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::harness::{LATER, SOON};
use crate::shared;

const MIB: u64 = 1 << 20;

/// How much the host stores of a disk.
fn stored(guest: &Guest, id: &str) -> u64 {
    guest.extra_disk(id).metadata().expect("an image").blocks() * 512
}

fn path<'l>(reply: &'l Value, point: &str) -> &'l Value {
    let paths = reply["paths"].as_array().expect("a list of paths");
    paths.iter().find(|entry| entry["path"] == point).unwrap_or_else(|| panic!("{point} is listed: {reply}"))
}

fn trim(agent: &mut Agent, arguments: &Value) -> Value {
    agent.post("guest-fstrim", arguments);
    agent.reply(LATER).expect("no path fails the command")
}

#[test]
fn what_is_deleted_is_given_back_to_the_host() {
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let names = names_of(&mut guest, &[THIN, "usb", "bridged"]);
    let [thin, usb, other] = names.as_slice() else { panic!("three names: {names:?}") };
    guest.shell.ok(&format!(
        "set -e; mkdir -p /mnt/thin /mnt/usb /mnt/ro; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/{thin}; mount /dev/{thin} /mnt/thin
         mkfs.ext4 -q /dev/{usb}; mount /dev/{usb} /mnt/usb; mkfs.ext4 -q /dev/{other}; mount -o ro /dev/{other} /mnt/ro
         seq 1 100000 >/mnt/thin/kept; dd if=/dev/zero of=/mnt/thin/big bs=1M count=100 conv=fsync"
    ));
    let sum = guest.shell.ok("md5sum </mnt/thin/kept");
    let full = stored(&guest, THIN);
    assert!(full > 100 * MIB, "{full}");
    guest.shell.ok("rm /mnt/thin/big; sync");
    assert!(stored(&guest, THIN) > 100 * MIB, "deleting alone gives nothing back");

    let reply = trim(&mut agent, &json!({"minimum": 0}));
    let left = stored(&guest, THIN);
    assert!(left < full - 95 * MIB, "{full} before, {left} after: {reply}");
    let entry = path(&reply, "/mnt/thin");
    assert!(entry["trimmed"].as_u64().is_some_and(|bytes| bytes >= 100 * MIB), "{entry}");
    assert!(entry["minimum"].is_u64() && entry.get("error").is_none(), "{entry}");
    guest.shell.ok("echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(guest.shell.ok("md5sum </mnt/thin/kept"), sum);

    // Each file system once, latest first; one that cannot has an error, and the others are trimmed.
    let paths: Vec<_> = reply["paths"].as_array().expect("a list").iter().map(|entry| entry["path"].clone()).collect();
    assert_eq!(paths[..3], ["/mnt/ro", "/mnt/usb", "/mnt/thin"]);
    assert!(["/", "/home", "/srv"].iter().all(|point| path(&reply, point)["trimmed"].is_u64()), "{reply}");
    assert_eq!(guest.shell.ok(&format!("cat /sys/block/{usb}/queue/discard_max_bytes")), "0");
    assert_eq!(*path(&reply, "/mnt/usb"), json!({"path": "/mnt/usb", "error": "trim not supported"}));
    if !crate::harness::subject::under_test().stock {
        let read_only = json!({"path": "/mnt/ro", "error": "failed to trim: Read-only file system"});
        assert_eq!(*path(&reply, "/mnt/ro"), read_only);
    }

    // ext4 remembers what it trimmed, xfs does not.
    let again = trim(&mut agent, &Value::Null);
    assert!(path(&again, "/mnt/thin")["trimmed"].as_u64().is_some_and(|bytes| bytes < 10 * MIB), "{again}");
    assert!(path(&again, "/srv")["trimmed"].as_u64().is_some_and(|bytes| bytes > 100 * MIB), "{again}");

    // No free piece is that large, and ext4 says so.
    let huge = trim(&mut agent, &json!({"minimum": 1_u64 << 40}));
    let refused = json!({"path": "/mnt/thin", "error": "failed to trim: Invalid argument"});
    assert_eq!(*path(&huge, "/mnt/thin"), refused);
    guest.shell.ok("umount /mnt/thin /mnt/usb /mnt/ro");
}

/// Requests to give blocks back that the slow disk has completed.
fn discards(guest: &mut Guest) -> u64 {
    let stat = guest.shell.ok("awk '{ print $12 }' /sys/block/$(basename $(readlink -f /dev/mapper/slow))/stat");
    stat.parse().expect("a number")
}

fn wait_for_discards(guest: &mut Guest, more_than: u64) {
    crate::harness::until("the disk is trimmed", SOON, || (discards(guest) > more_than).then_some(()));
}

/// ext4 is trimmed in pieces of 64 GiB; a group is 128 MiB and one request.
const GROUPS_OF_A_PIECE: u64 = 512;

#[test]
fn a_trim_that_nobody_waits_for_makes_room() {
    if shared::known_of_stock("answers nothing while it trims") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let slow = names_of(&mut guest, &[SLOW]).remove(0);
    // Three pieces, of which each request takes a while.
    guest.shell.ok(&format!(
        "set -e; mkdir -p /mnt/slow; mkfs.ext4 -q -E nodiscard,lazy_itable_init=1 -O ^has_journal,^resize_inode \
         -i 16777216 /dev/{slow}; size=$(blockdev --getsz /dev/{slow})
         dmsetup create slow --table \"0 $size delay /dev/{slow} 0 0 /dev/{slow} 0 4\"
         mount /dev/mapper/slow /mnt/slow"
    ));

    // Given up: the client goes on, and nothing more than the piece at work stands in its way.
    let mut agent = guest.agent();
    agent.sync(SOON);
    agent.post("guest-fstrim", &Value::Null);
    wait_for_discards(&mut guest, 20);
    assert!(agent.answers(Duration::from_secs(10)), "a sync does not wait for a trim");
    agent.post("guest-fsfreeze-status", &Value::Null);
    assert_eq!(agent.reply(SOON).expect("a status"), "thawed");
    let first = discards(&mut guest);
    assert!(first <= GROUPS_OF_A_PIECE + 8, "it stopped after a piece, not after {first} groups");
    guest.shell.ok("sleep 1");
    assert_eq!(discards(&mut guest), first, "it is over");

    // Asked and gone, as people do from scripts: it is done all the same, until its place is needed.
    agent.post("guest-fstrim", &Value::Null);
    wait_for_discards(&mut guest, first + 20);
    drop(agent);
    let mut agent = guest.agent();
    agent.sync(SOON);
    assert_eq!(agent.get("guest-ping", &Value::Null), json!({}));
    let now = discards(&mut guest);
    wait_for_discards(&mut guest, now + 20);
    agent.post("guest-fsfreeze-freeze-list", &json!({"mountpoints": ["/home"]}));
    assert_eq!(agent.reply(SOON).expect("a freeze"), 1);
    assert_eq!(agent.get("guest-fsfreeze-thaw", &Value::Null), 1);
    let second = discards(&mut guest);
    assert!(second <= 2 * GROUPS_OF_A_PIECE + 16, "{second} groups");

    // An agent that is told to end does not wait for a piece.
    agent.post("guest-fstrim", &Value::Null);
    wait_for_discards(&mut guest, second + 20);
    guest.shell.ok("timeout 60 systemctl stop qemu-guest-agent");
    let third = discards(&mut guest);
    assert!(third < second + GROUPS_OF_A_PIECE / 2, "{} groups after the second piece", third - second);
    assert_eq!(guest.shell.ok("systemctl show -P Result qemu-guest-agent"), "success", "it ended, it was not killed");
    guest.shell.ok("umount /mnt/slow; dmsetup remove slow");
}

/// XFS reports all that is free each time, so what pieces report can be added up and compared.
#[test]
fn a_large_xfs_is_trimmed_as_a_whole_in_pieces() {
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let slow = names_of(&mut guest, &[SLOW]).remove(0);
    guest.shell.ok(&format!(
        "set -e; mkdir -p /mnt/slow; mkfs.xfs -q -f -K -l size=64m /dev/{slow}; mount /dev/{slow} /mnt/slow"
    ));
    let at_once = guest.shell.ok("fstrim -v /mnt/slow");
    let at_once = at_once.split(['(', ' ']).find_map(|word| word.parse::<u64>().ok()).expect("a number of bytes");
    assert!(at_once > 190 << 30, "{at_once}");
    let reply = trim(&mut agent, &Value::Null);
    assert_eq!(path(&reply, "/mnt/slow")["trimmed"], at_once);
    guest.shell.ok(&format!("umount /mnt/slow; wipefs -qa /dev/{slow}"));
}
