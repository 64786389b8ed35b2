use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::agent::Agent;
use crate::commands::testing;
use crate::host::Host;
use crate::host::fake::FakeKernel;
use crate::protocol::frame::{Event, Framer};
use crate::{commands, dispatch};

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

    fn hang_up(&mut self) {
        self.session.hang_up(false, self.now, &self.agent, &mut self.out);
        self.collect();
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
    bench.hang_up();
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
    bench.hang_up();
    bench.sync(9);
    assert_eq!(bench.replies(), ["{\"return\": 9}"]);
    bench.finish("guest-get-fsinfo", "for the first client");
    assert!(bench.replies().is_empty());
}

#[test]
fn what_an_abandoned_command_made_is_undone() {
    let mut bench = Bench::new();
    bench.work(1);
    bench.hang_up();
    let (&seq, _) = bench.jobs.first_key_value().expect("a job");
    let done = Done { reply: b"1000\n".to_vec(), undo: Some(Box::new(|_| {})) };
    bench.session.done(seq, done, bench.now, &bench.agent, &mut bench.out);
    assert!(bench.session.take_undo().is_some());
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
    for id in 0..u32::try_from(queue::LIMIT).expect("small") {
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

/// The ways in which commands are abandoned.
const ABANDON: [fn(&mut Bench); 3] = [
    |bench| bench.hang_up(),
    |bench| {
        bench.sync(7);
        bench.pass(GRACE);
    },
    |bench| {
        bench.send(b"\xff");
        bench.sync(7);
    },
];

#[test]
fn a_refused_command_is_not_run_when_it_is_abandoned() {
    let policy: fn(&mut Bench) = |bench| {
        bench.agent.set_policy(crate::policy::Policy::new(&[], &["guest-get-disks".to_owned()]));
    };
    let frozen: fn(&mut Bench) = |bench| bench.agent.freezer.pretend(true);
    for (refuse, abandon) in [policy, frozen].into_iter().flat_map(|refuse| ABANDON.map(|abandon| (refuse, abandon))) {
        // Refused before it is sent, while it waits, and when it is abandoned already.
        for when in 0..3 {
            let mut bench = Bench::new();
            bench.command("guest-fsfreeze-status");
            for step in 0..3 {
                if step == when {
                    refuse(&mut bench);
                }
                match step {
                    0 => bench.command("guest-get-disks"),
                    1 => abandon(&mut bench),
                    _ => bench.finish("guest-fsfreeze-status", "late"),
                }
            }
            if when < 2 {
                assert!(bench.running().is_empty(), "{when}: {:?}", bench.running());
            }
            // What is on its way to a worker is asked there.
            for (seq, row) in bench.jobs.clone() {
                let request = testing::request(row, &serde_json::json!({}));
                let row = commands::find(row).expect("a command");
                let done = dispatch::work(&bench.agent, row, &request, &Stop::default(), |_| true);
                let reply = String::from_utf8_lossy(&done.reply).into_owned();
                assert!(reply.contains("has been disabled"), "{when}, job {seq}: {reply}");
            }
        }
    }
}

#[test]
fn a_client_that_does_not_read_is_not_answered_without_bound() {
    let mut bench = Bench::new();
    bench.work(1);
    let id = "x".repeat(100_000);
    let count = 100;
    for _ in 0..count {
        bench.send(format!("{{\"execute\":\"guest-ping\",\"id\":\"{id}\"}}").as_bytes());
    }
    bench.sync(7);
    bench.finish("guest-get-fsinfo", "one");
    assert!(bench.out.len() < crate::output::HIGH + 2 * id.len(), "{}", bench.out.len());
    bench.pass(GRACE);
    assert_eq!(bench.session.deadline(bench.now), None, "a time that has passed would keep the loop busy");
    let mut replies = Vec::new();
    loop {
        let more = bench.replies();
        if more.is_empty() {
            break;
        }
        replies.extend(more);
        bench.session.sent(bench.now, &bench.agent, &mut bench.out);
    }
    // The sync has waited long enough when the client reads at last.
    assert!((2..count + 2).contains(&replies.len()), "{}", replies.len());
    assert_eq!(replies.last().map(String::as_str), Some("{\"return\": 7}"));
}

#[test]
fn a_flood_behind_a_slow_command_is_answered_in_order() {
    let mut bench = Bench::new();
    bench.work(0);
    let sent = 5 * queue::LIMIT;
    for id in 1..sent {
        bench.now += if bench.session.has_room(|| bench.now) { Duration::ZERO } else { GRACE };
        assert!(bench.session.has_room(|| bench.now));
        bench.send(format!("{{\"execute\":\"guest-ping\",\"id\":{id}}}").as_bytes());
    }
    assert!(bench.session.queue.len() <= 2 * queue::LIMIT + 1);
    bench.finish("guest-get-fsinfo", "slow");
    let (mut replies, mut more) = (Vec::new(), bench.replies());
    while !more.is_empty() {
        replies.append(&mut more);
        bench.session.sent(bench.now, &bench.agent, &mut bench.out);
        more = bench.replies();
    }
    assert_eq!(replies.len(), sent, "one for each");
    assert_eq!(replies[0], "slow");
    for (id, reply) in replies.iter().enumerate().skip(1) {
        let reply: serde_json::Value = serde_json::from_str(reply).expect("JSON");
        assert_eq!(reply.get("return").is_some(), id < queue::LIMIT + 1, "{id}: {reply}");
        assert!(reply.get("id").is_none_or(|told| told == id), "{id}: {reply}");
    }
}

#[test]
fn requests_that_clients_leave_behind_are_bounded() {
    let mut bench = Bench::new();
    // Holds the freeze lane, so that nothing of what follows begins.
    bench.command("guest-fstrim");
    bench.hang_up();
    let padding = "x".repeat(1 << 20);
    for _ in 0..200 {
        bench.command("guest-fsfreeze-status");
        bench.send(format!("{{\"execute\":\"guest-get-disks\",\"arguments\":{{\"a\":\"{padding}\"}}}}").as_bytes());
        bench.hang_up();
    }
    let (count, bytes) = bench.session.orphans.waiting();
    assert!(bytes <= queue::BYTES && count > 0, "{count} requests of {bytes} bytes");
    for _ in 0..queue::LIMIT + 100 {
        bench.command("guest-fsfreeze-status");
        bench.hang_up();
    }
    let (count, bytes) = bench.session.orphans.waiting();
    assert!(count <= queue::LIMIT && bytes <= queue::BYTES, "{count} requests of {bytes} bytes");
    bench.finish("guest-fstrim", "late");
    let mut ended = 0;
    while let Some(&name) = bench.running().first() {
        bench.finish(name, "late");
        ended += 1;
    }
    assert!(ended >= queue::LIMIT, "{ended}");
    assert_eq!(bench.session.orphans.waiting(), (0, 0), "the count stays right");
}

/// Ends the one job with something to take back.
fn finish_with_undo(bench: &mut Bench) {
    let (seq, _) = bench.jobs.pop_first().expect("a job");
    let done = Done { reply: b"1000\n".to_vec(), undo: Some(Box::new(|_| {})) };
    bench.session.done(seq, done, bench.now, &bench.agent, &mut bench.out);
}

#[test]
fn a_handle_that_nobody_was_told_of_is_closed() {
    for (sent, left_unread, undone) in
        [(false, false, true), (false, true, true), (true, true, true), (true, false, false)]
    {
        let mut bench = Bench::new();
        bench.work(1);
        finish_with_undo(&mut bench);
        if sent {
            bench.replies();
            bench.session.sent(bench.now, &bench.agent, &mut bench.out);
        }
        bench.session.hang_up(left_unread, bench.now, &bench.agent, &mut bench.out);
        assert_eq!(bench.session.take_undo().is_some(), undone, "sent: {sent}, left unread: {left_unread}");
    }
}

#[test]
fn a_handle_that_the_client_knows_stays_when_later_replies_are_not_read() {
    let mut bench = Bench::new();
    bench.work(1);
    finish_with_undo(&mut bench);
    bench.replies();
    bench.session.sent(bench.now, &bench.agent, &mut bench.out);
    bench.command("guest-ping");
    bench.replies();
    bench.session.sent(bench.now, &bench.agent, &mut bench.out);
    bench.session.hang_up(true, bench.now, &bench.agent, &mut bench.out);
    assert!(bench.session.take_undo().is_none());
}

#[test]
fn undos_that_hang_leave_room_for_commands_and_the_thaw() {
    let mut bench = Bench::new();
    let mut hanging = 0;
    for _ in 0..20 {
        bench.work(1);
        finish_with_undo(&mut bench);
        bench.hang_up();
        while bench.session.take_undo().is_some() {
            hanging += 1;
        }
    }
    assert!(hanging < STUCK_LIMIT, "{hanging}");
    bench.work(2);
    assert_eq!(bench.running(), ["guest-get-fsinfo"]);
    bench.hang_up();
    for _ in 0..20 {
        bench.work(3);
        bench.hang_up();
    }
    assert_eq!(bench.running().len() + hanging, STUCK_LIMIT, "undos are among what hangs");
    bench.command("guest-fsfreeze-thaw");
    assert!(bench.running().contains(&"guest-fsfreeze-thaw"));
    bench.session.undone();
    assert!(bench.session.take_undo().is_some(), "the next one has its turn");
}

#[test]
fn an_abandonment_is_one_line_in_the_log() {
    let mut bench = Bench::new();
    bench.work(1);
    for id in 0..1000 {
        bench.work(id);
    }
    bench.hang_up();
    assert_eq!(bench.session.notices.lines(), 1);
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
                    bench.hang_up();
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

fn stage_act() -> impl Strategy<Value = stage::Act> {
    use stage::Act::*;
    prop_oneof![
        8 => (any::<u8>(), any::<u8>()).prop_map(|(spy, size)| Write(spy, size)),
        6 => any::<u16>().prop_map(Deliver),
        2 => (0..200u16).prop_map(Deliver),
        1 => Just(Reset),
        2 => any::<u16>().prop_map(Read),
        1 => (0..200u16).prop_map(Read),
        1 => Just(HalfClose),
        2 => any::<bool>().prop_map(HangUp),
        4 => any::<u8>().prop_map(Begin),
        1 => any::<u8>().prop_map(Piece),
        4 => any::<u8>().prop_map(End),
        1 => Just(Undo),
        2 => (0..1500u16).prop_map(Pass),
        1 => (any::<Option<u16>>(), any::<u16>()).prop_map(|(allow, block)| Reload(allow, block)),
        1 => any::<bool>().prop_map(Frozen),
        1 => any::<bool>().prop_map(Slow),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Garbage),
    ]
}

thread_local! {
    static AGENT: Agent =
        testing::agent(Host::new("/nonexistent", Box::new(FakeKernel::default())), testing::config());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What is refused when it starts does not start, whoever waits for it; and what else
    /// `session::stage` promises.
    #[test]
    fn what_is_refused_is_never_run(acts in proptest::collection::vec(stage_act(), 1..60)) {
        AGENT.with(|agent| stage::play(agent, &acts));
    }
}

#[test]
fn the_end_of_a_long_reply_may_be_reported_after_that_of_the_next_one() {
    use stage::Act::*;
    let long = [Write(8, 0), Deliver(u16::MAX), Begin(0), Piece(0), Piece(0), Piece(0)];
    let rest = [Write(8, 0), Deliver(u16::MAX), Begin(0), End(1), HangUp(false)];
    AGENT.with(|agent| stage::play(agent, &[long.as_slice(), &rest].concat()));
}

#[test]
fn a_late_report_does_not_take_the_place_of_the_last_reply() {
    use stage::Act::*;
    let long = [Write(8, 0), Deliver(u16::MAX), Begin(0), Piece(0), Piece(0), Piece(0)];
    let rest = [Write(0, 0), Deliver(u16::MAX), Read(u16::MAX), End(0), HangUp(true)];
    AGENT.with(|agent| stage::play(agent, &[long.as_slice(), &rest].concat()));
}
