//! Devices that hold a part of a file system beside the one that it is mounted from: the log of an
//! xfs, the journal of an ext4. `FIFREEZE` writes to them as well.

use crate::host::Host;
use crate::host::linux::block::Device;
use crate::host::linux::mounts::{self, Mount};

/// Where jbd2 lists its journals: `sda1-8` is one in the file with this number, `sdb1` a device.
const JOURNALS: &str = "/proc/fs/jbd2";

/// The further devices of this file system on `device`.
pub(super) fn devices(host: &Host, mount: &Mount, device: Option<&Device>) -> Vec<Device> {
    match &*mount.fs_type {
        "xfs" | "reiserfs" | "jfs" => named(host, mount),
        "ext3" | "ext4" | "ocfs2" => {
            let mut found = named(host, mount);
            found.extend(device.into_iter().flat_map(|device| journals(host, device)));
            found
        }
        _ => Vec::new(),
    }
}

fn named(host: &Host, mount: &Mount) -> Vec<Device> {
    mounts::named_devices(host, mount.id).into_iter().filter_map(|number| Device::by_number(host, number)).collect()
}

/// Nobody tells whose journal a device is: that of any file system that has none of its own.
fn journals(host: &Host, device: &Device) -> Vec<Device> {
    let name = device.name();
    let listed = host.list(JOURNALS).unwrap_or_default();
    let listed: Vec<&str> = listed.iter().filter_map(|journal| journal.to_str()).collect();
    let inside = |journal: &&str| {
        let number = journal.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|digits| digits.parse::<u64>().is_ok())
    };
    if listed.iter().any(inside) {
        return Vec::new();
    }
    let number = |journal: &str| host.read_attribute(format!("/sys/class/block/{journal}/dev")).ok();
    let numbers = listed.into_iter().filter_map(|journal| mounts::parse_dev(number(journal)?.as_bytes()));
    numbers.filter_map(|number| Device::by_number(host, number)).collect()
}
