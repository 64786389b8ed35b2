//! Programs of guest-exec beside the agent's own life.

#[path = "support/mod.rs"]
mod support;

use serde_json::{Value, json};
use support::{Agent, Client, until};

fn start(client: &mut Client, arguments: Value) -> u32 {
    let pid = client.ask("guest-exec", arguments)["pid"].as_u64().expect("a pid");
    u32::try_from(pid).expect("a pid")
}

#[test]
fn programs_whose_results_nobody_fetches_are_no_zombies() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    let pids: Vec<_> = (0..200).map(|_| start(&mut client, json!({"path": "false"}))).collect();
    until("none is left", || children_of(agent.child.id()).is_empty().then_some(()));
    for pid in pids {
        assert_eq!(client.ask("guest-exec-status", json!({"pid": pid})), json!({"exited": true, "exitcode": 1}));
    }
}

#[test]
fn a_program_has_what_a_login_would_give_it() {
    let agent =
        Agent::start_after(&["env", "-i", "QGA_CONF=", "NOTIFY_SOCKET=/nonexistent"], "unset PWD OLDPWD SHLVL _");
    let mut client = agent.connect();
    let pid = start(&mut client, json!({"path": "env", "capture-output": true}));
    let status = until("it ends", || {
        let status = client.ask("guest-exec-status", json!({"pid": pid}));
        (status["exited"] == true).then_some(status)
    });
    let out = status["out-data"].as_str().expect("output");
    // HOME=
    for text in ["HOME=", "USER=", "LOGNAME=", "SHELL=", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    {
        assert!(decoded(out).contains(text), "{text}: {}", decoded(out));
    }
    assert!(!decoded(out).contains("NOTIFY_SOCKET"), "that is the agent's");
}

fn decoded(base64: &str) -> String {
    let value =
        |byte| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|&b| b == byte);
    let mut bytes = Vec::new();
    for group in base64.as_bytes().chunks(4) {
        let digits: Vec<_> = group.iter().filter_map(|&byte| value(byte)).collect();
        let number = digits.iter().fold(0, |number, digit| number << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&number.to_be_bytes()[5..][..digits.len() - 1]);
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn finished(client: &mut Client, pid: u32) -> Value {
    until("it ends", || {
        let status = client.ask("guest-exec-status", json!({"pid": pid}));
        (status["exited"] == true).then_some(status)
    })
}

fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Prints more than a pipe holds after the first line, which is before the agent's end.
const LOOP: &str =
    "for i in 1 2 3; do echo $i >>$0; head -c 3000000 /dev/zero; echo >&2; read go <$1.$i; done; echo end >>$0";

#[test]
fn no_end_of_the_agent_reaches_a_program() {
    for (name, capture) in
        [("TERM", json!(true)), ("KILL", json!(true)), ("KILL", json!("merged")), ("KILL", json!(false))]
    {
        let agent = Agent::start(&[]);
        let kept = tempfile::tempdir().expect("a directory");
        let (file, gate) = (kept.path().join("lines"), kept.path().join("gate"));
        // One for each time: who forks beside us has the last one open a moment longer.
        let gates = [1, 2, 3].map(|time| gate.with_extension(time.to_string()));
        gates.iter().for_each(|gate| nix::unistd::mkfifo(gate, nix::sys::stat::Mode::S_IRWXU).expect("a pipe"));
        let mut client = agent.connect();
        let arguments = json!({"path": "sh", "arg": ["-c", LOOP, file, gate], "capture-output": capture});
        let pid = start(&mut client, arguments);
        until("it has begun", || (lines(&file) == 1).then_some(()));
        let wanted = usize::from(capture != false);
        let keepers =
            until("the keeper runs", || Some(keepers_of(agent.child.id())).filter(|keepers| keepers.len() == wanted));
        support::signal(agent.child.id(), name);
        drop(agent);
        for (count, gate) in [2, 3, 4].into_iter().zip(&gates) {
            let mut gate = until("the program is at its gate", || {
                let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC;
                nix::fcntl::open(gate, flags, nix::sys::stat::Mode::empty()).ok().map(std::fs::File::from)
            });
            std::io::Write::write_all(&mut gate, b"go\n").expect("it reads");
            drop(gate);
            until("the program goes on", || (lines(&file) >= count).then_some(()));
        }
        until("it ends", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        for keeper in keepers {
            until("the keeper ends", || (!std::path::Path::new(&format!("/proc/{keeper}")).exists()).then_some(()));
        }
    }
}

/// The children of all threads of an agent. A thread that has just ended has none.
fn children_of(agent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{agent}/task")).expect("its threads").flatten();
    let lists = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The processes that hold pipes beside an agent.
fn keepers_of(agent: u32) -> Vec<u32> {
    let is_keeper =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"qga-keeper"));
    children_of(agent).into_iter().filter(is_keeper).collect()
}

/// A service manager that keeps descriptors between two agents.
#[test]
fn the_next_agent_has_the_results_of_the_one_before() {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let dir = tempfile::tempdir().expect("a directory");
    let manager = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    manager.set_read_timeout(Some(support::PATIENCE)).expect("a socket");
    let gate = dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let socket = dir.path().join("s");
    let run = |handed: Option<&OwnedFd>| {
        let agent = Agent::command(dir.path());
        let redirect = if handed.is_some() { "exec 3<&$KEPT; export LISTEN_FDS=1 LISTEN_PID=$$;" } else { "" };
        let mut command = std::process::Command::new("bash");
        command
            .arg("-c")
            .arg(format!("{redirect} exec \"$@\""))
            .arg("sh")
            .arg(agent.get_program())
            .args(agent.get_args());
        command.args(["-m", "unix-listen", "-p"]).arg(&socket).env("QGA_CONF", "");
        command.env("NOTIFY_SOCKET", dir.path().join("notify"));
        if let Some(fd) = handed {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("a descriptor");
            command.env("KEPT", fd.as_raw_fd().to_string());
        }
        let child = command.spawn().expect("it starts");
        let client = until("it listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        (child, Client::new(client))
    };
    let (mut first, mut client) = run(None);
    let script = format!("echo before; read go <{}; echo after; exit 3", gate.display());
    let captured = start(&mut client, json!({"path": "sh", "arg": ["-c", script], "capture-output": true}));
    let ended = start(&mut client, json!({"path": "sh", "arg": ["-c", "echo x; exit 4"], "capture-output": true}));
    let plain = start(&mut client, json!({"path": "sh", "arg": ["-c", format!("read go <{}", gate.display())]}));
    let taken = start(&mut client, json!({"path": "true"}));
    finished(&mut client, taken);
    until("it is reaped", || (!std::path::Path::new(&format!("/proc/{ended}")).exists()).then_some(()));
    // A command after it: the first agent has told all.
    client.ask("guest-ping", json!({}));

    let mut text = [0; 200];
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut slices = [std::io::IoSliceMut::new(&mut text)];
    let flags = nix::sys::socket::MsgFlags::empty();
    let message =
        nix::sys::socket::recvmsg::<()>(manager.as_raw_fd(), &mut slices, Some(&mut space), flags).expect("a word");
    let rights = message.cmsgs().expect("rights").next();
    let Some(nix::sys::socket::ControlMessageOwned::ScmRights(fds)) = rights else { panic!("no descriptor") };
    // SAFETY: it has just been received.
    #[allow(unsafe_code)]
    let kept = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    let count = message.bytes;
    assert_eq!(&text[..count], b"FDSTORE=1\nFDNAME=exec-keeper");

    first.kill().expect("our child");
    first.wait().expect("our child");
    let (mut second, mut client) = run(Some(&kept));
    drop(kept);
    assert_eq!(client.ask("guest-exec-status", json!({"pid": captured})), json!({"exited": false}));
    assert_eq!(client.ask("guest-exec-status", json!({"pid": plain})), json!({"exited": false}));
    assert!(client.call("guest-exec-status", json!({"pid": taken})).get("error").is_some(), "it was handed out");
    let status = finished(&mut client, ended);
    assert_eq!((&status["exitcode"], &status["out-data"]), (&json!(4), &json!("eAo=")));
    let mut open = std::fs::File::options().read(true).write(true).open(&gate).expect("a pipe");
    std::io::Write::write_all(&mut open, b"go\ngo\n").expect("room");
    let status = finished(&mut client, captured);
    assert_eq!(decoded(status["out-data"].as_str().expect("output")), "before\nafter\n");
    // Only newer kernels tell how a process ended that is no child.
    assert!(status.get("exitcode").is_none_or(|code| code == 3), "{status}");
    finished(&mut client, plain);
    // The second one starts programs as the first did.
    let next = start(&mut client, json!({"path": "echo", "arg": ["y"], "capture-output": true}));
    assert_eq!(finished(&mut client, next)["out-data"], "eQo=");
    second.kill().expect("our child");
    second.wait().expect("our child");
}
