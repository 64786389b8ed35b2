use std::fs;

use super::*;
use crate::host::fake::FakeKernel;
use crate::protocol::reply;

fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    for (path, data) in files {
        let path = host.path(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
        fs::write(path, data).expect("file");
    }
    (dir, host)
}

fn json(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    reply::value(&mut out, value);
    String::from_utf8(out).expect("ASCII")
}

fn info(files: &[(&str, &[u8])], file: Option<&str>) -> String {
    let (_dir, host) = machine(files);
    json(&describe(&host, file.map(OsStr::new)).expect("information"))
}

const KERNEL: &str = r##"{"kernel-release": "6.1.0-13-amd64", "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)", "machine": "x86_64""##;

#[test]
fn fedora() {
    let file = b"NAME=\"Fedora Linux\"\nVERSION=\"42 (Server Edition)\"\nID=fedora\nVERSION_ID=42\n\
        PRETTY_NAME='Fedora Linux 42 (Server Edition)'\nVARIANT=\"Server Edition\"\nVARIANT_ID=server\n";
    let expected = r#", "id": "fedora", "name": "Fedora Linux", "pretty-name": "Fedora Linux 42 (Server Edition)", "version": "42 (Server Edition)", "version-id": "42", "variant": "Server Edition", "variant-id": "server"}"#;
    assert_eq!(info(&[("/etc/os-release", file)], None), format!("{KERNEL}{expected}"));
}

#[test]
fn what_the_file_lacks_is_left_out() {
    assert_eq!(info(&[], None), format!("{KERNEL}}}"));
    let expected = format!(r#"{KERNEL}, "id": "talos"}}"#);
    assert_eq!(info(&[("/usr/lib/os-release", b"ID=talos\n")], None), expected);
    let both: &[(&str, &[u8])] = &[("/usr/lib/os-release", b"ID=talos\n"), ("/etc/os-release", b"ID=mine")];
    assert_eq!(info(both, None), format!(r#"{KERNEL}, "id": "mine"}}"#));
}

#[test]
fn the_environment_may_name_another_file() {
    let files: &[(&str, &[u8])] = &[("/etc/os-release", b"ID=a"), ("/other", b"ID=b")];
    assert_eq!(info(files, Some("/other")), format!(r#"{KERNEL}, "id": "b"}}"#));
    assert_eq!(info(files, Some("/none")), format!("{KERNEL}}}"));
}

#[test]
fn bytes_that_are_no_text_spoil_their_own_value_only() {
    let file = b"ID=x\nNAME=\"\xff\xfe\"\n\0\0\xc3\n";
    let expected = format!(r#"{KERNEL}, "id": "x", "name": "\uFFFD\uFFFD"}}"#);
    assert_eq!(info(&[("/etc/os-release", file)], None), expected);
}

#[test]
fn the_host_name_is_never_empty() {
    let (_dir, bare) = machine(&[]);
    let (_dir, host) = machine(&[("/etc/hostname", b"# mine\n\n web1 \n")]);
    assert_eq!(or_from_file(&host, "kernel".to_owned()), "kernel");
    for unset in ["", "(none)"] {
        assert_eq!(or_from_file(&host, unset.to_owned()), "web1");
        assert_eq!(or_from_file(&bare, unset.to_owned()), "localhost");
    }
}

#[test]
fn the_zone_is_its_abbreviation_now() {
    let (_dir, host) = machine(&[]);
    assert_eq!(json(&zone_now(&host, &Environment::default())), r#"{"zone": "UTC", "offset": 0}"#);
    let berlin = Environment { zone: Some("CET-1CEST,M3.5.0,M10.5.0/3".into()), directory: None };
    assert_eq!(json(&zone_now(&host, &berlin)), r#"{"zone": "CET", "offset": 3600}"#);
    host.kernel().set_now(1_720_000_000_000_000_000).expect("success");
    assert_eq!(json(&zone_now(&host, &berlin)), r#"{"zone": "CEST", "offset": 7200}"#);
}

#[test]
fn load_has_upstreams_resolution() {
    let load = Load { load1m: 0.553_710_937_5, load5m: 1.0, load15m: 0.0 };
    assert_eq!(json(&load), r#"{"load1m": 0.5537109375, "load5m": 1, "load15m": 0}"#);
}
