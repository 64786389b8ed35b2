//! Routes: `/proc/net/route` and `/proc/net/ipv6_route` (proc(5)).
//!
//! These tables and not a netlink dump, because the dump has no source for the reference counts of
//! IPv6 routes, for the flags that tell where an IPv6 route came from (RTF_ADDRCONF, RTF_DEFAULT,
//! RTF_PREFIX_RT...) and for the kernel's entry that refuses what no route leads to. Only what the
//! tables leave out, the second way and further ones of a route, comes from a dump.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc::RTF_GATEWAY;
use serde::{Serialize, Serializer};

use super::netlink::ways::{Key, Way, Ways};
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

/// A route of either family; the members differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Route<'t> {
    /// Of [`IPV4`].
    Ipv4(Ipv4Route<'t>),
    /// Of [`IPV6`].
    Ipv6(Ipv6Route<'t>),
}

/// The tables, read line by line: there may be a million.
pub struct Tables {
    ipv4: Option<Lines>,
    ipv6: Option<Lines>,
    ways: Ways,
}

impl Tables {
    /// Opens the tables. A kernel without one of the families, or started with `ipv6.disable=1`, has
    /// no routes of it.
    ///
    /// # Errors
    /// There is none of the tables.
    pub fn open(host: &Host) -> io::Result<Tables> {
        let (ipv4, ipv6) = match (Lines::open(host, IPV4), Lines::open(host, IPV6)) {
            (Err(reason), Err(_)) => return Err(reason),
            (ipv4, ipv6) => (ipv4.ok(), ipv6.ok()),
        };
        let ways = Ways::read(host.kernel()).unwrap_or_else(|reason| {
            tracing::warn!("of routes with several ways the first only is listed: {reason}");
            Ways::default()
        });
        Ok(Tables { ipv4, ipv6, ways })
    }

    /// Hands over the next route, once for each of its ways; false when there is none.
    pub fn next(&mut self, found: &mut dyn FnMut(&Route<'_>)) -> bool {
        if let Some(lines) = &mut self.ipv4 {
            if let Some(line) = lines.next() {
                // The heading is not a route either.
                if let Some(route) = Ipv4Route::parse(&line) {
                    found(&Route::Ipv4(route.clone()));
                    if !self.ways.is_empty() {
                        let others = self.ways.others(&route.key(), &route.way());
                        others.iter().filter_map(|way| route.by(way)).for_each(|route| found(&Route::Ipv4(route)));
                    }
                }
                return true;
            }
            self.ipv4 = None;
        }
        let Some(line) = self.ipv6.as_mut().and_then(Lines::next) else { return false };
        if let Some(route) = Ipv6Route::parse(&line) {
            found(&Route::Ipv6(route.clone()));
            if !self.ways.is_empty() {
                let others = self.ways.others(&route.key(), &route.way());
                others.iter().filter_map(|way| route.by(way)).for_each(|route| found(&Route::Ipv6(route)));
            }
        }
        true
    }
}

impl Route<'_> {
    /// The interface.
    pub(crate) fn iface(&self) -> &str {
        match self {
            Route::Ipv4(route) => route.iface,
            Route::Ipv6(route) => route.iface,
        }
    }
}

/// The lines of a file.
struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
}

impl Lines {
    fn open(host: &Host, path: &str) -> io::Result<Lines> {
        Ok(Lines { file: BufReader::new(File::open(host.path(path))?), line: Vec::new() })
    }

    /// The next line; a table that cannot be read further ends there.
    fn next(&mut self) -> Option<Cow<'_, str>> {
        self.line.clear();
        let length = self.file.read_until(b'\n', &mut self.line).ok()?;
        (length > 0).then(|| String::from_utf8_lossy(&self.line))
    }
}

impl<'t> Ipv4Route<'t> {
    fn key(&self) -> Key {
        let nowhere = Ipv4Addr::UNSPECIFIED.into();
        let bits = u32::from(self.mask).leading_ones();
        Key { to: (self.destination.into(), bits), from: (nowhere, 0), metric: self.metric }
    }

    fn way(&self) -> Way {
        Way { iface: self.iface.to_owned(), gateway: self.gateway.into() }
    }

    /// The same route by another way.
    fn by<'w>(&self, way: &'w Way) -> Option<Ipv4Route<'w>>
    where
        't: 'w,
    {
        let IpAddr::V4(gateway) = way.gateway else { return None };
        let flags = with_gateway(self.flags, !gateway.is_unspecified());
        Some(Ipv4Route { iface: &way.iface, gateway, flags, ..self.clone() })
    }

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
    fn key(&self) -> Key {
        Key {
            to: (self.destination.into(), self.destination_prefix.into()),
            from: (self.source.into(), self.source_prefix.into()),
            metric: self.metric,
        }
    }

    fn way(&self) -> Way {
        Way { iface: self.iface.to_owned(), gateway: self.next_hop.into() }
    }

    /// The same route by another way.
    fn by<'w>(&self, way: &'w Way) -> Option<Ipv6Route<'w>>
    where
        't: 'w,
    {
        let IpAddr::V6(next_hop) = way.gateway else { return None };
        let flags = with_gateway(self.flags, !next_hop.is_unspecified());
        Some(Ipv6Route { iface: &way.iface, next_hop, flags, ..self.clone() })
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
            refcnt: hex(next()?)?,
            used: hex(next()?)?,
            flags: hex(next()?)?,
            iface: next()?,
            version: 6,
        })
    }
}

fn with_gateway(flags: u32, has_gateway: bool) -> u32 {
    let gateway = u32::from(RTF_GATEWAY);
    if has_gateway { flags | gateway } else { flags & !gateway }
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
