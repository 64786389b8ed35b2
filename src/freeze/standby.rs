//! The thread on which freezes and thaws are made, asked for or not.
//!
//! It is there before the first `FIFREEZE`, with its stack, and stays until the last thaw: a thread that
//! had to be made while frozen would wait for memory, memory for a page that has to be swapped out,
//! and that page for the frozen disk. Nothing else runs on it, so nothing that hangs elsewhere keeps a
//! thaw from its turn.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the thread does.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Enough for arguments that are nested as deep as a message may be.
const STACK: usize = 1 << 20;

/// So much of it is there from the beginning.
const TOUCHED: usize = 128 << 10;

/// How long it waits for more when nothing is frozen.
const LINGER: Duration = Duration::from_secs(2);

/// Freeze commands wait for one another, so few jobs wait here at a time.
const JOBS: usize = 16;

/// Does one job after the other. Clones share the thread.
#[derive(Clone)]
pub(crate) struct Standby(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    /// There is a thread, which looks at the jobs before it ends.
    alive: bool,
    /// It stays although there is nothing to do.
    kept: bool,
}

impl Standby {
    pub(super) fn new() -> Standby {
        let state = State { jobs: VecDeque::with_capacity(JOBS), alive: false, kept: false };
        Standby(Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() }))
    }

    /// Has the thread do a job after those it has. False when there is no thread to be had; then the
    /// job is dropped.
    pub(crate) fn run(&self, job: Job) -> bool {
        let mut state = self.0.lock();
        if self.revive(&mut state).is_err() {
            return false;
        }
        state.jobs.push_back(job);
        drop(state);
        self.0.wake.notify_one();
        true
    }

    /// From now on the thread is there, whether it has anything to do or not.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        self.revive(&mut state)?;
        state.kept = true;
        Ok(())
    }

    /// It may end when it has nothing to do.
    pub(super) fn let_go(&self) {
        self.0.lock().kept = false;
        self.0.wake.notify_one();
    }

    fn revive(&self, state: &mut State) -> io::Result<()> {
        if !state.alive {
            let shared = self.0.clone();
            std::thread::Builder::new().name("freeze".into()).stack_size(STACK).spawn(move || {
                touch_stack();
                shared.serve();
            })?;
            state.alive = true;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_kept(&self) -> bool {
        let state = self.0.lock();
        state.alive && state.kept
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // Its panic is in the log; the next job may be the thaw.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.lock();
            } else if state.kept {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                let waited = self.wake.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                if waited.1.timed_out() && state.jobs.is_empty() && !state.kept {
                    state.alive = false;
                    return;
                }
            }
        }
    }
}

/// Has the pages of the stack, also where memory may not be locked.
#[inline(never)]
fn touch_stack() {
    let mut pages = [0_u8; TOUCHED];
    std::hint::black_box(&mut pages);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    fn who(standby: &Standby) -> thread::ThreadId {
        let (sender, receiver) = channel();
        assert!(standby.run(Box::new(move || sender.send(thread::current().id()).expect("we listen"))));
        receiver.recv().expect("it runs")
    }

    #[test]
    fn a_thread_that_is_kept_is_there_before_the_job_and_outlives_a_panic() {
        let standby = Standby::new();
        standby.keep().expect("a thread");
        let first = who(&standby);
        // Longer than it would linger; there is nothing to wait for.
        thread::sleep(LINGER + Duration::from_millis(200));
        assert!(standby.is_kept());
        assert!(standby.run(Box::new(|| panic!("as a test"))));
        assert_eq!(who(&standby), first);
    }

    #[test]
    fn a_thread_that_nobody_keeps_ends_and_another_one_comes() {
        let standby = Standby::new();
        standby.keep().expect("a thread");
        let first = who(&standby);
        standby.let_go();
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while standby.0.lock().alive {
            assert!(std::time::Instant::now() < end, "it does not end");
            thread::yield_now();
        }
        assert_ne!(who(&standby), first);
    }
}
