//! Logical processors: which there are, starting and stopping them, and what they did.

use std::io;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Command, Lane};
use crate::host::Host;
use crate::host::linux::cpu::{self, Cpu, Times};
use crate::protocol::args;
use crate::protocol::error::{Error, Result, os_reason};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-get-vcpus", |cx, a| cx.call(|cx, args| vcpus(cx.host, args), a)).lane(Lane::Prompt),
    Command::new("guest-set-vcpus", |cx, a| cx.call(|cx, args| set_vcpus(cx.host, args), a)),
    Command::new("guest-get-cpustats", |cx, a| cx.call(|cx, args| cpustats(cx.host, args), a)).lane(Lane::Prompt),
];

/// All processors of one request together may take this long to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists the processors that are there, by number, each with all three members (O19).
fn vcpus(host: &Host, _: args::Empty) -> Result<Vec<Cpu>> {
    let cpus = list(host)?;
    if cpus.is_empty() {
        return Err(Error::new("guest reported zero VCPUs"));
    }
    Ok(cpus)
}

fn list(host: &Host) -> Result<Vec<Cpu>> {
    let failed = |reason| Error::os(format!("failed to list entries: {}", cpu::DIRECTORY), &reason);
    cpu::all(host).map_err(failed)
}

#[derive(Debug, Deserialize)]
struct SetVcpus {
    vcpus: Vec<Wish>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wish {
    logical_id: i64,
    online: bool,
    #[serde(rename = "can-offline")]
    _can_offline: Option<bool>,
}

/// Starts and stops processors in the order given, up to the first that fails. Returns how many
/// were done, also those that were so already; it is an error only when that is none (O20).
fn set_vcpus(host: &Host, args: SetVcpus) -> Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    for (done, wish) in args.vcpus.iter().enumerate() {
        match set(host, wish, deadline) {
            Ok(()) => {}
            Err(error) if done == 0 => return Err(error),
            Err(error) => {
                tracing::warn!("guest-set-vcpus stopped at processor {}: {error}", wish.logical_id);
                return Ok(done);
            }
        }
    }
    Ok(args.vcpus.len())
}

fn set(host: &Host, wish: &Wish, deadline: Instant) -> Result<()> {
    let id = wish.logical_id;
    let switch = cpu::switch(host, id).map_err(|reason| {
        let file = if host.exists(cpu::directory(id)) { "online" } else { "" };
        Error::os(format!("Could not open '{}{file}'", cpu::directory(id)), &reason)
    })?;
    match switch {
        Some(online) if online == wish.online => Ok(()),
        None if wish.online => Ok(()),
        None => Err(Error::new(format!("logical processor #{id} can't be offlined"))),
        Some(_) if !wish.online && is_last(host, id)? => {
            Err(Error::new(format!("logical processor #{id} can't be offlined: no other one is online")))
        }
        Some(_) => cpu::set_switch(host, id, wish.online, deadline).map_err(|reason| refused(id, &reason)),
    }
}

/// Whether no other processor runs. The kernel would refuse, too, but with a less clear word.
fn is_last(host: &Host, id: i64) -> Result<bool> {
    Ok(!list(host)?.iter().any(|cpu| cpu.online && i64::from(cpu.id) != id))
}

fn refused(id: i64, reason: &io::Error) -> Error {
    Error::new(format!("pwrite(\"{}online\"): {}", cpu::directory(id), os_reason(reason)))
}

/// Lists what each running processor did since the guest started.
fn cpustats(host: &Host, _: args::Empty) -> Result<Vec<Times>> {
    cpu::times(host).map_err(|reason| Error::os(format!("Could not open '{}'", cpu::TIMES), &reason))
}

#[cfg(test)]
mod tests;
