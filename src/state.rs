//! What the agent remembers from one start to the next, in the files of its state directory:
//!
//! - `qga.state`, a key file with the number of the next file handle, so that handles are never used twice;
//! - `qga.state.isfrozen`, which exists exactly while file systems are frozen by us;
//! - `qga.state.hooks`, which exists exactly while freeze hooks wait for their thaw ([`told`]).
//!
//! Names and formats of the first two are the stock agent's, so that one can take over from the other
//! ([`marker`] says how a marker's boot is told).

mod marker;
mod told;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::host::regular;
use crate::keyfile::{KeyFile, write_group, write_pair};
use crate::protocol::error::os_reason;
use marker::{Boot, Found};

const GROUP: &str = "global";
const COUNTER: &str = "fd_counter";
const FIRST_HANDLE: i64 = 1000;

/// Why the state cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The marker's existence cannot be told.
    #[error("unable to access state file at path {}: {}", .0.display(), os_reason(.1))]
    Marker(PathBuf, #[source] io::Error),
    /// `qga.state` is there and cannot be read.
    #[error("error loading persistent state from path: {}, {}", .0.display(), os_reason(.1))]
    Load(PathBuf, #[source] io::Error),
    /// `qga.state` cannot be made.
    #[error("unable to create state file at path {}: {}", .0.display(), os_reason(.1))]
    Create(PathBuf, #[source] io::Error),
    /// `qga.state` cannot be replaced.
    #[error("failed to write persistent state to {}: {}", .0.display(), os_reason(.1))]
    Save(PathBuf, #[source] io::Error),
}

/// The state directory of one agent.
#[derive(Debug)]
pub struct State {
    file: PathBuf,
    marker: PathBuf,
    hooks: PathBuf,
    boot: Boot,
    /// For how long the file systems had been frozen when we started, if they were.
    frozen_at_start: Option<Duration>,
    hooks_at_start: Vec<PathBuf>,
    counter: Mutex<Counter>,
}

#[derive(Debug)]
struct Counter {
    next: i64,
    /// What has to happen to the file once writing is safe.
    due: Due,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    Nothing,
    Create,
    SetAside,
}

impl State {
    /// Reads the state below `dir`. Makes `qga.state` if it is not there, unless the file systems are
    /// frozen: then [`State::thawed`] does that.
    pub fn open(dir: &Path) -> Result<State, StateError> {
        State::open_in_boot(dir, Boot::current())
    }

    fn open_in_boot(dir: &Path, boot: Boot) -> Result<State, StateError> {
        // The daemon leaves the directory it was started in.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let (file, marker) = (dir.join("qga.state"), dir.join(marker::NAME));
        let found = marker::read(&marker, &boot)?;
        if found == Found::OfOtherBoot {
            warn!("removing {}, left from before the last boot: nothing is frozen", marker.display());
            fs::remove_file(&marker).map_err(|error| StateError::Marker(marker.clone(), error))?;
        }
        let frozen_at_start = match found {
            Found::Frozen(since) => Some(since.map_or(Duration::ZERO, |since| boot.age(since))),
            _ => None,
        };
        let hooks = dir.join("qga.state.hooks");
        let hooks_at_start = told::read(&hooks, &boot.id);
        let counter = Mutex::new(load(&file)?);
        let state = State { file, marker, hooks, boot, frozen_at_start, hooks_at_start, counter };
        if frozen_at_start.is_none() {
            state.thawed()?;
        }
        Ok(state)
    }

    /// Whether an earlier agent left the file systems frozen.
    pub fn frozen_at_start(&self) -> bool {
        self.frozen_at_start.is_some()
    }

    /// For how long they had been frozen when we started, as far as the marker tells.
    pub(crate) fn frozen_before_start(&self) -> Duration {
        self.frozen_at_start.unwrap_or_default()
    }

    /// The freeze hooks that an earlier agent told of a freeze and not of its thaw.
    pub fn hooks_at_start(&self) -> &[PathBuf] {
        &self.hooks_at_start
    }

    /// Notes on disk which freeze hooks are to be told of the thaw.
    pub fn note_hooks(&self, programs: &[PathBuf]) -> io::Result<()> {
        told::write(&self.hooks, &self.boot.id, programs)
    }

    /// A handle that no client of this boot has seen. The counter is on disk before it is returned.
    pub fn next_handle(&self) -> Result<i64, StateError> {
        let mut counter = self.counter();
        let handle = counter.next;
        let next = handle.checked_add(1).unwrap_or(FIRST_HANDLE);
        self.save(next).map_err(|error| StateError::Save(self.file.clone(), error))?;
        counter.next = next;
        Ok(handle)
    }

    /// Notes on disk that the file systems are about to be frozen.
    ///
    /// # Errors
    /// When that cannot be noted whole; then there is no marker.
    pub fn mark_frozen(&self) -> io::Result<()> {
        marker::write(&self.marker, &self.boot)
    }

    /// Notes that nothing is frozen any more.
    pub fn unmark_frozen(&self) -> io::Result<()> {
        remove_if_there(&self.marker)
    }

    /// Where the file systems' being frozen is noted.
    pub fn marker(&self) -> &Path {
        &self.marker
    }

    /// Does what could not be done while the file systems were frozen at the start.
    pub fn thawed(&self) -> Result<(), StateError> {
        let mut counter = self.counter();
        if counter.due == Due::SetAside {
            set_aside(&self.file);
        }
        if counter.due != Due::Nothing {
            self.save(counter.next).map_err(|error| StateError::Create(self.file.clone(), error))?;
            counter.due = Due::Nothing;
        }
        Ok(())
    }

    fn counter(&self) -> MutexGuard<'_, Counter> {
        self.counter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the file by one with this counter. It is not synced: after a crash of the whole guest no
    /// handle is left that a new one could be confused with.
    fn save(&self, next: i64) -> io::Result<()> {
        let mut text = Vec::with_capacity(64);
        write_group(&mut text, GROUP)?;
        write_pair(&mut text, COUNTER, next.to_string().as_bytes())?;
        // A name per process, because agents in the foreground may share a directory.
        let temporary = self.file.with_extension(format!("state.{}", std::process::id()));
        let create = || File::options().write(true).create_new(true).mode(0o666).open(&temporary);
        let created = match create() {
            // Left by a killed agent with this process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
                create()
            }
            created => created,
        };
        let written =
            created.and_then(|mut file| file.write_all(&text)).and_then(|()| fs::rename(&temporary, &self.file));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Removes a file; it may be gone already.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether an agent that starts with this directory would find its file systems frozen.
///
/// # Errors
/// When that cannot be found out; no agent starts then.
pub fn is_marked_frozen(dir: &Path) -> Result<bool, StateError> {
    Ok(matches!(marker::read(&dir.join(marker::NAME), &Boot::current())?, Found::Frozen(_)))
}

/// How long the list of these hooks is.
pub(crate) fn length_of_hooks(programs: &[PathBuf]) -> usize {
    told::text(&Boot::current().id, programs).len()
}

/// Whether a freeze could note in this directory what it has to: that it is one, and the hooks it has
/// told, in a list of so many bytes, if there are any. Tries it.
///
/// # Errors
/// The system's refusal.
pub(crate) fn rehearse(dir: &Path, hooks: Option<usize>) -> io::Result<()> {
    marker::rehearse(dir, &Boot::current(), hooks)
}

/// Reads the counter, and says whether the file has to be written.
fn load(file: &Path) -> Result<Counter, StateError> {
    let text = match regular::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Counter { next: FIRST_HANDLE, due: Due::Create });
        }
        Err(error) => return Err(StateError::Load(file.to_owned(), error)),
    };
    let number = KeyFile::parse(&text).and_then(|state| state.number(GROUP, COUNTER));
    match number.map(|number| i64::try_from(number.unwrap_or(FIRST_HANDLE.unsigned_abs()))) {
        Ok(Ok(next)) => Ok(Counter { next, due: Due::Nothing }),
        reason => {
            let reason = reason.map_or_else(|error| error.to_string(), |_| "the number is too large".into());
            warn!("ignoring persistent state at path {}: {reason}", file.display());
            Ok(Counter { next: FIRST_HANDLE, due: Due::SetAside })
        }
    }
}

/// Keeps a file that cannot be understood for whoever wants to know why.
fn set_aside(file: &Path) {
    let aside = file.with_extension("state.corrupt");
    match fs::rename(file, &aside) {
        Ok(()) => warn!("set {} aside as {}", file.display(), aside.display()),
        Err(error) => warn!("failed to set {} aside: {}", file.display(), os_reason(&error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tempfile::{TempDir, tempdir};

    const THIS_BOOT: &str = "11111111-2222-3333-4444-555555555555";
    const LAST_BOOT: &str = "11111111-2222-3333-4444-666666666666";

    fn dir(files: &[(&str, &str)]) -> TempDir {
        let dir = tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn boot(id: &str) -> Boot {
        Boot { id: id.to_owned(), ..Boot::current() }
    }

    fn open(dir: &TempDir) -> State {
        State::open_in_boot(dir.path(), boot(THIS_BOOT)).unwrap()
    }

    fn text(dir: &TempDir, name: &str) -> Option<String> {
        fs::read_to_string(dir.path().join(name)).ok()
    }

    fn state(counter: i64) -> Option<String> {
        Some(format!("[global]\nfd_counter={counter}\n"))
    }

    #[test]
    fn handles_go_on_from_the_file_and_are_saved_first() {
        let dir = dir(&[]);
        let first = open(&dir);
        assert_eq!(text(&dir, "qga.state"), state(1000));
        assert_eq!((first.next_handle().unwrap(), first.next_handle().unwrap()), (1000, 1001));
        assert_eq!(text(&dir, "qga.state"), state(1002));
        assert_eq!(open(&dir).next_handle().unwrap(), 1002);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files remain");
    }

    #[test]
    fn a_handle_that_cannot_be_saved_is_not_given_out() {
        let dir = dir(&[]);
        let state = open(&dir);
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(matches!(state.next_handle(), Err(StateError::Save(..))));
    }

    #[test]
    fn a_left_over_temporary_file_does_no_harm() {
        let dir = dir(&[(&format!("qga.state.{}", std::process::id()), "junk")]);
        assert_eq!(open(&dir).next_handle().unwrap(), 1000);
    }

    #[test]
    fn empty_and_foreign_files_start_at_the_first_handle() {
        for content in ["", "[global]\n", "[other]\nfd_counter=7\n"] {
            assert_eq!(open(&dir(&[("qga.state", content)])).next_handle().unwrap(), 1000, "{content}");
        }
    }

    #[test]
    fn a_corrupt_file_is_set_aside() {
        for content in [
            "garbage",
            "[global]\nfd_counter=x\n",
            "[global]\nfd_counter=-1\n",
            "[global]\nfd_counter=9223372036854775808\n",
        ] {
            let dir = dir(&[("qga.state", content)]);
            assert_eq!(open(&dir).counter().next, 1000);
            assert_eq!(text(&dir, "qga.state"), state(1000));
            assert_eq!(text(&dir, "qga.state.corrupt").as_deref(), Some(content));
        }
    }

    #[test]
    fn nothing_is_written_while_frozen_until_the_thaw() {
        for (content, aside) in [(None, None), (Some("junk"), Some("junk"))] {
            let dir = dir(&[("qga.state.isfrozen", "")]);
            if let Some(content) = content {
                fs::write(dir.path().join("qga.state"), content).unwrap();
            }
            let frozen = open(&dir);
            assert!(frozen.frozen_at_start());
            assert_eq!(text(&dir, "qga.state").as_deref(), content);
            assert_eq!(text(&dir, "qga.state.corrupt"), None);
            frozen.unmark_frozen().unwrap();
            frozen.thawed().unwrap();
            assert_eq!(text(&dir, "qga.state"), state(1000));
            assert_eq!(text(&dir, "qga.state.corrupt").as_deref(), aside);
        }
    }

    #[test]
    fn the_marker_names_the_boot_and_is_private() {
        let dir = dir(&[("qga.state.isfrozen", "a longer text than a boot id is, left by who knows whom")]);
        let state = open(&dir);
        assert!(state.frozen_at_start());
        state.unmark_frozen().unwrap();
        state.unmark_frozen().unwrap();
        state.mark_frozen().unwrap();
        state.mark_frozen().unwrap();
        assert_eq!(text(&dir, "qga.state.isfrozen"), Some(format!("{THIS_BOOT}\n")));
        let mode = fs::metadata(&state.marker).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(open(&dir).frozen_at_start());
    }

    #[test]
    fn a_marker_of_another_boot_is_removed() {
        let dir = dir(&[("qga.state.isfrozen", &format!("{LAST_BOOT}\n"))]);
        let state = open(&dir);
        assert!(!state.frozen_at_start() && !state.marker.exists());
    }

    #[test]
    fn without_a_boot_id_every_marker_counts() {
        let dir = dir(&[("qga.state.isfrozen", LAST_BOOT)]);
        assert!(State::open_in_boot(dir.path(), boot("")).unwrap().frozen_at_start());
    }

    #[test]
    fn a_link_in_place_of_the_marker_is_not_followed() {
        let dir = dir(&[("victim", "precious")]);
        let state = open(&dir);
        symlink(dir.path().join("victim"), &state.marker).unwrap();
        assert!(state.mark_frozen().is_err());
        assert_eq!(text(&dir, "victim").as_deref(), Some("precious"));
    }

    #[test]
    fn errors_name_the_file() {
        let dir = dir(&[("f", "")]);
        let error = |name: &str| State::open_in_boot(&dir.path().join(name), boot(THIS_BOOT)).unwrap_err().to_string();
        let path = dir.path().display();
        let missing = "No such file or directory";
        assert_eq!(error("no"), format!("unable to create state file at path {path}/no/qga.state: {missing}"));
        assert_eq!(
            error("f"),
            format!("unable to access state file at path {path}/f/qga.state.isfrozen: Not a directory")
        );
    }
}
