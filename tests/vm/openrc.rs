//! Under OpenRC: the service and its supervisor, and the way down.

use serde_json::{Value, json};

use crate::harness::guest::Guest;
use crate::harness::machine::Init;
use crate::harness::{LATER, SOON};
use crate::{script, shared, suspend};

const NONE: &Value = &Value::Null;

/// The exit status of an action.
fn service(guest: &mut Guest, action: &str) -> i32 {
    guest.shell.run(&format!("rc-service qemu-guest-agent {action}")).status
}

fn service_actions(guest: &mut Guest) {
    assert_eq!(service(guest, "status"), 0, "running");
    let first = guest.shell.ok("pidof qemu-ga");
    assert_eq!(service(guest, "start"), 0, "starting what runs is fine");
    assert_eq!(service(guest, "reload"), 0);
    assert_eq!(guest.shell.ok("pidof qemu-ga"), first, "neither makes another one");

    guest.shell.ok("pkill -KILL -x qemu-ga");
    guest.shell.until("the supervisor starts another one", &format!("pidof qemu-ga | grep -vx {first}"));
    assert_eq!(service(guest, "stop"), 0);
    guest.shell.ok("! pidof qemu-ga");
    assert_eq!(service(guest, "status"), 3, "not running");

    let configure = |guest: &mut Guest, line: &str| {
        guest.shell.ok(&format!("mkdir -p /etc/conf.d && echo '{line}' >/etc/conf.d/qemu-guest-agent"));
    };
    configure(guest, "GA_METHOD=nonsense");
    assert_eq!(service(guest, "start"), 1, "a configuration that is not usable");
    configure(guest, "GA_ARGS=\"--block-rpcs=guest-get-time --block-rpcs=guest-set-time\"");
    assert_eq!(service(guest, "start"), 0);
    let mut agent = guest.agent();
    agent.sync(SOON);
    agent.refused("guest-set-time", NONE);
    configure(guest, "");

    assert_eq!(service(guest, "restart"), 0);
    agent.sync(SOON);
    agent.get("guest-get-time", NONE);
}

#[test]
fn the_session_under_openrc() {
    if shared::known_of_stock("it comes without a service for OpenRC") {
        return;
    }
    let Some(mut guest) = shared::own(Init::Openrc) else { return };
    // Started by the runlevel.
    let mut agent = guest.agent();
    script::play(&mut agent, &mut guest.shell);
    drop(agent);
    service_actions(&mut guest);
    let mut agent = guest.agent();
    agent.sync(SOON);

    agent.post("guest-suspend-ram", NONE);
    guest.qmp.wait("SUSPEND", LATER);
    suspend::wake(&mut guest);
    assert_eq!(agent.get("guest-sync", &json!({"id": 4711})), 4711);

    agent.post("guest-shutdown", NONE);
    assert_eq!(guest.qmp.wait("SHUTDOWN", LATER)["data"], json!({"guest": true, "reason": "guest-shutdown"}));
    guest.wait_ended();
}
