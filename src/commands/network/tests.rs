use std::io;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::host::fixture::Machine;
use crate::protocol::reply;

/// The dumps and tables of a guest with a veth pair, a bridge, a tun and a tap, recorded on
/// little-endian Linux 6.18, and what upstream would answer but for the differences that we want.
const LINKS: &[u8] = include_bytes!("../../../tests/fixtures/network/links.bin");
const ADDRESSES: &[u8] = include_bytes!("../../../tests/fixtures/network/addresses.bin");
const IPV4: &str = include_str!("../../../tests/fixtures/network/route");
const IPV6: &str = include_str!("../../../tests/fixtures/network/ipv6_route");
const INTERFACES_REPLY: &str = include_str!("../../../tests/fixtures/network/interfaces.json");
const ROUTES_REPLY: &str = include_str!("../../../tests/fixtures/network/routes.json");

const RTM_GETLINK: u8 = 18;
const NLM_F_DUMP_INTR: u8 = 16;

fn json(value: &impl Serialize) -> Value {
    let mut text = Vec::new();
    reply::value(&mut text, value);
    serde_json::from_slice(&text).expect("JSON")
}

fn golden(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// A machine whose route socket answers with these dumps.
fn machine(links: &[u8], addresses: &[u8]) -> Machine {
    let machine = Machine::new("");
    let (links, addresses) = (links.to_vec(), addresses.to_vec());
    machine
        .kernel
        .route(move |request| Ok(vec![if request[4] == RTM_GETLINK { links.clone() } else { addresses.clone() }]));
    machine
}

fn listed(machine: &Machine) -> Vec<Interface> {
    interfaces(&machine.host(), &Patterns::default(), args::Empty {}).expect("a list")
}

fn named<'a>(list: &'a [Interface], name: &str) -> &'a Interface {
    list.iter().find(|interface| interface.name == name).expect("an interface")
}

#[test]
fn interfaces_are_listed_as_recorded() {
    assert_eq!(json(&listed(&machine(LINKS, ADDRESSES))), golden(INTERFACES_REPLY));
}

#[test]
fn every_link_has_counters_with_or_without_an_address() {
    let list = listed(&machine(LINKS, ADDRESSES));
    assert!(named(&list, "tap0").ip_addresses.is_empty());
    assert!(named(&list, "tap0").statistics.is_some());
    assert!(list.iter().all(|interface| interface.statistics.is_none() == interface.name.contains(':')));
}

#[test]
fn a_link_without_a_hardware_address_has_zeros() {
    let list = listed(&machine(LINKS, ADDRESSES));
    assert_eq!(named(&list, "lo").hardware_address, [0; 6]);
    assert_eq!(json(&named(&list, "tun0"))["hardware-address"], "00:00:00:00:00:00");
}

/// One link, with an address of any length.
fn link_dump(name: &str, address: &[u8]) -> Vec<u8> {
    let mut payload = [vec![0; 4], 7_u32.to_ne_bytes().to_vec(), vec![0; 8]].concat();
    for (kind, value) in [(nix::libc::IFLA_IFNAME, name.as_bytes()), (nix::libc::IFLA_ADDRESS, address)] {
        if kind == nix::libc::IFLA_ADDRESS && value.is_empty() {
            continue;
        }
        payload.extend(u16::try_from(value.len() + 4).expect("short").to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(value);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(payload.len() + 16).expect("short");
    [&length.to_ne_bytes()[..], &16_u16.to_ne_bytes(), &[0; 10], &payload].concat()
}

/// InfiniBand has 20 bytes, an IPv6 tunnel 16, an IPv4 tunnel 4.
#[test]
fn of_a_long_hardware_address_the_first_six_bytes_are_told() {
    let bytes: Vec<u8> = (0x80..0xa0).collect();
    for (length, expected) in [
        (20, "80:81:82:83:84:85"),
        (16, "80:81:82:83:84:85"),
        (8, "80:81:82:83:84:85"),
        (6, "80:81:82:83:84:85"),
        (4, "80:81:82:83:00:00"),
        (1, "80:00:00:00:00:00"),
        (0, "00:00:00:00:00:00"),
    ] {
        let list = json(&listed(&machine(&link_dump("ib0", &bytes[..length]), &[])));
        assert_eq!(list[0]["hardware-address"], expected, "{length} bytes");
    }
}

/// For a link that has two ends, the address is the one of our end.
#[test]
fn the_address_of_a_tunnel_is_our_own() {
    let list = listed(&machine(LINKS, ADDRESSES));
    let addresses: Vec<String> = named(&list, "tun0").ip_addresses.iter().map(|a| a.ip_address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "2001:db8:1::1"]);
}

/// As `[network] hide` has them.
fn patterns(hide: &[&str]) -> Patterns {
    Patterns::new(&hide.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
}

#[test]
fn hidden_interfaces_are_not_listed_nor_are_their_labels_and_routes() {
    let machine = machine(LINKS, ADDRESSES);
    let all: Vec<String> = listed(&machine).into_iter().map(|interface| interface.name).collect();
    for hide in [&["veth*", "br?"][..], &["lo"], &["lo:*"], &["*"], &["nothing*"]] {
        let list = interfaces(&machine.host(), &patterns(hide), args::Empty {}).expect("a list");
        let names: Vec<String> = list.into_iter().map(|interface| interface.name).collect();
        // What is hidden here has no name that needs a pattern of more than a star or two.
        let gone = |name: &str| match hide {
            ["veth*", _] => name.starts_with("veth") || name.starts_with("br"),
            ["lo"] => name.starts_with("lo"),
            ["lo:*"] => name.starts_with("lo:"),
            ["*"] => true,
            _ => false,
        };
        assert!(names.iter().eq(all.iter().filter(|name| !gone(name))), "{hide:?}: {names:?} of {all:?}");
    }
    let tables = with_tables(Some(IPV4), Some(IPV6));
    let list = routes_of(&tables, patterns(&["lo", "tu[mn]0"])).expect("a list");
    let mut expected = golden(ROUTES_REPLY);
    expected.as_array_mut().expect("a list").retain(|route| route["iface"] != "lo" && route["iface"] != "tun0");
    assert_eq!(list, expected);
    assert!(list.as_array().is_some_and(|list| !list.is_empty()), "others are left");
}

/// Messages may come one by one as well as many in a datagram.
#[test]
fn the_size_of_datagrams_does_not_matter() {
    let machine = Machine::new("");
    machine.kernel.route(|request| {
        let mut rest = if request[4] == RTM_GETLINK { LINKS } else { ADDRESSES };
        let mut datagrams = Vec::new();
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
            let (message, more) = rest.split_at(usize::try_from(length).expect("small").next_multiple_of(4));
            datagrams.push(message.to_vec());
            rest = more;
        }
        Ok(datagrams)
    });
    assert_eq!(json(&listed(&machine)), golden(INTERFACES_REPLY));
}

#[test]
fn a_guest_without_addresses_has_links() {
    let done = [20_u32.to_ne_bytes(), [3, 0, 2, 0], [0; 4], [0; 4], [0; 4]].concat();
    let list = listed(&machine(LINKS, &done));
    assert_eq!(list.len(), 6);
    assert!(list.iter().all(|interface| interface.ip_addresses.is_empty()));
}

#[test]
fn an_address_without_its_link_is_left_out() {
    let done = [20_u32.to_ne_bytes(), [3, 0, 2, 0], [0; 4], [0; 4], [0; 4]].concat();
    assert!(listed(&machine(&done, ADDRESSES)).is_empty());
}

/// The kernel marks messages of a dump during which something changed.
fn interrupted(dump: &[u8]) -> Vec<u8> {
    let mut dump = dump.to_vec();
    dump[6] |= NLM_F_DUMP_INTR;
    dump
}

#[test]
fn an_interrupted_dump_is_taken_again() {
    let machine = Machine::new("");
    let mut dumps = 0;
    machine.kernel.route(move |request| {
        dumps += 1;
        let dump = if request[4] == RTM_GETLINK { LINKS } else { ADDRESSES };
        Ok(vec![if dumps < 6 { interrupted(&dump[..dump.len() / 2]) } else { dump.to_vec() }])
    });
    assert_eq!(json(&listed(&machine)), golden(INTERFACES_REPLY));
}

#[test]
fn a_guest_that_changes_all_the_time_still_answers() {
    let machine = machine(&interrupted(LINKS), &interrupted(ADDRESSES));
    assert_eq!(json(&listed(&machine)), golden(INTERFACES_REPLY));
}

#[test]
fn what_the_kernel_refuses_is_an_error() {
    let refused =
        [36_u32.to_ne_bytes(), [2, 0, 0, 0], [0; 4], [0; 4], (-1_i32).to_ne_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]];
    let error = interfaces(&machine(&refused.concat(), ADDRESSES).host(), &Patterns::default(), args::Empty {})
        .expect_err("refused");
    assert_eq!(error.desc, "failed to list network interfaces: Operation not permitted");
}

#[test]
fn no_socket_is_an_error() {
    let machine = Machine::new("");
    machine.kernel.route(|_| Err(io::Error::from_raw_os_error(nix::libc::EAFNOSUPPORT)));
    let error = interfaces(&machine.host(), &Patterns::default(), args::Empty {}).expect_err("refused");
    assert_eq!(error.desc, "failed to list network interfaces: Address family not supported by protocol");
}

/// Against the running kernel, through the real socket.
#[test]
fn this_machine_has_a_loopback() {
    let list = interfaces(&Host::real(), &Patterns::default(), args::Empty {}).expect("a list");
    assert_eq!(named(&list, "lo").hardware_address, [0; 6]);
    assert!(named(&list, "lo").statistics.is_some());
}

fn with_tables(ipv4: Option<&str>, ipv6: Option<&str>) -> Machine {
    let machine = Machine::new("/proc/net/");
    for (path, table) in [(route::IPV4, ipv4), (route::IPV6, ipv6)] {
        if let Some(table) = table {
            machine.file(path, table);
        }
    }
    machine
}

/// The reply, put together from its pieces.
fn routes_of(machine: &Machine, hidden: Patterns) -> Result<Value> {
    let mut routes = routes(&machine.host(), hidden, args::Empty {})?;
    let mut text = Vec::new();
    while routes.next(&mut text) {}
    Ok(serde_json::from_slice(&text).expect("JSON"))
}

fn route_list(ipv4: Option<&str>, ipv6: Option<&str>) -> Result<Value> {
    routes_of(&with_tables(ipv4, ipv6), Patterns::default())
}

#[test]
fn routes_are_listed_as_recorded() {
    assert_eq!(route_list(Some(IPV4), Some(IPV6)), Ok(golden(ROUTES_REPLY)));
}

#[test]
fn a_kernel_without_one_family_has_the_routes_of_the_other() {
    let version = |list: Result<Value>| {
        let list = list.expect("a list");
        let mut versions: Vec<_> = list.as_array().expect("a list").iter().map(|r| r["version"].clone()).collect();
        versions.dedup();
        versions
    };
    assert_eq!(version(route_list(Some(IPV4), None)), [4]);
    assert_eq!(version(route_list(None, Some(IPV6))), [6]);
}

#[test]
fn no_table_at_all_is_an_error() {
    let error = route_list(None, None).expect_err("no tables");
    assert_eq!(error.desc, "open(\"/proc/net/route\"): No such file or directory");
}

#[test]
fn no_routes_are_an_empty_list() {
    assert_eq!(route_list(Some("Iface\tDestination\n"), Some("")), Ok(golden("[]")));
}

/// Upstream extends the sign of flags with bit 31, and prints the largest metric as -1.
#[test]
fn flags_and_metrics_are_unsigned() {
    let line = "00000000000000000000000000000001 80 00000000000000000000000000000000 00 \
                00000000000000000000000000000000 ffffffff 00000002 00000000 80200001       lo\n";
    let list = route_list(None, Some(line)).expect("a list");
    assert_eq!(list[0]["flags"], 0x8020_0001_u32);
    assert_eq!(list[0]["metric"], u32::MAX);
    let line = "Iface\neth0\t00000000\t010200C0\t0003\t0\t0\t-1\t00000000\t0\t0\t0\n";
    assert_eq!(route_list(Some(line), None).expect("a list")[0]["metric"], u32::MAX);
}

#[test]
fn a_line_that_makes_no_sense_is_left_out() {
    let garbage = format!("{IPV4}eth0 zz\n\n{}", IPV4.lines().last().expect("a line"));
    let list = route_list(Some(&garbage), None).expect("a list");
    assert_eq!(list.as_array().expect("a list").len(), IPV4.lines().count());
}

/// All members of all of them, although a dump would be had at a fraction of the cost.
#[test]
fn ipv6_routes_by_the_hundred_have_all_their_members() {
    let one = route_list(None, Some(IPV6)).expect("a list");
    for times in [4, 40, 400] {
        let machine = with_tables(None, Some(&IPV6.repeat(times)));
        machine.kernel.route(|_| Ok(vec![DONE.to_vec()]));
        let list = routes_of(&machine, Patterns::default()).expect("a list");
        let list = list.as_array().expect("a list");
        let each: Vec<&Value> = std::iter::repeat_n(one.as_array().expect("a list"), times).flatten().collect();
        assert!(list.iter().eq(each), "{times} times");
        assert!(list.iter().any(|route| route["destination"] == "::" && route["iface"] == "lo"));
    }
}

/// More than any other file of `/proc` may have; and the pieces stay small.
#[test]
fn no_number_of_routes_is_too_large() {
    const COUNT: usize = 130_000;
    let line = IPV6.lines().next().expect("a line");
    let machine = with_tables(None, Some(&format!("{line}\n").repeat(COUNT)));
    let mut routes = routes(&machine.host(), Patterns::default(), args::Empty {}).expect("a list");
    let (mut found, mut more) = (0, true);
    while more {
        let mut piece = Vec::new();
        more = routes.next(&mut piece);
        assert!(piece.len() < PIECE + 1024, "{}", piece.len());
        found += memchr::memmem::find_iter(&piece, b"\"refcnt\"").count();
    }
    assert_eq!(found, COUNT);
}

#[test]
fn a_list_that_is_cut_is_a_list() {
    let machine = with_tables(None, Some(&IPV6.repeat(400)));
    let mut routes = routes(&machine.host(), Patterns::default(), args::Empty {}).expect("a list");
    let mut text = Vec::new();
    assert!(routes.next(&mut text));
    routes.cut(&mut text);
    assert!(serde_json::from_slice::<Vec<Value>>(&text).is_ok_and(|list| list.len() > 100));
}

/// The end of a dump.
const DONE: &[u8] = &[20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u8 = 26;
const RTM_GETNEXTHOP: u8 = 106;
const AF_INET: u8 = 2;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("short");
    let mut attribute = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 16).expect("short");
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat()
}

fn octets(ip: &str) -> Vec<u8> {
    match ip.parse().expect("an address") {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `RTM_NEWROUTE` of a route in the main table with these ways, by number of the link and gateway.
fn several(to: &str, bits: u8, metric: u32, by_object: bool, ways: &[(u32, &str)]) -> Vec<u8> {
    let family = if to.contains(':') { 10 } else { AF_INET };
    let mut payload = vec![family, bits, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    payload.extend(attribute(nix::libc::RTA_DST, &octets(to)));
    payload.extend(attribute(nix::libc::RTA_PRIORITY, &metric.to_ne_bytes()));
    if by_object {
        payload.extend(attribute(30, &7_u32.to_ne_bytes()));
    }
    let mut list = Vec::new();
    for (link, gateway) in ways {
        let gateway = attribute(nix::libc::RTA_GATEWAY, &octets(gateway));
        list.extend(u16::try_from(gateway.len() + 8).expect("short").to_ne_bytes());
        list.extend([0, 0]);
        list.extend(link.to_ne_bytes());
        list.extend(gateway);
    }
    payload.extend(attribute(nix::libc::RTA_MULTIPATH, &list));
    message(RTM_NEWROUTE, &payload)
}

/// Links 2 and 3 of the recorded machine are veth1 and veth0.
fn with_ways(machine: &Machine, ipv4: &[Vec<u8>], ipv6: &[Vec<u8>], has_groups: bool) {
    let (ipv4, ipv6) = (ipv4.concat(), ipv6.concat());
    machine.kernel.route(move |request| {
        let answer = match (request[4], request[16]) {
            (RTM_GETLINK, _) => return Ok(vec![LINKS.to_vec()]),
            (RTM_GETROUTE, AF_INET) => ipv4.clone(),
            (RTM_GETROUTE, _) => ipv6.clone(),
            (RTM_GETNEXTHOP, _) if has_groups => message(104, &[&[0; 8][..], &attribute(2, &[0; 16])].concat()),
            _ => Vec::new(),
        };
        Ok(vec![[&answer, DONE].concat()])
    });
}

const HEADING: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

/// The table shows the first way only.
#[test]
fn every_way_of_an_ipv4_multipath_route_is_listed() {
    let number = |ip: &str| format!("{:08X}", u32::from_ne_bytes(octets(ip).try_into().expect("four")));
    let line = |iface: &str, to: &str, gateway: &str, metric: u32, mask: &str, mtu: u32| {
        let (to, gateway, mask) = (number(to), number(gateway), number(mask));
        format!("{iface}\t{to}\t{gateway}\t0003\t0\t0\t{metric}\t{mask}\t{mtu}\t0\t0\n")
    };
    let table = [
        HEADING.to_owned(),
        line("veth0", "10.8.0.0", "192.0.2.1", 0, "255.255.0.0", 1440),
        line("veth0", "10.8.0.0", "192.0.2.1", 9, "255.255.0.0", 0),
        line("veth0", "10.8.0.0", "192.0.2.7", 0, "255.255.255.0", 0),
        line("veth1", "10.9.0.0", "192.0.2.1", 0, "255.255.0.0", 0),
    ]
    .concat();
    let machine = with_tables(Some(&table), None);
    let dump = [
        several("10.8.0.0", 16, 0, false, &[(3, "192.0.2.1"), (2, "192.0.2.2"), (3, "0.0.0.0")]),
        // Another metric, another mask, and one that the table does not have.
        several("10.8.0.0", 16, 9, true, &[(3, "192.0.2.1"), (2, "192.0.2.3")]),
        several("10.8.0.0", 16, 8, false, &[(3, "192.0.2.1"), (2, "192.0.2.4")]),
    ];
    with_ways(&machine, &dump, &[], false);
    let list = routes_of(&machine, Patterns::default()).expect("a list");
    let ways: Vec<_> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|route| {
            let text = |member: &str| route[member].as_str().expect("a text").to_owned();
            let number = |member: &str| route[member].as_u64().expect("a number");
            (
                text("destination"),
                text("mask"),
                text("gateway"),
                text("iface"),
                number("metric"),
                number("flags"),
                number("mtu"),
            )
        })
        .collect();
    let way = |to: &str, mask: &str, gateway: &str, iface: &str, metric, flags, mtu| {
        (to.to_owned(), mask.to_owned(), gateway.to_owned(), iface.to_owned(), metric, flags, mtu)
    };
    let expected = [
        way("10.8.0.0", "255.255.0.0", "192.0.2.1", "veth0", 0, 3, 1440),
        way("10.8.0.0", "255.255.0.0", "192.0.2.2", "veth1", 0, 3, 1440),
        way("10.8.0.0", "255.255.0.0", "0.0.0.0", "veth0", 0, 1, 1440),
        way("10.8.0.0", "255.255.0.0", "192.0.2.1", "veth0", 9, 3, 0),
        way("10.8.0.0", "255.255.0.0", "192.0.2.3", "veth1", 9, 3, 0),
        way("10.8.0.0", "255.255.255.0", "192.0.2.7", "veth0", 0, 3, 0),
        way("10.9.0.0", "255.255.0.0", "192.0.2.1", "veth1", 0, 3, 0),
    ];
    assert_eq!(ways, expected);
    let shown = routes_of(&machine, patterns(&["veth1"])).expect("a list");
    assert_eq!(shown.as_array().map(Vec::len), Some(4), "hidden ways are hidden");
}

/// By several next hops of its own, an IPv6 route is in the table several times; by a group, once.
#[test]
fn every_way_of_an_ipv6_route_by_a_group_is_listed() {
    let line = |to: &str, gateway: &str, iface: &str| {
        let hex = |ip: &str| octets(ip).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (to, gateway, nowhere) = (hex(to), hex(gateway), hex("::"));
        format!("{to} 30 {nowhere} 00 {gateway} 00000400 00000001 00000000 00000003 {iface:>8}\n")
    };
    let table = [
        line("2001:db8:5::", "2001:db8::1", "veth0"),
        line("2001:db8:6::", "2001:db8::1", "veth0"),
        line("2001:db8:6::", "2001:db8::2", "veth1"),
    ];
    let machine = with_tables(None, Some(&table.concat()));
    let ways = [(3, "2001:db8::1"), (2, "2001:db8::2")];
    let dump = [several("2001:db8:5::", 48, 1024, true, &ways), several("2001:db8:6::", 48, 1024, false, &ways)];
    for (has_groups, expected) in [(true, 4), (false, 3)] {
        with_ways(&machine, &[], &dump, has_groups);
        let list = routes_of(&machine, Patterns::default()).expect("a list");
        let list = list.as_array().expect("a list");
        assert_eq!(list.len(), expected, "{list:?}");
        let second = list.iter().filter(|route| route["nexthop"] == "2001:db8::2" && route["iface"] == "veth1");
        assert_eq!(second.count(), expected - 2);
        assert!(list.iter().all(|route| route["refcnt"] == 1 && route["metric"] == 1024 && route["flags"] == 3));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the kernel sends: no panic, and what is not damaged is still there.
    #[test]
    fn damaged_dumps_are_read_as_far_as_they_go(at in 0..LINKS.len(), byte: u8, end in 0..=LINKS.len()) {
        let mut links = LINKS.to_vec();
        links[at] = byte;
        // An error code makes the whole dump an error, which is fine, too.
        let _ = interfaces(&machine(&links[..end], ADDRESSES).host(), &Patterns::default(), args::Empty {});
        let mut addresses = ADDRESSES.to_vec();
        let (at, end) = (at % addresses.len(), end % (addresses.len() + 1));
        addresses[at] = byte;
        let _ = interfaces(&machine(LINKS, &addresses[..end]).host(), &Patterns::default(), args::Empty {});
    }

    #[test]
    fn damaged_dumps_of_routes_are_read_as_far_as_they_go(at in 0..1000_usize, byte: u8, end in 0..=1000_usize) {
        let machine = with_tables(Some(IPV4), Some(IPV6));
        let damaged = |dump: Vec<u8>| {
            let mut dump = dump.clone();
            let length = dump.len();
            dump[at % length] = byte;
            dump.truncate(end % (length + 1));
            dump
        };
        let ipv4 = damaged(several("0.0.0.0", 0, 0, false, &[(3, "192.0.2.1"), (2, "192.0.2.2")]));
        let ipv6 = damaged(several("::", 0, 1024, true, &[(3, "2001:db8::1"), (2, "2001:db8::2")]));
        with_ways(&machine, &[ipv4], &[ipv6], true);
        let count = routes_of(&machine, Patterns::default()).expect("a list").as_array().map(Vec::len);
        prop_assert!(count >= golden(ROUTES_REPLY).as_array().map(Vec::len));
    }

    #[test]
    fn noise_is_no_interface(noise in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = interfaces(&machine(&noise, &noise).host(), &Patterns::default(), args::Empty {});
    }

    #[test]
    fn noise_is_no_route(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let machine = with_tables(Some(""), None);
        machine.file(route::IPV4, &noise);
        machine.file(route::IPV6, &noise);
        prop_assert!(routes_of(&machine, Patterns::default()).is_ok());
    }

    #[test]
    fn cut_tables_keep_the_lines_before_the_cut(end in 0..IPV6.len()) {
        let list = route_list(None, Some(&IPV6[..end])).expect("a list");
        let whole = IPV6[..end].matches('\n').count();
        prop_assert!(list.as_array().expect("a list").len() >= whole);
    }
}
