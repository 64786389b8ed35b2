//! Hooks of the real program, across its death.

use serde_json::json;

use crate::bench::{Bench, CLASSIC};
use crate::support::{self, Agent, until};

/// A directory of hooks, each of which notes its name and what it is told.
fn hooks(agent: &Agent, scripts: &[(&str, &str)]) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(agent.path("hooks")).expect("a directory");
    for (name, body) in scripts {
        let path = agent.path("hooks").join(name);
        let log = agent.path("told").display().to_string();
        std::fs::write(&path, format!("#!/bin/sh\necho {name} $1 >>{log}\n{body}\n")).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
}

fn told(agent: &Agent) -> String {
    std::fs::read_to_string(agent.path("told")).unwrap_or_default()
}

/// As [`hooks`], for an agent that reads its directory of hooks from a file it is given.
fn with_hooks(scripts: &[(&str, &str)]) -> Option<Bench> {
    let mut bench = Bench::new(&CLASSIC, &[])?;
    hooks(&bench.agent, scripts);
    support::signal(bench.agent.child.id(), "TERM");
    bench.add_args(&[format!("-F{}", bench.agent.path("hooks").display())]);
    bench.restart();
    Some(bench)
}

#[test]
fn a_hook_that_was_told_to_freeze_is_told_to_thaw_after_the_agent_was_killed() {
    let hangs = "[ $1 = thaw ] || { echo $$ >$0.pid; exec sleep 600; }";
    let Some(mut bench) = with_hooks(&[("1", ""), ("2", hangs), ("3", "")]) else { return };
    let mut client = bench.agent.connect();
    let request = json!({"execute": "guest-fsfreeze-freeze-list", "arguments": bench.listed()});
    client.send(request.to_string());
    let pid = until("the second hook has begun", || {
        let pid = std::fs::read_to_string(bench.agent.path("hooks/2.pid")).ok()?;
        pid.trim().parse::<u32>().ok()
    });
    bench.agent.child.kill().expect("our child");
    let stat = std::path::PathBuf::from(format!("/proc/{pid}/stat"));
    let has_ended = || !std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    until("a hook that hangs ends with the agent", || has_ended().then_some(()));
    let mut client = bench.restart();
    until("all are told", || (told(&bench.agent) == "1 freeze\n2 freeze\n2 thaw\n1 thaw\n").then_some(()));
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
}

#[test]
fn hooks_of_a_killed_agents_freeze_are_told_at_the_thaw() {
    let Some(mut bench) = with_hooks(&[("1", ""), ("2", "")]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    bench.agent.child.kill().expect("our child");
    let mut client = bench.restart();
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    assert_eq!(told(&bench.agent), "1 freeze\n2 freeze\n");
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(told(&bench.agent), "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
}

/// It is started and not yet tied to the agent's life: then it must not begin at all, or it would
/// freeze after the next agent has told it to thaw.
#[test]
fn a_hook_that_is_just_starting_when_the_agent_is_killed_does_not_run() {
    let Some(mut bench) = with_hooks(&[("1", "")]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-ping", json!({})), json!({}));
    let pid = bench.agent.child.id();
    let Some(mut tracer) = slow_prctl(pid) else {
        support::skip("no strace here");
        return;
    };
    until("the agent is traced", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains(&format!("TracerPid:\t{}\n", tracer.id())).then_some(())
    });
    client.send(json!({"execute": "guest-fsfreeze-freeze-list", "arguments": bench.listed()}).to_string());
    let children = format!("/proc/{pid}/task");
    until("the hook is about to start", || {
        let threads = std::fs::read_dir(&children).ok()?;
        let of_thread = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(entry.ok()?.path().join("children")).ok().filter(|children| !children.is_empty())
        };
        { threads }.find_map(of_thread)
    });
    bench.agent.child.kill().expect("our child");
    // It ends with the last of those that it traces.
    until("the hook has ended", || tracer.try_wait().expect("our child"));
    assert_eq!(told(&bench.agent), "");
}

/// Makes the call slow that ties a hook to its agent.
fn slow_prctl(pid: u32) -> Option<std::process::Child> {
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=prctl:delay_enter=3000000", "-p", &pid.to_string()]);
    strace.spawn().ok()
}
