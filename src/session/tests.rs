use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::commands::testing;
use crate::host::Host;
use crate::host::fake::FakeKernel;
use crate::protocol::frame::{Event, Framer};

/// A session with a clock of its own, whose jobs end when the test says so.
struct Bench {
    agent: Agent,
    session: Session,
    framer: Framer,
    out: Output,
    now: Instant,
    jobs: BTreeMap<u64, &'static str>,
    stops: BTreeMap<u64, Stop>,
}

impl Bench {
    fn new() -> Bench {
        let host = Host::new("/nonexistent", Box::new(FakeKernel::default()));
        let agent = testing::agent(host, testing::config());
        Bench {
            agent,
            session: Session::new(),
            framer: Framer::default(),
            out: Output::default(),
            now: Instant::now(),
            jobs: BTreeMap::new(),
            stops: BTreeMap::new(),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        while let Some(event) = self.framer.next(&mut input) {
            match event {
                Event::Reset(error) => self.session.reset(error, &mut self.out),
                Event::Message(message) => {
                    self.session.message(message, self.now, &self.agent, &mut self.out);
                }
            }
            self.collect();
        }
    }

    fn collect(&mut self) {
        for job in self.session.take_jobs() {
            self.jobs.insert(job.seq, job.row.name);
            self.stops.insert(job.seq, job.stop);
        }
    }

    /// Whether the latest job was asked to stop.
    fn is_stopped(&self) -> bool {
        self.stops.last_key_value().is_some_and(|(_, stop)| stop.is_asked())
    }

    /// A command that goes to a worker.
    fn work(&mut self, id: u32) {
        self.send(format!("{{\"execute\":\"guest-get-fsinfo\",\"id\":{id}}}").as_bytes());
    }

    fn command(&mut self, name: &str) {
        self.send(format!("{{\"execute\":\"{name}\"}}").as_bytes());
    }

    fn sync(&mut self, id: u32) {
        self.send(format!("{{\"execute\":\"guest-sync\",\"arguments\":{{\"id\":{id}}}}}").as_bytes());
    }

    fn running(&self) -> Vec<&'static str> {
        self.jobs.values().copied().collect()
    }

    /// Ends the oldest running job of this name.
    fn finish(&mut self, name: &str, reply: &str) {
        let seq = *self.jobs.iter().find(|(_, job)| **job == name).expect("it runs").0;
        self.jobs.remove(&seq);
        let done = Done { reply: format!("{reply}\n").into_bytes(), undo: None };
        self.session.done(seq, done, self.now, &self.agent, &mut self.out);
        self.collect();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.tick(self.now, &self.agent, &mut self.out);
        self.collect();
    }

    /// What was written since the last call, line by line.
    fn replies(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        let all = |slices: &[std::io::IoSlice<'_>]| {
            slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        };
        self.out.write_with(all, drop).expect("memory takes all");
        let text = String::from_utf8(bytes).expect("ASCII");
        text.lines().map(str::to_owned).collect()
    }
}

const PONG: &str = "{\"return\": {}}";

#[test]
fn replies_keep_the_order_of_requests() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.command("guest-ping");
    bench.send(b"[1]");
    assert!(bench.replies().is_empty());
    bench.finish("guest-get-fsinfo", "one");
    let error = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input must be a JSON object\"}}";
    assert_eq!(bench.replies(), ["one", PONG, error]);
    assert!(!bench.session.owes());
}

#[test]
fn one_command_runs_at_a_time() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.work(2);
    assert_eq!(bench.running().len(), 1);
    bench.finish("guest-get-fsinfo", "one");
    assert_eq!(bench.running().len(), 1);
    bench.finish("guest-get-fsinfo", "two");
    assert_eq!(bench.replies(), ["one", "two"]);
}

#[test]
fn a_quick_command_before_a_sync_is_answered_in_order() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.sync(7);
    bench.pass(GRACE / 2);
    assert!(bench.replies().is_empty());
    bench.finish("guest-get-fsinfo", "one");
    assert_eq!(bench.replies(), ["one", "{\"return\": 7}"]);
    assert_eq!(bench.session.deadline(bench.now), None);
}

#[test]
fn a_late_reply_never_follows_an_answered_sync() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.sync(7);
    bench.pass(GRACE);
    assert_eq!(bench.replies(), ["{\"return\": 7}"]);
    bench.command("guest-ping");
    assert_eq!(bench.replies(), [PONG], "liveness does not wait for what was abandoned");
    bench.finish("guest-get-fsinfo", "late");
    assert!(bench.replies().is_empty());
}

#[test]
fn a_sync_after_a_reset_byte_does_not_wait() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.send(b"\xff");
    bench.sync(7);
    assert_eq!(bench.replies(), ["{\"return\": 7}"]);
}

#[test]
fn a_sync_that_is_refused_is_no_barrier() {
    let mut bench = Bench::new();
    bench.agent.set_policy(crate::policy::Policy::new(&[], &["guest-sync".to_owned()]));
    bench.work(1);
    bench.send(b"\xff");
    bench.sync(7);
    assert!(bench.replies().is_empty());
    bench.finish("guest-get-fsinfo", "one");
    assert_eq!(bench.replies().len(), 2);
}

#[test]
fn a_command_after_the_barrier_does_not_wait_for_the_abandoned_one() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.work(2);
    bench.sync(7);
    bench.pass(GRACE);
    bench.command("guest-get-disks");
    assert!(bench.running().contains(&"guest-get-disks"));
    bench.finish("guest-get-disks", "disks");
    assert_eq!(bench.replies(), ["{\"return\": 7}", "disks"]);
    // What was queued before the barrier is still done, unheard.
    bench.finish("guest-get-fsinfo", "late");
    assert_eq!(bench.running(), ["guest-get-fsinfo"]);
    bench.finish("guest-get-fsinfo", "late");
    assert!(bench.replies().is_empty());
}

#[test]
fn freeze_status_and_thaw_wait_for_a_freeze_that_is_at_work() {
    let mut bench = Bench::new();
    bench.command("guest-fsfreeze-freeze");
    bench.sync(7);
    bench.pass(GRACE);
    bench.command("guest-fsfreeze-status");
    assert_eq!(bench.running(), ["guest-fsfreeze-freeze"]);
    bench.sync(8);
    bench.pass(GRACE);
    bench.command("guest-ping");
    assert_eq!(bench.replies(), ["{\"return\": 7}", "{\"return\": 8}", PONG]);
    bench.command("guest-fsfreeze-thaw");
    assert_eq!(bench.running(), ["guest-fsfreeze-freeze"], "the older status is first");
    bench.finish("guest-fsfreeze-freeze", "late");
    bench.finish("guest-fsfreeze-status", "late");
    bench.finish("guest-fsfreeze-thaw", "thawed");
    assert_eq!(bench.replies(), ["thawed"]);
}

#[test]
fn a_trim_that_a_sync_abandons_is_asked_to_stop() {
    let mut bench = Bench::new();
    bench.command("guest-fstrim");
    bench.sync(7);
    bench.pass(GRACE / 2);
    assert!(!bench.is_stopped(), "the client still waits");
    bench.pass(GRACE);
    assert!(bench.is_stopped());
    bench.command("guest-fsfreeze-freeze");
    bench.finish("guest-fstrim", "late");
    assert!(!bench.is_stopped(), "it is the freeze's turn, which nobody asked to stop");
}

#[test]
fn a_trim_whose_client_left_goes_on_until_others_need_its_place() {
    let mut bench = Bench::new();
    bench.command("guest-fstrim");
    bench.session.hang_up(&mut bench.out);
    bench.sync(7);
    bench.work(1);
    bench.finish("guest-get-fsinfo", "one");
    let trim = bench.stops.first_key_value().expect("a job").1.clone();
    assert!(!trim.is_asked());
    bench.command("guest-fsfreeze-status");
    assert!(trim.is_asked());
    bench.finish("guest-fstrim", "late");
    bench.finish("guest-fsfreeze-status", "thawed");
    assert_eq!(bench.replies(), ["{\"return\": 7}", "one", "thawed"]);
}

#[test]
fn a_client_that_left_gets_nothing_and_the_next_one_starts_afresh() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.command("guest-ping");
    bench.session.hang_up(&mut bench.out);
    bench.sync(9);
    assert_eq!(bench.replies(), ["{\"return\": 9}"]);
    bench.finish("guest-get-fsinfo", "for the first client");
    assert!(bench.replies().is_empty());
}

#[test]
fn what_an_abandoned_command_made_is_undone() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.session.hang_up(&mut bench.out);
    let (&seq, _) = bench.jobs.first_key_value().expect("a job");
    let done = Done { reply: b"1000\n".to_vec(), undo: Some(Box::new(|_| {})) };
    bench.session.done(seq, done, bench.now, &bench.agent, &mut bench.out);
    assert_eq!(bench.session.take_undos().len(), 1);
    assert!(bench.replies().is_empty());
}

#[test]
fn commands_that_hang_are_bounded_and_thaw_still_runs() {
    let mut bench = Bench::new();
    for id in 0..20 {
        bench.work(id);
        bench.sync(id);
        bench.pass(GRACE);
    }
    assert_eq!(bench.running().len(), STUCK_LIMIT);
    bench.replies();
    bench.work(99);
    let refusal = bench.replies().join("");
    assert!(refusal.contains("guest-get-fsinfo cannot run now"), "{refusal}");
    bench.command("guest-fsfreeze-thaw");
    assert!(bench.running().contains(&"guest-fsfreeze-thaw"));
}

#[test]
fn a_stream_cut_by_a_sync_is_still_one_line() {
    let mut bench = Bench::new();
    bench.work(1);
    let (&seq, _) = bench.jobs.first_key_value().expect("a job");
    let piece = Piece { bytes: b"{\"return\": [1".to_vec(), cut: Some(b"]}\n".to_vec()) };
    bench.session.piece(seq, piece, bench.now, &bench.agent, &mut bench.out);
    bench.sync(7);
    bench.pass(GRACE);
    assert_eq!(bench.replies(), ["{\"return\": [1]}", "{\"return\": 7}"]);
    assert_eq!(bench.session.take_dropped_streams(), [seq]);
    let late = Piece { bytes: b", 2]}\n".to_vec(), cut: None };
    bench.session.piece(seq, late, bench.now, &bench.agent, &mut bench.out);
    assert!(bench.replies().is_empty());
}

#[test]
fn a_flood_behind_a_stuck_command_does_not_hide_the_next_sync() {
    let mut bench = Bench::new();
    bench.work(1);
    for id in 0..u32::try_from(QUEUE_LIMIT).expect("small") {
        assert!(bench.session.has_room(|| bench.now));
        bench.work(id);
    }
    assert!(!bench.session.has_room(|| bench.now), "first the client is slowed down");
    let deadline = bench.session.deadline(bench.now).expect("then it is heard again");
    bench.now = deadline;
    assert!(bench.session.has_room(|| bench.now));
    assert_eq!(bench.session.deadline(bench.now), None, "a time that has passed would keep the loop busy");
    bench.work(5);
    bench.send(b"\xff");
    bench.sync(7);
    bench.pass(GRACE);
    assert_eq!(bench.replies().last().map(String::as_str), Some("{\"return\": 7}"));
}

#[derive(Clone, Debug)]
enum Act {
    Work,
    Ping,
    Sync,
    Reset,
    Finish(usize),
    Pass(u64),
    HangUp,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Work),
        3 => Just(Act::Ping),
        3 => Just(Act::Sync),
        1 => Just(Act::Reset),
        4 => any::<usize>().prop_map(Act::Finish),
        2 => (0..1500u64).prop_map(Act::Pass),
        1 => Just(Act::HangUp),
    ]
}

proptest! {
    /// Replies are a subsequence of the requests, and nothing older than an answered sync appears.
    #[test]
    fn replies_are_a_subsequence_and_syncs_are_barriers(acts in proptest::collection::vec(act(), 1..80)) {
        let mut bench = Bench::new();
        let mut number = 0;
        let mut numbers = BTreeMap::new();
        let mut last = 0;
        for act in acts {
            match act {
                Act::Work | Act::Ping | Act::Sync => {
                    number += 1;
                    let request = match act {
                        Act::Work => format!("{{\"execute\":\"guest-get-fsinfo\",\"id\":{number}}}"),
                        Act::Ping => format!("{{\"execute\":\"guest-ping\",\"id\":{number}}}"),
                        _ => format!("{{\"execute\":\"guest-sync\",\"arguments\":{{\"id\":0}},\"id\":{number}}}"),
                    };
                    let Some(Event::Message(message)) = bench.framer.next(&mut request.as_bytes()) else { unreachable!() };
                    bench.session.message(message, bench.now, &bench.agent, &mut bench.out);
                }
                Act::Reset => bench.session.reset(None, &mut bench.out),
                Act::Finish(which) => {
                    let running: Vec<_> = bench.jobs.keys().copied().collect();
                    if !running.is_empty() {
                        let seq = running[which % running.len()];
                        bench.jobs.remove(&seq);
                        let reply = format!("{{\"id\": {}}}\n", numbers[&seq]).into_bytes();
                        bench.session.done(seq, Done { reply, undo: None }, bench.now, &bench.agent, &mut bench.out);
                    }
                }
                Act::Pass(milliseconds) => {
                    bench.now += Duration::from_millis(milliseconds);
                    bench.session.tick(bench.now, &bench.agent, &mut bench.out);
                }
                Act::HangUp => {
                    bench.session.hang_up(&mut bench.out);
                    bench.replies();
                    last = number;
                }
            }
            for job in bench.session.take_jobs() {
                let id = job.request.id().expect("sent with one");
                let crate::protocol::message::Kind::Int(id) = id.kind() else { unreachable!() };
                numbers.insert(job.seq, id);
                bench.jobs.insert(job.seq, job.row.name);
            }
            for reply in bench.replies() {
                let reply: serde_json::Value = serde_json::from_str(&reply).expect("one line of JSON");
                let id = reply["id"].as_i64().expect("an id");
                prop_assert!(id > last, "{} after {}", id, last);
                last = id;
            }
        }
    }
}
