//! The agent as a process among others: going to the background with an honest exit status, the
//! process id file, signals during the start, and sockets handed over by a supervisor.

mod activation;
mod pidfile;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};
use tracing::warn;

pub use self::activation::{Activated, ActivationError, Handed, activation};
pub use self::pidfile::{PidFile, PidFileError};

/// What a daemon makes is its own: its files are for nobody else, whatever mask the caller has.
pub fn keep_private() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// Keeps the signals that end or reload the agent waiting, from before anything is made that has to be
/// cleaned up until [`Lifecycle::ready`].
pub fn hold_signals() {
    // Fails for a bad argument only, which a constant is not.
    let _ = controlling_signals().thread_block();
}

fn controlling_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
}

/// What the agent owes to those who started it, from the start to the end: a word when it is ready,
/// and a process id file as long as it lives. Dropping it removes the file.
#[derive(Debug, Default)]
pub struct Lifecycle {
    pidfile: Arc<Mutex<Option<PidFile>>>,
    /// The process id file to be made after the thaw.
    deferred: Option<PathBuf>,
    /// Where the caller waits for the word.
    caller: Option<File>,
}

impl Lifecycle {
    /// An agent that stays in the foreground.
    pub fn foreground() -> Lifecycle {
        Lifecycle::default()
    }

    /// An agent that is about to go to the background. Claims the process id file, so that a second agent
    /// fails before it disturbs the first; not while `frozen`, when no file can be made.
    pub fn background(pidfile: &Path, frozen: bool) -> Result<Lifecycle, PidFileError> {
        let (pidfile, deferred) = match frozen {
            true => (None, Some(pidfile.to_owned())),
            false => (Some(PidFile::lock(pidfile)?), None),
        };
        Ok(Lifecycle { pidfile: Arc::new(Mutex::new(pidfile)), deferred, caller: None })
    }

    /// Continues in the background. The process that was started waits for [`Lifecycle::ready`] and
    /// exits with 0, or with 1 if the daemon ends without it.
    ///
    /// # Safety
    ///
    /// The process must have a single thread.
    #[expect(unsafe_code, reason = "fork")]
    pub unsafe fn detach(&mut self) -> io::Result<()> {
        let (receiver, sender) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: there are no other threads, says our caller, whose locks the child could wait for.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => {
                drop(sender);
                if let Some(pidfile) = self.pidfile().take() {
                    pidfile.leave_to_child();
                }
                wait_for_daemon(File::from(receiver))
            }
            ForkResult::Child => self.caller = Some(File::from(sender)),
        }
        if let Some(pidfile) = &mut *self.pidfile() {
            pidfile.write()?;
        }
        setsid()?;
        std::env::set_current_dir("/")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        Ok(())
    }

    /// Tells that the agent serves and has its signal handlers.
    pub fn ready(&mut self) {
        let _ = controlling_signals().thread_unblock();
        if let Some(mut caller) = self.caller.take() {
            // The caller may be gone: nobody is left to tell.
            let _ = caller.write_all(b"1");
        }
    }

    /// The process id file that had to wait for the thaw, to be made by a worker.
    pub fn thawed(&mut self) -> Option<Deferred> {
        self.deferred.take().map(|path| Deferred { path, pidfile: self.pidfile.clone() })
    }

    fn pidfile(&self) -> MutexGuard<'_, Option<PidFile>> {
        self.pidfile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        drop(self.pidfile().take());
    }
}

/// A process id file that is still to be made.
#[derive(Debug)]
pub struct Deferred {
    path: PathBuf,
    pidfile: Arc<Mutex<Option<PidFile>>>,
}

impl Deferred {
    /// Makes it. By now nobody waits for a status, so a failure is only logged.
    pub fn make(self) {
        let made = PidFile::lock(&self.path).and_then(|mut pidfile| pidfile.write().map(|()| pidfile));
        match made {
            Ok(pidfile) => *self.pidfile.lock().unwrap_or_else(PoisonError::into_inner) = Some(pidfile),
            Err(error) => warn!("{error}"),
        }
    }
}

/// The rest of the process that was started: it takes over what the daemon says about its start.
fn wait_for_daemon(mut daemon: File) -> ! {
    let _ = controlling_signals().thread_unblock();
    let ready = daemon.read_exact(&mut [0]).is_ok();
    if !ready {
        let _ = io::stderr().write_all(b"qemu-ga: the daemon has ended before it was ready\n");
    }
    process::exit(if ready { 0 } else { 1 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_file_that_had_to_wait_is_made_after_the_thaw() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut lifecycle = Lifecycle::background(&path, true).unwrap();
        assert!(!path.exists());
        lifecycle.thawed().unwrap().make();
        assert!(lifecycle.thawed().is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(lifecycle);
        assert!(!path.exists());
    }

    #[test]
    fn without_a_thaw_there_is_nothing_to_remove() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let lifecycle = Lifecycle::background(&path, true).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(lifecycle);
        assert!(path.exists());
    }
}
