//! Virtual devices and their drivers, on Windows.

use serde::{Deserialize, Serialize};

use super::{Command, Platforms};

/// `guest-get-devices`: lists the virtual devices with their drivers.
///
/// Those are devices of the PCI vendors 0x1af4 and 0x1b36.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetDevices {}

impl Command for GuestGetDevices {
    const NAME: &'static str = "guest-get-devices";
    const SINCE: &'static str = "5.2";
    const PLATFORMS: Platforms = Platforms::Windows;
    const ERRORS: &'static [&'static str] = &["failed to get device tree: {reason}"];
    type Returns<'r> = Vec<DeviceInfo>;
}

/// A device and its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceInfo {
    /// The name of the device, as in `Red Hat VirtIO Ethernet Adapter`.
    pub driver_name: String,
    /// The date of the driver: nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_date: Option<i64>,
    /// The version of the driver, as in `100.85.104.20800`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<DeviceId>,
}

/// What a device is, as its bus has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum DeviceId {
    /// A PCI device.
    Pci(DeviceIdPci),
}

/// What a PCI device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceIdPci {
    /// The vendor.
    pub vendor_id: u16,
    /// The vendor's number of the device.
    pub device_id: u16,
}
