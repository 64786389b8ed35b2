//! The protocol's own commands: synchronisation, liveness and the list of commands.

use serde::{Deserialize, Serialize};

use super::{Command, Ctx, Empty, Lane};
use crate::protocol::args;
use crate::protocol::error::Result;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-sync-delimited", |cx, a| cx.call(sync, a)).lane(Lane::Barrier).while_frozen().delimited(),
    Command::new("guest-sync", |cx, a| cx.call(sync, a)).lane(Lane::Barrier).while_frozen(),
    Command::new("guest-ping", |cx, a| cx.call(ping, a)).lane(Lane::Inline).while_frozen(),
    Command::new("guest-info", |cx, a| cx.call(info, a)).lane(Lane::Inline).while_frozen(),
];

/// The upstream level we emulate. Clients compare it (O13), so it is not our own version.
pub const UPSTREAM_VERSION: &str = "11.1.3";

#[derive(Deserialize)]
struct Sync {
    id: i64,
}

/// Returns the client's number, so that it can tell this reply from older ones (O4).
fn sync(_: &Ctx<'_>, args: Sync) -> Result<i64> {
    Ok(args.id)
}

/// Says that the agent lives. Answered on the loop, whatever else is going on (O10).
fn ping(_: &Ctx<'_>, _: args::Empty) -> Result<Empty> {
    Ok(Empty {})
}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    supported_commands: Vec<CommandInfo>,
}

/// Exactly these three members: clients compare the whole object (O13).
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CommandInfo {
    name: &'static str,
    enabled: bool,
    success_response: bool,
}

/// Lists all commands and whether they may be used now.
fn info(cx: &Ctx<'_>, _: args::Empty) -> Result<Info> {
    let entry = |row: &'static Command| CommandInfo {
        name: row.name,
        enabled: cx.agent.check(row).is_ok(),
        success_response: row.replies,
    };
    Ok(Info { version: UPSTREAM_VERSION, supported_commands: super::all().map(entry).collect() })
}
