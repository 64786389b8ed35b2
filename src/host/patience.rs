//! Calls into the kernel that may never return: `statvfs` on a dead mount, a command to a dead disk.
//!
//! Such calls run on a helper thread, and the reply waits for it only so long (O11). A thread that
//! hangs can't be ended; it is left alone and another one does what is left. While it hangs, nobody
//! else is sent after the same object, so that there is at most one stuck thread for each.
//!
//! A helper waits for more work for a moment, because starting a thread costs more than the calls.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::stuck::Stuck;

/// One call that takes longer than this is given up.
const ONE: Duration = Duration::from_millis(300);

/// All calls for one reply together may take this long; clients give up after a second.
const ALL: Duration = Duration::from_millis(700);

/// A helper with nothing to do ends after this time.
const LINGER: Duration = Duration::from_secs(2);

/// Helper threads do little; the default of 2 MiB would show in the agent's address space.
const STACK: usize = 128 << 10;

/// Knows the objects in which a helper thread hangs, and the helpers with nothing to do.
#[derive(Debug, Default)]
pub struct Patience {
    stuck: Stuck,
    helpers: Helpers,
}

impl Patience {
    /// Starts calling `call` for each object, in order, on one helper thread.
    pub fn start<T, F>(&self, objects: Vec<PathBuf>, call: F) -> Pending<T>
    where
        T: Send + 'static,
        F: Fn(&Path) -> T + Send + Sync + 'static,
    {
        let results = objects.iter().map(|_| None).collect();
        let progress = Progress { results, next: 0, since: Instant::now(), helper: 0, waited_for: false };
        let work = Arc::new(Work {
            objects,
            call: Box::new(call),
            stuck: self.stuck.clone(),
            helpers: self.helpers.clone(),
            progress: Mutex::new(progress),
            finished: Condvar::new(),
        });
        if !work.objects.is_empty() {
            Work::help(&work, 0);
        }
        Pending { work, deadline: Instant::now() + ALL }
    }

    /// Calls `call` for one object; nothing when that takes too long.
    pub fn one<T, F>(&self, object: impl Into<PathBuf>, call: F) -> Option<T>
    where
        T: Send + 'static,
        F: Fn(&Path) -> T + Send + Sync + 'static,
    {
        self.start(vec![object.into()], call).wait().pop().flatten()
    }
}

/// Calls that are under way.
pub struct Pending<T> {
    work: Arc<Work<T>>,
    deadline: Instant,
}

impl<T: Send + 'static> Pending<T> {
    /// The results in the order of the objects; nothing for those that did not answer in time.
    pub fn wait(self) -> Vec<Option<T>> {
        let work = &self.work;
        let mut progress = lock(&work.progress);
        loop {
            let now = Instant::now();
            if progress.next > work.objects.len() || work.objects.is_empty() || now >= self.deadline {
                // Whoever still runs finds nothing left to do.
                progress.helper += 1;
                return std::mem::take(&mut progress.results);
            }
            let patience_ends = (progress.since + ONE).min(self.deadline);
            if now >= patience_ends {
                progress.helper += 1;
                progress.since = now;
                let helper = progress.helper;
                drop(progress);
                Work::help(work, helper);
                progress = lock(&work.progress);
                continue;
            }
            progress.waited_for = true;
            let wait = work.finished.wait_timeout(progress, patience_ends - now);
            progress = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct Work<T> {
    objects: Vec<PathBuf>,
    call: Box<dyn Fn(&Path) -> T + Send + Sync>,
    stuck: Stuck,
    helpers: Helpers,
    progress: Mutex<Progress<T>>,
    finished: Condvar,
}

struct Progress<T> {
    results: Vec<Option<T>>,
    /// The object to take next; past the end by one when all are done.
    next: usize,
    /// When the latest object was taken.
    since: Instant,
    /// The helper that may go on; others were given up.
    helper: usize,
    waited_for: bool,
}

impl<T: Send + 'static> Work<T> {
    /// Puts a helper to work. Without one the results stay empty, which is what the caller copes with.
    fn help(work: &Arc<Self>, helper: usize) {
        let of_thread = Arc::clone(work);
        if work.helpers.run(Box::new(move || of_thread.run(helper))).is_err() {
            lock(&work.progress).next = work.objects.len() + 1;
        }
    }

    fn run(&self, helper: usize) {
        let mut progress = lock(&self.progress);
        while progress.helper == helper {
            let index = progress.next;
            progress.next += 1;
            progress.since = Instant::now();
            let Some(object) = self.objects.get(index) else {
                if progress.waited_for {
                    self.finished.notify_one();
                }
                return;
            };
            drop(progress);
            let result = self.stuck.enter(object).map(|_inside| (self.call)(object));
            progress = lock(&self.progress);
            // The results were taken already if this came too late.
            if let Some(place) = progress.results.get_mut(index) {
                *place = result;
            }
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for work. Clones share them.
#[derive(Clone, Debug, Default)]
struct Helpers(Arc<Mutex<Vec<Idle>>>);

/// A thread that waits, and the way to reach it.
type Idle = (thread::ThreadId, Sender<Job>);

impl Helpers {
    /// Has a thread do a job.
    fn run(&self, job: Job) -> io::Result<()> {
        let idle = lock(&self.0).pop();
        let job = match idle {
            None => job,
            // One that was in the list waits for what is sent.
            Some((_, helper)) => match helper.send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(job)) => job,
            },
        };
        let helpers = self.clone();
        let thread = thread::Builder::new().name("patience".to_owned()).stack_size(STACK);
        thread.spawn(move || helpers.serve(job)).map(drop)
    }

    /// Does one job after the other, until there is none for a while.
    fn serve(&self, first: Job) {
        let id = thread::current().id();
        let (sender, jobs) = mpsc::channel::<Job>();
        let mut job = first;
        loop {
            job();
            lock(&self.0).push((id, sender.clone()));
            job = match jobs.recv_timeout(LINGER) {
                Ok(next) => next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let mut idle = lock(&self.0);
                    let listed = idle.len();
                    idle.retain(|(helper, _)| *helper != id);
                    if idle.len() < listed {
                        return;
                    }
                    drop(idle);
                    // Somebody has just taken us from the list: a job is on its way.
                    let Ok(next) = jobs.recv() else { return };
                    next
                }
            };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// On a busy machine a second of waiting takes longer than a second.
    const BUSY: Duration = Duration::from_secs(10);

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn results_come_in_order() {
        let pending = Patience::default().start(paths(&["a", "bb", "ccc"]), |path| path.as_os_str().len());
        assert_eq!(pending.wait(), [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn nothing_to_do_is_done_at_once() {
        assert!(Patience::default().start(Vec::new(), |_| ()).wait().is_empty());
    }

    #[test]
    fn one_that_hangs_costs_only_its_own_result() {
        let patience = Patience::default();
        let (release, hold) = mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let start = Instant::now();
        let pending = patience.start(paths(&["a", "dead", "b"]), move |path| {
            if path == Path::new("dead") {
                let _ = lock(&hold).recv();
            }
            path.to_owned()
        });
        assert_eq!(pending.wait(), [Some("a".into()), None, Some("b".into())]);
        assert!(start.elapsed() < BUSY, "{:?}", start.elapsed());

        // While it hangs, nobody else is sent there, and nobody waits.
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let start = Instant::now();
        assert_eq!(patience.one("dead", move |_| counted.fetch_add(1, Ordering::Relaxed)), None);
        assert!(start.elapsed() < ONE, "{:?}", start.elapsed());
        assert_eq!(calls.load(Ordering::Relaxed), 0);

        // When it comes back, the object is asked again.
        drop(release);
        while patience.one("dead", |_| ()).is_none() {
            thread::yield_now();
        }
    }

    #[test]
    fn many_that_hang_do_not_add_up() {
        let (release, hold) = mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let start = Instant::now();
        let objects: Vec<PathBuf> = (0..100).map(|number| number.to_string().into()).collect();
        let pending = Patience::default().start(objects, move |_| {
            let _ = lock(&hold).recv();
        });
        assert_eq!(pending.wait(), [None; 100]);
        // One after the other they would take half a minute.
        assert!(start.elapsed() < BUSY, "{:?}", start.elapsed());
        drop(release);
    }

    #[test]
    fn a_helper_is_used_again() {
        let patience = Patience::default();
        let who = |patience: &Patience| patience.one("x", |_| thread::current().id());
        let first = who(&patience);
        while lock(&patience.helpers.0).is_empty() {
            thread::yield_now();
        }
        assert_eq!(who(&patience), first);
    }

    #[test]
    fn a_panic_is_a_missing_result_and_leaves_no_mark() {
        let patience = Patience::default();
        assert_eq!(patience.one("x", |_| -> u8 { panic!("as a test") }), None);
        // The hook prints before the thread unwinds.
        while patience.one("x", |_| ()).is_none() {
            thread::yield_now();
        }
    }
}
