//! The protocol's own commands: synchronisation, liveness and the list of commands.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// `guest-sync-delimited`: returns the client's number, so that it can tell this reply from older ones (O3,
/// O4, O8).
///
/// A byte 0xFF goes out before the reply; a client that finds the byte knows that a line begins behind it. Once
/// a sync was answered, no reply to an earlier command appears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSyncDelimited {
    /// Any number that the client has not used lately; negative ones are allowed.
    pub id: i64,
}

impl Command for GuestSyncDelimited {
    const NAME: &'static str = "guest-sync-delimited";
    const SINCE: &'static str = "1.1";
    const WHILE_FROZEN: bool = true;
    const DELIMITED: bool = true;
    type Returns<'r> = i64;
}

/// `guest-sync`: returns the client's number, so that it can tell this reply from older ones (O4, O5, O8).
///
/// A client reads and drops replies until its number comes. It may send a byte 0xFF first, which
/// resets the agent's parser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSync {
    /// Any number that the client has not used lately; negative ones are allowed.
    pub id: i64,
}

impl Command for GuestSync {
    const NAME: &'static str = "guest-sync";
    const SINCE: &'static str = "0.15";
    const WHILE_FROZEN: bool = true;
    type Returns<'r> = i64;
}

/// `guest-ping`: shows that the agent is alive, whatever else it is doing (O10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPing {}

impl Command for GuestPing {
    const NAME: &'static str = "guest-ping";
    const SINCE: &'static str = "0.15";
    const WHILE_FROZEN: bool = true;
    type Returns<'r> = Empty;
}

/// `guest-info`: lists all commands and whether they may be used now (O10, O13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInfo {}

impl Command for GuestInfo {
    const NAME: &'static str = "guest-info";
    const SINCE: &'static str = "0.15";
    const WHILE_FROZEN: bool = true;
    type Returns<'r> = AgentInfo<'r>;
}

/// The agent and its commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo<'a> {
    /// The version of QEMU whose agent this one equals, as in `11.1.3`: three dotted numbers first.
    pub version: Cow<'a, str>,
    /// All commands that are known, in no particular order. Since 1.1.
    #[serde(default)]
    pub supported_commands: Vec<CommandInfo<'a>>,
}

/// A command of the agent. Exactly these three members: clients compare the whole object (O13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CommandInfo<'a> {
    /// The word in `execute`.
    pub name: Cow<'a, str>,
    /// Whether it may be used now: not while a list forbids it, nor most of them while file systems are frozen.
    pub enabled: bool,
    /// Whether success is answered. Since 1.7.
    #[serde(default = "answered")]
    pub success_response: bool,
}

fn answered() -> bool {
    true
}
