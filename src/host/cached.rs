//! Files for a caller that must not wait: what is in memory, and nothing else.
//!
//! A file in `/etc` may lie on a disk that hangs. But once somebody has read it, its path and its
//! content are in the kernel's caches, and the kernel can be told to look there only: openat2(2)
//! with `RESOLVE_CACHED`, preadv2(2) with `RWF_NOWAIT`. Whatever is not there is `EAGAIN`, and so is
//! all of it before Linux 5.12 and on file systems that ask a server or a daemon when they open.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::libc::{self, c_int, c_long};
use nix::sys::stat::Mode;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC,
    XFS_SUPER_MAGIC, fstatfs,
};

/// linux/openat2.h
const RESOLVE_CACHED: ResolveFlag = ResolveFlag::from_bits_retain(0x20);

/// linux/fs.h
const RWF_NOWAIT: c_int = 8;

/// linux/magic.h
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
const SQUASHFS_MAGIC: FsType = FsType(0x7371_7368);

/// There is no device behind these.
const IN_MEMORY: [FsType; 2] = [TMPFS_MAGIC, RAMFS_MAGIC];

/// Behind some files of these there is one; not behind those that we read for a caller in haste.
const OF_KERNEL: [FsType; 2] = [PROC_SUPER_MAGIC, SYSFS_MAGIC];

/// Those on disks of which opening a file whose path is cached needs nothing more.
const ON_DISK: [FsType; 5] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, SQUASHFS_MAGIC];

/// Directories that usually are file systems in memory.
const MOUNTS: [&str; 3] = ["/proc", "/sys", "/run"];

/// Larger files are read by callers that may wait.
const LIMIT: usize = 64 << 10;

/// Whether this is a regular file without a device behind it. Nodes of devices and pipes lie on such
/// file systems as well.
pub fn is_in_memory(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file()) && kind(file).is_some_and(|kind| IN_MEMORY.contains(&kind))
}

fn kind(file: impl AsFd) -> Option<FsType> {
    fstatfs(file).ok().map(|found| found.filesystem_type())
}

fn directory(path: &Path) -> Option<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

/// What there is without waiting.
pub(super) struct Cached {
    /// The root directory of the machine, if its file system is one of [`ON_DISK`].
    root: Option<OwnedFd>,
    /// Those of [`MOUNTS`] that are.
    mounts: Vec<&'static str>,
    /// Something was asked for that is not in memory.
    refused: AtomicBool,
}

impl Cached {
    /// Looks once at what there is, where `path` says where a directory of the machine lies.
    pub fn new(path: impl Fn(&str) -> std::path::PathBuf) -> Cached {
        let kind_of = |dir: &OwnedFd| kind(dir);
        let in_memory = |dir: &str| {
            let kind = directory(&path(dir)).as_ref().and_then(kind_of);
            kind.is_some_and(|kind| IN_MEMORY.contains(&kind) || OF_KERNEL.contains(&kind))
        };
        let on_disk = |root: &OwnedFd| kind_of(root).is_some_and(|kind| ON_DISK.contains(&kind));
        Cached {
            root: directory(&path("/")).filter(on_disk),
            mounts: MOUNTS.into_iter().filter(|dir| in_memory(dir)).collect(),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether everything at this path is in memory, so that any system call will do.
    pub fn always(&self, path: &Path) -> bool {
        self.mounts.iter().any(|mount| path.starts_with(mount))
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
        // Without the time of the last access, which is written to the disk. Only the owner may ask
        // for that, and root.
        let file = self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME)?;
        let mut data = Vec::new();
        let mut page = [0; 4096];
        while data.len() < LIMIT {
            match read_cached(&file, &mut page) {
                Ok(0) => return Ok(data),
                Ok(length) => data.extend_from_slice(&page[..length]),
                Err(_) => break,
            }
        }
        Err(self.refuse().into())
    }

    /// Whether something is there.
    pub fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.open(path, OFlag::O_PATH) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens what lies on the file system of the root directory; others are not known.
    fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let Some(root) = &self.root else { return Err(self.refuse().into()) };
        let resolve = RESOLVE_CACHED | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        openat2(root, path.strip_prefix("/").unwrap_or(path), how).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => errno.into(),
            // Not cached, not there, or not known to this kernel: somebody who can wait finds out.
            _ => self.refuse().into(),
        })
    }
}

/// Reads on from the current position what is in memory.
fn read_cached(file: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
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
    use std::path::PathBuf;

    use super::*;

    /// What is cached of a directory; nothing where the kernel or the file system cannot tell.
    fn cached(dir: &Path) -> Option<Cached> {
        let dir = dir.to_owned();
        let cached = Cached::new(|path| dir.join(path.trim_start_matches('/')));
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
        let cached = Cached::new(|_| PathBuf::from("/nonexistent"));
        assert!(cached.read(Path::new("/etc/passwd")).is_err());
        assert!(cached.take_refused());
        assert!(!cached.take_refused());
        let Some(cached) = self::cached(dir.path()) else { return };
        // Not a file that is read in pieces, nor one that somebody has to fill first.
        fs::write(dir.path().join("large"), vec![0; LIMIT + 1]).expect("a file");
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).expect("a pipe");
        for name in ["/large", "/pipe", "/never looked for"] {
            assert!(cached.read(Path::new(name)).is_err(), "{name}");
            assert!(cached.take_refused(), "{name}");
        }
    }

    #[test]
    fn the_kernels_own_files_are_in_memory() {
        let cached = Cached::new(|path| path.into());
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
