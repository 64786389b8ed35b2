//! Requests through the table to replies: no panic, and each reply is one line of ASCII JSON.
//!
//! The guest is an empty directory with a kernel that does nothing. Commands that would reach this
//! machine past it (programs, files, D-Bus) are refused by policy.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qemu_ga::agent::Agent;
use qemu_ga::cli::Args;
use qemu_ga::commands::{self, Stop};
use qemu_ga::config::Config;
use qemu_ga::dispatch::{self, Piece};
use qemu_ga::host::Host;
use qemu_ga::host::fake::FakeKernel;
use qemu_ga::protocol::frame::{Event, Framer};
use qemu_ga::protocol::request::Request;
use qemu_ga::session::Answer;
use qemu_ga::state::State;

const ALLOWED: &[&str] = &[
    "guest-sync-delimited",
    "guest-sync",
    "guest-ping",
    "guest-info",
    "guest-get-time",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-file-seek",
    "guest-file-flush",
    "guest-exec-status",
    "guest-network-get-interfaces",
    "guest-network-get-route",
    "guest-get-vcpus",
    "guest-set-vcpus",
    "guest-get-cpustats",
    "guest-get-memory-blocks",
    "guest-set-memory-blocks",
    "guest-get-memory-block-info",
    "guest-get-host-name",
    "guest-get-timezone",
    "guest-get-osinfo",
    "guest-get-load",
    "guest-fsfreeze-status",
];

static AGENT: LazyLock<(Agent, tempfile::TempDir)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    let mut config = Config::load(&Args::default()).expect("no configuration");
    config.allow_rpcs = ALLOWED.iter().map(|&name| name.to_owned()).collect();
    let state = State::open(dir.path()).expect("a state");
    (Agent::new(host, config, state, qemu_ga::log::init()), dir)
});

fuzz_target!(|data: &[u8]| {
    let (agent, _) = &*AGENT;
    let (mut framer, mut rest) = (Framer::default(), data);
    while let Some(event) = framer.next(&mut rest) {
        let Event::Message(Ok(message)) = event else { continue };
        let Ok(request) = Request::parse(message) else { continue };
        let Some(row) = commands::find(request.execute()) else { continue };
        let mut reply = Vec::new();
        if let Answer::NeedsWorker = dispatch::answer(agent, row, &request, &mut reply) {
            let pieces = |piece: Piece| {
                reply.extend(piece.bytes);
                true
            };
            let done = dispatch::work(agent, row, &request, &Stop::default(), pieces);
            reply.extend(done.reply);
        }
        let line = reply.strip_prefix(b"\xff").unwrap_or(&reply);
        let line = line.strip_suffix(b"\n").expect("a line");
        assert!(line.iter().all(|&byte| (b' '..0x7F).contains(&byte)), "one line of ASCII");
        serde_json::from_slice::<serde_json::Value>(line).expect("JSON");
    }
});
