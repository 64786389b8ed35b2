//! Listening sockets: one client at a time, the next one when it leaves.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::ChannelError;
use crate::host::linux::fd::accept;
use crate::protocol::error::os_reason;

/// What an accept gave.
#[derive(Debug)]
pub(super) enum Accepted {
    Client(OwnedFd),
    Nobody,
    /// Try again after a moment.
    NotNow(io::Error),
}

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: OwnedFd,
}

impl Listener {
    /// A Unix socket at `path`. A socket that a dead agent left there is replaced; anything else
    /// that stands there is somebody's and stays.
    pub(super) fn unix(path: &Path) -> Result<Listener, ChannelError> {
        let shown = path.display();
        let refuse = |text: String| Err(ChannelError::Socket(text));
        if path.as_os_str().is_empty() {
            return refuse("Failed to bind socket: the path is empty".into());
        }
        let address = match UnixAddr::new(path) {
            Ok(address) => address,
            Err(Errno::ENAMETOOLONG) => return refuse(format!("UNIX socket path '{shown}' is too long")),
            Err(other) => return refuse(format!("Failed to bind socket to {shown}: {}", other.desc())),
        };
        let failed = |errno: Errno| ChannelError::Socket(format!("Failed to bind socket to {shown}: {}", errno.desc()));
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if is_alive(&address).map_err(failed)? {
                    return Err(ChannelError::InUse(shown.to_string()));
                }
                if let Err(error) = std::fs::remove_file(path) {
                    return refuse(format!("Failed to unlink socket {shown}: {}", os_reason(&error)));
                }
            }
            Ok(_) => return refuse(format!("Failed to bind socket to {shown}: it exists and is no socket")),
            Err(_) => {}
        }
        listening(AddressFamily::Unix, &address).map_err(failed)
    }

    /// A vsock socket at `CID:PORT`, both decimal.
    pub(super) fn vsock(path: &Path) -> Result<Listener, ChannelError> {
        let text = path.to_str().unwrap_or_default();
        let refuse = |text: String| ChannelError::Socket(text);
        let (cid, port) = text
            .split_once(':')
            .filter(|(cid, port)| !cid.is_empty() && !port.is_empty())
            .ok_or_else(|| refuse(format!("error parsing address '{}'", path.display())))?;
        let cid = number(cid).ok_or_else(|| refuse(format!("Failed to parse cid '{cid}'")))?;
        let port = number(port).ok_or_else(|| refuse(format!("Failed to parse port '{port}'")))?;
        let address = VsockAddr::new(cid, port);
        listening(AddressFamily::Vsock, &address).map_err(|errno| match errno {
            Errno::EADDRINUSE => ChannelError::InUse(text.to_owned()),
            other => refuse(format!("Failed to bind socket to {text}: {}", other.desc())),
        })
    }

    /// A socket that somebody else bound.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Listener> {
        set_nonblocking(&socket)?;
        Ok(Listener { socket })
    }

    /// The next client, if one waits.
    ///
    /// # Errors
    /// When this socket will never give one. What keeps one client out is [`Accepted::NotNow`].
    pub(super) fn accept(&self) -> io::Result<Accepted> {
        match accept(&self.socket) {
            Ok(client) => Ok(Accepted::Client(client)),
            Err(Errno::EAGAIN) => Ok(Accepted::Nobody),
            Err(lost @ (Errno::EBADF | Errno::EFAULT | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP)) => {
                Err(lost.into())
            }
            Err(other) => Ok(Accepted::NotNow(other.into())),
        }
    }
}

fn listening(family: AddressFamily, address: &dyn SockaddrLike) -> Result<Listener, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    if family == AddressFamily::Unix {
        // The name gets the mode that the socket has, whatever the mask of the process allows besides.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    }
    bind(socket.as_raw_fd(), address)?;
    listen(&socket, Backlog::new(1)?)?;
    Ok(Listener { socket })
}

/// Whether a socket of that name has an owner. Only a dead one refuses: one that takes no more callers,
/// or none of this kind, is alive.
fn is_alive(address: &UnixAddr) -> Result<bool, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let caller = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    Ok(!matches!(connect(caller.as_raw_fd(), address), Err(Errno::ECONNREFUSED | Errno::ENOENT)))
}

fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// An unsigned 32-bit decimal; leading blanks are accepted, signs are not.
fn number(text: &str) -> Option<u32> {
    let digits = text.trim_start();
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
