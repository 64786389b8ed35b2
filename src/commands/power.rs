//! Shutdown and sleep. Success is not answered: there may be nobody left to answer (O14).
//!
//! Each way is tried until one works: logind over D-Bus, the programs of the init system, and for
//! sleep the kernel itself.

use std::time::Duration;

use serde::Deserialize;

use super::{Command, Ctx, Empty};
use crate::host::Host;
use crate::host::linux::logind::{Action, Failure, Logind};
use crate::host::linux::power::{self, Sleep};
use crate::host::run::Program;
use crate::protocol::args;
use crate::protocol::error::{Error, Result, os_reason};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-shutdown", |cx, a| cx.call(shutdown, a)).silent(),
    Command::new("guest-suspend-disk", |cx, a| cx.call(suspend_disk, a)).silent(),
    Command::new("guest-suspend-ram", |cx, a| cx.call(suspend_ram, a)).silent(),
    Command::new("guest-suspend-hybrid", |cx, a| cx.call(suspend_hybrid, a)).silent(),
];

/// What users with a terminal are told.
const MESSAGE: &str = "hypervisor initiated shutdown";

const UNSUPPORTED: &str = "the requested suspend mode is not supported by the guest";

/// systemd makes this directory when it is the init system, and sd_booted(3) looks for it.
const SYSTEMD: &str = "/run/systemd/system";

/// Programs that only hand the request to init are back at once; those that sleep are back after
/// the machine woke up, and time spent asleep does not count.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Shutdown<'a> {
    #[serde(borrow)]
    mode: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    PowerDown,
    Halt,
    Reboot,
}

impl Mode {
    fn parse(mode: Option<&str>) -> Result<Mode> {
        match mode {
            None | Some("powerdown") => Ok(Mode::PowerDown),
            Some("halt") => Ok(Mode::Halt),
            Some("reboot") => Ok(Mode::Reboot),
            // The missing bracket is upstream's.
            Some(_) => Err(Error::new("mode is invalid (valid values are: halt|powerdown|reboot")),
        }
    }

    fn action(self) -> Action {
        match self {
            Mode::PowerDown => Action::PowerOff,
            Mode::Halt => Action::Halt,
            Mode::Reboot => Action::Reboot,
        }
    }

    /// Both the program and the verb of `systemctl`.
    fn word(self) -> &'static str {
        match self {
            Mode::PowerDown => "poweroff",
            Mode::Halt => "halt",
            Mode::Reboot => "reboot",
        }
    }

    /// The options of shutdown(8).
    fn options(self) -> &'static [&'static str] {
        match self {
            Mode::PowerDown => &["-h", "-P"],
            Mode::Halt => &["-h", "-H"],
            Mode::Reboot => &["-r"],
        }
    }

    /// The programs that may do it, the best first.
    fn programs(self, host: &Host) -> Vec<Program<'static>> {
        let systemctl = Program::new("systemctl").args([self.word()]);
        let own = Program::new(self.word());
        let shutdown = Program::new("shutdown").args(self.options()).args(["+0", MESSAGE]);
        // OpenRC names the same three letters, but no `-h`.
        let option = self.options().last().copied().unwrap_or("-P");
        let openrc = Program::new("openrc-shutdown").args([option, "now"]);
        let busybox = Program::new("busybox").args([self.word()]);
        let mut programs = match self {
            // SysV's `halt` does what /etc/default/halt says, which is to switch off; its
            // `shutdown -H` halts.
            Mode::Halt => vec![shutdown, own],
            Mode::PowerDown | Mode::Reboot => vec![own, shutdown],
        };
        if host.exists(SYSTEMD) {
            programs.insert(0, systemctl);
        } else {
            // These send init a signal and are content; systemd takes it for something else.
            programs.extend([openrc, busybox]);
        }
        programs
    }
}

/// Powers the guest down, halts it or starts it anew, by the orderly way through init.
fn shutdown(cx: &Ctx<'_>, args: Shutdown<'_>) -> Result<Empty> {
    let mode = Mode::parse(args.mode)?;
    tracing::info!("guest-shutdown called, mode: {}", mode.word());
    shut_down(cx.host, mode)?;
    Ok(Empty {})
}

fn shut_down(host: &Host, mode: Mode) -> Result<()> {
    let mut refusal = None;
    if let Some(logind) = Logind::find(host) {
        match logind.act(mode.action()) {
            Ok(()) => return Ok(()),
            Err(failure) => {
                tracing::warn!("{failure}; trying the programs of the init system");
                refusal = matches!(failure, Failure::Refused(_)).then(|| Error::new(failure.to_string()));
            }
        }
    }
    let mut failed = None;
    for program in mode.programs(host) {
        if !host.has_program(&program) {
            continue;
        }
        match host.run_to("shutdown", &program.deadline(DEADLINE)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!("{error}");
                failed = Some(error);
            }
        }
    }
    // Since systemd 257 a program of the guest may forbid it even to root: logind says that, the
    // programs only that they have failed.
    Err(refusal.or(failed).unwrap_or_else(|| {
        let program = mode.word();
        let text = format!("child process has failed to shutdown: failed to exec '{program}': ");
        Error::new(text + "No such file or directory")
    }))
}

/// Suspends to disk.
fn suspend_disk(cx: &Ctx<'_>, _: args::Empty) -> Result<Empty> {
    suspend(cx.host, Sleep::Disk).map(|()| Empty {})
}

/// Suspends to memory.
fn suspend_ram(cx: &Ctx<'_>, _: args::Empty) -> Result<Empty> {
    suspend(cx.host, Sleep::Ram).map(|()| Empty {})
}

/// Suspends to memory with a copy on disk.
fn suspend_hybrid(cx: &Ctx<'_>, _: args::Empty) -> Result<Empty> {
    suspend(cx.host, Sleep::Hybrid).map(|()| Empty {})
}

/// A way to sleep that was there and failed.
type Attempt = std::result::Result<(), Option<Error>>;

fn suspend(host: &Host, sleep: Sleep) -> Result<()> {
    tracing::info!("suspend requested: {sleep:?}");
    if sleep == Sleep::Ram && !power::has_deep(host) {
        tracing::warn!("no suspend to memory: the kernel offers s2idle only, from which the host cannot wake us");
        return Err(Error::new(UNSUPPORTED));
    }
    let mut failed = None;
    for attempt in [by_systemd, by_pm_utils, by_kernel] {
        match attempt(host, sleep) {
            Ok(()) => return Ok(()),
            Err(None) => {}
            Err(Some(error)) => {
                tracing::warn!("{error}");
                failed = Some(error);
            }
        }
    }
    // What a program says when it cannot work helps nobody; clients know this text.
    failed.filter(|_| sleep.is_offered(host)).map_or(Err(Error::new(UNSUPPORTED)), Err)
}

fn by_systemd(host: &Host, sleep: Sleep) -> Attempt {
    if sleep == Sleep::Ram {
        power::choose_deep(host).map_err(|failure| Some(cannot_write(&failure)))?;
    }
    if let Some(logind) = Logind::find(host) {
        let action = match sleep {
            Sleep::Disk => Action::Hibernate,
            Sleep::Ram => Action::Suspend,
            Sleep::Hybrid => Action::HybridSleep,
        };
        let outcome = match logind.can(action) {
            Ok(true) => logind.act(action),
            // It may be wrong about that, as with swap that it does not know.
            Ok(false) => return Err(None),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(failure @ Failure::Refused(_)) => return Err(Some(Error::new(failure.to_string()))),
            Err(failure) => tracing::warn!("{failure}"),
        }
    }
    if !host.exists(SYSTEMD) {
        return Err(None);
    }
    // Reaches systemd itself, without the bus.
    let verb = match sleep {
        Sleep::Disk => "hibernate",
        Sleep::Ram => "suspend",
        Sleep::Hybrid => "hybrid-sleep",
    };
    helper(host, "systemctl", &[verb])
}

fn by_pm_utils(host: &Host, sleep: Sleep) -> Attempt {
    let (option, program) = match sleep {
        Sleep::Disk => ("--hibernate", "pm-hibernate"),
        Sleep::Ram => ("--suspend", "pm-suspend"),
        Sleep::Hybrid => ("--suspend-hybrid", "pm-suspend-hybrid"),
    };
    match helper(host, "pm-is-supported", &[option]) {
        Ok(()) => helper(host, program, &[]),
        Err(_) => Err(None),
    }
}

fn by_kernel(host: &Host, sleep: Sleep) -> Attempt {
    if !sleep.is_offered(host) {
        return Err(None);
    }
    if !sleep.returns(host) {
        tracing::warn!("no suspend to disk: the kernel has no device to resume from");
        return Err(None);
    }
    sleep.enter(host).map_err(|failure| Some(cannot_write(&failure)))
}

fn cannot_write(failure: &power::Failure) -> Error {
    let reason = os_reason(&failure.reason);
    Error::new(format!("suspend: cannot write to '{}': {reason}", failure.path))
}

/// Runs a program; `Err(None)` when there is none.
fn helper(host: &Host, name: &str, args: &[&str]) -> Attempt {
    let program = Program::new(name).args(args).deadline(DEADLINE);
    if !host.has_program(&program) {
        return Err(None);
    }
    let shown = [&[name], args].concat().join(" ");
    let text = match host.run(&program) {
        Ok(finished) => match finished.code() {
            Some(0) => return Ok(()),
            Some(code) => format!("returned an unexpected exit status code ({code})"),
            None => "was terminated abnormally".to_owned(),
        },
        Err(failure) => format!("could not be run: {failure}"),
    };
    Err(Some(Error::new(format!("the helper program '{shown}' {text}"))))
}

#[cfg(test)]
mod tests;
