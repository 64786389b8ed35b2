//! The programs started by `guest-exec` whose result has not been handed out yet.
//!
//! A program that ended is waited for at once, so that no zombie is left for others to count. Its id
//! may name another program then: of two with the same id only the younger one's result is kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::collector::{Collector, Pipe};
use crate::config::Limits;
use crate::host::linux::spawn::{self, Exit};
use crate::protocol::error::os_reason;

/// Output of one stream.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// What was written, up to [`super::collector::CAPTURE_LIMIT`].
    pub data: Vec<u8>,
    /// More than that was written.
    pub truncated: bool,
}

/// What becomes of a program's standard output or error.
#[derive(Debug)]
pub(super) enum Capture {
    /// It goes to `/dev/null`, or to the other stream.
    Off,
    /// Somebody can still write to it.
    Open,
    /// Everybody who could write to it is gone.
    Done(Arc<Output>),
}

impl Capture {
    fn bytes(&self) -> usize {
        match self {
            Capture::Done(output) => output.data.len(),
            Capture::Off | Capture::Open => 0,
        }
    }
}

/// The result of a program.
#[derive(Debug)]
pub(super) struct Outcome {
    pub exit: Exit,
    pub out: Option<Arc<Output>>,
    pub err: Option<Arc<Output>>,
}

impl Outcome {
    /// Size of the output.
    pub fn bytes(&self) -> usize {
        [&self.out, &self.err].into_iter().flatten().map(|output| output.data.len()).sum()
    }
}

#[derive(Debug)]
struct Child {
    pid: Pid,
    /// Tells apart children that had the same id one after the other.
    serial: u64,
    /// How it ended, once it was waited for.
    exit: Option<Exit>,
    out: Capture,
    err: Capture,
}

impl Child {
    /// Lets go of the process if it has ended.
    fn reap(&mut self) {
        if self.exit.is_some() {
            return;
        }
        self.exit = spawn::reap_if_ended(self.pid).unwrap_or_else(|error| {
            tracing::warn!("the exit status of process {} is lost: {}", self.pid, os_reason(&error));
            Some(Exit::Code(255))
        });
    }

    /// Whether its result can be handed out.
    fn is_finished(&mut self) -> bool {
        self.reap();
        self.exit.is_some() && !matches!(self.out, Capture::Open) && !matches!(self.err, Capture::Open)
    }

    fn bytes(&self) -> usize {
        self.out.bytes() + self.err.bytes()
    }
}

/// Which stream of a program a pipe carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// The table of all programs, shared with the thread that collects their output.
pub struct Children {
    shared: Arc<Shared>,
}

/// What handlers and the collector have in common.
#[derive(Default)]
pub(super) struct Shared {
    table: Mutex<Table>,
    pub collector: Collector,
}

#[derive(Default)]
struct Table {
    /// Oldest first.
    children: Vec<Child>,
    /// Slots taken for programs that are being started.
    starting: usize,
    next_serial: u64,
    finished_children: usize,
    finished_bytes: usize,
}

/// Leave to start one more program.
pub(super) struct Slot<'a> {
    shared: &'a Arc<Shared>,
}

impl Default for Children {
    fn default() -> Children {
        Children::new()
    }
}

impl Children {
    /// An empty table.
    pub fn new() -> Children {
        Children { shared: Arc::default() }
    }

    /// Takes a slot for one more program; `None` when too many run.
    pub(super) fn reserve(&self, limits: &Limits) -> Option<Slot<'_>> {
        let mut table = self.shared.lock();
        table.finished_children = limits.finished_children;
        table.finished_bytes = limits.finished_bytes;
        // Looking at all is only worth it when a limit can have been reached.
        let mut running = table.children.len();
        if running >= limits.running_children.min(limits.finished_children) {
            running = table.drop_oldest();
        }
        if running + table.starting >= limits.running_children {
            return None;
        }
        table.starting += 1;
        Some(Slot { shared: &self.shared })
    }

    /// Lets go of those that have ended; their results stay. To be called when a child did.
    pub(crate) fn reap(&self) {
        self.shared.lock().children.iter_mut().for_each(Child::reap);
    }

    /// How much output of a program is there to be handed out.
    pub(super) fn captured(&self, pid: i64) -> usize {
        let table = self.shared.lock();
        let mut children = table.children.iter();
        children.find(|child| i64::from(child.pid.as_raw()) == pid).map_or(0, Child::bytes)
    }

    /// Takes out the result of a program, `Ok(None)` while it runs.
    pub(super) fn take(&self, pid: i64) -> Result<Option<Outcome>, Unknown> {
        let mut table = self.shared.lock();
        let mut children = table.children.iter_mut();
        let at = children.position(|child| i64::from(child.pid.as_raw()) == pid).ok_or(Unknown)?;
        if !table.children[at].is_finished() {
            return Ok(None);
        }
        let child = table.children.remove(at);
        if table.children.is_empty() {
            table.children = Vec::new();
        }
        let output = |capture| match capture {
            Capture::Done(output) => Some(output),
            Capture::Off | Capture::Open => None,
        };
        let exit = child.exit.ok_or(Unknown)?;
        Ok(Some(Outcome { exit, out: output(child.out), err: output(child.err) }))
    }

    /// Puts back a result that could not be delivered. Its id may be in use again by now, also by
    /// a younger child of ours, which then is the one that counts.
    pub(super) fn put_back(&self, pid: i64, outcome: Outcome) {
        let mut table = self.shared.lock();
        let Ok(pid) = i32::try_from(pid).map(Pid::from_raw) else { return };
        if table.children.iter().any(|child| child.pid == pid) {
            return;
        }
        let capture = |output: Option<_>| output.map_or(Capture::Off, Capture::Done);
        let child = Child {
            pid,
            serial: table.serial(),
            exit: Some(outcome.exit),
            out: capture(outcome.out),
            err: capture(outcome.err),
        };
        table.children.push(child);
        table.drop_oldest();
    }
}

#[cfg(test)]
impl Children {
    /// As if the kernel had given a child another id.
    pub fn rename(&self, from: i64, to: Pid) {
        for child in &mut self.shared.lock().children {
            if i64::from(child.pid.as_raw()) == from {
                child.pid = to;
            }
        }
    }

    /// Whether there is a thread for output.
    pub fn is_collecting(&self) -> bool {
        self.shared.collector.is_running()
    }
}

/// No such program was started, or its result was handed out already.
#[derive(Debug)]
pub(super) struct Unknown;

impl Slot<'_> {
    /// Enters a program that was started, and has its pipes looked after.
    ///
    /// # Errors
    /// There is no thread to be had for that. The program was killed.
    pub fn enter(self, pid: Pid, pipes: impl FnOnce(u64) -> Vec<Pipe>, captured: [bool; 2]) -> io::Result<()> {
        let mut table = self.shared.lock();
        let serial = table.serial();
        let pipes = pipes(serial);
        if !pipes.is_empty() {
            if let Err(error) = Collector::take(self.shared, pipes) {
                drop(table);
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = spawn::reap(pid);
                return Err(error);
            }
        }
        let [out, err] = captured.map(|yes| if yes { Capture::Open } else { Capture::Off });
        table.children.retain(|child| {
            if child.pid == pid {
                tracing::warn!("result of process {pid} dropped: its id is in use again, and nobody had asked for it");
            }
            child.pid != pid
        });
        let mut child = Child { pid, serial, exit: None, out, err };
        // It may have ended before it was in the table.
        child.reap();
        table.children.push(child);
        Ok(())
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.shared.lock().starting -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Enters the output of a stream after everybody who could write to it is gone.
    pub fn stream_ended(&self, serial: u64, stream: Stream, output: Output) {
        let mut table = self.lock();
        if let Some(child) = table.children.iter_mut().find(|child| child.serial == serial) {
            let slot = match stream {
                Stream::Out => &mut child.out,
                Stream::Err => &mut child.err,
            };
            *slot = Capture::Done(Arc::new(output));
        }
        if table.children.iter().map(Child::bytes).sum::<usize>() > table.finished_bytes {
            table.drop_oldest();
        }
    }
}

impl Table {
    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Drops the oldest results until the limits are kept. Returns how many programs still run.
    fn drop_oldest(&mut self) -> usize {
        // All output counts, also that of a program which has closed its streams and not ended yet.
        let mut bytes: usize = self.children.iter().map(Child::bytes).sum();
        let mut finished: Vec<(u64, usize)> = Vec::new();
        for child in &mut self.children {
            if child.is_finished() {
                finished.push((child.serial, child.bytes()));
            }
        }
        let running = self.children.len() - finished.len();
        let mut left = finished.len();
        for (serial, size) in finished {
            if left <= self.finished_children && bytes <= self.finished_bytes {
                break;
            }
            left -= 1;
            bytes -= size;
            if let Some(at) = self.children.iter().position(|child| child.serial == serial) {
                let pid = self.children.remove(at).pid;
                tracing::warn!("result of process {pid} dropped, {size} bytes of output: nobody asked for it");
            }
        }
        running
    }
}
