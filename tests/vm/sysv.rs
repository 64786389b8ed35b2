//! Under sysvinit: the script's actions with the exit codes of the LSB, and the session.

use serde_json::{Value, json};

use crate::harness::guest::Guest;
use crate::harness::machine::Init;
use crate::harness::{LATER, SOON, subject};
use crate::{script, shared, users};

const NONE: &Value = &Value::Null;

/// The exit status of an action.
fn service(guest: &mut Guest, action: &str) -> i32 {
    guest.shell.run(&format!("service qemu-ga {action}")).status
}

fn script_actions(guest: &mut Guest) {
    assert_eq!(service(guest, "status"), 3, "not running");
    assert_eq!(service(guest, "stop"), 0, "stopping what is stopped is fine");
    assert_eq!(service(guest, "start"), 0);
    // At once, without a moment to settle.
    assert_eq!(service(guest, "status"), 0, "running");
    let first = guest.shell.ok("cat /var/run/qemu-ga.pid");
    assert_eq!(guest.shell.ok("pidof qemu-ga"), first);
    assert_eq!(service(guest, "start"), 0, "starting what runs is fine");
    assert_eq!(guest.shell.ok("pidof qemu-ga"), first, "and starts no second one");

    let mut agent = guest.agent();
    script::play(&mut agent, &mut guest.shell);

    assert_eq!(service(guest, "restart"), 0);
    assert_ne!(guest.shell.ok("pidof qemu-ga"), first);
    agent.sync(SOON);

    guest.shell.ok("pkill -KILL -x qemu-ga");
    guest.shell.until("it is dead", "! pidof qemu-ga");
    assert_eq!(service(guest, "status"), 1, "dead, and its pid file is there");
    assert_eq!(service(guest, "start"), 0, "a pid file left behind is no obstacle");
    assert_eq!(service(guest, "stop"), 0);
    guest.shell.ok("! pidof qemu-ga && ! test -e /var/run/qemu-ga.pid");
    assert_eq!(service(guest, "status"), 3);
    assert_eq!(service(guest, "nonsense"), 2, "invalid argument");

    guest.shell.ok("update-rc.d qemu-ga defaults && ls /etc/rc2.d/S*qemu-ga /etc/rc0.d/K*qemu-ga");
    assert_eq!(service(guest, "start"), 0);
    agent.sync(SOON);
}

#[test]
fn the_session_under_sysvinit() {
    let Some(mut guest) = shared::own(Init::Sysv) else { return };
    if subject::under_test().stock {
        // Its script has another name and other codes; the session is the same.
        guest.shell.ok("qemu-ga -d");
    } else {
        script_actions(&mut guest);
    }
    let mut agent = guest.agent();
    script::play(&mut agent, &mut guest.shell);

    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    let pid = guest.shell.ok("touch /home/foo >/dev/null 2>&1 & echo $!");
    guest.shell.until("touch blocks", &format!("grep -q '^State:.D' /proc/{pid}/status"));
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen);
    guest.shell.until("touch finishes", &format!("! test -e /proc/{pid} && test -e /home/foo"));

    users::known_by_utmp(&mut guest, &mut agent);

    // No systemd to ask: the kernel itself.
    agent.post("guest-suspend-ram", NONE);
    guest.qmp.wait("SUSPEND", LATER);
    crate::suspend::wake(&mut guest);
    assert_eq!(agent.get("guest-sync", &json!({"id": 4711})), 4711);

    agent.post("guest-shutdown", &json!({"mode": "powerdown"}));
    let event = guest.qmp.wait("SHUTDOWN", LATER);
    assert_eq!(event["data"]["guest"], true);
    guest.wait_ended();
}
