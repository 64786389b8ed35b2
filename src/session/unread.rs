//! Replies that the client may not have read, as far as what they tell of can be taken back.

use std::collections::VecDeque;

use crate::commands::Undo;
use crate::output::Output;

/// Undos of replies, by where in the output these end.
#[derive(Default)]
pub(super) struct Unread {
    unsent: VecDeque<(u64, Undo)>,
    /// The last reply of all that were sent, if there is something to it.
    last: Option<(u64, Undo)>,
}

impl Unread {
    /// The reply that ends there in the output may tell of something.
    pub(super) fn push(&mut self, end: u64, undo: Option<Undo>, out: &Output) {
        if let Some(undo) = undo {
            let at = self.unsent.partition_point(|(other, _)| *other <= end);
            self.unsent.insert(at, (end, undo));
            self.sent(out);
        }
    }

    /// Some of the output was sent.
    pub(super) fn sent(&mut self, out: &Output) {
        while self.unsent.front().is_some_and(|(end, _)| *end <= out.sent()) {
            let sent =
                self.unsent.pop_front().filter(|(end, _)| self.last.as_ref().is_none_or(|(last, _)| last <= end));
            self.last = sent.or(self.last.take());
        }
        // Who knows whether the one before a later reply was read.
        self.last.take_if(|(end, _)| *end < out.sent());
    }

    /// Whether there is a last reply that tells of something.
    pub(super) fn is_owed(&self) -> bool {
        self.last.is_some()
    }

    /// The client has read all that was sent.
    pub(super) fn read(&mut self) {
        self.last = None;
    }

    /// The client went away; `unread` if it surely left something unread, which then is the end.
    pub(super) fn hang_up(&mut self, unread: bool) -> impl Iterator<Item = Undo> {
        let last = self.last.take().filter(|_| unread);
        last.into_iter().chain(std::mem::take(&mut self.unsent)).map(|(_, undo)| undo)
    }
}
