//! Clients that give up on a slow freeze and ask again, in a real guest.

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::{by_hand, shared};

const NONE: &Value = &Value::Null;

/// A hook that notes what it is told and stands still until somebody writes to its FIFO.
const SLOW_HOOK: &str = "rm -f /run/hooked /run/gate; mkfifo /run/gate; cd /etc/qemu/fsfreeze-hook.d && \
    printf '#!/bin/sh\\necho $1 >>/run/hooked\\n[ $1 = thaw ] || read line </run/gate\\n' >slow && chmod 755 slow";

/// The agent by hand, on its usual port, with that hook.
fn start(guest: &mut Guest) -> Agent {
    guest.shell.ok(SLOW_HOOK);
    by_hand::start(guest, "-F");
    let mut agent = guest.agent();
    agent.sync(SOON);
    agent
}

fn stop(guest: &mut Guest) {
    by_hand::stop(guest);
    guest.shell.ok("rm -f /etc/qemu/fsfreeze-hook.d/slow /run/gate /run/hooked");
}

fn hooked(guest: &mut Guest) -> String {
    guest.shell.ok("cat /run/hooked 2>/dev/null || true")
}

/// Marker, hooks and the kernel agree with the status.
fn is_frozen(guest: &mut Guest, agent: &mut Agent) {
    assert_eq!(agent.get("guest-fsfreeze-status", NONE), "frozen");
    guest.shell.ok("test -s /run/qga.state.isfrozen");
    assert_eq!(hooked(guest), "freeze", "told once, and of no thaw");
    // The kernel says EBUSY for each that is frozen.
    for point in ["/", "/home", "/srv"] {
        let again = guest.shell.run(&format!("fsfreeze -f {point}"));
        assert!(again.status != 0 && again.text.contains("busy"), "{point} is not frozen: {}", again.text);
    }
}

fn is_thawed(guest: &mut Guest, agent: &mut Agent) {
    assert_eq!(agent.get("guest-fsfreeze-status", NONE), "thawed");
    assert_eq!(hooked(guest), "freeze\nthaw");
    guest.shell.ok("! test -e /run/qga.state.isfrozen && ! test -e /run/qga.state.hooks");
    for point in ["/", "/home", "/srv"] {
        let thaw = guest.shell.run(&format!("fsfreeze -u {point}"));
        assert!(thaw.status != 0, "{point} was frozen");
    }
    guest.shell.ok("touch /home/after /srv/after && rm /home/after /srv/after");
}

#[test]
fn who_gives_up_on_a_slow_freeze_and_asks_again_is_refused_until_one_thaw() {
    if shared::known_of_stock("answers nothing while a hook runs") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    for new_connection in [false, true] {
        let mut agent = start(&mut guest);
        agent.send(b"{\"execute\":\"guest-fsfreeze-freeze\"}\n");
        guest.shell.until("the hook runs", "test -s /run/hooked");
        // Its patience is over.
        if new_connection {
            drop(agent);
            agent = guest.agent();
        }
        agent.sync(SOON);
        // Two more: they wait for the first, which holds when it is their turn.
        agent.send(b"{\"execute\":\"guest-fsfreeze-freeze\"}\n");
        agent.send(b"{\"execute\":\"guest-fsfreeze-freeze-list\",\"arguments\":{\"mountpoints\":[\"/srv\"]}}\n");
        agent.send(b"\xff");
        agent.sync(SOON);
        assert_eq!(agent.get("guest-ping", NONE), json!({}));
        assert_eq!(hooked(&mut guest), "freeze");
        guest.shell.ok("echo >/run/gate");
        is_frozen(&mut guest, &mut agent);
        for (command, arguments) in
            [("guest-fsfreeze-freeze", NONE.clone()), ("guest-fsfreeze-freeze-list", json!({"mountpoints": ["/srv"]}))]
        {
            let refusal = agent.refused(command, &arguments);
            let text = format!("Command {command} has been disabled: the agent is in frozen state");
            assert_eq!((refusal.class.as_str(), refusal.text.as_str()), ("CommandNotFound", text.as_str()));
        }
        is_frozen(&mut guest, &mut agent);
        assert!(agent.get("guest-fsfreeze-thaw", NONE).as_u64().is_some_and(|count| count >= 3));
        is_thawed(&mut guest, &mut agent);
        assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), 0);
        drop(agent);
        stop(&mut guest);
    }
}
