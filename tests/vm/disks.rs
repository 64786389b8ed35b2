//! Where disks of all kinds are, as the agent tells it, held against QEMU's command line, and what
//! they are called, held against the guest's udev.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::hardware::{Attached, DISKS, names_of};
use crate::harness::SOON;
use crate::harness::guest::Guest;
use crate::shared;

const NONE: &Value = &Value::Null;

/// udev's names for disks; empty for those that have none.
fn serials_of(guest: &mut Guest, names: &[String]) -> Vec<String> {
    let ask =
        "udevadm settle; for d in $*; do echo $(udevadm info -q property --property=ID_SERIAL --value -n $d); done";
    let serials = guest.shell.ok(&format!("set -- {}; {ask}; echo end", names.join(" ")));
    serials.lines().map(str::to_owned).collect()
}

/// The address that a disk must have.
fn address(disk: &Attached, name: &str, serial: &str) -> Value {
    let [domain, bus, slot, function] = disk.pci;
    let [number, target, unit] = disk.place;
    let mut address = json!({
        "bus-type": disk.bus_type,
        "pci-controller": {"domain": domain, "bus": bus, "slot": slot, "function": function},
        "bus": number,
        "target": target,
        "unit": unit,
        "dev": format!("/dev/{name}"),
    });
    if !serial.is_empty() {
        address["serial"] = serial.into();
    }
    address
}

fn entry<'l>(list: &'l Value, name: &str) -> &'l Value {
    let node = format!("/dev/{name}");
    let found = list.as_array().expect("a list").iter().find(|entry| entry["name"] == node);
    found.unwrap_or_else(|| panic!("{node} is listed: {list}"))
}

#[test]
fn disks_of_every_bus_are_where_qemu_put_them() {
    if shared::known_of_stock("knows fewer buses") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let ids: Vec<&str> = DISKS.iter().map(|disk| disk.id).collect();
    let names = names_of(&mut guest, &ids);
    let serials = serials_of(&mut guest, &names);
    let list = agent.get("guest-get-disks", NONE);
    for ((disk, name), serial) in DISKS.iter().zip(&names).zip(&serials) {
        let entry = entry(&list, name);
        assert_eq!(entry["address"], address(disk, name, serial), "{}", disk.id);
        assert_eq!(entry["partition"], false, "{}", disk.id);
        assert_eq!(entry["dependencies"], json!([]), "{}", disk.id);
        assert_eq!(entry.get("smart").is_some(), disk.bus_type == "nvme", "{}", disk.id);
    }
    // No more and no fewer than the guest has, and all have nodes.
    let nodes = guest.shell.ok("lsblk -nplo NAME");
    let nodes: BTreeSet<&str> = nodes.lines().map(str::trim).collect();
    let listed: BTreeSet<&str> = list.as_array().expect("a list").iter().filter_map(|e| e["name"].as_str()).collect();
    assert_eq!(listed, nodes);
}

#[test]
fn serials_without_udev_are_those_of_udev() {
    if shared::known_of_stock("has no serials without udev") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let serials = |list: &Value| -> Vec<Value> {
        // Optical drives answer only to who opens them.
        let is_optical = |disk: &Value| disk["name"].as_str().is_some_and(|name| name.starts_with("/dev/sr"));
        let disks = list.as_array().expect("a list").iter().filter(|disk| !is_optical(disk));
        disks.map(|disk| json!([disk["name"], disk["address"]["serial"]])).collect()
    };
    let with_udev = agent.get("guest-get-disks", NONE);
    // A second agent, for which there is no database of udev.
    guest.shell.ok("unshare -m sh -c 'mount -t tmpfs none /run/udev; exec qemu-ga -m unix-listen -p /run/bare.sock \
         -f /run/bare.pid -t /run/bare' >/run/bare.log 2>&1 & mkdir -p /run/bare; echo $! >/run/bare.job");
    guest.shell.until("the second agent listens", "test -S /run/bare.sock");
    let reply = guest
        .shell
        .ok("echo '{\"execute\":\"guest-get-disks\"}' | socat -t 60 - UNIX-CONNECT:/run/bare.sock,shut-down");
    guest.shell.ok("kill $(cat /run/bare.job); rm -rf /run/bare*");
    let reply: Value = serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{error}: {reply}"));
    assert_eq!(serials(&reply["return"]), serials(&with_udev));
}

#[test]
fn an_nvme_disk_tells_its_health() {
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let name = names_of(&mut guest, &["nvme"]).remove(0);
    let mut health = || entry(&agent.get("guest-get-disks", NONE), &name)["smart"].clone();
    let before = health();
    assert_eq!(before["type"], "nvme");
    // What QEMU's disks say, in Kelvin.
    assert_eq!(before["temperature"], 323);
    assert_eq!(before["critical-warning"], 0);
    // As much as a thousand units of 512000 bytes, and the bits that QEMU was told to show.
    guest.shell.ok(&format!("for i in 1 2 3 4; do dd if=/dev/{name} of=/dev/null bs=1M iflag=direct; done"));
    let warn =
        |bits: u32| json!({"path": "/machine/peripheral/nvme", "property": "smart_critical_warning", "value": bits});
    guest.qmp.execute("qom-set", &warn(4));
    let after = health();
    guest.qmp.execute("qom-set", &warn(0));
    assert_eq!(after["critical-warning"], 4);
    let grown = |member: &str| after[member].as_u64().unwrap_or(0) - before[member].as_u64().unwrap_or(0);
    assert!(grown("data-units-read-lo") >= 1000, "{after}");
    assert!(grown("host-read-commands-lo") >= 500, "{after}");
    assert_eq!(after["data-units-read-hi"], 0);
}
