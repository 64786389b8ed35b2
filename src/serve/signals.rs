//! The signals that end or reload the agent, and those of programs that ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::worker::Report;
use crate::agent::Agent;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// End; the signal's number.
    End(i32),
    /// Open the log again and read the settings again.
    Reload,
}

/// From now on the loop hears of these signals. A task of its own waits for them, so that a request
/// costs no look at them.
///
/// # Errors
/// When the system refuses the handlers.
pub(super) fn listen(reporter: &mpsc::UnboundedSender<Report>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let reporter = reporter.clone();
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::End(nix::libc::SIGTERM),
                _ = interrupt.recv() => Signal::End(nix::libc::SIGINT),
                _ = hang_up.recv() => Signal::Reload,
            };
            if reporter.send(Report::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Programs that end within this time are reaped together. A host that asks for one sooner reaps it by
/// asking, so short programs cost no extra turn of the loop.
const TOGETHER: Duration = Duration::from_millis(5);

/// From now on programs of `guest-exec` that end are waited for at once.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn reap_programs(agent: &Arc<Agent>) -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    // Whoever starts us may keep it blocked.
    SigSet::from(nix::sys::signal::SIGCHLD).thread_unblock()?;
    let agent = Arc::downgrade(agent);
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            tokio::time::sleep(TOGETHER).await;
            match agent.upgrade() {
                Some(agent) => agent.children.reap(),
                None => return,
            }
        }
    });
    Ok(())
}
