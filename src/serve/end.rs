//! The one way out of the agent.
//!
//! Whatever ends it - a signal, a lost channel, a start that fails, a bug in the loop - comes through
//! [`leave`], so that nothing stays frozen and no line stays unwritten.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::agent::Agent;
use crate::dispatch::panic_text;
use crate::freeze;
use crate::log::LogControl;

/// How long the log may take to be written before the process ends without it.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Thaws what is frozen, tells the hooks, and writes the log, of which `last_line` is the end.
pub fn leave(agent: &Agent, log: &LogControl, why: &str, last_line: impl FnOnce()) {
    agent.freezer.refuse_from_now_on();
    if agent.freezer.is_busy() {
        let thawed = catch_unwind(AssertUnwindSafe(|| freeze::thaw_unasked(agent, why)));
        if let Err(panic) = thawed {
            tracing::error!("the thaw failed on an internal error: {}", panic_text(&*panic));
        }
    }
    log.release();
    last_line();
    log.finish(LAST_LINES);
}

/// Runs the loop and leaves. The result is the exit status.
pub(super) fn run(agent: &Agent, log: &LogControl, body: impl FnOnce() -> u8) -> u8 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(status) => {
            leave(agent, log, "the agent ends", || tracing::debug!("the agent ends with status {status}"));
            status
        }
        Err(panic) => {
            let bug = || tracing::error!("the agent ends on an internal error: {}", panic_text(&*panic));
            leave(agent, log, "the agent ends on an internal error", bug);
            1
        }
    }
}
