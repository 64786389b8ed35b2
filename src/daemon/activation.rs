//! Sockets handed over by systemd or another supervisor.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use crate::protocol::error::os_reason;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// Why an inherited socket is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// There is one channel, so there can be one socket.
    #[error("qemu-ga only supports listening on one socket")]
    TooMany,
    /// The promised descriptor is not there.
    #[error("Socket activation failed: invalid file descriptor fd = {}: {}", .0, os_reason(.1))]
    Invalid(i32, #[source] io::Error),
    /// Not a Unix or vsock socket.
    #[error("unsupported listen fd type")]
    Unsupported,
    /// A connected or datagram socket, on which nobody could ever be accepted.
    #[error("unsupported listen fd type: the socket is not listening")]
    NotListening,
}

/// An inherited socket that listens.
#[derive(Debug)]
pub struct Activated {
    /// The socket.
    pub socket: OwnedFd,
    /// The `--method` it stands for.
    pub method: &'static str,
}

/// What a service manager hands over.
#[derive(Debug, Default)]
pub struct Handed {
    /// A socket to listen on.
    pub activated: Option<Activated>,
    /// The way to the process that keeps the programs of an earlier agent.
    pub keeper: Option<OwnedFd>,
}

/// Takes what was handed over to this process. In any case the variables
/// that tell of it are removed, lest programs started by the agent take them for theirs.
///
/// # Safety
///
/// The process must have a single thread, and nothing else may use the descriptors from 3 on
/// that the environment says are ours.
#[expect(unsafe_code, reason = "the environment is changed, a descriptor is made from its number")]
pub unsafe fn activation() -> Result<Handed, ActivationError> {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(process::id());
    let count = usize::try_from(number("LISTEN_FDS").filter(|_| ours).unwrap_or(0)).unwrap_or(0);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: no other thread reads the environment, says our caller.
        unsafe { env::remove_var(name) };
    }
    let mut handed = Handed::default();
    for number in (FIRST..).take(count) {
        // SAFETY: the borrow ends before the next step, and `fcntl` fails on a closed descriptor, as it is
        // meant to.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let closed = |error: Errno| ActivationError::Invalid(number, error.into());
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(closed)?;
        // SAFETY: the descriptor is open, and whoever started us has given it to us.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if is_keepers(&socket) {
            handed.keeper = Some(socket);
        } else if handed.activated.is_none() {
            handed.activated = Some(Activated { method: method(&socket)?, socket });
        } else {
            return Err(ActivationError::TooMany);
        }
    }
    Ok(handed)
}

/// Whether it is what an earlier agent gave to the service manager. Old ones do not keep its name.
fn is_keepers(socket: impl AsFd) -> bool {
    getsockopt(&socket, sockopt::SockType) == Ok(SockType::SeqPacket)
        && getsockopt(&socket, sockopt::AcceptConn) == Ok(false)
}

/// The `--method` that a listening socket stands for.
fn method(socket: impl AsFd) -> Result<&'static str, ActivationError> {
    let address = getsockname::<SockaddrStorage>(socket.as_fd().as_raw_fd());
    let method = match address.ok().and_then(|address| address.family()) {
        Some(AddressFamily::Unix) => "unix-listen",
        Some(AddressFamily::Vsock) => "vsock-listen",
        _ => return Err(ActivationError::Unsupported),
    };
    match getsockopt(&socket, sockopt::AcceptConn) {
        Ok(true) => Ok(method),
        _ => Err(ActivationError::NotListening),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_listening_unix_socket_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(method(UnixListener::bind(dir.path().join("s")).unwrap()).unwrap(), "unix-listen");
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused() {
        let refusal = |socket: &dyn AsFd| method(socket).unwrap_err().to_string();
        assert_eq!(refusal(&File::open("/dev/null").unwrap()), "unsupported listen fd type");
        assert_eq!(refusal(&TcpListener::bind("127.0.0.1:0").unwrap()), "unsupported listen fd type");
        let (connected, _peer) = UnixStream::pair().unwrap();
        assert_eq!(refusal(&connected), "unsupported listen fd type: the socket is not listening");
    }
}
