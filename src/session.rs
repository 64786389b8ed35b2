//! The order of requests and replies on one channel, without any I/O.
//!
//! Replies go out in request order (O8). Commands that may block run on workers, one at a time. A
//! sync is a barrier: it waits a second at most for the commands ahead of it; then they are
//! *abandoned*: they run to their end elsewhere and their replies are dropped for good. One that can
//! be left half done (trim) is asked to stop, also when it was a client's departure that left it
//! alone and others wait for its place.
//!
//! Invariant: once a sync is answered, nothing older than it is ever written.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::commands::{self, Command, Lane, Stop, Undo};
use crate::dispatch::{self, Done, Piece};
use crate::output::Output;
use crate::protocol::error::{Error, Result};
use crate::protocol::message::Message;
use crate::protocol::reply;
use crate::protocol::request::Request;

/// How long a sync waits for the commands ahead of it: it is answered within a second, which is
/// shorter than every known client's time-out and long enough for a pipelined quick command to be answered in order.
pub const GRACE: Duration = Duration::from_millis(900);

/// Abandoned commands that may be on workers at the same time.
pub const STUCK_LIMIT: usize = 8;

/// Requests that may wait behind a running one before the channel is no longer read.
const QUEUE_LIMIT: usize = 4096;

/// Bytes of requests and ready replies that may wait.
const QUEUE_BYTES: usize = 64 << 20;

/// A request on its way to a worker.
#[derive(Debug)]
pub struct Job {
    /// Names the job in later calls.
    pub seq: u64,
    /// What to run.
    pub row: &'static Command,
    /// Its arguments and id.
    pub request: Request,
    /// Tells it that it may end early.
    pub stop: Stop,
}

/// What is owed to the client, and what runs.
pub struct Session {
    seq: u64,
    /// The oldest unanswered request, when it is on a worker or waits for one.
    head: Option<Head>,
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    /// When the syncs in the queue stop waiting, oldest first.
    graces: VecDeque<Instant>,
    /// A reset byte came while something was owed: the next sync does not wait.
    resync: bool,
    /// Commands that were abandoned, each line of them with its own order.
    abandoned: Vec<Line>,
    /// Which of the freeze commands is at work.
    freezing: Option<(u64, Stop)>,
    jobs: Vec<Job>,
    dropped_streams: Vec<u64>,
    undos: Vec<Undo>,
}

enum Head {
    Running { seq: u64, row: &'static Command, since: Instant, cut: Option<Vec<u8>>, stop: Stop },
    Waiting(Job),
}

enum Entry {
    Reply(Vec<u8>),
    Call(Job),
}

#[derive(Default)]
struct Line {
    running: Option<u64>,
    queue: VecDeque<Job>,
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl Session {
    /// A session to which nothing is owed.
    pub fn new() -> Session {
        Session {
            seq: 0,
            head: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            graces: VecDeque::new(),
            resync: false,
            abandoned: Vec::new(),
            freezing: None,
            jobs: Vec::new(),
            dropped_streams: Vec::new(),
            undos: Vec::new(),
        }
    }

    /// Whether a reply is owed to the client.
    pub fn owes(&self) -> bool {
        self.head.is_some() || !self.queue.is_empty()
    }

    /// Whether the channel may be read on. When not, it may again after `deadline`.
    pub fn has_room(&self, now: impl FnOnce() -> Instant) -> bool {
        !self.is_full() || self.stuck_at().is_some_and(|at| at <= now())
    }

    /// When `tick` should be called next, or `has_room` changes by itself.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let full = if self.is_full() { self.stuck_at().filter(|at| *at > now) } else { None };
        self.graces.front().copied().into_iter().chain(full).min()
    }

    /// Jobs to start now.
    pub fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Streams whose further pieces nobody wants.
    pub fn take_dropped_streams(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.dropped_streams)
    }

    /// What abandoned commands made and nobody was told of.
    pub fn take_undos(&mut self) -> Vec<Undo> {
        std::mem::take(&mut self.undos)
    }

    /// A message came, or the error reply that it costs. Gives back a message that is done with.
    pub fn message(
        &mut self,
        message: Result<Message>,
        now: Instant,
        agent: &Agent,
        out: &mut Output,
    ) -> Option<Message> {
        if self.is_full() {
            self.shed(out);
        }
        let request = match message.map(Request::parse) {
            Ok(Ok(request)) => request,
            Ok(Err(refused)) => {
                self.ready(out, |bytes| reply::error(bytes, &refused.error, refused.id()));
                return None;
            }
            Err(error) => {
                self.ready(out, |bytes| reply::error(bytes, &error, None));
                return None;
            }
        };
        let Some(row) = commands::find(request.execute()) else {
            let error = Error::unknown_command(request.execute());
            self.ready(out, |bytes| reply::error(bytes, &error, request.id()));
            return Some(request.into_message());
        };
        if !self.owes() && dispatch::answer(agent, row, &request, out.tail()) {
            return Some(request.into_message());
        }
        let barrier = row.lane == Lane::Barrier && agent.check(row).is_ok();
        self.seq += 1;
        self.queue_bytes += request.footprint();
        self.queue.push_back(Entry::Call(Job { seq: self.seq, row, request, stop: Stop::default() }));
        if row.lane == Lane::Barrier {
            self.graces.push_back(now + GRACE);
        }
        if barrier && self.resync {
            self.abandon_until_sync(out, usize::MAX);
        }
        self.advance(now, agent, out);
        None
    }

    /// The client's reset byte came.
    pub fn reset(&mut self, error: Option<Error>, out: &mut Output) {
        if let Some(error) = error {
            self.ready(out, |bytes| reply::error(bytes, &error, None));
        }
        self.resync = self.owes();
    }

    /// The client went away: nothing is owed any more. What it asked for is still done.
    pub fn hang_up(&mut self, out: &mut Output) {
        self.abandon(self.queue.len(), out);
        self.graces.clear();
        self.resync = false;
        self.start_abandoned();
        out.clear();
    }

    /// Part of the reply of the running job.
    pub fn piece(&mut self, seq: u64, piece: Piece, now: Instant, agent: &Agent, out: &mut Output) {
        match &mut self.head {
            Some(Head::Running { seq: running, cut, .. }) if *running == seq => {
                out.push(piece.bytes);
                let last = piece.cut.is_none();
                *cut = piece.cut;
                if last {
                    self.head = None;
                    self.advance(now, agent, out);
                }
            }
            _ => {}
        }
    }

    /// A job ended and its worker is free.
    pub fn done(&mut self, seq: u64, done: Done, now: Instant, agent: &Agent, out: &mut Output) {
        if self.freezing.as_ref().is_some_and(|(freezing, _)| *freezing == seq) {
            self.freezing = None;
        }
        match &self.head {
            Some(Head::Running { seq: running, cut, .. }) if *running == seq => {
                // A stream whose worker died is closed as far as it came.
                out.push(cut.clone().unwrap_or(done.reply));
                self.head = None;
            }
            _ if self.abandoned.iter().any(|line| line.running == Some(seq)) => self.undos.extend(done.undo),
            // A stream whose last piece is out.
            _ => {}
        }
        for line in &mut self.abandoned {
            line.running = line.running.filter(|running| *running != seq);
        }
        self.start_abandoned();
        self.advance(now, agent, out);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant, agent: &Agent, out: &mut Output) {
        if self.graces.front().is_some_and(|grace| *grace <= now) {
            self.abandon_until_sync(out, 1);
            self.advance(now, agent, out);
        }
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_LIMIT || self.queue_bytes >= QUEUE_BYTES
    }

    /// When the oldest unanswered request counts as stuck.
    fn stuck_at(&self) -> Option<Instant> {
        match &self.head {
            Some(Head::Running { since, .. }) => Some(*since + GRACE),
            _ => None,
        }
    }

    /// Writes an error reply in its place.
    fn ready(&mut self, out: &mut Output, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.owes() {
            return write(out.tail());
        }
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.queue_bytes += bytes.len();
        self.queue.push_back(Entry::Reply(bytes));
    }

    /// Answers what can be answered, up to the first request that needs a worker.
    fn advance(&mut self, now: Instant, agent: &Agent, out: &mut Output) {
        self.start_head(now, out);
        while self.head.is_none() {
            let job = match self.queue.pop_front() {
                None => {
                    self.resync = false;
                    return;
                }
                Some(Entry::Reply(bytes)) => {
                    self.queue_bytes -= bytes.len();
                    out.push(bytes);
                    continue;
                }
                Some(Entry::Call(job)) => job,
            };
            self.queue_bytes -= job.request.footprint();
            if job.row.lane == Lane::Barrier {
                self.graces.pop_front();
                self.resync = false;
            }
            match agent.check(job.row) {
                Err(error) => reply::error(out.tail(), &error, job.request.id()),
                Ok(()) if dispatch::answer(agent, job.row, &job.request, out.tail()) => {}
                Ok(()) => {
                    self.head = Some(Head::Waiting(job));
                    self.start_head(now, out);
                }
            }
        }
    }

    /// Starts the head if it waits and may run now.
    fn start_head(&mut self, now: Instant, out: &mut Output) {
        let job = match self.head.take() {
            Some(Head::Waiting(job)) => job,
            other => {
                self.head = other;
                return;
            }
        };
        let stuck = self.abandoned.iter().filter(|line| line.running.is_some()).count();
        if job.row.lane == Lane::Freeze && self.freeze_lane_taken() {
            if let Some((_, stop)) = &self.freezing {
                stop.ask();
            }
            self.head = Some(Head::Waiting(job));
        } else if stuck >= STUCK_LIMIT && job.row.lane != Lane::Freeze {
            let text = format!("{} cannot run now: {stuck} earlier commands have not come to an end", job.row.name);
            reply::error(out.tail(), &Error::new(text), job.request.id());
        } else {
            let (seq, row, stop) = (job.seq, job.row, job.stop.clone());
            self.head = Some(Head::Running { seq, row, since: now, cut: None, stop });
            self.start(job);
        }
    }

    fn start(&mut self, job: Job) {
        if job.row.lane == Lane::Freeze {
            self.freezing = Some((job.seq, job.stop.clone()));
        }
        self.jobs.push(job);
    }

    /// Whether a freeze command runs, or an older one waits to.
    fn freeze_lane_taken(&self) -> bool {
        let waits = |line: &Line| line.queue.iter().any(|job| job.row.lane == Lane::Freeze);
        self.freezing.is_some() || self.abandoned.iter().any(waits)
    }

    /// Starts what abandoned lines may start.
    fn start_abandoned(&mut self) {
        let mut lines = std::mem::take(&mut self.abandoned);
        let mut running = lines.iter().filter(|line| line.running.is_some()).count();
        for line in lines.iter_mut().filter(|line| line.running.is_none()) {
            let may_run = line.queue.front().is_some_and(|job| match job.row.lane {
                Lane::Freeze => self.freezing.is_none(),
                _ => running < STUCK_LIMIT,
            });
            if !may_run {
                continue;
            }
            if let Some(job) = line.queue.pop_front() {
                line.running = Some(job.seq);
                running += 1;
                self.start(job);
            }
        }
        lines.retain(|line| line.running.is_some() || !line.queue.is_empty());
        self.abandoned = lines;
    }

    /// Abandons what stands before the first (or the last) sync in the queue.
    fn abandon_until_sync(&mut self, out: &mut Output, which: usize) {
        let is_sync = |entry: &Entry| matches!(entry, Entry::Call(job) if job.row.lane == Lane::Barrier);
        let syncs = self.queue.iter().enumerate().filter(|(_, entry)| is_sync(entry));
        if let Some((at, _)) = syncs.take(which).last() {
            let passed = self.queue.iter().take(at).filter(|entry| is_sync(entry)).count();
            self.graces.drain(..passed);
            self.ask_to_stop(at);
            self.abandon(at, out);
            self.start_abandoned();
        }
    }

    /// Asks the head and the first `count` entries of the queue to end early, if they can.
    fn ask_to_stop(&self, count: usize) {
        match &self.head {
            Some(Head::Running { stop, .. } | Head::Waiting(Job { stop, .. })) => stop.ask(),
            None => {}
        }
        for entry in self.queue.iter().take(count) {
            if let Entry::Call(job) = entry {
                job.stop.ask();
            }
        }
    }

    /// Drops the replies to the head and to the first `count` entries of the queue. Commands among
    /// them are still run, in their order but apart from what comes later.
    fn abandon(&mut self, count: usize, out: &mut Output) {
        let mut line = Line::default();
        match self.head.take() {
            None => {}
            Some(Head::Running { seq, row, cut, .. }) => {
                tracing::warn!("{} is abandoned: its client no longer waits for the reply", row.name);
                if let Some(cut) = cut {
                    out.push(cut);
                    self.dropped_streams.push(seq);
                }
                line.running = Some(seq);
            }
            Some(Head::Waiting(job)) => line.queue.push_back(job),
        }
        for entry in self.queue.drain(..count) {
            match entry {
                Entry::Reply(bytes) => self.queue_bytes -= bytes.len(),
                Entry::Call(job) => {
                    self.queue_bytes -= job.request.footprint();
                    if !matches!(job.row.lane, Lane::Inline | Lane::Barrier) {
                        tracing::warn!("the reply to {} is dropped: its client no longer waits", job.row.name);
                        line.queue.push_back(job);
                    }
                }
            }
        }
        if line.running.is_some() || !line.queue.is_empty() {
            self.abandoned.push(line);
        }
    }

    /// Too much waits behind a command that does not end: forgets it all, so that the next sync
    /// is found.
    fn shed(&mut self, out: &mut Output) {
        tracing::error!("{} requests behind a stuck command are discarded", self.queue.len());
        self.queue.clear();
        self.queue_bytes = 0;
        self.graces.clear();
        self.abandon(0, out);
    }
}

#[cfg(test)]
mod tests;
