//! Routes: `/proc/net/route` and `/proc/net/ipv6_route` (proc(5)).
//!
//! These tables and not a netlink dump, because the dump has no source for the reference counts of
//! IPv6 routes, for the flags that tell where an IPv6 route came from (RTF_ADDRCONF, RTF_DEFAULT,
//! RTF_PREFIX_RT...) and for the kernel's entry that refuses what no route leads to.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::host::Host;

/// The IPv4 routes of the main table.
pub const IPV4: &str = "/proc/net/route";

/// The IPv6 routes of all tables.
pub const IPV6: &str = "/proc/net/ipv6_route";

/// A line of [`IPV4`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipv4Route {
    /// The interface; `*` for a route that refuses.
    pub iface: String,
    /// Where it leads.
    pub destination: Ipv4Addr,
    /// By way of this host; 0.0.0.0 when the destination is on the link.
    pub gateway: Ipv4Addr,
    /// Which bits of the destination count.
    pub mask: Ipv4Addr,
    /// The lowest wins.
    pub metric: u32,
    /// `RTF_` (linux/route.h).
    pub flags: u32,
    /// Always 0 on Linux.
    pub refcnt: u32,
    /// Always 0 on Linux.
    #[serde(rename = "use")]
    pub used: u32,
    /// Bytes; 0 when the route sets none.
    pub mtu: u32,
    /// TCP window in bytes; 0 when the route sets none.
    pub window: u32,
    /// Initial round trip time in milliseconds; 0 when the route sets none.
    pub irtt: u32,
    /// 4
    pub version: u8,
}

/// A line of [`IPV6`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipv6Route {
    /// The interface; `lo` for a route that refuses.
    pub iface: String,
    /// Where it leads.
    pub destination: Ipv6Addr,
    /// Which bits of the destination count.
    #[serde(rename = "desprefixlen", serialize_with = "string")]
    pub destination_prefix: u8,
    /// Whose packets take it.
    pub source: Ipv6Addr,
    /// Which bits of the source count.
    #[serde(rename = "srcprefixlen", serialize_with = "string")]
    pub source_prefix: u8,
    /// By way of this host; `::` when the destination is on the link.
    #[serde(rename = "nexthop")]
    pub next_hop: Ipv6Addr,
    /// The lowest wins.
    pub metric: u32,
    /// References to the route in the kernel.
    pub refcnt: u32,
    /// Always 0 on recent kernels.
    #[serde(rename = "use")]
    pub used: u32,
    /// `RTF_` (linux/route.h, linux/ipv6_route.h).
    pub flags: u32,
    /// 6
    pub version: u8,
}

/// The IPv4 routes.
///
/// # Errors
/// The table cannot be read: a kernel without IPv4.
pub fn ipv4(host: &Host) -> io::Result<Vec<Ipv4Route>> {
    let table = host.read_text(IPV4)?;
    Ok(table.lines().skip(1).filter_map(Ipv4Route::parse).collect())
}

/// The IPv6 routes.
///
/// # Errors
/// The table cannot be read: a kernel without IPv6, or started with `ipv6.disable=1`.
pub fn ipv6(host: &Host) -> io::Result<Vec<Ipv6Route>> {
    let table = host.read_text(IPV6)?;
    Ok(table.lines().filter_map(Ipv6Route::parse).collect())
}

impl Ipv4Route {
    /// Reads a line; `None` when it is none.
    fn parse(line: &str) -> Option<Ipv4Route> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next();
        Some(Ipv4Route {
            iface: next()?.to_owned(),
            destination: octets(next()?)?,
            gateway: octets(next()?)?,
            flags: hex(next()?)?,
            refcnt: decimal(next()?)?,
            used: decimal(next()?)?,
            metric: decimal(next()?)?,
            mask: octets(next()?)?,
            mtu: decimal(next()?)?,
            window: decimal(next()?)?,
            irtt: decimal(next()?)?,
            version: 4,
        })
    }
}

impl Ipv6Route {
    /// Reads a line; `None` when it is none.
    fn parse(line: &str) -> Option<Ipv6Route> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next();
        Some(Ipv6Route {
            destination: groups(next()?)?,
            destination_prefix: prefix(next()?)?,
            source: groups(next()?)?,
            source_prefix: prefix(next()?)?,
            next_hop: groups(next()?)?,
            metric: hex(next()?)?,
            refcnt: hex(next()?)?,
            used: hex(next()?)?,
            flags: hex(next()?)?,
            iface: next()?.to_owned(),
            version: 6,
        })
    }
}

/// The schema has prefix lengths of routes as strings.
fn string<S: Serializer>(number: &u8, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(number)
}

/// The kernel prints the four octets as one number of the machine's byte order.
fn octets(word: &str) -> Option<Ipv4Addr> {
    Some(hex(word)?.to_ne_bytes().into())
}

/// 32 hexadecimal digits in network order.
fn groups(word: &str) -> Option<Ipv6Addr> {
    if word.len() != 32 {
        return None;
    }
    u128::from_str_radix(word, 16).ok().map(Ipv6Addr::from)
}

fn prefix(word: &str) -> Option<u8> {
    u8::from_str_radix(word, 16).ok()
}

fn hex(word: &str) -> Option<u32> {
    u32::from_str_radix(word, 16).ok()
}

/// The kernel prints some unsigned numbers as signed ones.
fn decimal(word: &str) -> Option<u32> {
    word.parse().ok().or_else(|| Some(u32::from_ne_bytes(word.parse::<i32>().ok()?.to_ne_bytes())))
}
