//! The agent is killed at every step of a freeze and of a thaw, and the next one puts it right.

use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::bench::{Bench, CLASSIC, all_finish};
use crate::support::{self, Client, until};

/// Sends a command to an agent that may die of it.
fn attempt(client: &mut Client, command: &str, arguments: &Value) -> Option<Value> {
    use std::io::Write;
    let request = json!({"execute": command, "arguments": arguments}).to_string();
    client.stream.write_all(request.as_bytes()).ok()?;
    client.last_words()
}

/// A tracer that kills the agent when one of its threads begins its n-th of these system calls.
fn killer(bench: &Bench, calls: &str, n: u32) -> Child {
    let pid = bench.agent.child.id();
    let inject = format!("inject={calls}:signal=KILL:when={n}");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, "-p", &pid.to_string()]);
    let mut strace = strace.spawn().expect("strace runs");
    until("the agent is traced", || {
        // The call that it waits in begins once more when it is traced: that may be its last one.
        let has_ended = strace.try_wait().expect("our child").is_some();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        (has_ended || status.contains(&format!("TracerPid:\t{}\n", strace.id()))).then_some(())
    });
    strace
}

/// A program that would never end.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_stays_frozen_wherever_the_agent_is_killed() {
    let has_strace = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !has_strace {
        support::skip("no strace here");
        return;
    }
    let Some(mut bench) = Bench::new(&CLASSIC, &[]) else { return };
    // Somebody who never stops writing.
    let load = "while :; do date >>outer/busy; date >>inner/busy; done 2>/dev/null";
    let _busy = Busy(bench.inside(&["sh", "-c", &format!("cd {}; {load}", bench.agent.dir.path().display())]));
    let everywhere = (1..=40).map(|n| ("all", n));
    let around_the_ioctls = (1..=4).map(|n| ("ioctl", n));
    let around_the_marker = (1..=6).map(|n| ("unlink,unlinkat,rename,write", n));
    let (mut killed, mut frozen) = (0, 0);
    for (calls, n) in everywhere.chain(around_the_ioctls).chain(around_the_marker) {
        let mut client = bench.agent.connect();
        assert_eq!(client.ask("guest-ping", json!({})), json!({}));
        let mut strace = killer(&bench, calls, n);
        let survived = attempt(&mut client, "guest-fsfreeze-freeze-list", &bench.listed())
            .and_then(|_| attempt(&mut client, "guest-fsfreeze-thaw", &json!({})))
            .is_some();
        if survived {
            bench.agent.child.kill().expect("our child");
        } else {
            killed += 1;
        }
        strace.wait().expect("our child");
        let mut client = bench.restart();
        let status = client.ask("guest-fsfreeze-status", json!({}));
        if status == "frozen" {
            frozen += 1;
            client.ask("guest-fsfreeze-thaw", json!({}));
        }
        assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
        all_finish(bench.write());
    }
    // A sweep that never hit anything would prove nothing.
    assert!(killed >= 25 && frozen >= 2, "killed {killed} times, {frozen} times while frozen");
}
