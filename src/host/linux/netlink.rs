//! Links, addresses and the ways of routes, from dumps of the kernel's route socket (netlink(7), rtnetlink(7)).
//!
//! One dump lists all links with their 64-bit counters, one all addresses, so the cost is linear in
//! their number. Only the attributes that are wanted are looked at: what a newer kernel adds can
//! make no message unreadable.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use nix::libc;
use serde::Serialize;

use crate::host::Kernel;

pub mod ways;

/// A dump that changes interrupt is repeated this often; then what came last has to do.
const ATTEMPTS: usize = 8;

/// A network interface of the agent's name space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number by which addresses name it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The first six bytes of its hardware address, zeros where it has fewer or none, as
    /// `SIOCGIFHWADDR` gives them.
    pub mac: [u8; 6],
    /// Its counters.
    pub statistics: Option<Statistics>,
}

/// What went through a link since it exists, as `/proc/net/dev` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Statistics {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errs: u64,
    /// Packets received and dropped, with those that the device had no room for.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errs: u64,
    /// Packets dropped instead of sent.
    pub tx_dropped: u64,
}

/// An IP address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `Link::index` of the link.
    pub link: u32,
    /// The address of this end.
    pub ip: IpAddr,
    /// The length of the network's prefix in bits.
    pub prefix: u8,
    /// The name given to an IPv4 address: the link's name, or an alias such as `eth0:1`.
    pub label: Option<String>,
}

/// All links and all addresses on them, in the kernel's order.
///
/// # Errors
/// The system's own, when there is no route socket or the kernel refuses the dump. A kernel without
/// IPv4 or IPv6 is no error.
pub fn interfaces(kernel: &dyn Kernel) -> io::Result<(Vec<Link>, Vec<Address>)> {
    let (mut links, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..ATTEMPTS {
        let whole_links = dump(kernel, &link_request(), libc::RTM_NEWLINK, Link::read, &mut links)?;
        let request = address_request();
        let whole = dump(kernel, &request, libc::RTM_NEWADDR, Address::read, &mut addresses)?;
        if whole_links && whole {
            break;
        }
    }
    Ok((links, addresses))
}

/// `struct ifinfomsg`, then a mask that leaves out the counters of IPv6, which cost more than
/// all the rest and are not wanted. Older kernels ignore the mask.
fn link_request() -> Vec<u8> {
    const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    let mut payload = vec![0; IFINFOMSG];
    payload.extend(8_u16.to_ne_bytes());
    payload.extend(libc::IFLA_EXT_MASK.to_ne_bytes());
    payload.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    request(libc::RTM_GETLINK, &payload)
}

/// `struct ifaddrmsg` with no family: all families.
fn address_request() -> Vec<u8> {
    request(libc::RTM_GETADDR, &[0; IFADDRMSG])
}

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const HEADER: u32 = 16;

/// A dump request: `struct nlmsghdr` and `payload`.
fn request(kind: u16, payload: &[u8]) -> Vec<u8> {
    const SEQUENCE: u32 = 1;
    let length = HEADER + u32::try_from(payload.len()).unwrap_or(0);
    let mut message = Vec::with_capacity(64);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend(SEQUENCE.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(payload);
    message
}

/// Collects what `read` finds in each message of the type `kind`; false when the kernel says that
/// things changed during the dump, so that some may be missing or twice.
fn dump<T>(
    kernel: &dyn Kernel,
    request: &[u8],
    kind: u16,
    read: impl Fn(&[u8], &mut Vec<T>),
    found: &mut Vec<T>,
) -> io::Result<bool> {
    found.clear();
    let mut whole = true;
    let mut failure = None;
    kernel.netlink_route(request, &mut |datagram| {
        for message in Messages(datagram) {
            whole &= message.flags & NLM_F_DUMP_INTR == 0;
            if message.kind == kind {
                read(message.payload, found);
            } else if let Some(end) = message.end() {
                failure = end.err();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failure.map_or(Ok(whole), Err)
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

impl Message<'_> {
    /// The result of the dump, if this is its last message.
    fn end(&self) -> Option<io::Result<()>> {
        let done = i32::from(self.kind) == libc::NLMSG_DONE;
        if !done && i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        // Both begin with a negative errno or 0; old kernels leave it out of NLMSG_DONE.
        let errno = self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        Some(match errno.checked_neg() {
            Some(errno) if errno > 0 => Err(io::Error::from_raw_os_error(errno)),
            _ if done => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        })
    }
}

/// Walks the messages of a datagram; what is cut off at its end is left out.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let message = NetlinkBuffer::new_checked(self.0).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        let payload = self.0.get(16..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: message.message_type(), flags: message.flags(), payload })
    }
}

/// The attributes behind a fixed header, as type and value.
fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let data = payload.get(header..).unwrap_or_default();
    NlasIterator::new(data).map_while(Result::ok).map(|attribute| (attribute.kind(), value(attribute.into_inner())))
}

/// What follows the four bytes of type and length.
fn value(attribute: &[u8]) -> &[u8] {
    let length = attribute.first_chunk().map_or(0, |length| u16::from_ne_bytes(*length));
    attribute.get(4..usize::from(length)).unwrap_or_default()
}

impl Link {
    fn read(payload: &[u8], links: &mut Vec<Link>) {
        links.extend(Link::parse(payload));
    }

    /// Reads the payload of `RTM_NEWLINK`.
    fn parse(payload: &[u8]) -> Option<Link> {
        let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
        let mut link = Link { index, name: String::new(), mac: [0; 6], statistics: None };
        for (kind, value) in attributes(payload, IFINFOMSG) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = std::array::from_fn(|at| value.get(at).copied().unwrap_or(0)),
                libc::IFLA_STATS64 => link.statistics = Statistics::parse(value),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Statistics {
    /// Reads the counters that we want of `struct rtnl_link_stats64`.
    fn parse(value: &[u8]) -> Option<Statistics> {
        let counter = |at: usize| value.get(at * 8..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        Some(Statistics {
            rx_packets: counter(0)?,
            tx_packets: counter(1)?,
            rx_bytes: counter(2)?,
            tx_bytes: counter(3)?,
            rx_errs: counter(4)?,
            tx_errs: counter(5)?,
            // As in /proc/net/dev: together with rx_missed_errors.
            rx_dropped: counter(6)?.wrapping_add(counter(15).unwrap_or(0)),
            tx_dropped: counter(7)?,
        })
    }
}

impl Address {
    fn read(payload: &[u8], addresses: &mut Vec<Address>) {
        addresses.extend(Address::parse(payload));
    }

    /// Reads the payload of `RTM_NEWADDR`; `None` for families other than IPv4 and IPv6.
    fn parse(payload: &[u8]) -> Option<Address> {
        let &[family, prefix, _, _, ..] = payload else { return None };
        let link = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
        let (mut local, mut address, mut label) = (None, None, None);
        for (kind, value) in attributes(payload, IFADDRMSG) {
            match kind {
                libc::IFA_LOCAL => local = ip(family, value),
                libc::IFA_ADDRESS => address = ip(family, value),
                libc::IFA_LABEL => label = Some(text(value)),
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the other end.
        Some(Address { link, ip: local.or(address)?, prefix, label })
    }
}

/// An address in network byte order.
fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

/// A name that ends with a NUL.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}
