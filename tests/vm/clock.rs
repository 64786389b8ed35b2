//! The time: the guest's clock, its hardware clock, and the agent between them.

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::shared;

const NONE: &Value = &Value::Null;
const SECOND: i64 = 1_000_000_000;

/// A leap day, and half a second.
const LEAP_DAY: i64 = 1_709_210_096 * SECOND + SECOND / 2;

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The guest's own time in nanoseconds.
fn date(guest: &mut Guest) -> i64 {
    number(&guest.shell.ok("date +%s%N"))
}

/// What the hardware clock shows as UTC, as the kernel reads it, and what hwclock makes of it, which
/// not every guest has.
fn hardware(guest: &mut Guest) -> (i64, Option<i64>) {
    let shown = number(&guest.shell.ok("cat /sys/class/rtc/rtc0/since_epoch"));
    let understood = guest.shell.run("time=$(hwclock -r) && date -d \"$time\" +%s");
    (shown, (understood.status != 127).then(|| number(&understood.text)))
}

/// A clock that was just set may be late by what a slow guest takes, and never early but for the
/// fraction of a second that a hardware clock lacks.
fn assert_just_after(what: &str, found: i64, expected: i64) {
    let late = found - expected;
    assert!((-1..60).contains(&late), "{what}: {late} s after {expected}");
}

fn set(agent: &mut Agent, guest: &mut Guest, time: i64) {
    assert_eq!(agent.get("guest-set-time", &json!({"time": time})), json!({}));
    let late = date(guest) - time;
    assert!((0..60 * SECOND).contains(&late), "the guest's time is {late} ns after that set");
}

#[test]
fn both_clocks_are_set_and_read() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    let before = date(&mut guest);
    let asked = agent.get("guest-get-time", NONE).as_i64().expect("nanoseconds");
    let after = date(&mut guest);
    assert!((before..=after).contains(&asked), "{asked} is not from {before} to {after}");
    guest.shell.ok("cp -P /etc/localtime /run/localtime; test ! -e /etc/adjtime || mv /etc/adjtime /run/adjtime");

    // Zone, what the hardware clock has, seconds by which it then differs from UTC.
    for (zone, mode, east) in [("UTC", "", 0), ("Asia/Kolkata", "UTC", 0), ("America/St_Johns", "LOCAL", -12600)] {
        guest.shell.ok(&format!("ln -sf /usr/share/zoneinfo/{zone} /etc/localtime; rm -f /etc/adjtime"));
        if !mode.is_empty() {
            guest.shell.ok(&format!("printf '0.0 0 0.0\\n0\\n{mode}\\n' >/etc/adjtime"));
        }
        set(&mut agent, &mut guest, LEAP_DAY);
        let (shown, understood) = hardware(&mut guest);
        assert_just_after(&format!("hardware clock, {zone} {mode}"), shown, LEAP_DAY / SECOND + east);
        if let Some(understood) = understood {
            assert_just_after(&format!("hwclock, {zone} {mode}"), understood, LEAP_DAY / SECOND);
        }

        // As after a restored snapshot: only the hardware clock knows.
        guest.shell.ok("date -s @1000000000");
        assert_eq!(agent.get("guest-set-time", NONE), json!({}));
        let now = date(&mut guest);
        assert_just_after(&format!("from hardware, {zone} {mode}"), now / SECOND, LEAP_DAY / SECOND);
    }

    // What cannot be is refused and changes nothing.
    for wrong in [json!(-1), json!(i64::MIN), json!(i64::MAX), json!(1.5), json!("0")] {
        agent.refused("guest-set-time", &json!({"time": wrong}));
    }
    assert_just_after("after wrong times", date(&mut guest) / SECOND, LEAP_DAY / SECOND);

    guest.shell.ok(
        "rm -f /etc/adjtime; mv /run/localtime /etc/localtime; test ! -e /run/adjtime || mv /run/adjtime /etc/adjtime",
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    set(&mut agent, &mut guest, i64::try_from(now.as_nanos()).expect("before 2262"));
}
