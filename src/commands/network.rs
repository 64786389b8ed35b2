//! Network interfaces and routes of the agent's own name space.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;
use serde::ser::Serializer;

use super::{Command, Ctx, Stream};
use crate::host::Host;
use crate::host::linux::netlink::{self, Address, Link, Statistics};
use crate::host::linux::pattern::Patterns;
use crate::host::linux::route::{self, Route, Tables};
use crate::protocol::args;
use crate::protocol::error::{Error, Result};
use crate::protocol::reply;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-network-get-interfaces", |cx, a| cx.call(|cx, args| interfaces(cx.host, &hidden(cx), args), a)),
    Command::new("guest-network-get-route", |cx, a| cx.stream(|cx, args| routes(cx.host, hidden(cx), args), a)),
];

/// The interfaces that the operator does not want to see (`[network] hide`).
fn hidden(cx: &Ctx<'_>) -> Patterns {
    Patterns::new(&cx.agent.config().network.hide)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Interface {
    name: String,
    /// On every interface, as clients rely on it (O18).
    #[serde(serialize_with = "mac")]
    hardware_address: [u8; 6],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ip_addresses: Vec<IpAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct IpAddress {
    ip_address_type: &'static str,
    ip_address: IpAddr,
    prefix: u8,
}

/// Lists the network interfaces with their addresses and counters, in the kernel's order (O18).
///
/// An IPv4 address with a label of its own (`eth0:1`) makes an entry of that name behind the links,
/// with the address of the link and without counters, which are the link's.
///
/// With a hidden link go its labels; a label may also be hidden by itself.
fn interfaces(host: &Host, hidden: &Patterns, _: args::Empty) -> Result<Vec<Interface>> {
    let (mut links, addresses) =
        netlink::interfaces(host.kernel()).map_err(|reason| Error::os("failed to list network interfaces", &reason))?;
    links.retain(|link| !hidden.match_name(&link.name));
    let mut interfaces = merge(links, addresses);
    interfaces.retain(|interface| !hidden.match_name(&interface.name));
    Ok(interfaces)
}

fn merge(links: Vec<Link>, addresses: Vec<Address>) -> Vec<Interface> {
    let numbers: HashMap<u32, usize> = links.iter().enumerate().map(|(at, link)| (link.index, at)).collect();
    let mut interfaces: Vec<Interface> = links.into_iter().map(Interface::from).collect();
    let links = interfaces.len();
    let mut labels = HashMap::new();
    for address in addresses {
        // A link that appeared after the links were listed is complete in the next reply.
        let Some(&link) = numbers.get(&address.link) else { continue };
        let at = match address.label {
            Some(label) if label != interfaces[link].name => *labels.entry(label).or_insert_with_key(|label| {
                let same = interfaces[..links].iter().position(|interface| interface.name == *label);
                same.unwrap_or_else(|| {
                    interfaces.push(interfaces[link].labelled(label));
                    interfaces.len() - 1
                })
            }),
            _ => link,
        };
        interfaces[at].ip_addresses.push(IpAddress::new(address.ip, address.prefix));
    }
    interfaces
}

impl From<Link> for Interface {
    fn from(link: Link) -> Interface {
        Interface { name: link.name, hardware_address: link.mac, ip_addresses: Vec::new(), statistics: link.statistics }
    }
}

impl Interface {
    /// The entry for a label on this link.
    fn labelled(&self, label: &str) -> Interface {
        Interface {
            name: label.to_owned(),
            hardware_address: self.hardware_address,
            ip_addresses: Vec::new(),
            statistics: None,
        }
    }
}

impl IpAddress {
    fn new(ip_address: IpAddr, prefix: u8) -> IpAddress {
        let ip_address_type = if ip_address.is_ipv4() { "ipv4" } else { "ipv6" };
        IpAddress { ip_address_type, ip_address, prefix }
    }
}

/// Lower-case hexadecimal with colons.
fn mac<S: Serializer>(mac: &[u8; 6], out: S) -> std::result::Result<S::Ok, S::Error> {
    let [a, b, c, d, e, f] = mac;
    out.collect_str(&format_args!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
}

/// Lists the IPv4 routes of the main table and the IPv6 routes of all tables. Where the kernel has
/// only one of the families, that is the whole reply. Routes of hidden interfaces are left out: on a
/// machine with hundreds of containers each has one.
fn routes(host: &Host, hidden: Patterns, _: args::Empty) -> Result<Routes> {
    let tables = Tables::open(host).map_err(|reason| Error::os(format!("open(\"{}\")", route::IPV4), &reason))?;
    Ok(Routes { tables, hidden, before: "[" })
}

/// A router has a million of them: they are read while they are sent.
struct Routes {
    tables: Tables,
    hidden: Patterns,
    /// What stands before the next one.
    before: &'static str,
}

/// Routes are sent in pieces of about this size.
const PIECE: usize = 128 << 10;

impl Stream for Routes {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let full = out.len() + PIECE;
        let Routes { tables, hidden, before } = self;
        while out.len() < full {
            let more = tables.next(&mut |route: &Route<'_>| {
                if !hidden.match_name(route.iface()) {
                    out.extend_from_slice(before.as_bytes());
                    reply::value(out, route);
                    *before = ", ";
                }
            });
            if !more {
                self.cut(out);
                return false;
            }
        }
        true
    }

    fn cut(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.before == "[" { b"[]" } else { b"]" });
    }
}

#[cfg(test)]
mod tests;
