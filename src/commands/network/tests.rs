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
const IPV6_DUMP: &[u8] = include_bytes!("../../../tests/fixtures/network/ipv6_routes.bin");
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
    let list = json(&routes(&tables.host(), patterns(&["lo", "tu[mn]0"]), args::Empty {}).expect("a list"));
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

fn route_list(ipv4: Option<&str>, ipv6: Option<&str>) -> Result<Value> {
    routes(&with_tables(ipv4, ipv6).host(), Patterns::default(), args::Empty {}).map(|list| json(&list))
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

/// A table that is too long to be read as text, of which nothing but the length matters.
fn long_table() -> String {
    "0\n".repeat(10_000)
}

/// All that the dump has is the same as in the text; what it has not is left out.
#[test]
fn a_long_ipv6_table_is_dumped() {
    let machine = with_tables(None, Some(&long_table()));
    machine.kernel.route(|request| Ok(vec![if request[4] == RTM_GETLINK { LINKS.into() } else { IPV6_DUMP.into() }]));
    let mut expected = route_list(None, Some(IPV6)).expect("a list");
    let expected = expected.as_array_mut().expect("a list");
    expected.retain(|route| route["metric"] != u32::MAX);
    for route in expected.iter_mut() {
        route.as_object_mut().expect("a route").remove("refcnt");
    }
    let routes = json(&routes(&machine.host(), Patterns::default(), args::Empty {}).expect("a list"));
    assert_eq!(routes.as_array(), Some(&*expected));
}

#[test]
fn a_long_ipv6_table_is_read_where_no_dump_can_be_had() {
    let line = IPV6.lines().next().expect("a line");
    let table = format!("{line}\n").repeat(500);
    assert_eq!(route_list(None, Some(&table)).expect("a list").as_array().map(Vec::len), Some(500));
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
    fn damaged_dumps_of_routes_are_read_as_far_as_they_go(
        at in 0..IPV6_DUMP.len(), byte: u8, end in 0..=IPV6_DUMP.len(),
    ) {
        let machine = with_tables(None, Some(&long_table()));
        let mut dump = IPV6_DUMP.to_vec();
        dump[at] = byte;
        dump.truncate(end);
        machine.kernel.route(move |request| Ok(vec![if request[4] == RTM_GETLINK { LINKS.into() } else { dump.clone() }]));
        let _ = routes(&machine.host(), Patterns::default(), args::Empty {}).map(|routes| json(&routes));
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
        let answered = routes(&machine.host(), Patterns::default(), args::Empty {}).map(|routes| json(&routes)).is_ok();
        prop_assert!(answered);
    }

    #[test]
    fn cut_tables_keep_the_lines_before_the_cut(end in 0..IPV6.len()) {
        let list = route_list(None, Some(&IPV6[..end])).expect("a list");
        let whole = IPV6[..end].matches('\n').count();
        prop_assert!(list.as_array().expect("a list").len() >= whole);
    }
}
