//! Calls that can hang in the kernel, one file system after the other, each with a deadline.
//!
//! `FIFREEZE` waits for writers, and both it and `syncfs` for the disk. They run on a thread of their
//! own; who waits for them gives up at the deadline, and what the thread still gets done after that
//! is taken back.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The calls need little, and all of it is locked in memory during a freeze.
const STACK: usize = 128 << 10;

/// A row of calls. Each begins when its result is asked for, so that no call is under way that
/// nobody waits for.
pub(super) struct Deadline<T> {
    go: Sender<()>,
    results: Receiver<T>,
    given_up: Arc<Mutex<bool>>,
}

impl<T: Send + 'static> Deadline<T> {
    /// Gets ready to call `call` for each object. A result that comes after its deadline goes to
    /// `late`, and ends the row.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn new<O: Clone + Send + 'static>(
        objects: &[O],
        call: impl Fn(&O) -> T + Send + 'static,
        late: impl Fn(&O, T) + Send + 'static,
    ) -> io::Result<Deadline<T>> {
        let given_up = Arc::new(Mutex::new(false));
        let (sender, results) = mpsc::channel();
        let (go, asked) = mpsc::channel();
        let (objects, of_thread) = (objects.to_vec(), given_up.clone());
        std::thread::Builder::new().name("freeze".into()).stack_size(STACK).spawn(move || {
            for object in &objects {
                if asked.recv().is_err() {
                    return;
                }
                let result = call(object);
                // Held while the result changes hands, so that exactly one side answers for it.
                let given_up = of_thread.lock().unwrap_or_else(PoisonError::into_inner);
                if *given_up {
                    return late(object, result);
                }
                // Whoever asked waits, and gives up only under the lock.
                let _ = sender.send(result);
            }
        })?;
        Ok(Deadline { go, results, given_up })
    }

    /// Makes the next call; `None` when its result does not come in time. Then the row is over.
    pub(super) fn next(&mut self, patience: Duration) -> Option<T> {
        self.go.send(()).ok()?;
        self.results.recv_timeout(patience).ok().or_else(|| {
            let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            let last_word = self.results.try_recv().ok();
            *given_up |= last_word.is_none();
            last_word
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn results_come_one_by_one_and_nothing_is_called_that_nobody_asked_for() {
        let (called, calls) = mpsc::channel();
        let call = move |object: &u32| {
            called.send(*object).expect("somebody listens");
            object * 2
        };
        let mut row = Deadline::new(&[1, 2, 3], call, |_, _| {}).expect("a thread");
        assert_eq!((row.next(LONG), row.next(LONG)), (Some(2), Some(4)));
        drop(row);
        assert_eq!(calls.iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_late_result_is_taken_back_and_ends_the_row() {
        let (release, hold) = mpsc::channel::<()>();
        let (late, taken_back) = mpsc::channel();
        let call = move |object: &u32| {
            let _ = hold.recv();
            *object
        };
        let mut row = Deadline::new(&[1, 2], call, move |_, result| late.send(result).expect("somebody listens"))
            .expect("a thread");
        assert_eq!(row.next(Duration::from_millis(1)), None);
        drop(release);
        assert_eq!(taken_back.iter().collect::<Vec<_>>(), [1]);
        assert_eq!(row.next(LONG), None);
    }
}
