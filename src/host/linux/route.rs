//! Routes: `/proc/net/route` and `/proc/net/ipv6_route` (proc(5)).
//!
//! These tables and not a netlink dump, because the dump has no source for the reference counts of
//! IPv6 routes, for the flags that tell where an IPv6 route came from (RTF_ADDRCONF, RTF_DEFAULT,
//! RTF_PREFIX_RT...) and for the kernel's entry that refuses what no route leads to.
//!
//! But the kernel walks the IPv6 table from its beginning for each page that is read. Where it has
//! more than a hundred routes, a dump takes its place and these things are left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use super::netlink::routes::{Ipv6Hop, ipv6_routes};
use crate::host::Host;

/// The IPv4 routes of the main table.
pub const IPV4: &str = "/proc/net/route";

/// The IPv6 routes of all tables.
pub const IPV6: &str = "/proc/net/ipv6_route";

/// A longer IPv6 table is not read but dumped. A route is 150 bytes.
const IPV6_TEXT: u64 = 16 << 10;

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
    /// References to the route in the kernel, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refcnt: Option<u32>,
    /// Always 0 on recent kernels.
    #[serde(rename = "use")]
    pub used: u32,
    /// `RTF_` (linux/route.h, linux/ipv6_route.h).
    pub flags: u32,
    /// 6
    pub version: u8,
}

/// The routes as the kernel gives them: thousands are read while they are written to the reply.
#[derive(Debug)]
pub struct Tables {
    ipv4: String,
    ipv6: Ipv6Table,
}

#[derive(Debug)]
enum Ipv6Table {
    Text(String),
    Dump { links: HashMap<u32, String>, hops: Vec<Ipv6Hop> },
}

impl Tables {
    /// Reads the tables. A kernel without one of the families, or started with `ipv6.disable=1`, has
    /// no routes of it.
    ///
    /// # Errors
    /// There is none of the tables.
    pub fn read(host: &Host) -> io::Result<Tables> {
        match (host.read_text(IPV4), Ipv6Table::read(host)) {
            (Err(reason), Err(_)) => Err(reason),
            (ipv4, ipv6) => Ok(Tables {
                ipv4: ipv4.unwrap_or_default(),
                ipv6: ipv6.unwrap_or_else(|_| Ipv6Table::Text(String::new())),
            }),
        }
    }

    /// The IPv4 routes.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Route<'_>> {
        self.ipv4.lines().skip(1).filter_map(Ipv4Route::parse)
    }

    /// The IPv6 routes.
    pub fn ipv6(&self) -> impl Iterator<Item = Ipv6Route<'_>> {
        let (text, dump) = match &self.ipv6 {
            Ipv6Table::Text(text) => (Some(text), None),
            Ipv6Table::Dump { links, hops } => (None, Some((links, hops))),
        };
        let dumped = dump.into_iter().flat_map(|(links, hops)| {
            hops.iter().filter_map(|hop| Some(Ipv6Route::dumped(hop, links.get(&hop.link)?)))
        });
        text.into_iter().flat_map(|text| text.lines()).filter_map(Ipv6Route::parse).chain(dumped)
    }
}

impl Ipv6Table {
    fn read(host: &Host) -> io::Result<Ipv6Table> {
        let mut start = Vec::new();
        File::open(host.path(IPV6))?.take(IPV6_TEXT + 1).read_to_end(&mut start)?;
        if start.len() as u64 <= IPV6_TEXT {
            return Ok(Ipv6Table::Text(String::from_utf8_lossy(&start).into_owned()));
        }
        match ipv6_routes(host.kernel()) {
            Ok((links, hops)) => Ok(Ipv6Table::Dump { links, hops }),
            Err(_) => host.read_text(IPV6).map(Ipv6Table::Text),
        }
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
    fn dumped(hop: &Ipv6Hop, iface: &'t str) -> Ipv6Route<'t> {
        Ipv6Route {
            iface,
            destination: hop.destination,
            destination_prefix: hop.destination_prefix,
            source: hop.source,
            source_prefix: hop.source_prefix,
            next_hop: hop.next_hop,
            metric: hop.metric,
            refcnt: None,
            used: 0,
            flags: hop.flags,
            version: 6,
        }
    }

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
            refcnt: Some(hex(next()?)?),
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
