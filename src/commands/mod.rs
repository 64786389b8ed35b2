//! The command table: one row for each command, beside its handler.
//!
//! A command exists because it has a row. The list in `guest-info`, policy, the frozen rule, the
//! reply rule and the lane are all read from it.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::gate::Passed;
use crate::host::Host;
use crate::protocol::error::Result;
use crate::protocol::message::Members;
use crate::protocol::{args, reply};

pub mod agent;
pub mod cpu;
pub mod disk;
pub mod exec;
pub mod file;
pub mod filesystem;
pub mod fsfreeze;
#[cfg(test)]
pub mod golden;
pub mod memory;
#[cfg(test)]
mod missing;
pub mod network;
pub mod os;
pub mod password;
pub mod power;
pub mod ssh;
mod stop;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub mod user;

pub use stop::Stop;

/// All groups, in the order in which they are listed.
pub static GROUPS: &[&[Command]] = &[
    agent::COMMANDS,
    time::COMMANDS,
    power::COMMANDS,
    file::COMMANDS,
    fsfreeze::COMMANDS,
    filesystem::COMMANDS,
    disk::COMMANDS,
    network::COMMANDS,
    cpu::COMMANDS,
    memory::COMMANDS,
    exec::COMMANDS,
    password::COMMANDS,
    ssh::COMMANDS,
    os::COMMANDS,
    user::COMMANDS,
];

/// A row of the table.
pub struct Command {
    /// The word in `execute`.
    pub name: &'static str,
    /// Parses the arguments and does the work.
    run: Run,
    /// Where it runs, and what it waits for.
    pub lane: Lane,
    /// May be used while file systems are frozen.
    pub while_frozen: bool,
    /// Success is answered; false for those after which there may be nobody left to answer.
    pub replies: bool,
    /// Its arguments may be secrets: they are wiped from memory when it is done.
    pub secret: bool,
    /// A delimiter byte goes out before the successful reply (O3).
    pub delimited: bool,
}

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// On the loop: never touches a disk and never waits.
    Inline,
    /// On the loop, and a barrier: replies still owed to older requests are dropped (O8).
    Barrier,
    /// On the loop when it can be done without waiting, which costs a third of the way over a
    /// worker; else on a worker. It has no effect before it knows ([`Host::may_wait`]).
    Prompt,
    /// On a worker thread.
    Worker,
    /// On a worker thread, never while another of this kind runs (O9).
    Freeze,
}

type Run = for<'m> fn(&Ctx<'_>, Option<Members<'m>>) -> Result<Body>;

impl Command {
    /// A command that runs on a worker, answers, and is refused while frozen.
    pub(crate) const fn new(name: &'static str, run: Run) -> Command {
        Command { name, run, lane: Lane::Worker, while_frozen: false, replies: true, secret: false, delimited: false }
    }

    pub(crate) const fn lane(self, lane: Lane) -> Command {
        Command { lane, ..self }
    }

    pub(crate) const fn while_frozen(self) -> Command {
        Command { while_frozen: true, ..self }
    }

    pub(crate) const fn secret(self) -> Command {
        Command { secret: true, ..self }
    }

    pub(crate) const fn silent(self) -> Command {
        Command { replies: false, ..self }
    }

    pub(crate) const fn delimited(self) -> Command {
        Command { delimited: true, ..self }
    }

    /// Runs the command, which passed the gate.
    pub(crate) fn run(&self, cx: &Ctx<'_>, arguments: Option<Members<'_>>, _: Passed) -> Result<Body> {
        (self.run)(cx, arguments)
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The row of this name.
pub fn find(name: &str) -> Option<&'static Command> {
    all().find(|row| row.name == name)
}

/// All rows, in listing order.
pub fn all() -> impl Iterator<Item = &'static Command> {
    GROUPS.iter().copied().flatten()
}

/// All names, in listing order.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|row| row.name)
}

/// What a handler may touch.
pub struct Ctx<'a> {
    /// The agent with its files, children and settings.
    pub agent: &'a Agent,
    /// The machine, as far as this call may wait for it.
    pub host: &'a Host,
    stop: Stop,
    undo: RefCell<Option<Undo>>,
}

/// Takes back what a command made, when its reply was dropped and nobody was told of it.
pub type Undo = Box<dyn FnOnce(&Agent) + Send>;

impl<'a> Ctx<'a> {
    /// A context for one call.
    pub fn new(agent: &'a Agent, host: &'a Host) -> Ctx<'a> {
        Ctx::stoppable(agent, host, Stop::default())
    }

    /// A context for a call that may be asked to stop.
    pub fn stoppable(agent: &'a Agent, host: &'a Host, stop: Stop) -> Ctx<'a> {
        Ctx { agent, host, stop, undo: RefCell::new(None) }
    }

    /// Whether the rest of the work is not wanted any more.
    pub fn should_stop(&self) -> bool {
        self.stop.is_asked()
    }

    /// Says how to take back what this call makes, should its reply be dropped.
    pub fn undo_if_abandoned(&self, undo: impl FnOnce(&Agent) + Send + 'static) {
        *self.undo.borrow_mut() = Some(Box::new(undo));
    }

    /// What `undo_if_abandoned` left.
    pub fn take_undo(&self) -> Option<Undo> {
        self.undo.borrow_mut().take()
    }

    /// Typed arguments in, typed result out.
    pub(crate) fn call<'m, A, R>(
        &self,
        handler: impl FnOnce(&Ctx<'_>, A) -> Result<R>,
        arguments: Option<Members<'m>>,
    ) -> Result<Body>
    where
        A: Deserialize<'m>,
        R: Serialize,
    {
        let result = handler(self, args::parse(arguments)?)?;
        let mut json = Vec::new();
        reply::value(&mut json, &result);
        Ok(Body::Json(json))
    }

    /// As `call`, for results of megabytes that are produced while they are sent.
    fn stream<'m, A, S>(
        &self,
        handler: impl FnOnce(&Ctx<'_>, A) -> Result<S>,
        arguments: Option<Members<'m>>,
    ) -> Result<Body>
    where
        A: Deserialize<'m>,
        S: Stream + 'static,
    {
        Ok(Body::Stream(Box::new(handler(self, args::parse(arguments)?)?)))
    }
}

/// The `return` member.
pub enum Body {
    /// The whole value as JSON.
    Json(Vec<u8>),
    /// The value piece by piece.
    Stream(Box<dyn Stream>),
}

/// A value that is produced while it is sent, so that 48 MiB never lie in memory at once.
pub trait Stream: Send {
    /// Appends the next piece of the value's JSON text; false when that was the last one.
    fn next(&mut self, out: &mut Vec<u8>) -> bool;

    /// Appends what makes the pieces so far a complete value, in case no more may follow.
    fn cut(&self, out: &mut Vec<u8>);
}

/// `{}`: the result of commands that return nothing.
#[derive(Debug, Serialize)]
pub struct Empty {}
