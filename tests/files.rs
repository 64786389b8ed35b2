//! Writes that the system does not take whole.

#[path = "support/mod.rs"]
mod support;

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use support::{Agent, Client};

fn base64(size: usize) -> String {
    "QUJD".repeat(size / 3)
}

fn open(client: &mut Client, path: &Path, mode: &str) -> Value {
    client.ask("guest-file-open", json!({"path": path, "mode": mode}))
}

/// Tells how a write of so many bytes ends.
fn write(client: &mut Client, handle: &Value, size: usize) -> Value {
    let reply = client.call("guest-file-write", json!({"handle": handle, "buf-b64": base64(size)}));
    reply.get("error").map_or_else(|| reply["return"].clone(), |error| error["desc"].clone())
}

/// Writes of all sizes, on the loop and on a worker, to a file that takes no more than `room`.
fn fills(agent: &Agent, file: &str, room: u64, reason: &str) {
    let mut client = agent.connect();
    // The agent's mount namespace is its own.
    let path = agent.path(file);
    let seen = Path::new("/proc")
        .join(agent.child.id().to_string())
        .join("root")
        .join(path.strip_prefix("/").expect("absolute"));
    for size in [61_440, 600, 40_002, 3_000_000] {
        let handle = open(&mut client, &path, "w");
        let mut taken = 0;
        loop {
            let outcome = write(&mut client, &handle, size);
            if outcome == json!({"count": size, "eof": false}) {
                taken += size as u64;
                assert!(taken <= room, "more than there is room");
                continue;
            }
            assert_eq!(outcome, format!("failed to write to file: {reason}"), "{size} bytes a time");
            break;
        }
        assert_eq!(std::fs::metadata(&seen).expect("there").len(), room, "what was taken stays");
        assert_eq!(client.ask("guest-file-close", json!({"handle": handle})), json!({}));
    }
    assert_eq!(client.ask("guest-ping", json!({})), json!({}), "the agent lives");
}

#[test]
fn a_write_that_the_disk_does_not_take_whole_is_an_error() {
    if !nix::unistd::geteuid().is_root() {
        support::skip("not root, who alone can mount");
        return;
    }
    let script = "mkdir $D/disk; mount -t tmpfs -o size=32k none $D/disk; head -c 28672 /dev/zero >$D/disk/used";
    let agent = Agent::start_after(&["unshare", "--mount"], script);
    fills(&agent, "disk/file", 4096, "No space left on device");
}

#[test]
fn a_write_beyond_the_limit_on_file_sizes_is_an_error_and_not_the_end() {
    // The agent's own files are smaller.
    let agent = Agent::start_after(&["prlimit", "--fsize=8192"], ":");
    fills(&agent, "file", 8192, "File too large");
    let mut client = agent.connect();
    let wanted = json!({"path": "sh", "arg": ["-c", "grep SigIgn: /proc/self/status"], "capture-output": true});
    let pid = client.ask("guest-exec", wanted)["pid"].clone();
    let status = support::until("it ends", || {
        let status = client.ask("guest-exec-status", json!({"pid": pid}));
        (status["exited"] == true).then_some(status)
    });
    assert_eq!(status["out-data"], "U2lnSWduOgkwMDAwMDAwMDAwMDAwMDAwCg==", "programs have the default");
}

#[test]
fn a_pipe_whose_reader_is_slow_takes_a_write_whole() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    let path = agent.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut pipe = std::fs::File::options().read(true).write(true).open(&path).expect("opens");
    let handle = open(&mut client, &path, "w");
    let size = 900_000;
    client.send(
        json!({"execute": "guest-file-write", "arguments": {"handle": handle, "buf-b64": base64(size)}}).to_string(),
    );
    let mut data = vec![0; size];
    for piece in data.chunks_mut(1000) {
        std::thread::yield_now();
        pipe.read_exact(piece).expect("its data");
    }
    assert!(data == b"ABC".repeat(size / 3));
    assert_eq!(client.reply(), json!({"return": {"count": size, "eof": false}}));
}

#[test]
fn a_pipe_that_nobody_empties_is_an_error_and_the_agent_answers_meanwhile() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    let path = agent.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let _pipe = std::fs::File::options().read(true).write(true).open(&path).expect("opens");
    let handle = open(&mut client, &path, "w");
    client.send(
        json!({"execute": "guest-file-write", "arguments": {"handle": handle, "buf-b64": base64(300_000)}}).to_string(),
    );
    client.send(json!({"execute": "guest-sync", "arguments": {"id": 5}}).to_string());
    let mut seen = Vec::new();
    while seen.last() != Some(&json!({"return": 5})) {
        seen.push(client.reply());
    }
    // Abandoned, it gives the handle back.
    support::until("the handle is free", || {
        let outcome = client.call("guest-file-write", json!({"handle": handle, "buf-b64": "QQ=="}));
        let text = outcome["error"]["desc"].as_str()?.to_owned();
        (text == "failed to write to file: Resource temporarily unavailable").then_some(())
    });
    let outcome = write(&mut client, &handle, 200_000);
    assert_eq!(outcome, "failed to write to file: Resource temporarily unavailable");
}
