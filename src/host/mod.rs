//! The machine as command handlers see it: files below a root, programs, and the kernel.
//!
//! Handlers reach the guest only through a [`Host`], so that a test can hand them another one: a
//! directory with a captured `/sys` and `/proc`, and a scripted kernel.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

pub mod cached;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
pub mod fixture;
pub mod kernel;
mod knob;
pub mod linux;
mod netlink;
pub mod patience;
pub(crate) mod regular;
pub mod run;
pub(crate) mod stuck;
pub(crate) mod trust;

use cached::Cached;
pub use kernel::Kernel;
pub use patience::Patience;

/// Files of `/proc`, `/sys` and `/etc` are read up to this size; none that we use comes near it.
const FILE_LIMIT: u64 = 16 << 20;

/// The machine that the agent serves.
pub struct Host {
    root: PathBuf,
    kernel: Arc<dyn Kernel>,
    known: Arc<Known>,
    /// Where the caller must not wait: what there is without.
    cached: Option<Cached>,
}

/// What was learned about the machine.
#[derive(Default)]
struct Known {
    patience: Patience,
    stuck: stuck::Stuck,
    serials: linux::serial::Known,
    one_run: OnceLock<bool>,
}

impl Host {
    /// The machine this process runs on.
    pub fn real() -> Host {
        Host::new("/", Box::new(kernel::Linux))
    }

    /// A machine whose files lie below `root`.
    pub fn new(root: impl Into<PathBuf>, kernel: Box<dyn Kernel>) -> Host {
        Host { root: root.into(), kernel: kernel.into(), known: Arc::default(), cached: None }
    }

    /// The same machine for a caller that must not wait. Files are read as far as they are in
    /// memory; what is asked for beyond that is `EAGAIN`, and [`Host::take_refused`] tells of it even
    /// if whoever asked could do without. Only for what has no effect before that.
    pub fn in_haste(&self) -> Host {
        let cached = Some(Cached::new(&self.root));
        Host { root: self.root.clone(), kernel: self.kernel.clone(), known: self.known.clone(), cached }
    }

    /// Goes on only where the caller can wait.
    ///
    /// # Errors
    /// `EAGAIN`
    pub fn may_wait(&self) -> nix::Result<()> {
        self.cached.as_ref().map_or(Ok(()), |cached| Err(cached.refuse()))
    }

    /// Whether anything could not be done without waiting since this was last asked. What came of
    /// it is worth nothing.
    pub fn take_refused(&self) -> bool {
        self.cached.as_ref().is_some_and(Cached::take_refused)
    }

    /// Whether `/var/run` is another name of `/run`, as nearly everywhere (hier(7)); asked once. What
    /// is not in the one is not in the other then.
    pub fn has_one_run(&self) -> bool {
        let is_link = || self.link("/var/run").is_ok_and(|to| to == Path::new("/run") || to == Path::new("../run"));
        match self.known.one_run.get() {
            Some(one) => *one,
            // Learned by somebody who can wait.
            None if self.may_wait().is_err() => true,
            None => *self.known.one_run.get_or_init(is_link),
        }
    }

    /// What answers for this path in place of the file system.
    fn cached(&self, path: &Path) -> Option<&Cached> {
        self.cached.as_ref().filter(|cached| !cached.always(path))
    }

    /// Where a path lies, for what nothing but the file system can answer.
    fn unhurried(&self, path: impl AsRef<Path>) -> nix::Result<PathBuf> {
        match self.cached(path.as_ref()) {
            Some(cached) => Err(cached.refuse()),
            None => Ok(self.path(path)),
        }
    }

    /// What has no file: ioctls and system calls.
    pub fn kernel(&self) -> &dyn Kernel {
        self.kernel.as_ref()
    }

    /// The same, to take along to a thread that may outlive a call.
    pub fn kernel_handle(&self) -> Arc<dyn Kernel> {
        self.kernel.clone()
    }

    /// Runs calls that may hang.
    pub fn patience(&self) -> &Patience {
        &self.known.patience
    }

    /// Serial numbers that are too costly to ask for again.
    pub(crate) fn serials(&self) -> &linux::serial::Known {
        &self.known.serials
    }

    /// Where an absolute path of the machine lies.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A whole file, bounded in size. Nothing but a regular one is read.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let path = path.as_ref();
        if let Some(cached) = self.cached(path) {
            return cached.read(path);
        }
        // A page, which is all that an attribute can have: one read and no growing for most files.
        let mut data = Vec::with_capacity(4096);
        let path = self.path(path);
        let file = match regular::open(&path) {
            // The system's own reason.
            Err(_) if path.is_dir() => return Err(nix::Error::EISDIR.into()),
            file => file?,
        };
        file.take(FILE_LIMIT).read_to_end(&mut data)?;
        Ok(data)
    }

    /// A whole text file; bytes that are no UTF-8 are replaced.
    pub fn read_text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let data = self.read(path)?;
        Ok(match String::from_utf8(data) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// A one-line file such as an attribute in `/sys`, without the white space around it. It is a
    /// page at most and comes in one read.
    pub fn read_attribute(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let mut page = [0; 4096];
        let length = fs::File::open(self.unhurried(path)?)?.read(&mut page)?;
        Ok(String::from_utf8_lossy(&page[..length]).trim().to_owned())
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
        let entries = fs::read_dir(self.unhurried(path)?)?;
        let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Where a symbolic link points, as written.
    pub fn link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        fs::read_link(self.unhurried(path)?)
    }

    /// Writes to a file that exists, as the knobs of `/sys` want it: in one write.
    pub fn write(&self, path: impl AsRef<Path>, word: &str) -> io::Result<()> {
        self.kernel.write_knob(&self.unhurried(path)?, word)
    }

    /// Whether something is there, at the end of all links.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match self.cached(path) {
            Some(cached) => cached.exists(path).unwrap_or(false),
            // Not stat(2): SELinux may let the agent use what it does not let it look at.
            None => open(&self.path(path), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).is_ok(),
        }
    }
}
