//! What clients rely on, against the real program over a socket.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Agent, Client, until};

/// A hook that waits until its FIFO is written to: a command that takes as long as a test wants.
fn slow_hook(agent_dir: &std::path::Path) -> std::path::PathBuf {
    let (hook, gate) = (agent_dir.join("hook"), agent_dir.join("gate"));
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    fs::write(&hook, format!("#!/bin/sh\necho $1 >> {0}.log\n[ $1 = thaw ] || read x < {0}\n", gate.display()))
        .expect("a file");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a mode");
    hook
}

fn with_slow_hook() -> Agent {
    let dir = tempfile::TempDir::new().expect("a directory");
    let hook = slow_hook(dir.path());
    let socket = dir.path().join("s");
    let mut command = Agent::command(dir.path());
    command.args(["-m", "unix-listen", "-p"]).arg(&socket).arg(format!("-F{}", hook.display()));
    let child = command.spawn().expect("the agent starts");
    let agent = Agent { child, dir };
    until("the socket is there", || std::os::unix::net::UnixStream::connect(&socket).ok());
    agent
}

/// Starts a freeze that hangs in its hook. It is asked to freeze nothing.
fn start_slow_freeze(agent: &Agent, client: &mut Client) {
    client.send(r#"{"execute":"guest-fsfreeze-freeze-list","arguments":{"mountpoints":[]}}"#);
    until("the hook runs", || fs::read_to_string(agent.path("gate.log")).ok());
}

fn open_gate(agent: &Agent) {
    let mut gate = fs::OpenOptions::new().write(true).open(agent.path("gate")).expect("the hook reads");
    gate.write_all(b"go\n").expect("the hook reads");
}

#[test]
fn proxmox_sends_sync_and_command_in_one_write_per_connection() {
    let agent = Agent::start(&[]);
    for id in 0..200 {
        let mut client = agent.connect();
        client.send(format!(
            "\u{0}{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{id}}}}}\n{{\"execute\":\"guest-ping\"}}\n"
        ).replacen('\u{0}', "", 1));
        assert_eq!(client.line(), Some([b"\xff{\"return\": ".as_slice(), id.to_string().as_bytes(), b"}"].concat()));
        assert_eq!(client.reply(), json!({"return": {}}));
    }
}

#[test]
fn libvirt_recovers_after_garbage_and_half_an_object() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    client.send(b"garbage\n{\"execute\":\n\xff");
    client.send(r#"{"execute":"guest-sync","arguments":{"id":1700000000000}}"#);
    let mut reply = client.reply();
    while reply.get("error").is_some() {
        reply = client.reply();
    }
    assert_eq!(reply, json!({"return": 1_700_000_000_000_u64}));
}

#[test]
fn ping_is_answered_while_a_freeze_is_at_work_and_status_waits_for_it() {
    let agent = with_slow_hook();
    let mut first = agent.connect();
    start_slow_freeze(&agent, &mut first);
    drop(first);
    let mut second = agent.connect();
    let begin = Instant::now();
    assert_eq!(second.ask("guest-sync", json!({"id": 5})), 5);
    assert_eq!(second.ask("guest-ping", json!({})), json!({}));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    second.send(r#"{"execute":"guest-fsfreeze-status"}"#);
    assert!(second.is_silent(Duration::from_millis(200)));
    open_gate(&agent);
    assert_eq!(second.reply(), json!({"return": "thawed"}));
    let hooks = fs::read_to_string(agent.path("gate.log")).expect("a log");
    assert_eq!(hooks, "freeze\nthaw\n", "hooks come in pairs, also when nothing was frozen");
}

#[test]
fn a_sync_on_the_same_connection_overtakes_a_freeze_within_a_second_or_so() {
    let agent = with_slow_hook();
    let mut client = agent.connect();
    start_slow_freeze(&agent, &mut client);
    assert_eq!(client.ask("guest-sync", json!({"id": 6})), 6);
    assert_eq!(client.ask("guest-ping", json!({})), json!({}));
    // Another command does not wait either, and the late reply of the freeze never comes.
    assert!(client.ask("guest-get-time", json!({})).is_i64());
    let path = agent.path("stderr");
    assert!(client.ask("guest-file-open", json!({"path": path})).is_i64());
    open_gate(&agent);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
}

#[test]
fn terminating_while_a_command_hangs_works() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    client.send(r#"{"execute":"guest-exec","arguments":{"path":"/bin/sleep","arg":["600"],"capture-output":true}}"#);
    client.reply();
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_client_that_never_reads_blocks_neither_the_end_nor_memory() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket");
    let flood = b"{\"execute\":\"guest-info\"}\n".repeat(4096);
    // Until the agent stops reading.
    while client.stream.write_all(&flood).is_ok() {}
    let status = fs::read_to_string(format!("/proc/{}/status", agent.child.id())).expect("it lives");
    let rss = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a line");
    let kib: u64 = rss.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    assert!(kib < 32 << 10, "{rss}");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_client_that_goes_away_with_replies_unread_does_not_end_the_agent() {
    let agent = Agent::start(&[]);
    for _ in 0..50 {
        let mut client = agent.connect();
        client.send(b"{\"execute\":\"guest-info\"}\n".repeat(50));
        drop(client);
    }
    assert_eq!(agent.connect().ask("guest-ping", json!({})), json!({}));
}

#[test]
fn nothing_of_one_client_reaches_the_next() {
    let agent = Agent::start(&[]);
    let mut first = agent.connect();
    first.send(r#"{"execute":"#);
    drop(first);
    let mut second = agent.connect();
    second.send("\"guest-ping\"}\n");
    assert!(second.reply().get("error").is_some());
}

#[test]
fn a_half_closed_client_gets_its_replies_and_then_the_end() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    client.send("{\"execute\":\"guest-get-osinfo\"}{\"execute\":\"guest-ping\"}");
    client.stream.shutdown(std::net::Shutdown::Write).expect("a socket");
    assert!(client.reply().get("return").is_some());
    assert_eq!(client.reply(), json!({"return": {}}));
    assert_eq!(client.line(), None);
}

#[test]
fn a_file_of_many_megabytes_comes_back_whole_and_takes_little_memory() {
    let agent = Agent::start(&[]);
    let data: Vec<u8> = (0..20_000_000_u32).map(|i| (i / 3 % 251) as u8).collect();
    fs::write(agent.path("big"), &data).expect("a file");
    let mut client = agent.connect();
    let handle = client.ask("guest-file-open", json!({"path": agent.path("big")}));
    let read = client.ask("guest-file-read", json!({"handle": handle, "count": 30_000_000}));
    assert_eq!((read["count"].as_u64(), read["eof"].as_bool()), (Some(20_000_000), Some(true)));
    let text = read["buf-b64"].as_str().expect("text");
    use base64::Engine;
    let back = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    assert!(back == data, "the content differs");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.child.id())).expect("it lives");
    let peak = status.lines().find(|l| l.starts_with("VmHWM:")).expect("a line");
    let kib: u64 = peak.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    assert!(kib < 20 << 10, "{peak}");
}

#[test]
fn frozen_at_start_means_frozen_until_the_thaw() {
    let dir = tempfile::TempDir::new().expect("a directory");
    fs::write(dir.path().join("qga.state.isfrozen"), "").expect("a marker");
    let socket = dir.path().join("s");
    let mut command = Agent::command(dir.path());
    command.args(["-m", "unix-listen", "-p"]).arg(&socket);
    let child = command.spawn().expect("the agent starts");
    let agent = Agent { child, dir };
    until("the socket is there", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let mut client = agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    let refused = client.call("guest-file-open", json!({"path": "/etc/hostname"}));
    assert_eq!(refused["error"]["class"], "CommandNotFound");
    assert_eq!(refused["error"]["desc"], "Command guest-file-open has been disabled: the agent is in frozen state");
    assert_eq!(client.ask("guest-ping", json!({})), json!({}));
}

#[test]
fn sighup_takes_policy_and_limits_over_and_keeps_the_old_ones_when_the_file_is_bad() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let (socket, settings) = (dir.path().join("s"), dir.path().join("conf"));
    let write = |text: &str| fs::write(&settings, text).expect("a file");
    write("[general]\nblock-rpcs=guest-get-time\n[limits]\nfile-handles=1\n");
    let mut command = Agent::command(dir.path());
    command.args(["-m", "unix-listen", "-p"]).arg(&socket).arg("-c").arg(&settings);
    let agent = Agent { child: command.spawn().expect("the agent starts"), dir };
    until("the socket is there", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let mut client = agent.connect();
    let open = json!({"path": "/dev/null"});
    assert!(client.ask("guest-file-open", open.clone()).is_i64());
    let refused = client.call("guest-file-open", open.clone()).to_string();
    assert!(refused.contains("1 files are open already"), "{refused}");
    assert!(client.call("guest-get-time", json!({})).get("error").is_some());

    write("[general]\nverbose=perhaps\n");
    support::signal(agent.child.id(), "HUP");
    until("it complains", || agent.log().contains("configuration not reloaded").then_some(()));
    assert!(client.call("guest-get-time", json!({})).get("error").is_some());

    write("[limits]\nfile-handles=2\n");
    support::signal(agent.child.id(), "HUP");
    until("the new ones are in force", || client.call("guest-get-time", json!({})).get("return").map(drop));
    assert!(client.ask("guest-file-open", open).is_i64());
}

/// Nobody may start a process or a thread: a fork bomb, or a full pids cgroup.
#[test]
fn without_threads_to_spare_commands_are_still_answered() {
    if !nix::unistd::geteuid().is_root() {
        support::skip("not root, who alone can make another user");
        return;
    }
    // A user of its own, for whom one process is one too many.
    let limits = ["--reuid=64999", "--regid=64999", "--clear-groups", "prlimit", "--nproc=1"];
    let dir = tempfile::TempDir::new().expect("a directory");
    std::os::unix::fs::chown(dir.path(), Some(64999), Some(64999)).expect("root may");
    let agent = Agent::command(dir.path());
    let mut command = std::process::Command::new("setpriv");
    // The program itself may lie where only root can go.
    let program = dir.path().join("qemu-ga");
    std::fs::copy(agent.get_program(), &program).expect("copied");
    command.args(limits).arg(&program).args(agent.get_args()).env("QGA_CONF", "");
    command.args(["-m", "unix-listen", "-p"]).arg(dir.path().join("s"));
    let child = command.spawn().expect("setpriv runs");
    let agent = Agent { child, dir };
    support::until("it listens", || std::os::unix::net::UnixStream::connect(agent.path("s")).ok());
    let mut client = agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 0);
    let file = agent.path("file").display().to_string();
    std::fs::write(&file, vec![b'x'; 3 << 20]).expect("a file");
    let handle = client.ask("guest-file-open", json!({"path": file}));
    let read = client.ask("guest-file-read", json!({"handle": handle, "count": 3 << 20}));
    assert_eq!(read["count"], 3 << 20);
    assert_eq!(client.ask("guest-ping", json!({})), json!({}));
    let text = client.call("guest-exec", json!({"path": "true"}))["error"]["desc"].to_string();
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
    assert_eq!(agent.terminate(), Some(0));
}

/// The agent may hold as many files as its limits say, and programs get the limit it was given.
#[test]
fn a_thousand_open_files_do_not_keep_a_client_out_and_programs_have_the_usual_limit() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let agent = Agent::command(dir.path());
    let mut command = std::process::Command::new("prlimit");
    command.args(["--nofile=1024:8192"]).arg(agent.get_program()).args(agent.get_args()).env("QGA_CONF", "");
    command.args(["-m", "unix-listen", "-p"]).arg(dir.path().join("s"));
    let child = command.spawn().expect("prlimit runs");
    let agent = Agent { child, dir };
    support::until("it listens", || std::os::unix::net::UnixStream::connect(agent.path("s")).ok());
    let mut client = agent.connect();
    for _ in 0..1024 {
        client.ask("guest-file-open", json!({"path": "/dev/null"}));
    }
    let refused = client.call("guest-file-open", json!({"path": "/dev/null"}))["error"]["desc"].to_string();
    assert!(refused.contains("1024"), "{refused}");
    drop(client);
    let mut client = agent.connect();
    let limit = json!({"path": "/bin/sh", "arg": ["-c", "ulimit -Sn; ulimit -Hn"], "capture-output": true});
    let pid = client.ask("guest-exec", limit)["pid"].clone();
    let status = support::until("it ends", || {
        let status = client.ask("guest-exec-status", json!({"pid": pid}));
        (status["exited"] == true).then_some(status)
    });
    assert_eq!(status["out-data"], "MTAyNAo4MTkyCg==", "1024 and 8192");
}
