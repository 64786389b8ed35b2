//! Processors and memory that are plugged in are put on line as they appear (`[hotplug]`).
//!
//! What is there already stays as it is: the host, or an operator, may have put it off line. So it
//! is remembered what there is, and only what is new is touched; an `add` alone says little, since
//! `udevadm trigger` makes the kernel say it again of everything.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use crate::config;
use crate::host::Host;
use crate::host::linux::uevent::Uevent;
use crate::host::linux::{cpu, memory};
use crate::log::AUDIT;
use crate::protocol::error::os_reason;

/// How long each may take to come on line.
const PATIENCE: Duration = Duration::from_secs(60);

/// More news than this are not kept; then all devices are looked at.
const BACKLOG: usize = 1 << 14;

/// What can be plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A processor.
    Cpu(u32),
    /// A block of memory.
    Memory(u64),
}

impl Part {
    fn is_wanted(self, wanted: config::Hotplug) -> bool {
        match self {
            Part::Cpu(_) => wanted.cpus,
            Part::Memory(_) => wanted.memory,
        }
    }

    /// As the log names it.
    fn name(self) -> String {
        match self {
            Part::Cpu(id) => format!("processor {id}"),
            Part::Memory(block) => format!("memory block {block}"),
        }
    }
}

/// What has happened and is not looked after yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    changes: Vec<(Part, bool)>,
    lost: bool,
}

impl News {
    /// Takes note of a device that came or went.
    pub(crate) fn hear(&mut self, event: &Uevent<'_>) {
        let is_there = match event.action {
            "add" => true,
            "remove" => false,
            _ => return,
        };
        let part = match event.subsystem {
            "cpu" => cpu::number(event.name, "cpu").map(Part::Cpu),
            "memory" => cpu::number(event.name, "memory").map(Part::Memory),
            _ => None,
        };
        let Some(part) = part else { return };
        if self.changes.len() < BACKLOG {
            self.changes.push((part, is_there));
        } else {
            self.lose();
        }
    }

    /// Some news did not reach us.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.lost
    }
}

/// What there is.
#[derive(Debug, Default)]
pub(crate) struct Parts(Option<BTreeSet<Part>>);

impl Parts {
    /// Puts on line what is new. The first time, nothing is. `wanted` is asked again and again,
    /// since this may take long.
    pub(crate) fn catch_up(&mut self, host: &Host, news: News, wanted: impl Fn() -> config::Hotplug) {
        let Some(known) = &mut self.0 else {
            self.0 = Some(present(host));
            return;
        };
        let mut new = Vec::new();
        for (part, is_there) in news.changes {
            if !is_there {
                known.remove(&part);
            } else if known.insert(part) {
                new.push(part);
            }
        }
        if news.lost {
            let present = present(host);
            known.retain(|part| present.contains(part));
            new.extend(present.into_iter().filter(|&part| known.insert(part)));
        }
        new.retain(|part| known.contains(part));
        let mut tally = Tally::default();
        for part in new.into_iter().filter(|part| part.is_wanted(wanted())) {
            tally.add(part, put_on_line(host, part));
        }
        tally.tell();
    }
}

/// All that is there, on line or not.
fn present(host: &Host) -> BTreeSet<Part> {
    let numbers = |directory: &str, prefix: &str| -> Vec<u64> {
        let names = host.list(directory).unwrap_or_default();
        names.iter().filter_map(|name| cpu::number(name.to_str()?, prefix)).collect()
    };
    let cpus = cpu::all(host).unwrap_or_default().into_iter().map(|cpu| Part::Cpu(cpu.id));
    cpus.chain(numbers(memory::DIRECTORY, "memory").into_iter().map(Part::Memory)).collect()
}

/// False when there was nothing to do: udev or the kernel itself may have done it, or it is gone again.
fn put_on_line(host: &Host, part: Part) -> io::Result<bool> {
    if is_on_line(host, part)? {
        return Ok(false);
    }
    let deadline = Instant::now() + PATIENCE;
    let done = match part {
        Part::Cpu(id) => cpu::set_switch(host, id.into(), true, deadline),
        Part::Memory(block) => memory::set_online(host, block, memory::online_word(host), deadline),
    };
    match done {
        Ok(()) => Ok(true),
        // The kernel refuses memory that somebody has just put on line.
        Err(_) if is_on_line(host, part).unwrap_or(true) => Ok(false),
        Err(reason) => Err(reason),
    }
}

fn is_on_line(host: &Host, part: Part) -> io::Result<bool> {
    let switch = match part {
        Part::Cpu(id) => cpu::switch(host, id.into()),
        Part::Memory(block) => memory::is_online(host, block),
    };
    match switch {
        Ok(on) => Ok(on.unwrap_or(true)),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(reason) => Err(reason),
    }
}

/// What came of a round: a terabyte of memory is thousands of blocks, and not to be as many lines.
#[derive(Default)]
struct Tally {
    cpus: Vec<u32>,
    blocks: Vec<u64>,
    failed: Vec<(Part, io::Error)>,
}

impl Tally {
    fn add(&mut self, part: Part, outcome: io::Result<bool>) {
        match (outcome, part) {
            (Ok(true), Part::Cpu(id)) => self.cpus.push(id),
            (Ok(true), Part::Memory(block)) => self.blocks.push(block),
            (Ok(false), _) => {}
            (Err(reason), _) => self.failed.push((part, reason)),
        }
    }

    fn tell(&self) {
        for id in &self.cpus {
            tracing::info!(target: AUDIT, "processor {id} was plugged in and is on line now");
        }
        if let (Some(first), Some(last)) = (self.blocks.iter().min(), self.blocks.iter().max()) {
            let count = self.blocks.len();
            let s = if count == 1 { "" } else { "s" };
            tracing::info!(
                target: AUDIT,
                "{count} block{s} of memory, from {first} to {last}, plugged in and on line now"
            );
        }
        if let Some((part, reason)) = self.failed.first() {
            let others = match self.failed.len() - 1 {
                0 => String::new(),
                others => format!(", and {others} more cannot either"),
            };
            let (name, reason) = (part.name(), os_reason(reason));
            tracing::warn!("{name} was plugged in and cannot be put on line: {reason}{others}");
        }
    }
}

#[cfg(test)]
mod tests;
