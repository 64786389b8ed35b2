//! What is serialized is deserialized to the same, and the agent's golden results pass through the types unchanged.

mod support;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use qga_protocol::schema::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use support::samples::{Visit, visit_all};
use support::{members::Types, wire, words};

struct RoundTrip(BTreeSet<&'static str>);

fn round_trip<T: Serialize + Deserialize<'static> + PartialEq + Debug>(value: &T) {
    let json: &'static str = Box::leak(wire::text(value).into_boxed_str());
    let back: T = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    assert_eq!(back, *value, "{json}");
    assert_eq!(wire::text(&back), json);
}

impl Visit for RoundTrip {
    fn visit<C>(&mut self, arguments: C, returns: C::Returns<'static>)
    where
        C: Command + Deserialize<'static> + PartialEq + Debug,
        C::Returns<'static>: PartialEq + Debug,
    {
        round_trip(&arguments);
        round_trip(&returns);
        self.0.insert(C::NAME);
    }
}

#[test]
fn every_command_goes_both_ways() {
    let mut seen = RoundTrip(BTreeSet::new());
    visit_all(&mut seen);
    assert_eq!(seen.0, COMMANDS.iter().map(|command| command.name).collect(), "the samples and the list of commands");
    assert_eq!(COMMANDS.len(), 44, "a command is listed twice or missing");
}

struct Record(Types);

impl Visit for Record {
    fn visit<C>(&mut self, arguments: C, returns: C::Returns<'static>)
    where
        C: Command + Deserialize<'static> + PartialEq + Debug,
        C::Returns<'static>: PartialEq + Debug,
    {
        self.0.record(&arguments);
        self.0.record(&returns);
    }
}

/// Otherwise the types inside a member would go unseen here and in the comparison with the documentation.
#[test]
fn every_member_has_a_sample() {
    let mut seen = Record(Types::default());
    visit_all(&mut seen);
    for (name, members) in seen.0.structs {
        for member in members {
            assert!(member.kind.is_some(), "{name}: no sample has {}", member.name);
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// Reads a golden result and checks that nothing of it is lost or changed.
fn check_golden<T: Serialize + for<'de> Deserialize<'de>>(path: &Path) {
    let json = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let typed: T = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let golden: Value = serde_json::from_str(&json).expect("JSON");
    let again: Value = serde_json::from_str(&wire::text(&typed)).expect("JSON");
    assert_eq!(again, golden, "{}", path.display());
}

#[test]
fn golden_results_pass_through_the_types() {
    let mut checked = [0; 3];
    for entry in std::fs::read_dir(fixtures()).expect("fixtures") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let kind = match () {
            () if name.ends_with(".disks.json") => {
                check_golden::<Vec<DiskInfo>>(&path);
                0
            }
            () if name.ends_with(".fsinfo.json") => {
                check_golden::<Vec<FilesystemInfo>>(&path);
                1
            }
            () if name.ends_with(".diskstats.json") => {
                check_golden::<Vec<DiskStatsInfo>>(&path);
                2
            }
            () => continue,
        };
        checked[kind] += 1;
    }
    assert!(checked.iter().all(|&files| files > 2), "{checked:?} fixtures");
    check_golden::<Vec<NetworkInterface>>(&fixtures().join("network/interfaces.json"));
    check_golden::<Vec<NetworkRoute<'_>>>(&fixtures().join("network/routes.json"));
}

fn parse<'t, T: Deserialize<'t>>(json: &'t str) -> T {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn older_agents_are_understood() {
    assert_eq!(parse::<AgentInfo<'_>>(r#"{"version": "0.15.0"}"#).supported_commands, []);
    let info: AgentInfo<'_> =
        parse(r#"{"version": "1.1.0", "supported_commands": [{"name": "guest-ping", "enabled": true}]}"#);
    assert!(info.supported_commands[0].success_response);
    assert_eq!(parse::<FilesystemTrimResponse>("{}").paths, []);
    assert_eq!(parse::<OsInfo>(r#"{"id": "mswindows"}"#).kernel_release, None);
    let address = r#"{"pci-controller": {"domain": 0, "bus": 0, "slot": 4, "function": 0}, "bus-type": "virtio",
        "bus": 0, "target": 0, "unit": 0}"#;
    assert_eq!(parse::<DiskAddress>(address).serial, None);
}

#[test]
fn newer_agents_are_understood() {
    assert_eq!(parse::<HostName>(r#"{"host-name": "a", "fqdn": ["a.example"]}"#).host_name, "a");
    assert_eq!(parse::<DiskBusType>(r#""quantum""#), DiskBusType::Unknown);
    assert_eq!(parse::<DiskBusType>(r#""file-backed-virtual""#), DiskBusType::FileBackedVirtual);
    let route = r#"{"iface": "Ethernet", "destination": "fe80::%4", "desprefixlen": "64", "nexthop": "::",
        "metric": 281, "version": 6, "zone": 4}"#;
    let NetworkRoute::Ipv6(route) = parse(route) else { panic!("IPv4") };
    assert_eq!((route.destination_prefix, route.flags), (PrefixLength(64), None));
}

/// QEMU's own agent prints these so.
#[test]
fn sign_extended_numbers_and_zones_are_understood() {
    let route = r#"{"iface": "lo", "destination": "::", "desprefixlen": "0", "source": "::", "srcprefixlen": "0",
        "nexthop": "::", "metric": -1, "refcnt": 1, "use": 0, "flags": 18446744071564165121, "version": 6}"#;
    let NetworkRoute::Ipv6(route) = parse(route) else { panic!("IPv4") };
    assert_eq!((route.metric, route.flags), (u32::MAX, Some(0x8020_0001)));
    let address: IpAddress = parse(r#"{"ip-address": "fe80::1%4", "ip-address-type": "ipv6", "prefix": 64}"#);
    assert_eq!(address, IpAddress::new("fe80::1".parse().expect("address"), 64));
    for wrong in [r#""52:54:00:12:34""#, r#""52:54:00:12:34:56:78""#, r#""52:54:00:12:34:+6""#, r#""""#] {
        serde_json::from_str::<MacAddress>(wrong).expect_err(wrong);
    }
    for wrong in ["4294967296", "-2147483649"] {
        let json = format!(
            r#"{{"iface": "a", "destination": "0.0.0.0", "gateway": "0.0.0.0", "mask": "0.0.0.0",
            "metric": {wrong}, "version": 4}}"#
        );
        serde_json::from_str::<NetworkRoute<'_>>(&json).expect_err(wrong);
    }
}

#[test]
fn alternates_take_words_and_numbers() {
    use ExecCaptureOutput::{Merged, None, Separated, Stderr, Stdout};
    for (json, mode) in [("true", Separated), ("false", None), ("\"none\"", None), ("\"separated\"", Separated)] {
        assert_eq!(parse::<ExecCaptureOutput>(json), mode);
    }
    for (json, mode) in [("\"stdout\"", Stdout), ("\"stderr\"", Stderr), ("\"merged\"", Merged)] {
        assert_eq!(parse::<ExecCaptureOutput>(json), mode);
    }
    for (word, number) in [("\"set\"", "0"), ("\"cur\"", "1"), ("\"end\"", "2")] {
        assert_eq!(parse::<FileWhence>(word), parse::<FileWhence>(number));
    }
    for wrong in ["1.5", "18446744073709551615", "\"SET\"", "true", "null"] {
        serde_json::from_str::<FileWhence>(wrong).expect_err(wrong);
    }
    serde_json::from_str::<GuestFstrim>(r#"{"minimum": -1}"#).expect_err("negative");
    assert_eq!(words::of::<FileWhence>(), ["set", "cur", "end"]);
}

/// Replies of megabytes are sent while they are made: what stands before and behind the data is cut out of a reply
/// without data. Their base64 is not copied when a client reads it.
#[test]
fn data_are_borrowed_and_can_be_put_into_a_reply_piece_by_piece() {
    let empty = wire::text(&FileRead { buf_b64: "".into(), count: 3, eof: true });
    assert_eq!(empty.split("\"\"").collect::<Vec<_>>(), ["{\"buf-b64\": ", ", \"count\": 3, \"eof\": true}"]);
    let status = ExecStatus {
        exited: true,
        exit_code: Some(0),
        out_truncated: Some(false),
        out_data: Some("".into()),
        err_truncated: Some(true),
        err_data: Some("".into()),
        ..ExecStatus::default()
    };
    let parts = [
        "{\"exited\": true, \"exitcode\": 0, \"out-truncated\": false, \"out-data\": ",
        ", \"err-truncated\": true, \"err-data\": ",
        "}",
    ];
    assert_eq!(wire::text(&status).split("\"\"").collect::<Vec<_>>(), parts);

    let json = r#"{"buf-b64": "aGk=", "count": 2, "eof": false}"#;
    assert!(matches!(parse::<FileRead<'_>>(json).buf_b64, std::borrow::Cow::Borrowed("aGk=")));
}

#[test]
fn secrets_are_not_shown() {
    let exec =
        GuestExec { path: "p", arg: None, env: None, input_data: Some(Secret("aHVudGVyMg==")), capture_output: None };
    let password = GuestSetUserPassword { username: "u", password: Secret("aHVudGVyMg=="), crypted: false };
    for shown in [format!("{exec:?}"), format!("{password:?}")] {
        assert!(!shown.contains("aHVudGVyMg"), "{shown}");
    }
}

mod numbers {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// All 64 bits of every number arrive.
        #[test]
        fn keep_all_their_bits(id: i64, minimum: u64, phys_index: u64, mac: [u8; 6], metric: u32, flags: u32) {
            round_trip(&GuestSync { id });
            round_trip(&GuestFstrim { minimum: Some(minimum) });
            round_trip(&MemoryBlock { phys_index, online: true, can_offline: None });
            round_trip(&MacAddress(mac));
            let route = Ipv4Route {
                iface: "eth0".into(), destination: [0; 4].into(), gateway: [0; 4].into(), mask: [0; 4].into(), metric,
                flags: Some(flags), refcnt: None, used: None, mtu: None, window: None, irtt: None, version: IpVersion,
            };
            round_trip(&NetworkRoute::Ipv4(route));
        }

        /// Whatever text is in them, two texts of arguments stay what they are.
        #[test]
        fn texts_keep_all_their_characters(user: String, keys: Vec<String>) {
            let json = wire::text(&AuthorizedKeys { keys: keys.clone() });
            prop_assert_eq!(parse::<AuthorizedKeys>(&json).keys, keys);
            let json = wire::text(&HostName { host_name: user.clone() });
            prop_assert_eq!(parse::<HostName>(&json).host_name, user);
        }
    }
}
