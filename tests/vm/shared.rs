//! One systemd guest for many tests, handed from one to the next in a known state.

use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::hardware;
use crate::harness::guest::Guest;
use crate::harness::machine::Init;
use crate::harness::{SOON, image, subject};

static SYSTEMD: Mutex<Option<Guest>> = Mutex::new(None);
static HARDWARE: Mutex<Option<Guest>> = Mutex::new(None);

/// The shared guest while one test has it.
pub struct Lease(MutexGuard<'static, Option<Guest>>);

impl Deref for Lease {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        self.0.as_ref().expect("a lease holds a guest")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Guest {
        self.0.as_mut().expect("a lease holds a guest")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The guest outlives the test, so it would not report by itself.
        if std::thread::panicking() {
            self.report();
        }
    }
}

/// The shared guest with a newly started agent; `None` when this machine cannot have guests.
pub fn systemd() -> Option<Lease> {
    lease(&SYSTEMD, || Guest::boot(Init::Systemd))
}

/// The shared guest that has everything, with a newly started agent.
pub fn hardware() -> Option<Lease> {
    lease(&HARDWARE, hardware::boot)
}

fn lease(slot: &'static Mutex<Option<Guest>>, boot: fn() -> Guest) -> Option<Lease> {
    if !possible() {
        return None;
    }
    // A test that failed may have left anything: `refresh` finds out.
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let usable = slot.as_mut().is_some_and(refresh);
    if !usable {
        *slot = None;
        let mut guest = boot();
        assert!(refresh(&mut guest), "the newly booted guest does not do as told");
        *slot = Some(guest);
    }
    Some(Lease(slot))
}

/// Gives the running agent these settings, and waits until it has taken them over.
pub fn configure(guest: &mut Guest, settings: &str) {
    // An empty file is no file: then the old settings stay.
    let write = format!("printf '[general]\\n{settings}' >/etc/qemu/qemu-ga.conf; systemctl reload qemu-guest-agent");
    guest.shell.ok(&write);
    let wanted = [settings.contains("cpus=true") || settings.contains("memory=true"), settings.contains("keep=true")];
    for (wanted, what) in wanted.into_iter().zip([UEVENTS, CLOCK_SET]) {
        let not = if wanted { "" } else { "! " };
        // The clock's task listens to the kernel, too.
        if what == CLOCK_SET || wanted || !settings.contains("keep=true") {
            guest.shell.until("the agent heeds its settings", &format!("{not}{what}"));
        }
    }
    wait_at_rest(guest);
}

/// Whether the agent listens to the kernel's news of devices: protocol 15, its own process id.
const UEVENTS: &str = "awk -v p=$(pidof qemu-ga) '$2 == 15 && $3 == p { f = 1 } END { exit !f }' /proc/net/netlink";

/// Whether it hears of a clock that is set.
const CLOCK_SET: &str = "ls -l /proc/$(pidof qemu-ga)/fd | grep -q timerfd";

/// Voluntary switches of all threads of the agent together.
pub const WAKE_UPS: &str =
    "cat /proc/$(pidof qemu-ga)/task/*/status | awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum }'";

pub fn wait_asleep(guest: &mut Guest) {
    let settled = format!("before=$({WAKE_UPS}); sleep 1; test $before = $({WAKE_UPS})");
    guest.shell.until("the agent sleeps", &settled);
}

/// No worker is left either, not even one that waits a moment for more work.
pub fn wait_at_rest(guest: &mut Guest) {
    guest.shell.until("the agent's workers end", "! cat /proc/$(pidof qemu-ga)/task/*/comm | grep -qE '^(tokio|knob)'");
    wait_asleep(guest);
}

/// A guest for one test.
pub fn own(init: Init) -> Option<Guest> {
    possible().then(|| Guest::boot(init))
}

fn possible() -> bool {
    match image::images() {
        Ok(_) => true,
        Err(reason) => {
            skipped(reason);
            false
        }
    }
}

/// True for the C agent, which is known to fail what follows.
pub fn known_of_stock(what: &str) -> bool {
    let stock = subject::under_test().stock;
    if stock {
        skipped(&format!("the stock agent: {what}"));
    }
    stock
}

/// Not by `eprintln!`, which the test runner swallows when the test passes.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let _ = writeln!(io::stderr(), "SKIPPED {name}: {reason}");
}

/// Whatever the last test left: no agent, nothing frozen, its port there; then a new agent by systemd.
fn refresh(guest: &mut Guest) -> bool {
    if guest.has_ended() {
        return false;
    }
    let clean = "systemctl kill -s KILL qemu-guest-agent; systemctl stop qemu-guest-agent; pkill -KILL -x qemu-ga; \
         for mount in / /home /srv; do fsfreeze --unfreeze $mount; done; \
         rm -rf /etc/qemu/qemu-ga.conf /run/qga.state* /run/qemu-ga.pid /run/*.log /home/foo /srv/foo /tmp/testqga; systemctl reset-failed; \
         test -e /dev/virtio-ports/org.qemu.guest_agent.0";
    let Some(output) = guest.shell.attempt(clean, SOON) else {
        return false;
    };
    if output.status != 0 {
        guest.plug_agent_port();
        guest.shell.until("the agent's port appears", "test -e /dev/virtio-ports/org.qemu.guest_agent.0");
    }
    guest.qmp.forget_events();
    guest.shell.ok("systemctl start qemu-guest-agent");
    guest.agent().answers(Duration::from_secs(120))
}
