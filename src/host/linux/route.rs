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
pub struct Ipv4Route<'t> {
    /// The interface; `*` for a route that refuses.
    pub iface: &'t str,
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
pub struct Ipv6Route<'t> {
    /// The interface; `lo` for a route that refuses.
    pub iface: &'t str,
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

/// Both tables, as text: tens of thousands of routes are read while they are written to the reply.
#[derive(Debug)]
pub struct Tables {
    ipv4: String,
    ipv6: String,
}

impl Tables {
    /// Reads the tables. A kernel without one of the families, or started with `ipv6.disable=1`, has
    /// no routes of it.
    ///
    /// # Errors
    /// There is none of the tables.
    pub fn read(host: &Host) -> io::Result<Tables> {
        match (host.read_text(IPV4), host.read_text(IPV6)) {
            (Err(reason), Err(_)) => Err(reason),
            (ipv4, ipv6) => Ok(Tables { ipv4: ipv4.unwrap_or_default(), ipv6: ipv6.unwrap_or_default() }),
        }
    }

    /// The IPv4 routes.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Route<'_>> {
        self.ipv4.lines().skip(1).filter_map(Ipv4Route::parse)
    }

    /// The IPv6 routes.
    pub fn ipv6(&self) -> impl Iterator<Item = Ipv6Route<'_>> {
        self.ipv6.lines().filter_map(Ipv6Route::parse)
    }
}

impl<'t> Ipv4Route<'t> {
    /// Reads a line; `None` when it is none.
    fn parse(line: &'t str) -> Option<Ipv4Route<'t>> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next();
        Some(Ipv4Route {
            iface: next()?,
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

impl<'t> Ipv6Route<'t> {
    /// Reads a line; `None` when it is none.
    fn parse(line: &'t str) -> Option<Ipv6Route<'t>> {
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
            iface: next()?,
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
