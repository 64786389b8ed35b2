//! The machine as command handlers see it: files below a root, programs, and the kernel.
//!
//! Handlers reach the guest only through a [`Host`], so that a test can hand them another one: a
//! directory with a captured `/sys` and `/proc`, and a scripted kernel.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
pub mod fixture;
pub mod kernel;
mod knob;
pub mod linux;
mod netlink;
pub mod patience;
pub mod run;

pub use kernel::Kernel;
pub use patience::Patience;

/// Files of `/proc`, `/sys` and `/etc` are read up to this size; none that we use comes near it.
const FILE_LIMIT: u64 = 16 << 20;

/// The machine that the agent serves.
pub struct Host {
    root: PathBuf,
    kernel: Arc<dyn Kernel>,
    patience: Patience,
    stuck: knob::Stuck,
    serials: linux::serial::Known,
}

impl Host {
    /// The machine this process runs on.
    pub fn real() -> Host {
        Host::new("/", Box::new(kernel::Linux))
    }

    /// A machine whose files lie below `root`.
    pub fn new(root: impl Into<PathBuf>, kernel: Box<dyn Kernel>) -> Host {
        Host {
            root: root.into(),
            kernel: kernel.into(),
            patience: Patience::default(),
            stuck: knob::Stuck::default(),
            serials: linux::serial::Known::default(),
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
        &self.patience
    }

    /// Serial numbers that are too costly to ask for again.
    pub(crate) fn serials(&self) -> &linux::serial::Known {
        &self.serials
    }

    /// Where an absolute path of the machine lies.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A whole file, bounded in size.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        // A page, which is all that an attribute can have: one read and no growing for most files.
        let mut data = Vec::with_capacity(4096);
        fs::File::open(self.path(path))?.take(FILE_LIMIT).read_to_end(&mut data)?;
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
        let length = fs::File::open(self.path(path))?.read(&mut page)?;
        Ok(String::from_utf8_lossy(&page[..length]).trim().to_owned())
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
        let entries = fs::read_dir(self.path(path))?;
        let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Where a symbolic link points, as written.
    pub fn link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        fs::read_link(self.path(path))
    }

    /// Writes to a file that exists, as the knobs of `/sys` want it: in one write.
    pub fn write(&self, path: impl AsRef<Path>, data: impl AsRef<[u8]>) -> io::Result<()> {
        use std::io::Write;
        fs::OpenOptions::new().write(true).open(self.path(path))?.write_all(data.as_ref())
    }

    /// Whether something is there.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}
