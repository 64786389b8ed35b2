//! Logical processors: `/sys/devices/system/cpu` (Linux's cputopology.rst, cpu-hotplug) and the times
//! in `/proc/stat` (proc_stat(5)).

use std::io;
use std::time::Instant;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::host::Host;

/// The directory of processors.
pub const DIRECTORY: &str = "/sys/devices/system/cpu";

/// The file of times.
pub const TIMES: &str = "/proc/stat";

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cpu {
    /// Its number.
    #[serde(rename = "logical-id")]
    pub id: u32,
    /// Whether it runs.
    pub online: bool,
    /// Whether the kernel lets it be stopped: it has a switch.
    pub can_offline: bool,
}

/// All processors that are there, by number.
///
/// # Errors
/// The directory of processors cannot be read.
pub fn all(host: &Host) -> io::Result<Vec<Cpu>> {
    // Some architectures have directories for processors that may yet be plugged in as well.
    let present = host.read_attribute(format!("{DIRECTORY}/present")).ok().and_then(|list| ranges(&list));
    let ids: Vec<u32> = match present {
        Some(list) => list.into_iter().flatten().collect(),
        None => {
            let names = host.list(DIRECTORY)?;
            let mut ids: Vec<u32> = names.iter().filter_map(|name| number(name.to_str()?, "cpu")).collect();
            ids.sort_unstable();
            ids
        }
    };
    Ok(ids.into_iter().filter_map(|id| one(host, id)).collect())
}

/// One processor; `None` when it is not there, or is just being unplugged.
fn one(host: &Host, id: u32) -> Option<Cpu> {
    match switch(host, i64::from(id)) {
        Ok(online) => Some(Cpu { id, online: online.unwrap_or(true), can_offline: online.is_some() }),
        Err(_) => None,
    }
}

/// The directory of a processor, whether it is there or not.
pub fn directory(id: i64) -> String {
    format!("{DIRECTORY}/cpu{id}/")
}

/// The position of a processor's switch; `None` when the processor has none and always runs.
///
/// # Errors
/// There is no such processor, or its switch cannot be read.
pub fn switch(host: &Host, id: i64) -> io::Result<Option<bool>> {
    match host.read_attribute(format!("{}online", directory(id))) {
        Ok(state) => Ok(Some(!state.is_empty() && !state.starts_with('0'))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && host.exists(directory(id)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts or stops a processor.
///
/// # Errors
/// The kernel's own: `EBUSY` for one that has to run; `ETIMEDOUT` at the deadline.
pub fn set_switch(host: &Host, id: i64, online: bool, deadline: Instant) -> io::Result<()> {
    host.turn(format!("{}online", directory(id)), if online { "1" } else { "0" }, deadline)
}

/// The number behind a prefix in a name such as `cpu12`.
pub(crate) fn number<T: std::str::FromStr>(name: &str, prefix: &str) -> Option<T> {
    let digits = name.strip_prefix(prefix)?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The kernel's notation for sets: `0-3,8,10-11`.
fn ranges(list: &str) -> Option<Vec<std::ops::RangeInclusive<u32>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').map(range).collect()
}

/// What a processor did since the system started, in milliseconds. The later columns are missing
/// in old kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "linux")]
pub struct Times {
    /// The processor's number.
    pub cpu: u32,
    /// In programs, also that of guests.
    pub user: u64,
    /// In programs of low priority.
    pub nice: u64,
    /// In the kernel.
    pub system: u64,
    /// Nothing.
    pub idle: u64,
    /// Nothing, while somebody waited for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iowait: Option<u64>,
    /// In interrupts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irq: Option<u64>,
    /// In deferred work of interrupts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub softirq: Option<u64>,
    /// Taken by the hypervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal: Option<u64>,
    /// In virtual machines of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<u64>,
    /// In virtual machines of low priority.
    #[serde(rename = "guestnice", skip_serializing_if = "Option::is_none")]
    pub guest_nice: Option<u64>,
}

/// The times of all processors that run.
///
/// # Errors
/// The file cannot be read.
pub fn times(host: &Host) -> io::Result<Vec<Times>> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    let text = host.read_text(TIMES)?;
    // The lines of processors come first.
    let lines = text.lines().take_while(|line| line.starts_with("cpu"));
    Ok(lines.filter_map(|line| Times::parse(line, ticks.unwrap_or(100))).collect())
}

impl Times {
    /// Reads `cpu0 1 2 3 4...`, with so many ticks in a second; `None` for other lines.
    fn parse(line: &str, ticks: u64) -> Option<Times> {
        let mut words = line.split_ascii_whitespace();
        let cpu = number(words.next()?, "cpu")?;
        let milliseconds = |word: &str| {
            let time = u128::from(word.parse::<u64>().ok()?) * 1000 / u128::from(ticks.max(1));
            u64::try_from(time).ok()
        };
        let mut columns = words.map_while(milliseconds);
        Some(Times {
            cpu,
            user: columns.next()?,
            nice: columns.next()?,
            system: columns.next()?,
            idle: columns.next()?,
            iowait: columns.next(),
            irq: columns.next(),
            softirq: columns.next(),
            steal: columns.next(),
            guest: columns.next(),
            guest_nice: columns.next(),
        })
    }
}
