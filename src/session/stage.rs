//! A session on a stage: real session, dispatch and gate, spies for commands, and a script of what
//! clients, operators, workers and freezes do. [`play`] panics when a promise is broken:
//!
//! - no handler ran that policy or the frozen rule refused at the moment of its start;
//! - each request has its reply in its turn, or all older ones were dropped by a sync or a hang-up;
//! - freeze commands run one at a time, and what has a thread is bounded;
//! - what a command made is known to the client or taken back.
//!
//! The rules are kept here a second time, in [`Rules`], so that the gate is not its own judge.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use super::{Answer, Commands, Job, STUCK_LIMIT, Session};
use crate::agent::Agent;
use crate::commands::{Body, Command, Ctx, Lane, Stream};
use crate::dispatch::{self, Done, Piece};
use crate::output::Output;
use crate::policy::Policy;
use crate::protocol::error::Result;
use crate::protocol::frame::{Event, Framer};
use crate::protocol::message::Members;
use crate::protocol::request::Request;

/// Commands that note when they run.
pub static SPIES: [Command; 12] = [
    Command::new("spy-sync", spy::<0>).lane(Lane::Barrier).while_frozen(),
    Command::new("spy-sync-thawed", spy::<1>).lane(Lane::Barrier),
    Command::new("spy-ping", spy::<2>).lane(Lane::Inline).while_frozen(),
    Command::new("spy-inline", spy::<3>).lane(Lane::Inline),
    Command::new("spy-prompt", spy::<4>).lane(Lane::Prompt),
    Command::new("spy-worker", spy::<5>),
    Command::new("spy-worker-frozen", spy::<6>).while_frozen(),
    Command::new("spy-silent", spy::<7>).silent(),
    Command::new("spy-stream", spy::<8>),
    Command::new("spy-freeze", spy::<9>).lane(Lane::Freeze),
    Command::new("spy-status", spy::<10>).lane(Lane::Freeze).while_frozen(),
    Command::new(THAW, spy::<11>).lane(Lane::Freeze).while_frozen(),
];

/// The one command that a block list does not hold for while frozen.
const THAW: &str = "guest-fsfreeze-thaw";

/// A step of the script. Numbers pick one of what there is.
#[derive(Clone, Debug)]
pub enum Act {
    /// The client writes a request with so many bytes of arguments.
    Write(u8, u8),
    /// The client writes something else.
    Garbage(Vec<u8>),
    /// The client writes the reset byte.
    Reset,
    /// So many of the bytes that were written arrive.
    Deliver(u16),
    /// The client reads so many bytes.
    Read(u16),
    /// The client sends no more: half a message is dropped.
    HalfClose,
    /// The client goes away, perhaps with bytes unread, and the next one comes.
    HangUp(bool),
    /// A worker begins with a command that was given to it.
    Begin(u8),
    /// A worker hands on the next piece of a long reply.
    Piece(u8),
    /// A worker comes to the end of a command.
    End(u8),
    /// An undo runs.
    Undo,
    /// So many milliseconds pass.
    Pass(u16),
    /// The policy is read again: an allow list, if any, and a block list, by bits.
    Reload(Option<u16>, u16),
    /// A freeze or a thaw took place.
    Frozen(bool),
    /// From now on the machine has, or has not, in memory what prompt commands read.
    Slow(bool),
}

/// What may run, as the operator and the freeze left it.
#[derive(Default)]
struct Rules {
    allow: Option<u16>,
    block: u16,
    frozen: bool,
}

impl Rules {
    fn refuse(&self, spy: usize) -> bool {
        let row = &SPIES[spy];
        let listed = |list: u16| list >> spy & 1 == 1;
        let blocked = !self.allow.is_none_or(listed) || listed(self.block);
        (self.frozen && !row.while_frozen) || (blocked && !(self.frozen && row.name == THAW))
    }
}

/// What spies see and note.
#[derive(Default)]
struct Notes {
    rules: Rules,
    slow: bool,
    broken: Option<String>,
    made: u64,
    undone: BTreeSet<u64>,
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

fn notes<T>(with: impl FnOnce(&mut Notes) -> T) -> T {
    NOTES.with_borrow_mut(with)
}

fn spy<const N: usize>(cx: &Ctx<'_>, _: Option<Members<'_>>) -> Result<Body> {
    if SPIES[N].lane == Lane::Prompt && notes(|notes| notes.slow) {
        cx.host.may_wait()?;
    }
    let number = notes(|notes| {
        if notes.rules.refuse(N) {
            notes.broken.get_or_insert_with(|| format!("{} ran although it was refused", SPIES[N].name));
        }
        notes.made += u64::from(SPIES[N].replies);
        notes.made
    });
    if !SPIES[N].replies {
        return Ok(Body::Json(Vec::new()));
    }
    cx.undo_if_abandoned(move |_| {
        let again = !notes(|notes| notes.undone.insert(number));
        assert!(!again, "{number} was taken back twice");
    });
    if SPIES[N].name == "spy-stream" {
        return Ok(Body::Stream(Box::new(Long { number, pieces: 0 })));
    }
    Ok(Body::Json(format!("{{\"made\": {number}}}").into_bytes()))
}

/// A reply of three pieces.
struct Long {
    number: u64,
    pieces: usize,
}

impl Stream for Long {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        self.pieces += 1;
        match self.pieces {
            1 => out.extend_from_slice(b"{\"text\": \""),
            2 => out.extend_from_slice(&[b'x'; 20_000]),
            _ => out.extend_from_slice(format!("\", \"made\": {}}}", self.number).as_bytes()),
        }
        self.pieces < 3
    }

    fn cut(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"}");
    }
}

/// The spies with the rules of an agent.
struct Troupe<'a>(&'a Agent);

impl Commands for Troupe<'_> {
    fn find(&self, name: &str) -> Option<&'static Command> {
        SPIES.iter().find(|row| row.name == name)
    }

    fn check(&self, row: &Command) -> Result<()> {
        self.0.check(row)
    }

    fn check_for_any_state(&self, row: &Command) -> Result<()> {
        self.0.check_for_any_state(row)
    }

    fn answer(&self, row: &Command, request: &Request, out: &mut Vec<u8>) -> Answer {
        dispatch::answer(self.0, row, request, out)
    }
}

/// A job that a worker has begun with.
struct Begun {
    row: &'static Command,
    pieces: VecDeque<Piece>,
    done: Done,
}

/// A request that was written.
struct Owed {
    id: u64,
    spy: usize,
    /// Its reply may be missing.
    optional: bool,
}

struct Stage<'a> {
    agent: &'a Agent,
    session: Session,
    framer: Framer,
    out: Output,
    now: Instant,
    /// What the client wrote and has not arrived yet.
    wire: VecDeque<u8>,
    /// What arrived and could not be taken yet.
    arrived: Vec<u8>,
    id: u64,
    owed: VecDeque<Owed>,
    /// What was read of a reply line.
    line: Vec<u8>,
    told: BTreeSet<u64>,
    /// What the last line told of.
    last_told: Option<u64>,
    jobs: BTreeMap<u64, Job>,
    begun: BTreeMap<u64, Begun>,
    undoing: Vec<crate::commands::Undo>,
    /// The client may be in the middle of something that is no request.
    doubt: bool,
    /// This client wrote something that is no request.
    garbage: bool,
}

/// Plays a script to its end; then everybody does what is left to do.
pub fn play(agent: &Agent, acts: &[Act]) {
    NOTES.set(Notes::default());
    agent.set_policy(Policy::default());
    agent.freezer.pretend(false);
    let mut stage = Stage {
        agent,
        session: Session::new(),
        framer: Framer::default(),
        out: Output::default(),
        now: Instant::now(),
        wire: VecDeque::new(),
        arrived: Vec::new(),
        id: 0,
        owed: VecDeque::new(),
        line: Vec::new(),
        told: BTreeSet::new(),
        last_told: None,
        jobs: BTreeMap::new(),
        begun: BTreeMap::new(),
        undoing: Vec::new(),
        doubt: false,
        garbage: false,
    };
    for act in acts {
        stage.act(act);
        stage.look();
    }
    stage.finish();
}

impl Stage<'_> {
    fn act(&mut self, act: &Act) {
        match act {
            Act::Write(spy, size) => self.write(usize::from(*spy) % SPIES.len(), usize::from(*size)),
            Act::Garbage(bytes) => self.garbage(bytes),
            Act::Reset => {
                self.wire.push_back(0xFF);
                self.doubt = false;
            }
            Act::Deliver(count) => {
                let count = usize::from(*count).min(self.wire.len());
                self.arrived.extend(self.wire.drain(..count));
                self.take();
            }
            Act::Read(count) => self.read(usize::from(*count)),
            Act::HalfClose => {
                self.wire.clear();
                self.arrived.clear();
                self.framer.reset();
                // What of this arrived is unknown here.
                self.owed.iter_mut().for_each(|owed| owed.optional = true);
                self.doubt = false;
            }
            Act::HangUp(unread) => self.hang_up(*unread),
            Act::Begin(which) => {
                if let Some(seq) = pick(&self.jobs, *which) {
                    self.begin(seq);
                }
            }
            Act::Piece(which) => {
                if let Some(seq) = pick(&self.begun, *which) {
                    self.piece(seq);
                }
            }
            Act::End(which) => {
                if let Some(seq) = pick(&self.begun, *which) {
                    self.end(seq);
                }
            }
            Act::Undo => self.undo(),
            Act::Pass(milliseconds) => {
                self.now += Duration::from_millis((*milliseconds).into());
                self.session.tick(self.now, &Troupe(self.agent), &mut self.out);
                self.take();
            }
            Act::Reload(allow, block) => {
                let names = |list: u16| -> Vec<String> {
                    let listed = (0..SPIES.len()).filter(|spy| list >> spy & 1 == 1);
                    // An empty allow list would be none.
                    listed.map(|spy| SPIES[spy].name.to_owned()).chain(["no-command".to_owned()]).collect()
                };
                self.agent.set_policy(Policy::new(&allow.map(names).unwrap_or_default(), &names(*block)));
                notes(|notes| (notes.rules.allow, notes.rules.block) = (*allow, *block));
            }
            Act::Frozen(frozen) => {
                self.agent.freezer.pretend(*frozen);
                notes(|notes| notes.rules.frozen = *frozen);
            }
            Act::Slow(slow) => notes(|notes| notes.slow = *slow),
        }
    }

    fn write(&mut self, spy: usize, size: usize) {
        self.id += 1;
        let (id, name, text) = (self.id, SPIES[spy].name, "a".repeat(size));
        let request = format!("{{\"execute\":\"{name}\",\"arguments\":{{\"a\":\"{text}\"}},\"id\":{id}}}\n");
        self.wire.extend(request.as_bytes());
        self.owed.push_back(Owed { id, spy, optional: self.doubt || !SPIES[spy].replies });
    }

    fn garbage(&mut self, bytes: &[u8]) {
        // No forged replies.
        if bytes.windows(2).any(|pair| pair == b"id") || bytes.contains(&b'\\') {
            return;
        }
        self.wire.extend(bytes);
        self.owed.iter_mut().for_each(|owed| owed.optional = true);
        (self.doubt, self.garbage) = (true, true);
    }

    /// As the server does with what it has read.
    fn take(&mut self) {
        let mut rest = self.arrived.as_slice();
        while !self.out.is_high() && self.session.has_room(|| self.now) {
            match self.framer.next(&mut rest) {
                None => break,
                Some(Event::Reset(error)) => self.session.reset(error, &mut self.out),
                Some(Event::Message(message)) => {
                    let commands = Troupe(self.agent);
                    if let Some(done) = self.session.message(message, self.now, &commands, &mut self.out) {
                        self.framer.recycle(done);
                    }
                }
            }
        }
        self.arrived = rest.to_vec();
    }

    fn read(&mut self, count: usize) {
        let (mut room, mut bytes) = (count, Vec::new());
        let write = |slices: &[IoSlice<'_>]| {
            if room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let before = bytes.len();
            for slice in slices {
                let part = &slice[..slice.len().min(room)];
                room -= part.len();
                bytes.extend_from_slice(part);
            }
            Ok(bytes.len() - before)
        };
        let _ = self.out.write_with(write, drop);
        self.session.sent(self.now, &Troupe(self.agent), &mut self.out);
        for byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.reply(&line);
            } else {
                self.line.push(byte);
            }
        }
        self.take();
    }

    /// The client reads a line.
    fn reply(&mut self, line: &[u8]) {
        let reply: serde_json::Value = serde_json::from_slice(line).expect("a reply is a line of JSON");
        self.last_told = reply["return"]["made"].as_u64();
        if let Some(made) = self.last_told {
            assert!(self.told.insert(made), "{made} is told of twice");
        }
        let Some(id) = reply["id"].as_u64() else {
            // The reply to garbage, or one of many to what the session could not keep.
            if reply["error"]["desc"].as_str().is_some_and(|desc| desc.starts_with("too many requests")) {
                self.owed.pop_front();
            } else if let Some(first) = self.owed.front().filter(|_| !self.garbage) {
                panic!("a reply without id where {} was to be answered: {reply}", first.id);
            }
            return;
        };
        let at = self.owed.iter().position(|owed| owed.id == id).expect("nothing is answered twice or too late");
        let is_barrier = SPIES[self.owed[at].spy].lane == Lane::Barrier && reply.get("return").is_some();
        for skipped in self.owed.drain(..=at).take(at) {
            assert!(skipped.optional || is_barrier, "{} was skipped, and then {id} answered", skipped.id);
        }
    }

    fn hang_up(&mut self, unread: bool) {
        self.wire.clear();
        self.arrived.clear();
        self.framer.reset();
        self.session.hang_up(unread, self.now, &Troupe(self.agent), &mut self.out);
        assert!(self.out.is_empty(), "nothing of it reaches the next client");
        // At least the last byte.
        if let Some(made) = self.last_told.take().filter(|_| unread && self.line.is_empty()) {
            self.told.remove(&made);
        }
        self.owed.clear();
        self.line.clear();
        (self.doubt, self.garbage) = (false, false);
    }

    fn begin(&mut self, seq: u64) {
        let job = self.jobs.remove(&seq).expect("picked from them");
        let mut pieces = VecDeque::new();
        let done = dispatch::work(self.agent, job.row, &job.request, &job.stop, |piece| {
            pieces.push_back(piece);
            true
        });
        self.begun.insert(seq, Begun { row: job.row, pieces, done });
    }

    fn piece(&mut self, seq: u64) {
        let piece = self.begun.get_mut(&seq).and_then(|begun| begun.pieces.pop_front());
        if let Some(piece) = piece {
            self.session.piece(seq, piece, self.now, &Troupe(self.agent), &mut self.out);
        }
    }

    fn end(&mut self, seq: u64) {
        while self.begun.get(&seq).is_some_and(|begun| !begun.pieces.is_empty()) {
            self.piece(seq);
        }
        let begun = self.begun.remove(&seq).expect("picked from them");
        self.session.done(seq, begun.done, self.now, &Troupe(self.agent), &mut self.out);
        self.take();
    }

    fn undo(&mut self) {
        if let Some(undo) = self.undoing.pop() {
            undo(self.agent);
            self.session.undone();
        }
    }

    /// After each act: collects what is to be done, and looks at what was promised.
    fn look(&mut self) {
        self.jobs.extend(self.session.take_jobs().into_iter().map(|job| (job.seq, job)));
        self.session.take_dropped_streams();
        while let Some(undo) = self.session.take_undo() {
            self.undoing.push(undo);
        }
        let rows = self.jobs.values().map(|job| job.row).chain(self.begun.values().map(|begun| begun.row));
        let freezes = rows.clone().filter(|row| row.lane == Lane::Freeze).count();
        assert!(freezes <= 1, "{freezes} freeze commands are at work at the same time");
        let threads = rows.count() + self.undoing.len();
        assert!(threads <= STUCK_LIMIT + 2, "{threads} threads are taken");
        if let Some(broken) = notes(|notes| notes.broken.take()) {
            panic!("{broken}");
        }
    }

    /// Everybody does what is left to do; then nothing may be owed.
    fn finish(&mut self) {
        self.arrived.extend(self.wire.drain(..));
        loop {
            self.take();
            self.look();
            self.read(usize::MAX);
            self.look();
            if let Some(&seq) = self.jobs.keys().next() {
                self.begin(seq);
                self.look();
                self.end(seq);
            } else if let Some(&seq) = self.begun.keys().next() {
                self.end(seq);
            } else if !self.undoing.is_empty() {
                self.undo();
            } else if self.out.is_empty() {
                break;
            }
        }
        assert!(!self.session.owes());
        if let Some(owed) = self.owed.iter().find(|owed| !owed.optional && !self.doubt) {
            panic!("{} was never answered", owed.id);
        }
        self.hang_up(false);
        self.look();
        while !self.undoing.is_empty() {
            self.undo();
            self.look();
        }
        notes(|notes| {
            for made in 1..=notes.made {
                let (told, undone) = (self.told.contains(&made), notes.undone.contains(&made));
                assert!(told || undone, "{made} was made, and nobody was told of it");
                assert!(!(told && undone), "{made} was taken back although the client knows of it");
            }
        });
    }
}

fn pick<T>(from: &BTreeMap<u64, T>, which: u8) -> Option<u64> {
    from.keys().nth(usize::from(which) % from.len().max(1)).copied()
}

/// A script from any bytes.
pub fn script(bytes: &[u8]) -> Vec<Act> {
    let mut bytes = bytes.iter().copied();
    let mut acts = Vec::new();
    while let Some(kind) = bytes.next() {
        let mut byte = || bytes.next().unwrap_or_default();
        acts.push(match kind % 32 {
            0..8 => Act::Write(byte(), byte()),
            8..13 => Act::Deliver(u16::MAX),
            13 => Act::Deliver(byte().into()),
            14 => Act::Reset,
            15 => Act::Read(byte().into()),
            16 => Act::Read(u16::MAX),
            17 => Act::HalfClose,
            18 => Act::HangUp(byte() % 2 == 1),
            19..22 => Act::Begin(byte()),
            22 => Act::Piece(byte()),
            23..26 => Act::End(byte()),
            26 => Act::Undo,
            27 => Act::Pass(u16::from(byte()) * 8),
            28 => Act::Reload(None, u16::from_le_bytes([byte(), byte()])),
            29 => Act::Reload(Some(u16::from_le_bytes([byte(), byte()])), 0),
            30 => match byte() {
                flags @ 0..4 => Act::Frozen(flags % 2 == 1),
                flags => Act::Slow(flags % 2 == 1),
            },
            _ => {
                let count = byte();
                Act::Garbage((0..count % 32).map(|_| byte()).collect())
            }
        });
    }
    acts
}
