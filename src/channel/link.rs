//! An open connection to the host as the loop sees it: read what is there, write what fits, wait.
//!
//! Invariant: no call blocks, and nothing wakes while nothing happens. Readiness is watched for
//! edges and remembered here, so a request costs one wait, one read and one write.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, VsockAddr, getpeername, getsockname, getsockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

use super::listen::Accepted;
use super::{Endpoint, Listener, port};
use crate::host::linux::fd::{Owned, unread_bytes, watch};
use crate::protocol::error::os_reason;

/// How often a file that cannot be watched is looked at.
const BLIND_INTERVAL: Duration = Duration::from_millis(500);

/// How long the kernel may take to tell of a host whose bytes are there already.
const ARRIVAL: Duration = Duration::from_secs(1);

/// When a client that could not be taken, for want of descriptors or memory, is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The client went away, or will say no more.
    End(End),
}

/// How the other side ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The host closed its side of the port; it may open it again.
    HostClosed,
    /// A client of a listening socket sends no more, but may still read.
    HalfClosed,
    /// A client of a listening socket is gone.
    Gone,
    /// A serial line ended.
    LineLost,
}

/// A way to the host that is watched by the runtime.
pub struct Link {
    kind: Kind,
    /// Which context ids may connect over vsock.
    admits: Box<dyn Fn(u32) -> bool + Send>,
    readable: bool,
    writable: bool,
    /// The client came over a Unix socket.
    unix: bool,
    /// It went away before it had read all.
    reset: bool,
}

enum Kind {
    Port {
        device: OwnedFd,
        edges: Watched<Edges>,
        host: Host,
    },
    Serial(Stream),
    Socket {
        listener: Watched<Listener>,
        client: Option<Stream>,
        /// A client could not be taken: when to try again.
        again: Option<Instant>,
    },
    /// A file that epoll does not take, such as `/dev/null`.
    Blind {
        file: OwnedFd,
        port: bool,
    },
}

/// The host's side of a port, as far as we know.
#[derive(Clone, Copy, Debug)]
enum Host {
    Closed,
    /// Bytes came although the kernel has not told yet that the host opened its side: it does that
    /// a moment later than it delivers what the host sent along with the connection.
    Arriving(Instant),
    Open,
}

/// An epoll as a descriptor that can itself be watched.
struct Edges(Epoll);

impl AsFd for Edges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

type Watched<T> = AsyncFd<Owned<T>>;

/// A descriptor whose input is watched always and whose output only when it is full: a peer that
/// reads a reply must not wake us.
struct Stream {
    input: Watched<OwnedFd>,
    output: Option<Watched<OwnedFd>>,
    ended: bool,
    /// It can no longer be watched, so it is as good as gone.
    broken: bool,
}

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Stream> {
        let input = watch(fd, Interest::READABLE)?;
        Ok(Stream { input, output: None, ended: false, broken: false })
    }

    async fn wait(&mut self, read: bool, write: bool) -> io::Result<(bool, bool)> {
        // The half of a client that is left can still go: that shows as an edge of the output.
        let (read, write) = (read && !self.ended, write || self.ended);
        if write && self.output.is_none() {
            let copy = self.input.get_ref().get().try_clone()?;
            self.output = Some(watch(copy, Interest::WRITABLE)?);
        } else if !write {
            self.output = None;
        }
        tokio::select! {
            guard = self.input.readable(), if read => {
                guard?.clear_ready();
                Ok((true, false))
            }
            guard = async { self.output.as_ref().expect("made above").writable().await }, if write => {
                guard?.clear_ready();
                Ok((false, true))
            }
            else => std::future::pending().await,
        }
    }
}

impl Link {
    /// Registers an endpoint with the runtime.
    ///
    /// # Errors
    /// When the system refuses to watch it.
    pub fn new(endpoint: Endpoint) -> io::Result<Link> {
        let unwatchable = |e: &io::Error| e.raw_os_error() == Some(Errno::EPERM as i32);
        let kind = match endpoint {
            Endpoint::Port(device) => match port::edges(&device) {
                Ok(epoll) => {
                    let edges = watch(Edges(epoll), Interest::READABLE)?;
                    Kind::Port { device, edges, host: Host::Closed }
                }
                Err(error) if unwatchable(&error) => Kind::Blind { file: device, port: true },
                Err(error) => return Err(error),
            },
            Endpoint::Serial(line) => {
                let copy = line.try_clone()?;
                match Stream::new(line) {
                    Ok(stream) => Kind::Serial(stream),
                    Err(error) if unwatchable(&error) => Kind::Blind { file: copy, port: false },
                    Err(error) => return Err(error),
                }
            }
            Endpoint::Listener(listener) => {
                let listener = watch(listener, Interest::READABLE)?;
                Kind::Socket { listener, client: None, again: None }
            }
        };
        Ok(Link { kind, admits: Box::new(|_| false), readable: true, writable: true, unix: false, reset: false })
    }

    /// From now on, clients over vsock are those whose context id passes; until then there are none.
    pub fn admit_by(&mut self, admits: impl Fn(u32) -> bool + Send + 'static) {
        self.admits = Box::new(admits);
    }

    /// Whether a read may find something.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Port { device, .. } => Some(device.as_fd()),
            Kind::Serial(stream) => Some(stream.input.get_ref().get().as_fd()),
            Kind::Socket { client, .. } => client.as_ref().map(|c| c.input.get_ref().get().as_fd()),
            Kind::Blind { file, .. } => Some(file.as_fd()),
        }
    }

    fn is_broken(&self) -> bool {
        matches!(&self.kind, Kind::Socket { client: Some(client), .. } if client.broken)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// When the device fails. Errors of a socket client are that client leaving.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Input> {
        if self.is_broken() {
            return Ok(Input::End(End::Gone));
        }
        let Some(fd) = self.fd() else { return self.accept() };
        match nix::unistd::read(fd, buffer) {
            Ok(0) => {
                self.readable = false;
                Ok(self.end().map_or(Input::Nothing, Input::End))
            }
            Ok(count) => {
                // A short read emptied it: the next byte comes with an edge of its own.
                self.readable = count == buffer.len() || matches!(self.kind, Kind::Port { .. } | Kind::Blind { .. });
                if let Kind::Port { host: host @ Host::Closed, .. } = &mut self.kind {
                    *host = Host::Arriving(Instant::now());
                }
                Ok(Input::Bytes(count))
            }
            Err(Errno::EAGAIN) => {
                self.readable = false;
                // While the host side is closed a read gives 0 instead.
                self.host_is_open();
                Ok(Input::Nothing)
            }
            Err(Errno::EINTR) => Ok(Input::Nothing),
            Err(errno) if matches!(self.kind, Kind::Socket { .. }) => {
                self.reset = errno == Errno::ECONNRESET;
                Ok(Input::End(End::Gone))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The other side gave no more; `None` when that is no news.
    fn end(&mut self) -> Option<End> {
        match &mut self.kind {
            Kind::Port { host, .. } => match *host {
                Host::Open => {
                    *host = Host::Closed;
                    Some(End::HostClosed)
                }
                Host::Closed | Host::Arriving(_) => None,
            },
            Kind::Blind { port: true, .. } => Some(End::HostClosed),
            Kind::Serial(_) | Kind::Blind { .. } => Some(End::LineLost),
            Kind::Socket { client, .. } => match client {
                Some(client) if !is_gone(client.input.get_ref().get().as_fd()) => {
                    client.ended = true;
                    Some(End::HalfClosed)
                }
                _ => Some(End::Gone),
            },
        }
    }

    fn host_is_open(&mut self) {
        if let Kind::Port { host, .. } = &mut self.kind {
            *host = Host::Open;
        }
    }

    fn accept(&mut self) -> io::Result<Input> {
        self.readable = false;
        let Kind::Socket { listener, client, again } = &mut self.kind else { return Ok(Input::Nothing) };
        let taken = match listener.get_ref().get().accept()? {
            Accepted::Nobody => {
                *again = None;
                return Ok(Input::Nothing);
            }
            Accepted::Client(fd) => {
                if let Some(stranger) = peer_cid(&fd).filter(|cid| !(self.admits)(*cid)) {
                    tracing::warn!(
                        "a client with the vsock context id {stranger} is turned away: it is neither the host \
                         nor named in [vsock] allow"
                    );
                    self.readable = true;
                    return Ok(Input::Nothing);
                }
                Stream::new(fd)
            }
            Accepted::NotNow(error) => Err(error),
        };
        match taken {
            Ok(stream) => {
                tracing::debug!("client connected");
                self.unix = is_unix(stream.input.get_ref().get().as_fd());
                *client = Some(stream);
                *again = None;
                self.readable = true;
                self.writable = true;
            }
            Err(error) => {
                // Said once, however often it is tried.
                if again.is_none() {
                    tracing::warn!("failed to take a client: {}; trying again", os_reason(&error));
                }
                *again = Some(Instant::now() + ACCEPT_AGAIN);
            }
        }
        Ok(Input::Nothing)
    }

    /// Writes what fits; `WouldBlock` when nothing does.
    ///
    /// # Errors
    /// Those of the device or socket.
    pub fn write(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(fd) = self.fd().filter(|_| !self.is_broken()) else { return Err(Errno::EPIPE.into()) };
        if !self.writable {
            return Err(Errno::EAGAIN.into());
        }
        let result = match nix::sys::uio::writev(fd, data) {
            Err(Errno::EINTR) => return Ok(nix::sys::uio::writev(fd, data)?),
            other => other,
        };
        if result == Err(Errno::EAGAIN) {
            self.writable = false;
        }
        Ok(result?)
    }

    /// Drops the client of a listening socket; the next one may come.
    pub fn drop_client(&mut self) {
        if let Kind::Socket { client, .. } = &mut self.kind {
            *client = None;
            // One may have been waiting since before.
            self.readable = true;
            self.writable = true;
            self.reset = false;
        }
    }

    /// Whether a client that leaves before it has read all can be told from others.
    pub fn tells_what_is_read(&self) -> bool {
        self.unix
    }

    /// Whether the client of a socket went away before it had read all.
    pub fn left_unread(&self) -> bool {
        let reset = |fd: BorrowedFd<'_>| getsockopt(&fd, SocketError) == Ok(Errno::ECONNRESET as i32);
        self.unix && (self.reset || self.fd().is_some_and(reset))
    }

    /// Whether the client of a socket is known to have read all that was written.
    pub fn all_is_read(&self) -> bool {
        self.unix && self.fd().is_some_and(|fd| unread_bytes(fd) == Ok(0))
    }

    /// Whether the client that half-closed has now gone altogether.
    pub fn client_is_gone(&self) -> bool {
        match &self.kind {
            Kind::Socket { client: Some(client), .. } => client.broken || is_gone(client.input.get_ref().get().as_fd()),
            _ => false,
        }
    }

    /// Waits until a read or a write may do something. Safe to cancel.
    ///
    /// # Errors
    /// When the runtime cannot watch any more.
    pub async fn wait(&mut self, read: bool, write: bool) -> io::Result<()> {
        match &mut self.kind {
            Kind::Port { edges, host, .. } => {
                let watched = async { edges.readable().await.map(|mut guard| guard.clear_ready()) };
                match *host {
                    Host::Arriving(since) => match timeout_at((since + ARRIVAL).into(), watched).await {
                        Ok(result) => result?,
                        // It came and went: the next read says so.
                        Err(_) => {
                            *host = Host::Open;
                            self.readable = true;
                            return Ok(());
                        }
                    },
                    Host::Closed | Host::Open => watched.await?,
                }
                let seen = port::take_edges(&edges.get_ref().get().0)?;
                self.readable |= !seen.is_empty();
                self.writable |= seen.contains(EpollFlags::EPOLLOUT);
                if !seen.is_empty() && !seen.contains(EpollFlags::EPOLLHUP) {
                    *host = Host::Open;
                }
            }
            Kind::Serial(stream) => {
                let (readable, writable) = stream.wait(read, write).await?;
                self.readable |= readable;
                self.writable |= writable;
            }
            // The next read or write says so.
            Kind::Socket { client: Some(Stream { broken: true, .. }), .. } => std::future::pending().await,
            Kind::Socket { client: Some(stream), .. } => match stream.wait(read, write).await {
                Ok((readable, writable)) => {
                    self.readable |= readable;
                    self.writable |= writable;
                }
                Err(error) => {
                    tracing::warn!("failed to watch a client: {}", os_reason(&error));
                    stream.broken = true;
                    (self.readable, self.writable) = (true, true);
                }
            },
            Kind::Socket { listener, client: None, again } => {
                let watched = async { listener.readable().await.map(|mut guard| guard.clear_ready()) };
                match *again {
                    // Whether it works now, the next accept says.
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => watched.await?,
                }
                self.readable = true;
            }
            Kind::Blind { .. } => {
                tokio::time::sleep(BLIND_INTERVAL).await;
                self.readable = true;
                self.writable = true;
            }
        }
        Ok(())
    }
}

/// Where a client over vsock comes from; `None` for others.
fn peer_cid(client: &OwnedFd) -> Option<u32> {
    let peer = getpeername::<SockaddrStorage>(client.as_raw_fd()).ok()?;
    peer.as_vsock_addr().map(VsockAddr::cid)
}

/// Whether both directions of a socket are closed.
fn is_gone(fd: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut watched, PollTimeout::ZERO).is_ok()
        && watched[0].revents().is_some_and(|seen| seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Whether it is a Unix socket: a peer that closes one with bytes unread leaves `ECONNRESET` behind,
/// and the bytes that it has not read can be asked for. Of a vsock neither is sure.
fn is_unix(fd: BorrowedFd<'_>) -> bool {
    getsockname::<SockaddrStorage>(fd.as_raw_fd()).is_ok_and(|name| name.family() == Some(AddressFamily::Unix))
}
