//! Clients that give up, ask again and go away, on the real session, with a freezer that is slow,
//! fails, hangs and is killed: the order of things is what the session makes of it.

use super::model::{Event, World};
use super::*;
use crate::dispatch;
use crate::output::Output;
use crate::protocol::frame::{Event as Framed, Framer};
use crate::session::{Job, Session};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    /// The client asks for something.
    Ask(&'static str),
    /// It resynchronises; the reset byte says that it waits for nothing.
    Sync {
        reset: bool,
    },
    /// It goes, and the next one comes.
    HangUp,
    /// So long the client has waited: a sync waits no more.
    Wait,
    /// A job that was started comes to its end, hooks and all.
    Run(usize),
    /// The time limit has passed.
    Timer,
    /// Other time-outs, from now on.
    Reload(u64),
    /// The agent ends in order, for a signal or a lost channel, and is started again.
    End,
    Kill,
    At(usize, Event),
    HookFails(&'static str, &'static str, bool),
}

fn act() -> impl Strategy<Value = Act> {
    let ask = prop_oneof![
        4 => Just("guest-fsfreeze-freeze"),
        2 => Just("guest-fsfreeze-freeze-list"),
        2 => Just("guest-fsfreeze-thaw"),
        1 => Just("guest-fsfreeze-status"),
        // One that makes something that has to be closed when nobody hears of it.
        1 => Just("guest-file-open"),
        1 => Just("guest-ping"),
    ];
    let event = prop_oneof![2 => Just(Event::Fail), 1 => Just(Event::Hang), 2 => Just(Event::Kill)];
    let fails = (prop_oneof![Just("1"), Just("2")], prop_oneof![Just("freeze"), Just("thaw")], any::<bool>());
    prop_oneof![
        10 => ask.prop_map(Act::Ask),
        3 => any::<bool>().prop_map(|reset| Act::Sync { reset }),
        1 => Just(Act::HangUp),
        2 => Just(Act::Wait),
        10 => (0..3usize).prop_map(Act::Run),
        1 => Just(Act::Timer),
        1 => (0..5u64).prop_map(Act::Reload),
        1 => Just(Act::End),
        1 => Just(Act::Kill),
        2 => (0..10usize, event).prop_map(|(n, event)| Act::At(n, event)),
        1 => fails.prop_map(|(hook, word, fails)| Act::HookFails(hook, word, fails)),
    ]
}

/// One agent with its session. What it undoes never ends: `close` hangs.
struct Talk {
    world: World,
    session: Session,
    out: Output,
    framer: Framer,
    started: Vec<Job>,
    now: Instant,
}

impl Talk {
    fn new() -> Talk {
        let world = World::new();
        std::fs::write(world.guest.root.path().join("data"), "x").expect("a file");
        let (session, out, framer) = (Session::new(), Output::default(), Framer::default());
        Talk { world, session, out, framer, started: Vec::new(), now: Instant::now() }
    }

    fn agent(&self) -> &Agent {
        &self.world.guest.agent
    }

    fn send(&mut self, mut bytes: &[u8]) {
        while let Some(event) = self.framer.next(&mut bytes) {
            match event {
                Framed::Reset(error) => self.session.reset(error, &mut self.out),
                Framed::Message(message) => {
                    self.session.message(message, self.now, &self.world.guest.agent, &mut self.out);
                }
            }
        }
        self.start();
    }

    fn start(&mut self) {
        self.started.extend(self.session.take_jobs());
        // Whoever reads them; nobody waits for the replies here.
        self.out.clear();
    }

    fn ask(&mut self, command: &str) {
        let path = self.world.guest.root.path().join("data");
        let request = match command {
            "guest-fsfreeze-freeze-list" => {
                serde_json::json!({"execute": command, "arguments": {"mountpoints": ["/home"]}})
            }
            "guest-file-open" => serde_json::json!({"execute": command, "arguments": {"path": path}}),
            _ => serde_json::json!({"execute": command}),
        };
        self.send(request.to_string().as_bytes());
    }

    /// The agent is another one from now on.
    fn forget(&mut self) {
        (self.session, self.out, self.framer) = (Session::new(), Output::default(), Framer::default());
        self.started.clear();
    }

    fn run(&mut self, which: usize) {
        if self.started.is_empty() {
            return;
        }
        let job = self.started.remove(which % self.started.len());
        self.world.be_patient();
        let done = dispatch::work(self.agent(), job.row, &job.request, &job.stop, |_| true);
        let text = String::from_utf8_lossy(&done.reply).into_owned();
        let outcome = if text.contains("\"error\"") { Err(Error::new(text)) } else { Ok(0) };
        if self.world.outcome(outcome).is_none() {
            return self.forget();
        }
        self.session.done(job.seq, done, self.now, &self.world.guest.agent, &mut self.out);
        self.start();
    }

    /// Thaws that nobody asked for, and what the agent does at its end.
    fn unasked(&mut self, ends: bool) {
        self.world.be_patient();
        if ends {
            self.agent().freezer.refuse_from_now_on();
        }
        thaw_unasked(self.agent(), "test");
        if self.world.outcome(Ok(0)).is_none() {
            return self.forget();
        }
        if ends {
            self.world.restart();
            self.forget();
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Ask(command) => self.ask(command),
            Act::Sync { reset } => {
                let sync = b"\xff{\"execute\":\"guest-sync\",\"arguments\":{\"id\":7}}";
                self.send(&sync[usize::from(!reset)..]);
            }
            Act::HangUp => {
                self.framer.reset();
                hang_up(self);
                self.start();
            }
            Act::Wait => {
                self.now += Duration::from_secs(1);
                self.session.tick(self.now, &self.world.guest.agent, &mut self.out);
                self.start();
            }
            Act::Run(which) => self.run(which),
            Act::Timer if self.agent().freezer.is_frozen() => self.unasked(false),
            Act::Timer => {}
            Act::Reload(seconds) => {
                self.world.guest.set(|config| config.fsfreeze.timeout = Some(Duration::from_secs(seconds)));
            }
            Act::End if self.agent().freezer.is_busy() => self.unasked(true),
            Act::End | Act::Kill => {
                self.world.restart();
                self.forget();
            }
            Act::At(n, event) => self.world.plan(n, event),
            Act::HookFails(hook, word, fails) => self.world.hook_fails(hook, word, fails),
        }
    }

    /// What holds after each step, as no job is at work then.
    fn check(&self) -> std::result::Result<(), TestCaseError> {
        let (freezer, guest) = (&self.agent().freezer, &self.world.guest);
        let frozen = total(&self.world.frozen);
        let log = super::hooks::hook_log(guest);
        prop_assert!(!freezer.is_thawed() || frozen == 0, "thawed, and {frozen} file systems are frozen");
        prop_assert!(!freezer.is_thawed() || self.world.hooks_are_paired(), "thawed, and the hooks were told\n{log}");
        prop_assert!(self.world.hooks_alternate(), "the hooks were told\n{log}");
        if freezer.is_frozen() {
            prop_assert!(guest.marker(), "frozen without a marker");
            prop_assert!(freezer.frozen_since().is_some(), "frozen without a timer");
            prop_assert!(guest.kernel.is_pinned(), "frozen, and memory may go");
        } else {
            prop_assert_eq!(guest.marker(), !freezer.is_thawed());
            prop_assert!(!guest.kernel.is_pinned());
        }
        Ok(())
    }
}

fn hang_up(talk: &mut Talk) {
    talk.session.hang_up(false, talk.now, &talk.world.guest.agent, &mut talk.out);
}

/// What a client that gave up on a slow freeze and asks again does: finding 3.
#[test]
fn a_client_that_gives_up_and_freezes_again_is_refused_and_one_thaw_is_enough() {
    let mut talk = Talk::new();
    talk.ask("guest-fsfreeze-freeze");
    // Its hook is slow. The client's patience is over.
    talk.act(Act::Sync { reset: true });
    talk.ask("guest-fsfreeze-freeze");
    talk.ask("guest-fsfreeze-freeze-list");
    talk.act(Act::HangUp);
    talk.ask("guest-fsfreeze-freeze");
    for _ in 0..6 {
        talk.act(Act::Run(0));
        talk.check().expect("all is well");
    }
    assert!(talk.agent().freezer.is_frozen());
    assert_eq!(total(&talk.world.frozen), 2);
    assert_eq!(super::hooks::hook_log(&talk.world.guest), "1 freeze\n2 freeze\n");
    talk.ask("guest-fsfreeze-thaw");
    talk.act(Act::Run(0));
    talk.check().expect("all is well");
    assert!(talk.agent().freezer.is_thawed());
    assert_eq!(super::hooks::hook_log(&talk.world.guest), "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, max_shrink_time: 60_000, ..Default::default() })]
    #[test]
    fn whatever_clients_do_status_tells_the_truth(acts in proptest::collection::vec(act(), 1..30)) {
        let mut talk = Talk::new();
        for act in acts {
            talk.act(act);
            talk.check()?;
        }
        // Whatever was abandoned comes to its end, and one thaw is enough.
        talk.world.clear_plan();
        while !talk.started.is_empty() {
            talk.run(0);
            talk.check()?;
        }
        let _ = thaw(talk.agent());
        talk.check()?;
        prop_assert!(talk.agent().freezer.is_thawed() && talk.world.hooks_are_paired());
    }
}
