//! The time: the guest's clock, its hardware clock, and the agent between them.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::harness::machine::Init;
use crate::harness::{LATER, SOON, until};
use crate::{shared, suspend};

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

/// How many seconds the system time is behind the hardware clock, which goes on whatever becomes of
/// the guest.
fn behind(guest: &mut Guest) -> i64 {
    number(&guest.shell.ok("echo $(($(cat /sys/class/rtc/rtc0/since_epoch) - $(date +%s)))"))
}

/// What the agent has said of the time that it set.
const SET: &str = "journalctl -b -u qemu-guest-agent -o cat | grep -c \"behind '/dev/rtc0', and was set\"";

/// Saved to a file, as libvirt does it, and restored later. The kernel has no idea.
#[test]
fn a_guest_that_is_restored_has_the_time_where_that_is_wanted() {
    if shared::known_of_stock("leaves the time to the host") {
        return;
    }
    let Some(mut guest) = shared::own(Init::Systemd) else { return };
    guest.agent().sync(LATER);
    shared::configure(&mut guest, "[clock]\\nkeep=true\\n");
    assert!(behind(&mut guest).abs() <= 1);
    guest.save();
    sleep(Duration::from_secs(10));
    guest.restore();
    assert!(behind(&mut guest) >= 8, "nobody has asked yet");
    // Whatever the host asks first.
    guest.agent().sync(SOON);
    until("the time is right", SOON, || (behind(&mut guest).abs() <= 1).then_some(()));
    assert_eq!(guest.shell.ok(SET), "1");

    // What somebody sets on purpose stays, and so do later requests leave it.
    guest.shell.ok("date -s @1000000000");
    for _ in 0..3 {
        guest.agent().sync(SOON);
        shared::wait_at_rest(&mut guest);
    }
    assert!(date(&mut guest) / SECOND < 1_000_000_000 + 600);
    assert_eq!(guest.shell.ok(SET), "1");
}

/// As a hypervisor does for a snapshot with memory, and while a machine is short of disk.
#[test]
fn a_guest_that_was_paused_has_the_time_where_that_is_wanted() {
    if shared::known_of_stock("leaves the time to the host") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let before = number(&guest.shell.run(SET).text);
    for keep in [false, true] {
        shared::configure(&mut guest, if keep { "[clock]\\nkeep=true\\n" } else { "" });
        let mut agent = guest.agent();
        agent.sync(SOON);
        shared::wait_at_rest(&mut guest);
        guest.qmp.execute("stop", &json!({}));
        sleep(Duration::from_secs(6));
        guest.qmp.execute("cont", &json!({}));
        assert!(behind(&mut guest) >= 4, "nobody has asked yet");
        agent.sync(SOON);
        if keep {
            until("the time is right", SOON, || (behind(&mut guest).abs() <= 1).then_some(()));
        } else {
            shared::wait_at_rest(&mut guest);
            agent.sync(SOON);
            assert!(behind(&mut guest) >= 4, "nobody has asked for the right time");
            assert_eq!(agent.get("guest-set-time", NONE), json!({}));
        }
        assert_eq!(number(&guest.shell.run(SET).text), before + i64::from(keep));
    }
}

#[test]
fn a_guest_that_slept_has_the_time() {
    if shared::known_of_stock("leaves the time to the host") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    shared::configure(&mut guest, "[clock]\\nkeep=true\\n");
    let mut agent = guest.agent();
    agent.sync(SOON);
    agent.post("guest-suspend-ram", NONE);
    guest.qmp.wait("SUSPEND", LATER);
    sleep(Duration::from_secs(5));
    suspend::wake(&mut guest);
    agent.sync(SOON);
    until("the time is right", SOON, || (behind(&mut guest).abs() <= 1).then_some(()));
    guest.shell.until("systemd is done with it", "! systemctl list-jobs --no-legend | grep -q .");
    drop(agent);
    shared::wait_at_rest(&mut guest);
    assert!(behind(&mut guest).abs() <= 1, "nor is it set twice");
}
