//! The kernel's route socket: one request, all datagrams of the answer.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// The kernel makes the datagrams of a dump as large as the buffer that waits for them, up to this.
const DATAGRAM: usize = 32 << 10;

/// The kernel answers while it is asked; this only keeps a kernel bug from stopping us for ever.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// Sends `request` and hands over what comes, until `answer` breaks.
pub(super) fn dump(request: &[u8], answer: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
    let socket = open()?;
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let datagram = receive(&socket, &mut buffer)?;
        if answer(datagram).is_break() {
            return Ok(());
        }
    }
}

nix::ioctl_readwrite_bad!(siocgifname, libc::SIOCGIFNAME, libc::ifreq);

/// The names of links by their numbers. Any socket will do for that.
pub(super) fn link_names(links: &HashSet<u32>) -> io::Result<HashMap<u32, String>> {
    let socket = open()?;
    Ok(links.iter().filter_map(|&link| Some((link, link_name(&socket, link)?))).collect())
}

fn link_name(socket: &OwnedFd, link: u32) -> Option<String> {
    let index = libc::__c_anonymous_ifr_ifru { ifru_ifindex: link.try_into().ok()? };
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: index };
    // SAFETY: the descriptor is open for the length of the call, in which the kernel reads and writes
    // `request`, a `struct ifreq`.
    #[expect(unsafe_code, reason = "no safe wrapper")]
    unsafe { siocgifname(socket.as_raw_fd(), &raw mut request) }.ok()?;
    let name = request.ifr_name.map(|c| u8::from_ne_bytes(c.to_ne_bytes()));
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Some(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn open() -> io::Result<OwnedFd> {
    let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkRoute);
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
    Ok(socket)
}

/// The next datagram from the kernel; other processes may send us some, too.
fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    loop {
        let (length, sender) = match recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer) {
            Ok(received) => received,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        };
        if sender.is_some_and(|sender| sender.pid() == 0) {
            return Ok(&buffer[..length]);
        }
    }
}
