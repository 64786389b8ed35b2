//! Thaws that do not wait for one another.
//!
//! `FITHAW` writes to the disk, and finding a mount point may ask a server. What hangs must not keep
//! the others frozen: perhaps it hangs because one of them is.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::deadline::Deadline;

/// After this time the next one begins as well.
const TURN: Duration = Duration::from_millis(500);

/// Calls `call` for each object in order. Returns for how many it was true, and those for which it
/// has not returned when all others are done and `patience` has passed; they go on by themselves.
pub(super) fn in_turn<O: Clone + Send + 'static>(
    objects: &[O],
    patience: Duration,
    call: impl Fn(&O) -> bool + Clone + Send + 'static,
) -> (i64, Vec<O>) {
    let mut count = 0;
    let mut hanging: Vec<Option<O>> = Vec::new();
    let (sender, late) = mpsc::channel();
    let mut rest = objects;
    while !rest.is_empty() {
        let (sender, number) = (sender.clone(), hanging.len());
        let report = move |_: &O, yes| sender.send((number, yes)).unwrap_or_default();
        let Ok(mut row) = Deadline::new(rest, call.clone(), report) else {
            // No thread to be had: then one after the other, here.
            count += rest.iter().map(|object| i64::from(call(object))).sum::<i64>();
            break;
        };
        while let Some((object, others)) = rest.split_first() {
            rest = others;
            let Some(yes) = row.next(TURN) else {
                hanging.push(Some(object.clone()));
                break;
            };
            count += i64::from(yes);
        }
    }
    drop(sender);
    let end = Instant::now() + patience;
    while let Ok((number, yes)) = late.recv_timeout(end.saturating_duration_since(Instant::now())) {
        hanging[number] = None;
        count += i64::from(yes);
    }
    (count, hanging.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

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
        assert_eq!(in_turn(&["upper", "lower"], LONG, call), (2, vec![]));
    }

    #[test]
    fn what_hangs_for_ever_is_told_by_name() {
        let (_release, hold) = mpsc::channel::<()>();
        let hold = Arc::new(Mutex::new(hold));
        let call = move |object: &&str| *object != "dead" || hold.lock().expect("a lock").recv().is_ok();
        let found = in_turn(&["a", "dead", "b"], Duration::from_millis(1), call);
        assert_eq!(found, (2, vec!["dead"]));
    }
}
