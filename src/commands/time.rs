//! The system time and the hardware clock.

use std::time::Duration;

use serde::Deserialize;

use super::{Command, Ctx, Empty, Lane};
use crate::host::Host;
use crate::host::linux::rtc::{self, Rtc};
use crate::host::run::Program;
use crate::protocol::args;
use crate::protocol::error::{Error, Result};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-get-time", |cx, a| cx.call(get_time, a)).lane(Lane::Inline),
    Command::new("guest-set-time", |cx, a| cx.call(set_time, a)),
];

const SECOND: i64 = 1_000_000_000;

/// Upstream's words, for both directions.
const ACTION: &str = "set hardware clock to system time";

/// The system time in nanoseconds since 1970, UTC (O26).
fn get_time(cx: &Ctx<'_>, _: args::Empty) -> Result<i64> {
    Ok(cx.host.kernel().now())
}

#[derive(Deserialize)]
struct SetTime {
    time: Option<i64>,
}

/// Sets the system time and then the hardware clock; without a time, the system time from the
/// hardware clock, which is what is wanted after a restored snapshot (O26).
fn set_time(cx: &Ctx<'_>, args: SetTime) -> Result<Empty> {
    let host = cx.host;
    match args.time {
        Some(time) => set_both(host, time)?,
        None => from_hardware(host)?,
    }
    Ok(Empty {})
}

fn set_both(host: &Host, time: i64) -> Result<()> {
    if time < 0 {
        return Err(Error::new("Invalid time: Numerical result out of range"));
    }
    set_system(host, time)?;
    // Clients may repeat the command when it fails, so say that half of it was done.
    set_hardware(host, time / SECOND).map_err(|error| Error::new(format!("the system time was set, but {error}")))
}

fn set_system(host: &Host, time: i64) -> Result<()> {
    host.kernel().set_now(time).map_err(|reason| match reason.raw_os_error() {
        Some(nix::libc::EOVERFLOW) => Error::new(format!("Time {time} is too large")),
        _ => Error::os("Failed to set time to guest", &reason),
    })
}

fn set_hardware(host: &Host, seconds: i64) -> Result<()> {
    let Some(clock) = Rtc::find(host) else { return hwclock(host, "-w") };
    let shown = match rtc::local_zone(host) {
        Some(zone) => seconds.saturating_add(zone.at(seconds).0.into()),
        None => seconds,
    };
    clock.write(shown).or_else(|reason| {
        let own = Error::os(format!("failed to {ACTION}: '{}'", clock.device()), &reason);
        hwclock(host, "-w").map_err(|_| own)
    })
}

fn from_hardware(host: &Host) -> Result<()> {
    let Some(clock) = Rtc::find(host) else { return hwclock(host, "-s") };
    match clock.read_at_tick() {
        Ok(shown) => {
            let seconds = rtc::local_zone(host).map_or(shown, |zone| zone.utc(shown));
            set_system(host, seconds.saturating_mul(SECOND))
        }
        Err(reason) => {
            let own = Error::os(format!("failed to read hardware clock '{}'", clock.device()), &reason);
            hwclock(host, "-s").map_err(|_| own)
        }
    }
}

/// Kernels without `/sys/class/rtc` may have a clock that only the program knows how to reach.
fn hwclock(host: &Host, direction: &str) -> Result<()> {
    if host.program("hwclock").is_none() {
        return Err(Error::new(format!("failed to {ACTION}: there is no hardware clock")));
    }
    let program = Program::new("hwclock").args([direction]).deadline(Duration::from_secs(20));
    host.run_to(ACTION, &program)
}

#[cfg(test)]
mod tests;
