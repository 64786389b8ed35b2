//! The expected results of our own tests, held against libvirt's rules. Replies of a live agent are
//! in the VM suite.

#[path = "support/libvirt_rules.rs"]
#[allow(dead_code, reason = "the list of commands is for live agents")]
mod libvirt_rules;

use std::fs;
use std::path::{Path, PathBuf};

use libvirt_rules::{check, check_line};
use serde_json::{Value, json};

/// The golden files of these endings hold what these commands return.
const COMMANDS: [(&str, &str); 4] = [
    (".fsinfo.json", "guest-get-fsinfo"),
    (".disks.json", "guest-get-disks"),
    (".diskstats.json", "guest-get-diskstats"),
    ("/interfaces.json", "guest-network-get-interfaces"),
];

fn golden() -> Vec<(PathBuf, &'static str)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let directories = [fixtures.clone(), fixtures.join("network")];
    let entries = directories.iter().flat_map(|path| fs::read_dir(path).expect("fixtures"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let command = |path: &Path| COMMANDS.iter().find(|(ending, _)| path.to_string_lossy().ends_with(ending));
    paths.filter_map(|path| command(&path).map(|(_, command)| (path.clone(), *command))).collect()
}

#[test]
fn golden_results_are_what_libvirt_takes() {
    let golden = golden();
    for (_, command) in COMMANDS {
        assert!(golden.iter().any(|(_, found)| *found == command), "there is a golden file of {command}");
    }
    for (path, command) in golden {
        let text = fs::read_to_string(&path).expect("a fixture");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        check(command, &value).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
    }
}

/// The rules themselves: each of these has failed somebody's call.
#[test]
fn what_libvirt_refuses_is_found() {
    let file_system = json!({"name": "vda1", "mountpoint": "/", "type": "ext4", "disk": []});
    let controller = json!({"domain": -1, "bus": -1, "slot": -1, "function": -1});
    let disk = json!({"bus-type": "sata", "bus": 0, "target": 0, "unit": 0, "pci-controller": controller});
    let with = |base: &Value, name: &str, value: Option<Value>| {
        let mut changed = base.clone();
        let members = changed.as_object_mut().expect("an object");
        match value {
            Some(value) => members.insert(name.to_owned(), value),
            None => members.remove(name),
        };
        changed
    };
    let fsinfo = |member: Value| check("guest-get-fsinfo", &json!([member]));
    assert_eq!(fsinfo(file_system.clone()), Ok(()));
    assert_eq!(fsinfo(with(&file_system, "disk", Some(json!([disk])))), Ok(()));
    for name in ["name", "mountpoint", "type", "disk"] {
        assert!(fsinfo(with(&file_system, name, None)).is_err(), "without {name}");
    }
    assert!(fsinfo(with(&file_system, "used-bytes", Some(json!(1.5)))).is_err());
    assert!(fsinfo(with(&file_system, "used-bytes", Some(Value::Null))).is_err());
    for name in ["bus-type", "bus", "target", "unit", "pci-controller"] {
        let disk = with(&disk, name, None);
        assert!(fsinfo(with(&file_system, "disk", Some(json!([disk])))).is_err(), "without {name}");
    }

    let refused = [
        ("guest-get-disks", json!([{"name": "/dev/vda"}])),
        ("guest-get-host-name", json!({"host-name": ""})),
        ("guest-get-time", json!(-1)),
        ("guest-get-timezone", json!({"zone": "UTC"})),
        ("guest-get-users", json!([{"user": "ann"}])),
        ("guest-get-vcpus", json!([{"logical-id": 1, "online": false, "can-offline": false}])),
        ("guest-network-get-interfaces", json!([{"name": "lo", "ip-addresses": [{"ip-address-type": "ipx"}]}])),
        ("guest-ssh-get-authorized-keys", json!({})),
        ("guest-fsfreeze-thaw", json!({})),
    ];
    for (command, value) in refused {
        assert!(check(command, &value).is_err(), "{command} {value}");
    }
    for line in ["", "[]", "{}", "{\"return\":[],\"error\":{}}", "{\"error\":{}}", "{\"return\": \"\u{e9}\"}"] {
        assert!(check_line("guest-ping", line.as_bytes()).is_err(), "{line}");
    }
    assert_eq!(check_line("guest-ping", b"{\"return\": {}}"), Ok(()));
}
