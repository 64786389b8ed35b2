//! Block devices as `/sys` shows them: where each one hangs, what it consists of, what it is cut into.
//!
//! A device is known by its directory below `/sys/devices`, which one `readlink` tells; its path
//! says nearly everything about how it is attached.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::mounts::Dev;
use crate::host::Host;

/// A disk, a partition, or a virtual device such as `dm-0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    path: String,
}

impl Device {
    /// The device with this number.
    pub fn by_number(host: &Host, (major, minor): Dev) -> Option<Device> {
        Device::by_link(host, "/sys/dev/block", &format!("{major}:{minor}"))
    }

    /// All disks with something on them, virtual ones included, sorted by name. Partitions are not
    /// among them, nor are disks without a length, as loop devices without a file, nor the single
    /// paths to an NVMe disk that has several, which have no device node.
    ///
    /// # Errors
    /// Only when there is no directory to read.
    pub fn disks(host: &Host) -> io::Result<Vec<Device>> {
        let names = host.list("/sys/block")?;
        let device = |name: &OsString| {
            let name = name.to_str()?;
            let size = host.read_attribute(format!("/sys/block/{name}/size")).ok()?;
            let is_path = || host.read_attribute(format!("/sys/block/{name}/hidden")).is_ok_and(|hidden| hidden == "1");
            if size == "0" || name.starts_with("nvme") && is_path() {
                return None;
            }
            Device::by_link(host, "/sys/block", name)
        };
        Ok(names.iter().filter_map(device).collect())
    }

    /// The device that a link in a directory of `/sys` points to.
    fn by_link(host: &Host, dir: &str, name: &str) -> Option<Device> {
        let target = host.link(format!("{dir}/{name}")).ok()?;
        Some(Device { path: resolve(dir, &target)? })
    }

    /// The directory below `/sys/devices`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The kernel's name: `vda1`, `dm-0`, `cciss!c0d0`.
    pub fn name(&self) -> &str {
        last(&self.path)
    }

    /// The device node. The kernel asks for it by its own name with `!` for `/`.
    pub fn node(&self) -> String {
        format!("/dev/{}", self.name().replace('!', "/"))
    }

    /// The number.
    pub fn number(&self, host: &Host) -> Option<Dev> {
        super::mounts::parse_dev(host.read_attribute(format!("{}/dev", self.path)).ok()?.as_bytes())
    }

    /// The directory of the whole disk, for a partition as for the disk itself.
    pub fn disk_path(&self) -> &str {
        let parent = parent(&self.path);
        if is_partition_of(last(parent), self.name()) { parent } else { &self.path }
    }

    /// Made of other devices, of a file or of memory; attached to nothing.
    pub fn is_virtual(&self) -> bool {
        self.path.contains("/devices/virtual/block/")
    }

    /// What the device consists of: the disks below LVM, crypt, md, multipath.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn slaves(&self, host: &Host) -> io::Result<Vec<Device>> {
        linked(host, &format!("{}/slaves", self.disk_path()))
    }

    /// The devices at the bottom: those with hardware behind them, each once.
    ///
    /// What is virtual and has nothing below it (loop, zram) has no such devices.
    pub fn leaves(self, host: &Host) -> Vec<Device> {
        let mut leaves = Vec::new();
        let mut seen = HashSet::new();
        let mut rest = vec![self];
        // The kernel has no cycles; what we read may change while we walk.
        while let Some(device) = rest.pop() {
            if !seen.insert(device.path.clone()) {
                continue;
            }
            if device.is_virtual() {
                rest.extend(device.slaves(host).unwrap_or_default().into_iter().rev());
            } else {
                leaves.push(device);
            }
        }
        leaves
    }

    /// The partitions, sorted by name.
    pub fn partitions(&self, host: &Host) -> Vec<Device> {
        let names = host.list(&self.path).unwrap_or_default();
        let partitions = names.iter().filter_map(|name| name.to_str());
        let partitions = partitions.filter(|name| is_partition_of(self.name(), name));
        partitions.map(|name| Device { path: format!("{}/{name}", self.path) }).collect()
    }

    /// Whether the disk can be told which blocks hold nothing; true when unknown.
    pub fn discards(&self, host: &Host) -> bool {
        let limit = host.read_attribute(format!("{}/queue/discard_max_bytes", self.disk_path()));
        limit.map_or(true, |limit| limit != "0")
    }

    /// The name that device-mapper was given for it.
    pub fn mapper_name(&self, host: &Host) -> Option<String> {
        if !self.name().starts_with("dm-") {
            return None;
        }
        host.read_attribute(format!("{}/dm/name", self.path)).ok().filter(|name| !name.is_empty())
    }
}

/// The devices that the links in a directory point to, sorted by the links' names.
pub(super) fn linked(host: &Host, dir: &str) -> io::Result<Vec<Device>> {
    let names = host.list(dir)?;
    Ok(names.iter().filter_map(|name| Device::by_link(host, dir, name.to_str()?)).collect())
}

/// Where a relative link of `/sys` leads. Directories of `/sys/devices` are never links, so the
/// names alone tell; no look at the disk for each of them.
fn resolve(dir: &str, target: &Path) -> Option<String> {
    let mut path = String::with_capacity(dir.len() + target.as_os_str().len());
    let target = target.to_str()?;
    if !target.starts_with('/') {
        path.push_str(dir);
    }
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => path.truncate(path.rfind('/').unwrap_or(0)),
            name => {
                path.push('/');
                path.push_str(name);
            }
        }
    }
    path.starts_with("/sys/devices/").then_some(path)
}

/// `vda` has `vda1`, `nvme0n1` has `nvme0n1p1`; `nvme0` does not have `nvme0n1`.
fn is_partition_of(disk: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk).filter(|_| !disk.is_empty()) else { return false };
    let digits = rest.strip_prefix('p').unwrap_or(rest);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The last part of a path.
pub(super) fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The path without its last part.
pub(super) fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Machine;

    fn names(devices: &[Device]) -> Vec<&str> {
        devices.iter().map(Device::name).collect()
    }

    #[test]
    fn links_are_resolved_by_name() {
        let resolve = |target: &str| resolve("/sys/dev/block", Path::new(target));
        assert_eq!(resolve("../../devices/a/./b"), Some("/sys/devices/a/b".to_owned()));
        assert_eq!(resolve("/sys/devices/x"), Some("/sys/devices/x".to_owned()));
        assert_eq!(resolve("../../../../../../etc/passwd"), None);
        assert_eq!(resolve("../../devices/../../etc"), None);
    }

    #[test]
    fn partitions_are_told_by_their_names() {
        for (disk, name) in [("vda", "vda1"), ("vda", "vda15"), ("nvme0n1", "nvme0n1p2"), ("md0", "md0p1")] {
            assert!(is_partition_of(disk, name), "{name}");
        }
        for (disk, name) in
            [("nvme0", "nvme0n1"), ("mmcblk0", "mmcblk0boot0"), ("vda", "vda"), ("sda", "sdap"), ("", "1")]
        {
            assert!(!is_partition_of(disk, name), "{name}");
        }
    }

    #[test]
    fn a_partition_knows_its_disk() {
        let device = Device { path: "/sys/devices/virtual/block/md0/md0p1".to_owned() };
        assert_eq!(device.disk_path(), "/sys/devices/virtual/block/md0");
        let device = Device { path: "/sys/devices/pci0000:00/0000:00:07.0/nvme/nvme0/nvme0n1".to_owned() };
        assert_eq!(device.disk_path(), device.path());
    }

    #[test]
    fn nodes_have_the_kernels_slashes() {
        let device = Device { path: "/sys/devices/x/block/cciss!c0d0".to_owned() };
        assert_eq!(device.node(), "/dev/cciss/c0d0");
    }

    #[test]
    fn leaves_are_found_below_all_layers_and_once() {
        let machine = Machine::new(
            "\
/sys/dev/block/253:2 => ../../devices/virtual/block/dm-2
/sys/devices/virtual/block/dm-2/slaves/dm-0 => ../../dm-0
/sys/devices/virtual/block/dm-2/slaves/dm-1 => ../../dm-1
/sys/devices/virtual/block/dm-0/slaves/sda1 => ../../../../pci0000:00/0000:00:01.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1
/sys/devices/virtual/block/dm-1/slaves/sda1 => ../../../../pci0000:00/0000:00:01.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1
/sys/devices/virtual/block/dm-1/slaves/md0p1 => ../../md0/md0p1
/sys/devices/virtual/block/md0/slaves/sdb => ../../../../pci0000:00/0000:00:01.0/ata2/host1/target1:0:0/1:0:0:0/block/sdb
/sys/devices/virtual/block/md0/slaves/loop3 => ../../loop3
",
        );
        let host = machine.host();
        let leaves = Device::by_number(&host, (253, 2)).expect("a device").leaves(&host);
        assert_eq!(names(&leaves), ["sda1", "sdb"]);
    }

    #[test]
    fn cycles_end() {
        let machine = Machine::new(
            "\
/sys/dev/block/253:0 => ../../devices/virtual/block/dm-0
/sys/devices/virtual/block/dm-0/slaves/dm-1 => ../../dm-1
/sys/devices/virtual/block/dm-0/slaves/dm-0 => ../../dm-0
/sys/devices/virtual/block/dm-1/slaves/dm-0 => ../../dm-0
/sys/devices/virtual/block/dm-1/slaves/up => ../../../../../../../../etc
/sys/devices/virtual/block/dm-1/slaves/file -> no link
",
        );
        let host = machine.host();
        let leaves = Device::by_number(&host, (253, 0)).expect("a device").leaves(&host);
        assert_eq!(names(&leaves), [""; 0]);
    }

    #[test]
    fn a_disk_lists_its_partitions() {
        let machine = Machine::new(
            "\
/sys/block/vda => ../devices/pci0000:00/0000:00:05.0/virtio2/block/vda
/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/size -> 2048
/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/vda1/size -> 1024
/sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/vda2/size -> 1024
/sys/block/sr0 => ../devices/pci0000:00/0000:00:01.0/ata2/host1/target1:0:0/1:0:0:0/block/sr0
/sys/devices/pci0000:00/0000:00:01.0/ata2/host1/target1:0:0/1:0:0:0/block/sr0/size -> 0
/sys/block/gone => ../devices/pci0000:00/gone
/sys/block/file -> no link
",
        );
        let host = machine.host();
        let disks = Device::disks(&host).expect("disks");
        assert_eq!(names(&disks), ["vda"]);
        assert_eq!(names(&disks[0].partitions(&host)), ["vda1", "vda2"]);
    }
}
