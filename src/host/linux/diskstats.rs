//! What was read from and written to each block device: `/proc/diskstats`
//! (Documentation/admin-guide/iostats.rst).
//!
//! An own reader: `procfs-core`'s knows no lines of 7 columns, and this is one line for each device.

use std::io;

use super::mounts::Dev;
use crate::host::Host;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStats {
    /// Its number.
    pub dev: Dev,
    /// The kernel's name.
    pub name: String,
    /// The counters in the kernel's order; as many as this kernel has.
    pub counters: Vec<u64>,
}

/// All devices in the kernel's order. A line that makes no sense is left out.
///
/// # Errors
/// When there is no such file.
pub fn read(host: &Host) -> io::Result<Vec<DiskStats>> {
    Ok(host.read_text("/proc/diskstats")?.lines().filter_map(parse_line).collect())
}

fn parse_line(line: &str) -> Option<DiskStats> {
    let mut columns = line.split_ascii_whitespace();
    let dev = (columns.next()?.parse().ok()?, columns.next()?.parse().ok()?);
    let name = columns.next()?.to_owned();
    let counters = columns.map_while(|column| column.parse().ok()).collect();
    Some(DiskStats { dev, name, counters })
}
