//! Freezing the guest's file systems for a snapshot. The work is in `crate::freeze`.

use serde::Deserialize;

use super::{Command, Ctx, Lane};
use crate::freeze;
use crate::protocol::args;
use crate::protocol::error::Result;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-fsfreeze-status", |cx, a| cx.call(status, a)).lane(Lane::Freeze).while_frozen(),
    Command::new("guest-fsfreeze-freeze", |cx, a| cx.call(freeze, a)).lane(Lane::Freeze),
    Command::new("guest-fsfreeze-freeze-list", |cx, a| cx.call(freeze_list, a)).lane(Lane::Freeze),
    Command::new("guest-fsfreeze-thaw", |cx, a| cx.call(thaw, a)).lane(Lane::Freeze).while_frozen(),
];

/// "frozen" or "thawed". Waits for a freeze or thaw that is at work (O9).
fn status(cx: &Ctx<'_>, _: args::Empty) -> Result<&'static str> {
    Ok(if cx.agent.freezer.is_thawed() { "thawed" } else { "frozen" })
}

/// Freezes all local file systems; the number of those that were frozen.
fn freeze(cx: &Ctx<'_>, _: args::Empty) -> Result<i64> {
    freeze::freeze(cx.agent, "guest-fsfreeze-freeze", None)
}

#[derive(Deserialize)]
struct FreezeList<'a> {
    #[serde(borrow)]
    mountpoints: Option<Vec<&'a str>>,
}

/// Freezes the file systems mounted at the listed points; all without a list.
fn freeze_list(cx: &Ctx<'_>, args: FreezeList<'_>) -> Result<i64> {
    freeze::freeze(cx.agent, "guest-fsfreeze-freeze-list", args.mountpoints.as_deref())
}

/// Thaws everything; the number of file systems that were frozen.
fn thaw(cx: &Ctx<'_>, _: args::Empty) -> Result<i64> {
    freeze::thaw(cx.agent)
}
