//! The process that holds the reading ends of captured pipes beside the agent, so that no end of the
//! agent reaches a program: our own program, started with a word that no option looks like.
//!
//! It only holds them as long as the other end of its socket is open. That end is the agent's, and the
//! service manager's between two agents: the next one asks for all there is. When nobody has it any
//! more, the pipes are emptied to nowhere until their programs end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};

use crate::host::linux::spawn::Exit;
use crate::host::linux::{descriptors, passing};

/// The first argument of the process.
pub(super) const ARGUMENT: &str = "exec-keeper";

/// What others see it as; not the agent's name, by which scripts end the agent.
pub(super) const NAME: &str = "qga-keeper";

/// Without anything to hold it ends after this.
const IDLE: Duration = Duration::from_secs(5);

/// How long an agent may take to read what it has asked for.
const ANSWER: Duration = Duration::from_secs(1);

/// What the agent and the process tell each other.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Word {
    /// Descriptors of a program, in this order.
    Keep {
        serial: u64,
        parts: Vec<Part>,
    },
    /// It has been started; a handle of its process may come with the word.
    Started {
        serial: u64,
        pid: i32,
    },
    Ended {
        serial: u64,
        exit: Exit,
    },
    Forget {
        serial: u64,
    },
    /// A new agent asks for all there is; the number is in every answer.
    Take {
        asker: u32,
    },
    Kept {
        asker: u32,
        record: Record,
    },
    All {
        asker: u32,
    },
}

/// What is known of a program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub serial: u64,
    pub pid: Option<i32>,
    pub exit: Option<Exit>,
    pub parts: Vec<Part>,
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Part {
    OutPipe,
    OutData,
    ErrPipe,
    ErrData,
    Process,
}

impl Word {
    pub fn send(&self, socket: &impl AsFd, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        passing::send(socket, &serde_json::to_vec(self)?, fds)
    }

    /// `None` at the end.
    pub fn receive(socket: &impl AsFd) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
        let (bytes, fds) = passing::receive(socket)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes)?, fds)))
    }
}

/// The process itself, if that is what the arguments say; true when it is over.
///
/// Has to be called before anything else is done.
pub fn main_if_asked() -> bool {
    if std::env::args_os().nth(1).is_none_or(|first| first != ARGUMENT) {
        return false;
    }
    descriptors::raise_limit();
    let _ = nix::sys::prctl::set_name(c"qga-keeper");
    if let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() {
        Keeper { socket, held: BTreeMap::new() }.run();
    }
    true
}

struct Keeper {
    socket: OwnedFd,
    held: BTreeMap<u64, (Record, Vec<OwnedFd>)>,
}

impl Keeper {
    fn run(mut self) {
        loop {
            let idle = PollTimeout::try_from(IDLE).unwrap_or(PollTimeout::MAX);
            let wait = if self.held.is_empty() { idle } else { PollTimeout::NONE };
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Err(Errno::EINTR) => continue,
                Ok(0) => {
                    // What was sent before this is still received, and an agent that comes later sees
                    // that it needs another process.
                    let _ = shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.socket), Shutdown::Read);
                    while let Ok(Some((word, fds))) = Word::receive(&self.socket) {
                        self.take(word, fds);
                    }
                    break;
                }
                _ => {}
            }
            match Word::receive(&self.socket) {
                Ok(Some((word, fds))) => self.take(word, fds),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A word of another version: what it is about is held already, or cannot be.
                Err(error) if error.raw_os_error().is_none() => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.drain();
    }

    fn take(&mut self, word: Word, fds: Vec<OwnedFd>) {
        match word {
            Word::Keep { serial, parts } => {
                self.held.insert(serial, (Record { serial, parts, ..Record::default() }, fds));
            }
            Word::Started { serial, pid } => {
                if let Some((record, held)) = self.held.get_mut(&serial) {
                    record.pid = Some(pid);
                    record.parts.extend(fds.iter().map(|_| Part::Process));
                    held.extend(fds);
                }
            }
            Word::Ended { serial, exit } => {
                if let Some((record, _)) = self.held.get_mut(&serial) {
                    record.exit = Some(exit);
                }
            }
            Word::Forget { serial } => drop(self.held.remove(&serial)),
            Word::Take { asker } => self.answer(asker),
            Word::Kept { .. } | Word::All { .. } => {}
        }
    }

    fn answer(&self, asker: u32) {
        let send = |word: Word, fds: &[OwnedFd]| {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match word.send(&self.socket, &fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let limit = PollTimeout::try_from(ANSWER).unwrap_or(PollTimeout::MAX);
                    let _ = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], limit);
                    word.send(&self.socket, &fds)
                }
                result => result,
            }
        };
        for (record, fds) in self.held.values() {
            if send(Word::Kept { asker, record: record.clone() }, fds).is_err() {
                return;
            }
        }
        let _ = send(Word::All { asker }, &[]);
    }

    /// Empties the pipes to their ends, once nobody else does.
    fn drain(self) {
        let is_pipe = |part: &Part| matches!(part, Part::OutPipe | Part::ErrPipe);
        let mut pipes = Vec::new();
        for (record, fds) in self.held.into_values() {
            let parts = record.parts.iter().zip(fds);
            pipes.extend(parts.filter(|(part, _)| is_pipe(part)).map(|(_, fd)| File::from(fd)));
        }
        let mut scratch = vec![0; 64 << 10];
        let mut alone = false;
        while !pipes.is_empty() {
            let events = if alone { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut fds: Vec<_> = pipes.iter().map(|pipe| PollFd::new(pipe.as_fd(), events)).collect();
            if !alone {
                fds.push(PollFd::new(self.socket.as_fd(), PollFlags::empty()));
            }
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let happened: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            let was_alone = alone;
            alone |= happened.len() > pipes.len() && happened[pipes.len()];
            let mut happened = happened.into_iter();
            pipes.retain_mut(|pipe| {
                if !happened.next().unwrap_or(false) {
                    return true;
                }
                if !was_alone {
                    // Its writers are gone, and what is in it is the agent's to read.
                    return false;
                }
                match pipe.read(&mut scratch) {
                    Ok(0) => false,
                    Ok(_) => true,
                    Err(error) => matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
                }
            });
        }
    }
}
