//! The worker's side of the loop: runs one job and reports.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::signals::Signal;
use crate::agent::Agent;
use crate::commands::Undo;
use crate::config::{Config, ConfigError};
use crate::dispatch::{self, Done, Piece};
use crate::protocol::message::Message;
use crate::session::Job;

/// What workers, and the task that waits for signals, tell the loop.
pub(super) enum Report {
    /// A reply of several pieces begins.
    Stream(u64, mpsc::Receiver<Piece>),
    /// A job ended; its request's buffers come back.
    Done(u64, Done, Message),
    /// What an unheard command made was taken back.
    Undone,
    /// Thawed unasked.
    Thawed,
    /// The settings were read again.
    Reloaded(Box<Result<Config, ConfigError>>),
    /// A signal came.
    Signal(Signal),
}

/// Who does something that may take its time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Worker,
    Loop,
}

/// Has a worker do something.
pub(super) fn start(job: impl FnOnce(Place) + Send + 'static) {
    offer(job, |job| catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(job))).is_ok());
}

/// Has the thread that stands by for them freeze or thaw something, or say how that stands.
pub(super) fn start_freezing(agent: &Agent, job: impl FnOnce(Place) + Send + 'static) {
    offer(job, |job| agent.freezer.standby().run(job));
}

/// Hands a job to another thread. When the system has none to spare, the loop does it itself: a
/// thaw must not fail for that, and tokio would end the agent.
fn offer(job: impl FnOnce(Place) + Send + 'static, hand_over: impl FnOnce(Box<dyn FnOnce() + Send>) -> bool) {
    let waiting = Arc::new(Mutex::new(Some(job)));
    let of_worker = waiting.clone();
    let take = |job: &Mutex<Option<_>>| job.lock().unwrap_or_else(PoisonError::into_inner).take();
    let worker = move || {
        if let Some(job) = take(&of_worker) {
            job(Place::Worker);
        }
    };
    if !hand_over(Box::new(worker)) {
        if let Some(job) = take(&waiting) {
            job(Place::Loop);
        }
    }
}

/// Runs a job. A reply of several pieces goes out while it is made, but whole when the loop, which
/// would have to send them, makes it itself.
pub(super) fn work(agent: &Agent, mut job: Job, reporter: &mpsc::UnboundedSender<Report>, place: Place) {
    let mut pieces: Option<mpsc::Sender<Piece>> = None;
    let mut whole = Vec::new();
    let mut done = dispatch::work(agent, job.row, &job.request, &job.stop, |piece| {
        if place == Place::Loop {
            whole.extend_from_slice(&piece.bytes);
            return true;
        }
        let sender = pieces.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(2);
            let _ = reporter.send(Report::Stream(job.seq, receiver));
            sender
        });
        sender.blocking_send(piece).is_ok()
    });
    drop(pieces);
    if !whole.is_empty() {
        done.reply = whole;
    }
    // Here, since it may be megabytes.
    job.request.wipe();
    let _ = reporter.send(Report::Done(job.seq, done, job.request.into_message()));
}

/// Takes back what an unheard command made.
pub(super) fn take_back(agent: &Agent, undo: Undo, reporter: &mpsc::UnboundedSender<Report>) {
    // The panic is in the log.
    let _ = catch_unwind(AssertUnwindSafe(|| undo(agent)));
    let _ = reporter.send(Report::Undone);
}
