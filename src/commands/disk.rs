//! Disks and partitions, and what was read from and written to them.

use serde::Serialize;

use super::{Command, Ctx, Lane};
use crate::host::Host;
use crate::host::linux::address::{self, Address, BusType};
use crate::host::linux::block::Device;
use crate::host::linux::diskstats;
use crate::host::linux::nvme::Health;
use crate::host::linux::serial::Serials;
use crate::protocol::args;
use crate::protocol::error::{Error, Result};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-get-disks", |cx, a| cx.call(disks, a)),
    Command::new("guest-get-diskstats", |cx, a| cx.call(stats, a)).lane(Lane::Prompt),
];

/// A disk or a partition. Name and partition are always there (O19).
#[derive(Debug, Serialize)]
struct Disk {
    name: String,
    partition: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dependencies: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    smart: Option<Health>,
}

/// Lists all disks with something on them, and their partitions.
fn disks(cx: &Ctx<'_>, _: args::Empty) -> Result<Vec<Disk>> {
    list(cx.host)
}

fn list(host: &Host) -> Result<Vec<Disk>> {
    let devices = Device::disks(host).map_err(|error| Error::os("Can't open directory \"/sys/block\"", &error))?;
    let serials = Serials::new(host);
    let mut disks = Vec::new();
    for device in &devices {
        let nodes = |devices: Vec<Device>| devices.iter().map(Device::node).collect();
        disks.push(Disk {
            name: device.node(),
            partition: false,
            dependencies: device.slaves(host).ok().map(nodes),
            address: if device.is_virtual() { None } else { address::of(host, &serials, device).into_iter().next() },
            alias: device.mapper_name(host),
            smart: None,
        });
        disks.extend(device.partitions(host).iter().map(|partition| Disk {
            name: partition.node(),
            partition: true,
            dependencies: Some(vec![device.node()]),
            address: None,
            alias: None,
            smart: None,
        }));
    }
    ask_health(host, &mut disks);
    // As upstream: the latest first, and partitions before their disk.
    disks.reverse();
    Ok(disks)
}

/// Asks all NVMe disks for their health. One that does not answer in time has none.
fn ask_health(host: &Host, disks: &mut [Disk]) {
    let has_health = |disk: &&mut Disk| disk.address.as_ref().is_some_and(|a| a.bus_type == BusType::Nvme);
    let disks: Vec<_> = disks.iter_mut().filter(has_health).collect();
    if disks.is_empty() {
        return;
    }
    let nodes = disks.iter().map(|disk| host.path(&disk.name)).collect();
    let kernel = host.kernel_handle();
    let pages = host.patience().start(nodes, move |node| kernel.nvme_health(node)).wait();
    for (disk, page) in disks.into_iter().zip(pages) {
        disk.smart = page.and_then(|page| page.ok()).map(|page| Health::parse(&page));
    }
}

#[derive(Debug, Serialize)]
struct DiskStats {
    name: String,
    major: u32,
    minor: u32,
    stats: Counters,
}

/// What the kernel counts. Sectors are of 512 bytes always, ticks are milliseconds.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Counters {
    #[serde(skip_serializing_if = "Option::is_none")]
    read_sectors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_ios: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_merges: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_sectors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_ios: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_merges: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_sectors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_ios: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_merges: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flush_ios: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flush_ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ios_pgr: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_ticks: Option<u64>,
}

impl Counters {
    /// The kernel's columns: partitions have 4 up to Linux 2.6.24; discards came with 4.18 as 4 more
    /// than the first 11, flushes with 5.5 as 2 more. What comes after those is not known yet.
    fn new(columns: &[u64]) -> Option<Counters> {
        if let &[read_ios, read_sectors, write_ios, write_sectors] = columns {
            return Some(Counters {
                read_ios: Some(read_ios),
                read_sectors: Some(read_sectors),
                write_ios: Some(write_ios),
                write_sectors: Some(write_sectors),
                ..Counters::default()
            });
        }
        let basic = columns.len() >= 11;
        let discard = columns.len() >= 15;
        let flush = columns.len() >= 17;
        let column = |index: usize, present: bool| if present { columns.get(index).copied() } else { None };
        basic.then(|| Counters {
            read_ios: column(0, basic),
            read_merges: column(1, basic),
            read_sectors: column(2, basic),
            read_ticks: column(3, basic),
            write_ios: column(4, basic),
            write_merges: column(5, basic),
            write_sectors: column(6, basic),
            write_ticks: column(7, basic),
            ios_pgr: column(8, basic),
            total_ticks: column(9, basic),
            weight_ticks: column(10, basic),
            discard_ios: column(11, discard),
            discard_merges: column(12, discard),
            discard_sectors: column(13, discard),
            discard_ticks: column(14, discard),
            flush_ios: column(15, flush),
            flush_ticks: column(16, flush),
        })
    }
}

/// Tells for each block device how much was read and written since it appeared.
fn stats(cx: &Ctx<'_>, _: args::Empty) -> Result<Vec<DiskStats>> {
    list_stats(cx.host)
}

fn list_stats(host: &Host) -> Result<Vec<DiskStats>> {
    let devices = diskstats::read(host).map_err(|error| Error::os("Could not open '/proc/diskstats'", &error))?;
    let entry = |device: diskstats::DiskStats| {
        let stats = Counters::new(&device.counters)?;
        Some(DiskStats { name: device.name, major: device.dev.0, minor: device.dev.1, stats })
    };
    Ok(devices.into_iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests;
