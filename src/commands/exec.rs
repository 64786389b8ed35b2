//! Programs: `guest-exec` and `guest-exec-status`.

mod children;
mod collector;
pub mod keeper;
mod link;
mod output;
mod reply;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

pub use children::Children;
use children::Stream as Captured;
use collector::{Pipe, Task};
use keeper::Part;
use output::Output;

use super::{Body, Command, Ctx, Lane, Stream};
use crate::host::linux::passing;
use crate::host::linux::spawn::Program;
use crate::log::AUDIT;
use crate::protocol::args;
use crate::protocol::base64::Payload;
use crate::protocol::error::{Error, Result, echo, os_reason};
use crate::protocol::message::Members;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-exec", |cx, a| cx.call(exec, a)).secret(),
    // Asked in busy loops (O22): a thread for each would be too much.
    Command::new("guest-exec-status", exec_status).lane(Lane::Prompt),
];

/// Input up to this size is put into the pipe at once even where pipes cannot be of any size.
const INPUT_AT_ONCE: usize = 1 << 20;

/// What a pipe holds when nobody says otherwise.
const PIPE: usize = 64 << 10;

/// A capturing pipe holds this much, so that a program with much to say is not stopped so often.
const CAPTURE_PIPE: i32 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Exec<'a> {
    path: &'a str,
    #[serde(borrow)]
    arg: Option<Vec<&'a str>>,
    #[serde(borrow)]
    env: Option<Vec<&'a str>>,
    input_data: Option<&'a str>,
    capture_output: Option<CaptureOutput>,
}

/// Which output is kept for `guest-exec-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaptureOutput {
    None,
    Stdout,
    Stderr,
    Separated,
    Merged,
}

impl<'de> Deserialize<'de> for CaptureOutput {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Alternate;

        impl Visitor<'_> for Alternate {
            type Value = CaptureOutput;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("GuestExecCaptureOutput")
            }

            fn visit_bool<E: de::Error>(self, yes: bool) -> std::result::Result<CaptureOutput, E> {
                Ok(if yes { CaptureOutput::Separated } else { CaptureOutput::None })
            }

            fn visit_str<E: de::Error>(self, mode: &str) -> std::result::Result<CaptureOutput, E> {
                Ok(match mode {
                    "none" => CaptureOutput::None,
                    "stdout" => CaptureOutput::Stdout,
                    "stderr" => CaptureOutput::Stderr,
                    "separated" => CaptureOutput::Separated,
                    "merged" => CaptureOutput::Merged,
                    _ => return Err(E::unknown_variant(mode, &[])),
                })
            }
        }

        from.deserialize_any(Alternate)
    }
}

#[derive(Serialize)]
struct Started {
    pid: i32,
}

/// Starts a program and returns its process id. It outlives the call; its end is reported by
/// `guest-exec-status`.
fn exec(cx: &Ctx<'_>, exec: Exec<'_>) -> Result<Started> {
    let input = exec.input_data.map(decode).transpose()?;
    let args = exec.arg.unwrap_or_default();
    // Arguments and input may hold secrets and are not logged.
    let shown = echo(exec.path);
    tracing::info!(target: AUDIT, "guest-exec called: {shown:?} with {} arguments", args.len());
    let failed =
        |reason: &str| Error::new(format!("Failed to execute child process \u{201c}{shown}\u{201d} ({reason})"));
    let failed_os = |error: std::io::Error| failed(&os_reason(&error));

    let config = cx.agent.config();
    let limits = &config.limits;
    let Some(slot) = cx.agent.children.reserve(limits) else {
        return Err(failed(&format!("{} programs are running already", limits.running_children)));
    };
    let mode = exec.capture_output.unwrap_or(CaptureOutput::None);
    let mut pipes = Pipes::new(mode, input).map_err(failed_os)?;
    let program = Program { path: exec.path, name: None, args: &args, env: exec.env.as_deref(), stdio: pipes.stdio() };
    let kept = pipes.kept();
    // Where a service manager is, the results of all programs outlive the agent.
    if !kept.is_empty() || passing::has_manager() {
        slot.keep(&kept);
    }
    let pid = program.spawn().map_err(|error| {
        slot.forget();
        failed_os(error)
    })?;
    pipes.close_theirs();
    pipes.feed_at_once();
    let captured = [pipes.out.is_some(), pipes.err.is_some()];
    slot.enter(pid, |serial| pipes.into_tasks(serial), captured).map_err(failed_os)?;
    Ok(Started { pid: pid.as_raw() })
}

fn decode(base64: &str) -> Result<Zeroizing<Vec<u8>>> {
    Ok(Payload::parse(base64)?.to_secret())
}

/// The same pipe, open for both directions: who writes to it is never without a reader, even when
/// the agent and its keeper are killed together.
fn both_ends(pipe: &OwnedFd) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    Ok(File::options().read(true).write(true).open(path)?.into())
}

/// The pipes between the agent and one program.
struct Pipes {
    feed: Option<Pipe>,
    out: Option<(OwnedFd, Output)>,
    err: Option<(OwnedFd, Output)>,
    /// The program's ends, as its standard input, output and error.
    theirs: [Option<OwnedFd>; 3],
}

impl Pipes {
    fn new(mode: CaptureOutput, input: Option<Zeroizing<Vec<u8>>>) -> std::io::Result<Pipes> {
        let mut theirs = [None, None, None];
        let mut feed = None;
        if let Some(input) = input {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            if input.len() > PIPE {
                // What does not fit is written later, and lost if the agent ends before.
                let _ = [input.len(), input.len().min(INPUT_AT_ONCE)]
                    .into_iter()
                    .filter_map(|size| i32::try_from(size).ok())
                    .find(|&size| fcntl(&write, FcntlArg::F_SETPIPE_SZ(size)).is_ok());
            }
            theirs[0] = Some(read);
            feed = Some(Pipe { file: File::from(write), task: Task::Feed { input, done: 0 } });
        }
        let mut capture = |wanted: bool, to: usize| -> std::io::Result<Option<(OwnedFd, Output)>> {
            if !wanted {
                return Ok(None);
            }
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(CAPTURE_PIPE));
            theirs[to] = Some(both_ends(&write).unwrap_or(write));
            Ok(Some((read, if passing::has_manager() { Output::lasting() } else { Output::default() })))
        };
        use CaptureOutput::{Merged, Separated, Stderr, Stdout};
        let out = capture(matches!(mode, Stdout | Separated | Merged), 1)?;
        let err = capture(matches!(mode, Stderr | Separated), 2)?;
        if mode == Merged {
            theirs[2] = theirs[1].as_ref().map(OwnedFd::try_clone).transpose()?;
        }
        Ok(Pipes { feed, out, err, theirs })
    }

    fn stdio(&self) -> [Option<BorrowedFd<'_>>; 3] {
        self.theirs.each_ref().map(|fd| fd.as_ref().map(AsFd::as_fd))
    }

    /// What must be there after the agent's end.
    fn kept(&self) -> Vec<(Part, BorrowedFd<'_>)> {
        let streams = [(&self.out, Part::OutPipe, Part::OutData), (&self.err, Part::ErrPipe, Part::ErrData)];
        let parts = streams.into_iter().filter_map(|(stream, pipe, data)| Some((stream.as_ref()?, pipe, data)));
        parts
            .flat_map(|((fd, output), pipe, data)| [Some((pipe, fd.as_fd())), output.file().map(|fd| (data, fd))])
            .flatten()
            .collect()
    }

    /// The program has them now; only when all are closed does a pipe end.
    fn close_theirs(&mut self) {
        self.theirs = [None, None, None];
    }

    /// Writes the input as far as the pipe takes it, which for most is all.
    fn feed_at_once(&mut self) {
        if self.feed.as_mut().is_some_and(|pipe| !pipe.turn(&mut 0, &mut Vec::new())) {
            self.feed = None;
        }
    }

    /// What is left to do while the program runs.
    fn into_tasks(self, serial: u64) -> Vec<Pipe> {
        let collect = |pipe: Option<(OwnedFd, Output)>, stream| {
            pipe.map(|(fd, output)| Pipe { file: File::from(fd), task: Task::Collect { serial, stream, output } })
        };
        let streams = [collect(self.out, Captured::Out), collect(self.err, Captured::Err)];
        streams.into_iter().flatten().chain(self.feed).collect()
    }
}

#[derive(Deserialize)]
struct Status {
    pid: i64,
}

/// Says whether a program has ended, and then once: how, and what it wrote. That takes long only when
/// it is much.
fn exec_status(cx: &Ctx<'_>, arguments: Option<Members<'_>>) -> Result<Body> {
    let Status { pid } = args::parse(arguments)?;
    let children = &cx.agent.children;
    if children.captured(pid) > reply::PIECE {
        cx.host.may_wait()?;
    }
    let outcome = children.take(pid).map_err(|_| Error::new(format!("PID {pid} does not exist")))?;
    let Some(outcome) = outcome else {
        return Ok(Body::Json(b"{\"exited\": false}".to_vec()));
    };
    let mut reply = reply::Reply::new(&outcome);
    let small = outcome.bytes() <= reply::PIECE;
    // A result that did not reach the client can be asked for again.
    cx.undo_if_abandoned(move |agent| agent.children.put_back(pid, outcome));
    if small {
        let mut json = Vec::new();
        while reply.next(&mut json) {}
        return Ok(Body::Json(json));
    }
    Ok(Body::Stream(Box::new(reply)))
}

#[cfg(test)]
mod tests;
