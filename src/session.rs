//! The order of requests and replies on one channel, without any I/O.
//!
//! Replies go out in request order (O8). Commands that may block run on workers, one at a time. A
//! sync is a barrier: it waits a second at most for the commands ahead of it; then they are
//! *abandoned*: they run to their end elsewhere and their replies are dropped for good. One that can
//! be left half done (trim) is asked to stop, also when it was a client's departure that left it
//! alone and others wait for its place.
//!
//! Invariant: once a sync is answered, nothing older than it is ever written.

mod notices;
mod orphans;
mod queue;
#[cfg(any(test, feature = "fake"))]
pub mod stage;
mod unread;

use std::time::{Duration, Instant};

use crate::commands::{Command, Lane, Stop, Undo};
use crate::dispatch::{Done, Piece};
use crate::output::Output;
use crate::protocol::error::{Error, Result};
use crate::protocol::message::Message;
use crate::protocol::reply;
use crate::protocol::request::Request;
use notices::Notices;
use orphans::{Line, Orphans};
use queue::{Entry, Queue};
use unread::Unread;

/// How long a sync waits for the commands ahead of it: it is answered within a second, which is
/// shorter than every known client's time-out and long enough for a pipelined quick command to be answered in order.
pub const GRACE: Duration = Duration::from_millis(900);

/// Abandoned commands and undos that may be on workers at the same time.
pub const STUCK_LIMIT: usize = 8;

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

/// The commands as a session sees them.
pub trait Commands {
    /// The row of this name.
    fn find(&self, name: &str) -> Option<&'static Command>;

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    fn check(&self, row: &Command) -> Result<()>;

    /// Whether a command is refused now and will be after a freeze or a thaw.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    fn check_for_any_state(&self, row: &Command) -> Result<()>;

    /// Runs a command and appends its reply, if that needs no worker and it is allowed.
    fn answer(&self, row: &Command, request: &Request, out: &mut Vec<u8>) -> Answer;
}

/// What became of a request without a worker.
pub enum Answer {
    /// The reply was given. What it tells of can be taken back, if there is something to it.
    Given(Option<Undo>),
    /// Nothing was done.
    NeedsWorker,
}

/// What is owed to the client, and what runs.
#[derive(Default)]
pub struct Session {
    seq: u64,
    /// The oldest unanswered request, when it is on a worker or waits for one.
    head: Option<Head>,
    queue: Queue,
    /// A reset byte came while something was owed: the next sync does not wait.
    resync: bool,
    /// A sync has waited long enough, but the client does not read.
    overdue: bool,
    orphans: Orphans,
    unread: Unread,
    /// Which of the freeze commands is at work.
    freezing: Option<(u64, Stop)>,
    jobs: Vec<Job>,
    dropped_streams: Vec<u64>,
    /// Jobs whose last piece is out, and where that ends; their workers have not reported yet.
    streamed: Vec<(u64, u64)>,
    notices: Notices,
    /// How much the channel gave at once, for the log.
    bytes_read: usize,
}

enum Head {
    Running { seq: u64, row: &'static Command, since: Instant, cut: Option<Vec<u8>>, stop: Stop },
    Waiting { job: Job, since: Instant },
}

impl Session {
    /// A session to which nothing is owed.
    pub fn new() -> Session {
        Session::default()
    }

    /// Whether a reply is owed to the client.
    pub fn owes(&self) -> bool {
        self.head.is_some() || !self.queue.is_empty()
    }

    /// Whether the channel may be read on. When not, it may again after `deadline`.
    pub fn has_room(&self, now: impl FnOnce() -> Instant) -> bool {
        !self.queue.is_full() || self.stuck_at().is_some_and(|at| at <= now())
    }

    /// When `tick` should be called next, or `has_room` changes by itself.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let full = if self.queue.is_full() { self.stuck_at().filter(|at| *at > now) } else { None };
        let grace = self.queue.grace().filter(|_| !self.overdue);
        [grace, full, self.notices.deadline()].into_iter().flatten().min()
    }

    /// Jobs to start now.
    pub fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Streams whose further pieces nobody wants.
    pub fn take_dropped_streams(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.dropped_streams)
    }

    /// How to take back something that a command made and nobody was told of, to be done now.
    /// [`Session::undone`] says that it was.
    pub fn take_undo(&mut self) -> Option<Undo> {
        self.orphans.start_undo()
    }

    /// An undo came to its end.
    pub fn undone(&mut self) {
        self.orphans.undone();
        self.start_orphans();
    }

    /// So many bytes came at once; the log tells them with each message that they complete.
    pub fn has_read(&mut self, bytes: usize) {
        self.bytes_read = bytes;
    }

    /// A message came, or the error reply that it costs. Gives back a message that is done with.
    pub fn message(
        &mut self,
        message: Result<Message>,
        now: Instant,
        commands: &impl Commands,
        out: &mut Output,
    ) -> Option<Message> {
        let mut request = match message.map(Request::parse) {
            Ok(Ok(request)) => request,
            Ok(Err(refused)) => {
                tracing::debug!("read data, count: {}, data: not a request", self.bytes_read);
                self.ready(out, |bytes| reply::error(bytes, &refused.error, refused.id()));
                return None;
            }
            Err(error) => {
                tracing::debug!("read data, count: {}, data: not JSON", self.bytes_read);
                self.ready(out, |bytes| reply::error(bytes, &error, None));
                return None;
            }
        };
        tracing::debug!("read data, count: {}, data: {}", self.bytes_read, request.summary());
        let Some(row) = commands.find(request.execute()) else {
            let error = Error::unknown_command(request.execute());
            self.ready(out, |bytes| reply::error(bytes, &error, request.id()));
            return Some(request.into_message());
        };
        if !row.secret {
            request.mark_plain();
        }
        if !self.owes() {
            if let Answer::Given(undo) = commands.answer(row, &request, out.tail()) {
                self.unread.push(out.end(), undo, out);
                return Some(request.into_message());
            }
        }
        // What is refused for good is not kept waiting. Its refusal is.
        if let Err(refusal) = commands.check_for_any_state(row) {
            self.ready(out, |bytes| reply::error(bytes, &refusal, request.id()));
            return Some(request.into_message());
        }
        let barrier = row.lane == Lane::Barrier && commands.check(row).is_ok();
        if self.queue.is_full() {
            if !barrier {
                let error = self.excess();
                self.ready(out, |bytes| reply::error(bytes, &error, request.id()));
                return Some(request.into_message());
            }
            // What is ahead of it has had its time.
            self.abandon(self.queue.len(), now, commands, out);
        }
        self.seq += 1;
        self.queue.push_call(Job { seq: self.seq, row, request, stop: Stop::default() }, now + GRACE);
        if barrier && self.resync {
            self.abandon_before(self.queue.last_sync(), now, commands, out);
        }
        self.advance(now, commands, out);
        None
    }

    /// The client's reset byte came.
    pub fn reset(&mut self, error: Option<Error>, out: &mut Output) {
        if let Some(error) = error {
            self.ready(out, |bytes| reply::error(bytes, &error, None));
        }
        self.resync = self.owes();
    }

    /// The client went away: nothing is owed any more. What it asked for is still done. `unread` says
    /// that it surely has not read all that was sent.
    pub fn hang_up(&mut self, unread: bool, now: Instant, commands: &impl Commands, out: &mut Output) {
        self.abandon(self.queue.len(), now, commands, out);
        (self.resync, self.overdue) = (false, false);
        for undo in self.unread.hang_up(unread) {
            self.orphans.undo(Some(undo));
        }
        for (seq, end) in std::mem::take(&mut self.streamed) {
            if end > out.sent() || (unread && end == out.sent()) {
                self.orphans.take_over(Line::running(seq));
            }
        }
        self.start_orphans();
        out.clear();
    }

    /// Some of the output was sent.
    pub fn sent(&mut self, now: Instant, commands: &impl Commands, out: &mut Output) {
        self.unread.sent(out);
        if self.overdue {
            self.tick(now, commands, out);
        }
        self.advance(now, commands, out);
    }

    /// Whether it matters if the client has read all that was sent.
    pub fn wonders(&self) -> bool {
        self.unread.is_owed()
    }

    /// The client has read all that was sent, or nobody will ever know.
    pub fn read(&mut self) {
        self.unread.read();
    }

    /// Part of the reply of the running job.
    pub fn piece(&mut self, seq: u64, piece: Piece, now: Instant, commands: &impl Commands, out: &mut Output) {
        match &mut self.head {
            Some(Head::Running { seq: running, cut, .. }) if *running == seq => {
                out.push(piece.bytes);
                let last = piece.cut.is_none();
                *cut = piece.cut;
                if last {
                    self.head = None;
                    self.streamed.push((seq, out.end()));
                    self.advance(now, commands, out);
                }
            }
            _ => {}
        }
    }

    /// A job ended and its worker is free.
    pub fn done(&mut self, seq: u64, done: Done, now: Instant, commands: &impl Commands, out: &mut Output) {
        if self.freezing.as_ref().is_some_and(|(freezing, _)| *freezing == seq) {
            self.freezing = None;
        }
        match &self.head {
            Some(Head::Running { seq: running, cut, .. }) if *running == seq => {
                // A stream whose worker died is closed as far as it came.
                out.push(cut.clone().unwrap_or(done.reply));
                self.unread.push(out.end(), done.undo, out);
                self.head = None;
            }
            _ if self.orphans.done(seq) => self.orphans.undo(done.undo),
            // A stream whose last piece is out.
            _ => {
                if let Some(at) = self.streamed.iter().position(|(streamed, _)| *streamed == seq) {
                    let (_, end) = self.streamed.swap_remove(at);
                    self.unread.push(end, done.undo, out);
                }
            }
        }
        self.start_orphans();
        self.advance(now, commands, out);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant, commands: &impl Commands, out: &mut Output) {
        self.notices.tick(now);
        if self.queue.grace().is_some_and(|grace| grace <= now) {
            // A client that does not read could not be answered anyway.
            self.overdue = out.is_high();
            if !self.overdue {
                self.queue.end_grace();
                self.abandon_before(self.queue.first_sync(), now, commands, out);
                self.advance(now, commands, out);
            }
        }
    }

    /// When the oldest unanswered request counts as stuck.
    fn stuck_at(&self) -> Option<Instant> {
        match &self.head {
            Some(Head::Running { since, .. } | Head::Waiting { since, .. }) => Some(*since + GRACE),
            None => None,
        }
    }

    /// Writes an error reply in its place.
    fn ready(&mut self, out: &mut Output, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.owes() {
            return write(out.tail());
        }
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.queue.push_reply(bytes);
    }

    /// The reply to one request too many.
    fn excess(&self) -> Error {
        let head = match &self.head {
            Some(Head::Running { row, .. } | Head::Waiting { job: Job { row, .. }, .. }) => row.name,
            None => "another one",
        };
        Error::new(format!("too many requests wait for {head}, which has not come to an end: this one is not run"))
    }

    /// Answers what can be answered, up to the first request that needs a worker; and no more than
    /// the client reads.
    fn advance(&mut self, now: Instant, commands: &impl Commands, out: &mut Output) {
        self.start_head(now, out);
        while self.head.is_none() {
            if self.queue.is_empty() {
                self.resync = false;
                return;
            }
            if out.is_high() && !self.queue.is_due() {
                return;
            }
            let job = match self.queue.pop() {
                None => return,
                Some(Entry::Reply(bytes)) => {
                    out.push(bytes);
                    continue;
                }
                Some(Entry::Excess(_)) => {
                    reply::error(out.tail(), &Error::new("too many requests waited: this one was not run"), None);
                    continue;
                }
                Some(Entry::Call(job)) => job,
            };
            if job.row.lane == Lane::Barrier {
                self.resync = false;
            }
            if let Answer::Given(undo) = commands.answer(job.row, &job.request, out.tail()) {
                self.unread.push(out.end(), undo, out);
            } else if let Err(error) = commands.check(job.row) {
                reply::error(out.tail(), &error, job.request.id());
            } else {
                self.head = Some(Head::Waiting { job, since: now });
                self.start_head(now, out);
            }
        }
    }

    /// Starts the head if it waits and may run now.
    fn start_head(&mut self, now: Instant, out: &mut Output) {
        let (job, waiting_since) = match self.head.take() {
            Some(Head::Waiting { job, since }) => (job, since),
            other => {
                self.head = other;
                return;
            }
        };
        let stuck = self.orphans.at_work();
        if job.row.lane == Lane::Freeze && self.freeze_lane_taken() {
            if let Some((_, stop)) = &self.freezing {
                stop.ask();
            }
            self.head = Some(Head::Waiting { job, since: waiting_since });
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
        self.freezing.is_some() || self.orphans.freeze_waits()
    }

    /// Starts what abandoned lines may start.
    fn start_orphans(&mut self) {
        while let Some(job) = self.orphans.start(self.freezing.is_none()) {
            self.start(job);
        }
    }

    /// Abandons what stands before a sync, unless that is refused by now.
    fn abandon_before(
        &mut self,
        sync: Option<(usize, &'static Command)>,
        now: Instant,
        commands: &impl Commands,
        out: &mut Output,
    ) {
        if let Some((at, _)) = sync.filter(|(_, row)| commands.check(row).is_ok()) {
            self.ask_to_stop(at);
            self.abandon(at, now, commands, out);
            self.start_orphans();
        }
    }

    /// Asks the head and the first `count` entries of the queue to end early, if they can.
    fn ask_to_stop(&self, count: usize) {
        match &self.head {
            Some(Head::Running { stop, .. } | Head::Waiting { job: Job { stop, .. }, .. }) => stop.ask(),
            None => {}
        }
        self.queue.calls(count).for_each(|job| job.stop.ask());
    }

    /// Drops the replies to the head and to the first `count` entries of the queue. Commands among
    /// them that are still allowed are run, in their order but apart from what comes later.
    fn abandon(&mut self, count: usize, now: Instant, commands: &impl Commands, out: &mut Output) {
        let mut line = Line::default();
        let mut names = Vec::new();
        let mut leave = |job: Job, line: &mut Line| {
            if !matches!(job.row.lane, Lane::Inline | Lane::Barrier) {
                names.push(job.row.name);
                if commands.check(job.row).is_ok() {
                    line.queue.push_back(job);
                }
            }
        };
        let running = match self.head.take() {
            None => None,
            Some(Head::Running { seq, row, cut, .. }) => {
                if let Some(cut) = cut {
                    out.push(cut);
                    self.dropped_streams.push(seq);
                }
                line.running = Some(seq);
                Some(row.name)
            }
            Some(Head::Waiting { job, .. }) => {
                leave(job, &mut line);
                None
            }
        };
        for _ in 0..count {
            if let Some(Entry::Call(job)) = self.queue.take_first() {
                leave(job, &mut line);
            }
        }
        if let Some(running) = running {
            names.insert(0, running);
        }
        if !names.is_empty() {
            self.notices.warn(now, || {
                let which = notices::names(&names);
                format!("commands are abandoned, since their client no longer waits for the replies: {which}")
            });
        }
        let dropped = self.orphans.take_over(line);
        if dropped > 0 {
            self.notices.warn(now, || format!("{dropped} abandoned commands will not run: too many wait"));
        }
    }
}

#[cfg(test)]
mod tests;
