//! File systems in our hands: opened, written back, frozen and thawed through one descriptor each.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::deadline::Deadline;
use super::in_turn::InTurn;
use super::late::Round;
use super::plan::Planned;
use crate::agent::Agent;
use crate::host::Kernel;
use crate::host::linux::mounts::{Mount, dev_of};
use crate::protocol::error::{Error, Result, os_reason};

/// A file system that is in our hands.
#[derive(Clone)]
pub(super) struct Held {
    point: PathBuf,
    dir: Arc<File>,
}

/// Opens every mount point while nothing is frozen yet. The way there may lead over a server that
/// does not answer. `None` when something else is there by now than the plan says, which may be
/// another one then, unless this is the `last` attempt.
pub(super) fn open_all(agent: &Agent, planned: Vec<Planned>, last: bool) -> Result<Option<Vec<Held>>> {
    let config = agent.config();
    let mut wanted = Vec::with_capacity(planned.len());
    for Planned { mount, skip, .. } in planned {
        match skip {
            Some(why) if last => tracing::debug!("{} is not frozen: {why}", mount.point.display()),
            Some(why) => tracing::warn!("{} is not frozen: {why}", mount.point.display()),
            None => wanted.push((agent.host.path(&mount.point), mount)),
        }
    }
    let mut held = Vec::with_capacity(wanted.len());
    let mut rest = wanted.as_slice();
    while !rest.is_empty() {
        let (stuck, kernel) = (agent.freezer.stuck.clone(), agent.host.kernel_handle());
        let open = move |(path, mount): &(PathBuf, Mount)| {
            let _inside = stuck.enter(path)?;
            Some(open_path(path).map(|dir| is_mounted(&*kernel, &dir, mount).then_some(dir)))
        };
        let mut calls =
            Deadline::new(rest, open, |_, _| {}).map_err(|error| Error::os("failed to start the freeze", &error))?;
        while let Some(((_, Mount { point, .. }), others)) = rest.split_first() {
            rest = others;
            let opened = calls.next(config.fsfreeze.freeze_timeout);
            let hangs = opened.is_none();
            let why = match opened.flatten() {
                Some(Ok(Some(dir))) => {
                    held.push(Held { point: point.clone(), dir: Arc::new(dir) });
                    continue;
                }
                Some(_) if !last => return Ok(None),
                Some(Ok(None)) => "something else is mounted there by now".to_owned(),
                Some(Err(error)) => os_reason(&error),
                None => "it does not answer".to_owned(),
            };
            if !config.fsfreeze.best_effort {
                return Err(Error::new(format!("failed to open {}: {why}", point.display())));
            }
            tracing::warn!("{} is not frozen: {why}", point.display());
            if hangs {
                break;
            }
        }
    }
    Ok(Some(held))
}

/// Whether this was opened on the file system of that mount, and not on what was mounted over it, or
/// on what is there without it.
fn is_mounted(kernel: &dyn Kernel, dir: &File, mount: &Mount) -> bool {
    let (id, device) = kernel.mounted_at(dir.as_fd());
    // A btrfs gives its files other device numbers.
    let same_device = device.and_then(dev_of).is_some_and(|device| device == mount.dev);
    let told = id.is_some() || (device.is_some() && mount.fs_type != "btrfs");
    !told || id == Some(mount.id) || same_device
}

pub(super) fn open_path(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

/// Writes back what is dirty. A disk that does not answer ends the freeze before it began.
pub(super) fn sync_each(agent: &Agent, held: &[Held]) -> Result<()> {
    let patience = agent.config().fsfreeze.freeze_timeout;
    let kernel = agent.host.kernel_handle();
    let mut calls = Deadline::new(held, move |held| kernel.sync(held.dir.as_fd()), |_, _| {})
        .map_err(|error| Error::os("failed to start the freeze", &error))?;
    for file_system in held {
        let point = file_system.point.display();
        match calls.next(patience) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!("failed to sync {point}: {}", os_reason(&error)),
            None => return Err(late("sync", &file_system.point, patience)),
        }
    }
    Ok(())
}

/// What became of one `FIFREEZE`.
enum Attempt {
    Frozen,
    /// The file system has no freeze (vfat, iso9660...); it was synced.
    Unsupported,
    /// Somebody else froze it before.
    Taken,
    Refused(std::io::Error),
}

impl Attempt {
    fn of(result: std::io::Result<()>) -> Attempt {
        let Err(error) = result else { return Attempt::Frozen };
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EOPNOTSUPP | Errno::ENOTTY => Attempt::Unsupported,
            Errno::EBUSY => Attempt::Taken,
            _ => Attempt::Refused(error),
        }
    }
}

/// Freezes one after the other. Gives those that were frozen, and the refusal that ended it.
pub(super) fn freeze_each(agent: &Agent, listed: Vec<Held>) -> (Vec<Held>, Option<Error>) {
    let mut frozen = Vec::with_capacity(listed.len());
    let config = agent.config();
    let settings = &config.fsfreeze;
    let (best_effort, patience) = (settings.best_effort, settings.freeze_timeout);
    let (kernel, of_late) = (agent.host.kernel_handle(), agent.host.kernel_handle());
    let freeze = move |held: &Held| Attempt::of(kernel.freeze(held.dir.as_fd()));
    let (pending, marker) = (agent.freezer.late.clone(), agent.state.marker().to_owned());
    let take_back = move |held: &Held, attempt| {
        if matches!(attempt, Attempt::Frozen) {
            let _ = of_late.thaw(held.dir.as_fd());
        }
        pending.taken_back(&marker);
    };
    let mut calls = match Deadline::new(&listed, freeze, take_back) {
        Ok(calls) => calls,
        Err(error) => return (frozen, Some(Error::os("failed to start the freeze", &error))),
    };
    for file_system in listed {
        let point = file_system.point.display().to_string();
        match calls.next(patience) {
            Some(Attempt::Frozen) => frozen.push(file_system),
            Some(Attempt::Unsupported) => {
                tracing::info!("{point} is only synced: its file system cannot be frozen");
            }
            Some(Attempt::Taken) => tracing::warn!("{point} is frozen already, by somebody else"),
            Some(Attempt::Refused(error)) if best_effort => {
                tracing::warn!("failed to freeze {point}: {}", os_reason(&error));
            }
            Some(Attempt::Refused(error)) => {
                return (frozen, Some(Error::os(format!("failed to freeze {point}"), &error)));
            }
            None => {
                agent.freezer.late.given_up();
                return (frozen, Some(late("freeze", &file_system.point, patience)));
            }
        }
    }
    (frozen, None)
}

/// The deadline of a call has passed.
fn late(what: &str, point: &Path, patience: Duration) -> Error {
    Error::new(format!("failed to {what} {}: not done after {} s", point.display(), patience.as_secs()))
}

/// Thaws of file systems in our hands, ready to be made.
pub(super) struct Thaws(InTurn<Held>);

impl Thaws {
    /// In the opposite order, by the descriptors that were kept. All that the first one takes is had
    /// from now on.
    pub(super) fn new(agent: &Agent, held: &[Held]) -> Thaws {
        let (kernel, round) = (agent.host.kernel_handle(), agent.freezer.round.current());
        let reversed = held.iter().rev().cloned().collect();
        Thaws(InTurn::new(reversed, move |held| thaw_fully(&*kernel, &held.dir, &round)))
    }

    /// Makes them. The number of file systems that were frozen.
    pub(super) fn make(self, agent: &Agent) -> i64 {
        finish(self.0, agent.config().fsfreeze.freeze_timeout, |held| &held.point)
    }
}

/// Thaws what a plan names, foundations first: thawing writes to them. The number of those that were
/// frozen. Those of them that hang are waited for when an earlier agent `owed` them.
pub(super) fn thaw_points(agent: &Agent, planned: Vec<Planned>, owed: bool) -> i64 {
    let reachable = planned.into_iter().rev().filter(|planned| planned.skip.is_none());
    let points: Vec<PathBuf> = reachable.map(|planned| agent.host.path(planned.mount.point)).collect();
    let patience = if owed { agent.config().fsfreeze.freeze_timeout } else { SHORT };
    let (kernel, round) = (agent.host.kernel_handle(), agent.freezer.round.current());
    let stuck = agent.freezer.stuck.clone();
    let by_path = move |point: &PathBuf| {
        // Otherwise there is a thread in there since an earlier time.
        let Some(_inside) = stuck.enter(point) else { return false };
        open_path(point).is_ok_and(|dir| thaw_fully(&*kernel, &dir, &round))
    };
    finish(InTurn::new(points, by_path), patience, |point| point)
}

/// How long the reply to a thaw waits for file systems that nobody has frozen as far as we know.
const SHORT: Duration = Duration::from_secs(1);

fn finish<O: Clone + Send + 'static>(thaws: InTurn<O>, patience: Duration, point: impl Fn(&O) -> &Path) -> i64 {
    let (count, hanging) = thaws.finish(patience);
    for object in hanging {
        tracing::error!("the thaw of {} hangs", point(&object).display());
    }
    count
}

/// Takes back all freezes of a file system. Whether there was one.
fn thaw_fully(kernel: &dyn Kernel, dir: &File, round: &Round) -> bool {
    let mut thawed = false;
    while round.is_current() && kernel.thaw(dir.as_fd()).is_ok() {
        thawed = true;
    }
    thawed
}
