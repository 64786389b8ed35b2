//! Machines of `tests/fixtures` that lack one file, link or directory: nothing panics, and what the
//! client is told names what is missing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::testing;
use crate::agent::Agent;
use crate::host::fixture::Machine;

const MACHINES: [&str; 8] =
    ["btrfs-raid", "ccw", "container", "nested-dm", "nvme-multipath", "sata-nvme-lvm", "virtio-blk", "virtio-scsi"];

/// What the descriptions of disks do not have.
const REST: &str = "
/sys/devices/system/memory/block_size_bytes -> 8000000
/sys/devices/system/memory/auto_online_blocks -> offline
/sys/devices/system/memory/memory0/state -> online
/sys/devices/system/memory/memory0/removable -> 1
/sys/devices/system/memory/memory0/valid_zones -> none
/sys/devices/system/memory/memory1/state -> online
/sys/devices/system/cpu/present -> 0-1
/sys/devices/system/cpu/cpu0/
/sys/devices/system/cpu/cpu1/online -> 1
/proc/stat:
| cpu  2 0 2 2 0 0 0 0 0 0
| cpu0 1 0 1 1 0 0 0 0 0 0
| cpu1 1 0 1 1 0 0 0 0 0 0
/proc/net/route:
| Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
| eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
/etc/os-release -> ID=test
/etc/hostname -> guest
";

/// Those that read files of the machine; the last two change nothing that is not so already.
fn commands() -> Vec<(&'static str, Value)> {
    let reading = [
        "guest-get-fsinfo",
        "guest-get-disks",
        "guest-get-diskstats",
        "guest-get-memory-blocks",
        "guest-get-memory-block-info",
        "guest-get-vcpus",
        "guest-get-cpustats",
        "guest-network-get-route",
        "guest-get-osinfo",
        "guest-get-timezone",
        "guest-get-users",
        "guest-get-host-name",
        "guest-fstrim",
    ];
    let mut commands: Vec<_> = reading.into_iter().map(|name| (name, json!({}))).collect();
    let cpu = json!({"logical-id": 1, "online": true});
    let block = json!({"phys-index": 0, "online": true});
    commands.push(("guest-set-vcpus", json!({"vcpus": [cpu]})));
    commands.push(("guest-set-memory-blocks", json!({"mem-blks": [block]})));
    commands
}

fn errors(agent: &Agent) -> Vec<(&'static str, String)> {
    let error = |(name, arguments)| Some((name, testing::call(agent, name, arguments).err()?));
    commands().into_iter().filter_map(error).collect()
}

/// All that is in the machine.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn an_error_names_the_file_that_is_missing() {
    let mut told = 0;
    for name in MACHINES {
        let machine = Machine::load(name);
        machine.add(REST);
        let agent = testing::agent(machine.host(), testing::config());
        let before = errors(&agent);
        let root = machine.path("/");
        for path in entries(&root) {
            let aside = root.join("aside");
            fs::rename(&path, &aside).expect("moved");
            let now = errors(&agent);
            fs::rename(&aside, &path).expect("moved back");
            let own = Path::new("/").join(path.strip_prefix(&root).expect("below the root"));
            for (command, text) in now.iter().filter(|error| !before.contains(error)) {
                // A file by its path, or by its name where upstream has only that.
                let file = own.file_name().and_then(|file| file.to_str()).expect("a name");
                let is_named = text.contains(own.to_str().expect("text")) || text.contains(&format!("\"{file}\""));
                assert!(is_named, "{name} without {}: {command}: {text}", own.display());
                told += 1;
            }
        }
        assert_eq!(errors(&agent), before, "all is back");
    }
    assert!(told > MACHINES.len() * 5, "{told}");
}
