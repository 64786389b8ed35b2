//! Who the process is while it handles a user's files.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{Gid, Uid, fchown};

/// What the user must be allowed to do, as in the last digit of a mode.
pub(super) const READ: u32 = 0o4;
pub(super) const LIST: u32 = 0o5;
pub(super) const CHANGE: u32 = 0o3;

/// Who the process is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Actor {
    /// The user: the kernel sees to what may be reached.
    User,
    /// Still root, as it may not become anybody else: the SELinux policies of Fedora and RHEL let
    /// the agent change keys, but not its user. What that user may reach is seen to here; all that
    /// lies below his home is in his hands.
    Root {
        /// The user.
        uid: Uid,
        /// His group.
        gid: Gid,
    },
}

impl Actor {
    /// Refuses what the user himself could not do. Rights by a group do not count.
    pub(super) fn may(self, file: &impl AsFd, wanted: u32) -> io::Result<()> {
        let Actor::Root { uid, .. } = self else { return Ok(()) };
        let found = stat(file)?;
        let mode = if found.st_uid == uid.as_raw() { found.st_mode >> 6 } else { found.st_mode };
        if uid.is_root() || mode & wanted == wanted { Ok(()) } else { Err(Errno::EACCES.into()) }
    }

    /// Refuses to change the mode of what is another's.
    pub(super) fn may_chmod(self, file: &impl AsFd) -> io::Result<()> {
        let Actor::Root { uid, .. } = self else { return Ok(()) };
        if stat(file)?.st_uid == uid.as_raw() { Ok(()) } else { Err(Errno::EPERM.into()) }
    }

    /// Gives a new file to the user, in his own group: in a set-group-id directory it has the
    /// directory's.
    pub(super) fn give(self, file: &impl AsFd) -> io::Result<()> {
        let (uid, gid) = match self {
            Actor::User => (None, nix::unistd::getegid()),
            Actor::Root { uid, gid } => (Some(uid), gid),
        };
        let found = stat(file)?;
        if found.st_gid != gid.as_raw() || uid.is_some_and(|uid| found.st_uid != uid.as_raw()) {
            fchown(file, uid, Some(gid))?;
        }
        Ok(())
    }

    /// The same for a new directory. The user may have moved another one into its place: nothing
    /// that holds a file is given away.
    pub(super) fn give_directory(self, directory: &impl AsFd) -> io::Result<()> {
        let Actor::Root { .. } = self else { return Ok(()) };
        let itself = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        match std::fs::read_dir(itself)?.next() {
            None => self.give(directory),
            Some(_) => Ok(()),
        }
    }
}

fn stat(file: &impl AsFd) -> nix::Result<FileStat> {
    fstat(file.as_fd())
}
