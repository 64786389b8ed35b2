//! Files for a caller that must not wait: what is in memory, and nothing else.
//!
//! A file in `/etc` may lie on a disk that hangs. But once somebody has read it, its path and its
//! content are in the kernel's caches, and the kernel can be told to look there only: openat2(2)
//! with `RESOLVE_CACHED`, preadv2(2) with `RWF_NOWAIT`. Whatever is not there is `EAGAIN`, and so is
//! all of it before Linux 5.12 and on file systems that ask a server or a daemon when they open.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc::{self, c_int, c_long};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC,
    XFS_SUPER_MAGIC, fstatfs, statfs,
};

use super::regular;

/// linux/openat2.h
const RESOLVE_CACHED: ResolveFlag = ResolveFlag::from_bits_retain(0x20);

/// linux/fs.h
const RWF_NOWAIT: c_int = 8;

/// linux/magic.h
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
const SQUASHFS_MAGIC: FsType = FsType(0x7371_7368);

/// There is no device behind these.
pub(crate) const IN_MEMORY: [FsType; 2] = [TMPFS_MAGIC, RAMFS_MAGIC];

/// Behind some files of these there is one; not behind those that we read for a caller in haste.
const OF_KERNEL: [FsType; 2] = [PROC_SUPER_MAGIC, SYSFS_MAGIC];

/// Those on disks of which opening a file whose path is cached needs nothing more.
const ON_DISK: [FsType; 5] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, SQUASHFS_MAGIC];

/// Directories that usually are file systems in memory, with nothing else mounted where we look.
const MOUNTS: [&str; 3] = ["/proc", "/sys", "/run"];

/// Larger files are read by callers that may wait.
const LIMIT: usize = 64 << 10;

/// Whether this is a regular file without a device behind it. Nodes of devices and pipes lie on such
/// file systems as well.
pub fn is_in_memory(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
        && fstatfs(file).is_ok_and(|found| IN_MEMORY.contains(&found.filesystem_type()))
}

/// What there is without waiting.
pub(super) struct Cached {
    root: PathBuf,
    /// Whether what lies on the file system of the root directory can be opened without waiting.
    root_is_plain: bool,
    /// Those of [`MOUNTS`] that are in memory.
    in_memory: Vec<&'static str>,
    /// Those that are not, and of which the same can be said as of the root directory.
    plain: Vec<&'static str>,
    /// Something was asked for that is not in memory.
    refused: AtomicBool,
}

impl Cached {
    /// Looks once at what there is in a machine whose root directory is `root`.
    pub fn new(root: &Path) -> Cached {
        let kind_of = |dir: &Path| statfs(dir).ok().map(|found| found.filesystem_type());
        let is = |dir: &str, kinds: &[FsType]| kind_of(&root.join(&dir[1..])).is_some_and(|kind| kinds.contains(&kind));
        let is_plain = |kind: FsType| ON_DISK.contains(&kind) || IN_MEMORY.contains(&kind);
        Cached {
            root: root.to_owned(),
            root_is_plain: kind_of(Path::new("/")).is_some_and(is_plain),
            in_memory: MOUNTS.into_iter().filter(|dir| is(dir, &IN_MEMORY) || is(dir, &OF_KERNEL)).collect(),
            plain: MOUNTS.into_iter().filter(|dir| is(dir, &ON_DISK)).collect(),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether everything at this path is in memory, so that any system call will do.
    pub fn always(&self, path: &Path) -> bool {
        self.in_memory.iter().any(|mount| path.starts_with(mount))
    }

    /// Says that something would have to wait.
    pub fn refuse(&self) -> Errno {
        self.refused.store(true, Ordering::Relaxed);
        Errno::EAGAIN
    }

    /// Whether anything was refused since this was last asked.
    pub fn take_refused(&self) -> bool {
        // Nothing but one thread uses this, so a look before the write is no race.
        self.refused.load(Ordering::Relaxed) && self.refused.swap(false, Ordering::Relaxed)
    }

    /// A whole file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let Some(file) = self.open(path)? else { return Err(Errno::ENOENT.into()) };
        // What it is then, the caller that can wait says.
        let Ok(file) = regular::only(file.into()) else { return Err(self.refuse().into()) };
        let mut data = Vec::new();
        let mut page = [0; 4096];
        while data.len() < LIMIT {
            let Ok(length) = read_cached(&file, &mut page) else { break };
            data.extend_from_slice(&page[..length]);
            // What is not cached is missing from the start of a page on; only a file ends within one.
            if length < page.len() {
                return Ok(data);
            }
        }
        Err(self.refuse().into())
    }

    /// Whether something is there. No file system is asked to open it.
    pub fn exists(&self, path: &Path) -> nix::Result<bool> {
        match self.resolve(path, OFlag::O_PATH, RESOLVE_CACHED) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            // Not cached, or not known to this kernel: somebody who can wait finds out.
            Err(_) => Err(self.refuse()),
        }
    }

    /// Opens a file; `None` when it is not there.
    fn open(&self, path: &Path) -> nix::Result<Option<OwnedFd>> {
        // Without the time of the last access, which is written to the disk. Only the owner may ask
        // for that, and root.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME;
        let limits = match self.plain.iter().any(|mount| path.starts_with(mount)) {
            true => RESOLVE_CACHED,
            false if self.root_is_plain => RESOLVE_CACHED | ResolveFlag::RESOLVE_NO_XDEV,
            false => return Err(self.refuse()),
        };
        match self.resolve(path, flags, limits) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            // Another file system may have no such file either.
            Err(_) if self.exists(path)? => Err(self.refuse()),
            Err(_) => Ok(None),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlag, limits: ResolveFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(limits);
        openat2(AT_FDCWD, &self.root.join(path.strip_prefix("/").unwrap_or(path)), how)
    }
}

/// Reads on from the current position what is in memory.
fn read_cached(file: &File, buffer: &mut [u8]) -> nix::Result<usize> {
    const HERE: c_long = -1;
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the descriptor is open for the length of the call, and `part` describes `buffer`, which
    // is borrowed as long. The position is in two halves, of which 64-bit systems ignore the second.
    #[expect(unsafe_code, reason = "no safe wrapper")]
    let length = unsafe {
        libc::syscall(libc::SYS_preadv2, file.as_raw_fd(), &raw const part, 1 as c_long, HERE, HERE, RWF_NOWAIT)
    };
    Errno::result(length).and_then(|length| usize::try_from(length).map_err(|_| Errno::EIO))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is cached of a directory; nothing where the kernel or the file system cannot tell.
    fn cached(dir: &Path) -> Option<Cached> {
        let cached = Cached::new(dir);
        fs::write(dir.join("probe"), "x").expect("a file");
        let works = cached.read(Path::new("/probe")).is_ok();
        cached.take_refused();
        works.then_some(cached)
    }

    #[test]
    fn what_was_just_written_is_read_and_what_is_missing_is_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(cached) = cached(dir.path()) else { return };
        let text = "word ".repeat(3000);
        fs::write(dir.path().join("file"), &text).expect("a file");
        std::os::unix::fs::symlink("file", dir.path().join("link")).expect("a link");
        fs::metadata(dir.path().join("link")).expect("there");
        assert_eq!(cached.read(Path::new("/link")).expect("in memory"), text.as_bytes());
        assert!(cached.exists(Path::new("/file")).expect("in memory"));
        // Looked for before, so that it is known to be missing.
        assert!(!dir.path().join("gone").exists());
        assert!(!cached.exists(Path::new("/gone")).expect("in memory"));
        assert!(!cached.take_refused());
    }

    #[test]
    fn what_cannot_be_told_is_refused_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let cached = Cached::new(dir.path());
        assert!(cached.read(Path::new("/never looked for")).is_err());
        assert!(cached.take_refused());
        assert!(!cached.take_refused());
        let Some(cached) = self::cached(dir.path()) else { return };
        // Not a file that is read in pieces, nor one that somebody has to fill first.
        fs::write(dir.path().join("large"), vec![0; LIMIT + 1]).expect("a file");
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for name in ["/large", "/pipe", "/not looked for"] {
            assert!(cached.read(Path::new(name)).is_err(), "{name}");
            assert!(cached.take_refused(), "{name}");
        }
    }

    #[test]
    fn the_kernels_own_files_are_in_memory() {
        let cached = Cached::new(Path::new("/"));
        assert!(cached.always(Path::new("/proc/stat")));
        assert!(!cached.always(Path::new("/process/stat")));
        assert!(!cached.always(Path::new("/etc/passwd")));
        // A node in devtmpfs, which is a tmpfs.
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_in_memory(&File::open("/dev/null").expect("opens")));
        assert!(!is_in_memory(&File::open(dir.path()).expect("opens")));
        // Some files of the kernel wait for an event or ask a device.
        assert!(!is_in_memory(&File::open("/proc/self/status").expect("opens")));
    }
}
