//! Calls into the kernel that have no file behind them, as a narrow interface.
//!
//! If something can be had from a file or a program it does not belong here: files are faked by a
//! directory. A test scripts this trait with `host::fake`.

use std::io;
use std::os::fd::BorrowedFd;

/// The kernel as handlers see it. Errors are the system's own.
pub trait Kernel: Send + Sync {
    /// Blocks all writes to the file system that `dir` lies on (`FIFREEZE`).
    fn freeze(&self, dir: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes one `freeze` back (`FITHAW`); `EINVAL` when the file system is not frozen.
    fn thaw(&self, dir: BorrowedFd<'_>) -> io::Result<()>;

    /// Writes everything dirty of the file system that `dir` lies on to its disk (`syncfs`).
    fn sync(&self, dir: BorrowedFd<'_>) -> io::Result<()>;
}

/// The running Linux.
pub struct Linux;

#[allow(missing_docs)]
mod ioctl {
    // linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int); the argument is not used.
    nix::ioctl_readwrite!(fifreeze, b'X', 119, nix::libc::c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, nix::libc::c_int);
}

impl Kernel for Linux {
    fn freeze(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut unused = 0;
        // SAFETY: the descriptor is open for the length of the call and `unused` outlives it.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::fifreeze(dir.as_raw_fd(), &raw mut unused) }?;
        Ok(())
    }

    fn thaw(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut unused = 0;
        // SAFETY: as in `freeze`.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::fithaw(dir.as_raw_fd(), &raw mut unused) }?;
        Ok(())
    }

    fn sync(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        nix::unistd::syncfs(dir)?;
        Ok(())
    }
}
