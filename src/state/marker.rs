//! `qga.state.isfrozen`: there exactly while file systems are frozen by us.
//!
//! It holds the boot id; upstream's is empty. Nothing stays frozen over a reboot, so a marker of
//! another boot is a left-over. One that does not name its boot, because it is upstream's or was cut
//! short by a reset, is judged by where it lies and when it was written.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc::O_NOFOLLOW;
use nix::sys::statfs::statfs;
use nix::time::{ClockId, clock_gettime};

use super::{StateError, remove_if_there};
use crate::host::cached::IN_MEMORY;
use crate::host::regular;

/// The marker's name in the state directory.
pub(super) const NAME: &str = "qga.state.isfrozen";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The beginning of a boot that is told from its first and last moments by the clock; at the start
/// a clock may be wrong by this much.
const SLACK: Duration = Duration::from_secs(10);

/// What is known about the boot that goes on.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    /// Empty if the system does not tell.
    pub id: String,
    /// By the system's clock of now.
    pub began: Option<SystemTime>,
}

impl Boot {
    pub(super) fn current() -> Boot {
        let id = fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default();
        Boot { id, began: up().and_then(|up| SystemTime::now().checked_sub(up)) }
    }

    /// How long ago the marker was written; no longer than the boot.
    pub(super) fn age(&self, written: SystemTime) -> Duration {
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        age.min(up().unwrap_or_default())
    }
}

/// The time since the boot, that of sleep included.
fn up() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Duration::from)
}

/// What a marker means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found {
    NoMarker,
    OfOtherBoot,
    /// Since this time, by the system's clock.
    Frozen(Option<SystemTime>),
}

pub(super) fn read(marker: &Path, boot: &Boot) -> Result<Found, StateError> {
    let written = match fs::metadata(marker) {
        Ok(found) => found.modified().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NoMarker),
        Err(error) => return Err(StateError::Marker(marker.to_owned(), error)),
    };
    // In doubt the marker counts: an agent that wrongly thinks it is frozen thaws what is not frozen, one
    // that wrongly thinks it is not leaves the guest stuck.
    let text = read_start(marker).unwrap_or_default();
    let in_memory = statfs(marker).is_ok_and(|found| IN_MEMORY.contains(&found.filesystem_type()));
    Ok(if is_of_other_boot(&text, written, in_memory, boot) { Found::OfOtherBoot } else { Found::Frozen(written) })
}

/// Whether a marker with this text was surely written before this boot.
fn is_of_other_boot(text: &[u8], written: Option<SystemTime>, in_memory: bool, boot: &Boot) -> bool {
    let written_in = std::str::from_utf8(text).unwrap_or_default().trim();
    if is_boot_id(written_in) && is_boot_id(&boot.id) {
        return written_in != boot.id;
    }
    // The beginning of our id was written in this boot. What is kept in memory is of this boot, whatever
    // the clock was at that time.
    if in_memory || !written_in.is_empty() && boot.id.starts_with(written_in) {
        return false;
    }
    let before = |written: SystemTime, began: SystemTime| began.duration_since(written).is_ok_and(|by| by > SLACK);
    written.zip(boot.began).is_some_and(|(written, began)| before(written, began))
}

/// Makes the marker, whole.
///
/// # Errors
/// When not all of it can be written and read back: after a reset nobody could tell of which boot it
/// is. Then there is none.
pub(super) fn write(marker: &Path, boot: &Boot) -> io::Result<()> {
    let text = text(boot);
    let mut options = File::options();
    // A link here would make root write elsewhere.
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let written = options.open(marker).and_then(|file| write_whole(file, &text, marker));
    if written.as_ref().is_err_and(|error| error.raw_os_error() != Some(nix::libc::ELOOP)) {
        let _ = remove_if_there(marker);
    }
    written
}

fn text(boot: &Boot) -> String {
    format!("{}\n", boot.id)
}

fn write_whole(mut file: File, text: &str, path: &Path) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    drop(file);
    match fs::read(path)? == text.as_bytes() {
        true => Ok(()),
        false => Err(io::Error::other("what was written to it is not what it holds")),
    }
}

/// Does with the state directory what a freeze does with it, under other names: makes the marker, and
/// before it the list of hooks, of so many bytes, if there are any. Nothing of it stays.
pub(super) fn rehearse(dir: &Path, boot: &Boot, hooks: Option<usize>) -> io::Result<()> {
    let list = hooks.map(|length| "x".repeat(length));
    let texts = list.into_iter().chain([text(boot)]);
    let mut made: Vec<PathBuf> = Vec::new();
    let all = texts.enumerate().try_for_each(|(number, text)| {
        let path = dir.join(format!("qga.state.try{number}.{}", std::process::id()));
        // Left by a killed process with this number.
        remove_if_there(&path)?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        made.push(path.clone());
        write_whole(file, &text, &path)
    });
    // What can be made and not removed would be a marker for ever.
    made.iter().fold(all, |all, path| all.and(fs::remove_file(path)))
}

/// As much of a file as tells what it is.
fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    regular::open(path)?.take(64).read_to_end(&mut start)?;
    Ok(start)
}

fn is_boot_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const THIS_BOOT: &str = "11111111-2222-3333-4444-555555555555";
    const LAST_BOOT: &str = "11111111-2222-3333-4444-666666666666";
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_marker_that_does_not_name_its_boot_is_judged_by_its_time_and_place() {
        let began = SystemTime::now() - 2 * HOUR;
        let boot = Boot { id: THIS_BOOT.into(), began: Some(began) };
        let (before, after) = (Some(began - HOUR), Some(began + HOUR));
        for text in ["", "\n", "junk", "\0\0\0\0", "11111111-2222-3333-4444-66", "a much longer text than a boot id"] {
            assert!(is_of_other_boot(text.as_bytes(), before, false, &boot), "{text:?}");
            assert!(!is_of_other_boot(text.as_bytes(), after, false, &boot), "{text:?}");
            assert!(!is_of_other_boot(text.as_bytes(), before, true, &boot), "{text:?} on a tmpfs");
            assert!(!is_of_other_boot(text.as_bytes(), None, false, &boot), "{text:?} of no time");
            let unknown = Boot { began: None, ..boot.clone() };
            assert!(!is_of_other_boot(text.as_bytes(), before, false, &unknown), "{text:?}");
        }
        // One that names it is believed, whatever the clock was, and so is the beginning of one.
        for text in [THIS_BOOT, "1111", "11111111-2222-3333-4444-555555555555\n"] {
            assert!(!is_of_other_boot(text.as_bytes(), before, false, &boot), "{text}");
        }
        assert!(is_of_other_boot(LAST_BOOT.as_bytes(), after, true, &boot));
    }

    #[test]
    fn what_was_written_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (marker, boot) = (dir.path().join(NAME), Boot::current());
        assert_eq!(read(&marker, &boot).unwrap(), Found::NoMarker);
        write(&marker, &boot).unwrap();
        assert!(matches!(read(&marker, &boot).unwrap(), Found::Frozen(Some(_))));
        fs::write(&marker, LAST_BOOT).unwrap();
        assert_eq!(read(&marker, &boot).unwrap(), Found::OfOtherBoot);
    }

    #[test]
    fn the_time_limit_of_an_earlier_agent_goes_on() {
        let boot = Boot::current();
        let ago = |length| boot.age(SystemTime::now() - length);
        assert!(ago(Duration::from_secs(2)) >= Duration::from_secs(2));
        assert!(ago(Duration::from_secs(1 << 40)) <= up().unwrap(), "not longer than the boot");
        assert_eq!(boot.age(SystemTime::now() + HOUR), Duration::ZERO);
    }

    /// `/dev/full` opens, and takes nothing.
    #[test]
    fn a_marker_that_cannot_be_written_whole_is_an_error() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = write_whole(full, "text", Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC));
        let sink = File::options().write(true).open("/dev/null").unwrap();
        assert!(write_whole(sink, "text", Path::new("/dev/null")).is_err(), "nothing is read back");
    }

    #[test]
    fn a_rehearsal_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        for hooks in [None, Some(0), Some(5000)] {
            rehearse(dir.path(), &Boot::current(), hooks).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(rehearse(&dir.path().join("no"), &Boot::current(), None).is_err());
    }

    #[test]
    fn the_real_boot_has_an_id_and_a_beginning() {
        let boot = Boot::current();
        assert!(is_boot_id(&boot.id), "{}", boot.id);
        assert!(boot.began.is_some_and(|began| began < SystemTime::now()));
    }
}
