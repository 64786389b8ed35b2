//! External programs, run to their end with a deadline.
//!
//! Nothing a program does makes the caller wait for ever: input is fed while output is read, a
//! background process that keeps the pipe open is not waited for, and when the deadline has passed
//! the program and all of its process group are killed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use super::Host;
use super::linux::descriptors;
use crate::protocol::error::{Error, Result, os_reason};

/// Where programs are looked for before `PATH`: in the directories there others than root may have a
/// say, such as the group `staff` in `/usr/local/sbin` of older Debians, and it may lack `sbin`.
const DEFAULT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Of the output this much is kept: its end, where the reason stands.
const OUTPUT_LIMIT: usize = 16 << 10;

/// No pipe holds more: the kernel's own limit for a pipe that nobody has enlarged is 64 KiB on
/// machines with pages of 4 KiB, and 1 MiB where they have 64 KiB.
const PIPE_SIZE: usize = 1 << 20;

/// How long a program may run when the caller does not say.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a killed program may take to vanish before it is left to a thread of its own.
const REAP: Duration = Duration::from_secs(1);

/// On kernels without pidfds (before 5.3) the end of the program is looked for this often.
const TICK: Duration = Duration::from_millis(20);

/// A program to run.
#[derive(Clone)]
pub struct Program<'a> {
    name: &'a OsStr,
    args: Vec<OsString>,
    input: Option<&'a [u8]>,
    deadline: Duration,
    tied: bool,
}

/// Shows no arguments and no input: either may hold a secret.
impl std::fmt::Debug for Program<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} arguments", self.name.to_string_lossy(), self.args.len())
    }
}

impl<'a> Program<'a> {
    /// A program by its absolute path, or by its name to be looked for in the system's directories
    /// and in `PATH`.
    pub fn new<S: AsRef<OsStr> + ?Sized>(name: &'a S) -> Program<'a> {
        Program { name: name.as_ref(), args: Vec::new(), input: None, deadline: DEADLINE, tied: false }
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Program<'a> {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What the program reads from its standard input; without it that is `/dev/null`.
    #[must_use]
    pub fn input(mut self, input: &'a [u8]) -> Program<'a> {
        self.input = Some(input);
        self
    }

    /// The program ends when we do, however that comes.
    #[must_use]
    pub fn tied(mut self) -> Program<'a> {
        self.tied = true;
        self
    }

    /// How long the program may run before it is killed; 60 seconds when not said.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Program<'a> {
        self.deadline = deadline;
        self
    }
}

/// A program that ended by itself.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// The end of what it wrote to its standard output and error, in the order of writing.
    pub output: Vec<u8>,
}

/// Why there is no [`Finished`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is not there, or cannot be executed.
    #[error("failed to exec '{name}': {}", os_reason(reason))]
    Start {
        /// The program as it was asked for.
        name: String,
        /// The system's reason.
        reason: io::Error,
    },
    /// It was killed because its time was up.
    #[error("'{name}' did not finish within {} s", deadline.as_secs())]
    TimedOut {
        /// The program as it was asked for.
        name: String,
        /// What it was given.
        deadline: Duration,
        /// What it had written by then.
        output: Vec<u8>,
    },
}

impl Failure {
    /// Whether there is no such program, so that another one may be tried.
    pub fn is_missing(&self) -> bool {
        matches!(self, Failure::Start { reason, .. } if reason.kind() == io::ErrorKind::NotFound)
    }
}

impl Host {
    /// Where a program lies; `None` when it cannot be found.
    pub fn program(&self, name: impl AsRef<OsStr>) -> Option<PathBuf> {
        let name = name.as_ref();
        let executable =
            |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if name.as_bytes().contains(&b'/') {
            return Some(self.path(name)).filter(executable);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(DEFAULT_PATH)
            .chain(std::env::split_paths(&path))
            .filter(|dir| dir.is_absolute())
            .map(|dir| self.path(dir).join(name))
            .find(executable)
    }

    /// Whether the program can be found.
    pub fn has_program(&self, program: &Program<'_>) -> bool {
        self.program(program.name).is_some()
    }

    /// Runs a program to its end.
    ///
    /// It gets a session of its own, default signals and no descriptors but the first three.
    pub fn run(&self, program: &Program<'_>) -> std::result::Result<Finished, Failure> {
        let name = || program.name.to_string_lossy().into_owned();
        let failed = |reason| Failure::Start { name: name(), reason };
        let missing = || failed(io::Error::from_raw_os_error(libc::ENOENT));
        let path = self.program(program.name).ok_or_else(missing)?;
        let (child, output) = start(path, program).map_err(failed)?;
        let mut talk = Conversation::new(child, output, program.input.unwrap_or_default());
        match talk.until(Instant::now() + program.deadline) {
            Some(status) => Ok(Finished { status, output: talk.output() }),
            None => {
                talk.kill();
                Err(Failure::TimedOut { name: name(), deadline: program.deadline, output: talk.output() })
            }
        }
    }

    /// Runs a program that has to succeed.
    ///
    /// # Errors
    /// Upstream's texts, in which `action` says what failed, as in `set user password`.
    pub fn run_to(&self, action: &str, program: &Program<'_>) -> Result<()> {
        match self.run(program) {
            Ok(finished) => finished.success(action),
            Err(failure) => {
                let said = match &failure {
                    Failure::TimedOut { output, .. } => with_output(output),
                    Failure::Start { .. } => String::new(),
                };
                Err(Error::new(format!("child process has failed to {action}: {failure}{said}")))
            }
        }
    }
}

impl Finished {
    /// Fails unless the program returned 0.
    ///
    /// # Errors
    /// As for [`Host::run_to`].
    pub fn success(&self, action: &str) -> Result<()> {
        match self.status.code() {
            Some(0) => Ok(()),
            Some(code) if self.output.is_empty() => {
                Err(Error::new(format!("child process has failed to {action}: exit status {code}")))
            }
            Some(_) => {
                let said = with_output(&self.output);
                Err(Error::new(format!("child process has failed to {action}{said}")))
            }
            None => {
                let said = with_output(&self.output);
                Err(Error::new(format!("child process has terminated abnormally{said}")))
            }
        }
    }

    /// The number that the program returned; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended the program.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

fn with_output(output: &[u8]) -> String {
    match output {
        [] => String::new(),
        _ => format!(": {}", String::from_utf8_lossy(output)),
    }
}

/// Starts the program; what it writes can be read from the descriptor.
fn start(path: PathBuf, program: &Program<'_>) -> io::Result<(Child, File)> {
    let (output, output_end) = pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new(path);
    command
        .arg0(program.name)
        .args(&program.args)
        .stdin(if program.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(output_end.try_clone()?)
        .stderr(output_end);
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", DEFAULT_PATH);
    }
    #[expect(unsafe_code, reason = "no safe way to say what happens between fork and exec")]
    // SAFETY: `prepare`, prctl and getppid make nothing but system calls that are allowed after a fork.
    unsafe {
        command.pre_exec(prepare);
        if program.tied {
            let parent = nix::unistd::getpid();
            command.pre_exec(move || {
                // Sent at the end of the thread that starts it, which waits for it.
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // It may have ended before that; nobody is left to see the error.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
            });
        }
    }
    let child = command.spawn()?;
    nonblocking(&output)?;
    if let Some(stdin) = &child.stdin {
        nonblocking(stdin)?;
    }
    Ok((child, File::from(output)))
}

/// Runs in the child: own session, default signals, no foreign descriptors.
fn prepare() -> io::Result<()> {
    // linux/close_range.h; libc names it for some targets only.
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    nix::unistd::setsid()?;
    for signal in Signal::iterator() {
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: the default action is no handler, so nothing of ours is called.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: marks descriptors to be closed at exec, closes none. Kernels before 5.11 refuse it;
    // there only what we opened ourselves, all of it close-on-exec, is kept out.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC);
    }
    if let Some((soft, hard)) = descriptors::limit_of_children() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
    Ok(())
}

fn nonblocking(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A running program with what is still to be said on either side.
struct Conversation<'a> {
    child: Option<Child>,
    pid: Pid,
    pidfd: Option<OwnedFd>,
    stdin: Option<ChildStdin>,
    input: &'a [u8],
    pipe: Option<File>,
    output: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn new(mut child: Child, pipe: File, input: &'a [u8]) -> Conversation<'a> {
        let id = child.id();
        Conversation {
            pid: Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX)),
            pidfd: pidfd(id),
            stdin: child.stdin.take(),
            child: Some(child),
            input,
            pipe: Some(pipe),
            output: Vec::new(),
        }
    }

    /// Feeds and reads until the program ends; `None` when it did not by then.
    fn until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            self.feed();
            self.drain(PIPE_SIZE);
            if let Some(status) = self.ended() {
                // What it wrote just before its end. What others may still write is not waited for.
                self.drain(PIPE_SIZE);
                return Some(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.wait(left);
        }
    }

    /// Waits until something can be done.
    fn wait(&self, left: Duration) {
        let left = if self.pidfd.is_some() { left } else { left.min(TICK) };
        let mut fds: Vec<_> = [
            (self.pidfd.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
            (self.pipe.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
            (self.stdin.as_ref().map(AsFd::as_fd), PollFlags::POLLOUT),
        ]
        .into_iter()
        .filter_map(|(fd, events)| Some(PollFd::new(fd?, events)))
        .collect();
        let millis = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        // Any failure means another round, which finds out what is the matter.
        let _ = poll(&mut fds, PollTimeout::from(millis));
    }

    fn feed(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            match stdin.write(self.input) {
                Ok(taken) if taken < self.input.len() => self.input = &self.input[taken..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // All was taken, or the program does not want the rest.
                Ok(_) | Err(_) => self.stdin = None,
            }
        }
    }

    /// Reads what is there, but no more than about `most` bytes: a program that never stops talking
    /// must not keep us from the clock.
    fn drain(&mut self, most: usize) {
        let mut piece = [0; 4096];
        let mut taken = 0;
        while let Some(pipe) = self.pipe.as_mut().filter(|_| taken < most) {
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(size) => {
                    taken += size;
                    self.output.extend_from_slice(&piece[..size]);
                    if self.output.len() > 2 * OUTPUT_LIMIT {
                        self.output.drain(..self.output.len() - OUTPUT_LIMIT);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Kills the program with its process group.
    fn kill(&mut self) {
        // The program leads its group, and its id is ours until it was waited for.
        let _ = killpg(self.pid, Signal::SIGKILL);
        if self.until(Instant::now() + REAP).is_none() {
            // Stuck in the kernel, on a dead disk perhaps. It must not become a zombie later.
            if let Some(mut child) = self.child.take() {
                let _ = std::thread::Builder::new().spawn(move || child.wait());
            }
        }
    }

    fn output(&mut self) -> Vec<u8> {
        let mut output = std::mem::take(&mut self.output);
        output.drain(..output.len().saturating_sub(OUTPUT_LIMIT));
        output
    }
}

/// A descriptor that becomes readable when the process ends.
fn pidfd(pid: u32) -> Option<OwnedFd> {
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: takes two integers and returns a new descriptor, close-on-exec, or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd).ok().and_then(|fd| i32::try_from(fd).ok())?;
    #[expect(unsafe_code, reason = "a raw descriptor comes from the call above")]
    // SAFETY: the descriptor is new and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests;
