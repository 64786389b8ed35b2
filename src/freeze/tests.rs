use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::errno::Errno;
use tempfile::TempDir;

use super::*;
use crate::commands::testing;
use crate::host::fake::{Effect, FakeKernel, Outcome};

mod again;
mod hooks;
mod impatient;
mod late;
mod model;

/// A guest with three file systems, of which `/home` is mounted a second time.
struct Guest {
    root: TempDir,
    kernel: FakeKernel,
    agent: Agent,
    state: TempDir,
}

const MOUNTINFO: &str = "\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 8:2 / /home rw - xfs /dev/sda2 rw
22 20 8:3 / /boot rw - vfat /dev/sda3 rw
23 20 8:2 /sub /srv rw - xfs /dev/sda2 rw
24 20 0:21 / /run rw - tmpfs tmpfs rw
";

impl Guest {
    fn new(settings: impl FnOnce(&mut crate::config::Config, &Path)) -> Guest {
        let root = TempDir::new().expect("a directory");
        for dir in ["proc/self", "home", "boot", "srv", "run"] {
            std::fs::create_dir_all(root.path().join(dir)).expect("a directory");
        }
        std::fs::write(root.path().join("proc/self/mountinfo"), MOUNTINFO).expect("a file");
        let kernel = FakeKernel::default();
        let host = Host::new(root.path(), Box::new(kernel.clone()));
        let mut config = testing::config();
        settings(&mut config, root.path());
        let state = TempDir::new().expect("a directory");
        let opened = crate::state::State::open(state.path()).expect("a state");
        let agent = Agent::new(host, config, opened, LogControl::detached());
        Guest { root, kernel, agent, state }
    }

    fn plain() -> Guest {
        Guest::new(|_, _| {})
    }

    /// A block device, and what it is made of.
    fn device(&self, name: &str, number: &str, below: Option<&str>) {
        let devices = self.root.path().join("sys/devices/virtual/block");
        let numbers = self.root.path().join("sys/dev/block");
        std::fs::create_dir_all(&numbers).expect("a directory");
        std::fs::create_dir_all(devices.join(name).join("slaves")).expect("a directory");
        std::fs::write(devices.join(name).join("dev"), number).expect("a file");
        let link = |target: String, path| std::os::unix::fs::symlink(target, path).expect("a link");
        link(format!("../../devices/virtual/block/{name}"), numbers.join(number));
        if let Some(below) = below {
            link(format!("../../{below}"), devices.join(name).join("slaves").join(below));
        }
    }

    /// Changes the settings, as SIGHUP does.
    fn set(&mut self, change: impl FnOnce(&mut crate::config::Config)) {
        let mut config = (*self.agent.config()).clone();
        change(&mut config);
        self.agent.reload(config);
    }

    /// The agent that is started after this one was killed.
    fn restarted(&self) -> Agent {
        let host = Host::new(self.root.path(), Box::new(self.kernel.clone()));
        let state = State::open(self.state.path()).expect("a state");
        Agent::new(host, (*self.agent.config()).clone(), state, LogControl::detached())
    }

    /// What reached the kernel, with paths as the guest sees them.
    fn effects(&self) -> Vec<String> {
        let root = self.root.path().display().to_string();
        let inside = |path: &str| match path.strip_prefix(&root) {
            Some("") => "/".to_owned(),
            Some(rest) => rest.to_owned(),
            None => path.to_owned(),
        };
        let text = |effect| match effect {
            Effect::Freeze(path) => format!("freeze {}", inside(&path)),
            Effect::Thaw(path) => format!("thaw {}", inside(&path)),
            Effect::Sync(path) => format!("sync {}", inside(&path)),
            other => format!("{other:?}"),
        };
        self.kernel.effects().into_iter().map(text).collect()
    }

    /// A kernel that counts freezes, but for the calls of which `instead` says what becomes of them.
    fn count_freezes(
        &self,
        mut instead: impl FnMut(&Effect) -> Option<Outcome> + Send + 'static,
    ) -> Arc<Mutex<HashMap<String, u32>>> {
        let frozen = Arc::new(Mutex::new(HashMap::new()));
        let counts = frozen.clone();
        self.kernel.script(move |effect| instead(effect).unwrap_or_else(|| count(&counts, effect)));
        frozen
    }

    fn marker(&self) -> bool {
        self.state.path().join("qga.state.isfrozen").exists()
    }
}

/// As the commands do it.
fn freeze(agent: &Agent, points: Option<&[&str]>) -> Result<i64> {
    super::freeze(agent, if points.is_none() { FREEZE } else { "guest-fsfreeze-freeze-list" }, points)
}

const FREEZE: &str = "guest-fsfreeze-freeze";

/// What the kernel makes of a freeze or thaw, with the freezes of each file system.
fn count(counts: &Mutex<HashMap<String, u32>>, effect: &Effect) -> Outcome {
    let mut counts = counts.lock().expect("not poisoned");
    match effect {
        Effect::Freeze(path) if path.ends_with("/boot") => Errno::EOPNOTSUPP.into(),
        Effect::Freeze(path) => match counts.entry(path.clone()).or_insert(0) {
            count @ 0 => {
                *count = 1;
                Outcome::Done
            }
            _ => Errno::EBUSY.into(),
        },
        Effect::Thaw(path) => match counts.get_mut(path) {
            Some(count) if *count > 0 => {
                *count -= 1;
                Outcome::Done
            }
            _ => Errno::EINVAL.into(),
        },
        _ => Outcome::Done,
    }
}

fn total(frozen: &Mutex<HashMap<String, u32>>) -> u32 {
    frozen.lock().expect("not poisoned").values().sum()
}

#[test]
fn everything_is_synced_before_the_first_freeze_and_frozen_in_reverse_mount_order() {
    let guest = Guest::plain();
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert_eq!(guest.effects(), ["sync /boot", "sync /home", "sync /", "freeze /boot", "freeze /home", "freeze /",]);
    assert!(guest.agent.freezer.is_frozen() && guest.marker());
}

#[test]
fn thaw_goes_the_other_way_and_returns_the_same_number() {
    let guest = Guest::plain();
    let frozen = guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert_eq!(total(&frozen), 2);
    let before = guest.effects().len();
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert_eq!(guest.effects()[before], "thaw /");
    assert_eq!(total(&frozen), 0);
    assert!(!guest.agent.freezer.is_frozen() && !guest.marker());
    assert_eq!(thaw(&guest.agent), Ok(0), "a second thaw finds nothing");
}

#[test]
fn a_refusal_names_the_mount_and_leaves_nothing_frozen() {
    let guest = Guest::plain();
    let refuse = |effect: &Effect| matches!(effect, Effect::Freeze(path) if !path.ends_with("/home") && !path.ends_with("/boot"));
    let frozen = guest.count_freezes(move |effect| refuse(effect).then(|| Errno::EIO.into()));
    let error = freeze(&guest.agent, None).expect_err("a refusal").desc;
    assert!(error.starts_with("failed to freeze /: "), "{error}");
    assert_eq!(total(&frozen), 0);
    assert!(!guest.agent.freezer.is_frozen() && !guest.marker());
}

#[test]
fn best_effort_skips_what_refuses() {
    let guest = Guest::new(|config, _| config.fsfreeze.best_effort = true);
    let frozen = guest.count_freezes(|effect| {
        matches!(effect, Effect::Freeze(path) if path.ends_with("/home")).then(|| Errno::EIO.into())
    });
    assert_eq!(freeze(&guest.agent, None), Ok(1));
    assert_eq!(total(&frozen), 1);
    assert_eq!(thaw(&guest.agent), Ok(1));
}

#[test]
fn a_list_takes_any_mount_point_of_a_file_system() {
    for points in [&["/srv"][..], &["/home/"], &["/home", "/srv", "/nowhere"]] {
        let guest = Guest::plain();
        guest.count_freezes(|_| None);
        assert_eq!(freeze(&guest.agent, Some(points)), Ok(1), "{points:?}");
        assert_eq!(guest.effects().last().map(String::as_str), Some("freeze /home"));
        assert_eq!(thaw(&guest.agent), Ok(1));
    }
}

/// `c` is stored on `/`, by way of `b`, which nobody named.
#[test]
fn the_order_of_a_list_knows_what_is_not_on_it() {
    let guest = Guest::plain();
    let mounts = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 253:1 / /home rw - ext4 /dev/dm-1 rw\n\
        22 20 253:0 / /srv rw - ext4 /dev/dm-0 rw\n";
    std::fs::write(guest.root.path().join("proc/self/mountinfo"), mounts).expect("a file");
    for (name, number, below) in
        [("dm-0", "253:0", Some("dm-1")), ("dm-1", "253:1", Some("sda1")), ("sda1", "8:1", None)]
    {
        guest.device(name, number, below);
    }
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, Some(&["/", "/srv"])), Ok(2));
    let frozen: Vec<_> = guest.effects().into_iter().filter(|effect| effect.starts_with("freeze")).collect();
    assert_eq!(frozen, ["freeze /srv", "freeze /"]);
    assert_eq!(thaw(&guest.agent), Ok(2));
}

#[test]
fn an_empty_list_freezes_nothing_and_does_not_leave_the_frozen_state_on() {
    let guest = Guest::plain();
    assert_eq!(freeze(&guest.agent, Some(&[])), Ok(0));
    assert!(!guest.agent.freezer.is_frozen() && !guest.marker());
}

#[test]
fn a_freeze_that_hangs_is_given_up_and_taken_back_when_it_ends() {
    let guest = Guest::new(|config, _| config.fsfreeze.freeze_timeout = Duration::from_millis(500));
    let (release, gate) = channel();
    let mut gate = Some(gate);
    let frozen = guest.count_freezes(move |effect| match effect {
        Effect::Freeze(path) if path.ends_with("/home") => gate.take().map(Outcome::Hangs),
        _ => None,
    });
    let error = freeze(&guest.agent, None).expect_err("given up").desc;
    assert!(error.starts_with("failed to freeze /home: not done after"), "{error}");
    assert!(!guest.agent.freezer.is_frozen());
    // After all it succeeds.
    drop(release);
    let end = Instant::now() + Duration::from_secs(30);
    while total(&frozen) > 0 || !guest.effects().contains(&"thaw /home".to_owned()) {
        assert!(Instant::now() < end, "the late freeze is not taken back");
        std::thread::yield_now();
    }
    assert!(!guest.effects().contains(&"freeze /".to_owned()));
}

#[test]
fn what_was_frozen_before_one_that_hangs_is_thawed_while_it_hangs() {
    let guest = Guest::new(|config, _| config.fsfreeze.freeze_timeout = Duration::from_millis(500));
    let (_release, gate) = channel();
    let mut gate = Some(gate);
    let frozen = guest.count_freezes(move |effect| match effect {
        Effect::Freeze(path) if !path.ends_with("/home") && !path.ends_with("/boot") => gate.take().map(Outcome::Hangs),
        _ => None,
    });
    let error = freeze(&guest.agent, None).expect_err("given up").desc;
    assert!(error.starts_with("failed to freeze /: not done after"), "{error}");
    assert!(guest.effects().contains(&"freeze /home".to_owned()), "{:?}", guest.effects());
    assert_eq!(total(&frozen), 0);
}

/// What is opened at `/home` is on the mount with this number; the plan says 21.
fn covered_meanwhile(number: u64, settings: impl FnOnce(&mut crate::config::Config, &Path)) -> Guest {
    let guest = Guest::new(settings);
    guest.kernel.mount("/home", number);
    guest
}

#[test]
fn a_mount_that_was_covered_after_the_plan_is_no_longer_taken_for_what_it_was() {
    let guest = covered_meanwhile(99, |_, _| {});
    let error = freeze(&guest.agent, None).expect_err("refused").desc;
    assert_eq!(error, "failed to open /home: something else is mounted there by now");
    assert!(guest.effects().is_empty() && !guest.marker());
    let guest = covered_meanwhile(99, |config, _| config.fsfreeze.best_effort = true);
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(1), "the others");
    assert!(!guest.effects().contains(&"freeze /home".to_owned()));
    let guest = covered_meanwhile(21, |_, _| {});
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2), "it is what it was");
}

#[test]
fn a_plan_that_is_out_of_date_is_made_anew_once() {
    let guest = covered_meanwhile(99, |_, _| {});
    guest.count_freezes(|_| None);
    let table = guest.root.path().join("proc/self/mountinfo");
    let without_home: String =
        MOUNTINFO.lines().filter(|line| !line.contains("8:2")).map(|line| format!("{line}\n")).collect();
    guest.kernel.when_a_mount_is_looked_at(move || std::fs::write(&table, &without_home).expect("a table"));
    assert_eq!(freeze(&guest.agent, None), Ok(1));
    assert_eq!(guest.effects().last().map(String::as_str), Some("freeze /"));
}
