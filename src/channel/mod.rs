//! The ways to the host: what is opened, and how it is read and written.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

use crate::protocol::error::os_reason;

mod link;
mod listen;
mod port;
mod serial;

pub use link::{End, Input, Link};
pub use listen::Listener;

/// A way to the host that is open, but not yet watched by the runtime: it is made before the
/// daemon detaches, so that the caller learns of a failure.
#[derive(Debug)]
pub enum Endpoint {
    /// A virtio-serial port.
    Port(OwnedFd),
    /// A serial line.
    Serial(OwnedFd),
    /// A listening socket.
    Listener(Listener),
}

/// Why there is no way to the host.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The method is none of ours.
    #[error("unsupported channel method/type: {0}")]
    Method(String),
    /// The device cannot be opened.
    #[error("error opening channel '{path}': {}", os_reason(.error))]
    Device {
        /// The device.
        path: String,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// Somebody else listens there.
    #[error("Failed to bind socket to {0}: Address already in use by another process")]
    InUse(String),
    /// The socket cannot be made; the whole reason.
    #[error("{0}")]
    Socket(String),
}

impl ChannelError {
    /// Whether somebody else, most likely an agent, serves this channel.
    pub fn is_in_use(&self) -> bool {
        match self {
            ChannelError::InUse(_) => true,
            ChannelError::Device { error, .. } => error.raw_os_error() == Some(Errno::EBUSY as i32),
            _ => false,
        }
    }

    /// Whether trying again may help: not when the configuration is wrong.
    pub fn may_pass(&self) -> bool {
        !matches!(self, ChannelError::Method(_))
    }
}

/// Opens the way to the host that `method` and `path` name.
///
/// # Errors
/// When the device or socket cannot be opened.
pub fn open(method: &str, path: &Path) -> Result<Endpoint, ChannelError> {
    match method {
        "virtio-serial" => port::open(path).map(Endpoint::Port).map_err(|e| device(path, e)),
        "isa-serial" => serial::open(path).map(Endpoint::Serial).map_err(|e| device(path, e)),
        "unix-listen" => Listener::unix(path).map(Endpoint::Listener),
        "vsock-listen" => Listener::vsock(path).map(Endpoint::Listener),
        other => Err(ChannelError::Method(other.to_owned())),
    }
}

/// Takes over a listening socket from the service manager.
///
/// # Errors
/// When it is no socket of a kind that we serve.
pub fn adopt(socket: OwnedFd) -> Result<Endpoint, ChannelError> {
    use std::os::fd::AsRawFd;
    let address: SockaddrStorage =
        getsockname(socket.as_raw_fd()).map_err(|e| ChannelError::Socket(e.desc().to_owned()))?;
    match address.family() {
        Some(AddressFamily::Unix | AddressFamily::Vsock) => {
            Listener::adopt(socket).map(Endpoint::Listener).map_err(|e| ChannelError::Socket(os_reason(&e)))
        }
        _ => Err(ChannelError::Socket("unsupported listen fd type".into())),
    }
}

fn device(path: &Path, error: io::Error) -> ChannelError {
    ChannelError::Device { path: path.display().to_string(), error }
}
