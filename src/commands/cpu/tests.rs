use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::host::fixture::Machine;
use crate::protocol::reply;

/// The first processor has no switch, as on x86.
const GUEST: &str = "
/sys/devices/system/cpu/present -> 0-2,10
/sys/devices/system/cpu/cpu0/
/sys/devices/system/cpu/cpu1/online -> 1
/sys/devices/system/cpu/cpu2/online -> 0
/sys/devices/system/cpu/cpu10/online -> 1
/sys/devices/system/cpu/cpufreq/
/sys/devices/system/cpu/cpuidle/
";

fn value(result: Result<impl serde::Serialize>) -> std::result::Result<Value, String> {
    let mut text = Vec::new();
    reply::value(&mut text, &result.map_err(|error| error.desc)?);
    Ok(serde_json::from_slice(&text).expect("JSON"))
}

fn list(machine: &Machine) -> std::result::Result<Value, String> {
    value(vcpus(&machine.host(), args::Empty {}))
}

/// Sets processors, given as number and whether it shall run.
fn turn(machine: &Machine, wishes: &[(i64, bool)]) -> std::result::Result<usize, String> {
    let wish = |&(logical_id, online)| Wish { logical_id, online, _can_offline: None };
    let vcpus = wishes.iter().map(wish).collect();
    set_vcpus(&machine.host(), SetVcpus { vcpus }).map_err(|error| error.desc)
}

fn state(machine: &Machine, cpu: u32) -> String {
    machine.host().read_attribute(format!("/sys/devices/system/cpu/cpu{cpu}/online")).expect("a switch")
}

#[test]
fn processors_come_in_the_order_of_their_numbers() {
    let expected = json!([
        {"logical-id": 0, "online": true, "can-offline": false},
        {"logical-id": 1, "online": true, "can-offline": true},
        {"logical-id": 2, "online": false, "can-offline": true},
        {"logical-id": 10, "online": true, "can-offline": true},
    ]);
    assert_eq!(list(&Machine::new(GUEST)), Ok(expected));
}

/// POWER guests have directories for processors that may yet be plugged in.
#[test]
fn possible_processors_that_are_not_present_are_not_listed() {
    let machine = Machine::new(GUEST);
    machine.file("/sys/devices/system/cpu/present", "0-1\n");
    assert_eq!(list(&machine).expect("a list").as_array().map(Vec::len), Some(2));
    for unreadable in ["", "x", "1-", "0-1;"] {
        machine.file("/sys/devices/system/cpu/present", unreadable);
        assert_eq!(list(&machine).expect("a list").as_array().map(Vec::len), Some(4), "{unreadable}");
    }
}

/// A link to a directory that is gone looks like one that goes away while we read.
#[test]
fn a_processor_that_vanishes_is_left_out() {
    let machine = Machine::new(GUEST);
    machine.add("/sys/devices/system/cpu/cpu3 => ../gone\n/sys/devices/system/cpu/cpu4/online/");
    machine.file("/sys/devices/system/cpu/present", "0-10\n");
    assert_eq!(list(&machine).expect("a list").as_array().map(Vec::len), Some(4));
}

#[test]
fn a_guest_without_the_directory_has_upstreams_text() {
    let error = list(&Machine::new("")).expect_err("no directory");
    assert_eq!(error, "failed to list entries: /sys/devices/system/cpu: No such file or directory");
}

#[test]
fn a_guest_without_processors_is_an_error() {
    assert_eq!(list(&Machine::new("/sys/devices/system/cpu/")), Err("guest reported zero VCPUs".to_owned()));
}

#[test]
fn switches_are_turned_where_they_differ() {
    let machine = Machine::new(GUEST);
    assert_eq!(turn(&machine, &[(1, false), (2, true), (10, true), (0, true)]), Ok(4));
    assert_eq!((state(&machine, 1), state(&machine, 2), state(&machine, 10)), ("0".into(), "1".into(), "1".into()));
    assert_eq!(turn(&machine, &[]), Ok(0));
}

/// The kernel would refuse even to repeat what is so already, if it could not do it.
#[test]
fn a_switch_that_is_right_is_not_written() {
    let machine = Machine::new(GUEST);
    machine.file("/sys/devices/system/cpu/cpu1/online", "1 and more");
    assert_eq!(turn(&machine, &[(1, true)]), Ok(1));
    assert_eq!(state(&machine, 1), "1 and more");
}

#[test]
fn only_a_failure_of_the_first_is_an_error() {
    let machine = Machine::new(GUEST);
    assert_eq!(turn(&machine, &[(0, false), (1, false)]), Err("logical processor #0 can't be offlined".to_owned()));
    assert_eq!(turn(&machine, &[(1, false), (99, true), (10, false)]), Ok(1));
    assert_eq!((state(&machine, 1), state(&machine, 10)), ("0".into(), "1".into()));
    let error = turn(&machine, &[(99, true)]).expect_err("no such processor");
    assert_eq!(error, "Could not open '/sys/devices/system/cpu/cpu99/': No such file or directory");
    let error = turn(&machine, &[(-1, false)]).expect_err("no such processor");
    assert_eq!(error, "Could not open '/sys/devices/system/cpu/cpu-1/': No such file or directory");
}

#[test]
fn the_last_processor_is_not_stopped() {
    let machine = Machine::new(GUEST);
    machine.add("/sys/devices/system/cpu/cpu0/online -> 1");
    assert_eq!(turn(&machine, &[(0, false), (1, false), (10, false)]), Ok(2));
    let error = turn(&machine, &[(10, false)]).expect_err("the last one");
    assert_eq!(error, "logical processor #10 can't be offlined: no other one is online");
    assert_eq!(state(&machine, 10), "1");
}

#[test]
fn a_switch_that_cannot_be_written_says_why() {
    let machine = Machine::new(GUEST);
    machine.remove("/sys/devices/system/cpu/cpu2/online");
    machine.add("/sys/devices/system/cpu/cpu2/online/");
    let error = turn(&machine, &[(2, true)]).expect_err("a directory");
    assert_eq!(error, "Could not open '/sys/devices/system/cpu/cpu2/online': Is a directory");
    assert_eq!(
        refused(2, &io::Error::from_raw_os_error(16)).desc,
        "pwrite(\"/sys/devices/system/cpu/cpu2/online\"): Device or resource busy"
    );
}

fn stats(text: &str) -> std::result::Result<Value, String> {
    let machine = Machine::new("/proc/");
    machine.file("/proc/stat", text);
    value(cpustats(&machine.host(), args::Empty {}))
}

/// The columns came one after the other in 2.6 kernels; ticks are 10 ms.
#[test]
fn times_are_in_milliseconds_and_only_those_that_the_kernel_has() {
    let text = "cpu  1 2 3 4\ncpu0 1 2 3 4\ncpu2 1 2 3 4 5 6 7 8 9 10 11\nintr 9\ncpu3 1 2 3 4\n";
    let expected = json!([
        {"type": "linux", "cpu": 0, "user": 10, "nice": 20, "system": 30, "idle": 40},
        {"type": "linux", "cpu": 2, "user": 10, "nice": 20, "system": 30, "idle": 40, "iowait": 50,
         "irq": 60, "softirq": 70, "steal": 80, "guest": 90, "guestnice": 100},
    ]);
    assert_eq!(stats(text), Ok(expected));
}

#[test]
fn a_line_that_makes_no_sense_does_not_end_the_list() {
    let list = stats("cpu  1 2 3 4\ncpu0 1 2 3\ncpux 1 2 3 4\ncpu1 1 2 3 4\n").expect("a list");
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(list[0]["cpu"], 1);
}

#[test]
fn large_times_do_not_overflow() {
    let list = stats("cpu0 9223372036854775807 0 0 1844674407370955161\n").expect("a list");
    assert_eq!(list, json!([]), "more milliseconds than there is room for");
    let list = stats("cpu0 1844674407370955161 0 0 0\n").expect("a list");
    assert_eq!(list[0]["user"], 18_446_744_073_709_551_610_u64);
}

#[test]
fn without_the_file_there_is_an_error() {
    let error = value(cpustats(&Machine::new("").host(), args::Empty {})).expect_err("no file");
    assert_eq!(error, "Could not open '/proc/stat': No such file or directory");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_in_the_files_is_no_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let machine = Machine::new(GUEST);
        machine.add("/proc/");
        machine.file("/proc/stat", [b"cpu0 1 2 3 4\ncpu", &noise[..]].concat());
        machine.file("/sys/devices/system/cpu/present", &noise);
        machine.file("/sys/devices/system/cpu/cpu1/online", &noise);
        let answered = cpustats(&machine.host(), args::Empty {}).is_ok();
        prop_assert!(answered);
        // The noise may say that no processor is present.
        let _ = vcpus(&machine.host(), args::Empty {});
    }
}
