//! Thaws that do not wait for one another.
//!
//! `FITHAW` writes to the disk, and finding a mount point may ask a server. What hangs must not keep
//! the others frozen: perhaps it hangs because one of them is.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::deadline::Deadline;

/// After this time the next one begins as well.
const TURN: Duration = Duration::from_millis(500);

type Call<O> = Arc<dyn Fn(&O) -> bool + Send + Sync>;

/// Which row it was whose turn had passed, and what became of its last call.
type Late = (usize, bool);

/// Calls for one object after the other. The first can be made without anything more from the
/// system: its thread is there.
pub(super) struct InTurn<O> {
    objects: Vec<O>,
    call: Call<O>,
    first: Option<Deadline<bool>>,
    late: (Sender<Late>, Receiver<Late>),
}

impl<O: Clone + Send + 'static> InTurn<O> {
    /// Gets ready to call `call` for each object in order.
    pub(super) fn new(objects: Vec<O>, call: impl Fn(&O) -> bool + Send + Sync + 'static) -> InTurn<O> {
        let mut made = InTurn { objects, call: Arc::new(call), first: None, late: mpsc::channel() };
        made.first = made.row(&made.objects, 0);
        made
    }

    /// The calls for the objects that are left; `None` when there are none, or no thread.
    fn row(&self, rest: &[O], number: usize) -> Option<Deadline<bool>> {
        rest.first()?;
        let (call, sender) = (self.call.clone(), self.late.0.clone());
        let report = move |_: &O, yes| sender.send((number, yes)).unwrap_or_default();
        Deadline::new(rest, move |object| call(object), report).ok()
    }

    /// Makes the calls. Returns for how many it was true, and those objects for which it has not
    /// returned when all others are done and `patience` has passed; they go on by themselves.
    pub(super) fn finish(mut self, patience: Duration) -> (i64, Vec<O>) {
        let mut count = 0;
        let mut hanging: Vec<Option<O>> = Vec::new();
        let mut row = self.first.take();
        let mut rest = self.objects.as_slice();
        while let Some((object, others)) = rest.split_first() {
            let Some(calls) = &mut row else {
                // One after the other, here.
                count += rest.iter().map(|object| i64::from((self.call)(object))).sum::<i64>();
                break;
            };
            rest = others;
            match calls.next(TURN) {
                Some(yes) => count += i64::from(yes),
                None => {
                    hanging.push(Some(object.clone()));
                    row = self.row(rest, hanging.len());
                }
            }
        }
        drop(row);
        let (sender, late) = self.late;
        drop(sender);
        let end = Instant::now() + patience;
        while let Ok((number, yes)) = late.recv_timeout(end.saturating_duration_since(Instant::now())) {
            hanging[number] = None;
            count += i64::from(yes);
        }
        (count, hanging.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_that_waits_for_a_later_one_is_waited_for() {
        let (release, hold) = mpsc::channel::<()>();
        let both = Arc::new((Mutex::new(Some(release)), Mutex::new(hold)));
        let call = move |object: &&str| {
            match *object {
                "upper" => drop(both.1.lock().expect("a lock").recv()),
                _ => drop(both.0.lock().expect("a lock").take()),
            }
            true
        };
        assert_eq!(InTurn::new(vec!["upper", "lower"], call).finish(LONG), (2, vec![]));
    }

    #[test]
    fn what_hangs_for_ever_is_told_by_name() {
        let (_release, hold) = mpsc::channel::<()>();
        let hold = Arc::new(Mutex::new(hold));
        let call = move |object: &&str| *object != "dead" || hold.lock().expect("a lock").recv().is_ok();
        let found = InTurn::new(vec!["a", "dead", "b"], call).finish(Duration::from_millis(1));
        assert_eq!(found, (2, vec!["dead"]));
    }
}
