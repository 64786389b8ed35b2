//! The worker's side of the loop: runs one job and reports.

use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::protocol::message::Message;
use crate::session::{Done, Job, Piece};

/// What workers tell the loop.
pub(super) enum Report {
    /// A reply of several pieces begins.
    Stream(u64, mpsc::Receiver<Piece>),
    /// A job ended; its request's buffers come back.
    Done(u64, Done, Message),
    /// Thawed unasked.
    Thawed,
}

/// Runs a job on a worker thread.
pub(super) fn work(agent: &Agent, job: Job, reporter: &mpsc::UnboundedSender<Report>) {
    let mut pieces: Option<mpsc::Sender<Piece>> = None;
    let done = agent.work(job.row, &job.request, |piece| {
        let sender = pieces.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(2);
            let _ = reporter.send(Report::Stream(job.seq, receiver));
            sender
        });
        sender.blocking_send(piece).is_ok()
    });
    drop(pieces);
    let _ = reporter.send(Report::Done(job.seq, done, job.request.into_message()));
}
