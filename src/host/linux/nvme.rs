//! NVMe disks: their controllers and their health.

use serde::Serialize;

use super::block::{Device, linked, parent};
use crate::host::Host;

/// The directories of the controllers behind a disk that has several paths.
///
/// Such a disk hangs below a virtual "subsystem" instead of a controller. A controller of a disk
/// with one path is in the disk's own path, and none is returned.
pub fn controllers(host: &Host, device: &Device) -> Vec<String> {
    let subsystem = parent(device.disk_path());
    if !subsystem.contains("/devices/virtual/nvme-subsystem/") {
        return Vec::new();
    }
    let links = linked(host, subsystem).unwrap_or_default();
    // `subsystem` and `power` are there too; controllers lie in a directory `nvme` or `ctl`.
    let controllers = links.iter().filter(|link| {
        let digits = link.name().strip_prefix("nvme").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    controllers.map(|link| link.path().to_owned()).collect()
}

/// What a disk says of its own health. 128-bit counters are in two halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "type", rename = "nvme")]
#[allow(missing_docs)]
pub struct Health {
    /// Bits, see the specification.
    pub critical_warning: u8,
    /// Kelvin.
    pub temperature: u16,
    /// Percent.
    pub available_spare: u8,
    /// Percent.
    pub available_spare_threshold: u8,
    /// Percent; may exceed 100.
    pub percentage_used: u8,
    /// Units of 512000 bytes.
    pub data_units_read_lo: u64,
    pub data_units_read_hi: u64,
    pub data_units_written_lo: u64,
    pub data_units_written_hi: u64,
    pub host_read_commands_lo: u64,
    pub host_read_commands_hi: u64,
    pub host_write_commands_lo: u64,
    pub host_write_commands_hi: u64,
    /// Minutes.
    pub controller_busy_time_lo: u64,
    pub controller_busy_time_hi: u64,
    pub power_cycles_lo: u64,
    pub power_cycles_hi: u64,
    pub power_on_hours_lo: u64,
    pub power_on_hours_hi: u64,
    pub unsafe_shutdowns_lo: u64,
    pub unsafe_shutdowns_hi: u64,
    pub media_errors_lo: u64,
    pub media_errors_hi: u64,
    pub number_of_error_log_entries_lo: u64,
    pub number_of_error_log_entries_hi: u64,
}

impl Health {
    /// Reads the log page "SMART / Health Information" (NVMe base specification, figure 207).
    pub fn parse(page: &[u8; 512]) -> Health {
        // Eight bytes at a time, little-endian; the counters begin at byte 32.
        let counter = |index: usize| {
            let bytes = page.chunks_exact(8).nth(4 + index);
            bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        Health {
            critical_warning: page[0],
            temperature: u16::from_le_bytes([page[1], page[2]]),
            available_spare: page[3],
            available_spare_threshold: page[4],
            percentage_used: page[5],
            data_units_read_lo: counter(0),
            data_units_read_hi: counter(1),
            data_units_written_lo: counter(2),
            data_units_written_hi: counter(3),
            host_read_commands_lo: counter(4),
            host_read_commands_hi: counter(5),
            host_write_commands_lo: counter(6),
            host_write_commands_hi: counter(7),
            controller_busy_time_lo: counter(8),
            controller_busy_time_hi: counter(9),
            power_cycles_lo: counter(10),
            power_cycles_hi: counter(11),
            power_on_hours_lo: counter(12),
            power_on_hours_hi: counter(13),
            unsafe_shutdowns_lo: counter(14),
            unsafe_shutdowns_hi: counter(15),
            media_errors_lo: counter(16),
            media_errors_hi: counter(17),
            number_of_error_log_entries_lo: counter(18),
            number_of_error_log_entries_hi: counter(19),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_at_the_specifications_offsets() {
        let mut page = [0; 512];
        page[..6].copy_from_slice(&[1, 0x2c, 0x01, 100, 10, 3]);
        page[32] = 5;
        page[112] = 7;
        page[120] = 1;
        page[176 + 8 + 7] = 0x80;
        let health = Health::parse(&page);
        assert_eq!((health.critical_warning, health.temperature, health.percentage_used), (1, 300, 3));
        assert_eq!((health.available_spare, health.available_spare_threshold), (100, 10));
        assert_eq!(health.data_units_read_lo, 5);
        assert_eq!((health.power_cycles_lo, health.power_cycles_hi), (7, 1));
        assert_eq!(health.number_of_error_log_entries_hi, 1 << 63);
    }

    #[test]
    fn the_type_comes_with_the_members() {
        let json = serde_json::to_value(Health::parse(&[0; 512])).expect("serializes");
        assert_eq!(json["type"], "nvme");
        assert_eq!(json["media-errors-hi"], 0);
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(26));
    }
}
