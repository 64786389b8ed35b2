//! Descriptors where the crates that we use have only unsafe calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockFlag, accept4};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that stays the same as long as its owner lives.
pub struct Owned<T: AsFd>(T);

impl<T: AsFd> Owned<T> {
    /// The owner.
    pub fn get(&self) -> &T {
        &self.0
    }
}

impl<T: AsFd> AsRawFd for Owned<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Has the runtime watch a descriptor for one direction.
///
/// # Errors
/// `EPERM` for files that cannot be watched, such as regular ones.
pub fn watch<T: AsFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<Owned<T>>> {
    // SAFETY: `Owned` keeps its owner, and `AsFd` borrows the one descriptor that this owns; it is
    // never handed out, so it stays open and the same until the AsyncFd is dropped.
    #[expect(unsafe_code, reason = "registration trusts AsRawFd")]
    unsafe {
        AsyncFd::register_with_interest(Owned(owner), interest).map_err(Into::into)
    }
}

/// About how many of the bytes written to a Unix socket have not been read by its peer; 0 only when
/// all have.
///
/// # Errors
/// Those of ioctl(2).
pub fn unread_bytes(socket: BorrowedFd<'_>) -> nix::Result<i32> {
    mod raw {
        nix::ioctl_read_bad!(outq, nix::libc::TIOCOUTQ, nix::libc::c_int);
    }
    let mut bytes = 0;
    // SAFETY: the kernel writes one int there.
    #[expect(unsafe_code, reason = "ioctl")]
    unsafe {
        raw::outq(socket.as_raw_fd(), &raw mut bytes)?;
    }
    Ok(bytes)
}

/// Accepts a connection, non-blocking and closed in children.
///
/// # Errors
/// Those of accept(2).
pub fn accept(socket: impl AsFd) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = accept4(socket.as_fd().as_raw_fd(), flags)?;
    // SAFETY: the descriptor is new and nobody else knows it.
    #[expect(unsafe_code, reason = "accept4 returns a raw descriptor")]
    Ok(unsafe { OwnedFd::from_raw_fd(client) })
}
