//! Memory that is plugged in as a DIMM, block by block, held against the guest's `/sys`.

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::shared;

const NONE: &Value = &Value::Null;
const DIMM: u64 = 256 << 20;

/// Blocks by number, with their states.
fn blocks(guest: &mut Guest) -> Vec<(u64, bool)> {
    let list = "cd /sys/devices/system/memory; for b in memory[0-9]*; do echo ${b#memory} $(cat $b/state); done";
    let text = guest.shell.ok(list);
    let entry = |line: &str| {
        let (number, state) = line.split_once(' ').expect("number and state");
        (number.parse().expect("a number"), state == "online")
    };
    let mut blocks: Vec<_> = text.lines().map(entry).collect();
    blocks.sort_unstable();
    blocks
}

fn listed(agent: &mut Agent) -> Vec<(u64, bool)> {
    let list = agent.get("guest-get-memory-blocks", NONE);
    let entry = |block: &Value| {
        assert!(block["can-offline"].is_boolean(), "{block}");
        (block["phys-index"].as_u64().expect("a number"), block["online"].as_bool().expect("a state"))
    };
    let mut blocks: Vec<_> = list.as_array().expect("a list").iter().map(entry).collect();
    blocks.sort_unstable();
    blocks
}

fn set(agent: &mut Agent, block: u64, online: bool) -> Value {
    let wish = json!({"mem-blks": [{"phys-index": block, "online": online}]});
    agent.get("guest-set-memory-blocks", &wish)
}

fn total(guest: &mut Guest) -> u64 {
    let kilobytes = guest.shell.ok("awk '/^MemTotal:/ { print $2 }' /proc/meminfo");
    kilobytes.parse::<u64>().expect("a number") << 10
}

/// A DIMM, with which there are so many blocks.
fn plug(guest: &mut Guest, count: u64) {
    guest.qmp.execute("object-add", &json!({"qom-type": "memory-backend-ram", "id": "dimm-ram", "size": DIMM}));
    guest.qmp.execute("device_add", &json!({"driver": "pc-dimm", "id": "dimm", "memdev": "dimm-ram"}));
    let all_there = format!("test $(ls -d /sys/devices/system/memory/memory[0-9]* | wc -l) = {count}");
    guest.shell.until("the blocks appear", &all_there);
}

fn unplug(guest: &mut Guest) {
    guest.qmp.execute("device_del", &json!({"id": "dimm"}));
    guest.qmp.wait("DEVICE_DELETED", SOON);
    guest.qmp.execute("object-del", &json!({"id": "dimm-ram"}));
}

#[test]
fn a_dimm_is_plugged_in_and_its_blocks_are_used() {
    if shared::known_of_stock("does not follow the policy for new memory") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let size = guest.shell.ok("echo $((0x$(cat /sys/devices/system/memory/block_size_bytes)))");
    let size: u64 = size.parse().expect("a number");
    assert_eq!(agent.get("guest-get-memory-block-info", NONE), json!({"size": size}));
    let before = blocks(&mut guest);
    assert_eq!(listed(&mut agent), before);

    plug(&mut guest, before.len() as u64 + DIMM / size);
    let plugged = blocks(&mut guest);
    assert_eq!(listed(&mut agent), plugged);
    let new: Vec<u64> = plugged.iter().filter(|block| !before.contains(block)).map(|block| block.0).collect();
    assert_eq!(new.len() as u64, DIMM / size);

    guest.shell.ok("udevadm settle");
    shared::wait_at_rest(&mut guest);
    assert!(!blocks(&mut guest).iter().any(|block| block.1 && new.contains(&block.0)), "nobody has asked for it yet");

    // The policy of those who want to take memory out again; the agent follows it.
    let policy = "/sys/devices/system/memory/auto_online_blocks";
    guest.shell.ok(&format!("cat {policy} >/run/policy; echo online_movable >{policy}"));
    let success = |block: u64| json!([{"phys-index": block, "response": "success"}]);
    let used = total(&mut guest);
    for &block in &new {
        assert_eq!(set(&mut agent, block, true), success(block));
    }
    let state = |block: u64| format!("cat /sys/devices/system/memory/memory{block}/state");
    assert_eq!(guest.shell.ok(&state(new[0])), "online");
    let zones = guest.shell.ok(&format!("cat /sys/devices/system/memory/memory{}/valid_zones", new[0]));
    assert_eq!(zones, "Movable");
    assert!(total(&mut guest) >= used + DIMM - (8 << 20), "{used} bytes before, {} after", total(&mut guest));
    assert_eq!(listed(&mut agent), blocks(&mut guest));
    assert_eq!(set(&mut agent, new[0], true), success(new[0]), "already so");

    for &block in &new {
        assert_eq!(set(&mut agent, block, false), success(block));
    }
    assert_eq!(guest.shell.ok(&state(new[0])), "offline");
    assert_eq!(total(&mut guest), used);
    let missing = json!([{"phys-index": 4711, "response": "not-found", "error-code": 2}]);
    assert_eq!(set(&mut agent, 4711, true), missing);

    guest.shell.ok(&format!("cat /run/policy >{policy}"));
    unplug(&mut guest);
    assert_eq!(listed(&mut agent), before);
    let gone = json!([{"phys-index": new[0], "response": "not-found", "error-code": 2}]);
    assert_eq!(set(&mut agent, new[0], true), gone);
}

#[test]
fn a_dimm_is_used_unasked_where_that_is_wanted() {
    if shared::known_of_stock("does nothing unasked") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let policy = "/sys/devices/system/memory/auto_online_blocks";
    guest.shell.ok(&format!("echo offline >{policy}"));
    let size = guest.shell.ok("echo $((0x$(cat /sys/devices/system/memory/block_size_bytes)))");
    let size: u64 = size.parse().expect("a number");
    let (before, used) = (blocks(&mut guest), total(&mut guest));
    let count = before.len() as u64 + DIMM / size;

    shared::configure(&mut guest, "[hotplug]\\nmemory=true\\n");
    plug(&mut guest, count);
    let all_used = "! grep -L online /sys/devices/system/memory/memory*/state | grep -q .";
    guest.shell.until("the memory is used", all_used);
    assert!(total(&mut guest) >= used + DIMM - (8 << 20), "{used} bytes before, {} after", total(&mut guest));
    let log = guest.shell.ok("journalctl -b -t qemu-ga -o cat | grep 'of memory, from'");
    assert!(log.contains("plugged in and on line now"), "{log}");

    // The kernel puts things there that cannot be moved: this guest keeps its memory to its end.
    guest.qmp.execute("quit", &json!({}));
    guest.wait_ended();
}
