//! In which order to freeze: a file system before those that it is stored on.
//!
//! `FIFREEZE` of a loop-mounted file system writes to the file behind it. If the file system with
//! that file were frozen first, the write would wait for a thaw that cannot come.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::journal;
use crate::host::Host;
use crate::host::linux::block::Device;
use crate::host::linux::btrfs;
use crate::host::linux::mounts::{self, Dev, Mount, dev_of};

/// Stacks of devices are not deeper than this; a cycle in a broken table ends here.
const DEPTH: usize = 32;

/// A file system in its place in the order.
pub(super) struct Ordered {
    pub mount: Mount,
    /// Where those are mounted that it is stored on, directly or further down.
    pub stored_on: Vec<PathBuf>,
}

/// Sorts in reverse mount order, but each before the ones that it is stored on.
pub(super) fn stored_last(host: &Host, mounts: Vec<Mount>) -> Vec<Ordered> {
    let stack = Stack::new(host, &mounts);
    // For each: the mounts among ours that it is stored on.
    let known: Vec<Below> = (0..mounts.len()).map(|at| stack.below(at)).collect();
    let below: Vec<Vec<usize>> = (0..mounts.len()).map(|at| or_anything(at, &known)).collect();
    // Depth first from the oldest mount, foundations first; then turned round.
    let mut order = Vec::with_capacity(mounts.len());
    let mut seen = vec![false; mounts.len()];
    for at in 0..mounts.len() {
        visit(at, &below, &mut seen, &mut order);
    }
    let points: Vec<PathBuf> = mounts.iter().map(|mount| mount.point.clone()).collect();
    let mut slots: Vec<Option<Mount>> = mounts.into_iter().map(Some).collect();
    let ordered = |at: usize| {
        let stored_on = below[at].iter().map(|&other| points[other].clone()).collect();
        Some(Ordered { mount: slots[at].take()?, stored_on })
    };
    order.into_iter().rev().filter_map(ordered).collect()
}

/// What a file system is stored on, directly or further down.
#[derive(Default)]
struct Below {
    known: Vec<usize>,
    /// And on something that cannot be found.
    unknown: bool,
}

/// What is stored where nobody knows is taken to be stored on all others, but for those that are
/// stored on it.
fn or_anything(at: usize, below: &[Below]) -> Vec<usize> {
    let mut found = below[at].known.clone();
    if below[at].unknown {
        found.extend((0..below.len()).filter(|&other| !below[other].known.contains(&at)));
    }
    found.retain(|&other| other != at);
    found.sort_unstable();
    found.dedup();
    found
}

fn visit(at: usize, below: &[Vec<usize>], seen: &mut [bool], order: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[at], true) {
        return;
    }
    for &foundation in &below[at] {
        visit(foundation, below, seen, order);
    }
    order.push(at);
}

/// Which devices and file systems lie on which.
struct Stack<'a> {
    host: &'a Host,
    mounts: &'a [Mount],
    by_dev: HashMap<Dev, usize>,
    /// All mounts, to find a file's file system by the number of its mount.
    table: Vec<Mount>,
}

impl<'a> Stack<'a> {
    fn new(host: &'a Host, mounts: &'a [Mount]) -> Stack<'a> {
        let by_dev = mounts.iter().enumerate().map(|(at, mount)| (mount.dev, at)).collect();
        Stack { host, mounts, by_dev, table: mounts::all(host).unwrap_or_default() }
    }

    fn below(&self, at: usize) -> Below {
        let mut found = Below::default();
        let mount = &self.mounts[at];
        let device = Device::by_number(self.host, mount.dev);
        let beside = journal::devices(self.host, mount, device.as_ref());
        let devices: Vec<Device> = match device {
            Some(device) if mount.fs_type == "btrfs" => btrfs::members(self.host, device),
            device => device.into_iter().collect(),
        };
        devices.iter().chain(&beside).for_each(|device| self.under_device(device, DEPTH, &mut found));
        found
    }

    /// What a device is stored on: the members of a mapped or RAID device, and the file system that
    /// holds the file behind a loop device.
    fn under_device(&self, device: &Device, depth: usize, found: &mut Below) {
        let Some(depth) = depth.checked_sub(1) else { return };
        for member in device.slaves(self.host).unwrap_or_default() {
            found.known.extend(member.number(self.host).and_then(|number| self.by_dev.get(&number)));
            self.under_device(&member, depth, found);
        }
        if let Ok(file) = self.host.read_attribute(format!("{}/loop/backing_file", device.disk_path())) {
            self.under_loop(device, Path::new(&file), depth, found);
        }
    }

    /// The file system with the file behind a loop device, and what that is stored on.
    fn under_loop(&self, device: &Device, file: &Path, depth: usize, found: &mut Below) {
        let node = device.disk_path().rsplit('/').next().map(|name| Path::new("/dev").join(name));
        let kernel = self.host.kernel_handle();
        // The kernel asks the file, which may lie on a server that does not answer.
        let number = node.and_then(|node| self.ask(&node, move |node| kernel.loop_backing(node).ok()).flatten());
        match number.and_then(dev_of).and_then(|number| self.by_dev.get(&number)) {
            Some(&at) => self.under_mount(at, depth, found),
            None => found.unknown |= !self.under_file(file, depth, found),
        }
    }

    /// The file system with this file, and what that is stored on; false when the file is not there.
    fn under_file(&self, file: &Path, depth: usize, found: &mut Below) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return true };
        let Some(place) = self.ask(file, Place::of).flatten() else { return false };
        if let Some(at) = self.mount_of(&place) {
            self.under_mount(at, depth, found);
            return true;
        }
        // An overlay is not frozen itself; what is written to it lies elsewhere.
        let upper = place.mount.and_then(|id| mounts::overlay_upper(self.host, id));
        // On none of ours, such as a tmpfs or a network file system, is known well enough.
        upper.is_none_or(|upper| self.under_file(&upper, depth, found))
    }

    fn under_mount(&self, at: usize, depth: usize, found: &mut Below) {
        found.known.push(at);
        if let Some(device) = Device::by_number(self.host, self.mounts[at].dev) {
            self.under_device(&device, depth, found);
        }
    }

    /// By the number of the mount: on btrfs, the device number of a file is another one than that of
    /// its file system. Where there is no such number, as before Linux 3.15, by the device.
    fn mount_of(&self, place: &Place) -> Option<usize> {
        let by_mount = || {
            let id = place.mount?;
            let dev = self.table.iter().find(|mount| mount.id == id)?.dev;
            // Not by the path: something else may be mounted there as well.
            let same = |mount: &Mount| self.table.iter().any(|other| other.id == mount.id && other.dev == dev);
            self.mounts.iter().position(same)
        };
        by_mount().or_else(|| self.by_dev.get(&place.dev?).copied())
    }

    /// What `look` finds at a path, unless that does not answer.
    fn ask<T: Send + 'static>(&self, path: &Path, look: impl Fn(&Path) -> T + Send + Sync + 'static) -> Option<T> {
        self.host.patience().one(self.host.path(path), look)
    }
}

/// Where a file is.
struct Place {
    /// The number of its mount.
    mount: Option<u64>,
    dev: Option<Dev>,
}

impl Place {
    /// `None` when there is no such file.
    fn of(path: &Path) -> Option<Place> {
        let file = File::options().read(true).custom_flags(nix::libc::O_PATH).open(path).ok()?;
        Some(Place { mount: mounts::mount_id(&file), dev: file.metadata().ok().and_then(|found| dev_of(found.dev())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Machine;

    fn mount(dev: Dev, point: &str) -> Mount {
        Mount {
            id: 1,
            parent: 1,
            dev,
            root: "/".into(),
            point: point.into(),
            fs_type: "ext4".into(),
            source: "/dev/x".into(),
            read_only: false,
            covered: false,
            prompt: false,
            also: Vec::new(),
        }
    }

    /// A machine with stacks of devices.
    struct Stacks {
        machine: Machine,
        host: Host,
    }

    impl Stacks {
        fn new() -> Stacks {
            let machine = Machine::new("");
            Stacks { host: machine.host(), machine }
        }

        fn add(&self, text: &str) {
            self.machine.add(text);
        }

        /// A block device: `loop0`, or `loop0/loop0p1` for a partition.
        fn device(&self, number: &str, name: &str) {
            self.add(&format!("/sys/devices/virtual/block/{name}/dev -> {number}"));
            self.add(&format!("/sys/dev/block/{number} => ../../devices/virtual/block/{name}"));
        }

        /// A loop device with a file on the file system that is there.
        fn loop_device(&self) {
            self.machine.file("/image", "");
            self.device("7:0", "loop0");
            self.add("/sys/devices/virtual/block/loop0/loop/backing_file -> /image");
        }

        /// The device number that files below the root really have.
        fn dev(&self) -> Dev {
            dev_of(std::fs::metadata(self.machine.path("/")).expect("there").dev()).expect("fits")
        }

        fn order(&self, mounts: &[Mount]) -> Vec<String> {
            let ordered = stored_last(&self.host, mounts.to_vec());
            ordered.iter().map(|o| o.mount.point.display().to_string()).collect()
        }
    }

    #[test]
    fn without_stacks_the_order_is_the_reverse_of_mounting() {
        let mounts = [mount((8, 1), "/"), mount((8, 2), "/home"), mount((8, 3), "/var")];
        assert_eq!(Stacks::new().order(&mounts), ["/var", "/home", "/"]);
    }

    #[test]
    fn a_loop_mount_is_frozen_before_the_file_system_with_its_file() {
        let machine = Stacks::new();
        machine.loop_device();
        // Mounted before the file system that stores it was: reverse mount order would hang.
        let mounts = [mount((7, 0), "/loop"), mount(machine.dev(), "/data")];
        assert_eq!(machine.order(&mounts), ["/loop", "/data"]);
        let mounts = [mount(machine.dev(), "/data"), mount((7, 0), "/loop")];
        assert_eq!(machine.order(&mounts), ["/loop", "/data"]);
        let ordered = stored_last(&machine.host, mounts.to_vec());
        assert_eq!(ordered[0].stored_on, [PathBuf::from("/data")]);
    }

    #[test]
    fn a_loop_whose_file_cannot_be_found_is_frozen_before_all_others() {
        let machine = Stacks::new();
        machine.device("7:0", "loop0");
        machine.add("/sys/devices/virtual/block/loop0/loop/backing_file -> /in/another/namespace (deleted)");
        let mounts = [mount((7, 0), "/loop"), mount((8, 1), "/"), mount((8, 2), "/data")];
        assert_eq!(machine.order(&mounts)[0], "/loop");
    }

    #[test]
    fn a_loop_on_a_file_system_that_is_never_frozen_is_below_nobody() {
        let machine = Stacks::new();
        machine.loop_device();
        machine.device("7:1", "loop1");
        machine.add("/sys/devices/virtual/block/loop1/loop/backing_file -> /image");
        machine.device("253:0", "dm-0");
        machine.add("/sys/devices/virtual/block/dm-0/slaves/loop1 => ../../loop1");
        // The file is there, on none of these: as good as a disk.
        let ordered = stored_last(&machine.host, vec![mount((7, 0), "/a"), mount((253, 0), "/b")]);
        assert!(ordered.iter().all(|ordered| ordered.stored_on.is_empty()));
    }

    #[test]
    fn the_loop_may_be_under_a_mapped_device_and_a_partition() {
        let machine = Stacks::new();
        machine.loop_device();
        machine.device("259:0", "loop0/loop0p1");
        machine.device("253:0", "dm-0");
        machine.add("/sys/devices/virtual/block/dm-0/slaves/loop0p1 => ../../loop0/loop0p1");
        let mounts = [mount((253, 0), "/mapped"), mount((8, 1), "/other"), mount(machine.dev(), "/data")];
        assert_eq!(machine.order(&mounts), ["/other", "/mapped", "/data"]);
    }

    #[test]
    fn the_loop_may_be_under_any_device_of_a_btrfs() {
        let machine = Stacks::new();
        machine.loop_device();
        machine.device("8:16", "sdb");
        for name in ["sdb", "loop0"] {
            machine.add(&format!("/sys/fs/btrfs/6d1b/devices/{name} => ../../../../devices/virtual/block/{name}"));
        }
        let pool = Mount { fs_type: "btrfs".into(), ..mount((8, 16), "/pool") };
        assert_eq!(machine.order(&[pool, mount(machine.dev(), "/data")]), ["/pool", "/data"]);
    }

    /// The log of an xfs, and the journal of an ext4, of which there are others with their own.
    #[test]
    fn a_log_or_journal_on_another_device_has_its_place_in_the_order() {
        let machine = Stacks::new();
        machine.loop_device();
        for (number, name) in [("8:1", "sda1"), ("8:2", "sda2"), ("8:3", "sda3")] {
            machine.device(number, name);
        }
        machine.add("/sys/class/block/loop0 => ../../devices/virtual/block/loop0");
        let place = mount(machine.dev(), "/data");
        let xfs = Mount { id: 7, fs_type: "xfs".into(), ..mount((8, 1), "/xfs") };
        let line = "7 1 8:1 / /xfs rw - xfs /dev/sda1 rw,attr2,logdev=/dev/loop0,logbsize=32k\n";
        machine.machine.file("/proc/self/mountinfo", line);
        assert_eq!(machine.order(&[xfs.clone(), place.clone()]), ["/xfs", "/data"]);
        let ext4 = Mount { id: 8, ..mount((8, 2), "/ext4") };
        let own = Mount { id: 9, ..mount((8, 3), "/own") };
        machine.add("/proc/fs/jbd2/loop0/\n/proc/fs/jbd2/sda3-8/");
        assert_eq!(machine.order(&[ext4, own.clone(), place.clone()]), ["/own", "/ext4", "/data"]);
        let ordered = stored_last(&machine.host, vec![own, place]);
        assert!(ordered.iter().all(|ordered| ordered.stored_on.is_empty()), "it has its own journal");
    }

    #[test]
    fn devices_that_are_stored_on_each_other_do_not_hang_us() {
        let machine = Stacks::new();
        machine.device("253:0", "dm-0");
        machine.device("253:1", "dm-1");
        machine.add("/sys/devices/virtual/block/dm-0/slaves/dm-1 => ../../dm-1");
        machine.add("/sys/devices/virtual/block/dm-1/slaves/dm-0 => ../../dm-0");
        machine.loop_device();
        let mounts = [mount((253, 0), "/a"), mount((253, 1), "/b"), mount((7, 0), "/c"), mount(machine.dev(), "/")];
        assert_eq!(machine.order(&mounts).len(), 4);
    }
}
