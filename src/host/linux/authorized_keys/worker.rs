//! The process that becomes the user: our own program, started with a word that no option looks
//! like. It reads a request from its standard input and writes the result to its standard output,
//! both files in memory.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{User, geteuid, getgrouplist, getresuid, pipe2, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::{Action, perform};
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
    let mut input = File::from(memfd_create("request", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&input, request)?;
    input.rewind()?;
    let mut output = File::from(memfd_create("answer", MFdFlags::MFD_CLOEXEC)?);
    // Nothing is written to it: it is at its end when the process is.
    let (end, held) = pipe2(OFlag::O_CLOEXEC)?;
    let stdio = [Some(input.as_fd()), Some(output.as_fd()), Some(held.as_fd())];
    let pid = Program { path: SELF, args: &[ARGUMENT], env: None, stdio }.spawn()?;
    drop(held);

    let ended = |within: Duration| {
        let millis = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], millis) {
                Err(Errno::EINTR) => {}
                result => return result.is_ok_and(|ready| ready > 0),
            }
        }
    };
    if !ended(deadline) {
        // Its id is its group, and ours until it was waited for.
        let _ = killpg(pid, Signal::SIGKILL);
        if ended(REAP) {
            let _ = spawn::reap(pid);
        } else {
            // Stuck in the kernel on a dead file system. It must not become a zombie later.
            let _ = std::thread::Builder::new().spawn(move || spawn::reap(pid));
        }
        return Err(io::Error::other(format!("no answer within {} s", deadline.as_secs())));
    }
    let exit = spawn::reap(pid)?;
    output.rewind()?;
    let mut answer = Vec::new();
    output.read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(|_| io::Error::other(format!("the process for it failed: {exit:?}")))
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
    let home = become_user(&user)?;
    perform(&home, &action)
}

/// Gives up all rights but the user's for good, and says where the user's home is.
fn become_user(name: &str) -> Result<PathBuf, String> {
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("failed to lookup user '{name}': No such user")),
        Err(errno) => return Err(format!("failed to lookup user '{name}': {}", errno.desc())),
    };
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    drop_rights(&user).map_err(|errno| format!("failed to become user '{name}': {}", errno.desc()))?;
    Ok(user.dir)
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
