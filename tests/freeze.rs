//! Freezing real ext4 and xfs file systems on loop devices, in a mount namespace of its own.
//!
//! Only these are ever named to the agent: the machine's own file systems are never frozen.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;
use support::{Agent, until};

/// An agent that sees two file systems on loop devices, and the second one's image on the first.
struct Bench {
    agent: Agent,
    /// Keeps the namespace, also when the agent is dead.
    keeper: Child,
    points: Vec<PathBuf>,
}

fn enter(pid: u32, program: &[&str]) -> Child {
    Command::new("nsenter").args(["-m", "-t", &pid.to_string()]).args(program).spawn().expect("nsenter runs")
}

fn all_finish(writers: Vec<Child>) {
    for mut writer in writers {
        let status = until("the write finishes", || writer.try_wait().expect("our child"));
        assert!(status.success());
    }
}

/// Why this machine cannot run these tests, if it cannot.
fn obstacle() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices");
    }
    ["mkfs.ext4", "mkfs.xfs", "unshare", "nsenter", "fsfreeze"].into_iter().find(|program| {
        !Command::new("sh")
            .args(["-c", &format!("command -v {program} >/dev/null")])
            .status()
            .is_ok_and(|s| s.success())
    })
}

impl Bench {
    fn new(extra: &[&str]) -> Bench {
        let dir = tempfile::TempDir::new().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let script = format!(
            "set -e
             truncate -s 700M {outer}.img; mkfs.ext4 -q -F {outer}.img
             mkdir {outer} {inner}; mount -o loop {outer}.img {outer}
             truncate -s 320M {outer}/inner.img; mkfs.xfs -q {outer}/inner.img
             mount -o loop {outer}/inner.img {inner}
             exec \"$@\"",
            outer = at("outer"),
            inner = at("inner"),
        );
        let mut agent = Agent::command(dir.path());
        agent.args(["-m", "unix-listen", "-p"]).arg(dir.path().join("s")).args(extra);
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(agent.get_program()).args(agent.get_args()).env("QGA_CONF", "");
        let points = vec![dir.path().join("outer"), dir.path().join("inner")];
        let child = command.spawn().expect("unshare runs");
        let agent = Agent { child, dir };
        let socket = agent.path("s");
        until("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let keeper = enter(agent.child.id(), &["sleep", "600"]);
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        until("the keeper is inside", || (namespace(keeper.id()) == namespace(agent.child.id())).then_some(()));
        Bench { agent, keeper, points }
    }

    /// Starts a program in the agent's mount namespace.
    fn inside(&self, program: &[&str]) -> Child {
        enter(self.keeper.id(), program)
    }

    /// Starts a write to each file system.
    fn write(&self) -> Vec<Child> {
        let touch = |point: &PathBuf| self.inside(&["touch", &point.join("file").display().to_string()]);
        self.points.iter().map(touch).collect()
    }

    fn listed(&self) -> serde_json::Value {
        json!({"mountpoints": self.points})
    }
}

/// Whatever went wrong: nothing stays frozen, or the kernel could not take the mounts down.
impl Drop for Bench {
    fn drop(&mut self) {
        for point in &self.points {
            let script = format!("fsfreeze -u {} 2>/dev/null", point.display());
            let _ = self.inside(&["sh", "-c", &script]).wait();
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

#[test]
fn writers_wait_from_freeze_to_thaw() {
    if let Some(why) = obstacle() {
        support::skip(why);
        return;
    }
    let bench = Bench::new(&[]);
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    // The inner one is stored on the outer one: frozen in the other order this would hang.
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    let mut writers = bench.write();
    // For what must not happen; there is nothing to wait for.
    std::thread::sleep(Duration::from_millis(300));
    for writer in &mut writers {
        assert!(writer.try_wait().expect("our child").is_none(), "a write went through");
    }
    let again = client.call("guest-fsfreeze-freeze", json!({}));
    assert_eq!(again["error"]["class"], "CommandNotFound");
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    all_finish(writers);
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 0);
}

#[test]
fn an_agent_that_is_told_to_end_while_frozen_thaws_first() {
    if let Some(why) = obstacle() {
        support::skip(why);
        return;
    }
    let mut bench = Bench::new(&[]);
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    let pid = bench.agent.child.id();
    support::signal(pid, "TERM");
    assert_eq!(client.ask("guest-ping", json!({})), json!({}), "the first one is only remembered");
    support::signal(pid, "TERM");
    let status = until("it ends", || bench.agent.child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(0));
    all_finish(bench.write());
}

#[test]
fn an_agent_that_was_told_to_end_goes_when_its_client_has_thawed() {
    if let Some(why) = obstacle() {
        support::skip(why);
        return;
    }
    let mut bench = Bench::new(&[]);
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    support::signal(bench.agent.child.id(), "TERM");
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    let status = until("it ends", || bench.agent.child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(0));
    all_finish(bench.write());
}

#[test]
fn a_killed_agent_comes_back_frozen_and_its_thaw_works() {
    if let Some(why) = obstacle() {
        support::skip(why);
        return;
    }
    let mut bench = Bench::new(&[]);
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    bench.agent.child.kill().expect("our child");
    bench.agent.child.wait().expect("our child");
    let mut command = Agent::command(bench.agent.dir.path());
    command.args(["-m", "unix-listen", "-p"]).arg(bench.agent.path("s"));
    let mut inside = Command::new("nsenter");
    inside.args(["-m", "-t", &bench.keeper.id().to_string()]);
    inside.arg(command.get_program()).args(command.get_args()).env("QGA_CONF", "");
    bench.agent.child = inside.spawn().expect("nsenter runs");
    let socket = bench.agent.path("s");
    let mut client =
        until("it listens again", || std::os::unix::net::UnixStream::connect(&socket).ok().map(support::Client::new));
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    // This one sees the machine's mounts too; none of those is frozen, so two it is.
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    all_finish(bench.write());
}
