//! The process id file: locked as long as its process lives, and removed only by that process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::protocol::error::os_reason;

/// Why there is no process id file.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// It cannot be opened or written.
    #[error("Could not create '{}': {}", .0.display(), os_reason(.1))]
    Create(PathBuf, #[source] io::Error),
    /// Another agent holds it.
    #[error("Cannot lock pid file: {}", os_reason(.0))]
    Lock(#[source] io::Error),
}

impl From<PidFileError> for io::Error {
    fn from(error: PidFileError) -> io::Error {
        io::Error::other(error)
    }
}

/// A process id file that this process has locked.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    /// Somebody else removes it.
    left: bool,
}

impl PidFile {
    /// Makes the file, or takes over one that nobody has locked. A former content stays until
    /// [`PidFile::write`], which may be called in a forked child: see [`PidFile::leave_to_child`].
    pub fn lock(path: &Path) -> Result<PidFile, PidFileError> {
        let failed = |error| PidFileError::Create(path.to_owned(), error);
        let path = std::path::absolute(path).map_err(failed)?;
        loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(&path).map_err(failed)?;
            if !file.metadata().map_err(failed)?.is_file() {
                return Err(failed(io::Error::other("it is no regular file")));
            }
            lock(&file, Wait::No).map_err(PidFileError::Lock)?;
            let pidfile = PidFile { path: path.clone(), file, left: false };
            // Its former owner may have removed it in the meantime.
            if pidfile.is_ours() {
                return Ok(pidfile);
            }
        }
    }

    /// Ends the parent's part after a fork.
    pub fn leave_to_child(mut self) {
        self.left = true;
    }

    /// Writes the id of this process.
    pub fn write(&mut self) -> Result<(), PidFileError> {
        // On an old kernel the lock is our parent's, who is about to leave it to us.
        lock(&self.file, Wait::Yes).map_err(PidFileError::Lock)?;
        let written = self.file.set_len(0).and_then(|()| writeln!(self.file, "{}", process::id()));
        written.map_err(|error| PidFileError::Create(self.path.clone(), error))
    }

    /// Whether the file of that name is still the one we have locked.
    fn is_ours(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(locked), Ok(named)) => identity(locked) == identity(named),
            _ => false,
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.left && self.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether to wait for somebody else's lock to end.
#[derive(Clone, Copy)]
enum Wait {
    No,
    Yes,
}

/// Locks a whole file for this open file. Such a lock survives a fork and, unlike a lock of the process,
/// is not lost when somebody else in the process opens and closes the file. Kernels before 3.15 know only
/// the latter. Either kind excludes the other, so that we and the stock agent do not run side by side.
fn lock(file: &File, wait: Wait) -> io::Result<()> {
    let short = |number: i32| libc::c_short::try_from(number).map_err(io::Error::other);
    let whole_file =
        libc::flock { l_type: short(libc::F_WRLCK)?, l_whence: short(libc::SEEK_SET)?, l_start: 0, l_len: 0, l_pid: 0 };
    let (of_open_file, of_process) = match wait {
        Wait::No => (FcntlArg::F_OFD_SETLK(&whole_file), FcntlArg::F_SETLK(&whole_file)),
        Wait::Yes => (FcntlArg::F_OFD_SETLKW(&whole_file), FcntlArg::F_SETLKW(&whole_file)),
    };
    match fcntl(file, of_open_file) {
        Err(Errno::EINVAL) => fcntl(file, of_process)?,
        locked => locked?,
    };
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::{TempDir, tempdir};

    fn scene() -> (TempDir, PathBuf) {
        let dir = tempdir().unwrap();
        let path = dir.path().join("pid");
        (dir, path)
    }

    #[test]
    fn it_holds_the_process_id_and_goes_with_its_owner() {
        let (_dir, path) = scene();
        fs::write(&path, "999999999\nrest of an old file\n").unwrap();
        let mut pidfile = PidFile::lock(&path).unwrap();
        pidfile.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_new_one_is_private() {
        let (_dir, path) = scene();
        let _pidfile = PidFile::lock(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_second_owner_is_refused_and_leaves_the_file_alone() {
        let (_dir, path) = scene();
        let mut first = PidFile::lock(&path).unwrap();
        first.write().unwrap();
        // Opening and closing the file must not end the lock.
        fs::read(&path).unwrap();
        let refused = PidFile::lock(&path).unwrap_err();
        assert_eq!(refused.to_string(), "Cannot lock pid file: Resource temporarily unavailable");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
    }

    #[test]
    fn a_file_that_took_its_place_is_not_removed() {
        let (_dir, path) = scene();
        let pidfile = PidFile::lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(pidfile);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
    }

    #[test]
    fn what_is_no_regular_file_is_neither_taken_nor_removed() {
        let (_dir, path) = scene();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = format!("Could not create '{}': it is no regular file", path.display());
        assert_eq!(PidFile::lock(&path).unwrap_err().to_string(), text);
        assert!(path.exists(), "somebody else's file was removed");
    }

    #[test]
    fn a_missing_directory_is_reported_with_the_path() {
        let (dir, _) = scene();
        let path = dir.path().join("no/pid");
        let text = format!("Could not create '{}': No such file or directory", path.display());
        assert_eq!(PidFile::lock(&path).unwrap_err().to_string(), text);
    }
}
