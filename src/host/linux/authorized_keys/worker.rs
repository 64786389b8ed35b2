//! The process that becomes the user: our own program, started with a word that no option looks
//! like. It reads a request from its standard input and writes the result to its standard output,
//! both of them pipes: files in memory are among what SELinux does not let the agent have.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{User, geteuid, getgrouplist, getresuid, pipe2, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::{Action, perform};
use crate::host::Host;
use crate::host::linux::selinux;
use crate::host::linux::spawn::{self, Program};
use crate::protocol::error::os_reason;

/// The first argument of the process.
pub const ARGUMENT: &str = "authorized-keys-worker";

/// Ourselves, even after an upgrade has replaced the file.
const SELF: &str = "/proc/self/exe";

/// A name service or a home directory on the network may take this long.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a killed process may take to vanish before it is left to a thread of its own.
const REAP: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    user: String,
    action: Action,
}

type Answer = Result<Vec<String>, String>;

/// Has the action done by another process, as the user.
///
/// # Errors
/// One sentence for the client.
pub fn run(user: &str, action: Action) -> Answer {
    let request = Request { user: user.to_owned(), action };
    converse(&request, DEADLINE).unwrap_or_else(|error| Err(no_process(user, &error)))
}

pub(super) fn no_process(user: &str, error: &io::Error) -> String {
    format!("failed to act for user '{user}': {}", os_reason(error))
}

fn converse(request: &Request, deadline: Duration) -> io::Result<Answer> {
    let (input, requests) = pipe2(OFlag::O_CLOEXEC)?;
    let (answers, output) = pipe2(OFlag::O_CLOEXEC)?;
    for end in [&requests, &answers] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let stdio = [Some(input.as_fd()), Some(output.as_fd()), None];
    let pid = Program { path: SELF, args: &[ARGUMENT], stdio, ..Program::default() }.spawn()?;
    drop((input, output));

    let mut talk = Talk {
        request: serde_json::to_vec(request)?,
        requests: Some(File::from(requests)),
        answers: File::from(answers),
        answer: Vec::new(),
    };
    if !talk.ends_within(deadline) {
        // Its id is its group, and ours until it was waited for.
        let _ = killpg(pid, Signal::SIGKILL);
        if talk.ends_within(REAP) {
            let _ = spawn::reap(pid);
        } else {
            // Stuck in the kernel on a dead file system. It must not become a zombie later.
            let _ = std::thread::Builder::new().spawn(move || spawn::reap(pid));
        }
        return Err(io::Error::other(format!("no answer within {} s", deadline.as_secs())));
    }
    let exit = spawn::reap(pid)?;
    serde_json::from_slice(&talk.answer).map_err(|_| io::Error::other(format!("the process for it failed: {exit:?}")))
}

/// Our side of the pipes.
struct Talk {
    /// What is still to be sent.
    request: Vec<u8>,
    requests: Option<File>,
    /// At its end when the process is.
    answers: File,
    answer: Vec<u8>,
}

impl Talk {
    fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut ends = vec![PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            ends.extend(self.requests.as_ref().map(|requests| PollFd::new(requests.as_fd(), PollFlags::POLLOUT)));
            match poll(&mut ends, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Err(Errno::EINTR) => continue,
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
            self.send();
            if self.is_complete() {
                return true;
            }
        }
    }

    fn send(&mut self) {
        let Some(requests) = &mut self.requests else { return };
        match requests.write(&self.request) {
            Ok(sent) => drop(self.request.drain(..sent)),
            Err(error) if is_later(&error) => return,
            // It does not read any more; why not is in its answer.
            Err(_) => self.request.clear(),
        }
        if self.request.is_empty() {
            self.requests = None;
        }
    }

    fn is_complete(&mut self) -> bool {
        !self.answers.read_to_end(&mut self.answer).is_err_and(|error| is_later(&error))
    }
}

fn is_later(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// The process itself, if that is what the arguments say; true when the program is over.
///
/// Has to be called before anything else is done.
pub fn main_if_asked() -> bool {
    if std::env::args_os().nth(1).is_none_or(|first| first != ARGUMENT) {
        return false;
    }
    let answer = serde_json::from_reader(io::stdin().lock()).map_err(|e| e.to_string()).and_then(serve);
    // Whoever started us sees an empty answer if this fails.
    if let Ok(json) = serde_json::to_vec(&answer) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(&json).and_then(|()| out.flush());
    }
    true
}

fn serve(request: Request) -> Answer {
    let Request { user, action } = request;
    let (home, actor) = become_user(&user)?;
    perform(&home, actor, &action)
}

/// Gives up all rights but the user's for good, and says where the user's home is.
fn become_user(name: &str) -> Result<(PathBuf, Actor), String> {
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("failed to lookup user '{name}': No such user")),
        Err(errno) => return Err(format!("failed to lookup user '{name}': {}", errno.desc())),
    };
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let root = Actor::Root { uid: user.uid, gid: user.gid };
    // Each attempt would be reported to the administrator.
    if geteuid().is_root() && selinux::is_confined(&Host::real()) {
        return Ok((user.dir, root));
    }
    let actor = match drop_rights(&user) {
        Ok(()) => Actor::User,
        // Whatever withholds it from root.
        Err(Errno::EPERM) if geteuid().is_root() => root,
        Err(errno) => return Err(format!("failed to become user '{name}': {}", errno.desc())),
    };
    Ok((user.dir, actor))
}

fn drop_rights(user: &User) -> nix::Result<()> {
    // An agent that runs as this user already has no other rights to give up.
    if geteuid().is_root() {
        let name = CString::new(user.name.as_str()).map_err(|_| Errno::EINVAL)?;
        setgroups(&getgrouplist(&name, user.gid)?)?;
        setresgid(user.gid, user.gid, user.gid)?;
        setresuid(user.uid, user.uid, user.uid)?;
    }
    let now = getresuid()?;
    if [now.real, now.effective, now.saved].iter().any(|uid| *uid != user.uid) {
        return Err(Errno::EPERM);
    }
    Ok(())
}
