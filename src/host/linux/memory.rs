//! Memory that can be taken offline in blocks: `/sys/devices/system/memory` (Linux's
//! memory-hotplug.rst).

use std::io;
use std::time::Instant;

use serde::Serialize;

use super::cpu::number;
use crate::host::Host;

/// The directory of blocks. Kernels without memory hot-plug have none.
pub const DIRECTORY: &str = "/sys/devices/system/memory";

/// A block of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Block {
    /// Its number: the physical address divided by the size of blocks.
    pub phys_index: u64,
    /// Whether the kernel uses it.
    pub online: bool,
    /// Whether the kernel may let go of it.
    pub can_offline: bool,
}

/// All blocks, by number.
///
/// # Errors
/// The directory of blocks cannot be read.
pub fn all(host: &Host) -> io::Result<Vec<Block>> {
    let names = host.list(DIRECTORY)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name.to_str()?, "memory")).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().filter_map(|number| one(host, number)).collect())
}

/// One block; `None` when it is not there, or is just being unplugged.
fn one(host: &Host, phys_index: u64) -> Option<Block> {
    let online = is_online(host, phys_index).ok()?.unwrap_or(true);
    Some(Block { phys_index, online, can_offline: can_offline(host, phys_index) })
}

/// Whether the kernel would try to take it offline.
///
/// `removable` says 1 for every block since Linux 5.8. A block that is online and spans zones
/// can't be taken offline either: the list of zones that it could be in says `none`.
fn can_offline(host: &Host, block: u64) -> bool {
    let attribute = |name| host.read(format!("{}{name}", directory(block)));
    let removable = attribute("removable").is_ok_and(|value| value.first().is_some_and(|&digit| digit != b'0'));
    removable && !attribute("valid_zones").is_ok_and(|zones| zones.starts_with(b"none"))
}

/// The directory of a block, whether it is there or not.
pub fn directory(block: u64) -> String {
    format!("{DIRECTORY}/memory{block}/")
}

/// Whether a block is online; `None` when it has no state and thus always is.
///
/// # Errors
/// There is no such block, or its state cannot be read.
pub fn is_online(host: &Host, block: u64) -> io::Result<Option<bool>> {
    match host.read(format!("{}state", directory(block))) {
        Ok(state) => Ok(Some(state.starts_with(b"online"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            host.path(directory(block)).metadata()?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes a block online or offline.
///
/// # Errors
/// The kernel's own: `EBUSY` when what is in the block can't be moved, `EINVAL` when it may never be
/// taken offline; `ETIMEDOUT` at the deadline.
pub fn set_online(host: &Host, block: u64, state: &'static str, deadline: Instant) -> io::Result<()> {
    host.turn(format!("{}state", directory(block)), state, deadline)
}

/// The word that takes a block online. Where the policy for new memory is to keep it movable,
/// so that it can be unplugged again, that goes for blocks that we are asked for, too.
pub fn online_word(host: &Host) -> &'static str {
    match host.read(format!("{DIRECTORY}/auto_online_blocks")) {
        Ok(policy) if policy.starts_with(b"online_movable") => "online_movable",
        _ => "online",
    }
}

/// The name of the file that says how large blocks are, in [`DIRECTORY`].
pub(crate) const BLOCK_SIZE: &str = "block_size_bytes";

/// The size of blocks in bytes.
///
/// # Errors
/// [`BLOCK_SIZE`] cannot be read.
pub fn block_size(host: &Host) -> io::Result<u64> {
    let size = host.read_attribute(format!("{DIRECTORY}/{BLOCK_SIZE}"))?;
    u64::from_str_radix(size.trim_start_matches("0x"), 16).map_err(|_| io::ErrorKind::InvalidData.into())
}
