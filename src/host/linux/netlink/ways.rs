//! Routes with several ways, of which the tables in `/proc/net` show the first only.
//!
//! These are IPv4 routes with several next hops, and routes of both families by a group of next hop
//! objects (`ip nexthop`). An IPv6 route with several next hops of its own is several routes in the
//! table.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use nix::libc;

use super::{ATTEMPTS, Messages, attributes, dump, ip, request};
use crate::host::Kernel;

/// `struct rtmsg`
const RTMSG: usize = 12;

/// `struct rtnexthop`
const RTNEXTHOP: usize = 8;

/// `struct nhmsg`
const NHMSG: usize = 8;

// linux/rtnetlink.h, linux/nexthop.h; libc has them for some C libraries only.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_GROUP: u16 = 2;
const RTA_NH_ID: u16 = 30;

/// What tells a route from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Where it leads, and which bits of that count.
    pub to: (IpAddr, u32),
    /// Whose packets take it; all zeros for IPv4.
    pub from: (IpAddr, u32),
    /// The lowest wins.
    pub metric: u32,
}

/// One of the ways of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The link.
    pub iface: String,
    /// By way of this host; unspecified when the destination is on the link.
    pub gateway: IpAddr,
}

/// The ways of all routes that the tables do not tell in full.
#[derive(Debug, Default)]
pub struct Ways(HashMap<Key, VecDeque<Vec<Way>>>);

/// A route, and its ways with their links by number.
type Found = (Key, Vec<(u32, IpAddr)>);

impl Ways {
    /// Asks the kernel for them: of IPv4 the main table, of IPv6 all.
    ///
    /// # Errors
    /// The system's own, when there is no route socket or the kernel refuses the dump.
    pub fn read(kernel: &dyn Kernel) -> io::Result<Ways> {
        let mut found = Vec::new();
        routes(kernel, libc::AF_INET, &mut found)?;
        // Without a group the other dump would be for nothing, and it is the dearer one.
        if has_groups(kernel) {
            routes(kernel, libc::AF_INET6, &mut found)?;
        }
        let links = found.iter().flat_map(|(_, ways)| ways.iter().map(|&(link, _)| link)).collect();
        let names = if found.is_empty() { HashMap::new() } else { kernel.link_names(&links)? };
        let mut all: HashMap<Key, VecDeque<Vec<Way>>> = HashMap::new();
        for (key, ways) in found {
            let named = |(link, gateway): (u32, _)| Some(Way { iface: names.get(&link)?.clone(), gateway });
            all.entry(key).or_default().push_back(ways.into_iter().filter_map(named).collect());
        }
        Ok(Ways(all))
    }

    /// Nearly always.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The other ways of a route of which the table has told this one. Each route is told once.
    pub(crate) fn others(&mut self, key: &Key, told: &Way) -> Vec<Way> {
        let Some(routes) = self.0.get_mut(key) else { return Vec::new() };
        // Routes that differ in what the tables do not tell come in the same order in both.
        let Some(at) = routes.iter().position(|ways| ways.contains(told)) else { return Vec::new() };
        let mut ways = routes.remove(at).unwrap_or_default();
        if let Some(at) = ways.iter().position(|way| way == told) {
            ways.remove(at);
        }
        ways
    }
}

fn routes(kernel: &dyn Kernel, family: i32, found: &mut Vec<Found>) -> io::Result<()> {
    let mut payload = [0; RTMSG];
    payload[0] = u8::try_from(family).unwrap_or_default();
    let request = request(libc::RTM_GETROUTE, &payload);
    let mut routes = Vec::new();
    for _ in 0..ATTEMPTS {
        if dump(kernel, &request, libc::RTM_NEWROUTE, read, &mut routes)? {
            break;
        }
    }
    found.append(&mut routes);
    Ok(())
}

/// Whether there are groups of next hop objects. Kernels before 5.3 know no such thing and say so.
fn has_groups(kernel: &dyn Kernel) -> bool {
    let mut found = false;
    let answered = kernel.netlink_route(&request(RTM_GETNEXTHOP, &[0; NHMSG]), &mut |datagram| {
        for message in Messages(datagram) {
            if message.kind == RTM_NEWNEXTHOP {
                found |= attributes(message.payload, NHMSG).any(|(kind, _)| kind == NHA_GROUP);
            } else if message.end().is_some() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    answered.is_ok() && found
}

/// Reads the payload of `RTM_NEWROUTE`.
fn read(payload: &[u8], found: &mut Vec<Found>) {
    let &[family, to_bits, from_bits, _, table, ..] = payload else { return };
    let flags = number(payload, 8);
    let is_ipv4 = i32::from(family) == libc::AF_INET;
    if flags & libc::RTM_F_CLONED != 0 || is_ipv4 && table != libc::RT_TABLE_MAIN {
        return;
    }
    let nowhere: IpAddr = if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (to_bits, from_bits) = (to_bits.into(), if is_ipv4 { 0 } else { from_bits.into() });
    let mut key = Key { to: (nowhere, to_bits), from: (nowhere, from_bits), metric: 0 };
    let (mut several, mut has_object) = (None, false);
    for (kind, value) in attributes(payload, RTMSG) {
        match kind {
            libc::RTA_DST => key.to.0 = ip(family, value).unwrap_or(nowhere),
            libc::RTA_SRC if !is_ipv4 => key.from.0 = ip(family, value).unwrap_or(nowhere),
            libc::RTA_PRIORITY => key.metric = number(value, 0),
            libc::RTA_MULTIPATH => several = Some(value),
            RTA_NH_ID => has_object = true,
            _ => {}
        }
    }
    // The table has the other ones of IPv6 in full.
    if let Some(list) = several.filter(|_| is_ipv4 || has_object) {
        found.push((key, ways(list, family, nowhere)));
    }
}

/// Reads a list of `struct rtnexthop`, each with attributes of its own.
fn ways(mut list: &[u8], family: u8, nowhere: IpAddr) -> Vec<(u32, IpAddr)> {
    let mut ways = Vec::new();
    while let Some(length) = list.first_chunk().map(|length| usize::from(u16::from_ne_bytes(*length))) {
        let Some(entry) = list.get(..length).filter(|entry| entry.len() >= RTNEXTHOP) else { break };
        let gateway = attributes(entry, RTNEXTHOP).find(|&(kind, _)| kind == libc::RTA_GATEWAY);
        ways.push((number(entry, 4), gateway.and_then(|(_, value)| ip(family, value)).unwrap_or(nowhere)));
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    ways
}

/// The number at an offset; 0 when there is none.
fn number(value: &[u8], at: usize) -> u32 {
    value.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
