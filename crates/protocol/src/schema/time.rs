//! The system time.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// `guest-get-time`: the system time in nanoseconds since 1970, UTC (O26).
///
/// QEMU's agent counts in microseconds on Linux and in units of 100 ns on Windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetTime {}

impl Command for GuestGetTime {
    const NAME: &'static str = "guest-get-time";
    const SINCE: &'static str = "1.5";
    type Returns<'r> = i64;
}

/// `guest-set-time`: sets the system time and then the hardware clock (O26).
///
/// On Linux by clock_settime(2) and `/dev/rtc`, else by hwclock(8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetTime {
    /// Nanoseconds since 1970, UTC; not negative. Without it, the system time is set from the hardware clock
    /// (from the time service on Windows), which is what is wanted after a restored snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}

impl Command for GuestSetTime {
    const NAME: &'static str = "guest-set-time";
    const SINCE: &'static str = "1.5";
    const ERRORS: &'static [&'static str] = &[
        "Invalid time: {reason}",
        "Time {time} is too large",
        "Failed to set time to guest: {reason}",
        "failed to set hardware clock to system time: '{device}': {reason}",
        "failed to set hardware clock to system time: there is no hardware clock",
        "failed to read hardware clock '{device}': {reason}",
        "the system time was set, but {error}",
        "child process has failed to set hardware clock to system time: {output}",
        "child process has terminated abnormally: {output}",
    ];
    type Returns<'r> = Empty;
}
