//! What a virtio port does to its agent: the host leaves, comes back, does not read; the port goes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::machine::AGENT_PORT;
use crate::shared::{WAKE_UPS, wait_asleep};
use crate::{script, shared};

#[test]
fn a_port_without_a_host_costs_nothing() {
    if shared::known_of_stock("looks ten times a second whether the host is back") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    for round in 0..3 {
        let mut agent = guest.agent();
        agent.sync(SOON);
        drop(agent);
        // The hang-up itself may wake it.
        wait_asleep(&mut guest);
        let woken = guest.shell.ok(&format!("before=$({WAKE_UPS}); sleep 5; echo $(($({WAKE_UPS}) - before))"));
        assert_eq!(woken, "0", "wake-ups in 5 s with no host, round {round}");
    }
}

#[test]
fn what_is_done_unasked_costs_nothing_at_rest() {
    if shared::known_of_stock("does nothing unasked") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    shared::configure(&mut guest, "[hotplug]\\ncpus=true\\nmemory=true\\n[clock]\\nkeep=true\\n");
    let count = format!("before=$({WAKE_UPS}); sleep 5; echo $(($({WAKE_UPS}) - before))");
    let mut agent = guest.agent();
    agent.sync(SOON);
    shared::wait_at_rest(&mut guest);
    assert_eq!(guest.shell.ok(&count), "0", "wake-ups in 5 s with a host that is silent");
    drop(agent);
    shared::wait_at_rest(&mut guest);
    assert_eq!(guest.shell.ok(&count), "0", "wake-ups in 5 s with no host");
    // Nothing is left when it is not wanted any more, descriptors included.
    shared::configure(&mut guest, "");
    guest.agent().sync(SOON);
}

#[test]
fn a_host_that_comes_back_is_served_at_once() {
    let Some(mut guest) = shared::systemd() else { return };
    for round in 0..10 {
        let mut agent = guest.agent();
        assert!(agent.answers(SOON), "round {round}");
        // Gone in the middle of a request: it must not spoil the next client's first one.
        agent.send(b"{\"execute\":\"guest-file-open\",\"arguments\":{\"pa");
    }
    let mut agent = guest.agent();
    script::play(&mut agent, &mut guest.shell);
}

/// What every client with a connection per command does. The request may get to the agent before
/// the kernel has heard that the host is back: the port still reads as hung up then.
#[test]
fn a_request_sent_along_with_the_connection_is_answered() {
    let Some(mut guest) = shared::systemd() else { return };
    guest.agent().sync(SOON);
    for round in 0..20 {
        // The agent has seen the former client leave, and waits.
        guest.shell.ok("sleep 0.3");
        let mut agent = guest.agent();
        assert!(agent.answers(SOON), "round {round}");
    }
}

#[test]
fn nothing_is_delivered_to_the_next_client() {
    if shared::known_of_stock("gives late replies to whoever is there") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    // A reply that takes long enough to be late: the path is a FIFO, which the guest opens later.
    guest.shell.ok("rm -f /run/fifo; mkfifo /run/fifo");
    agent.post("guest-file-open", &json!({"path": "/run/fifo", "mode": "w"}));
    drop(agent);
    wait_asleep(&mut guest);
    let mut next = guest.agent();
    let request = json!({"execute": "guest-sync", "arguments": {"id": 31}});
    next.send(format!("{request}\n").as_bytes());
    assert_eq!(next.reply(SOON).expect("no error of somebody else's request"), json!(31));
    guest.shell.ok("timeout 5 cat /run/fifo; rm /run/fifo");
    assert_eq!(next.get("guest-ping", &Value::Null), json!({}));
}

#[test]
fn a_host_that_does_not_read_cannot_keep_the_agent_from_ending() {
    if shared::known_of_stock("is deaf to TERM while it cannot write") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    let requests = "{\"execute\":\"guest-info\"}\n".repeat(100_000);
    let sent = agent.send_until_full(requests.as_bytes(), Duration::from_secs(10));
    assert!(sent < requests.len(), "the agent took {sent} bytes of requests without being read");
    guest.shell.ok("timeout 60 systemctl stop qemu-guest-agent");
    assert_eq!(guest.shell.ok("systemctl show -P Result qemu-guest-agent"), "success", "it ended, it was not killed");
    drop(agent);
    // Whatever is left in the port, the next agent and the next client find their way.
    guest.shell.ok("systemctl start qemu-guest-agent");
    let mut agent = guest.agent();
    agent.sync(SOON);
    script::greet(&mut agent);
}

/// The port is absent at first, then comes and goes under the running agent.
#[test]
fn retry_path_waits_for_the_port() {
    let Some(mut guest) = shared::systemd() else { return };
    let name = AGENT_PORT.replace(".0", ".1");
    guest.shell.ok(&format!("qemu-ga -r -p /dev/virtio-ports/{name} >/run/hand.log 2>&1 & echo $! >/run/hand.pid"));
    for _ in 0..3 {
        guest.plug_spare(&name);
        let mut agent = guest.spare();
        agent.sync(SOON);
        script::play(&mut agent, &mut guest.shell);
        guest.unplug_spare();
        guest.shell.until("the port is gone", &format!("! test -e /dev/virtio-ports/{name}"));
        guest.shell.ok("kill -0 $(cat /run/hand.pid)");
    }
    guest.shell.ok("kill -TERM $(cat /run/hand.pid)");
    guest.shell.until("it ends while it waits", "! kill -0 $(cat /run/hand.pid)");
}
