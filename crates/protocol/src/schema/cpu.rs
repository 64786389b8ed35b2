//! Logical processors: which there are, starting and stopping them, and what they did.

use serde::{Deserialize, Serialize};

use super::{Command, Platforms};

/// `guest-get-vcpus`: lists the processors that are there (O11, O19).
///
/// On Linux from `/sys/devices/system/cpu`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetVcpus {}

impl Command for GuestGetVcpus {
    const NAME: &'static str = "guest-get-vcpus";
    const SINCE: &'static str = "1.5";
    const ERRORS: &'static [&'static str] =
        &["failed to list entries: /sys/devices/system/cpu: {reason}", "guest reported zero VCPUs"];
    type Returns<'r> = Vec<LogicalProcessor>;
}

/// A processor, or what to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogicalProcessor {
    /// Its number.
    pub logical_id: i64,
    /// Whether it runs, or shall run.
    pub online: bool,
    /// Whether the system lets it be stopped. Always in replies, ignored in arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_offline: Option<bool>,
}

/// `guest-set-vcpus`: starts and stops processors in the order given, and returns how many it processed (O20).
///
/// It ends at the first that fails; that is an error if it is the first of all. Those that
/// are in the wanted state already count as processed, so a client goes on with the rest of its list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetVcpus {
    /// The processors, each with the state that it shall have.
    pub vcpus: Vec<LogicalProcessor>,
}

impl Command for GuestSetVcpus {
    const NAME: &'static str = "guest-set-vcpus";
    const SINCE: &'static str = "1.5";
    const PLATFORMS: Platforms = Platforms::Linux;
    const ERRORS: &'static [&'static str] = &[
        "Could not open '/sys/devices/system/cpu/cpu{id}/': {reason}",
        "logical processor #{id} can't be offlined",
        "logical processor #{id} can't be offlined: no other one is online",
        "pwrite(\"/sys/devices/system/cpu/cpu{id}/online\"): {reason}",
        "failed to list entries: /sys/devices/system/cpu: {reason}",
    ];
    type Returns<'r> = usize;
}

/// `guest-get-cpustats`: says how each running processor spent its time since the guest started (O11).
///
/// On Linux from `/proc/stat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetCpustats {}

impl Command for GuestGetCpustats {
    const NAME: &'static str = "guest-get-cpustats";
    const SINCE: &'static str = "7.1";
    const PLATFORMS: Platforms = Platforms::Linux;
    const ERRORS: &'static [&'static str] = &["Could not open '/proc/stat': {reason}"];
    type Returns<'r> = Vec<CpuStats>;
}

/// What a processor did, as its system counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum CpuStats {
    /// As Linux counts.
    Linux(LinuxCpuStats),
}

/// What a processor did since the system started, in milliseconds. Old kernels do not count all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxCpuStats {
    /// The processor's number.
    pub cpu: u32,
    /// It ran programs; virtual machines are among them.
    pub user: u64,
    /// It ran programs of low priority.
    pub nice: u64,
    /// It ran the kernel.
    pub system: u64,
    /// It had nothing to do.
    pub idle: u64,
    /// It had nothing to do while a program waited for a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iowait: Option<u64>,
    /// It served interrupts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irq: Option<u64>,
    /// It did deferred work of interrupts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softirq: Option<u64>,
    /// The hypervisor took it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<u64>,
    /// It ran virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<u64>,
    /// It ran virtual machines of low priority.
    #[serde(rename = "guestnice", default, skip_serializing_if = "Option::is_none")]
    pub guest_nice: Option<u64>,
}
