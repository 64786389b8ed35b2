use super::*;
use crate::host::fixture::Machine;

const ALL: config::Hotplug = config::Hotplug { cpus: true, memory: true };

/// Two processors of which the host has stopped one, and three blocks of memory. Unlike the kernel, a
/// file keeps what is longer than what is written.
const MACHINE: &str = "/sys/devices/system/cpu/present -> 0-1
/sys/devices/system/cpu/cpu0/
/sys/devices/system/cpu/cpu1/online -> 0
/sys/devices/system/memory/memory0/state -> online
/sys/devices/system/memory/memory1/state -> off
/sys/devices/system/memory/memory2/
/sys/devices/system/memory/auto_online_blocks -> offline";

const NEW_CPU: &str = "/sys/devices/system/cpu/cpu2/online -> 0";
const NEW_BLOCK: &str = "/sys/devices/system/memory/memory40/state -> off";

struct Guest {
    machine: Machine,
    parts: Parts,
    news: News,
}

impl Guest {
    fn new() -> Guest {
        let mut guest = Guest { machine: Machine::new(MACHINE), parts: Parts::default(), news: News::default() };
        guest.catch_up(ALL);
        guest
    }

    fn plug(&mut self, text: &str) {
        self.machine.add(text);
        let count = self.machine.host().list(cpu::DIRECTORY).expect("a directory").len() - 2;
        self.machine.file("/sys/devices/system/cpu/present", format!("0-{count}\n"));
    }

    fn hear(&mut self, action: &str, subsystem: &str, name: &str) {
        self.news.hear(&Uevent { action, subsystem, name, new_generation: false });
    }

    fn catch_up(&mut self, wanted: config::Hotplug) {
        self.parts.catch_up(&self.machine.host(), std::mem::take(&mut self.news), || wanted);
    }

    fn read(&self, path: &str) -> String {
        self.machine.host().read_attribute(path).expect("an attribute")
    }

    fn cpu(&self, id: u32) -> String {
        self.read(&format!("/sys/devices/system/cpu/cpu{id}/online"))
    }

    fn block(&self, block: u64) -> String {
        self.read(&format!("/sys/devices/system/memory/memory{block}/state"))
    }
}

#[test]
fn what_is_plugged_in_is_put_on_line_and_nothing_else() {
    let mut guest = Guest::new();
    guest.plug(NEW_CPU);
    guest.plug(NEW_BLOCK);
    guest.hear("add", "cpu", "cpu2");
    guest.hear("add", "memory", "memory40");
    guest.catch_up(ALL);
    assert_eq!((guest.cpu(2).as_str(), guest.block(40).as_str()), ("1", "online"));
    assert_eq!((guest.cpu(1).as_str(), guest.block(1).as_str()), ("0", "off"), "were there before");
}

#[test]
fn what_the_host_put_off_line_stays_so() {
    let mut guest = Guest::new();
    guest.plug(NEW_CPU);
    guest.hear("add", "cpu", "cpu2");
    guest.catch_up(ALL);
    guest.machine.file("/sys/devices/system/cpu/cpu2/online", "0\n");
    // As `udevadm trigger --action=add` has it, and what the kernel says of the switch.
    for name in ["cpu0", "cpu1", "cpu2"] {
        guest.hear("add", "cpu", name);
        guest.hear("offline", "cpu", name);
        guest.hear("change", "cpu", name);
    }
    guest.hear("add", "memory", "memory1");
    guest.news.lose();
    guest.catch_up(ALL);
    assert_eq!((guest.cpu(1).as_str(), guest.cpu(2).as_str(), guest.block(1).as_str()), ("0", "0", "off"));
}

#[test]
fn what_went_and_came_back_is_new() {
    let mut guest = Guest::new();
    guest.hear("remove", "cpu", "cpu1");
    guest.hear("add", "cpu", "cpu1");
    guest.hear("remove", "memory", "memory1");
    guest.catch_up(ALL);
    assert_eq!((guest.cpu(1).as_str(), guest.block(1).as_str()), ("1", "off"));
    guest.hear("add", "memory", "memory1");
    guest.catch_up(ALL);
    assert_eq!(guest.block(1), "online");
}

#[test]
fn what_came_and_went_is_left_alone() {
    let mut guest = Guest::new();
    for _ in 0..2 {
        guest.hear("add", "cpu", "cpu2");
        guest.hear("remove", "cpu", "cpu2");
        guest.hear("add", "cpu", "cpu9");
        guest.hear("add", "memory", "memory99");
    }
    guest.catch_up(ALL);
}

#[test]
fn lost_news_are_made_up_for() {
    let mut guest = Guest::new();
    guest.plug(NEW_CPU);
    guest.plug(NEW_BLOCK);
    guest.news.lose();
    guest.catch_up(ALL);
    assert_eq!((guest.cpu(2).as_str(), guest.block(40).as_str()), ("1", "online"));
    assert_eq!((guest.cpu(1).as_str(), guest.block(1).as_str()), ("0", "off"));
}

#[test]
fn a_flood_of_news_takes_no_memory_and_hides_nothing() {
    let mut guest = Guest::new();
    for _ in 0..BACKLOG {
        guest.hear("add", "cpu", "cpu0");
    }
    guest.plug(NEW_CPU);
    guest.hear("add", "cpu", "cpu2");
    assert_eq!(guest.news.changes.len(), BACKLOG);
    guest.catch_up(ALL);
    assert_eq!(guest.cpu(2), "1");
}

#[test]
fn only_what_is_wanted_is_touched() {
    for wanted in [config::Hotplug { cpus: true, memory: false }, config::Hotplug { cpus: false, memory: true }] {
        let mut guest = Guest::new();
        guest.plug(NEW_CPU);
        guest.plug(NEW_BLOCK);
        guest.news.lose();
        guest.catch_up(wanted);
        assert_eq!(guest.cpu(2), if wanted.cpus { "1" } else { "0" });
        assert_eq!(guest.block(40), if wanted.memory { "online" } else { "off" });
    }
}

#[test]
fn memory_follows_the_policy_for_new_memory() {
    let mut guest = Guest::new();
    guest.machine.file("/sys/devices/system/memory/auto_online_blocks", "online_movable\n");
    guest.plug(NEW_BLOCK);
    guest.hear("add", "memory", "memory40");
    guest.catch_up(ALL);
    assert_eq!(guest.block(40), "online_movable");
}

#[test]
fn news_of_other_devices_are_none() {
    let mut guest = Guest::new();
    for (subsystem, name) in [
        ("block", "vda"),
        ("cpu", "cpufreq"),
        ("cpu", "cpu"),
        ("cpu", "cpu4294967296"),
        ("memory", "memory-1"),
        ("", ""),
    ] {
        guest.hear("add", subsystem, name);
    }
    assert!(guest.news.is_empty());
}
