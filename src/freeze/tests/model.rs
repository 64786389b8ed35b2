//! Whatever happens in whatever order: after the last thaw nothing is frozen, and each hook that was
//! told of a freeze was told of a thaw after it.

use std::convert::Infallible;
use std::sync::mpsc;

use proptest::prelude::*;

use super::hooks::with_directory;
use super::*;

#[derive(Clone, Debug)]
enum Act {
    Freeze,
    FreezeList(Vec<&'static str>),
    Thaw,
    /// The timer fires, or the agent is told to end.
    Unasked,
    /// The client went away, came back and asks: nothing may depend on it.
    Status,
    /// The agent is killed and started again.
    Kill,
    /// Something happens to the n-th call to the kernel from now on.
    At(usize, Event),
    /// A hook fails from now on, or does not any more.
    HookFails(&'static str, &'static str, bool),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Fail,
    /// The call does not return in time.
    Hang,
    /// The agent is killed just before it.
    Kill,
}

fn act() -> impl Strategy<Value = Act> {
    let point = prop_oneof![Just("/"), Just("/home"), Just("/boot/"), Just("/srv")];
    let event = prop_oneof![3 => Just(Event::Fail), 1 => Just(Event::Hang), 3 => Just(Event::Kill)];
    let fails = (prop_oneof![Just("1"), Just("2")], prop_oneof![Just("freeze"), Just("thaw")], any::<bool>());
    prop_oneof![
        4 => Just(Act::Freeze),
        2 => proptest::collection::vec(point, 0..3).prop_map(Act::FreezeList),
        4 => Just(Act::Thaw),
        1 => Just(Act::Unasked),
        1 => Just(Act::Status),
        2 => Just(Act::Kill),
        4 => (0..10usize, event).prop_map(|(n, event)| Act::At(n, event)),
        1 => fails.prop_map(|(hook, word, fails)| Act::HookFails(hook, word, fails)),
    ]
}

/// All that outlives a killed agent.
#[derive(Clone)]
struct Remains {
    frozen: HashMap<String, u32>,
    files: Vec<(std::path::PathBuf, Vec<u8>)>,
}

impl Remains {
    fn of(dirs: &[&Path], frozen: &HashMap<String, u32>) -> Remains {
        let paths = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).expect("readable"));
        let paths = paths.map(|entry| entry.expect("readable").path()).filter(|path| path.is_file());
        let files = paths.map(|path| (path.clone(), std::fs::read(&path).expect("readable"))).collect();
        Remains { frozen: frozen.clone(), files }
    }

    fn restore(self, dirs: &[&Path], frozen: &Mutex<HashMap<String, u32>>) {
        *frozen.lock().expect("not poisoned") = self.frozen;
        for dir in dirs {
            for entry in std::fs::read_dir(dir).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_file() && !self.files.iter().any(|(kept, _)| *kept == path) {
                    std::fs::remove_file(path).expect("removed");
                }
            }
        }
        for (path, text) in self.files {
            // Written anew only where it differs: a mode must stay.
            if std::fs::read(&path).ok().as_ref() != Some(&text) {
                std::fs::write(&path, text).expect("written");
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
            }
        }
    }
}

/// What the kernel is told to do next.
#[derive(Default)]
struct Plan {
    at: Option<(usize, Event)>,
    /// What was there when the agent was killed in the middle.
    remains: Option<Remains>,
    /// A call hangs until this is dropped.
    hung: Option<mpsc::Sender<Infallible>>,
}

/// Kernel, hooks and agent.
pub(super) struct World {
    pub(super) guest: Guest,
    pub(super) frozen: Arc<Mutex<HashMap<String, u32>>>,
    plan: Arc<Mutex<Plan>>,
}

impl World {
    pub(super) fn new() -> World {
        let guest = with_directory(&[("1", "[ ! -e $0-$1 ]"), ("2", "[ ! -e $0-$1 ]")]);
        let frozen = Arc::new(Mutex::new(HashMap::new()));
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (counts, planned) = (frozen.clone(), plan.clone());
        let (state, root) = (guest.state.path().to_owned(), guest.root.path().to_owned());
        guest.kernel.script(move |effect| {
            World::happen(&planned, &counts, &[&state, &root], effect).unwrap_or_else(|| count(&counts, effect))
        });
        World { guest, frozen, plan }
    }

    /// What was planned for this call.
    fn happen(
        plan: &Mutex<Plan>,
        counts: &Mutex<HashMap<String, u32>>,
        dirs: &[&Path],
        effect: &Effect,
    ) -> Option<Outcome> {
        let mut plan = plan.lock().expect("not poisoned");
        let (n, event) = plan.at?;
        if n > 0 {
            plan.at = Some((n - 1, event));
            return None;
        }
        plan.at = None;
        match event {
            // A thaw of what is frozen does not fail: there is no way back from that.
            Event::Fail => (!matches!(effect, Effect::Thaw(_))).then(|| Errno::EIO.into()),
            Event::Kill => {
                plan.remains = Some(Remains::of(dirs, &counts.lock().expect("not poisoned")));
                None
            }
            Event::Hang if matches!(effect, Effect::Thaw(_)) => None,
            Event::Hang => {
                let (release, hold) = mpsc::channel();
                plan.hung = Some(release);
                Some(Outcome::Hangs(hold))
            }
        }
    }

    fn agent(&self) -> &Agent {
        &self.guest.agent
    }

    /// Waits long for each call, since a busy machine is slow, unless one is going to hang.
    pub(super) fn be_patient(&mut self) {
        let will_hang = matches!(self.plan.lock().expect("not poisoned").at, Some((_, Event::Hang)));
        let patience = if will_hang { Duration::from_millis(300) } else { Duration::from_secs(30) };
        self.guest.set(|config| config.fsfreeze.freeze_timeout = patience);
    }

    /// A new agent, as the service manager starts it.
    pub(super) fn restart(&mut self) {
        self.guest.kernel = self.guest.kernel.of_another_process();
        self.guest.agent = self.guest.restarted();
        if owes_hooks(self.agent()) {
            settle_hooks(self.agent());
        }
    }

    /// The outcome of a freeze or thaw; `None` when the agent was killed meanwhile.
    pub(super) fn outcome(&mut self, outcome: Result<i64>) -> Option<Result<i64>> {
        let (remains, hung) = {
            let mut plan = self.plan.lock().expect("not poisoned");
            (plan.remains.take(), plan.hung.take())
        };
        let calls = self.guest.kernel.effects().len();
        let hung = hung.map(drop).is_some();
        // On a busy machine others than the one that hangs may come too late as well.
        if hung || outcome.as_ref().is_err_and(|error| error.desc.contains("not done after")) {
            // The late call ends, and what it froze is taken back.
            let end = Instant::now() + Duration::from_secs(30);
            let is_pending = || self.agent().freezer.late.is_pending();
            while hung && self.guest.kernel.effects().len() == calls || total(&self.frozen) > 0 || is_pending() {
                assert!(Instant::now() < end, "what came late is not taken back");
                std::thread::yield_now();
            }
        }
        let Some(remains) = remains else { return Some(outcome) };
        let (state, root) = (self.guest.state.path().to_owned(), self.guest.root.path().to_owned());
        remains.restore(&[&state, &root], &self.frozen);
        self.restart();
        None
    }

    pub(super) fn hook_fails(&self, hook: &str, word: &str, fails: bool) {
        let flag = self.guest.root.path().join(format!("hook.d/{hook}-{word}"));
        if fails {
            std::fs::write(flag, "").expect("a file");
        } else {
            let _ = std::fs::remove_file(flag);
        }
    }

    /// Something happens to the n-th call to the kernel from now on.
    pub(super) fn plan(&self, n: usize, event: Event) {
        self.plan.lock().expect("not poisoned").at = Some((n, event));
    }

    pub(super) fn clear_plan(&self) {
        self.plan.lock().expect("not poisoned").at = None;
    }

    /// Whether each hook was told of a freeze, a thaw, a freeze and so on.
    pub(super) fn hooks_alternate(&self) -> bool {
        let log = super::hooks::hook_log(&self.guest);
        ["1", "2"].iter().all(|hook| {
            let mut told = log.lines().filter_map(|line| line.strip_prefix(hook));
            [" freeze", " thaw"].into_iter().cycle().zip(&mut told).all(|(due, word)| due == word)
        })
    }

    /// Whether each hook was told of a thaw after the last freeze it was told of.
    pub(super) fn hooks_are_paired(&self) -> bool {
        let log = super::hooks::hook_log(&self.guest);
        ["1", "2"].iter().all(|hook| {
            let told: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix(hook)).collect();
            told.last().is_none_or(|word| *word == " thaw") && !told.windows(2).any(|pair| pair == [" freeze"; 2])
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_time: 60_000, ..Default::default() })]
    #[test]
    fn nothing_stays_frozen_and_no_hook_waits_for_ever(acts in proptest::collection::vec(act(), 1..20)) {
        let mut world = World::new();
        let mut exact = true;
        for act in acts {
            world.be_patient();
            let outcome = match act {
                // Policy refuses these earlier, if it is asked when they start.
                Act::Freeze | Act::FreezeList(_) if world.agent().freezer.is_frozen() => {
                    let refusal = freeze(world.agent(), None).expect_err("refused");
                    prop_assert_eq!(refusal.class, crate::protocol::error::Class::CommandNotFound);
                    continue;
                }
                Act::Freeze => freeze(world.agent(), None),
                Act::FreezeList(points) => freeze(world.agent(), Some(&points)),
                Act::Thaw => thaw(world.agent()),
                Act::Unasked => {
                    thaw_unasked(world.agent(), "test");
                    Ok(0)
                }
                Act::Status => Ok(0),
                Act::Kill => {
                    world.restart();
                    Ok(0)
                }
                Act::At(n, event) => {
                    world.plan(n, event);
                    continue;
                }
                Act::HookFails(hook, word, fails) => {
                    world.hook_fails(hook, word, fails);
                    continue;
                }
            };
            let freezing = outcome.is_err() && !world.agent().freezer.is_frozen();
            let outcome = world.outcome(outcome);
            let is_frozen = world.agent().freezer.is_frozen();
            // An agent killed between the marker and the first freeze, or the last thaw and the marker,
            // leaves one that thinks it is frozen, until a thaw.
            exact = if outcome.is_some() { exact || !is_frozen } else { false };
            prop_assert!(is_frozen || total(&world.frozen) == 0);
            prop_assert!(!exact || is_frozen == (total(&world.frozen) > 0));
            prop_assert_eq!(is_frozen, world.guest.marker());
            prop_assert_eq!(is_frozen, world.guest.kernel.is_pinned());
            prop_assert!(!freezing || !is_frozen || outcome.is_none());
        }
        world.clear_plan();
        // A hook that fails to thaw makes this an error, and changes nothing about the rest.
        let _ = thaw(world.agent());
        prop_assert_eq!(total(&world.frozen), 0);
        prop_assert!(!world.agent().freezer.is_frozen() && !world.guest.marker());
        prop_assert!(world.hooks_are_paired() && world.hooks_alternate(), "{}", super::hooks::hook_log(&world.guest));
    }
}
