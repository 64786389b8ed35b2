//! Hardware clocks: `/sys/class/rtc`, `/dev/rtcN` and `/etc/adjtime` (rtc(4), hwclock(8)).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tz::UtcDateTime;

use super::timezone::{Environment, Zone};
use crate::host::Host;

const CLASS: &str = "/sys/class/rtc";

/// The file in which hwclock(8) keeps, on its third line, whether the clock has local time.
const ADJTIME: &str = "/etc/adjtime";

/// How often a clock is looked at while its next second is waited for.
const STEP: Duration = Duration::from_millis(5);

/// `struct rtc_time` of linux/rtc.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    second: i32,
    minute: i32,
    hour: i32,
    month_day: i32,
    /// January is 0.
    month: i32,
    /// 1900 is 0.
    year: i32,
    /// Sunday is 0. The kernel reads neither this nor the two below.
    week_day: i32,
    year_day: i32,
    is_dst: i32,
}

impl Fields {
    /// The calendar's fields of a number of seconds since 1970, as a clock in the same zone has
    /// them. `None` in years that no calendar reaches.
    pub fn new(seconds: i64) -> Option<Fields> {
        let time = UtcDateTime::from_timespec(seconds, 0).ok()?;
        Some(Fields {
            second: time.second().into(),
            minute: time.minute().into(),
            hour: time.hour().into(),
            month_day: time.month_day().into(),
            month: i32::from(time.month()) - 1,
            year: time.year().checked_sub(1900)?,
            week_day: time.week_day().into(),
            year_day: time.year_day().into(),
            is_dst: 0,
        })
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields { second, minute, hour, month_day, .. } = self;
        let (year, month) = (i64::from(self.year) + 1900, self.month + 1);
        write!(f, "{year:04}-{month:02}-{month_day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

/// A hardware clock.
pub struct Rtc<'h> {
    host: &'h Host,
    name: String,
}

impl Rtc<'_> {
    /// The clock that the kernel took its time from at boot, else the first one.
    pub fn find(host: &Host) -> Option<Rtc<'_>> {
        let names = host.list(CLASS).unwrap_or_default();
        let mut names: Vec<_> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        // rtc10 comes after rtc2.
        names.sort_by_key(|name| (name.len(), name.clone()));
        let set_the_time =
            |name: &String| host.read_attribute(format!("{CLASS}/{name}/hctosys")).is_ok_and(|value| value == "1");
        let chosen = names.iter().position(set_the_time).unwrap_or(0);
        let name = names.into_iter().nth(chosen)?;
        Some(Rtc { host, name })
    }

    /// The file of the clock.
    pub fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// What the clock shows, in seconds since 1970 in its own zone.
    ///
    /// From `/sys`, since the device can be open only once and may be taken.
    pub fn read(&self) -> io::Result<i64> {
        let text = self.host.read_attribute(format!("{CLASS}/{}/since_epoch", self.name))?;
        text.parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// As `read`, at the moment at which the clock's second begins; a clock that stands still is
    /// taken as it is. Clocks show whole seconds, so without this the time is half a second late
    /// on average.
    pub fn read_at_tick(&self) -> io::Result<i64> {
        let before = self.read()?;
        let mut waited = Duration::ZERO;
        while waited < Duration::from_millis(1100) {
            self.host.kernel().sleep(STEP);
            waited += STEP;
            let seconds = self.read()?;
            if seconds != before {
                return Ok(seconds);
            }
        }
        Ok(before)
    }

    /// Sets the clock, in seconds since 1970 in its own zone.
    ///
    /// Right away: PC clocks begin the next second half a second after they were set, so a time
    /// without its fraction is off by half a second at most.
    pub fn write(&self, seconds: i64) -> io::Result<()> {
        let fields = Fields::new(seconds).ok_or(io::ErrorKind::InvalidInput)?;
        let device = File::open(self.host.path(self.device()))?;
        self.host.kernel().set_rtc(device.as_fd(), &fields)
    }
}

/// Whether the hardware clock has local time, for the sake of other systems on the machine.
pub fn has_local_time(host: &Host) -> bool {
    let text = host.read_text(ADJTIME).unwrap_or_default();
    text.lines().nth(2).is_some_and(|line| line.trim() == "LOCAL")
}

/// The zone of the hardware clock, when that has not UTC.
pub fn local_zone(host: &Host) -> Option<Zone> {
    has_local_time(host).then(|| Zone::local(host, &Environment::own()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::fake::FakeKernel;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().expect("directory");
        let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
        for (path, text) in files {
            let path = host.path(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
            fs::write(path, text).expect("file");
        }
        (dir, host)
    }

    #[test]
    fn fields_are_the_kernels() {
        let fields = Fields::new(951_827_696).expect("fields");
        let leap = Fields {
            second: 56,
            minute: 34,
            hour: 12,
            month_day: 29,
            month: 1,
            year: 100,
            week_day: 2,
            year_day: 59,
            is_dst: 0,
        };
        assert_eq!(fields, leap);
        assert_eq!(fields.to_string(), "2000-02-29 12:34:56");
        assert_eq!(size_of::<Fields>(), 36);
        assert_eq!(Fields::new(i64::MAX), None);
    }

    #[test]
    fn the_clock_that_set_the_time_is_chosen() {
        let (_dir, host) = machine(&[
            ("/sys/class/rtc/rtc0/hctosys", "0\n"),
            ("/sys/class/rtc/rtc10/hctosys", "0\n"),
            ("/sys/class/rtc/rtc2/hctosys", "1\n"),
        ]);
        assert_eq!(Rtc::find(&host).expect("a clock").device(), "/dev/rtc2");
    }

    #[test]
    fn else_it_is_the_first_one() {
        let (_dir, host) = machine(&[("/sys/class/rtc/rtc2/name", "a"), ("/sys/class/rtc/rtc10/name", "b")]);
        assert_eq!(Rtc::find(&host).expect("a clock").device(), "/dev/rtc2");
        let (_dir, host) = machine(&[]);
        assert!(Rtc::find(&host).is_none());
    }

    #[test]
    fn a_clock_that_stands_still_or_shows_nonsense() {
        let (_dir, host) = machine(&[("/sys/class/rtc/rtc0/since_epoch", "1700000000\n")]);
        assert_eq!(Rtc::find(&host).expect("a clock").read_at_tick().expect("time"), 1_700_000_000);
        let (_dir, host) = machine(&[("/sys/class/rtc/rtc0/since_epoch", "\u{fffd}\n")]);
        let error = Rtc::find(&host).expect("a clock").read().expect_err("nonsense");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn local_time_is_said_on_the_third_line() {
        let local = |text| has_local_time(&machine(&[(ADJTIME, text)]).1);
        assert!(local("0.0 0 0.0\n0\nLOCAL\n"));
        assert!(local("0.0 0 0.0\n0\nLOCAL"));
        assert!(!local("0.0 0 0.0\n0\nUTC\n"));
        assert!(!local("LOCAL\n"));
        assert!(!local(""));
        assert!(!has_local_time(&machine(&[]).1));
    }
}
