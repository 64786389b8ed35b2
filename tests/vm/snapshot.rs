//! What the freeze is for: a disk snapshot of a running guest that needs no repair.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::inject::debugfs;
use crate::shared;

const NONE: &Value = &Value::Null;

#[test]
fn a_snapshot_of_a_frozen_guest_is_clean_and_complete() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    // Not synced: it is the freeze that must bring this to the disk.
    guest.shell.ok("for dir in /home /srv; do echo written before >$dir/before; seq 1 200000 >$dir/numbers; done");
    let sum = guest.shell.ok("md5sum </home/numbers");
    // Somebody who never stops writing, as guests do.
    guest.shell.ok("(while :; do date >>/home/busy; date >>/srv/busy; done) >/dev/null 2>&1 & echo $! >/run/busy.pid");
    guest.shell.until("it writes", "test -s /srv/busy");

    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    let images = guest.snapshot(&["home", "srv"]);
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen);

    guest.shell.ok("echo written after >/home/after; kill $(cat /run/busy.pid); sync");
    let [home, srv] = images.as_slice() else { panic!("two images: {images:?}") };
    check_on_the_host(home);

    // A copy each, as a backup has it, mounted beside the disk it was taken of.
    for (image, mount, check) in [(home, "mount", "e2fsck -fn"), (srv, "mount -o nouuid", "xfs_repair -n")] {
        let name = image.file_stem().unwrap_or_default().to_string_lossy();
        let (node, device) = (format!("{name}-copy"), format!("{name}-disk"));
        let file = json!({"driver": "file", "filename": copy(image)});
        guest.qmp.execute("blockdev-add", &json!({"driver": "raw", "node-name": node, "file": file}));
        guest.qmp.execute("device_add", &json!({"driver": "virtio-blk-pci", "drive": node, "id": device}));
        guest.shell.until("the disk appears", "test -b /dev/vde");
        guest.shell.ok(&format!("{mount} /dev/vde /mnt/snapshot"));
        assert_eq!(guest.shell.ok("cat /mnt/snapshot/before"), "written before");
        assert_eq!(guest.shell.ok("md5sum </mnt/snapshot/numbers"), sum);
        guest.shell.ok("! test -e /mnt/snapshot/after && umount /mnt/snapshot");
        guest.shell.ok(&format!("{check} /dev/vde"));
        guest.qmp.execute("device_del", &json!({"id": device}));
        guest.shell.until("the disk is gone", "! test -b /dev/vde");
    }
    guest.shell.ok("! dmesg | grep -iE 'corrupt|ext4-fs error|i/o error'");
    guest.shell.ok("rm /home/before /home/after /home/numbers /home/busy /srv/before /srv/numbers /srv/busy");
}

/// The snapshot itself, not opened for writing by anybody: no journal to replay, nothing to mend.
fn check_on_the_host(home: &Path) {
    let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(home).output().expect("run e2fsck");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "e2fsck: {said}");
    assert!(!said.contains("skipping journal recovery"), "the journal was not empty: {said}");
    assert_eq!(debugfs(home, &["-R", "cat /before"]), "written before\n");
}

/// To mount it without changing the snapshot.
fn copy(image: &Path) -> PathBuf {
    let copy = image.with_extension("copy");
    let status = Command::new("cp").arg("--sparse=always").args([image, &copy]).status();
    assert!(status.is_ok_and(|status| status.success()), "copy {}", image.display());
    copy
}
