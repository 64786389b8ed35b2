//! One thread that reads the output and feeds the input of all programs, while there are any.
//!
//! Invariant: the thread lives as long as it has pipes, and no longer. It never holds a lock while
//! it reads or writes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use zeroize::Zeroizing;

use super::children::{Shared, Stream};
use super::output::Output;

/// Captured bytes kept of each stream; what comes after them is read and thrown away.
pub(super) const CAPTURE_LIMIT: usize = 16 << 20;

/// Captured bytes kept of all programs that run, together. 256 of them may, and a guest must not be
/// driven out of memory by what they print.
const CAPTURE_ALL: usize = 256 << 20;

/// Read from one pipe before the others have their turn.
const TURN: u64 = 1 << 20;

/// Events fetched at a time.
const EVENTS: usize = 64;

/// Our end of a pipe, non-blocking.
pub(super) struct Pipe {
    pub file: File,
    pub task: Task,
}

/// What is done with a pipe.
pub(super) enum Task {
    /// Collects what a program writes.
    Collect { serial: u64, stream: Stream, output: Output },
    /// Feeds a program what it reads; it may hold secrets.
    Feed { input: Zeroizing<Vec<u8>>, done: usize },
}

/// The way to the thread.
#[derive(Default)]
pub(super) struct Collector {
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// Not seen by the thread yet.
    pipes: Vec<Pipe>,
    /// Where the thread waits; `None` when there is no thread.
    epoll: Option<Arc<Epoll>>,
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Hands pipes to the thread, which is started when there is none.
    ///
    /// # Errors
    /// The system has no thread or no memory left; none of the pipes was taken.
    pub fn take(shared: &Arc<Shared>, pipes: Vec<Pipe>) -> io::Result<()> {
        let mut inbox = shared.collector.lock();
        let started = inbox.epoll.is_some();
        let epoll = match &inbox.epoll {
            Some(epoll) => Arc::clone(epoll),
            None => Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?),
        };
        for pipe in &pipes {
            if let Err(errno) = epoll.add(&pipe.file, pipe.event()) {
                // Those before it must not be reported after they are closed here.
                for pipe in &pipes {
                    let _ = epoll.delete(&pipe.file);
                }
                return Err(errno.into());
            }
        }
        if !started {
            let thread = Thread {
                shared: Arc::clone(shared),
                epoll: Arc::clone(&epoll),
                pipes: HashMap::new(),
                room: CAPTURE_ALL,
                scratch: Vec::new(),
            };
            std::thread::Builder::new().name("exec-output".into()).spawn(move || thread.run())?;
            inbox.epoll = Some(epoll);
        }
        inbox.pipes.extend(pipes);
        Ok(())
    }

    #[cfg(test)]
    pub fn is_running(&self) -> bool {
        self.lock().epoll.is_some()
    }

    /// For the thread: what came since; `None` when it is over, because there is nothing to do.
    fn fetch(&self, idle: bool) -> Option<Vec<Pipe>> {
        let mut inbox = self.lock();
        if idle && inbox.pipes.is_empty() {
            *inbox = Inbox::default();
            return None;
        }
        Some(std::mem::take(&mut inbox.pipes))
    }
}

struct Thread {
    shared: Arc<Shared>,
    epoll: Arc<Epoll>,
    /// By the number of their descriptor, which is what an event bears.
    pipes: HashMap<u64, Pipe>,
    /// What is left of [`CAPTURE_ALL`].
    room: usize,
    scratch: Vec<u8>,
}

impl Thread {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        while let Some(new) = self.shared.collector.fetch(self.pipes.is_empty()) {
            self.pipes.extend(new.into_iter().map(|pipe| (pipe.key(), pipe)));
            // Interrupted or not, what did not come is not looked at.
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            for event in &events[..count] {
                self.serve(event.data());
            }
        }
    }

    fn serve(&mut self, key: u64) {
        // A pipe that is not here yet comes with the next `fetch`, and its event again.
        let Some(pipe) = self.pipes.get_mut(&key) else { return };
        if pipe.turn(&mut self.room, &mut self.scratch) {
            return;
        }
        let Some(pipe) = self.pipes.remove(&key) else { return };
        let _ = self.epoll.delete(&pipe.file);
        drop(pipe.file);
        if let Task::Collect { serial, stream, output } = pipe.task {
            // From here on it counts among the finished ones.
            self.room += output.data.len();
            self.shared.stream_ended(serial, stream, output);
        }
    }
}

impl Pipe {
    fn key(&self) -> u64 {
        u64::from(self.file.as_fd().as_raw_fd().unsigned_abs())
    }

    fn event(&self) -> EpollEvent {
        let flags = match self.task {
            Task::Collect { .. } => EpollFlags::EPOLLIN,
            Task::Feed { .. } => EpollFlags::EPOLLOUT,
        };
        EpollEvent::new(flags, self.key())
    }

    /// Reads or writes what can be now. False when that was all there is to do with the pipe.
    pub fn turn(&mut self, room: &mut usize, scratch: &mut Vec<u8>) -> bool {
        match &mut self.task {
            Task::Collect { output, .. } => {
                let before = output.data.len();
                let more = collect(&mut self.file, output, *room, scratch);
                *room = room.saturating_sub(output.data.len() - before);
                more
            }
            Task::Feed { input, done } => feed(&mut self.file, input, done),
        }
        .unwrap_or_else(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn collect(pipe: &mut File, output: &mut Output, room: usize, scratch: &mut Vec<u8>) -> io::Result<bool> {
    let room = room.min(CAPTURE_LIMIT.saturating_sub(output.data.len()));
    // Nothing is kept any more behind a piece that was not.
    if room > 0 && !output.truncated {
        let turn = TURN.min(room as u64);
        return output.read_from(pipe, turn, scratch).map(|read| read == turn);
    }
    scratch.resize(64 << 10, 0);
    for _ in 0..TURN / scratch.len() as u64 {
        match pipe.read(scratch) {
            Ok(0) => return Ok(false),
            Ok(_) => output.cut(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn feed(pipe: &mut File, input: &[u8], done: &mut usize) -> io::Result<bool> {
    while *done < input.len() {
        match pipe.write(&input[*done..]) {
            Ok(written) => *done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_programs_print_together_is_bounded_and_said_to_be_cut() {
        let pipe = |text: &[u8]| {
            let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).expect("a pipe");
            File::from(write).write_all(text).expect("room in the pipe");
            let task = Task::Collect { serial: 0, stream: Stream::Out, output: Output::default() };
            Pipe { file: read.into(), task }
        };
        let (mut room, mut scratch) = (10, Vec::new());
        let mut run = |mut pipe: Pipe| {
            while pipe.turn(&mut room, &mut scratch) {}
            match pipe.task {
                Task::Collect { output, .. } => (output.data.len(), output.truncated),
                Task::Feed { .. } => panic!("it collects"),
            }
        };
        assert_eq!(run(pipe(&[0; 7])), (7, false));
        assert_eq!(run(pipe(&[0; 7])), (3, true));
        assert_eq!(run(pipe(&[0; 1])), (0, true));
        assert_eq!(run(pipe(&[])), (0, false));
    }
}
