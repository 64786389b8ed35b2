//! The loop: channel, session, workers, timers and signals on one thread.
//!
//! Invariant: nothing on this thread blocks. Whatever may block is on a worker, so the end of the
//! agent, timers and a client that leaves are always noticed.

mod attend;
mod control;
mod end;
mod reopen;
mod signals;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use zeroize::Zeroize;

use crate::agent::Agent;
use crate::channel::{Endpoint, Input, Link};
use crate::commands::Lane;
use crate::config::Config;
use crate::daemon::Lifecycle;
use crate::dispatch::Piece;
use crate::host::linux::malloc;
use crate::log::LogControl;
use crate::output::Output;
use crate::protocol::error::os_reason;
use crate::protocol::frame::{Event, Framer, Limits};
use crate::session::{STUCK_LIMIT, Session};

use control::Reloading;
pub use end::leave;

use attend::Attendance;
use reopen::Reopen;
use worker::{Report, start, start_freezing, take_back, work};

/// Bytes read at a time: enough for a usual request, and for one of those that move files.
const READ_USUAL: usize = 4 << 10;
const READ_LARGE: usize = 128 << 10;

/// Reads in a row before signals and timers are looked at again.
const BURST: usize = 4;

/// Buffers above this are given back to the system when nothing came for `KEEP_BUFFERS`.
const USUAL_BUFFER: usize = 64 << 10;
const KEEP_BUFFERS: Duration = Duration::from_millis(100);

/// When a thaw that failed is tried again.
const THAW_AGAIN: Duration = Duration::from_secs(10);

/// How long an agent that is told to end waits for a thaw.
const END_FROZEN: Duration = Duration::from_secs(10);

/// Serves until told to end; the result is the exit status.
pub fn run(agent: Agent, channel: Option<Endpoint>, log: LogControl, mut lifecycle: Lifecycle) -> u8 {
    let agent = Arc::new(agent);
    if let Err(error) = log.start_writer() {
        tracing::warn!("the log has no thread of its own: {}", os_reason(&error));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(STUCK_LIMIT + 8)
        .thread_keep_alive(Duration::from_secs(2))
        .on_thread_park(malloc::resting)
        .build();
    let refused = |error: &io::Error| {
        tracing::error!("failed to start the event loop: {}", os_reason(error));
        1
    };
    let status = end::run(&agent, &log, || match &runtime {
        Ok(runtime) => runtime.block_on(async {
            match Server::new(agent.clone(), log.clone(), &mut lifecycle) {
                Ok(server) => server.run(channel).await,
                Err(error) => refused(&error),
            }
        }),
        Err(error) => refused(error),
    });
    // Workers that hang in the system must not keep us.
    runtime.map(tokio::runtime::Runtime::shutdown_background).unwrap_or_default();
    status
}

struct Server<'a> {
    agent: Arc<Agent>,
    log: LogControl,
    lifecycle: &'a mut Lifecycle,
    framer: Framer,
    session: Session,
    out: Output,
    input: Vec<u8>,
    /// The part of `input` that is not looked at yet.
    unread: std::ops::Range<usize>,
    /// So much of `input` was read into since it was wiped.
    used: usize,
    /// The client sends no more; it is dropped when all is answered.
    half_closed: bool,
    reports: mpsc::UnboundedReceiver<Report>,
    reporter: mpsc::UnboundedSender<Report>,
    stream: Option<(u64, mpsc::Receiver<Piece>)>,
    /// When large buffers are given back.
    shrink: Option<Instant>,
    /// When we thaw what nobody thawed.
    thaw_at: Option<Instant>,
    /// When we end although something is frozen.
    end_at: Option<Instant>,
    thawing: bool,
    /// When a thaw that could not thaw all is made again.
    thaw_again: Option<Instant>,
    /// Memory is asked for so that no disk is waited for.
    hurried: bool,
    terminated: bool,
    reloading: Reloading,
    attendance: Attendance,
}

/// Why the loop ended.
enum End {
    Status(u8),
    Lost(io::Error),
}

impl<'a> Server<'a> {
    #[inline(never)] // Its temporaries would lie on the stack for the agent's whole life.
    fn new(agent: Arc<Agent>, log: LogControl, lifecycle: &'a mut Lifecycle) -> io::Result<Server<'a>> {
        let (reporter, reports) = mpsc::unbounded_channel();
        signals::listen(&reporter)?;
        signals::reap_programs(&agent)?;
        Ok(Server {
            framer: Framer::new(limits(&agent.config())),
            agent,
            log,
            lifecycle,
            session: Session::new(),
            out: Output::default(),
            input: vec![0; READ_USUAL],
            unread: 0..0,
            used: 0,
            half_closed: false,
            reports,
            reporter,
            stream: None,
            shrink: None,
            thaw_at: None,
            end_at: None,
            thawing: false,
            thaw_again: None,
            hurried: false,
            terminated: false,
            reloading: Reloading::default(),
            attendance: Attendance::default(),
        })
    }

    async fn run(mut self, channel: Option<Endpoint>) -> u8 {
        self.watch_freeze();
        self.settle_hooks();
        self.attend();
        self.lifecycle.ready();
        self.shrink = Some(Instant::now() + KEEP_BUFFERS);
        let mut link = match channel.map(Link::new).transpose() {
            Ok(link) => link,
            Err(error) => {
                tracing::error!("failed to watch the channel: {}", os_reason(&error));
                return 1;
            }
        };
        let mut reopen = Reopen::new(&self.agent.config());
        loop {
            let Some(mut open) = link.take() else {
                match self.await_channel(&mut reopen).await {
                    Ok(opened) => link = Some(opened),
                    Err(status) => return status,
                }
                continue;
            };
            match self.serve(&mut open).await {
                End::Status(status) => return status,
                End::Lost(error) => {
                    tracing::error!("error reading channel: {}", os_reason(&error));
                    self.forget_client(false);
                    if !self.agent.config().retry_path {
                        return 0;
                    }
                    reopen.lost();
                }
            }
        }
    }

    /// Serves one open channel to its end.
    async fn serve(&mut self, link: &mut Link) -> End {
        let agent = self.agent.clone();
        link.admit_by(move |cid| agent.config().vsock.admits(cid));
        loop {
            let more = match self.pump(link) {
                Ok(more) => more,
                Err(error) => return End::Lost(error),
            };
            self.watch_freeze();
            if self.end_at.is_some() && !self.agent.freezer.is_busy() && self.out.is_empty() {
                return End::Status(0);
            }
            let want_read = !link.is_readable() && self.may_read();
            let want_write = !self.out.is_empty();
            let want_piece = self.stream.is_some() && !self.out.is_high();
            let deadline = self.deadline();
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    if let Some(status) = self.report(report, 0) {
                        return End::Status(status);
                    }
                }
                piece = next_piece(&mut self.stream), if want_piece => self.piece(piece),
                // Signals reach us through the runtime, which has its turn when we give way: input
                // that never runs dry would keep both out.
                () = tokio::task::yield_now(), if more => {}
                result = link.wait(want_read, want_write) => {
                    if let Err(error) = result {
                        return End::Lost(error);
                    }
                    self.host_spoke();
                }
                () = sleep_until(deadline), if deadline.is_some() => {
                    if let Some(status) = self.tick() {
                        return End::Status(status);
                    }
                }
            }
        }
    }

    /// Until the channel is there: everything but reading.
    async fn await_channel(&mut self, reopen: &mut Reopen) -> Result<Link, u8> {
        loop {
            self.watch_freeze();
            let deadline = self.deadline();
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    let status = if reopen.has_worked() { 0 } else { 1 };
                    if let Some(status) = self.report(report, status) {
                        return Err(status);
                    }
                }
                opened = reopen.next() => match opened {
                    Some(link) => return Ok(link),
                    None => return Err(1),
                },
                () = sleep_until(deadline), if deadline.is_some() => {
                    if let Some(status) = self.tick() {
                        return Err(status);
                    }
                }
            }
        }
    }

    fn may_read(&mut self) -> bool {
        !self.half_closed && !self.out.is_high() && self.session.has_room(Instant::now)
    }

    /// Reads, answers and writes until there is nothing to do without waiting. True when there is
    /// more to do, but signals and timers should have their turn.
    fn pump(&mut self, link: &mut Link) -> io::Result<bool> {
        if self.session.wonders() && link.all_is_read() {
            self.session.read();
        }
        for _ in 0..BURST {
            self.parse();
            self.start_jobs();
            let more = self.flush(link);
            self.start_jobs();
            if self.half_closed && (!self.session.owes() && self.out.is_empty() || link.client_is_gone()) {
                self.drop_client(link);
            }
            if !self.unread.is_empty() && self.may_read() {
                continue;
            }
            if !link.is_readable() || !self.unread.is_empty() || !self.may_read() {
                return Ok(more);
            }
            match link.read(&mut self.input)? {
                Input::Nothing => {}
                Input::Bytes(count) => {
                    if count == self.input.len() && count < READ_LARGE {
                        let mut larger = vec![0; READ_LARGE];
                        larger[..count].copy_from_slice(&self.input);
                        self.input.zeroize();
                        self.input = larger;
                        self.shrink = Some(Instant::now() + KEEP_BUFFERS);
                    }
                    self.session.has_read(count);
                    self.unread = 0..count;
                    self.used = self.used.max(count);
                }
                Input::End(end) => self.end(&end, link)?,
            }
        }
        Ok(true)
    }

    /// The other side said that it is done.
    fn end(&mut self, end: &crate::channel::End, link: &mut Link) -> io::Result<()> {
        use crate::channel::End;
        match end {
            End::HostClosed => self.forget_client(false),
            End::HalfClosed => {
                tracing::debug!("received EOF");
                self.framer.reset();
                self.half_closed = true;
            }
            End::Gone => self.drop_client(link),
            End::LineLost => return Err(io::Error::other("the serial line was hung up")),
        }
        Ok(())
    }

    /// Takes the messages out of what was read, as long as there is room for their replies.
    fn parse(&mut self) {
        if self.unread.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut rest = &self.input[self.unread.clone()];
        while !self.out.is_high() && self.session.has_room(|| now) {
            match self.framer.next(&mut rest) {
                None => break,
                Some(Event::Reset(error)) => self.session.reset(error, &mut self.out),
                Some(Event::Message(message)) => {
                    if let Some(done) = self.session.message(message, now, &*self.agent, &mut self.out) {
                        self.framer.recycle(done);
                    }
                }
            }
        }
        self.unread.start = self.unread.end - rest.len();
        if self.unread.is_empty() && !self.framer.is_pending() {
            self.wipe_input();
        }
        if self.framer.footprint() > USUAL_BUFFER {
            self.shrink = Some(now + KEEP_BUFFERS);
        }
    }

    /// There may have been a password or a file in it.
    fn wipe_input(&mut self) {
        self.input[..std::mem::take(&mut self.used)].zeroize();
    }

    fn start_jobs(&mut self) {
        for job in self.session.take_jobs() {
            let (agent, reporter) = (self.agent.clone(), self.reporter.clone());
            let freezing = job.row.lane == Lane::Freeze;
            let work = move |place| work(&agent, job, &reporter, place);
            if freezing {
                start_freezing(&self.agent, work);
            } else {
                self.hurry(false);
                start(work);
            }
        }
        for dropped in self.session.take_dropped_streams() {
            self.stream = self.stream.take().filter(|(seq, _)| *seq != dropped);
        }
        while let Some(undo) = self.session.take_undo() {
            let (agent, reporter) = (self.agent.clone(), self.reporter.clone());
            start(move |_| take_back(&agent, undo, &reporter));
        }
    }

    /// Writes what can be written. True when there is more that may be.
    fn flush(&mut self, link: &mut Link) -> bool {
        for _ in 0..BURST {
            if self.out.is_empty() {
                return false;
            }
            let result = self.out.write_with(|data| link.write(data), drop);
            match result {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                    // A client that left; a lost device shows at the next read.
                    tracing::debug!("error sending data: {}", os_reason(&e));
                    self.drop_client(link);
                    return false;
                }
                // There may be room for further replies now.
                _ => self.session.sent(Instant::now(), &*self.agent, &mut self.out),
            }
            if result.is_err() {
                return false;
            }
            if !link.tells_what_is_read() {
                self.session.read();
            }
        }
        !self.out.is_empty()
    }

    fn drop_client(&mut self, link: &mut Link) {
        self.forget_client(link.left_unread());
        link.drop_client();
    }

    /// Nothing is owed to a client that is gone, and nothing of it reaches the next one. `unread` is
    /// whether it surely left replies unread that were sent.
    fn forget_client(&mut self, unread: bool) {
        self.framer.reset();
        self.unread = 0..0;
        self.wipe_input();
        self.half_closed = false;
        self.session.hang_up(unread, Instant::now(), &*self.agent, &mut self.out);
        self.start_jobs();
    }

    /// Acts on a report. `status` is the exit status of an agent that is told to end now; it is
    /// given back if it is to.
    fn report(&mut self, report: Report, status: u8) -> Option<u8> {
        let now = Instant::now();
        match report {
            Report::Signal(signal) => return self.signal(signal, status),
            Report::Reloaded(config) => self.reloaded(*config),
            Report::Stream(seq, pieces) => self.stream = Some((seq, pieces)),
            Report::Done(seq, done, message) => {
                self.framer.recycle(message);
                if self.framer.footprint() > USUAL_BUFFER {
                    self.shrink = Some(now + KEEP_BUFFERS);
                }
                self.drain_stream(seq);
                self.session.done(seq, done, now, &*self.agent, &mut self.out);
            }
            Report::Undone => self.session.undone(),
            Report::Thawed => {
                self.thawing = false;
                // If it could not be done, not again at once.
                self.thaw_again = self.agent.freezer.is_frozen().then(|| now + THAW_AGAIN);
            }
        }
        self.start_jobs();
        None
    }

    /// Takes the pieces of a stream whose job has ended; they are all there.
    fn drain_stream(&mut self, seq: u64) {
        while let Some((streaming, pieces)) = &mut self.stream {
            if *streaming != seq {
                return;
            }
            let piece = pieces.try_recv().ok();
            self.piece(piece);
        }
    }

    fn piece(&mut self, piece: Option<Piece>) {
        let Some((seq, _)) = &self.stream else { return };
        let seq = *seq;
        match piece {
            Some(piece) => {
                if piece.cut.is_none() {
                    self.stream = None;
                    // Its pieces were megabytes.
                    self.shrink = Some(Instant::now() + KEEP_BUFFERS);
                }
                self.session.piece(seq, piece, Instant::now(), &*self.agent, &mut self.out);
            }
            None => self.stream = None,
        }
    }

    /// When `tick` has something to do.
    fn deadline(&self) -> Option<Instant> {
        let timers = [self.session.deadline(Instant::now()), self.shrink, self.thaw_at, self.end_at];
        timers.into_iter().flatten().min()
    }

    fn tick(&mut self) -> Option<u8> {
        let now = Instant::now();
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        self.session.tick(now, &*self.agent, &mut self.out);
        self.start_jobs();
        if due(self.shrink) {
            self.shrink = None;
            self.framer.shrink();
            if self.unread.is_empty() {
                self.wipe_input();
                self.input = vec![0; READ_USUAL];
            }
            malloc::settle_at_rest();
        }
        if due(self.thaw_at) && !self.thawing {
            self.thaw_unasked("the time limit has passed");
        }
        if due(self.end_at) {
            self.end_at = None;
            return Some(0);
        }
        None
    }
}

/// Bounds on a message, of which the operator may set one.
fn limits(config: &Config) -> Limits {
    Limits { bytes: config.limits.request_bytes, ..Limits::default() }
}

async fn next_piece(stream: &mut Option<(u64, mpsc::Receiver<Piece>)>) -> Option<Piece> {
    match stream {
        Some((_, pieces)) => pieces.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
