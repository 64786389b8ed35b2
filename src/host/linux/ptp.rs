//! The host's clock as KVM shows it to its guests: `/sys/class/ptp` and `/dev/ptpN` of the driver
//! `ptp_kvm`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::host::Host;

const CLASS: &str = "/sys/class/ptp";

/// What the driver calls its clock. Others count the time of a network or in a zone of their own.
const NAME: &str = "KVM virtual PTP";

/// The device of the host's clock; `None` where there is none, or its driver is not loaded.
pub fn find(host: &Host) -> Option<String> {
    let names = host.list(CLASS).unwrap_or_default();
    let mut names = names.into_iter().filter_map(|name| name.into_string().ok());
    let is_host = |name: &String| host.read_attribute(format!("{CLASS}/{name}/clock_name")).is_ok_and(|is| is == NAME);
    names.find(is_host).map(|name| format!("/dev/{name}"))
}

/// The host's time in nanoseconds since 1970, UTC.
///
/// # Errors
/// The system's own: `EOPNOTSUPP` where the host counts time by something that guests cannot read.
pub fn read(host: &Host, device: &str) -> io::Result<i64> {
    let device = File::open(host.path(device))?;
    host.kernel().device_now(device.as_fd())
}
