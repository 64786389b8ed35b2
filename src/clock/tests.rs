use nix::errno::Errno;

use super::*;
use crate::host::Kernel;
use crate::host::fake::{Effect, FakeKernel, Outcome};
use crate::host::fixture::Machine;

const HOUR: i64 = 3600 * SECOND;

const NEVER: [i64; 0] = [];

/// A guest whose two clocks show the same, give or take the fraction of a second.
struct Guest {
    machine: Machine,
    keeper: Keeper,
    /// How far the second clock is ahead.
    ahead: i64,
    by_host_clock: bool,
}

impl Guest {
    fn new(by_host_clock: bool) -> Guest {
        let machine = Machine::new("/sys/class/rtc/rtc0/since_epoch -> 0\n/dev/rtc0 -> -\n/etc/adjtime -> 0");
        if by_host_clock {
            machine.add(
                "/sys/class/ptp/ptp0/clock_name -> a network's\n/sys/class/ptp/ptp1/clock_name -> KVM virtual PTP",
            );
            machine.add("/dev/ptp1 -> -");
        }
        let mut guest = Guest { machine, keeper: Keeper::default(), ahead: 0, by_host_clock };
        guest.show();
        guest.look(Cause::Set);
        guest
    }

    fn both(test: impl Fn(Guest)) {
        test(Guest::new(false));
        test(Guest::new(true));
    }

    fn kernel(&self) -> &FakeKernel {
        &self.machine.kernel
    }

    /// Brings the second clock to where it belongs.
    fn show(&self) {
        let time = self.kernel().now() + self.ahead;
        self.machine.file("/sys/class/rtc/rtc0/since_epoch", format!("{}\n", time / SECOND));
        if self.by_host_clock {
            self.kernel().set_device_clock(Some(time));
        }
    }

    /// The guest is stopped without noticing.
    fn stop(&mut self, length: i64) {
        self.ahead += length;
        self.show();
    }

    /// The guest runs, and the second clock does, a little faster or slower.
    fn run(&mut self, length: i64, drift: i64) {
        self.kernel().run(length, 0);
        self.kernel().sleep(Duration::from_nanos(length.unsigned_abs()));
        self.ahead += drift;
        self.show();
    }

    fn look(&mut self, cause: Cause) {
        self.keeper.look(&self.machine.host(), cause);
    }

    /// To what the time was set since this was last asked, in seconds of the second clock.
    fn set_to(&self) -> Vec<i64> {
        let set = |effect: Effect| match effect {
            Effect::SetTime(time) => time / SECOND,
            other => panic!("{other:?}"),
        };
        self.kernel().effects().into_iter().map(set).collect()
    }

    fn shown(&self) -> i64 {
        let text = self.machine.host().read_attribute("/sys/class/rtc/rtc0/since_epoch").expect("a clock");
        text.parse().expect("a number")
    }
}

#[test]
fn a_guest_that_was_stopped_gets_the_time_once() {
    Guest::both(|mut guest| {
        guest.stop(HOUR);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to(), [guest.shown()]);
        // Which the kernel tells of, and then the next request comes.
        guest.ahead = 0;
        guest.show();
        guest.look(Cause::Set);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to().len(), 1);
        guest.stop(2 * HOUR);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to().len(), 2);
    });
}

#[test]
fn clocks_that_are_together_are_left_alone() {
    Guest::both(|mut guest| {
        for _ in 0..100 {
            guest.run(7 * SECOND + SECOND / 3, 0);
            guest.look(Cause::Stopped);
        }
        assert_eq!(guest.set_to(), NEVER);
    });
}

#[test]
fn a_second_is_no_reason() {
    Guest::both(|mut guest| {
        guest.stop(THRESHOLD - SECOND / 10);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to(), NEVER);
    });
    let mut guest = Guest::new(true);
    guest.stop(THRESHOLD + SECOND / 10);
    guest.look(Cause::Stopped);
    assert_eq!(guest.set_to().len(), 1);
    // Of whole seconds, the fractions may be anywhere; and here the clock stands still while its next
    // second is waited for.
    let mut guest = Guest::new(false);
    guest.stop(5 * SECOND);
    guest.look(Cause::Stopped);
    assert_eq!(guest.set_to().len(), 1);
}

#[test]
fn the_time_is_never_set_back() {
    Guest::both(|mut guest| {
        for _ in 0..3 {
            guest.stop(-HOUR);
            guest.look(Cause::Stopped);
        }
        assert_eq!(guest.set_to(), NEVER);
    });
}

#[test]
fn what_clocks_lose_little_by_little_is_left_to_ntp() {
    Guest::both(|mut guest| {
        // A month at rest, with a host whose clock drifts by 4 s a day.
        guest.run(30 * 24 * HOUR, 120 * SECOND);
        guest.look(Cause::Stopped);
        // And a month of requests.
        for _ in 0..30 * 24 {
            guest.run(HOUR, SECOND / 6);
            guest.look(Cause::Stopped);
        }
        assert_eq!(guest.set_to(), NEVER);
        // It is kept all the same.
        guest.stop(HOUR);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to().len(), 1);
    });
}

#[test]
fn what_somebody_sets_on_purpose_stays() {
    Guest::both(|mut guest| {
        // The system's own time was set back by a day: the other one is ahead by that much.
        guest.stop(24 * HOUR);
        guest.look(Cause::Set);
        for _ in 0..3 {
            guest.run(10 * SECOND, 0);
            guest.look(Cause::Stopped);
        }
        // Nor is it followed from then on, as long as it is a matter of taste.
        guest.stop(HOUR);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to(), NEVER);
        // Somebody puts it right again.
        guest.ahead = 0;
        guest.show();
        guest.look(Cause::Set);
        guest.stop(HOUR);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to().len(), 1);
    });
}

#[test]
fn the_end_of_a_sleep_is_told_as_a_time_that_is_set() {
    Guest::both(|mut guest| {
        guest.kernel().run(0, HOUR);
        guest.look(Cause::Set);
        assert_eq!(guest.set_to(), NEVER, "the kernel saw to it");
        // And if it did not:
        guest.kernel().run(0, HOUR);
        guest.stop(HOUR);
        guest.look(Cause::Set);
        assert_eq!(guest.set_to(), [guest.shown()]);
    });
}

#[test]
fn a_hardware_clock_that_is_put_right_is_no_sign() {
    let mut guest = Guest::new(false);
    guest.ahead = -4 * 60 * SECOND;
    guest.show();
    guest.look(Cause::Set);
    guest.stop(4 * 60 * SECOND);
    guest.look(Cause::Stopped);
    assert_eq!(guest.set_to(), NEVER);
}

/// A zone that has summer in the northern half of the year (tzfile(5), with a rule and nothing else).
fn central_europe() -> Vec<u8> {
    let mut header = b"TZif2".to_vec();
    header.resize(20, 0);
    for count in [0, 0, 0, 0, 1, 4_u32] {
        header.extend(count.to_be_bytes());
    }
    let body = [&[0; 6], &b"CET\0"[..]].concat();
    [header.clone(), body.clone(), header, body, b"\nCET-1CEST,M3.5.0,M10.5.0/3\n".to_vec()].concat()
}

/// A guest whose hardware clock has local time; by how much that is more than UTC now.
fn local_time() -> (Guest, i64) {
    let mut guest = Guest::new(false);
    guest.machine.file("/etc/localtime", central_europe());
    guest.machine.file("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n");
    let zone = rtc::local_zone(&guest.machine.host()).expect("local time");
    let east = i64::from(zone.at(guest.kernel().now() / SECOND).0) * SECOND;
    guest.ahead = east;
    guest.show();
    guest.look(Cause::Set);
    assert_eq!(guest.keeper.told, "");
    (guest, east)
}

#[test]
fn a_hardware_clock_with_local_time() {
    let (mut guest, east) = local_time();
    guest.stop(HOUR);
    guest.look(Cause::Stopped);
    assert_eq!(guest.set_to(), [guest.shown() - east / SECOND]);
}

/// The hardware clock shows what it showed, the zone has moved; then somebody puts it right.
#[test]
fn a_hardware_clock_with_local_time_when_summer_begins_and_ends() {
    let (mut guest, _) = local_time();
    for half_a_year in 0..4 {
        guest.run(182 * 24 * HOUR, 0);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to(), NEVER, "{half_a_year}");
        guest.stop(if half_a_year % 2 == 0 { HOUR } else { -HOUR });
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to(), NEVER, "{half_a_year}");
    }
}

/// As `timedatectl set-local-rtc` does, in either order.
#[test]
fn a_hardware_clock_that_takes_another_zone_is_no_sign() {
    for (mode, ahead) in [("UTC", 0), ("LOCAL", HOUR)] {
        let (mut guest, _) = local_time();
        guest.machine.file("/etc/adjtime", format!("0.0 0 0.0\n0\n{mode}\n"));
        guest.ahead = ahead;
        guest.show();
        guest.look(Cause::Stopped);
        guest.look(Cause::Stopped);
        assert_eq!(guest.set_to(), NEVER, "{mode}");
    }
}

#[test]
fn a_clock_in_an_unknown_zone_is_not_followed() {
    let mut guest = Guest::new(false);
    guest.ahead = 5 * HOUR;
    guest.show();
    guest.look(Cause::Set);
    assert!(guest.keeper.told.contains("5 hours ahead of"), "{}", guest.keeper.told);
    guest.stop(HOUR);
    guest.look(Cause::Stopped);
    assert_eq!(guest.set_to(), NEVER);
}

#[test]
fn another_clock_is_another_beginning() {
    let mut guest = Guest::new(true);
    // The host does not show its clock any more, as after a migration, and the other one is ahead.
    guest.stop(10 * HOUR);
    guest.kernel().set_device_clock(None);
    guest.look(Cause::Stopped);
    assert_eq!(guest.set_to(), NEVER);
}

#[test]
fn without_a_clock_nothing_is_done_and_it_is_said_once() {
    let machine = Machine::new("/etc/adjtime -> 0");
    let mut keeper = Keeper::default();
    for cause in [Cause::Set, Cause::Stopped] {
        keeper.look(&machine.host(), cause);
        assert_eq!(keeper.told, "there is no hardware clock that can be read");
    }
    assert_eq!(machine.kernel.effects(), []);
}

#[test]
fn a_time_that_may_not_be_set_is_tried_once() {
    Guest::both(|mut guest| {
        guest.kernel().script(|_| Outcome::from(Errno::EPERM));
        guest.stop(60 * SECOND);
        for _ in 0..3 {
            guest.look(Cause::Stopped);
        }
        assert_eq!(guest.set_to().len(), 1);
    });
}
