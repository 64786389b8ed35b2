//! The programs started by `guest-exec` whose result has not been handed out yet.
//!
//! A program that ended is waited for at once, so that no zombie is left for others to count. Its id
//! may name another program then: of two with the same id only the younger one's result is kept.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::collector::{Collector, Pipe, Task};
use super::keeper::{Part, Record, Word};
use super::link::Link;
use super::output::Output;
use crate::config::Limits;
use crate::host::linux::spawn::{self, Exit};
use crate::host::linux::{other, passing};
use crate::protocol::error::os_reason;

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
    /// Of a program that an earlier agent has started: the handle of its process, if there is one.
    adopted: Option<Option<OwnedFd>>,
    out: Capture,
    err: Capture,
}

impl Child {
    /// Lets go of the process if it has ended.
    fn reap(&mut self, keeper: &mut Link) {
        if self.exit.is_some() {
            return;
        }
        if let Some(handle) = &self.adopted {
            self.exit = handle.as_ref().map_or(Some(Exit::Unknown), other::exit);
            return;
        }
        self.exit = spawn::reap_if_ended(self.pid).unwrap_or_else(|error| {
            tracing::warn!("the exit status of process {} is lost: {}", self.pid, os_reason(&error));
            Some(Exit::Code(255))
        });
        if let Some(exit) = self.exit.filter(|_| passing::has_manager()) {
            keeper.tell(Word::Ended { serial: self.serial, exit });
        }
    }

    /// Whether its result can be handed out.
    fn is_finished(&mut self, keeper: &mut Link) -> bool {
        self.reap(keeper);
        self.exit.is_some() && !matches!(self.out, Capture::Open) && !matches!(self.err, Capture::Open)
    }

    /// A program of an earlier agent, and what is to be read of it; `None` if that agent ended before
    /// it was started.
    fn adopt(record: Record, fds: Vec<OwnedFd>) -> Option<(Child, Vec<Pipe>)> {
        let serial = record.serial;
        let mut fds: HashMap<Part, File> = record.parts.into_iter().zip(fds.into_iter().map(File::from)).collect();
        let mut pipes = Vec::new();
        let mut capture = |pipe, data, stream| match fds.remove(&pipe) {
            Some(file) => {
                let output = fds.remove(&data).map_or_else(Output::default, Output::adopted);
                pipes.push(Pipe { file, task: Task::Collect { serial, stream, output } });
                Capture::Open
            }
            None => Capture::Off,
        };
        let out = capture(Part::OutPipe, Part::OutData, Stream::Out);
        let err = capture(Part::ErrPipe, Part::ErrData, Stream::Err);
        let adopted = Some(fds.remove(&Part::Process).map(OwnedFd::from));
        let pid = Pid::from_raw(record.pid?);
        Some((Child { pid, serial, exit: record.exit, adopted, out, err }, pipes))
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
    keeper: Link,
    finished_children: usize,
    finished_bytes: usize,
}

/// Leave to start one more program.
pub(super) struct Slot<'a> {
    shared: &'a Arc<Shared>,
    serial: u64,
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
        table.limit(limits);
        // Looking at all is only worth it when a limit can have been reached.
        let mut running = table.children.len();
        if running >= limits.running_children.min(limits.finished_children) {
            running = table.drop_oldest();
        }
        if running + table.starting >= limits.running_children {
            return None;
        }
        table.starting += 1;
        Some(Slot { shared: &self.shared, serial: table.serial() })
    }

    /// Lets go of those that have ended; their results stay. To be called when a child did.
    pub(crate) fn reap(&self) {
        let mut table = self.shared.lock();
        let Table { children, keeper, .. } = &mut *table;
        children.iter_mut().for_each(|child| child.reap(keeper));
        keeper.reap();
    }

    /// Goes on with the programs of an earlier agent.
    pub fn adopt(&self, keeper: OwnedFd, limits: &Limits) {
        let mut table = self.shared.lock();
        table.limit(limits);
        for (record, fds) in table.keeper.adopt(keeper) {
            table.next_serial = table.next_serial.max(record.serial);
            let serial = record.serial;
            match Child::adopt(record, fds) {
                Some((child, pipes)) => {
                    tracing::info!("process {} was started by an earlier agent", child.pid);
                    table.children.push(child);
                    if let Err(error) = Collector::take(&self.shared, pipes) {
                        tracing::warn!("the output of a program cannot be collected: {}", os_reason(&error));
                    }
                }
                None => table.keeper.tell(Word::Forget { serial }),
            }
        }
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
        let Table { children, keeper, .. } = &mut *table;
        if !children[at].is_finished(keeper) {
            return Ok(None);
        }
        let child = children.remove(at);
        keeper.tell(Word::Forget { serial: child.serial });
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
            adopted: None,
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

/// How long the keeper may take to take one more program.
const KEEP: Duration = Duration::from_secs(1);

impl Slot<'_> {
    /// Has the descriptors of a program that is about to be started kept for the case that the agent
    /// ends. Without that the program is started all the same.
    pub fn keep(&self, parts: &[(Part, BorrowedFd<'_>)]) {
        let (parts, fds): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
        let word = Word::Keep { serial: self.serial, parts };
        let end = Instant::now() + KEEP;
        loop {
            let result = self.shared.lock().keeper.keep(&word, &fds);
            match result {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    tracing::warn!("the output of a program is lost when the agent ends: {}", os_reason(&error));
                    return;
                }
            }
        }
    }

    /// The program could not be started.
    pub fn forget(&self) {
        self.shared.lock().keeper.tell(Word::Forget { serial: self.serial });
    }

    /// Enters a program that was started, and has its pipes looked after.
    ///
    /// # Errors
    /// There is no thread to be had for that. The program was killed.
    pub fn enter(self, pid: Pid, pipes: impl FnOnce(u64) -> Vec<Pipe>, captured: [bool; 2]) -> io::Result<()> {
        let mut table = self.shared.lock();
        let serial = self.serial;
        let pipes = pipes(serial);
        if !pipes.is_empty() {
            if let Err(error) = Collector::take(self.shared, pipes) {
                table.keeper.tell(Word::Forget { serial });
                drop(table);
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = spawn::reap(pid);
                return Err(error);
            }
        }
        let [out, err] = captured.map(|yes| if yes { Capture::Open } else { Capture::Off });
        let Table { children, keeper, .. } = &mut *table;
        children.retain(|child| {
            if child.pid == pid {
                tracing::warn!("result of process {pid} dropped: its id is in use again, and nobody had asked for it");
                keeper.tell(Word::Forget { serial: child.serial });
            }
            child.pid != pid
        });
        if passing::has_manager() {
            keeper.tell_with(Word::Started { serial, pid: pid.as_raw() }, other::handle(pid).ok());
        }
        let mut child = Child { pid, serial, exit: None, adopted: None, out, err };
        // It may have ended before it was in the table.
        child.reap(keeper);
        children.push(child);
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
        let Table { children, keeper, .. } = &mut *table;
        if let Some(child) = children.iter_mut().find(|child| child.serial == serial) {
            let slot = match stream {
                Stream::Out => &mut child.out,
                Stream::Err => &mut child.err,
            };
            *slot = Capture::Done(Arc::new(output));
            let open = [&child.out, &child.err].iter().any(|capture| matches!(capture, Capture::Open));
            if !open && !passing::has_manager() {
                keeper.tell(Word::Forget { serial });
            }
        }
        if table.children.iter().map(Child::bytes).sum::<usize>() > table.finished_bytes {
            table.drop_oldest();
        }
    }
}

impl Table {
    fn limit(&mut self, limits: &Limits) {
        self.finished_children = limits.finished_children;
        self.finished_bytes = limits.finished_bytes;
    }

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
            if child.is_finished(&mut self.keeper) {
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
                let Child { pid, serial, .. } = self.children.remove(at);
                self.keeper.tell(Word::Forget { serial });
                tracing::warn!("result of process {pid} dropped, {size} bytes of output: nobody asked for it");
            }
        }
        running
    }
}
