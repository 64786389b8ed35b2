//! The signals that end or reload the agent.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// End; the signal's number.
    End(i32),
    /// Open the log again and read the settings again.
    Reload,
}

/// The signals of this process, from now on.
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    terminations: u32,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
            terminations: 0,
        })
    }

    /// The next signal. Safe to cancel.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => {
                self.terminations += 1;
                Signal::End(nix::libc::SIGTERM)
            }
            _ = self.interrupt.recv() => Signal::End(nix::libc::SIGINT),
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }

    /// Whether the last termination was not the first one.
    pub(super) fn terminated_before(&self) -> bool {
        self.terminations > 1
    }
}
