//! Freezes that were given up: what they still get done is taken back, and the marker stays until then.
//!
//! A process that is killed in the middle of `FIFREEZE` ends only when that has ended; what it froze
//! stays frozen, and the next agent has to know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::state::{State, remove_if_there};

/// Counts the calls that nobody waits for any more. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<Mutex<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    /// A call may report its end before it was given up: below zero for that moment.
    calls: isize,
    /// The marker is needed by a freeze of now.
    marked: bool,
}

impl Late {
    pub(super) fn new(marked: bool) -> Late {
        Late(Arc::new(Mutex::new(Pending { calls: 0, marked })))
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits: who holds the lock may be at the disk.
    pub(super) fn is_pending(&self) -> bool {
        self.0.try_lock().map_or(true, |pending| pending.calls > 0)
    }

    /// The marker is there, and needed.
    pub(super) fn mark(&self) {
        self.lock().marked = true;
    }

    /// Removes the marker, unless a call is pending.
    pub(super) fn unmark(&self, state: &State) -> std::io::Result<()> {
        let mut pending = self.lock();
        pending.marked = false;
        if pending.calls > 0 { Ok(()) } else { state.unmark_frozen() }
    }

    /// Nobody waits for this call any more.
    pub(super) fn given_up(&self) {
        self.lock().calls += 1;
    }

    /// What a call that was given up got done is taken back.
    pub(super) fn taken_back(&self, marker: &std::path::Path) {
        let mut pending = self.lock();
        pending.calls -= 1;
        if pending.calls <= 0 && !pending.marked {
            // Nobody to tell; a marker that stays is removed by the next thaw.
            let _ = remove_if_there(marker);
        }
    }
}

/// Tells a thaw that belongs to this freeze from one that hung since an earlier one. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    now: Arc<AtomicU64>,
    mine: u64,
}

impl Round {
    /// From now on, what is left of earlier rounds is out of date.
    pub(super) fn begin(&self) {
        self.now.fetch_add(1, Ordering::SeqCst);
    }

    /// The round of now.
    pub(super) fn current(&self) -> Round {
        Round { now: self.now.clone(), mine: self.now.load(Ordering::SeqCst) }
    }

    pub(super) fn is_current(&self) -> bool {
        self.now.load(Ordering::SeqCst) == self.mine
    }
}
