//! The classic session with the agent in a real guest, to watch: `make demo`, or
//! `cargo build --release && cargo run --release --example demo`.
//!
//! Boots a Debian guest under an emulated QEMU, types the requests on the host side of the agent's
//! port, and shows every request, reply and QEMU event as it passes. It stops at the first surprise,
//! with the guest's console. The guest is the one of `tests/vm`; so is the code that drives it.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use harness::agent::{Agent, DELIMITER, Direction};
use harness::guest::Guest;
use harness::inject::debugfs;
use harness::machine::Init;
use harness::{LATER, SOON, image, subject, until};

#[path = "../tests/vm/harness/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use other parts of it")]
mod harness;

const NONE: &Value = &Value::Null;
const HEADLINE: &str = "1";
const REQUEST: &str = "36";
const REPLY: &str = "32";
const EVENT: &str = "35";
const GUEST: &str = "33";

fn main() -> ExitCode {
    let started = Instant::now();
    headline("A guest");
    if let Err(reason) = image::images() {
        words(&format!("This machine cannot boot the guest: {reason}"));
        return ExitCode::FAILURE;
    }
    let program = &subject::under_test().program;
    words(&format!("Debian with systemd on an emulated PC; in it {} as /usr/sbin/qemu-ga.", program.display()));
    words("Booting takes 15 to 45 seconds ...");
    let mut guest = Guest::boot(Init::Systemd);
    guest.qmp.observe(event);
    words(&format!(
        "Up after {} s. Nobody started the agent: udev did, when its port appeared.",
        started.elapsed().as_secs()
    ));
    in_guest(&mut guest, "systemctl status -n 0 qemu-guest-agent | head -n 6");

    let mut agent = connect(&guest);
    hello(&mut agent);
    file(&mut guest, &mut agent);
    freeze(&mut guest, &mut agent);
    to_memory(&mut guest, &mut agent);
    let mut agent = to_disk(&mut guest, agent);
    power_down(&mut guest, &mut agent);

    headline("Summary");
    words("Answered: sync, ping, info; a file written, read and compared in the guest; a freeze that held");
    words("a writer back, a clean snapshot, a thaw; asleep in memory and on disk and back with the same");
    words(&format!("agent; powered down. {} seconds, everything as it should be.", started.elapsed().as_secs()));
    ExitCode::SUCCESS
}

fn connect(guest: &Guest) -> Agent {
    let mut agent = guest.agent();
    // Quietly first: whatever a former client left in the channel is gone after this.
    agent.sync(SOON);
    agent.observe(traffic);
    agent
}

fn hello(agent: &mut Agent) {
    headline("Hello");
    words("An id of our choice comes back, so we know that replies are ours from here on; the delimited");
    words("form puts a byte FF before its reply, which can stand nowhere else.");
    check(agent.get("guest-sync", &json!({"id": 1234})) == 1234, "the id comes back");
    agent.post("guest-sync-delimited", &json!({"id": 123_456}));
    let reply = agent.line(SOON).expect("a reply");
    check(reply.first() == Some(&DELIMITER), "FF goes first");
    check(agent.get("guest-ping", NONE) == json!({}), "ping");
    let info = agent.get("guest-info", NONE);
    let commands = info["supported_commands"].as_array().map_or(0, Vec::len);
    words(&format!("Version {} of the protocol's level, {commands} commands.", info["version"]));
}

fn file(guest: &mut Guest, agent: &mut Agent) {
    headline("A file in the guest");
    let path = "/tmp/testqga";
    let text = "aGVsbG8gd29ybGQhCg==";
    let handle = agent.get("guest-file-open", &json!({"path": path, "mode": "w+"}));
    let written = agent.get("guest-file-write", &json!({"handle": handle, "buf-b64": text}));
    check(written["count"] == 13, "all of it is written");
    agent.get("guest-file-flush", &json!({"handle": handle}));
    for whence in [json!("set"), json!(0)] {
        let place = agent.get("guest-file-seek", &json!({"handle": handle, "offset": 6, "whence": whence}));
        check(place["position"] == 6, "the position asked for");
    }
    agent.get("guest-file-close", &json!({"handle": handle}));
    in_guest(guest, &format!("cat {path}"));
    let handle = agent.get("guest-file-open", &json!({"path": path, "mode": "r"}));
    let read = agent.get("guest-file-read", &json!({"handle": handle, "count": 1024}));
    check(read == json!({"buf-b64": text, "count": 13, "eof": true}), "what was written");
    agent.get("guest-file-close", &json!({"handle": handle}));
}

fn freeze(guest: &mut Guest, agent: &mut Agent) {
    headline("Freeze, snapshot, thaw");
    words("Written but not yet on the disk; then every file system is frozen, and a program that wants to");
    words("write has to wait until the thaw.");
    in_guest(guest, "echo written before >/home/before");
    check(agent.get("guest-fsfreeze-status", NONE) == "thawed", "thawed at first");
    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    check(agent.get("guest-fsfreeze-status", NONE) == "frozen", "frozen");
    let pid = in_guest(guest, "touch /home/foo >/dev/null 2>&1 & echo $!");
    guest.shell.until("touch blocks", &format!("grep -q '^State:.D' /proc/{pid}/status"));
    in_guest(guest, &format!("grep State: /proc/{pid}/status"));

    words("QEMU puts the disk under /home aside, as a backup program has it do:");
    show(EVENT, "QMP", "blockdev-snapshot-sync");
    let images = guest.snapshot(&["home"]);
    check(agent.get("guest-fsfreeze-thaw", NONE) == frozen, "as many thawed as were frozen");
    check(agent.get("guest-fsfreeze-status", NONE) == "thawed", "thawed again");
    guest.shell.until("touch finishes", &format!("! test -e /proc/{pid}"));
    in_guest(guest, "ls -l /home/foo");

    let snapshot = images.first().expect("one image");
    let fsck = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(snapshot).output().expect("run e2fsck");
    let said = String::from_utf8_lossy(&fsck.stdout);
    check(fsck.status.success() && !said.contains("journal recovery"), &format!("a clean snapshot: {said}"));
    check(debugfs(snapshot, &["-R", "cat /before"]) == "written before\n", "the file is in the snapshot");
    check(debugfs(snapshot, &["-R", "cat /foo"]).is_empty(), "the blocked one is not");
    words("On the host: e2fsck finds the snapshot clean; it holds /home/before, and not yet /home/foo.");
}

fn to_memory(guest: &mut Guest, agent: &mut Agent) {
    for (command, title) in [("guest-suspend-ram", "Asleep in memory"), ("guest-suspend-hybrid", "Asleep in both")] {
        headline(title);
        words("No reply to this one: the machine itself tells.");
        agent.post(command, NONE);
        guest.qmp.wait("SUSPEND", LATER);
        until("the machine sleeps", SOON, || {
            let status = guest.qmp.execute("query-status", &json!({}));
            (status["status"] == "suspended").then_some(())
        });
        show(EVENT, "QMP", "system_wakeup");
        guest.qmp.execute("system_wakeup", &json!({}));
        guest.qmp.wait("WAKEUP", SOON);
        check(agent.get("guest-ping", NONE) == json!({}), "awake");
    }
}

/// The former QEMU ends, and the agent's socket with it: the new one's is returned.
fn to_disk(guest: &mut Guest, mut agent: Agent) -> Agent {
    headline("Asleep on disk");
    words("The guest writes its memory to swap and switches itself off.");
    let before = in_guest(guest, "pidof qemu-ga; cat /proc/sys/kernel/random/boot_id");
    agent.post("guest-suspend-disk", NONE);
    guest.qmp.wait("SUSPEND_DISK", LATER);
    guest.wait_ended();
    drop(agent);
    words("QEMU has ended. A new one on the same disks:");
    guest.power_on();
    guest.qmp.observe(event);
    check(guest.shell.attempt("true", LATER).is_some(), "the guest comes back");
    let after = in_guest(guest, "pidof qemu-ga; cat /proc/sys/kernel/random/boot_id");
    check(before == after, "the same agent in the same boot");
    let mut agent = connect(guest);
    check(agent.get("guest-ping", NONE) == json!({}), "awake");
    agent
}

fn power_down(guest: &mut Guest, agent: &mut Agent) {
    headline("Power down");
    words("A mode that does not exist is refused, the real one switches the machine off.");
    agent.refused("guest-shutdown", &json!({"mode": "powertdown"}));
    agent.post("guest-shutdown", &json!({"mode": "powerdown"}));
    let event = guest.qmp.wait("SHUTDOWN", LATER);
    check(event["data"]["guest"] == true, "the guest itself did it");
    guest.wait_ended();
    words("QEMU has ended.");
}

fn check(holds: bool, what: &str) {
    assert!(holds, "the demo stops here, this does not hold: {what}");
}

/// Run something in the guest by a way that does not involve the agent, and show it.
fn in_guest(guest: &mut Guest, script: &str) -> String {
    show(GUEST, "guest #", script);
    let output = guest.shell.run_within(script, SOON).text;
    for line in output.lines() {
        show(GUEST, "", line);
    }
    output
}

fn traffic(direction: Direction, bytes: &[u8]) {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = match bytes.strip_prefix(&[DELIMITER]) {
        Some(rest) => format!("FF {}", String::from_utf8_lossy(rest)),
        None => String::from_utf8_lossy(bytes).into_owned(),
    };
    match direction {
        Direction::ToAgent => show(REQUEST, "->", &text),
        Direction::FromAgent => show(REPLY, "<-", &text),
    }
}

fn event(event: &Value) {
    let name = event["event"].as_str().unwrap_or_default();
    // The agent's port is closed and opened by every sleep: true, and of no interest here.
    if name != "VSERPORT_CHANGE" {
        let data = event.get("data").map(Value::to_string).unwrap_or_default();
        show(EVENT, "event", &format!("{name} {data}"));
    }
}

fn headline(title: &str) {
    paint(HEADLINE, &format!("\n{title}"));
}

fn words(text: &str) {
    paint("", &format!("  {text}"));
}

fn show(colour: &str, label: &str, text: &str) {
    const WIDTH: usize = 150;
    let short: String = text.chars().take(WIDTH).collect();
    let rest = text.len() - short.len();
    let dots = if rest > 0 { format!(" ... and {rest} bytes more") } else { String::new() };
    paint(colour, &format!("{label:>9} {short}{dots}"));
}

fn paint(colour: &str, line: &str) {
    let mut out = io::stdout();
    let coloured = !colour.is_empty() && out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let written = if coloured { writeln!(out, "\x1b[{colour}m{line}\x1b[0m") } else { writeln!(out, "{line}") };
    // Nobody watches any more: `demo | head`.
    if written.is_err() {
        std::process::exit(0);
    }
    // A person reads along.
    if out.is_terminal() {
        std::thread::sleep(Duration::from_millis(60));
    }
}
