//! Asking a command to end before it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A word to a running command that it may leave its work half done. Clones share one word.
///
/// Few commands heed it: what changes the guest is done or not done. Trimming takes minutes, and
/// half of it is as good as all of it, only less.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Says the word.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was said.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
