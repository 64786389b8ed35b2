//! Network interfaces and routes.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::Command;
use super::lenient;

/// `guest-network-get-interfaces`: lists the network interfaces with their addresses and counters, in the
/// kernel's order (O11, O18).
///
/// An IPv4 address with a label of its own (`eth0:1`) makes an entry of that name. On Linux from rtnetlink(7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetworkGetInterfaces {}

impl Command for GuestNetworkGetInterfaces {
    const NAME: &'static str = "guest-network-get-interfaces";
    const SINCE: &'static str = "1.1";
    const ERRORS: &'static [&'static str] = &["failed to list network interfaces: {reason}"];
    type Returns<'r> = Vec<NetworkInterface>;
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkInterface {
    /// Its name. On Windows users may change it.
    pub name: String,
    /// Its MAC address, as in `52:54:00:12:34:56`; missing for kinds that have none of 6 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_address: Option<MacAddress>,
    /// Its IP addresses; missing when it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<IpAddress>,
    /// Its counters. Since 2.11.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<NetworkInterfaceStat>,
}

/// A MAC address; lower-case hexadecimal with colons on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// The text is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMacAddress;

impl fmt::Display for NotMacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address")
    }
}

impl std::error::Error for NotMacAddress {}

impl FromStr for MacAddress {
    type Err = NotMacAddress;

    fn from_str(text: &str) -> Result<MacAddress, NotMacAddress> {
        let mut address = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut address {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or(NotMacAddress)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotMacAddress)?;
        }
        if parts.next().is_none() { Ok(MacAddress(address)) } else { Err(NotMacAddress) }
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<MacAddress, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = MacAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a MAC address")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MacAddress, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        from.deserialize_str(Text)
    }
}

/// An IP address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IpAddress {
    /// Which family it is of.
    pub ip_address_type: IpAddressType,
    /// The address, without a zone: QEMU's agent for Windows appends one as `%4`, which is dropped when it is
    /// read.
    #[serde(deserialize_with = "lenient::address")]
    pub ip_address: IpAddr,
    /// The length of the network's prefix in bits.
    pub prefix: u8,
}

impl IpAddress {
    /// An address with the type that it has.
    pub fn new(ip_address: IpAddr, prefix: u8) -> IpAddress {
        let ip_address_type = if ip_address.is_ipv4() { IpAddressType::Ipv4 } else { IpAddressType::Ipv6 };
        IpAddress { ip_address_type, ip_address, prefix }
    }
}

/// The families of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpAddressType {
    /// Internet Protocol, version 4.
    Ipv4,
    /// Internet Protocol, version 6.
    Ipv6,
}

/// Counters of an interface since it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkInterfaceStat {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errs: u64,
    /// Packets received and dropped.
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

/// `guest-network-get-route`: lists routes, the IPv4 ones first (O11).
///
/// On Linux these are the main table of IPv4 and all tables of IPv6, from `/proc/net/route` and
/// `/proc/net/ipv6_route`. Since 11.0 on Windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetworkGetRoute {}

impl Command for GuestNetworkGetRoute {
    const NAME: &'static str = "guest-network-get-route";
    const SINCE: &'static str = "9.1";
    const ERRORS: &'static [&'static str] = &["open(\"/proc/net/route\"): {reason}"];
    type Returns<'r> = Vec<NetworkRoute<'r>>;
}

/// A route; `version` tells the families apart, whose members differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NetworkRoute<'a> {
    /// An IPv4 route.
    Ipv4(Ipv4Route<'a>),
    /// An IPv6 route.
    Ipv6(Ipv6Route<'a>),
}

/// An IPv4 route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Route<'a> {
    /// The interface; `*` for a route that refuses.
    pub iface: Cow<'a, str>,
    /// Where it leads.
    pub destination: Ipv4Addr,
    /// The next hop; `0.0.0.0` when the destination is on the link.
    pub gateway: Ipv4Addr,
    /// Which bits of the destination count.
    pub mask: Ipv4Addr,
    /// The lowest wins.
    #[serde(deserialize_with = "lenient::bits")]
    pub metric: u32,
    /// `RTF_` of linux/route.h. Not on Windows.
    #[serde(default, deserialize_with = "lenient::optional_bits", skip_serializing_if = "Option::is_none")]
    pub flags: Option<u32>,
    /// Always 0. Not on Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refcnt: Option<u32>,
    /// Always 0. Not on Windows.
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u32>,
    /// Bytes of a packet; 0 when the route sets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP window in bytes; 0 when the route sets none. Not on Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Initial round trip time in milliseconds; 0 when the route sets none. Not on Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irtt: Option<u32>,
    /// Always 4.
    pub version: IpVersion<4>,
}

/// An IPv6 route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Route<'a> {
    /// The interface; `lo` for a route that refuses.
    pub iface: Cow<'a, str>,
    /// Where it leads.
    #[serde(deserialize_with = "lenient::address")]
    pub destination: Ipv6Addr,
    /// Which bits of the destination count; a string of decimal digits on the wire.
    #[serde(rename = "desprefixlen")]
    pub destination_prefix: PrefixLength,
    /// Which packets take it, by their source. Not on Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Ipv6Addr>,
    /// Which bits of the source count; a string of decimal digits on the wire. Not on Windows.
    #[serde(rename = "srcprefixlen", default, skip_serializing_if = "Option::is_none")]
    pub source_prefix: Option<PrefixLength>,
    /// The next hop; `::` when the destination is on the link.
    #[serde(rename = "nexthop", deserialize_with = "lenient::address")]
    pub next_hop: Ipv6Addr,
    /// The lowest wins.
    #[serde(deserialize_with = "lenient::bits")]
    pub metric: u32,
    /// References to the route in the kernel, if known. Not on Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refcnt: Option<u32>,
    /// How often it was used; always 0 with recent kernels. Not on Windows.
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u32>,
    /// `RTF_` of linux/route.h and linux/ipv6_route.h. Not on Windows.
    #[serde(default, deserialize_with = "lenient::optional_bits", skip_serializing_if = "Option::is_none")]
    pub flags: Option<u32>,
    /// Always 6.
    pub version: IpVersion<6>,
}

/// The number `N`, and no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpVersion<const N: u8>;

impl<const N: u8> Serialize for IpVersion<N> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u8(N)
    }
}

impl<'de, const N: u8> Deserialize<'de> for IpVersion<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<IpVersion<N>, D::Error> {
        match u8::deserialize(from)? {
            version if version == N => Ok(IpVersion),
            version => Err(de::Error::invalid_value(de::Unexpected::Unsigned(version.into()), &"another version")),
        }
    }
}

/// The length of a prefix in bits, which is a string on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLength(pub u8);

impl Serialize for PrefixLength {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PrefixLength {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<PrefixLength, D::Error> {
        let digits = Cow::<str>::deserialize(from)?;
        digits.parse().map(PrefixLength).map_err(de::Error::custom)
    }
}
