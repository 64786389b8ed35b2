//! Opens what lies in a home directory, and nothing outside of it, whatever its user changes
//! meanwhile: one name at a time, each in a directory that is held open, and links by hand.
//!
//! `openat2` with `RESOLVE_BENEATH` would refuse an absolute link back into the home, and kernels
//! before 5.6 do not have it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;

/// As many links as the kernel follows.
const LINKS: usize = 40;

/// An open home directory.
pub(super) struct Home<'p> {
    path: &'p Path,
    dir: OwnedFd,
}

impl<'p> Home<'p> {
    pub(super) fn open(path: &'p Path) -> io::Result<Home<'p>> {
        Ok(Home { path, dir: open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())? })
    }

    /// Opens a file or directory at a path below the home.
    ///
    /// # Errors
    /// `EXDEV` where a link leads out of the home.
    pub(super) fn inside(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        // The directories from the home down to where the walk has come.
        let mut above: Vec<OwnedFd> = Vec::new();
        // What is still ahead; the next name is the last one.
        let mut ahead = names(Path::new(path))?;
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let here = above.last().map_or(self.dir.as_fd(), AsFd::as_fd);
            if name == ".." {
                above.pop().ok_or(Errno::EXDEV)?;
            } else if let Some(target) = link(here, &name)? {
                links += 1;
                if links > LINKS {
                    return Err(Errno::ELOOP.into());
                }
                if target.is_absolute() {
                    above.clear();
                }
                ahead.extend(names(&self.relative(&target)?)?);
            } else if ahead.is_empty() {
                return Ok(openat(
                    here,
                    name.as_os_str(),
                    flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )?);
            } else {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                above.push(openat(here, name.as_os_str(), flags, Mode::empty())?);
            }
        }
        // A link to a directory above, or to the home itself.
        let here = above.last().map_or(self.dir.as_fd(), AsFd::as_fd);
        Ok(openat(here, ".", flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// The target of a link: an absolute one as seen from the home, by any of the home's names.
    fn relative(&self, target: &Path) -> io::Result<PathBuf> {
        if target.is_relative() {
            return Ok(target.to_owned());
        }
        if let Ok(rest) = target.strip_prefix(self.path) {
            return Ok(rest.to_owned());
        }
        // As where /home is a link to /var/home.
        let real = fs::canonicalize(self.path)?;
        Ok(target.strip_prefix(real).map_err(|_| Errno::EXDEV)?.to_owned())
    }
}

impl AsFd for Home<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The names of a relative path, the first one last.
fn names(path: &Path) -> io::Result<Vec<OsString>> {
    let name = |component| match component {
        Component::Normal(name) => Ok(name.to_owned()),
        Component::ParentDir => Ok(OsStr::new("..").to_owned()),
        _ => Err(Errno::EXDEV.into()),
    };
    path.components().rev().filter(|component| *component != Component::CurDir).map(name).collect()
}

/// Where a link leads; `None` when it is none.
fn link(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<PathBuf>> {
    match readlinkat(dir, name) {
        Ok(target) => Ok(Some(target.into())),
        Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
