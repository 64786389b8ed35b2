//! The tests of `tests/freeze` once more, in a guest: its kernel has all file systems and device
//! mapper, whatever the host's has, and the program is the release build.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::subject;
use crate::shared;

/// The test program, as cargo has built it together with this one.
fn freeze_tests() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--all-features", "--no-run", "--test", "freeze", "--message-format=json"]);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = |message: &Value| message["target"]["name"] == "freeze" && message["profile"]["test"] == true;
    let program = |message: Value| message["executable"].as_str().map(PathBuf::from);
    messages.filter(ours).filter_map(program).next_back().expect("a test program")
}

/// A disk with one file on it.
fn disk_with(program: &std::path::Path, dir: &std::path::Path) -> PathBuf {
    let (tree, image) = (dir.join("tests"), dir.join("tests.img"));
    std::fs::create_dir(&tree).expect("a directory");
    let strip = Command::new("strip").arg("-o").arg(tree.join("freeze")).arg(program).status();
    assert!(strip.is_ok_and(|status| status.success()), "strip {}", program.display());
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-d"]).args([&tree, &image]).arg("64M");
    assert!(mke2fs.status().is_ok_and(|status| status.success()), "mke2fs {}", image.display());
    image
}

#[test]
fn every_layout_and_every_death_in_a_guest() {
    if subject::under_test().stock {
        shared::known_of_stock("see docs/freeze.md");
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let image = disk_with(&freeze_tests(), dir.path());
    let file = json!({"driver": "file", "filename": image, "read-only": true});
    guest.qmp.execute("blockdev-add", &json!({"driver": "raw", "node-name": "tests", "read-only": true, "file": file}));
    guest.qmp.execute(
        "device_add",
        &json!({"driver": "virtio-blk-pci", "drive": "tests", "id": "tests", "serial": "tests"}),
    );
    guest.shell.until("the disk appears", "test -b /dev/disk/by-id/virtio-tests");
    guest.shell.ok("mkdir -p /run/tests /home/tests && mount -o ro /dev/disk/by-id/virtio-tests /run/tests");
    guest.shell.ok("modprobe -a loop dm-mod vfat btrfs overlay fuse");
    let run = "TMPDIR=/home/tests QGA_UNDER_TEST=/usr/sbin/qemu-ga /run/tests/freeze --test-threads=1";
    let output = guest.shell.run_within(run, Duration::from_secs(900));
    // Before anything is judged: the next test finds the guest as it was.
    guest.shell.ok("umount /run/tests; rm -rf /home/tests");
    guest.qmp.execute("device_del", &json!({"id": "tests"}));
    guest.shell.until("the disk is gone", "! test -b /dev/disk/by-id/virtio-tests");
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.contains("test result: ok."), "{}", output.text);
    assert!(!output.text.contains("SKIPPED"), "{}", output.text);
}
