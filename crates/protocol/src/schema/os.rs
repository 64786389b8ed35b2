//! What the guest is and what it is called: system, host name, time zone, load.

use serde::{Deserialize, Serialize};

use super::Command;

/// `guest-get-host-name`: the name of the guest, from its kernel and never from a name service (O11, O19).
///
/// On Linux by uname(2), and from `/etc/hostname` when the kernel has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetHostName {}

impl Command for GuestGetHostName {
    const NAME: &'static str = "guest-get-host-name";
    const SINCE: &'static str = "2.10";
    const ERRORS: &'static [&'static str] = &["cannot get hostname: {reason}"];
    type Returns<'r> = HostName;
}

/// The name of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostName {
    /// The name, never empty; often without a domain.
    pub host_name: String,
}

/// `guest-get-osinfo`: says which operating system the guest runs (O11).
///
/// On Linux by uname(2) and os-release(5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetOsinfo {}

impl Command for GuestGetOsinfo {
    const NAME: &'static str = "guest-get-osinfo";
    const SINCE: &'static str = "2.10";
    const ERRORS: &'static [&'static str] = &["uname: {reason}"];
    type Returns<'r> = OsInfo;
}

/// An operating system. What is unknown is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct OsInfo {
    /// The kernel's release, as in `6.12.0-1-amd64`; on Windows the build, as in `26100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// The kernel's version; a text on Linux, as in `10.0` on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    /// The architecture, as in `x86_64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// `ID` of os-release, as in `debian`; `mswindows` on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `NAME` of os-release, as in `Debian GNU/Linux`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `PRETTY_NAME` of os-release: name and version for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
    /// `VERSION` of os-release: the version for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `VERSION_ID` of os-release: the version for programs, as in `13`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// `VARIANT` of os-release, as in `Workstation Edition`; `server` or `client` on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `VARIANT_ID` of os-release, as in `workstation`; `server` or `client` on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant_id: Option<String>,
}

/// `guest-get-timezone`: the time zone, as it is at this moment (O19).
///
/// On Linux from the agent's `TZ` or `/etc/localtime`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetTimezone {}

impl Command for GuestGetTimezone {
    const NAME: &'static str = "guest-get-timezone";
    const SINCE: &'static str = "2.10";
    type Returns<'r> = Timezone;
}

/// A time zone at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timezone {
    /// Its abbreviation, as in `CEST`; on Windows its name in the system's language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Seconds east of UTC, with daylight saving time.
    pub offset: i32,
}

/// `guest-get-load`: the load averages (O11).
///
/// Since 10.1 on Windows, which starts to measure when it is first asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetLoad {}

impl Command for GuestGetLoad {
    const NAME: &'static str = "guest-get-load";
    const SINCE: &'static str = "10.0";
    const ERRORS: &'static [&'static str] = &["cannot query load average: {reason}"];
    type Returns<'r> = LoadAverage;
}

/// How many tasks ran or waited to run, on average; on Linux also those that waited for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadAverage {
    /// Over one minute.
    pub load1m: f64,
    /// Over five minutes.
    pub load5m: f64,
    /// Over 15 minutes.
    pub load15m: f64,
}
