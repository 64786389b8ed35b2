//! btrfs file systems on several devices: `/sys/fs/btrfs/FSID/devices`.

use super::block::{Device, linked};
use crate::host::Host;

/// All devices of the file system that this one is a device of; only this one when `/sys` does not
/// know better. Told from `/sys` and not by ioctl, because the mount may be dead.
pub fn members(host: &Host, device: Device) -> Vec<Device> {
    let systems = host.list("/sys/fs/btrfs").unwrap_or_default();
    let members = systems.iter().filter_map(|fsid| {
        let members = linked(host, &format!("/sys/fs/btrfs/{}/devices", fsid.to_str()?)).ok()?;
        members.contains(&device).then_some(members)
    });
    { members }.next().unwrap_or_else(|| vec![device])
}
