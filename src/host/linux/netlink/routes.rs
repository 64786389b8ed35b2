//! IPv6 routes from a dump: linear in their number, where the kernel's text table is quadratic.
//!
//! The dump has no reference counts, does not say which routes came from router advertisements, and
//! leaves out the kernel's entry that refuses what no route leads to.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::libc;

use super::{ATTEMPTS, attributes, dump, ip, request};
use crate::host::Kernel;

/// `struct rtmsg`
const RTMSG: usize = 12;

/// `struct rtnexthop`
const RTNEXTHOP: usize = 8;

// linux/rtnetlink.h and linux/ipv6_route.h; libc has them for some C libraries only.
const RTA_PREF: u16 = 20;
const RTF_EXPIRES: u32 = 0x0040_0000;
const RTF_PREF_SHIFT: u32 = 27;

/// One next hop of an IPv6 route; a route with several is in the list several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Hop {
    /// `Link::index` of the link.
    pub link: u32,
    /// Where the route leads.
    pub destination: Ipv6Addr,
    /// Which bits of the destination count.
    pub destination_prefix: u8,
    /// Whose packets take it.
    pub source: Ipv6Addr,
    /// Which bits of the source count.
    pub source_prefix: u8,
    /// By way of this host; `::` when the destination is on the link.
    pub next_hop: Ipv6Addr,
    /// The lowest wins.
    pub metric: u32,
    /// `RTF_` (linux/route.h, linux/ipv6_route.h), as far as they can be told.
    pub flags: u32,
}

/// The IPv6 routes of all tables, and the names of the links.
///
/// # Errors
/// The system's own, when there is no route socket or the kernel refuses the dump.
pub fn ipv6_routes(kernel: &dyn Kernel) -> io::Result<(HashMap<u32, String>, Vec<Ipv6Hop>)> {
    let mut hops: Vec<Ipv6Hop> = Vec::new();
    let mut payload = [0; RTMSG];
    payload[0] = u8::try_from(libc::AF_INET6).unwrap_or_default();
    let route_request = request(libc::RTM_GETROUTE, &payload);
    for _ in 0..ATTEMPTS {
        if dump(kernel, &route_request, libc::RTM_NEWROUTE, read, &mut hops)? {
            break;
        }
    }
    let links = kernel.link_names(&hops.iter().map(|hop| hop.link).collect())?;
    Ok((links, hops))
}

/// Reads the payload of `RTM_NEWROUTE`.
fn read(payload: &[u8], hops: &mut Vec<Ipv6Hop>) {
    let &[family, destination_prefix, source_prefix, _, _, protocol, _, kind, ..] = payload else { return };
    let flags = payload.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    if i32::from(family) != libc::AF_INET6 || flags & libc::RTM_F_CLONED != 0 {
        return;
    }
    let nowhere = Ipv6Addr::UNSPECIFIED;
    let mut hop = Ipv6Hop {
        link: 0,
        destination: nowhere,
        destination_prefix,
        source: nowhere,
        source_prefix,
        next_hop: nowhere,
        metric: 0,
        flags: flags_of(kind, protocol),
    };
    let mut several = None;
    for (kind, value) in attributes(payload, RTMSG) {
        match kind {
            libc::RTA_DST => hop.destination = ipv6(value).unwrap_or(nowhere),
            libc::RTA_SRC => hop.source = ipv6(value).unwrap_or(nowhere),
            libc::RTA_GATEWAY => hop.by_way_of(value),
            libc::RTA_OIF => hop.link = number(value, 0),
            libc::RTA_PRIORITY => hop.metric = number(value, 0),
            RTA_PREF => hop.flags |= u32::from(value.first().copied().unwrap_or(0) & 3) << RTF_PREF_SHIFT,
            // struct rta_cacheinfo: rta_expires is the third member.
            libc::RTA_CACHEINFO if number(value, 8) != 0 => hop.flags |= RTF_EXPIRES,
            libc::RTA_MULTIPATH => several = Some(value),
            _ => {}
        }
    }
    match several {
        None => hops.push(hop),
        Some(list) => read_several(list, &hop, hops),
    }
}

/// Reads a list of `struct rtnexthop`, each with attributes of its own.
fn read_several(mut list: &[u8], route: &Ipv6Hop, hops: &mut Vec<Ipv6Hop>) {
    while let Some(length) = list.first_chunk().map(|length| usize::from(u16::from_ne_bytes(*length))) {
        let Some(entry) = list.get(..length).filter(|entry| entry.len() >= RTNEXTHOP) else { return };
        let mut hop = Ipv6Hop { link: number(entry, 4), ..*route };
        for (kind, value) in attributes(entry, RTNEXTHOP) {
            if kind == libc::RTA_GATEWAY {
                hop.by_way_of(value);
            }
        }
        hops.push(hop);
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

impl Ipv6Hop {
    fn by_way_of(&mut self, value: &[u8]) {
        if let Some(gateway) = ipv6(value) {
            self.next_hop = gateway;
            self.flags |= u32::from(libc::RTF_GATEWAY);
        }
    }
}

/// The flags that the kernel gives to a route of this type (`RTN_`).
fn flags_of(kind: u8, protocol: u8) -> u32 {
    const RTF_ANYCAST: u32 = 0x0010_0000;
    const RTF_LOCAL: u32 = 0x8000_0000;
    let up = u32::from(libc::RTF_UP);
    // The kernel's own are those of the machine's addresses; others an administrator made.
    let own = protocol == libc::RTPROT_KERNEL;
    match kind {
        libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT | libc::RTN_THROW => {
            u32::from(libc::RTF_REJECT) | libc::RTF_NONEXTHOP
        }
        libc::RTN_LOCAL if own => up | libc::RTF_NONEXTHOP | RTF_LOCAL,
        libc::RTN_LOCAL => up | RTF_LOCAL,
        libc::RTN_ANYCAST if own => up | libc::RTF_NONEXTHOP | RTF_ANYCAST,
        _ => up,
    }
}

fn ipv6(value: &[u8]) -> Option<Ipv6Addr> {
    match ip(u8::try_from(libc::AF_INET6).ok()?, value)? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// The number at an offset; 0 when there is none.
fn number(value: &[u8], at: usize) -> u32 {
    value.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
