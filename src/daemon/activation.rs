//! Sockets handed over by systemd or another supervisor.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

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
    #[error("Socket activation failed: invalid file descriptor fd = {FIRST}: {}", os_reason(.0))]
    Invalid(#[source] io::Error),
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

/// Takes the socket that was handed over to this process, if there is one. In any case the variables
/// that tell of it are removed, lest programs started by the agent take them for theirs.
///
/// # Safety
///
/// The process must have a single thread, and nothing else may use descriptor 3 afterwards if the
/// environment says that it is ours.
#[expect(unsafe_code, reason = "the environment is changed, a descriptor is made from its number")]
pub unsafe fn activation() -> Result<Option<Activated>, ActivationError> {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(process::id());
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: no other thread reads the environment, says our caller.
        unsafe { env::remove_var(name) };
    }
    match count {
        0 => return Ok(None),
        1 => {}
        _ => return Err(ActivationError::TooMany),
    }
    // SAFETY: the borrow ends in this function, and `fcntl` fails on a closed descriptor, as it is meant to.
    let borrowed = unsafe { BorrowedFd::borrow_raw(FIRST) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| ActivationError::Invalid(error.into()))?;
    let method = method(borrowed)?;
    // SAFETY: the descriptor is open, and whoever started us has given it to us.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    Ok(Some(Activated { socket, method }))
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
