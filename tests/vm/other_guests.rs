//! A guest of another make: nothing but a kernel, busybox and the agent; no udev, no disks.

use crate::harness::machine::Init;
use crate::harness::{SOON, subject};
use crate::{script, shared};

#[test]
fn a_guest_of_busybox_alone() {
    let Some(mut guest) = shared::own(Init::Busybox) else { return };
    // Without udev there are no names below /dev/virtio-ports; ours finds the port by its name.
    let path = if subject::under_test().stock { "-p /dev/vport1p1" } else { "" };
    guest.shell.ok(&format!("qemu-ga {path} >/run/hand.log 2>&1 & echo $! >/run/hand.pid"));
    let mut agent = guest.agent();
    agent.sync(SOON);
    script::play(&mut agent, &mut guest.shell);
    guest.shell.ok("kill -TERM $(cat /run/hand.pid)");
    guest.shell.until("the agent ends on TERM", "! kill -0 $(cat /run/hand.pid)");
}
