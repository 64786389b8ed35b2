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

/// Runs `test` with a loop that does not turn, on a runtime with one worker.
fn with_server(frozen: &Frozen, set: impl FnOnce(&mut Config), test: impl AsyncFnOnce(&mut Server<'_>)) {
    let agent = Arc::new(frozen.agent(set));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let mut lifecycle = Lifecycle::foreground();
        let mut server = Server::new(agent, frozen.log.clone(), &mut lifecycle).expect("a server");
        test(&mut server).await;
    });
    runtime.shutdown_background();
}

#[test]
fn a_reload_while_frozen_counts_the_new_time_limit_from_the_freeze_on() {
    let frozen = Frozen::new();
    with_server(
        &frozen,
        |config| config.fsfreeze.timeout = Some(Duration::from_secs(600)),
        async |server| {
            let since = server.agent.freezer.frozen_since().expect("frozen");
            server.watch_freeze();
            assert_eq!(server.thaw_at, Some(since + Duration::from_secs(600)));
            for limit in [Some(Duration::from_secs(5)), None, Some(Duration::from_secs(7000)), Some(Duration::MAX)] {
                let mut config = (*server.agent.config()).clone();
                config.fsfreeze.timeout = limit;
                server.agent.reload(config);
                server.watch_freeze();
                assert_eq!(server.thaw_at, limit.and_then(|limit| since.checked_add(limit)), "{limit:?}");
            }
        },
    );
}

#[test]
fn a_thaw_and_status_need_no_worker() {
    let frozen = Frozen::new();
    with_server(
        &frozen,
        |_| {},
        async |server| {
            // The only one hangs.
            let (_release, hold) = std::sync::mpsc::channel::<()>();
            start(move |_| _ = hold.recv());
            server.watch_freeze();
            server.thaw_unasked("a test");
            let report = tokio::time::timeout(Duration::from_secs(30), server.reports.recv()).await;
            assert!(matches!(report, Ok(Some(Report::Thawed))));
            assert!(frozen.is_thawed());
        },
    );
}
