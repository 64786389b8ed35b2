//! What waits for its turn: requests, and replies that are ready before theirs.
//!
//! Invariant: every request has exactly one place here until it is taken out, and memory is bounded
//! whatever a client sends behind a command that does not end.

use std::collections::VecDeque;
use std::time::Instant;

use super::Job;
use crate::commands::{Command, Lane};

/// Requests that may wait before the channel is no longer read.
pub(super) const LIMIT: usize = 4096;

/// Bytes of requests and ready replies that may wait.
pub(super) const BYTES: usize = 64 << 20;

pub(super) enum Entry {
    Reply(Vec<u8>),
    Call(Job),
    /// So many requests that are all refused in the same words.
    Excess(u64),
}

#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// When the syncs stop waiting, oldest first; `None` for one that did.
    graces: VecDeque<Option<Instant>>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= LIMIT || self.bytes >= BYTES
    }

    /// Adds a reply in its place. With twice as much waiting as there should be, it gives way to
    /// [`Entry::Excess`], which takes no memory.
    pub(super) fn push_reply(&mut self, reply: Vec<u8>) {
        if self.entries.len() < 2 * LIMIT && self.bytes < 2 * BYTES {
            self.bytes += reply.capacity();
            self.entries.push_back(Entry::Reply(reply));
        } else if let Some(Entry::Excess(count)) = self.entries.back_mut() {
            *count += 1;
        } else {
            self.entries.push_back(Entry::Excess(1));
        }
    }

    /// Adds a request. If it is a sync, it waits until `grace` at most.
    pub(super) fn push_call(&mut self, job: Job, grace: Instant) {
        if job.row.lane == Lane::Barrier {
            self.graces.push_back(Some(grace));
        }
        self.bytes += job.request.footprint();
        self.entries.push_back(Entry::Call(job));
    }

    /// Takes the oldest request or reply.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        if let Some(Entry::Excess(count @ 2..)) = self.entries.front_mut() {
            *count -= 1;
            return Some(Entry::Excess(1));
        }
        self.take_first()
    }

    /// Takes the oldest entry, which may stand for many requests.
    pub(super) fn take_first(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        match &entry {
            Entry::Reply(reply) => self.bytes -= reply.capacity(),
            Entry::Call(job) => {
                self.bytes -= job.request.footprint();
                if job.row.lane == Lane::Barrier {
                    self.graces.pop_front();
                }
            }
            Entry::Excess(_) => {}
        }
        Some(entry)
    }

    /// When the oldest sync stops waiting.
    pub(super) fn grace(&self) -> Option<Instant> {
        self.graces.front().copied().flatten()
    }

    /// The oldest sync waits no longer.
    pub(super) fn end_grace(&mut self) {
        if let Some(grace) = self.graces.front_mut() {
            *grace = None;
        }
    }

    /// Whether the oldest entry is a sync that waits no longer.
    pub(super) fn is_due(&self) -> bool {
        self.graces.front() == Some(&None) && self.entries.front().is_some_and(|entry| sync(entry).is_some())
    }

    /// The first sync, and how many stand before it.
    pub(super) fn first_sync(&self) -> Option<(usize, &'static Command)> {
        self.entries.iter().enumerate().find_map(|(at, entry)| Some((at, sync(entry)?)))
    }

    /// The last sync, and how many stand before it.
    pub(super) fn last_sync(&self) -> Option<(usize, &'static Command)> {
        self.entries.iter().enumerate().rev().find_map(|(at, entry)| Some((at, sync(entry)?)))
    }

    /// The requests among the first `count`.
    pub(super) fn calls(&self, count: usize) -> impl Iterator<Item = &Job> {
        self.entries.iter().take(count).filter_map(|entry| match entry {
            Entry::Call(job) => Some(job),
            _ => None,
        })
    }
}

fn sync(entry: &Entry) -> Option<&'static Command> {
    match entry {
        Entry::Call(job) if job.row.lane == Lane::Barrier => Some(job.row),
        _ => None,
    }
}
