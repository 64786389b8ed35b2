//! The system time after the guest was stopped without noticing: asleep, restored from a snapshot,
//! migrated (`[clock] keep`).
//!
//! A second clock went on meanwhile: the host's own, where KVM shows it, else the hardware clock.
//! How far the two are apart is remembered. When something happens after which the guest may have
//! been stopped, a second look tells: a system time that has suddenly fallen behind is set once.
//! What it loses little by little is left to NTP, and what somebody sets on purpose stays.

use std::time::Duration;

use crate::host::Host;
use crate::host::kernel::Uptime;
use crate::host::linux::ptp;
use crate::host::linux::rtc::{self, Rtc};
use crate::protocol::error::os_reason;

const SECOND: i64 = 1_000_000_000;

/// Up to this the clocks are together.
const THRESHOLD: i64 = SECOND;

/// One in so many seconds is what two clocks may drift apart.
const DRIFT: i64 = 10_000;

/// A second clock that is farther away is in another zone, or wrong, and is not followed.
const TOGETHER: i64 = 300 * SECOND;

/// A time asleep shorter than this is the time between two looks.
const ASLEEP: i64 = SECOND / 10;

/// Why the clocks are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The guest may have been stopped.
    Stopped,
    /// The time was set, by somebody or by the end of a sleep.
    Set,
}

/// Who looks after the system time.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    last: Option<Look>,
    /// Why the time cannot be kept, as it was last told.
    told: String,
}

/// Both clocks at one moment.
#[derive(Debug)]
struct Look {
    clock: Clock,
    /// How far the second clock is ahead as it stands, in nanoseconds: from, to. It shows whole
    /// seconds only, and time passes while it is read.
    ahead: (i64, i64),
    /// By how much its zone makes it so.
    east: i64,
    uptime: Uptime,
}

/// A clock beside the system's own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Clock {
    Host(String),
    Hardware(String),
}

impl Clock {
    fn device(&self) -> &str {
        let (Clock::Host(device) | Clock::Hardware(device)) = self;
        device
    }
}

impl Keeper {
    /// Looks at the clocks, and sets the system's if it has fallen behind. May take a second.
    pub(crate) fn look(&mut self, host: &Host, cause: Cause) {
        let Some(now) = Look::take(host) else {
            self.tell("there is no hardware clock that can be read".to_owned());
            self.last = None;
            return;
        };
        let slept = |last: &Look| now.uptime.asleep - last.uptime.asleep > ASLEEP;
        let last = self.last.take().filter(|last| last.clock == now.clock);
        self.last = match last {
            Some(last) if (cause == Cause::Stopped || slept(&last)) && now.fell_behind(&last) => {
                set(host, &last);
                Look::take(host)
            }
            _ => Some(now),
        };
        self.tell(self.last.as_ref().and_then(Look::trouble).unwrap_or_default());
    }

    /// Says what is wrong, each thing once.
    fn tell(&mut self, trouble: String) {
        if !trouble.is_empty() && trouble != self.told {
            tracing::warn!("the clock is not kept: {trouble}");
        }
        self.told = trouble;
    }
}

impl Look {
    fn take(host: &Host) -> Option<Look> {
        Look::at_host_clock(host).or_else(|| Look::at_hardware_clock(host))
    }

    fn at_host_clock(host: &Host) -> Option<Look> {
        let device = ptp::find(host)?;
        let before = host.kernel().now();
        let time = ptp::read(host, &device).ok()?;
        let ahead = (time.saturating_sub(host.kernel().now()), time.saturating_sub(before));
        Some(Look { clock: Clock::Host(device), ahead, east: 0, uptime: host.kernel().uptime().ok()? })
    }

    fn at_hardware_clock(host: &Host) -> Option<Look> {
        let rtc = Rtc::find(host)?;
        let before = host.kernel().now();
        let shown = rtc.read().ok()?;
        let first = shown.saturating_mul(SECOND);
        let ahead = (first.saturating_sub(host.kernel().now()), first.saturating_add(SECOND).saturating_sub(before));
        let east = rtc::local_zone(host).map_or(0, |zone| shown.saturating_sub(zone.utc(shown)).saturating_mul(SECOND));
        Some(Look { clock: Clock::Hardware(rtc.device()), ahead, east, uptime: host.kernel().uptime().ok()? })
    }

    /// Whether the two clocks belong together.
    fn is_together(&self) -> bool {
        (-TOGETHER..=TOGETHER).contains(&self.ahead.0.saturating_sub(self.east))
    }

    /// Whether the system time has lost at least a second, suddenly, since an earlier look.
    fn fell_behind(&self, last: &Look) -> bool {
        let passed = self.uptime.awake - last.uptime.awake + self.uptime.asleep - last.uptime.asleep;
        let suddenly = self.ahead.0.saturating_sub(last.ahead.1) > THRESHOLD + passed / DRIFT;
        // A hardware clock that was given another zone, or the right time, is no sign.
        last.is_together() && suddenly && self.ahead.0.saturating_sub(self.east) > THRESHOLD
    }

    fn trouble(&self) -> Option<String> {
        let ahead = self.ahead.0.saturating_sub(self.east);
        let minutes = (ahead.unsigned_abs() / SECOND.unsigned_abs() + 30) / 60;
        let distance =
            if minutes < 120 { format!("{minutes} minutes") } else { format!("{} hours", (minutes + 30) / 60) };
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        let device = self.clock.device();
        (!self.is_together()).then(|| format!("'{device}' is {distance} {side} the system time"))
    }
}

/// Sets the system time to that of the second clock, if it still is behind when that is read exactly.
fn set(host: &Host, last: &Look) {
    let device = last.clock.device();
    let time = match &last.clock {
        Clock::Host(device) => ptp::read(host, device),
        Clock::Hardware(_) => {
            let Some(rtc) = Rtc::find(host) else { return };
            rtc.read_at_tick().map(|shown| shown.saturating_mul(SECOND).saturating_sub(last.east))
        }
    };
    let still = Look::take(host).is_some_and(|now| now.clock == last.clock && now.fell_behind(last));
    let time = match time {
        Ok(time) if still => time,
        Ok(_) => return,
        Err(reason) => {
            tracing::warn!("failed to read '{device}', the time is not set: {}", os_reason(&reason));
            return;
        }
    };
    let behind = Duration::from_nanos((time - host.kernel().now()).max(0).unsigned_abs());
    match host.kernel().set_now(time) {
        Ok(()) => tracing::warn!("the system time was {behind:.1?} behind '{device}', and was set"),
        Err(reason) => {
            tracing::warn!(
                "the system time is {behind:.1?} behind '{device}', and cannot be set: {}",
                os_reason(&reason)
            );
        }
    }
}

#[cfg(test)]
mod tests;
