//! To sleep and back: in memory, on disk, both. The agent must be the same process as before.

use serde_json::{Value, json};

use crate::harness::guest::Guest;
use crate::harness::{LATER, SOON, subject};
use crate::{logind, shared};

const NONE: &Value = &Value::Null;

/// What must be the same afterwards: nothing was booted anew, nothing was restarted.
fn identity(guest: &mut Guest) -> String {
    guest.shell.ok("cat /proc/sys/kernel/random/boot_id; pidof qemu-ga")
}

pub fn wake(guest: &mut Guest) {
    // The event comes when the guest asks for it, the machine is asleep a moment later.
    crate::harness::until("the machine sleeps", SOON, || {
        let status = guest.qmp.execute("query-status", &json!({}));
        (status["status"] == "suspended").then_some(())
    });
    guest.qmp.execute("system_wakeup", &json!({}));
    guest.qmp.wait("WAKEUP", SOON);
}

/// Suspending has no success reply: the next line is the answer to the next request.
fn check_awake(guest: &mut Guest, before: &str, handle: &Value, agent: &mut crate::harness::agent::Agent) {
    assert_eq!(identity(guest), before);
    assert_eq!(agent.get("guest-sync", &json!({"id": 4711})), 4711);
    let read = agent.get("guest-file-read", &json!({"handle": handle}));
    assert_eq!(read["buf-b64"], "YmVmb3JlCg==", "handles outlive the sleep");
    agent.get("guest-file-close", &json!({"handle": handle}));
}

#[test]
fn to_memory_and_both() {
    let Some(mut guest) = shared::systemd() else { return };
    let commands =
        [("guest-suspend-ram", ["CanSuspend", "Suspend"]), ("guest-suspend-hybrid", ["CanHybridSleep", "HybridSleep"])];
    for (command, methods) in commands {
        logind::listen(&mut guest);
        let before = identity(&mut guest);
        let mut agent = guest.agent();
        agent.sync(SOON);
        guest.shell.ok("echo before >/run/sleep");
        let handle = agent.get("guest-file-open", &json!({"path": "/run/sleep"}));
        agent.post(command, NONE);
        guest.qmp.wait("SUSPEND", LATER);
        wake(&mut guest);
        check_awake(&mut guest, &before, &handle, &mut agent);
        if !subject::under_test().stock {
            logind::assert_asked(&mut guest, &methods);
        }
        guest.shell.until("systemd is done with it", "! systemctl list-jobs --no-legend | grep -q .");
    }
}

#[test]
fn to_disk() {
    let Some(mut guest) = shared::systemd() else { return };
    let before = identity(&mut guest);
    let mut agent = guest.agent();
    agent.sync(SOON);
    guest.shell.ok("echo before >/run/sleep");
    let handle = agent.get("guest-file-open", &json!({"path": "/run/sleep"}));
    agent.post("guest-suspend-disk", NONE);
    guest.qmp.wait("SUSPEND_DISK", LATER);
    guest.wait_ended();
    drop(agent);

    guest.power_on();
    let mut agent = guest.agent();
    assert!(guest.shell.attempt("true", LATER).is_some(), "the guest comes back");
    check_awake(&mut guest, &before, &handle, &mut agent);
    guest.shell.until("systemd is done with it", "! systemctl list-jobs --no-legend | grep -q .");
}

/// The port is made anew when the guest wakes, and its host may have left and come back meanwhile.
#[test]
fn a_client_that_comes_after_the_sleep_is_answered() {
    let Some(mut guest) = shared::systemd() else { return };
    for (leaves_before, comes_before) in [(true, false), (false, true), (false, false)] {
        let mut agent = guest.agent();
        agent.sync(SOON);
        agent.post("guest-suspend-ram", NONE);
        let sleeper = (!leaves_before).then_some(agent);
        guest.qmp.wait("SUSPEND", LATER);
        drop(sleeper);
        let waiting = comes_before.then(|| guest.agent());
        wake(&mut guest);
        let mut agent = waiting.unwrap_or_else(|| guest.agent());
        assert!(agent.answers(SOON), "the first sync, left before: {leaves_before}, came before: {comes_before}");
        drop(agent);
        guest.shell.until("systemd is done with it", "! systemctl list-jobs --no-legend | grep -q .");
    }
}
