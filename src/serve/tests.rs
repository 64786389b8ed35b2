use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use tempfile::TempDir;

use super::*;
use crate::commands::testing;
use crate::host::Host;
use crate::host::fake::{Effect, FakeKernel, Outcome};
use crate::state::State;

/// A guest that an earlier agent left frozen, and a log in a file.
struct Frozen {
    dir: TempDir,
    kernel: FakeKernel,
    log: LogControl,
}

impl Frozen {
    fn new() -> Frozen {
        let dir = TempDir::new().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("root/proc/self")).expect("a directory");
        std::fs::create_dir(path("root/home")).expect("a directory");
        std::fs::create_dir(path("state")).expect("a directory");
        let mounts = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 8:2 / /home rw - xfs /dev/sda2 rw\n";
        std::fs::write(path("root/proc/self/mountinfo"), mounts).expect("a file");
        let boot_id = std::fs::read("/proc/sys/kernel/random/boot_id").expect("an id");
        std::fs::write(path("state/qga.state.isfrozen"), boot_id).expect("a file");
        let kernel = FakeKernel::default();
        // Each was frozen once.
        let mut thawed = HashSet::new();
        kernel.script(move |effect| match effect {
            Effect::Thaw(path) if !thawed.insert(path.clone()) => Errno::EINVAL.into(),
            _ => Outcome::Done,
        });
        let log = LogControl::detached();
        log.hold();
        log.open_file_on_release(&path("log"));
        Frozen { dir, kernel, log }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self, set: impl FnOnce(&mut Config)) -> Agent {
        let host = Host::new(self.path("root"), Box::new(self.kernel.clone()));
        let mut config = testing::config();
        set(&mut config);
        let state = State::open(&self.path("state")).expect("a state");
        assert!(state.frozen_at_start());
        Agent::new(host, config, state, self.log.clone())
    }

    fn is_thawed(&self) -> bool {
        let thaws = self.kernel.effects().iter().filter(|effect| matches!(effect, Effect::Thaw(_))).count();
        thaws >= 2 && !self.path("state/qga.state.isfrozen").exists()
    }

    fn run(&self, agent: Agent, channel: Option<Endpoint>) -> u8 {
        run(agent, channel, self.log.clone(), Lifecycle::foreground())
    }
}

#[test]
fn a_channel_lost_while_frozen_leaves_nothing_frozen_and_no_line_unwritten() {
    let frozen = Frozen::new();
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    ours.set_nonblocking(true).expect("a socket");
    drop(theirs);
    assert_eq!(frozen.run(frozen.agent(|_| {}), Some(Endpoint::Serial(ours.into()))), 0);
    assert!(frozen.is_thawed(), "{:?}", frozen.kernel.effects());
    assert!(frozen.path("log").exists(), "the log is still held");
}

#[test]
fn a_channel_that_can_never_be_opened_leaves_nothing_frozen() {
    let frozen = Frozen::new();
    assert_eq!(frozen.run(frozen.agent(|config| config.method = "bogus".into()), None), 1);
    assert!(frozen.is_thawed(), "{:?}", frozen.kernel.effects());
}

#[test]
fn a_bug_in_the_loop_leaves_nothing_frozen_and_is_a_failure() {
    let frozen = Frozen::new();
    let agent = frozen.agent(|_| {});
    assert_eq!(end::run(&agent, &frozen.log, || panic!("a bug")), 1);
    assert!(frozen.is_thawed() && frozen.path("log").exists());
}

#[test]
fn a_frozen_agent_without_its_channel_thaws_when_the_time_limit_has_passed() {
    let frozen = Frozen::new();
    let agent = frozen.agent(|config| {
        config.path = Some("/nonexistent/port".into());
        config.fsfreeze.timeout = Some(Duration::from_millis(50));
    });
    let log = frozen.log.clone();
    // It goes on looking for its channel, to the end of the tests.
    std::thread::spawn(move || run(agent, None, log, Lifecycle::foreground()));
    let end = Instant::now() + Duration::from_secs(30);
    while !frozen.is_thawed() {
        assert!(Instant::now() < end, "{:?}", frozen.kernel.effects());
        std::thread::yield_now();
    }
}
