//! `qga.state.hooks`: the freeze hooks that were told of a freeze and not of its thaw, for the agent
//! that comes after one that was killed.
//!
//! The first line is the boot id; then each path with a NUL behind it. It names programs that root
//! will run, so it counts only if nobody else could have written it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use tracing::warn;

use super::remove_if_there;
use crate::host::trust;
use crate::protocol::error::os_reason;

/// No list of hooks is longer.
const LIMIT: u64 = 1 << 20;

/// Replaces the list. Not synced: hooks do not outlive the kernel.
pub(super) fn write(file: &Path, boot_id: &str, programs: &[PathBuf]) -> io::Result<()> {
    if programs.is_empty() {
        return remove_if_there(file);
    }
    let text = text(boot_id, programs);
    let temporary = file.with_extension("hooks.new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let written = options.open(&temporary).and_then(|mut new| new.write_all(&text));
    let written = written.and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// What the list holds.
pub(super) fn text(boot_id: &str, programs: &[PathBuf]) -> Vec<u8> {
    let mut text = format!("{boot_id}\n").into_bytes();
    for program in programs {
        text.extend_from_slice(program.as_os_str().as_bytes());
        text.push(0);
    }
    text
}

/// The list of this boot; empty when there is none that counts.
pub(super) fn read(file: &Path, boot_id: &str) -> Vec<PathBuf> {
    let text = match read_own(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!("ignoring {}: {}", file.display(), os_reason(&error));
            return Vec::new();
        }
    };
    let Some(programs) = text.strip_prefix(boot_id.as_bytes()).and_then(|rest| rest.strip_prefix(b"\n")) else {
        // No hook is still waiting for a thaw after a boot.
        let _ = fs::remove_file(file);
        return Vec::new();
    };
    let whole = programs.split_inclusive(|&byte| byte == 0).filter_map(|path| path.strip_suffix(b"\0"));
    whole.filter(|path| path.starts_with(b"/")).map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect()
}

fn read_own(file: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(file)?;
    let found = file.metadata()?;
    if !found.is_file() || trust::distrust(&found).is_some() {
        return Err(io::Error::other("others may have written it"));
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const BOOT: &str = "11111111-2222-3333-4444-555555555555";

    fn paths(names: &[&[u8]]) -> Vec<PathBuf> {
        names.iter().map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))).collect()
    }

    #[test]
    fn what_was_noted_is_read_back_in_the_same_boot_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("qga.state.hooks");
        assert!(read(&file, BOOT).is_empty());
        let programs = paths(&[b"/a b", b"/with\nline", b"/\xff"]);
        write(&file, BOOT, &programs).expect("noted");
        assert_eq!(read(&file, BOOT), programs);
        assert!(read(&file, "another").is_empty());
        assert!(!file.exists(), "nobody waits for a thaw after a boot");
    }

    #[test]
    fn an_empty_list_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("qga.state.hooks");
        write(&file, BOOT, &[]).expect("nothing to do");
        write(&file, BOOT, &paths(&[b"/a"])).expect("noted");
        write(&file, BOOT, &[]).expect("removed");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_list_that_others_could_have_written_runs_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("qga.state.hooks");
        write(&file, BOOT, &paths(&[b"/a"])).expect("noted");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o622)).expect("a mode");
        assert!(read(&file, BOOT).is_empty());
        let link = dir.path().join("link");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert!(read(&link, BOOT).is_empty());
    }

    #[test]
    fn a_cut_or_odd_list_gives_what_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("qga.state.hooks");
        write(&file, BOOT, &[]).expect("nothing");
        for (text, expected) in [
            (format!("{BOOT}\n/a\0/b"), paths(&[b"/a"])),
            (format!("{BOOT}\nrelative\0/b\0"), paths(&[b"/b"])),
            (format!("{BOOT}\n"), paths(&[])),
            (String::new(), paths(&[])),
        ] {
            fs::write(&file, &text).expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
            assert_eq!(read(&file, BOOT), expected, "{text}");
        }
    }
}
