//! A whole session with clients, policy, reload, freezes and slow commands: what is refused is never
//! run, and what else `session::stage` promises.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qemu_ga::agent::Agent;
use qemu_ga::cli::Args;
use qemu_ga::config::Config;
use qemu_ga::host::Host;
use qemu_ga::host::fake::FakeKernel;
use qemu_ga::session::stage::{play, script};
use qemu_ga::state::State;

static AGENT: LazyLock<(Agent, tempfile::TempDir)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    let config = Config::load(&Args::default()).expect("no configuration");
    let state = State::open(dir.path()).expect("a state");
    (Agent::new(host, config, state, qemu_ga::log::init()), dir)
});

fuzz_target!(|data: &[u8]| play(&AGENT.0, &script(data)));
