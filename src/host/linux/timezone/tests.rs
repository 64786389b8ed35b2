use std::fs;

use proptest::prelude::*;

use super::*;
use crate::host::fake::FakeKernel;

const WINTER: i64 = 1_700_000_000;
const SUMMER: i64 = 1_720_000_000;
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

/// A file of version 2 with one transition, at which the second of two kinds of time begins.
fn tzif(transition: i64, before: (i32, &str), after: (i32, &str), footer: &str) -> Vec<u8> {
    let names = format!("{}\0{}\0", before.1, after.1);
    let header = |transitions: u32| {
        let mut header = b"TZif2".to_vec();
        header.extend([0; 15]);
        let names = u32::try_from(names.len()).expect("short");
        for count in [0, 0, 0, transitions, 2, names] {
            header.extend(u32::to_be_bytes(count));
        }
        header
    };
    let mut kinds = Vec::new();
    for (offset, index) in [(before.0, 0), (after.0, before.1.len() + 1)] {
        kinds.extend(offset.to_be_bytes());
        kinds.extend([0, u8::try_from(index).expect("short")]);
    }
    let mut file = [header(0), kinds.clone(), names.clone().into_bytes()].concat();
    file.extend(header(1));
    file.extend(transition.to_be_bytes());
    file.push(1);
    file.extend(kinds);
    file.extend(names.into_bytes());
    file.extend(format!("\n{footer}\n").into_bytes());
    file
}

fn machine(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    for (path, data) in files {
        let path = host.path(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
        fs::write(path, data).expect("file");
    }
    (dir, host)
}

fn at(variable: Option<&str>, files: &[(&str, Vec<u8>)], seconds: i64) -> (i32, String) {
    in_directory(None, variable, files, seconds)
}

/// An environment with this `TZ` and nothing else.
fn named(zone: &str) -> Environment {
    Environment { zone: Some(zone.into()), directory: None }
}

fn in_directory(
    directory: Option<&str>,
    variable: Option<&str>,
    files: &[(&str, Vec<u8>)],
    seconds: i64,
) -> (i32, String) {
    let (_dir, host) = machine(files);
    let environment = Environment { zone: variable.map(OsString::from), directory: directory.map(OsString::from) };
    Zone::local(&host, &environment).at(seconds)
}

fn is(offset: i32, name: &str) -> (i32, String) {
    (offset, name.to_owned())
}

#[test]
fn the_file_counts_before_and_after_its_last_transition() {
    let file = tzif(1_010_000_000, (3208, "LMT"), (3600, "CET"), BERLIN);
    let files = [(LOCALTIME, file)];
    assert_eq!(at(None, &files, 1_009_999_999), is(3208, "LMT"));
    assert_eq!(at(None, &files, WINTER), is(3600, "CET"));
    assert_eq!(at(None, &files, SUMMER), is(7200, "CEST"), "by the rule in the footer");
    assert_eq!(at(None, &files, 4_086_000_000), is(7200, "CEST"), "June 2099");
}

#[test]
fn without_a_rule_the_last_transition_goes_on() {
    let files = [(LOCALTIME, tzif(1_010_000_000, (19800, "IST"), (20700, "+0545"), ""))];
    assert_eq!(at(None, &files, WINTER), is(20700, "+0545"));
}

/// As NixOS has it, where nothing is in /usr.
#[test]
fn a_zone_of_another_directory() {
    let zone = |offset, name: &str| tzif(0, (offset, name), (offset, name), "");
    let files = [
        ("/etc/zoneinfo/Area/Name", zone(7200, "NIX")),
        ("/usr/share/zoneinfo/Area/Name", zone(3600, "USR")),
        (LOCALTIME, zone(1800, "LOC")),
    ];
    let found = |directory, variable| in_directory(directory, variable, &files, WINTER);
    for variable in ["Area/Name", ":Area/Name"] {
        assert_eq!(found(Some("/etc/zoneinfo"), Some(variable)), is(7200, "NIX"));
        assert_eq!(found(Some("/etc/zoneinfo/"), Some(variable)), is(7200, "NIX"));
        assert_eq!(found(Some(""), Some(variable)), is(3600, "USR"), "an empty one is none");
        assert_eq!(found(None, Some(variable)), is(3600, "USR"));
        assert_eq!(found(Some("/nowhere"), Some(variable)), is(0, "UTC"), "as with the C library");
    }
    assert_eq!(found(Some("/nowhere"), Some("/etc/zoneinfo/Area/Name")), is(7200, "NIX"));
    assert_eq!(found(Some("/etc/zoneinfo"), Some("EST5")), is(-18000, "EST"), "a rule needs no file");
    assert_eq!(found(Some("/etc/zoneinfo"), None), is(1800, "LOC"));
}

#[test]
fn no_file_and_no_sense_are_utc() {
    assert_eq!(at(None, &[], WINTER), is(0, "UTC"));
    assert_eq!(at(None, &[(LOCALTIME, b"TZif2\0".to_vec())], WINTER), is(0, "UTC"));
    let files = [(LOCALTIME, tzif(0, (0, "UTC"), (3600, "CET"), BERLIN))];
    assert_eq!(at(Some(""), &files, WINTER), is(0, "UTC"));
    assert_eq!(at(Some("Nope/Zone"), &files, WINTER), is(0, "UTC"));
}

/// The expectations are what the reference implementation answers.
#[test]
fn the_variable_wins() {
    let kolkata = tzif(0, (21208, "LMT"), (19800, "IST"), "IST-5:30");
    let files = [("/usr/share/zoneinfo/Asia/Kolkata", kolkata)];
    let cases = [
        ("Asia/Kolkata", 19800, "IST"),
        (":Asia/Kolkata", 19800, "IST"),
        ("/usr/share/zoneinfo/Asia/Kolkata", 19800, "IST"),
        ("EST5EDT,M3.2.0,M11.1.0", -18000, "EST"),
        ("<+0330>-3:30", 12600, "+0330"),
        ("XST-5", 18000, "XST"),
        ("UTC0", 0, "UTC"),
        ("+05:30", 19800, "+05:30"),
        ("05:30", 19800, "05:30"),
        ("-03", -10800, "-03"),
        ("-5", -18000, "-5"),
        ("5:30:15", 19815, "5:30:15"),
        ("+053015", 19815, "+053015"),
        ("+24", 86400, "+24"),
        ("Z", 0, "Z"),
    ];
    for (variable, offset, name) in cases {
        assert_eq!(at(Some(variable), &files, WINTER), is(offset, name), "{variable}");
    }
    for variable in ["+25", "+5:3", "+530", "+123", "+5:", "+5:60", "z", "+ 5", "+05301500", "1:2:3:4"] {
        assert_eq!(at(Some(variable), &files, WINTER), is(0, "UTC"), "{variable}");
    }
}

#[test]
fn local_time_back_to_utc() {
    let (_dir, host) = machine(&[]);
    let zone = Zone::local(&host, &named(BERLIN));
    for utc in [WINTER, SUMMER, 1_711_846_799, 1_711_846_800, 1_729_990_799 + 7200] {
        let local = utc + i64::from(zone.at(utc).0);
        assert_eq!(zone.utc(local), utc);
    }
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(
        cut in 0_usize..200,
        noise in proptest::collection::vec((0_usize..200, any::<u8>()), 0..8),
        seconds in any::<i64>(),
    ) {
        let mut file = tzif(1_010_000_000, (3208, "LMT"), (3600, "CET"), BERLIN);
        for (place, byte) in noise {
            let place = place % file.len();
            file[place] = byte;
        }
        file.truncate(file.len() - cut % file.len());
        let zone = TimeZone::from_tz_data(&file).unwrap_or_else(|_| TimeZone::utc());
        let zone = Zone(Rules::Known(zone));
        zone.at(seconds);
        zone.utc(seconds);
    }

    #[test]
    fn no_variable_makes_it_panic(text in "\\PC{0,20}|[-+:0-9]{0,8}", seconds in any::<i64>()) {
        let (_dir, host) = machine(&[]);
        Zone::local(&host, &named(&text)).utc(seconds);
    }
}
