//! The operator's programs that are told of a freeze before it and of a thaw after it: which they
//! are, and whether they may be trusted.
//!
//! Upstream's contract: one program, called with `freeze` or `thaw`. The one that distributions ship
//! calls every executable in a directory beside it. Our agent does that itself, because only then can
//! each of them have a time limit, an error of its own, and its thaw.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::host::trust::{self, Distrust};
use crate::protocol::error::{Error, Result};

/// The script of our packages. As long as it is unchanged, its directory is run instead of it.
const SHIPPED: &[u8] = include_bytes!("../../packaging/fsfreeze-hook");

/// What editors and package managers leave beside a script.
const LEFT_OVER: [&str; 14] = [
    "~",
    ".bak",
    ".orig",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".sample",
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-tmp",
    ".dpkg-dist",
    ".dpkg-bak",
    ".dpkg-backup",
    ".dpkg-remove",
];

/// What `fsfreeze-hook` in the configuration leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// No hook.
    None,
    /// A program that is called itself.
    Program(PathBuf),
    /// A directory whose executables are called.
    Directory(PathBuf),
}

impl Source {
    /// A directory, or a program. The directory beside the program (`fsfreeze-hook.d`) stands for
    /// it when the program is ours, unchanged, or not there.
    pub(super) fn find(host: &Host, configured: Option<&Path>) -> Source {
        // RHEL switches the hook off by naming /dev/null.
        let none = |hook: &&Path| hook.as_os_str().is_empty() || *hook == Path::new("/dev/null");
        let Some(hook) = configured.filter(|hook| !none(hook)) else { return Source::None };
        let hook = std::path::absolute(hook).unwrap_or_else(|_| hook.to_owned());
        let mut beside = hook.clone().into_os_string();
        beside.push(".d");
        let is_directory = |path: &Path| host.path(path).is_dir();
        if is_directory(&hook) {
            Source::Directory(hook)
        } else if is_directory(beside.as_ref()) && (!host.path(&hook).exists() || is_shipped(host, &hook)) {
            Source::Directory(beside.into())
        } else {
            Source::Program(hook)
        }
    }

    /// All programs to be called, in the order of the freeze.
    ///
    /// # Errors
    /// When the directory cannot be read, or others than root may put programs there.
    pub(super) fn programs(self, host: &Host) -> Result<Vec<PathBuf>> {
        let directory = match self {
            Source::None => return Ok(Vec::new()),
            Source::Program(program) => return Ok(vec![program]),
            Source::Directory(directory) => directory,
        };
        let unreadable =
            |error| Error::os(format!("failed to read the fsfreeze hooks in '{}'", directory.display()), &error);
        let found = match trust::follow(&host.path(&directory)) {
            Ok(found) => found,
            Err(Distrust::Unseen(error)) => return Err(unreadable(error)),
            Err(Distrust::Others(why)) => return Err(refused(&directory, &why)),
        };
        if let Some(why) = trust::distrust(&found) {
            return Err(refused(&directory, why));
        }
        // Sorted by their bytes, as a shell does in the C locale.
        let names = host.list(&directory).map_err(unreadable)?;
        let is_program = |path: &PathBuf| match std::fs::metadata(host.path(path)) {
            Ok(found) => found.is_file() && found.permissions().mode() & 0o111 != 0,
            // What SELinux hides may be the hook that the backup relies on: the check says why not.
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        let wanted = names.iter().filter(|name| is_wanted(name));
        Ok(wanted.map(|name| directory.join(name)).filter(is_program).collect())
    }
}

fn is_shipped(host: &Host, hook: &Path) -> bool {
    std::fs::metadata(host.path(hook)).is_ok_and(|found| found.is_file() && found.len() == SHIPPED.len() as u64)
        && host.read(hook).is_ok_and(|text| text == SHIPPED)
}

/// A shell's `*` passes over names with a leading dot.
fn is_wanted(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b".") && !LEFT_OVER.iter().any(|ending| name.ends_with(ending.as_bytes()))
}

/// Whether the program is there. One that others than root could put their own commands into is
/// refused, wherever on the way to it they could: root runs it.
///
/// # Errors
/// With what is wrong.
pub(super) fn check(host: &Host, program: &Path) -> Result<bool> {
    let found = match trust::follow(&host.path(program)) {
        Ok(found) => found,
        Err(Distrust::Unseen(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(distrust) => return Err(refused(program, &distrust.to_string())),
    };
    match trust::distrust(&found) {
        Some(why) => Err(refused(program, why)),
        None => Ok(true),
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(format!("fsfreeze hook '{}' is not run: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Machine;

    fn machine() -> Machine {
        Machine::new("/etc/hook.d/")
    }

    fn file(machine: &Machine, path: &str, mode: u32, text: &[u8]) {
        machine.file(path, text);
        set_mode(machine, path, mode);
    }

    fn set_mode(machine: &Machine, path: &str, mode: u32) {
        std::fs::set_permissions(machine.path(path), std::fs::Permissions::from_mode(mode)).expect("a mode");
    }

    fn source(machine: &Machine, hook: &str) -> Source {
        Source::find(&machine.host(), Some(Path::new(hook)))
    }

    #[test]
    fn no_hook_and_what_switches_it_off() {
        let machine = machine();
        assert_eq!(Source::find(&machine.host(), None), Source::None);
        assert_eq!(source(&machine, ""), Source::None);
        assert_eq!(source(&machine, "/dev/null"), Source::None);
    }

    #[test]
    fn the_directory_stands_for_the_shipped_script_and_for_a_missing_one() {
        let machine = machine();
        let directory = || Source::Directory("/etc/hook.d".into());
        assert_eq!(source(&machine, "/etc/hook.d"), directory());
        assert_eq!(source(&machine, "/etc/hook"), directory());
        file(&machine, "/etc/hook", 0o755, SHIPPED);
        assert_eq!(source(&machine, "/etc/hook"), directory());
        file(&machine, "/etc/hook", 0o755, b"#!/bin/sh\n# the operator's own\n");
        assert_eq!(source(&machine, "/etc/hook"), Source::Program("/etc/hook".into()));
        // Without a directory there is nothing that could stand for it.
        assert_eq!(source(&machine, "/etc/other"), Source::Program("/etc/other".into()));
    }

    #[test]
    fn executables_are_called_in_the_order_of_their_names_without_left_overs() {
        let machine = machine();
        for name in ["20-b", "10-a", "B", "old~", "x.rpmsave", "x.sample", "x.dpkg-dist", ".hidden"] {
            file(&machine, &format!("/etc/hook.d/{name}"), 0o755, b"");
        }
        file(&machine, "/etc/hook.d/README", 0o644, b"");
        machine.add("/etc/hook.d/directory/");
        let programs = source(&machine, "/etc/hook").programs(&machine.host()).expect("readable");
        let expected = ["10-a", "20-b", "B"].map(|name| Path::new("/etc/hook.d").join(name));
        assert_eq!(programs, expected);
    }

    /// With a link that leads nowhere in place of SELinux.
    #[test]
    fn a_hook_that_selinux_hides_is_not_passed_over() {
        let machine = machine();
        machine.add("/etc/hook.d/10-hidden => 10-hidden\n/etc/hook.d/20-gone => gone");
        let programs = source(&machine, "/etc/hook").programs(&machine.host()).expect("readable");
        assert_eq!(programs, [Path::new("/etc/hook.d/10-hidden")]);
        let refusal = check(&machine.host(), &programs[0]).map_err(|e| e.desc);
        assert!(refusal.is_err_and(|text| text.starts_with("fsfreeze hook '/etc/hook.d/10-hidden' is not run: ")));
    }

    #[test]
    fn what_others_than_root_may_change_is_refused() {
        let machine = machine();
        let refusal = || check(&machine.host(), Path::new("/etc/hook")).map_err(|e| e.desc);
        assert_eq!(refusal(), Ok(false));
        file(&machine, "/etc/hook", 0o755, b"");
        assert_eq!(refusal(), Ok(true));
        let mode = |path, mode| set_mode(&machine, path, mode);
        for bad in [0o775, 0o757] {
            mode("/etc/hook", bad);
            let text = "fsfreeze hook '/etc/hook' is not run: others than root may write to it";
            assert_eq!(refusal(), Err(text.to_owned()));
        }
        mode("/etc/hook", 0o755);
        mode("/etc", 0o777);
        assert!(refusal().is_err_and(|text| text.ends_with("others than root may replace it")));
        mode("/etc", 0o1777);
        assert_eq!(refusal(), Ok(true));
        mode("/etc/hook.d", 0o1777);
        let listed = source(&machine, "/etc/hook.d").programs(&machine.host()).map_err(|e| e.desc);
        assert!(listed.is_err_and(|text| text.contains("others than root may write to it")));
    }
}
