//! Objects in which a thread of ours hangs: a dead mount, a disk that does not answer, an attribute
//! whose write does not return.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sees to it that at most one thread hangs in each object. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stuck(Arc<Mutex<HashSet<PathBuf>>>);

impl Stuck {
    /// Before a call that may hang. `None` when somebody is in there already.
    pub(crate) fn enter(&self, object: &Path) -> Option<Inside> {
        let free = self.lock().insert(object.to_owned());
        free.then(|| Inside { stuck: self.clone(), object: object.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call is under way. Dropped when it returned, or panicked.
#[derive(Debug)]
pub(crate) struct Inside {
    stuck: Stuck,
    object: PathBuf,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stuck.lock().remove(&self.object);
    }
}
