//! The one way to a handler.
//!
//! Invariant: no handler is ever called but by [`run`], which asks the freeze lane, policy and the
//! frozen rule at that moment, whatever was asked before, on whatever thread, and whether or not
//! anybody still waits for the reply. The compiler sees to it: a row runs only with a [`Passed`],
//! and only this file can make one.

use std::sync::{Mutex, TryLockError};

use crate::commands::{Body, Command, Ctx, Lane};
use crate::protocol::error::{Error, Result};
use crate::protocol::message::Members;

/// Held by the freeze command that is at work.
#[derive(Debug, Default)]
pub(crate) struct FreezeLane(Mutex<()>);

/// Shows that a command was let through.
pub(crate) struct Passed(());

/// Runs a command if it may run now.
///
/// # Errors
/// The refusal as it goes to the client, or the handler's error.
pub(crate) fn run(row: &Command, cx: &Ctx<'_>, arguments: Option<Members<'_>>) -> Result<Body> {
    // First of all, so that no other of these commands changes the answers below.
    let _lane = match row.lane {
        Lane::Freeze => match cx.agent.freeze_lane.0.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(lane_is_taken(row)),
            Ok(lane) => Some(lane),
            Err(TryLockError::Poisoned(lane)) => Some(lane.into_inner()),
        },
        Lane::Inline | Lane::Barrier | Lane::Prompt | Lane::Worker => None,
    };
    cx.agent.check(row)?;
    row.run(cx, arguments, Passed(()))
}

/// The session has these commands wait for one another, so no client should ever see this.
fn lane_is_taken(row: &Command) -> Error {
    Error::new(format!("{} cannot run now: an earlier freeze, thaw or trim has not come to an end", row.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Agent;
    use crate::commands::{find, testing};
    use crate::host::Host;
    use crate::host::fake::FakeKernel;
    use crate::policy::Policy;
    use crate::protocol::args;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn agent() -> Agent {
        testing::agent(Host::new("/nonexistent", Box::new(FakeKernel::default())), testing::config())
    }

    fn refusal(agent: &Agent, row: &Command) -> Option<String> {
        run(row, &Ctx::new(agent, &agent.host), None).err().map(|error| error.desc)
    }

    #[test]
    fn what_is_refused_at_the_start_does_not_start() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        const ROW: Command = Command::new("guest-spy", |cx, a| {
            cx.call(|_, _: args::Empty| Ok(CALLS.fetch_add(1, Ordering::Relaxed)), a)
        });
        let agent = agent();
        assert_eq!(refusal(&agent, &ROW), None);
        agent.freezer.pretend(true);
        let frozen = refusal(&agent, &ROW).expect("it is frozen");
        assert_eq!(frozen, "Command guest-spy has been disabled: the agent is in frozen state");
        agent.freezer.pretend(false);
        agent.set_policy(Policy::new(&[], &["guest-spy".to_owned()]));
        let blocked = refusal(&agent, &ROW).expect("it is blocked");
        assert_eq!(blocked, "Command guest-spy has been disabled: the command is not allowed");
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn two_commands_of_the_freeze_lane_never_run_at_the_same_time() {
        // Whatever a session or a server did wrong.
        const OUTER: Command = Command::new("guest-outer", |cx, a| {
            let status = find("guest-fsfreeze-status").expect("a command");
            let inner = run(status, cx, None).err().map(|error| error.desc);
            cx.call(move |_, _: args::Empty| Ok(inner), a)
        })
        .lane(Lane::Freeze);
        let agent = agent();
        let Ok(Body::Json(json)) = run(&OUTER, &Ctx::new(&agent, &agent.host), None) else { panic!("it may run") };
        let text = "guest-fsfreeze-status cannot run now: an earlier freeze, thaw or trim has not come to an end";
        assert_eq!(String::from_utf8_lossy(&json), format!("\"{text}\""));
        assert_eq!(refusal(&agent, find("guest-fsfreeze-status").expect("a command")), None, "it is free again");
    }
}
