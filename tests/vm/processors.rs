//! Processors and memory that come and go, held against the guest's `/sys`.

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::shared;

const NONE: &Value = &Value::Null;

/// Processors as `/sys` has them: number, online, whether there is a switch.
const PROCESSORS: &str = "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do \
     if [ -e $c/online ]; then echo ${c#cpu} $(cat $c/online) 1; else echo ${c#cpu} 1 0; fi; done";

fn processors(guest: &mut Guest) -> Value {
    let text = guest.shell.ok(PROCESSORS);
    let entry = |line: &str| {
        let words: Vec<u32> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
        json!({"logical-id": words[0], "online": words[1] == 1, "can-offline": words[2] == 1})
    };
    text.lines().map(entry).collect()
}

fn check(agent: &mut Agent, guest: &mut Guest) {
    let expected = processors(guest);
    let mut list = agent.get("guest-get-vcpus", NONE);
    list.as_array_mut().expect("a list").sort_by_key(|cpu| cpu["logical-id"].as_u64());
    assert_eq!(list, expected);
    // Those that run have times, and no others.
    let stats = agent.get("guest-get-cpustats", NONE);
    let with_times = stats.as_array().expect("a list").iter().map(|cpu| &cpu["cpu"]);
    let online = expected.as_array().expect("a list").iter().filter(|cpu| cpu["online"] == true);
    assert!(with_times.eq(online.map(|cpu| &cpu["logical-id"])), "{stats}");
}

fn set(agent: &mut Agent, vcpus: &[(i64, bool)]) -> Value {
    let wish = |&(id, online): &(i64, bool)| json!({"logical-id": id, "online": online});
    agent.get("guest-set-vcpus", &json!({"vcpus": vcpus.iter().map(wish).collect::<Vec<_>>()}))
}

#[test]
fn processors_stop_and_start() {
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    check(&mut agent, &mut guest);
    assert_eq!(guest.shell.ok("nproc"), "2");

    assert_eq!(set(&mut agent, &[(1, false)]), 1);
    assert_eq!(guest.shell.ok("nproc; cat /sys/devices/system/cpu/cpu1/online"), "1\n0");
    check(&mut agent, &mut guest);
    // Already so: counts as done.
    assert_eq!(set(&mut agent, &[(1, false), (0, true)]), 2);
    // What has been done until the first that fails.
    assert_eq!(set(&mut agent, &[(1, true), (0, false), (1, false)]), 1);
    assert_eq!(guest.shell.ok("nproc"), "2");
    check(&mut agent, &mut guest);

    let refusal = agent.refused("guest-set-vcpus", &json!({"vcpus": [{"logical-id": 0, "online": false}]}));
    assert_eq!(refusal.text, "logical processor #0 can't be offlined");
    let refusal = agent.refused("guest-set-vcpus", &json!({"vcpus": [{"logical-id": 9, "online": true}]}));
    assert!(refusal.text.ends_with("No such file or directory"), "{}", refusal.text);
}

/// A third processor.
fn plug(guest: &mut Guest) {
    let places = guest.qmp.execute("query-hotpluggable-cpus", &json!({}));
    let free = places.as_array().expect("a list").iter().find(|place| place.get("qom-path").is_none());
    let free = free.expect("room for a third");
    let mut cpu = free["props"].clone();
    (cpu["driver"], cpu["id"]) = (free["type"].clone(), "third".into());
    guest.qmp.execute("device_add", &cpu);
    guest.shell.until("the processor appears", "test -e /sys/devices/system/cpu/cpu2/online");
}

/// Stopped first, as it has to be.
fn unplug(guest: &mut Guest, agent: &mut Agent) {
    assert_eq!(set(agent, &[(2, false)]), 1);
    guest.qmp.execute("device_del", &json!({"id": "third"}));
    guest.qmp.wait("DEVICE_DELETED", SOON);
    guest.shell.until("the processor is gone", "! test -e /sys/devices/system/cpu/cpu2");
}

#[test]
fn a_processor_is_plugged_in_and_out() {
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    plug(&mut guest);
    guest.shell.ok("udevadm settle");
    shared::wait_at_rest(&mut guest);
    assert_eq!(guest.shell.ok("cat /sys/devices/system/cpu/cpu2/online"), "0", "nobody has asked for it yet");
    check(&mut agent, &mut guest);
    assert_eq!(set(&mut agent, &[(2, true)]), 1);
    assert_eq!(guest.shell.ok("cat /sys/devices/system/cpu/cpu2/online; nproc"), "1\n3");
    check(&mut agent, &mut guest);

    unplug(&mut guest, &mut agent);
    check(&mut agent, &mut guest);
    let refusal = agent.refused("guest-set-vcpus", &json!({"vcpus": [{"logical-id": 2, "online": true}]}));
    assert!(refusal.text.ends_with("No such file or directory"), "{}", refusal.text);
    end(guest);
}

#[test]
fn a_processor_that_is_plugged_in_runs_unasked_where_that_is_wanted() {
    if shared::known_of_stock("does nothing unasked") {
        return;
    }
    let Some(mut guest) = shared::hardware() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    shared::configure(&mut guest, "[hotplug]\\ncpus=true\\n");
    let again = "udevadm trigger --action=add --subsystem-match=cpu; udevadm settle";
    let state = "cat /sys/devices/system/cpu/cpu1/online /sys/devices/system/cpu/cpu2/online";
    plug(&mut guest);
    guest.shell.until("the processor runs", "grep -q 1 /sys/devices/system/cpu/cpu2/online");
    guest.shell.ok(again);
    shared::wait_at_rest(&mut guest);
    assert_eq!(guest.shell.ok(state), "1\n1");
    assert_eq!(set(&mut agent, &[(1, false), (2, false)]), 2);
    guest.shell.ok(again);
    shared::wait_at_rest(&mut guest);
    assert_eq!(guest.shell.ok(state), "0\n0", "the host's word is the last");
    let log = guest.shell.ok("journalctl -b -t qemu-ga -o cat | grep -c 'processor 2 was plugged in'");
    assert_eq!(log, "1");
    unplug(&mut guest, &mut agent);
    end(guest);
}

/// QEMU 7.2 may crash when a processor is plugged in where one was before.
fn end(mut guest: shared::Lease) {
    guest.qmp.execute("quit", &json!({}));
    guest.wait_ended();
}
