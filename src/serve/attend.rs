//! What the agent does unasked where the operator wants it: it puts on line what is plugged in, and
//! looks after the clock. Each has a task of its own that waits for the kernel's news; the work
//! itself is a worker's. What is not wanted has neither task nor descriptor.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::worker::{Place, start};
use super::{Server, sleep_until};
use crate::agent::Agent;
use crate::clock::{Cause, Keeper};
use crate::config;
use crate::host::linux::clock_set::ClockSet;
use crate::host::linux::fd::{Owned, watch};
use crate::host::linux::uevent::{Heard, Uevent, Uevents};
use crate::hotplug::{News, Parts};
use crate::protocol::error::os_reason;

/// Messages taken in a row before others have their turn.
const BURST: usize = 64;

/// The clocks are looked at no more often than this.
const REST: Duration = Duration::from_secs(1);

/// The tasks that run.
#[derive(Default)]
pub(super) struct Attendance {
    hotplug: Option<(config::Hotplug, Task)>,
    clock: Option<(Arc<Notify>, Task)>,
}

/// A task that ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server<'_> {
    /// Starts and ends the tasks as the settings say.
    pub(super) fn attend(&mut self) {
        let config = self.agent.config();
        let wanted = (config.hotplug != config::Hotplug::default()).then_some(config.hotplug);
        if self.attendance.hotplug.as_ref().map(|(now, _)| *now) != wanted {
            self.attendance.hotplug = wanted.map(|wanted| {
                let agent = self.agent.clone();
                let task = tokio::spawn(async {
                    if let Err(reason) = follow_hotplug(agent).await {
                        tracing::warn!("what is plugged in cannot be noticed: {}", os_reason(&reason));
                    }
                });
                (wanted, Task(task.abort_handle()))
            });
        }
        if self.attendance.clock.is_some() != config.clock.keep {
            self.attendance.clock = config.clock.keep.then(|| {
                let host_spoke = Arc::<Notify>::default();
                let task = tokio::spawn(keep_clock(self.agent.clone(), host_spoke.clone()));
                (host_spoke, Task(task.abort_handle()))
            });
        }
    }

    /// Something came over the channel: the first thing that is noticed after a restore.
    pub(super) fn host_spoke(&self) {
        if let Some((host_spoke, _)) = &self.attendance.clock {
            host_spoke.notify_one();
        }
    }
}

type Watched<T> = AsyncFd<Owned<T>>;

/// Has a worker do something with what is shared; the receiver hears of its end. It is never done on
/// the loop: then the receiver hears that nothing was done.
fn work<T: Send + 'static>(shared: &Arc<Mutex<T>>, job: impl FnOnce(&mut T) + Send + 'static) -> oneshot::Receiver<()> {
    let (done, end) = oneshot::channel();
    let shared = shared.clone();
    start(move |place| {
        if place == Place::Worker {
            job(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
            let _ = done.send(());
        }
    });
    end
}

/// Waits for the end of what a worker does; whether it was done.
async fn end_of(job: &mut Option<oneshot::Receiver<()>>) -> bool {
    match job {
        Some(end) => {
            let done = end.await.is_ok();
            *job = None;
            done
        }
        None => std::future::pending().await,
    }
}

/// Waits for the kernel's messages and hands them over, a number at a time. `None` of them is heard
/// when some were lost.
async fn listen(uevents: &Watched<Uevents>, mut hear: impl FnMut(Option<Uevent<'_>>)) -> io::Result<()> {
    let mut guard = uevents.readable().await?;
    for _ in 0..BURST {
        match uevents.get_ref().get().take(|event| hear(Some(event)))? {
            Heard::Message => {}
            Heard::Lost => hear(None),
            Heard::Nothing => {
                guard.clear_ready();
                break;
            }
        }
    }
    Ok(())
}

async fn follow_hotplug(agent: Arc<Agent>) -> io::Result<()> {
    // Before the first look, so that nothing comes in between.
    let uevents = watch(Uevents::open()?, Interest::READABLE)?;
    let parts = Arc::<Mutex<Parts>>::default();
    let mut news = News::default();
    let catch_up = |news: News| {
        let agent = agent.clone();
        work(&parts, move |parts| parts.catch_up(&agent.host, news, || agent.config().hotplug))
    };
    let mut job = Some(catch_up(News::default()));
    loop {
        tokio::select! {
            done = end_of(&mut job) => if !done {
                tracing::warn!("the system has no thread to spare for what is plugged in");
                news.lose();
                // Not again at once: with the next news.
                listen(&uevents, |event| note(&mut news, event)).await?;
            },
            heard = listen(&uevents, |event| note(&mut news, event)) => heard?,
        }
        if job.is_none() && !news.is_empty() {
            job = Some(catch_up(std::mem::take(&mut news)));
        }
        tokio::task::yield_now().await;
    }
}

fn note(news: &mut News, event: Option<Uevent<'_>>) {
    match event {
        Some(event) => news.hear(&event),
        None => news.lose(),
    }
}

/// Looks at the clocks when the guest may have been stopped: the kernel tells of the end of a sleep,
/// and newer ones of a restore; else the host is heard of, which comes back after one.
async fn keep_clock(agent: Arc<Agent>, host_spoke: Arc<Notify>) {
    let mut sets = usable(ClockSet::watch().and_then(watch_for_input), "a time that is set");
    let mut uevents = usable(Uevents::open().and_then(watch_for_input), "a new generation of the machine");
    let keeper = Arc::<Mutex<Keeper>>::default();
    let (mut cause, mut due) = (Some(Cause::Set), None);
    let (mut job, mut last) = (None, Instant::now());
    loop {
        // Also at the start: without a first look, the next one would have nothing to compare with.
        if job.is_none() {
            if let Some(cause) = cause.take() {
                let agent = agent.clone();
                job = Some(work(&keeper, move |keeper| keeper.look(&agent.host, cause)));
            }
        }
        tokio::select! {
            _ = end_of(&mut job) => last = Instant::now(),
            set = time_set(&sets) => match set {
                Ok(true) => cause = Some(Cause::Set),
                Ok(false) => {}
                Err(_) => sets = None,
            },
            heard = new_generation(&uevents) => match heard {
                Ok(true) => cause = cause.or(Some(Cause::Stopped)),
                Ok(false) => {}
                Err(_) => uevents = None,
            },
            () = host_spoke.notified(), if due.is_none() => due = Some(Instant::now().max(last + REST)),
            () = sleep_until(due), if due.is_some() && job.is_none() => {
                due = None;
                cause = cause.or(Some(Cause::Stopped));
            }
        }
        tokio::task::yield_now().await;
    }
}

fn watch_for_input<T: std::os::fd::AsFd>(owner: T) -> nix::Result<Watched<T>> {
    watch(owner, Interest::READABLE).map_err(|error| Errno::try_from(error).unwrap_or(Errno::EIO))
}

/// The other occasions are left.
fn usable<T>(watched: nix::Result<T>, what: &str) -> Option<T> {
    watched
        .inspect_err(|reason| tracing::warn!("the kernel does not tell of {what}: {}", os_reason(&(*reason).into())))
        .ok()
}

async fn time_set(sets: &Option<Watched<ClockSet>>) -> io::Result<bool> {
    let Some(sets) = sets else { return std::future::pending().await };
    sets.readable().await?.clear_ready();
    Ok(sets.get_ref().get().take()?)
}

async fn new_generation(uevents: &Option<Watched<Uevents>>) -> io::Result<bool> {
    let Some(uevents) = uevents else { return std::future::pending().await };
    let mut found = false;
    listen(uevents, |event| found |= event.is_none_or(|event| event.new_generation)).await?;
    Ok(found)
}
