//! The agent's side of the keeper.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use super::keeper::{ARGUMENT, NAME, Record, Word};
use crate::host::linux::passing;
use crate::host::linux::spawn::{self, Program};
use crate::protocol::error::os_reason;

/// Ourselves, even after an upgrade has replaced the file.
const SELF: &str = "/proc/self/exe";

/// Words that could not be sent at once, at most.
const LATE: usize = 4096;

/// The way to the keeper, if there is one.
#[derive(Default)]
pub(super) struct Link {
    socket: Option<OwnedFd>,
    /// Keepers that are our children.
    pids: Vec<Pid>,
    late: VecDeque<Word>,
}

impl Link {
    /// Has descriptors kept, by a new process if there is none.
    ///
    /// # Errors
    /// `WouldBlock` when the keeper has no time yet; else there is none to be had.
    pub fn keep(&mut self, word: &Word, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match word.send(socket, fds) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.socket = None,
                result => return result,
            }
        }
        word.send(self.start()?, fds)
    }

    /// Tells it something about what it keeps. What it cannot take yet is sent later.
    pub fn tell(&mut self, word: Word) {
        if self.socket.is_none() {
            return;
        }
        self.late.push_back(word);
        while let (Some(socket), Some(word)) = (&self.socket, self.late.front()) {
            match word.send(socket, &[]) {
                Ok(()) => drop(self.late.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.late.len() < LATE => return,
                Err(_) => self.close(),
            }
        }
    }

    /// As `tell`, with a descriptor, which is left out if that is not possible at once.
    pub fn tell_with(&mut self, word: Word, fd: Option<OwnedFd>) {
        if let (Some(socket), Some(fd)) = (&self.socket, fd) {
            if word.send(socket, &[fd.as_fd()]).is_ok() {
                return;
            }
        }
        self.tell(word);
    }

    /// Lets go of keepers that have ended.
    pub fn reap(&mut self) {
        self.pids.retain(|pid| matches!(spawn::reap_if_ended(*pid), Ok(None)));
    }

    fn close(&mut self) {
        self.socket = None;
        self.late.clear();
    }

    fn start(&mut self) -> io::Result<&OwnedFd> {
        self.late.clear();
        let (ours, theirs) = passing::pair()?;
        let program = Program {
            path: SELF,
            name: Some(NAME),
            args: &[ARGUMENT],
            env: Some(&[]),
            stdio: [Some(theirs.as_fd()), None, None],
        };
        self.pids.push(program.spawn()?);
        if passing::has_manager() {
            if let Err(error) = passing::store(ours.as_fd(), ARGUMENT) {
                tracing::warn!("results of programs will not outlive the agent: {}", os_reason(&error));
            }
        }
        Ok(self.socket.insert(ours))
    }

    /// Goes on with the keeper of an earlier agent, and gives what that keeps.
    pub fn adopt(&mut self, socket: OwnedFd) -> Vec<(Record, Vec<OwnedFd>)> {
        let mut kept = Vec::new();
        let asker = std::process::id();
        let _ = setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1));
        if Word::send(&Word::Take { asker }, &socket, &[]).is_err() {
            return kept;
        }
        loop {
            match Word::receive(&socket) {
                Ok(Some((Word::Kept { asker: of, record }, fds))) if of == asker => kept.push((record, fds)),
                Ok(Some((Word::All { asker: of }, _))) if of == asker => break,
                // What an agent before us has asked for and not read.
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => {
                    tracing::warn!("programs of an earlier agent could not all be taken over");
                    break;
                }
            }
        }
        self.socket = Some(socket);
        kept
    }
}
