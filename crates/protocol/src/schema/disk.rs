//! Disks and partitions, and what was read from and written to them.

use serde::{Deserialize, Serialize};

use super::{Command, Platforms};

/// `guest-get-disks`: lists all disks, except for empty drives, and their partitions (O11, O19).
///
/// On Linux from `/sys/block` and udev's database. Windows lists disks without their partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetDisks {}

impl Command for GuestGetDisks {
    const NAME: &'static str = "guest-get-disks";
    const SINCE: &'static str = "5.2";
    const ERRORS: &'static [&'static str] = &["Can't open directory \"/sys/block\": {reason}"];
    type Returns<'r> = Vec<DiskInfo>;
}

/// A disk or a partition. Name and partition are always there (O19).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The device node, as in `/dev/vda`; on Windows `\\.\PhysicalDrive0`.
    pub name: String,
    /// Whether it is a partition; its disk is the first of its dependencies.
    pub partition: bool,
    /// The device nodes of what it is made of: of the disk for a partition, of its members for a RAID. Empty for
    /// a disk that is made of nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Vec<String>>,
    /// Where it is in the machine; missing for partitions and for devices that other devices make up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<DiskAddress>,
    /// Its name for the device mapper, as in `vg-root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Its health, as it reports it; NVMe disks only. Since 7.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smart: Option<DiskSmart>,
}

/// A disk's place in the machine, as libvirt numbers them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskAddress {
    /// The controller's place on the PCI bus.
    pub pci_controller: PciAddress,
    /// How it is attached.
    pub bus_type: DiskBusType,
    /// Number of the bus or channel on the controller.
    pub bus: u32,
    /// Number of the target on the bus.
    pub target: u32,
    /// Logical unit of the target, or whatever tells disks apart on this kind of bus.
    pub unit: u32,
    /// The serial number, on Linux in the form in which udev has it. Since 3.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The device node. Since 3.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Its place in the channel subsystem, on IBM Z machines. Since 6.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ccw_address: Option<CcwAddress>,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBusType {
    /// IDE or parallel ATA.
    Ide,
    /// A floppy disk controller.
    Fdc,
    /// SCSI, virtio-scsi too.
    Scsi,
    /// virtio-blk.
    Virtio,
    /// Xen's block devices.
    Xen,
    /// USB.
    Usb,
    /// User-mode Linux's block devices.
    Uml,
    /// Serial ATA.
    Sata,
    /// An SD card.
    Sd,
    /// IEEE 1394.
    Ieee1394,
    /// Serial Storage Architecture.
    Ssa,
    /// Fibre Channel.
    Fibre,
    /// A RAID controller.
    Raid,
    /// iSCSI.
    Iscsi,
    /// Serial-attached SCSI.
    Sas,
    /// A multimedia card.
    Mmc,
    /// A virtual bus.
    Virtual,
    /// A virtual bus with a file behind it.
    FileBackedVirtual,
    /// NVM Express. Since 7.1.
    Nvme,
    /// None of these. A word that is not in this list is read as this one.
    #[serde(other)]
    Unknown,
}

/// A PCI function; all four are -1 when there is none or it is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciAddress {
    /// The domain.
    pub domain: i64,
    /// The bus in the domain.
    pub bus: i64,
    /// The slot on the bus.
    pub slot: i64,
    /// The function in the slot.
    pub function: i64,
}

/// A device in the channel subsystem of an IBM Z machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CcwAddress {
    /// The channel subsystem.
    pub cssid: u32,
    /// The set of subchannels.
    pub ssid: u32,
    /// The subchannel.
    pub subchno: u32,
    /// The device number.
    pub devno: u32,
}

/// A disk's health, as it reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum DiskSmart {
    /// An NVMe disk.
    Nvme(NvmeSmart),
}

/// The log page "SMART / Health Information" of an NVMe disk. Counters have 128 bits: a lower and an upper
/// half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NvmeSmart {
    /// A bit for each warning: spare blocks, temperature, reliability, read-only, backup of memory, persistent
    /// memory.
    pub critical_warning: u8,
    /// Kelvin.
    pub temperature: u16,
    /// Percent of the spare blocks that are left.
    pub available_spare: u8,
    /// Percent of the spare blocks below which `critical-warning` says so.
    pub available_spare_threshold: u8,
    /// Percent of the expected life; may be above 100.
    pub percentage_used: u8,
    /// Units of 512000 bytes read by the host.
    pub data_units_read_lo: u64,
    /// Upper half.
    pub data_units_read_hi: u64,
    /// Units of 512000 bytes written by the host.
    pub data_units_written_lo: u64,
    /// Upper half.
    pub data_units_written_hi: u64,
    /// Read commands.
    pub host_read_commands_lo: u64,
    /// Upper half.
    pub host_read_commands_hi: u64,
    /// Write commands.
    pub host_write_commands_lo: u64,
    /// Upper half.
    pub host_write_commands_hi: u64,
    /// Minutes that commands were outstanding.
    pub controller_busy_time_lo: u64,
    /// Upper half.
    pub controller_busy_time_hi: u64,
    /// Times that it was switched on.
    pub power_cycles_lo: u64,
    /// Upper half.
    pub power_cycles_hi: u64,
    /// Hours that it was on.
    pub power_on_hours_lo: u64,
    /// Upper half.
    pub power_on_hours_hi: u64,
    /// Times that it lost power without notice.
    pub unsafe_shutdowns_lo: u64,
    /// Upper half.
    pub unsafe_shutdowns_hi: u64,
    /// Errors of data that it could not correct.
    pub media_errors_lo: u64,
    /// Upper half.
    pub media_errors_hi: u64,
    /// Entries ever written to its error log.
    pub number_of_error_log_entries_lo: u64,
    /// Upper half.
    pub number_of_error_log_entries_hi: u64,
}

/// `guest-get-diskstats`: says for each block device how much was read and written since it appeared (O11).
///
/// On Linux from `/proc/diskstats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetDiskstats {}

impl Command for GuestGetDiskstats {
    const NAME: &'static str = "guest-get-diskstats";
    const SINCE: &'static str = "7.1";
    const PLATFORMS: Platforms = Platforms::Linux;
    const ERRORS: &'static [&'static str] = &["Could not open '/proc/diskstats': {reason}"];
    type Returns<'r> = Vec<DiskStatsInfo>;
}

/// A block device and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatsInfo {
    /// The kernel's name, as in `vda1`.
    pub name: String,
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Its counters.
    pub stats: DiskStats,
}

/// What the kernel counts for a block device. Sectors are of 512 bytes always. What this kernel does not
/// count is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DiskStats {
    /// Sectors read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_sectors: Option<u64>,
    /// Reads that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ios: Option<u64>,
    /// Reads that were merged with another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_merges: Option<u64>,
    /// Sectors written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_sectors: Option<u64>,
    /// Writes that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ios: Option<u64>,
    /// Writes that were merged with another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_merges: Option<u64>,
    /// Sectors discarded. Linux 4.18.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_sectors: Option<u64>,
    /// Discards that ended. Linux 4.18.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_ios: Option<u64>,
    /// Discards that were merged with another. Linux 4.18.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_merges: Option<u64>,
    /// Flushes that ended. Linux 5.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_ios: Option<u64>,
    /// Milliseconds that all reads waited, summed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ticks: Option<u64>,
    /// Milliseconds that all writes waited, summed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ticks: Option<u64>,
    /// Milliseconds that all discards waited, summed. Linux 4.18.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_ticks: Option<u64>,
    /// Milliseconds that all flushes waited, summed. Linux 5.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_ticks: Option<u64>,
    /// Requests under way now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ios_pgr: Option<u64>,
    /// Milliseconds during which requests were under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ticks: Option<u64>,
    /// Milliseconds that all requests waited, summed, those under way too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_ticks: Option<u64>,
}
