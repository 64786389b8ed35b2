//! `guest-shutdown` in its three modes, as the host and logind see them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::harness::machine::Init;
use crate::harness::{LATER, SOON, lines::Silence, subject, until};
use crate::{logind, script, shared};

fn boot_id(guest: &mut Guest) -> String {
    guest.shell.ok("cat /proc/sys/kernel/random/boot_id")
}

/// No event tells of a halt: the guest says so on its console and its processor stops for good.
fn wait_halted(guest: &mut Guest) {
    until("the guest halts", LATER, || {
        let said = guest.console().contains("System halted");
        (said && guest.qmp.human("info registers").contains("HLT=1")).then_some(())
    });
    assert!(!guest.qmp.saw("SHUTDOWN"), "halted, not powered off");
    assert_eq!(guest.qmp.execute("query-status", &json!({}))["status"], "running");
}

/// With `systemd-inhibit`. No obstacle for root up to systemd 256; since then an error says why.
fn a_program_that_objects(guest: &mut Guest, agent: &mut Agent) {
    guest.shell.ok("systemd-inhibit --what=shutdown --mode=block --who=test --why=test sleep 1000 >/dev/null 2>&1 &");
    guest.shell.until("it is known to logind", "systemd-inhibit --list --no-legend | grep -q test");
    let version = guest.shell.ok("systemctl --version | awk 'NR == 1 { print $2 }'");
    if version.parse::<u32>().is_ok_and(|version| version >= 257) {
        let refusal = agent.refused("guest-shutdown", &json!({"mode": "reboot"}));
        assert!(refusal.text.contains("inhibitor") || subject::under_test().stock, "{}", refusal.text);
        guest.shell.ok("pkill -x sleep");
        guest.shell.until("it is gone", "! systemd-inhibit --list --no-legend | grep -q test");
    }
}

#[test]
fn reboot_halt_and_powerdown() {
    let Some(mut guest) = shared::own(Init::Systemd) else { return };
    // Nobody started it: udev did, at boot.
    let mut agent = guest.agent();
    agent.sync(SOON);
    assert_eq!(guest.shell.ok("systemctl is-system-running"), "running", "nothing failed at boot");

    let refusal = agent.refused("guest-shutdown", &json!({"mode": "powertdown"}));
    assert_eq!(refusal.class, "GenericError", "{}", refusal.text);
    let first = boot_id(&mut guest);

    a_program_that_objects(&mut guest, &mut agent);
    logind::listen(&mut guest);
    agent.post("guest-shutdown", &json!({"mode": "reboot"}));
    let event = guest.qmp.wait("RESET", LATER);
    assert_eq!(event["data"]["guest"], true);
    assert_eq!(agent.line(Duration::ZERO), Err(Silence::Late), "success is not answered");
    guest.wait_booted();
    assert_ne!(boot_id(&mut guest), first);
    if !subject::under_test().stock {
        logind::assert_asked(&mut guest, &["Reboot"]);
    }
    agent.sync(LATER);
    script::greet(&mut agent);

    agent.post("guest-shutdown", &json!({"mode": "halt"}));
    wait_halted(&mut guest);

    guest.qmp.forget_events();
    guest.qmp.execute("system_reset", &json!({}));
    guest.wait_booted();
    agent.sync(LATER);
    // The mode most clients use, by leaving it out.
    agent.post("guest-shutdown", &Value::Null);
    let event = guest.qmp.wait("SHUTDOWN", LATER);
    assert!(agent.line(Duration::from_secs(1)).is_err(), "success is not answered");
    assert_eq!(event["data"], json!({"guest": true, "reason": "guest-shutdown"}));
    guest.wait_ended();
}
