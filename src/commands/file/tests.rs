use serde_json::json;

use super::*;
use crate::agent::Agent;
use crate::commands::testing;
use crate::dispatch;
use crate::host::Host;
use crate::host::fake::FakeKernel;
use crate::session::Answer;

/// An agent whose state directory stays.
fn agent(state: &std::path::Path) -> Agent {
    let host = Host::new("/nonexistent", Box::new(FakeKernel::default()));
    let state = crate::state::State::open(state).expect("a state");
    Agent::new(host, testing::config(), state, crate::log::LogControl::detached())
}

#[test]
fn a_new_file_is_not_writable_for_everybody_whatever_the_umask() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = agent(dir.path());
    let path = dir.path().join("new");
    let handle = testing::call(&agent, "guest-file-open", json!({"path": path, "mode": "w"})).expect("opens");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    testing::call(&agent, "guest-file-close", json!({"handle": handle})).expect("closes");
}

#[test]
fn a_full_disk_shows_at_the_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = agent(dir.path());
    let handle = testing::call(&agent, "guest-file-open", json!({"path": "/dev/full", "mode": "w"})).expect("opens");
    let error = testing::call(&agent, "guest-file-write", json!({"handle": handle, "buf-b64": "aGk="}));
    assert_eq!(error, Err("failed to write to file: No space left on device".into()));
}

#[test]
fn bad_base64_writes_nothing_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = agent(dir.path());
    let path = dir.path().join("new");
    let handle = testing::call(&agent, "guest-file-open", json!({"path": path, "mode": "w"})).expect("opens");
    let text = format!("{}*", "QUJD".repeat(200_000));
    let error = testing::call(&agent, "guest-file-write", json!({"handle": handle, "buf-b64": text}));
    assert_eq!(error, Err("Base64 data contains invalid characters".into()));
    assert_eq!(std::fs::metadata(&path).expect("there").len(), 0);
}

#[test]
fn handles_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = agent(dir.path());
    let open = || testing::call(&agent, "guest-file-open", json!({"path": "/dev/null"}));
    for _ in 0..agent.config().limits.file_handles {
        open().expect("opens");
    }
    let error = open().expect_err("one too many");
    assert!(error.contains("1024 files are open already"), "{error}");
}

/// What the usual client sends at a time must not miss the loop by its padding.
#[test]
fn sixty_four_kibibytes_to_a_file_in_memory_are_written_on_the_loop() {
    use std::os::fd::AsRawFd;
    let dir = tempfile::tempdir().expect("a directory");
    let agent = agent(dir.path());
    let memory = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::empty()).expect("memory");
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let handle = testing::call(&agent, "guest-file-open", json!({"path": path, "mode": "w"})).expect("opens");
    let row = crate::commands::find("guest-file-write").expect("a command");
    let on_the_loop = |bytes: usize| {
        let mut text = Vec::new();
        crate::protocol::base64::encode(&vec![7; bytes], &mut text);
        let text = String::from_utf8(text).expect("base64");
        let request = testing::request("guest-file-write", &json!({"handle": handle, "buf-b64": text}));
        matches!(dispatch::answer(&agent, row, &request, &mut Vec::new()), Answer::Given(_))
    };
    assert!(on_the_loop(INLINE - 1) && on_the_loop(INLINE));
    assert!(!on_the_loop(INLINE + 3));
}
