//! Started from a shell in the guest, over each kind of channel.

use std::time::Duration;

use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::harness::{SOON, subject};
use crate::{script, shared};

/// Start an agent in the guest after the service was stopped.
pub fn start(guest: &mut Guest, arguments: &str) {
    guest.shell.ok("systemctl stop qemu-guest-agent");
    guest.shell.ok(&format!("qemu-ga {arguments} >/run/hand.log 2>&1 & echo $! >/run/hand.pid"));
}

/// TERM ends it, and it says that all went well.
pub fn stop(guest: &mut Guest) {
    guest.shell.ok("kill -TERM $(cat /run/hand.pid)");
    guest.shell.until("the agent ends on TERM", "! kill -0 $(cat /run/hand.pid)");
}

fn session(guest: &mut Guest, mut agent: Agent) {
    agent.sync(SOON);
    script::play(&mut agent, &mut guest.shell);
}

#[test]
fn over_virtio_serial() {
    let Some(mut guest) = shared::systemd() else { return };
    start(&mut guest, "-m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0");
    let agent = guest.agent();
    session(&mut guest, agent);
    stop(&mut guest);
    assert_eq!(guest.shell.ok("cat /run/hand.log"), "", "a quiet agent when all goes well");
}

#[test]
fn over_a_serial_line() {
    let Some(mut guest) = shared::systemd() else { return };
    start(&mut guest, "-m isa-serial -p /dev/ttyS1");
    guest.shell.until("the agent has the line open", "ls -l /proc/$(cat /run/hand.pid)/fd | grep ttyS1");
    let agent = guest.serial();
    session(&mut guest, agent);
    // The host comes back: no hang-up is seen on such a line, only the FF tells the two apart.
    let mut agent = guest.serial();
    agent.send(b"{\"execute\":\"guest-pi");
    drop(agent);
    let agent = guest.serial();
    session(&mut guest, agent);
    stop(&mut guest);
}

#[test]
fn as_a_daemon() {
    let Some(mut guest) = shared::systemd() else { return };
    guest.shell.ok("systemctl stop qemu-guest-agent");
    guest.shell.ok("qemu-ga -d -l /run/hand.log");
    guest.shell.until("its pid file is there", "test -s /run/qemu-ga.pid");
    guest.shell.ok("test \"$(cat /run/qemu-ga.pid)\" = \"$(pidof qemu-ga)\"");
    let agent = guest.agent();
    session(&mut guest, agent);
    if !subject::under_test().stock {
        let second = guest.shell.run("qemu-ga -d -m unix-listen -p /run/second.sock");
        assert_eq!(second.status, 1, "the pid file is taken: {}", second.text);
        guest.shell.ok("test \"$(cat /run/qemu-ga.pid)\" = \"$(pidof qemu-ga)\"");
    }
    guest.shell.ok("kill -TERM $(cat /run/qemu-ga.pid)");
    guest.shell.until("the daemon ends and takes its pid file along", "! pidof qemu-ga && ! test -e /run/qemu-ga.pid");
}

/// The listeners, asked from inside the guest, as there may be no vsock on the host.
#[test]
fn over_listening_sockets() {
    let Some(mut guest) = shared::systemd() else { return };
    // The guest itself is not the host: it has to be allowed.
    guest.shell.ok("printf '[vsock]\\nallow=1\\n' >/run/vsock.conf");
    for (arguments, address) in [
        ("-m unix-listen -p /run/hand.sock", "UNIX-CONNECT:/run/hand.sock"),
        ("-c /run/vsock.conf -m vsock-listen -p 4294967295:1024", "VSOCK-CONNECT:1:1024"),
    ] {
        start(&mut guest, arguments);
        let ask = format!("{} | grep -q 'return.*5'", sync_by_socat(address));
        // Twice, as each client is a new connection.
        for _ in 0..2 {
            guest.shell.until(arguments, &ask);
        }
        stop(&mut guest);
    }
}

/// Sends a sync from inside the guest and prints the reply.
fn sync_by_socat(address: &str) -> String {
    let request = "{\\\"execute\\\":\\\"guest-sync\\\",\\\"arguments\\\":{\\\"id\\\":5}}";
    format!("echo {request} | socat -t 30 - {address}")
}

#[test]
fn a_vsock_peer_that_is_not_the_host_is_refused() {
    if shared::known_of_stock("looks at no peer") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    start(&mut guest, "-m vsock-listen -p 4294967295:1024");
    // Until it listens the connection is refused by the kernel, which leaves no line.
    let ask = format!("{} >>/run/replies; ", sync_by_socat("VSOCK-CONNECT:1:1024"));
    guest.shell.until("the log names the peer", &format!("{ask}grep 'context id 1 is turned away' /run/hand.log"));
    guest.shell.ok("! grep return /run/replies");
    stop(&mut guest);
}

#[test]
fn a_missing_device_is_an_error() {
    let Some(mut guest) = shared::systemd() else { return };
    let output = guest.shell.run("qemu-ga -m virtio-serial -p /dev/virtio-ports/none");
    assert_eq!(output.status, 1, "{}", output.text);
    assert!(output.text.contains("/dev/virtio-ports/none"), "{}", output.text);
    // One process per port: the service has this one.
    let output = guest.shell.run("qemu-ga");
    assert_eq!(output.status, 1, "{}", output.text);
    let mut agent = guest.agent();
    assert!(agent.answers(Duration::from_secs(60)), "the service is not disturbed");
}
