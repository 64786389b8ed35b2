//! File systems in our hands: opened, written back, frozen and thawed through one descriptor each.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::deadline::Deadline;
use super::plan::Planned;
use crate::agent::Agent;
use crate::host::Host;
use crate::protocol::error::{Error, Result, os_reason};

/// A file system that is in our hands.
#[derive(Clone)]
pub(super) struct Held {
    point: PathBuf,
    dir: Arc<File>,
}

/// Opens every mount point while nothing is frozen yet.
pub(super) fn open_all(agent: &Agent, planned: Vec<Planned>) -> Result<Vec<Held>> {
    let mut held = Vec::with_capacity(planned.len());
    for Planned { mount, skip, .. } in planned {
        let point = mount.point;
        if let Some(why) = skip {
            tracing::warn!("{} is not frozen: {why}", point.display());
            continue;
        }
        match open(&agent.host, &point) {
            Ok(dir) => held.push(Held { point, dir: Arc::new(dir) }),
            Err(error) if agent.config().fsfreeze.best_effort => {
                tracing::warn!("{} is not frozen: {}", point.display(), os_reason(&error));
            }
            Err(error) => return Err(Error::os(format!("failed to open {}", point.display()), &error)),
        }
    }
    Ok(held)
}

pub(super) fn open(host: &Host, point: &Path) -> std::io::Result<File> {
    open_path(&host.path(point))
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

impl Held {
    /// Takes back all freezes. Whether there was one.
    pub(super) fn thaw(&self, agent: &Agent) -> bool {
        thaw_fully(agent, &self.dir)
    }
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
    let take_back = move |held: &Held, attempt| {
        if matches!(attempt, Attempt::Frozen) {
            let _ = of_late.thaw(held.dir.as_fd());
        }
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
            None => return (frozen, Some(late("freeze", &file_system.point, patience))),
        }
    }
    (frozen, None)
}

/// The deadline of a call has passed.
fn late(what: &str, point: &Path, patience: Duration) -> Error {
    Error::new(format!("failed to {what} {}: not done after {} s", point.display(), patience.as_secs()))
}

/// Takes back all freezes of a file system. Whether there was one.
pub(super) fn thaw_fully(agent: &Agent, dir: &File) -> bool {
    let mut thawed = false;
    while agent.host.kernel().thaw(dir.as_fd()).is_ok() {
        thawed = true;
    }
    thawed
}
