use super::*;
use crate::commands::testing;
use crate::host::fixture::Machine;

const GUEST: &str = "\
/proc/self/status:
| CapEff:\t000001ffffffffff
/proc/swaps:
| Filename Type Size Used Priority
/proc/self/mountinfo:
| 20 1 8:1 / / rw - ext4 /dev/sda1 rw
| 21 20 8:2 / /home rw - xfs /dev/sda2 rw
| 22 20 8:3 / /boot/efi rw - vfat /dev/sda3 rw
| 23 20 8:4 / /media rw - iso9660 /dev/sr0 ro
| 24 20 8:5 / /win rw - fuseblk /dev/sda5 rw
| 25 20 0:30 / /net rw - nfs4 server:/x rw
| 26 20 0:31 / /merged rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c
| 27 20 0:21 / /run rw - tmpfs tmpfs rw
| 28 20 0:32 / /tank rw - zfs tank rw
/home/
/boot/efi/
/media/
";

struct Guest {
    machine: Machine,
    config: Config,
    state: tempfile::TempDir,
}

impl Guest {
    fn new() -> Guest {
        let state = tempfile::tempdir().expect("a directory");
        let mut config = testing::config();
        config.statedir = state.path().to_owned();
        Guest { machine: Machine::new(GUEST), config, state }
    }

    fn check(&self) -> Report {
        check(&self.machine.host(), &self.config)
    }
}

fn points(report: &Report, action: Action) -> Vec<String> {
    let with = report.file_systems.iter().filter(|file_system| file_system.action == action);
    with.map(|file_system| file_system.mountpoint.clone()).collect()
}

#[test]
fn a_plain_guest_is_reliable_and_nothing_is_touched() {
    let guest = Guest::new();
    let report = guest.check();
    assert_eq!(report.problems, [""; 0]);
    assert!(report.reliable);
    assert_eq!(points(&report, Action::Freeze), ["/home", "/"]);
    assert_eq!(points(&report, Action::Sync), ["/media", "/boot/efi"]);
    assert_eq!(points(&report, Action::Skip), ["/win", "/net", "/merged", "/tank"]);
    assert!(guest.machine.kernel.effects().is_empty());
    assert_eq!(std::fs::read_dir(guest.state.path()).expect("readable").count(), 0);
}

#[test]
fn what_a_snapshot_may_hold_half_written_is_a_warning() {
    let warnings = Guest::new().check().warnings;
    assert_eq!(
        warnings,
        [
            "/win (fuseblk) is not frozen: a program serves it (FUSE)",
            "/boot/efi (vfat) goes on being written to: its file system has no freeze",
            "/tank (zfs) is not frozen: the kernel cannot freeze it",
        ]
    );
}

#[test]
fn a_refusal_by_policy_is_a_problem() {
    let mut guest = Guest::new();
    guest.config.block_rpcs = vec!["guest-fsfreeze-thaw".into()];
    let report = guest.check();
    assert_eq!(report.problems, ["Command guest-fsfreeze-thaw has been disabled: the command is not allowed"]);
    assert!(!report.reliable);
}

#[test]
fn a_mount_that_cannot_be_opened_is_a_problem_unless_best_effort() {
    let mut guest = Guest::new();
    guest.machine.remove("/home");
    assert_eq!(guest.check().problems.len(), 1);
    assert!(guest.check().problems[0].ends_with("/home: No such file or directory"));
    guest.config.fsfreeze.best_effort = true;
    assert!(guest.check().reliable);
}

#[test]
fn hooks_are_listed_and_checked_and_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let mut guest = Guest::new();
    guest.config.fsfreeze_hook = Some("/etc/hook".into());
    let hook = |mode| {
        let path = guest.machine.path("/etc/hook.d/10-db");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    guest.machine.file("/etc/hook.d/10-db", "#!/bin/sh\ntouch $0.ran\n");
    hook(0o755);
    let report = guest.check();
    assert!(report.reliable);
    assert_eq!(report.hooks[0].path, "/etc/hook.d/10-db");
    assert!(!guest.machine.path("/etc/hook.d/10-db.ran").exists());
    hook(0o777);
    let report = guest.check();
    let text = "fsfreeze hook '/etc/hook.d/10-db' is not run: others than root may write to it";
    assert_eq!((report.reliable, report.problems), (false, vec![text.to_owned()]));
    guest.config.fsfreeze_hook = Some("/etc/nothing".into());
    assert!(guest.check().problems[0].contains("'/etc/nothing' is not there"));
}

#[test]
fn a_guest_that_is_frozen_or_keeps_no_state_or_has_no_rights_is_no_base_for_a_backup() {
    let guest = Guest::new();
    std::fs::write(guest.state.path().join("qga.state.isfrozen"), "").expect("a marker");
    assert!(guest.check().problems[0].contains("file systems are frozen"));
    // Left from before the last boot: the agent's start removes it, this only looks.
    let marker = guest.state.path().join("qga.state.isfrozen");
    std::fs::write(&marker, "11111111-2222-3333-4444-555555555555\n").expect("a marker");
    assert!(guest.check().reliable && marker.exists());

    let mut guest = Guest::new();
    guest.config.statedir = "/nonexistent".into();
    assert!(guest.check().problems[0].starts_with("no state can be kept in /nonexistent"));

    let guest = Guest::new();
    guest.machine.remove("/proc/self/status");
    assert_eq!(guest.check().problems, ["freezing needs root, or CAP_SYS_ADMIN at least"]);

    let guest = Guest::new();
    guest.machine.remove("/proc/self/mountinfo");
    assert!(guest.check().problems[0].starts_with("failed to read the mount table"));
}

#[test]
fn the_report_reads_well_and_no_name_plays_with_the_terminal() {
    let guest = Guest::new();
    guest.machine.file(
        "/proc/self/mountinfo",
        "20 1 8:1 / / rw - ext4 /dev/\x1b[31m rw\n22 20 8:3 / /boot/efi rw - vfat /dev/sda3 rw\n",
    );
    assert_eq!(
        guest.check().to_string(),
        "\
Frozen, in this order:
  /  ext4  /dev/?[31m

Only written back:
  /boot/efi  vfat  /dev/sda3  its file system has no freeze

Warnings:
  /boot/efi (vfat) goes on being written to: its file system has no freeze

A backup can rely on this freeze.
"
    );
}

#[test]
fn the_json_has_all_of_it() {
    let json = serde_json::to_value(Guest::new().check()).expect("JSON");
    assert_eq!(json["reliable"], true);
    assert_eq!(
        json["file-systems"][0],
        serde_json::json!({"mountpoint": "/home", "type": "xfs", "source": "/dev/sda2", "action": "freeze"})
    );
    assert_eq!(json["hooks"], serde_json::json!([]));
}
