use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::host::fixture::Machine;
use crate::protocol::reply;

/// Block 3 has no state, as on kernels that cannot let go of memory.
const GUEST: &str = "
/sys/devices/system/memory/block_size_bytes -> 8000000
/sys/devices/system/memory/auto_online_blocks -> offline
/sys/devices/system/memory/memory0/state -> online
/sys/devices/system/memory/memory0/removable -> 1
/sys/devices/system/memory/memory0/valid_zones -> none
/sys/devices/system/memory/memory1/state -> offline
/sys/devices/system/memory/memory1/removable -> 0
/sys/devices/system/memory/memory2/state -> online
/sys/devices/system/memory/memory2/removable -> 1
/sys/devices/system/memory/memory2/valid_zones -> Normal
/sys/devices/system/memory/memory3/
/sys/devices/system/memory/memory10/state -> going-offline
/sys/devices/system/memory/memory10/removable -> 1
/sys/devices/system/memory/power/
";

fn value(result: Result<impl serde::Serialize>) -> std::result::Result<Value, String> {
    let mut text = Vec::new();
    reply::value(&mut text, &result.map_err(|error| error.desc)?);
    Ok(serde_json::from_slice(&text).expect("JSON"))
}

fn list(machine: &Machine) -> std::result::Result<Value, String> {
    value(blocks(&machine.host(), args::Empty {}))
}

/// Sets blocks, given as number and whether it shall be online.
fn turn(machine: &Machine, wishes: &[(u64, bool)]) -> Value {
    let wish = |&(phys_index, online)| Wish { phys_index, online, _can_offline: None };
    let mem_blks = wishes.iter().map(wish).collect();
    value(set_blocks(&machine.host(), SetBlocks { mem_blks })).expect("never an error")
}

fn state(machine: &Machine, block: u64) -> String {
    machine.host().read_attribute(format!("/sys/devices/system/memory/memory{block}/state")).expect("a state")
}

#[test]
fn blocks_come_in_the_order_of_their_numbers() {
    let expected = json!([
        {"phys-index": 0, "online": true, "can-offline": false},
        {"phys-index": 1, "online": false, "can-offline": false},
        {"phys-index": 2, "online": true, "can-offline": true},
        {"phys-index": 3, "online": true, "can-offline": false},
        {"phys-index": 10, "online": false, "can-offline": true},
    ]);
    assert_eq!(list(&Machine::new(GUEST)), Ok(expected));
}

#[test]
fn a_kernel_without_hot_plug_has_no_blocks() {
    assert_eq!(list(&Machine::new("")), Ok(json!([])));
    assert_eq!(list(&Machine::new("/sys/devices/system/memory/")), Err("guest reported zero memory blocks!".into()));
}

#[test]
fn a_block_that_vanishes_is_left_out() {
    let machine = Machine::new(GUEST);
    machine.add("/sys/devices/system/memory/memory4 => ../gone\n/sys/devices/system/memory/memory5/state/");
    assert_eq!(list(&machine).expect("a list").as_array().map(Vec::len), Some(5));
}

#[test]
fn thousands_of_blocks_are_listed() {
    let machine = Machine::new("/sys/devices/system/memory/");
    for block in 0..4000 {
        machine.file(&format!("/sys/devices/system/memory/memory{block}/state"), "online\n");
    }
    let list = list(&machine).expect("a list");
    assert_eq!(list.as_array().map(Vec::len), Some(4000));
    assert_eq!(list[3999]["phys-index"], 3999);
}

#[test]
fn blocks_are_set_where_they_differ() {
    let machine = Machine::new(GUEST);
    let expected = json!([
        {"phys-index": 0, "response": "success"},
        {"phys-index": 1, "response": "success"},
        {"phys-index": 2, "response": "success"},
    ]);
    assert_eq!(turn(&machine, &[(0, true), (1, true), (2, false)]), expected);
    assert_eq!((state(&machine, 1), state(&machine, 2)), ("onlinee".into(), "offline".into()));
    assert_eq!(turn(&machine, &[]), json!([]));
}

/// Memory that shall stay removable must not be used for what can't be moved.
#[test]
fn the_policy_for_new_memory_is_kept() {
    let machine = Machine::new(GUEST);
    machine.file("/sys/devices/system/memory/auto_online_blocks", "online_movable\n");
    turn(&machine, &[(1, true)]);
    assert_eq!(state(&machine, 1), "online_movable");
}

#[test]
fn each_block_has_its_own_error() {
    let machine = Machine::new(GUEST);
    machine.add("/sys/devices/system/memory/memory5/state/");
    let expected = json!([
        {"phys-index": 3, "response": "operation-not-supported", "error-code": 2},
        {"phys-index": 3, "response": "success"},
        {"phys-index": 9, "response": "not-found", "error-code": 2},
        {"phys-index": 5, "response": "operation-failed", "error-code": 21},
        {"phys-index": 2, "response": "success"},
    ]);
    assert_eq!(turn(&machine, &[(3, false), (3, true), (9, true), (5, true), (2, false)]), expected);
}

#[test]
fn without_hot_plug_nothing_can_be_set() {
    let expected = json!([
        {"phys-index": 1, "response": "operation-not-supported", "error-code": 2},
        {"phys-index": u64::MAX, "response": "operation-not-supported", "error-code": 2},
    ]);
    assert_eq!(turn(&Machine::new(""), &[(1, false), (u64::MAX, true)]), expected);
}

#[test]
fn the_size_of_blocks_is_hexadecimal() {
    let machine = Machine::new(GUEST);
    assert_eq!(value(block_info(&machine.host(), args::Empty {})), Ok(json!({"size": 134_217_728})));
    let error = value(block_info(&Machine::new("").host(), args::Empty {})).expect_err("no directory");
    assert_eq!(error, "open(\"/sys/devices/system/memory/\"): No such file or directory");
    machine.file("/sys/devices/system/memory/block_size_bytes", "none\n");
    assert!(block_info(&machine.host(), args::Empty {}).is_err());
}

#[test]
fn a_missing_block_size_is_named() {
    let machine = Machine::new(GUEST);
    machine.remove("/sys/devices/system/memory/block_size_bytes");
    let error = block_info(&machine.host(), args::Empty {}).expect_err("no file");
    // Upstream's words.
    assert_eq!(error.desc, "open sysfs file \"block_size_bytes\": No such file or directory");
    machine.file("/sys/devices/system/memory/block_size_bytes", "many\n");
    let error = block_info(&machine.host(), args::Empty {}).expect_err("no number");
    assert!(error.desc.contains("block_size_bytes"), "{}", error.desc);
    machine.remove("/sys/devices/system/memory");
    let error = block_info(&machine.host(), args::Empty {}).expect_err("no directory");
    assert_eq!(error.desc, "open(\"/sys/devices/system/memory/\"): No such file or directory");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_in_the_files_is_no_panic(noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let machine = Machine::new(GUEST);
        for name in ["memory0/state", "memory0/removable", "memory2/valid_zones", "block_size_bytes"] {
            machine.file(&format!("/sys/devices/system/memory/{name}"), &noise);
        }
        let answered = blocks(&machine.host(), args::Empty {}).is_ok();
        prop_assert!(answered);
        // The noise may be a number.
        let _ = block_info(&machine.host(), args::Empty {});
    }
}
