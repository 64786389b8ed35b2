//! `qemu-ga --check-freeze`: what a freeze would do and whether a backup can rely on it. Freezes
//! nothing, runs no hook, and leaves nothing behind: in the state directory it makes what a freeze
//! makes there, under other names, and removes it.

mod text;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::hook::{self, Source};
use super::plan::{self, Planned};
use crate::commands;
use crate::config::Config;
use crate::host::Host;
use crate::host::linux::mounts::{self, Mount};
use crate::host::linux::{capability, selinux, swap};
use crate::host::regular;
use crate::policy::Policy;
use crate::protocol::error::os_reason;
use crate::state;

/// File systems that implement `FIFREEZE` (those with `freeze_fs` in the kernel's sources). There is
/// no way to ask for it but to freeze.
const FREEZABLE: [&str; 11] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2", "bcachefs"];

/// File systems whose disks are elsewhere.
const REMOTE: [&str; 11] =
    ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs", "lustre", "vboxsf", "orangefs"];

/// What a host needs to be allowed for a snapshot.
const NEEDED: [&str; 3] = ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"];

/// What a freeze would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether a backup can rely on it: there are no problems.
    pub reliable: bool,
    /// Those that are frozen first, in the order of freezing.
    pub file_systems: Vec<FileSystem>,
    /// In the order of the freeze.
    pub hooks: Vec<Hook>,
    /// Why a freeze would fail.
    pub problems: Vec<String>,
    /// What a snapshot may not hold, or may hold half written.
    pub warnings: Vec<String>,
}

/// What happens to one file system.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileSystem {
    /// Where it is mounted; bytes that are no UTF-8 are replaced, here and below.
    pub mountpoint: String,
    /// `ext4`...
    pub r#type: String,
    /// The device, or what the file system calls its source.
    pub source: String,
    /// What a freeze does to it.
    pub action: Action,
    /// Why it is not frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the file systems are mounted that it is stored on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stored_on: Vec<String>,
}

/// What a freeze does to a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Written back, and frozen until the thaw.
    Freeze,
    /// Written back, and then written to as ever.
    Sync,
    /// Not touched.
    Skip,
}

/// A program that would be called.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hook {
    /// Its path.
    pub path: String,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Looks at everything a freeze depends on.
pub fn check(host: &Host, config: &Config) -> Report {
    let mut report = Report {
        reliable: true,
        file_systems: Vec::new(),
        hooks: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    report.permissions(host, config);
    report.state(host, config);
    report.file_systems(host, config);
    report.hooks(host, config);
    report.surroundings(host, config);
    report.reliable = report.problems.is_empty();
    report
}

impl Report {
    fn permissions(&mut self, host: &Host, config: &Config) {
        let policy = Policy::new(&config.allow_rpcs, &config.block_rpcs);
        let rows = NEEDED.into_iter().filter_map(commands::find);
        self.problems.extend(rows.filter_map(|row| Some(policy.check(row, false).err()?.desc)));
        if !capability::may_administer(host) {
            self.problems.push("freezing needs root, or CAP_SYS_ADMIN at least".into());
        }
    }

    fn state(&mut self, host: &Host, config: &Config) {
        let dir = &config.statedir;
        match state::is_marked_frozen(dir) {
            Ok(false) => {}
            Ok(true) => {
                let text = "file systems are frozen, or were when an agent ended";
                self.problems.push(format!("{}: {text}", dir.display()));
            }
            Err(error) => self.problems.push(error.to_string()),
        }
        let programs = Source::find(host, config.fsfreeze_hook.as_deref()).programs(host).unwrap_or_default();
        let hooks = (!programs.is_empty()).then(|| state::length_of_hooks(&programs));
        if let Err(error) = state::rehearse(dir, hooks) {
            self.problems.push(format!("no state can be kept in {}: {}", dir.display(), os_reason(&error)));
        }
    }

    fn file_systems(&mut self, host: &Host, config: &Config) {
        let planned = match plan::plan(host, None) {
            Ok(planned) => planned,
            Err(error) => {
                self.problems.push(format!("failed to read the mount table: {}", os_reason(&error)));
                return;
            }
        };
        let mut known: HashSet<PathBuf> = HashSet::new();
        for Planned { mount, stored_on, skip } in planned {
            known.extend(mount.also.iter().cloned().chain([mount.point.clone()]));
            let (action, reason) = match skip {
                Some(why) => (Action::Skip, Some(why)),
                None if FREEZABLE.contains(&&*mount.fs_type) => (Action::Freeze, None),
                None => (Action::Sync, Some("its file system has no freeze")),
            };
            if action == Action::Freeze {
                self.may_freeze(host, config, &mount);
            }
            self.add(mount, action, reason, stored_on);
        }
        let others = mounts::all(host).unwrap_or_default();
        for mount in others.into_iter().filter(|mount| !known.contains(&mount.point)) {
            if let Some(why) = why_not_local(&mount) {
                self.add(mount, Action::Skip, Some(why), Vec::new());
            }
        }
        self.file_systems.sort_by_key(|file_system| match file_system.action {
            Action::Freeze => 0,
            Action::Sync => 1,
            Action::Skip => 2,
        });
        if !self.file_systems.iter().any(|file_system| file_system.action == Action::Freeze) {
            self.problems.push("there is no file system that could be frozen".into());
        }
    }

    fn add(&mut self, mount: Mount, action: Action, reason: Option<&str>, stored_on: Vec<PathBuf>) {
        let remote = REMOTE.contains(&&*mount.fs_type) || mount.fs_type.starts_with("fuse.");
        if let (Some(reason), false) = (reason, mount.read_only || remote || mount.fs_type == "overlay") {
            let point = mount.point.display();
            let text = match action {
                Action::Sync => format!("{point} ({}) goes on being written to: {reason}", mount.fs_type),
                _ => format!("{point} ({}) is not frozen: {reason}", mount.fs_type),
            };
            self.warnings.push(text);
        }
        self.file_systems.push(FileSystem {
            mountpoint: mount.point.to_string_lossy().into_owned(),
            r#type: mount.fs_type,
            source: mount.source.to_string_lossy().into_owned(),
            action,
            reason: reason.map(str::to_owned),
            stored_on: stored_on.iter().map(|point| point.to_string_lossy().into_owned()).collect(),
        });
    }

    /// Opens the mount point, as the freeze will, and asks SELinux.
    fn may_freeze(&mut self, host: &Host, config: &Config, mount: &Mount) {
        let open = |point: &Path| super::held::open_path(point).map(|dir| selinux::label(&dir));
        let opened = host.patience().one(host.path(&mount.point), open);
        let point = mount.point.display();
        let problem = match opened {
            None => format!("failed to open {point}: it does not answer"),
            Some(Err(error)) => format!("failed to open {point}: {}", os_reason(&error)),
            Some(Ok(label)) => {
                let denied = label.and_then(|label| selinux::denied(host, &label, "dir", &["read", "open", "ioctl"]));
                let Some(denied) = denied else { return };
                format!("SELinux does not let {denied} at {point}")
            }
        };
        let list = if config.fsfreeze.best_effort { &mut self.warnings } else { &mut self.problems };
        list.push(problem);
    }

    fn hooks(&mut self, host: &Host, config: &Config) {
        let programs = match Source::find(host, config.fsfreeze_hook.as_deref()).programs(host) {
            Ok(programs) => programs,
            Err(error) => {
                self.problems.push(error.desc);
                return;
            }
        };
        for path in programs {
            let problem = hook::check(host, &path).err().map(|error| error.desc).or_else(|| {
                let missing = host.program(&path).is_none();
                missing.then(|| format!("fsfreeze hook '{}' is not there, or not executable", path.display()))
            });
            let problem = problem.or_else(|| {
                let label = regular::open(host.path(&path)).ok().and_then(|file| selinux::label(&file))?;
                let denied = selinux::denied(host, &label, "file", &["execute"])?;
                Some(format!("SELinux does not let {denied} of fsfreeze hook '{}'", path.display()))
            });
            self.problems.extend(problem.clone());
            self.hooks.push(Hook { path: path.to_string_lossy().into_owned(), problem });
        }
    }

    fn surroundings(&mut self, host: &Host, config: &Config) {
        for device in swap::on_loop_devices(host) {
            self.warnings.push(format!(
                "swap on {device} is stored in a file: under memory pressure programs wait for the thaw"
            ));
        }
        if config.fsfreeze.timeout.is_none() {
            self.warnings.push("[fsfreeze] timeout=0: a freeze that the host forgets is never ended".into());
        }
    }
}

/// Why a mount that is on no disk of ours is worth a word; most (proc, tmpfs...) are not.
fn why_not_local(mount: &Mount) -> Option<&'static str> {
    match mount.fs_type.as_str() {
        "overlay" => Some("frozen with what it is stored on"),
        "zfs" | "ubifs" => Some("the kernel cannot freeze it"),
        // On a device that the kernel does not tell.
        "btrfs" | "bcachefs" => Some("its disks are not known"),
        remote if REMOTE.contains(&remote) => Some("on another machine"),
        fuse if fuse == "fuse" || fuse.starts_with("fuse.") => Some("a program serves it (FUSE)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
