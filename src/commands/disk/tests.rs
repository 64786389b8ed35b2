use super::*;
use crate::commands::golden;
use crate::host::fixture::Machine;
use nix::errno::Errno;
use proptest::prelude::*;

const MACHINES: &[&str] =
    &["btrfs-raid", "ccw", "nested-dm", "nvme-multipath", "sata-nvme-lvm", "virtio-blk", "virtio-scsi"];

#[test]
fn disks_of_all_machines() {
    for name in MACHINES {
        golden::check(name, "disks", &list(&Machine::load(name).host()).expect("disks"));
    }
}

#[test]
fn statistics_of_all_machines() {
    for name in MACHINES.iter().filter(|name| !["btrfs-raid", "nested-dm"].contains(name)) {
        golden::check(name, "diskstats", &list_stats(&Machine::load(name).host()).expect("statistics"));
    }
}

#[test]
fn a_machine_without_them_says_so() {
    let machine = Machine::load("container");
    let error = list(&machine.host()).expect_err("no directory");
    assert_eq!(error.desc, "Can't open directory \"/sys/block\": No such file or directory");
    let error = list_stats(&machine.host()).expect_err("no file");
    assert_eq!(error.desc, "Could not open '/proc/diskstats': No such file or directory");
}

fn names(disks: &[Disk]) -> Vec<&str> {
    disks.iter().map(|disk| disk.name.as_str()).collect()
}

#[test]
fn a_disk_that_vanishes_takes_only_itself_along() {
    let machine = Machine::load("virtio-scsi");
    machine.remove("/sys/devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:1");
    assert_eq!(names(&list(&machine.host()).expect("disks")), ["/dev/sda2", "/dev/sda1", "/dev/sda"]);
    // The link goes first when the kernel removes a disk.
    machine.remove("/sys/block/sda");
    assert_eq!(names(&list(&machine.host()).expect("disks")), [""; 0]);
}

#[test]
fn a_dead_nvme_disk_has_no_health_and_holds_nothing_up() {
    let machine = Machine::load("sata-nvme-lvm");
    machine.kernel.hang("/dev/nvme0n1");
    let start = std::time::Instant::now();
    let disks = list(&machine.host()).expect("disks");
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    let disk = disks.iter().find(|disk| disk.name == "/dev/nvme0n1").expect("still there");
    assert!(disk.smart.is_none() && disk.address.is_some());
}

#[test]
fn a_refused_health_page_is_left_out() {
    let machine = Machine::load("nvme-multipath");
    machine.kernel.script(|_| Errno::EPERM.into());
    assert!(list(&machine.host()).expect("disks").iter().all(|disk| disk.smart.is_none()));
}

#[test]
fn columns_are_told_by_their_number() {
    let stats = |line: &str| {
        let machine = Machine::new(&format!("/proc/diskstats:\n| 8 0 sda {line}\n"));
        let stats = list_stats(&machine.host()).expect("statistics");
        serde_json::to_value(stats).expect("JSON")[0]["stats"].as_object().map(serde_json::Map::len)
    };
    assert_eq!(stats("1 2 3 4"), Some(4));
    assert_eq!(stats("1 2 3 4 5 6 7 8 9 10 11"), Some(11));
    assert_eq!(stats("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"), Some(15));
    assert_eq!(stats("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"), Some(17));
    assert_eq!(stats("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"), Some(17));
    assert_eq!(stats("1 2 3"), None);
    assert_eq!(stats("1 2 3 x 5 6 7 8 9 10 11"), None);
}

#[test]
fn large_counters_stay_whole() {
    let max = u64::MAX;
    let machine = Machine::new(&format!("/proc/diskstats:\n| 259 1048575 nvme9n9 {max} {max} {max} {max}\n"));
    let stats = list_stats(&machine.host()).expect("statistics");
    assert_eq!((stats[0].minor, stats[0].stats.read_sectors), (1_048_575, Some(max)));
}

proptest! {
    #[test]
    fn garbage_statistics_never_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let machine = Machine::new("/sys/\n");
        machine.file("/proc/diskstats", text);
        let _ = list_stats(&machine.host()).expect("a list");
    }
}

#[test]
fn garbage_attributes_never_fail_the_list() {
    let machine = Machine::load("sata-nvme-lvm");
    let garbage = prop::collection::vec(any::<u8>(), 0..40);
    let test = |text: Vec<u8>| {
        for attribute in ["dm-1/dm/name", "md0/dev", "md0/size", "dm-0/queue/discard_max_bytes"] {
            machine.file(&format!("/sys/devices/virtual/block/{attribute}"), &text);
        }
        machine.file("/sys/devices/pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/model", &text);
        prop_assert!(list(&machine.host()).expect("a list").len() >= 10);
        Ok(())
    };
    proptest::test_runner::TestRunner::default().run(&garbage, test).expect("always a list");
}
