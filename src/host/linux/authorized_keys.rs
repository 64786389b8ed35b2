//! A user's `~/.ssh/authorized_keys`, handled with nothing but the user's own rights.
//!
//! The work is done by another process, which looks the user up, becomes the user for good, and
//! only then touches files ([`worker`]). The agent keeps its rights, no file is reached that the
//! user could not reach, a user cannot harm the agent while it acts for him, and a name service or
//! a home directory that does not answer costs a time-out instead of a thread. Where it may not
//! become the user it asks itself before each step what the kernel would have asked ([`actor`]).
//!
//! Lines that are not ours stay as they are, byte for byte.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use self::actor::{Actor, CHANGE, LIST, READ};
use self::home::Home;
use super::selinux;
use crate::host::regular;
use crate::protocol::error::os_reason;

mod actor;
mod home;
pub mod worker;

const DIR: &str = ".ssh";
const FILE: &str = "authorized_keys";

/// No honest file comes near this.
const LIMIT: u64 = 16 << 20;

/// Bits that make sshd distrust a file or directory (`StrictModes`).
const OTHERS_WRITE: u32 = 0o022;

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub enum Action {
    /// List the keys.
    Get,
    /// Add keys that are not there yet.
    Add {
        /// One line each.
        keys: Vec<String>,
        /// Drop everything else.
        reset: bool,
    },
    /// Drop keys.
    Remove {
        /// One line each.
        keys: Vec<String>,
    },
}

/// The file of one user.
struct KeyFile<'a> {
    home: &'a Path,
    actor: Actor,
}

/// Does what is asked for in a home directory, with the user's rights.
///
/// # Errors
/// One sentence for the client.
fn perform(home: &Path, actor: Actor, action: &Action) -> Result<Vec<String>, String> {
    let file = KeyFile { home, actor };
    match action {
        Action::Get => Ok(keys(&file.read().map_err(|e| file.unreadable(&e))?).map(lossy).collect()),
        Action::Add { keys, reset } => file.add(keys, *reset).map(|()| Vec::new()),
        Action::Remove { keys } => file.remove(keys).map(|()| Vec::new()),
    }
}

impl KeyFile<'_> {
    fn add(&self, wanted: &[String], reset: bool) -> Result<(), String> {
        let old = self.read_if_there()?;
        let mut text = match &old {
            Some(old) if !reset => old.clone(),
            _ => Vec::new(),
        };
        for key in wanted {
            if !keys(&text).any(|line| line == key.trim().as_bytes()) {
                end_line(&mut text);
                text.extend_from_slice(key.as_bytes());
                text.push(b'\n');
            }
        }
        self.write(old.as_deref(), &text)
    }

    fn remove(&self, unwanted: &[String]) -> Result<(), String> {
        let Some(old) = self.read_if_there()? else { return Ok(()) };
        let goes = |line: &&[u8]| unwanted.iter().any(|key| key.trim().as_bytes() == line.trim_ascii());
        let text = old.split_inclusive(|&b| b == b'\n').filter(|line| !goes(line)).collect::<Vec<_>>().concat();
        if text == old {
            return Ok(());
        }
        self.write(Some(&old), &text)
    }

    fn path(&self) -> PathBuf {
        self.home.join(DIR).join(FILE)
    }

    fn unreadable(&self, error: &io::Error) -> String {
        let path = self.path();
        let path = path.display();
        format!("failed to read '{path}': Failed to open file \u{201c}{path}\u{201d}: {}", reason(error))
    }

    /// Only a file that is not there counts as empty: one that cannot be read would be lost.
    fn read_if_there(&self) -> Result<Option<Vec<u8>>, String> {
        match self.read() {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let (_, file) = self.open()?;
        let mut text = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut text)?;
        match text.len() as u64 {
            size if size > LIMIT => Err(Errno::EFBIG.into()),
            _ => Ok(text),
        }
    }

    /// The directory and the file in it.
    fn open(&self) -> io::Result<(OwnedFd, File)> {
        let home = Home::open(self.home)?;
        let dir = home.inside(DIR, OFlag::O_DIRECTORY | OFlag::O_RDONLY)?;
        self.actor.may(&dir, LIST)?;
        // A FIFO or a device must not hold us up.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = regular::only(File::from(home.inside(&format!("{DIR}/{FILE}"), flags)?))?;
        self.actor.may(&file, READ)?;
        Ok((dir, file))
    }

    fn write(&self, old: Option<&[u8]>, text: &[u8]) -> Result<(), String> {
        let dir = self.directory()?;
        let failed = |error: io::Error| format!("failed to write '{}': {}", self.path().display(), reason(&error));
        if old.is_some_and(|old| old == text) {
            if let Ok((_, file)) = self.open() {
                self.distrustful(&file).map_err(failed)?;
            }
            return Ok(());
        }
        self.replace(dir.as_fd(), text).map_err(failed)?;
        // A policy that knows the agent knows what it makes here, and has no other label for it.
        let is_labelled = || selinux::label(&File::from(dir)).is_some_and(|label| label.contains(":ssh_home_t:"));
        if old.is_none() && !is_labelled() {
            selinux::restore(&[&self.home.join(DIR), &self.path()]);
        }
        Ok(())
    }

    /// Opens `.ssh`, or makes it, in a state that sshd accepts.
    fn directory(&self) -> Result<OwnedFd, String> {
        let path = self.home.join(DIR);
        let failed =
            |what: &str, e: io::Error| format!("failed to {what} directory '{}': {}", path.display(), reason(&e));
        let home = Home::open(self.home).map_err(|e| failed("create", e))?;
        let look = || home.inside(DIR, OFlag::O_DIRECTORY | OFlag::O_RDONLY);
        let dir = match look() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = self.actor.may(&home, CHANGE).and_then(|()| Ok(mkdirat(&home, DIR, Mode::S_IRWXU)?));
                match made {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", error)),
                    made => {
                        let dir = look().map_err(|e| failed("open", e))?;
                        if made.is_ok() {
                            self.actor.give_directory(&dir).map_err(|e| failed("set the owner of", e))?;
                        }
                        dir
                    }
                }
            }
            dir => dir.map_err(|e| failed("open", e))?,
        };
        let dir = File::from(dir);
        // A directory of somebody else cannot be changed, and whether it can be used shows next.
        let _ = self.distrustful(&dir);
        Ok(dir.into())
    }

    /// Puts a new file in the place of the old one, which is there whole until the new one is.
    fn replace(&self, dir: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
        self.actor.may(&dir, CHANGE)?;
        let name = format!(".{FILE}.{}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || openat(dir, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(match create() {
            // Left by a process that had our number and was killed.
            Err(Errno::EEXIST) => {
                unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
                create()?
            }
            file => file?,
        });
        let fill = |file: &mut File| {
            file.write_all(text)?;
            self.actor.give(file)?;
            if let Ok((_, old)) = self.open() {
                selinux::copy_label(&old, file);
            }
            file.sync_all()?;
            renameat(dir, name.as_str(), dir, FILE)?;
            nix::unistd::fsync(dir)?;
            Ok(())
        };
        fill(&mut file).inspect_err(|_| {
            let _ = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
        })
    }

    /// Takes from others the right to write, if they have it.
    fn distrustful(&self, file: &File) -> io::Result<()> {
        let mode = file.metadata()?.mode();
        if mode & OTHERS_WRITE != 0 {
            self.actor.may_chmod(file)?;
            fchmod(file, Mode::from_bits_truncate(mode & 0o7777 & !OTHERS_WRITE))?;
        }
        Ok(())
    }
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EXDEV) => "A symbolic link leads out of the home directory".into(),
        _ => os_reason(error),
    }
}

/// The lines with a key, without the white space around them.
fn keys(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn lossy(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

fn end_line(text: &mut Vec<u8>) {
    if text.last().is_some_and(|&b| b != b'\n') {
        text.push(b'\n');
    }
}

#[cfg(test)]
mod tests;
