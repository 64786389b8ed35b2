//! Links, addresses and routes, held against what `ip` says in the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::harness::guest::Guest;
use crate::harness::{SOON, until};
use crate::{by_hand, shared};

const NONE: &Value = &Value::Null;

/// A network card, a dummy with many addresses, one of them labelled, a VLAN on it, a bridge, a link
/// without any address, and routes of all sorts. No address comes by itself, at its own time.
const MAKE: &str = "set -ex; modprobe -a virtio_net dummy 8021q bridge; udevadm settle
    ip link add d0 address 02:00:00:00:00:d0 type dummy; ip link set d0 addrgenmode none up
    ip addr add 192.0.2.1/24 dev d0; ip addr add 192.0.2.2/32 dev d0; ip addr add 198.51.100.1/25 dev d0
    ip addr add 192.0.2.3/24 dev d0 label d0:1; ip addr add 192.0.2.4/24 dev d0 label d0:1
    ip addr add 2001:db8::1/64 dev d0 nodad; ip addr add 2001:db8:1::2/128 dev d0 nodad
    ip addr add fe80::1/64 dev d0 nodad; ip addr add 10.0.0.1 peer 10.0.0.2/32 dev d0
    ip link add link d0 name d0.5 type vlan id 5; ip link set d0.5 addrgenmode none up
    ip addr add 203.0.113.5/28 dev d0.5; ip addr add fe80::1/64 dev d0.5 nodad
    ip link add br0 type bridge; ip link add d1 type dummy; ip link set d1 addrgenmode none master br0
    ip link set br0 addrgenmode none up; ip link set d1 up; ip addr add 10.1.0.1/16 dev br0
    ip link add bare type dummy; modprobe -a tun wireguard ipip ip6_tunnel; ip tuntap add tun9 mode tun
    ip link add wg9 type wireguard; ip link set wg9 addrgenmode none up; ip addr add 10.3.0.1/24 dev wg9
    ip link add ipip9 type ipip local 192.0.2.1 remote 192.0.2.77
    ip link add six9 type ip6tnl local 2001:db8::1 remote 2001:db8::77
    ip route add default via 192.0.2.254 dev d0 metric 100
    ip route add 10.9.0.0/16 via 192.0.2.253 dev d0 advmss 1400 metric 4294967295
    ip route add 10.8.0.0/16 nexthop via 192.0.2.252 dev d0 nexthop via 203.0.113.6 dev d0.5
    ip route add unreachable 10.7.0.0/16 metric 7; ip route add blackhole 10.6.0.0/16
    ip -6 route add default via 2001:db8::fe dev d0 metric 5; ip -6 route add unreachable 2001:db8:7::/48 metric 4242
    ip -6 route add 2001:db8:9::/48 nexthop via 2001:db8::fd dev d0 nexthop via 2001:db8::fc dev d0
    ip nexthop add id 1 via 192.0.2.251 dev d0; ip nexthop add id 2 via 203.0.113.7 dev d0.5
    ip nexthop add id 3 group 1/2; ip route add 10.5.0.0/16 nhid 3
    ip nexthop add id 4 via 2001:db8::fb dev d0; ip nexthop add id 5 via fe80::5 dev d0.5
    ip nexthop add id 6 group 4/5; ip -6 route add 2001:db8:5::/48 nhid 6
    for i in $(seq 400); do echo route add 2001:db8:a:$i::/64 via 2001:db8::f1 dev d0; done | ip -6 -batch -
    for i in 1 2 3; do bash -c 'echo hello >/dev/udp/192.0.2.9/9'; done";

const UNMAKE: &str = "ip nexthop flush; ip link del d0; ip link del br0; ip link del d1; ip link del bare
    for link in tun9 wg9 ipip9 six9; do ip link del $link; done; modprobe -r ipip ip6_tunnel wireguard; ip route flush root 10.0.0.0/8
    ip -6 route del unreachable 2001:db8:7::/48; modprobe -r virtio_net; true";

fn ip(guest: &mut Guest, arguments: &str) -> Vec<Value> {
    let text = guest.shell.ok(&format!("ip -j {arguments}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("ip {arguments}: {error}: {text}"))
}

/// What SIOCGIFHWADDR makes of a hardware address of any length.
fn six_bytes(address: &str) -> String {
    let bytes = address.split(':').filter(|byte| !byte.is_empty()).chain(["00"; 6]);
    bytes.take(6).collect::<Vec<_>>().join(":")
}

/// What the agent must say about the links.
fn expected(guest: &mut Guest) -> BTreeMap<String, Value> {
    let mut interfaces = BTreeMap::new();
    for link in ip(guest, "-s addr") {
        let name = link["ifname"].as_str().expect("a name").to_owned();
        let stats = &link["stats64"];
        let (rx, tx) = (&stats["rx"], &stats["tx"]);
        let statistics = json!({
            "rx-bytes": rx["bytes"], "rx-packets": rx["packets"], "rx-errs": rx["errors"], "rx-dropped": rx["dropped"],
            "tx-bytes": tx["bytes"], "tx-packets": tx["packets"], "tx-errs": tx["errors"], "tx-dropped": tx["dropped"],
        });
        let mac = six_bytes(guest.shell.ok(&format!("cat /sys/class/net/{name}/address")).trim());
        interfaces.insert(name.clone(), json!({"name": name, "hardware-address": mac, "statistics": statistics}));
        for address in link["addr_info"].as_array().into_iter().flatten().filter(|address| address["local"].is_string())
        {
            let kind = if address["family"] == "inet" { "ipv4" } else { "ipv6" };
            let label = address["label"].as_str().unwrap_or(&name).to_owned();
            // A label of its own: without the counters, which are the link's.
            let entry =
                interfaces.entry(label).or_insert_with_key(|label| json!({"name": label, "hardware-address": mac}));
            if entry.get("ip-addresses").is_none() {
                entry["ip-addresses"] = json!([]);
            }
            let address =
                json!({"ip-address": address["local"], "ip-address-type": kind, "prefix": address["prefixlen"]});
            entry["ip-addresses"].as_array_mut().expect("a list").push(address);
        }
    }
    interfaces
}

#[test]
fn interfaces_are_what_ip_says() {
    if shared::known_of_stock("has no counters for links without addresses") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    guest.shell.ok(MAKE);
    let before = expected(&mut guest);
    let list = agent.get("guest-network-get-interfaces", NONE);
    let after = expected(&mut guest);
    let found: BTreeMap<String, Value> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|interface| (interface["name"].as_str().expect("a name").to_owned(), interface.clone()))
        .collect();
    assert!(found.keys().eq(after.keys()), "{:?} and not {:?}", found.keys(), after.keys());
    for (name, interface) in &found {
        // Multicast may go out at any time.
        let expected = [&before[name], &after[name]];
        assert!(expected.contains(&interface), "{interface} and not {expected:?}");
    }
    // What this is about is there.
    assert_eq!(
        found["d0"]["ip-addresses"]
            .as_array()
            .map(|list| list.iter().filter(|a| a["ip-address-type"] == "ipv4").count()),
        Some(4)
    );
    assert_eq!(found["d0:1"]["ip-addresses"].as_array().map(Vec::len), Some(2));
    assert!(found["d0"]["statistics"]["tx-packets"].as_u64().is_some_and(|count| count >= 3), "{}", found["d0"]);
    assert!(found["bare"].get("ip-addresses").is_none() && found["bare"]["statistics"].is_object());
    for bare in ["lo", "tun9", "wg9"] {
        assert_eq!(found[bare]["hardware-address"], "00:00:00:00:00:00", "{bare}");
    }
    assert_eq!(found["ipip9"]["hardware-address"], "c0:00:02:01:00:00");
    assert_eq!(found["six9"]["hardware-address"], "20:01:0d:b8:00:00");
    assert!(found.values().any(|interface| interface["hardware-address"] == "52:54:00:12:34:56"), "the card: {list}");
    // Links come in the kernel's order, labels behind them.
    let order: Vec<&Value> = list.as_array().expect("a list").iter().map(|interface| &interface["name"]).collect();
    let links: Vec<Value> = ip(&mut guest, "link").iter().map(|link| link["ifname"].clone()).collect();
    assert!(order[..links.len()].iter().copied().eq(&links), "{order:?}");

    check_routes(&mut guest, &agent.get("guest-network-get-route", NONE));
    guest.shell.ok(UNMAKE);
}

/// A node with containers: what the operator hides the host does not see, from the next reload on.
#[test]
fn interfaces_that_the_operator_hides() {
    if shared::known_of_stock("hides nothing") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    guest.shell.ok("set -e; modprobe -a veth bridge; for i in $(seq 20); do
        ip link add veth$i type veth peer name cali$i; ip link set veth$i up; ip link set cali$i up
        ip route add 10.42.0.$i dev cali$i; done; ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0
        printf '[network]\\nhide=veth*,cali?,cali1[0-9],docker*\\n' >/run/hide.conf");
    by_hand::start(&mut guest, "-c /run/hide.conf");
    let mut agent = guest.agent();
    agent.sync(SOON);
    let names = |list: &Value, member: &str| -> BTreeSet<String> {
        let list = list.as_array().expect("a list");
        list.iter().map(|entry| entry[member].as_str().expect("a name").to_owned()).collect()
    };
    let links: BTreeSet<String> =
        ip(&mut guest, "link").iter().map(|link| link["ifname"].as_str().expect("a name").to_owned()).collect();
    let is_hidden = |name: &&String| {
        name.starts_with("veth") || name.starts_with("docker") || name.starts_with("cali") && *name != "cali20"
    };
    let shown: BTreeSet<String> = links.iter().filter(|name| !is_hidden(name)).cloned().collect();
    assert!(shown.contains("lo") && shown.contains("cali20"), "{shown:?}");
    assert_eq!(names(&agent.get("guest-network-get-interfaces", NONE), "name"), shown);
    let routed = names(&agent.get("guest-network-get-route", NONE), "iface");
    assert!(routed.contains("cali20") && !routed.iter().any(|name| is_hidden(&name)), "{routed:?}");

    guest.shell.ok("printf '[network]\\nhide=docker0\\n' >/run/hide.conf; kill -HUP $(cat /run/hand.pid)");
    until("the settings are read again", SOON, || {
        let found = names(&agent.get("guest-network-get-interfaces", NONE), "name");
        (found.len() + 1 == links.len() && !found.contains("docker0")).then_some(())
    });
    let routed = names(&agent.get("guest-network-get-route", NONE), "iface");
    assert!(routed.contains("cali1") && !routed.contains("docker0"), "{routed:?}");
    by_hand::stop(&mut guest);
    guest.shell.ok("for i in $(seq 20); do ip link del veth$i; done; ip link del docker0; rm /run/hide.conf");
}

/// Destination, prefix, gateway, link, metric.
type Route = (String, u32, String, String, u64);

fn split(destination: &str, whole: u32, any: &str) -> (String, u32) {
    match destination.split_once('/') {
        _ if destination == "default" => (any.to_owned(), 0),
        Some((network, prefix)) => (network.to_owned(), prefix.parse().expect("a length")),
        None => (destination.to_owned(), whole),
    }
}

/// The routes as `ip` says them, each with all its ways.
fn ways(routes: &[Value], whole: u32, any: &str, nowhere: &str) -> Vec<Route> {
    let mut ways = Vec::new();
    for route in routes {
        let (network, prefix) = split(route["dst"].as_str().expect("a destination"), whole, any);
        let metric = route["metric"].as_u64().unwrap_or(0);
        let refuses = matches!(route["type"].as_str(), Some("unreachable" | "blackhole"));
        let single = [route.clone()];
        for hop in route["nexthops"].as_array().map_or(&single[..], Vec::as_slice) {
            let gateway = hop["gateway"].as_str().unwrap_or(any).to_owned();
            let link = if refuses { nowhere } else { hop["dev"].as_str().expect("a link") };
            ways.push((network.clone(), prefix, gateway, link.to_owned(), metric));
        }
    }
    ways.sort();
    ways
}

fn check_routes(guest: &mut Guest, list: &Value) {
    let text = |route: &Value, member: &str| route[member].as_str().unwrap_or_default().to_owned();
    let routes =
        |version: u32| list.as_array().expect("a list").iter().filter(move |route| route["version"] == version);
    let mut found: Vec<Route> = routes(4)
        .map(|route| {
            let mask: Ipv4Addr = text(route, "mask").parse().expect("a mask");
            let metric = route["metric"].as_u64().expect("a metric");
            (
                text(route, "destination"),
                u32::from(mask).leading_ones(),
                text(route, "gateway"),
                text(route, "iface"),
                metric,
            )
        })
        .collect();
    found.sort();
    // /proc/net/route and upstream have the first way only.
    assert_eq!(found, ways(&ip(guest, "-4 route show table main"), 32, "0.0.0.0", "*"));
    assert_eq!(found.iter().filter(|route| route.0 == "10.8.0.0" || route.0 == "10.5.0.0").count(), 4);
    // What the file calls MTU is made of the segment size.
    let mtu = routes(4).find(|route| route["destination"] == "10.9.0.0").expect("listed");
    assert_eq!(mtu["mtu"], 1400 + 40, "{mtu}");

    let mut found: Vec<Route> = routes(6)
        .map(|route| {
            let prefix = text(route, "desprefixlen").parse().expect("a length as text");
            let metric = route["metric"].as_u64().expect("a metric");
            (text(route, "destination"), prefix, text(route, "nexthop"), text(route, "iface"), metric)
        })
        // The kernel's own: what it refuses by default, and multicast.
        .filter(|route| !(route.0.starts_with("ff") || route.3 == "lo" && route.4 == 0xFFFF_FFFF))
        .collect();
    found.sort();
    let mut expected = ip(guest, "-6 route show table main");
    expected.extend(ip(guest, "-6 route show table local type local"));
    expected.extend(ip(guest, "-6 route show table local type anycast"));
    assert_eq!(found, ways(&expected, 128, &Ipv6Addr::UNSPECIFIED.to_string(), "lo"));
    assert_eq!(found.iter().filter(|route| route.0 == "2001:db8:5::").count(), 2, "the ways of a group");

    // Hundreds of them have all that the table has, in its order.
    let table = guest.shell.ok("cat /proc/net/ipv6_route");
    let rows: Vec<[u32; 5]> = table
        .lines()
        .map(|line| {
            let hex = |at: usize| {
                let word = line.split_ascii_whitespace().nth(at).expect("a column");
                u32::from_str_radix(word, 16).expect("a number")
            };
            [hex(1), hex(5), hex(6), hex(7), hex(8)]
        })
        .collect();
    assert!(rows.len() > 400, "{table}");
    let number = |route: &Value, member: &str| {
        let value = route[member].as_u64().unwrap_or_else(|| panic!("{member} of {route}"));
        u32::try_from(value).expect("32 bits")
    };
    let mut ours: Vec<[u32; 5]> = routes(6)
        .filter(|route| route["destination"] != "2001:db8:5::" || route["iface"] == "d0")
        .map(|route| {
            let prefix = text(route, "desprefixlen").parse().expect("a length as text");
            [prefix, number(route, "metric"), number(route, "refcnt"), number(route, "use"), number(route, "flags")]
        })
        .collect();
    assert_eq!(ours.len(), rows.len());
    // References come and go with packets.
    for (ours, row) in ours.iter_mut().zip(&rows).filter(|(ours, row)| ours[2] != row[2]) {
        ours[2] = row[2];
    }
    assert_eq!(ours, rows);
}
