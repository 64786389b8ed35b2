//! Freezing and thawing the guest's file systems.
//!
//! Invariant: whatever happens after the first `FIFREEZE`, a thaw needs no path, no log, no program
//! and no other file: it has the descriptors in hand. Whoever freezes also thaws, on every way out.

pub mod check;
mod deadline;
mod dying;
mod held;
mod hook;
mod in_turn;
mod journal;
mod late;
mod order;
mod pairs;
mod plan;
mod standby;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::agent::Agent;
use crate::host::linux::malloc;
use crate::host::stuck::Stuck;
use crate::host::{Host, Kernel};
use crate::log::{AUDIT, LogControl};
use crate::protocol::error::{Error, Result, os_reason};
use crate::state::State;
use held::{Thaws, freeze_each, open_all, sync_each, thaw_points};
use late::{Late, Round};
use pairs::Told;
pub(crate) use standby::Standby;

/// What we have frozen. The flag is what `guest-fsfreeze-status` tells.
pub struct Freezer {
    frozen: AtomicBool,
    /// Freezes and thaws that are at work: their outcome is not known yet.
    working: AtomicUsize,
    /// The agent is about to end: nothing is frozen any more.
    ending: AtomicBool,
    /// Freezes that were given up and have not ended.
    late: Late,
    /// Which freeze this is; a thaw that hangs must not undo a later one.
    round: Round,
    /// Mount points that do not answer.
    stuck: Stuck,
    log: LogControl,
    /// Where freezes and thaws are made.
    standby: Standby,
    since: Mutex<Option<Instant>>,
    /// The last thaw could not thaw all.
    unfinished: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Of all that we froze.
    thaws: Option<Thaws>,
    told: Told,
    /// While frozen: no page that the thaw needs has to come from a disk.
    pinned: Option<Pinned>,
}

impl Freezer {
    /// Nothing frozen; or, when an earlier agent ended with frozen file systems, all that it froze.
    pub fn new(host: &Host, state: &State, log: LogControl) -> Freezer {
        let frozen = state.frozen_at_start();
        let told = Told::at_start(state.hooks_at_start().to_vec(), frozen);
        // The time limit counts from the freeze on, however often an agent is started meanwhile.
        let started = Instant::now();
        let since = frozen.then(|| started.checked_sub(state.frozen_before_start()).unwrap_or(started));
        let standby = Standby::new();
        let kept = if frozen { standby.keep() } else { Ok(()) };
        if let Err(error) = kept {
            // Then it is the loop that thaws.
            tracing::warn!("no thread stands by for the thaw: {}", os_reason(&error));
        }
        let pinned = frozen.then(|| Pinned::new(host));
        let inner = Mutex::new(Inner { thaws: None, told, pinned });
        Freezer {
            frozen: AtomicBool::new(frozen),
            working: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            late: Late::new(frozen),
            round: Round::default(),
            stuck: Stuck::default(),
            log,
            standby,
            since: Mutex::new(since),
            unfinished: AtomicBool::new(false),
            inner,
        }
    }

    /// Whether file systems are frozen, as far as we know.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Whether nothing of ours is frozen, nor can be by a freeze that was given up and goes on.
    pub fn is_thawed(&self) -> bool {
        !self.is_frozen() && !self.late.is_pending()
    }

    /// Whether ending the agent now could leave something frozen.
    pub fn is_busy(&self) -> bool {
        self.is_frozen() || self.working.load(Ordering::SeqCst) > 0 || self.late.is_pending()
    }

    /// The agent is about to end: a freeze that has not begun yet, in its hook for example, will not.
    pub fn refuse_from_now_on(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Changes what [`Freezer::is_frozen`] tells, and nothing else.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn pretend(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::SeqCst);
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// When the file systems were frozen.
    pub fn frozen_since(&self) -> Option<Instant> {
        *self.since()
    }

    /// Held for a moment only.
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something is left to thaw by a thaw that was made.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished.load(Ordering::SeqCst)
    }

    /// Has freezes and thaws made.
    pub(crate) fn standby(&self) -> &Standby {
        &self.standby
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a freeze or thaw as at work, for the signals that end the agent.
struct Working<'a>(&'a AtomicUsize);

impl<'a> Working<'a> {
    fn new(count: &'a AtomicUsize) -> Working<'a> {
        count.fetch_add(1, Ordering::SeqCst);
        Working(count)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// While this lives, everything the process has mapped stays in memory. A page of code that was
/// dropped would have to be read from a disk, and heap that was swapped out comes back only when
/// something else can go, which may have to be written to a frozen disk.
struct Pinned(Arc<dyn Kernel>);

impl Pinned {
    fn new(host: &Host) -> Pinned {
        // What follows is made of memory that is there.
        malloc::keep(true);
        // Not allowed everywhere (`RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`), which does not stop a freeze.
        if let Err(error) = host.kernel().pin_memory(true) {
            tracing::debug!("memory is not locked during the freeze: {}", os_reason(&error));
        }
        Pinned(host.kernel_handle())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Fails only if nothing was locked.
        let _ = self.0.pin_memory(false);
        malloc::keep(false);
    }
}

/// While this lives, memory that this thread and those it starts ask for is not waited for until
/// something was written to a disk: that disk may be frozen.
struct Hurry(Arc<dyn Kernel>);

impl Hurry {
    fn new(host: &Host) -> Hurry {
        // Not on old kernels, nor without `CAP_SYS_RESOURCE`.
        let _ = host.kernel().avoid_disk(true);
        Hurry(host.kernel_handle())
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        let _ = self.0.avoid_disk(false);
    }
}

/// Freezes all file systems, or those mounted at `points`, as `command` asks. Returns how many were
/// frozen.
///
/// # Errors
/// When the hook or a file system refuses; then nothing is frozen. When something of ours is frozen
/// already; then nothing at all is done.
pub fn freeze(agent: &Agent, command: &str, points: Option<&[&str]>) -> Result<i64> {
    let _working = Working::new(&agent.freezer.working);
    let mut inner = agent.freezer.lock();
    // Asked here, whatever was asked before: the freeze that this one waited for holds by now. One
    // that was given up and goes on will be taken back, whatever is frozen then.
    if !agent.freezer.is_thawed() {
        return Err(Error::disabled(command, "the agent is in frozen state"));
    }
    agent.freezer.round.begin();
    tracing::info!(target: AUDIT, "guest-fsfreeze called");
    let outcome = inner.told.freeze(agent).and_then(|()| freeze_listed(agent, points, &mut inner));
    if !matches!(outcome, Ok(1..)) {
        // Nothing is frozen: whatever the hooks stopped goes on.
        inner.told.thaw(agent).unwrap_or_else(|e| tracing::error!("{e}"));
    }
    outcome
}

fn freeze_listed(agent: &Agent, points: Option<&[&str]>, inner: &mut Inner) -> Result<i64> {
    if agent.freezer.is_ending() {
        return Err(Error::new("nothing is frozen: the agent is about to end"));
    }
    let plan = || plan::plan(&agent.host, points).map_err(|e| Error::os("failed to read the mount table", &e));
    let held = match open_all(agent, plan()?, false)? {
        Some(held) => held,
        // Something was mounted or unmounted meanwhile.
        None => open_all(agent, plan()?, true)?.unwrap_or_default(),
    };
    // Writing everything back first keeps the time short in which writers stand still.
    sync_each(agent, &held)?;
    agent.freezer.standby.keep().map_err(|error| Error::os("failed to start the freeze", &error))?;
    tracing::warn!("disabling logging due to filesystem freeze");
    agent.freezer.log.hold();
    let _hurry = Hurry::new(&agent.host);
    // Made before anything is frozen, and then locked with the rest.
    let thaws = Thaws::new(agent, &held);
    inner.pinned = Some(Pinned::new(&agent.host));
    if let Err(error) = agent.state.mark_frozen() {
        inner.pinned = None;
        agent.freezer.standby.let_go();
        agent.freezer.log.release();
        return Err(Error::os("failed to note the freeze in the state directory", &error));
    }
    agent.freezer.late.mark();
    *agent.freezer.since() = Some(Instant::now());
    agent.freezer.frozen.store(true, Ordering::SeqCst);
    let (frozen, refusal) = freeze_each(agent, held);
    let count = frozen.len();
    match refusal {
        None if count > 0 => {
            inner.thaws = Some(thaws);
            Ok(i64::try_from(count).unwrap_or(i64::MAX))
        }
        None => {
            finish_thaw(agent, inner);
            Ok(0)
        }
        Some(refusal) => {
            // Not what others froze before.
            Thaws::new(agent, &frozen).make(agent);
            finish_thaw(agent, inner);
            Err(refusal)
        }
    }
}

/// Thaws everything, whoever froze it. Returns how many file systems were frozen.
///
/// # Errors
/// When the thaw hook fails; everything is thawed all the same. When something may stay frozen; then
/// the agent is still in frozen state.
pub fn thaw(agent: &Agent) -> Result<i64> {
    let _working = Working::new(&agent.freezer.working);
    let mut inner = agent.freezer.lock();
    let count = thaw_all(agent, &mut inner);
    agent.freezer.unfinished.store(count.is_err(), Ordering::SeqCst);
    let count = count?;
    finish_thaw(agent, &mut inner);
    tracing::info!(target: AUDIT, "guest-fsthaw called");
    inner
        .told
        .thaw(agent)
        .map_err(|error| Error::new(format!("file systems thawed ({count}), but: {}", error.desc)))?;
    Ok(count)
}

fn thaw_all(agent: &Agent, inner: &mut Inner) -> Result<i64> {
    let _hurry = Hurry::new(&agent.host);
    let thaws = inner.thaws.take();
    let owed = agent.freezer.is_frozen() && thaws.is_none();
    // Asked before: what ends after this is taken back by what follows, or by the next thaw.
    let dying = if owed { dying::agent(&agent.host) } else { None };
    let mut count = thaws.map_or(0, |thaws| thaws.make(agent));
    // Nested freezes by others, those of an earlier agent, and what was mounted meanwhile.
    let listed = match plan::plan(&agent.host, None) {
        Ok(listed) => listed,
        Err(error) if !agent.freezer.is_frozen() || count > 0 => {
            tracing::error!("failed to read the mount table: {}", os_reason(&error));
            Vec::new()
        }
        Err(error) => return Err(Error::os("failed to read the mount table", &error)),
    };
    // What an earlier agent froze has to be among these; otherwise nobody needs to wait for them long.
    count += thaw_points(agent, listed, owed);
    match dying {
        None => Ok(count),
        Some(pid) => Err(Error::new(format!(
            "file systems thawed ({count}), but the freeze of an agent that was killed (process {pid}) goes on"
        ))),
    }
}

/// Whether an earlier agent was killed between a hook's freeze and its thaw. Not while frozen: then
/// the thaw is still to come.
pub fn owes_hooks(agent: &Agent) -> bool {
    !agent.state.hooks_at_start().is_empty() && !agent.freezer.is_frozen()
}

/// Tells those hooks of the thaw.
pub fn settle_hooks(agent: &Agent) {
    let _working = Working::new(&agent.freezer.working);
    let mut inner = agent.freezer.lock();
    // A freeze that came first has told them of its own freeze and thaw.
    if inner.told.is_empty() || agent.freezer.is_frozen() {
        return;
    }
    tracing::error!("an earlier agent ended between a freeze hook and its thaw: the hooks are told of the thaw now");
    inner.told.thaw(agent).unwrap_or_else(|error| tracing::error!("{error}"));
}

/// Goes back to normal operation after the last thaw.
fn finish_thaw(agent: &Agent, inner: &mut Inner) {
    agent.freezer.frozen.store(false, Ordering::SeqCst);
    inner.pinned = None;
    agent.freezer.standby.let_go();
    *agent.freezer.since() = None;
    let unmarked = agent.freezer.late.unmark(&agent.state);
    agent.freezer.log.release();
    if let Err(error) = unmarked {
        tracing::error!("failed to remove the frozen marker: {}", os_reason(&error));
    }
    if let Err(error) = agent.state.thawed() {
        tracing::error!("{error}");
    }
}

/// Thaws without being asked to, because nobody did in time.
pub fn thaw_unasked(agent: &Agent, why: &str) {
    let outcome = thaw(agent);
    match outcome {
        Ok(count) => tracing::error!("{count} file systems were thawed by the agent itself: {why}"),
        Err(error) => tracing::error!("thaw by the agent itself ({why}): {error}"),
    }
}

#[cfg(test)]
mod tests;
