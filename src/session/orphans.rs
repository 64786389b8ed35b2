//! What nobody waits for any more: abandoned commands, and what they made.
//!
//! Invariant: of what hangs here, commands and undos together, a bounded number has a thread, and
//! of what has not begun a bounded number of bytes is kept.

use std::collections::VecDeque;

use super::{Job, STUCK_LIMIT, queue};
use crate::commands::{Lane, Undo};

/// Undos that may be on workers at the same time. Fewer than make a command be refused: a client
/// that leaves many handles behind costs the next one nothing.
const UNDO_LIMIT: usize = STUCK_LIMIT / 2;

#[derive(Default)]
pub(super) struct Orphans {
    /// Each with its own order; the oldest first.
    lines: Vec<Line>,
    /// Of the requests that have not begun: how many, and their bytes.
    waiting: usize,
    freezes_waiting: usize,
    bytes: usize,
    undos: VecDeque<Undo>,
    /// Undos that are on workers.
    undoing: usize,
}

/// What one client left behind at one time.
#[derive(Default)]
pub(super) struct Line {
    pub(super) running: Option<u64>,
    pub(super) queue: VecDeque<Job>,
}

impl Line {
    /// One that consists of a command with a worker.
    pub(super) fn running(seq: u64) -> Line {
        Line { running: Some(seq), ..Line::default() }
    }
}

impl Orphans {
    /// Takes a line over. Returns how many requests had to give way to it.
    pub(super) fn take_over(&mut self, line: Line) -> usize {
        if line.running.is_none() && line.queue.is_empty() {
            return 0;
        }
        self.waiting += line.queue.len();
        self.freezes_waiting += line.queue.iter().filter(|job| job.row.lane == Lane::Freeze).count();
        self.bytes += line.queue.iter().map(|job| job.request.footprint()).sum::<usize>();
        self.lines.push(line);
        let mut dropped = 0;
        while self.waiting > queue::LIMIT || self.bytes > queue::BYTES {
            let Some(oldest) = self.lines.iter_mut().find(|line| !line.queue.is_empty()) else { break };
            let Some(job) = oldest.queue.pop_front() else { break };
            self.forget(&job);
            dropped += 1;
        }
        self.lines.retain(|line| line.running.is_some() || !line.queue.is_empty());
        dropped
    }

    /// It waits no longer.
    fn forget(&mut self, job: &Job) {
        self.waiting -= 1;
        self.freezes_waiting -= usize::from(job.row.lane == Lane::Freeze);
        self.bytes -= job.request.footprint();
    }

    /// How many have a worker: what hangs is among these.
    pub(super) fn at_work(&self) -> usize {
        self.undoing + self.lines.iter().filter(|line| line.running.is_some()).count()
    }

    /// Whether a freeze command is among those that wait.
    pub(super) fn freeze_waits(&self) -> bool {
        self.freezes_waiting > 0
    }

    /// Notes the end of a command; false if it was none of these.
    pub(super) fn done(&mut self, seq: u64) -> bool {
        match self.lines.iter_mut().find(|line| line.running == Some(seq)) {
            None => false,
            Some(line) => {
                line.running = None;
                true
            }
        }
    }

    /// The next one that may start, if any; a freeze command only when its lane is free.
    pub(super) fn start(&mut self, freeze_lane_free: bool) -> Option<Job> {
        let room = self.at_work() < STUCK_LIMIT;
        let may_start = |job: &Job| if job.row.lane == Lane::Freeze { freeze_lane_free } else { room };
        let line =
            self.lines.iter_mut().find(|line| line.running.is_none() && line.queue.front().is_some_and(may_start));
        let job = line.and_then(|line| {
            let job = line.queue.pop_front()?;
            line.running = Some(job.seq);
            Some(job)
        });
        match &job {
            Some(job) => self.forget(job),
            None => self.lines.retain(|line| line.running.is_some() || !line.queue.is_empty()),
        }
        job
    }

    /// Takes over what an unheard command made.
    pub(super) fn undo(&mut self, undo: Option<Undo>) {
        self.undos.extend(undo);
    }

    /// The next undo that may start.
    pub(super) fn start_undo(&mut self) -> Option<Undo> {
        if self.undoing >= UNDO_LIMIT || self.at_work() >= STUCK_LIMIT {
            return None;
        }
        let undo = self.undos.pop_front()?;
        self.undoing += 1;
        Some(undo)
    }

    /// An undo came to its end.
    pub(super) fn undone(&mut self) {
        self.undoing -= 1;
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting, self.bytes)
    }
}
