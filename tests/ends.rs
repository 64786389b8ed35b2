//! What ends the agent, what does not, and what others may reach of what it makes.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;
use support::{Agent, Client, until};

/// Runs the agent to its end.
fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        Agent::command(dir).args(args).stderr(Stdio::piped()).output().expect("the agent starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Runs it by a shell that does something first.
fn run_after(dir: &Path, before: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(Agent::program());
    command.arg("-t").arg(dir).args(args).env("QGA_CONF", "").current_dir(dir).stdin(Stdio::null());
    command
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn a_client_that_cannot_be_taken_does_not_end_the_agent() {
    let mut agent = Agent::start(&[]);
    let pid = agent.child.id();
    agent.connect().ask("guest-ping", json!({}));
    let limit = |files: &str| {
        let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={files}")]).status();
        assert!(status.expect("prlimit runs").success());
    };
    // It has no room left from the moment on that this is the lowest free number.
    let free = || (0..).find(|number| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists());
    let lowest = until("the client before is gone", || {
        let before = free();
        std::thread::sleep(Duration::from_millis(50));
        before.filter(|_| before == free())
    });
    limit(&format!("{lowest}:4096"));
    let mut client = agent.connect();
    client.send("{\"execute\":\"guest-ping\"}\n");
    until("it says so", || agent.log().contains("failed to take a client: Too many open files").then_some(()));
    assert!(client.is_silent(Duration::from_millis(1500)), "it was not taken");
    assert!(agent.child.try_wait().expect("our child").is_none(), "it ended");
    assert_eq!(agent.log().matches("failed to take a client").count(), 1, "{}", agent.log());
    limit("4096:4096");
    assert_eq!(client.reply(), json!({"return": {}}));
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_second_agent_on_the_path_of_a_living_one_is_refused() {
    let agent = Agent::start(&[]);
    let socket = agent.path("s");
    let socket = socket.to_str().expect("UTF-8");
    let other = tempfile::tempdir().expect("a directory");
    let (status, stderr) = run(other.path(), &["-m", "unix-listen", "-p", socket]);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("Failed to bind socket to {socket}: Address already in use")), "{stderr}");
    assert_eq!(agent.connect().ask("guest-ping", json!({})), json!({}));
    // One that has a client and no room for more is alive as well.
    let _clients: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(socket).expect("it listens")).collect();
    assert_eq!(run(other.path(), &["-m", "unix-listen", "-p", socket]).0, Some(1));
}

#[test]
fn a_socket_of_another_kind_that_has_an_owner_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let owner = UnixDatagram::bind(&path).expect("a socket");
    let (status, stderr) = run(dir.path(), &["-m", "unix-listen", "-p", path.to_str().expect("UTF-8")]);
    assert_eq!(status, Some(1), "{stderr}");
    drop(owner);
    assert!(path.exists(), "somebody's socket was removed");
}

#[test]
fn a_socket_whose_owner_is_dead_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).expect("a socket"));
    let mut command = Agent::command(dir.path());
    let mut child = command.args(["-m", "unix-listen", "-p"]).arg(&path).spawn().expect("the agent starts");
    let stream = until("it listens", || UnixStream::connect(&path).ok());
    assert_eq!(Client::new(stream).ask("guest-ping", json!({})), json!({}));
    child.kill().and_then(|()| child.wait()).expect("our child");
}

#[test]
fn what_the_agent_makes_is_private_whatever_the_mask_of_the_caller() {
    for daemon in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let args = ["-m", "unix-listen", "-p", "s", "-l", "log", "-f", "pid"];
        let args = [&args[..], if daemon { &["-d"] } else { &[] }].concat();
        let mut child = run_after(dir.path(), "umask 0", &args).spawn().expect("a shell");
        until("it listens", || UnixStream::connect(path("s")).ok());
        assert_eq!((mode(path("s")), mode(path("log"))), (0o600, 0o600), "daemon: {daemon}");
        if daemon {
            assert_eq!((mode(path("qga.state")), mode(path("pid"))), (0o600, 0o600));
            let pid = until("a process id", || fs::read_to_string(path("pid")).ok()?.trim().parse().ok());
            support::signal(pid, "KILL");
        } else {
            support::signal(child.id(), "KILL");
        }
        child.wait().expect("our child");
    }
}

#[test]
fn too_few_descriptors_are_an_error_with_a_text() {
    let dir = tempfile::tempdir().expect("a directory");
    for files in [5, 8, 12, 20, 31] {
        let output = run_after(dir.path(), &format!("ulimit -n {files}"), &["-m", "unix-listen", "-p", "s"])
            .stderr(Stdio::piped())
            .output()
            .expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{files}: {stderr}");
        let text = format!("the limit of open files (RLIMIT_NOFILE) is {files}, the agent needs 32");
        assert!(stderr.contains(&text) && !stderr.contains("panicked"), "{files}: {stderr}");
        assert!(!dir.path().join("s").exists());
    }
    // What needs none works.
    let version = run_after(dir.path(), "ulimit -n 8", &["-V"]).stdout(Stdio::null()).status();
    assert!(version.expect("a shell").success());
}

#[test]
fn the_least_number_of_descriptors_serves_a_client() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = run_after(dir.path(), "ulimit -n 32", &["-m", "unix-listen", "-p", "s"]).spawn().expect("a shell");
    let stream = until("it listens", || UnixStream::connect(dir.path().join("s")).ok());
    let mut client = Client::new(stream);
    client.ask("guest-get-osinfo", json!({}));
    let pid = client.ask("guest-exec", json!({"path": "/bin/true", "capture-output": true}))["pid"].clone();
    until("it ends", || {
        client.ask("guest-exec-status", json!({"pid": pid}))["exited"].as_bool().filter(|exited| *exited)
    });
    child.kill().and_then(|()| child.wait()).expect("our child");
}

#[test]
fn an_empty_state_directory_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let output =
        run_after(dir.path(), ":", &["-t", "", "-m", "unix-listen", "-p", "s"]).stderr(Stdio::piped()).output();
    let output = output.expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the state directory (--statedir) has an empty name"), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0, "it left something there");
}

/// It is killed, never told to end: that would thaw this machine's file systems.
#[test]
fn an_agent_that_starts_frozen_waits_for_its_channel() {
    let dir = tempfile::tempdir().expect("a directory");
    let boot_id = fs::read("/proc/sys/kernel/random/boot_id").expect("an id");
    fs::write(dir.path().join("qga.state.isfrozen"), boot_id).expect("a file");
    let pipe = dir.path().join("port");
    let mut child = Agent::command(dir.path()).args(["-m", "virtio-serial", "-p"]).arg(&pipe).spawn().expect("a start");
    // The log has its thread when the start is over, and with it the first attempt.
    let threads = format!("/proc/{}/task", child.id());
    until("its start is over", || fs::read_dir(&threads).ok()?.nth(1).map(drop));
    assert!(child.try_wait().expect("our child").is_none(), "it ended without a thaw");
    // The channel comes.
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let mut port = until("it is opened", || {
        let flags = nix::libc::O_NONBLOCK;
        fs::File::options().write(true).custom_flags(flags).open(&pipe).ok()
    });
    port.write_all(b"{\"execute\":\"guest-fsfreeze-status\"}\n").expect("it reads");
    child.kill().and_then(|()| child.wait()).expect("our child");
    assert!(dir.path().join("qga.state.isfrozen").exists());
}

/// A second agent that is started by mistake must not thaw what the first one froze for its host.
#[test]
fn a_second_agent_leaves_the_freeze_of_a_living_one_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let boot_id = fs::read("/proc/sys/kernel/random/boot_id").expect("an id");
    fs::write(dir.path().join("qga.state.isfrozen"), boot_id).expect("a file");
    let path = dir.path().join("s");
    let _living = UnixListener::bind(&path).expect("a socket");
    let (status, stderr) = run(dir.path(), &["-m", "unix-listen", "-p", path.to_str().expect("UTF-8")]);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(dir.path().join("qga.state.isfrozen").exists(), "it thawed");
}
