//! Which commands may be used: allow list, block list, and the frozen rule.

use std::collections::BTreeSet;

use crate::commands::{self, Command};
use crate::protocol::error::Error;

/// The operator's allow and block lists. A denial wins; names are compared whole.
#[derive(Debug, Default)]
pub struct Policy {
    /// `None`: no allow list, everything not blocked may be used.
    allow: Option<BTreeSet<String>>,
    block: BTreeSet<String>,
}

/// Thaw is never blocked while frozen: nothing may keep a guest frozen (decision 14).
const ALWAYS_WHILE_FROZEN: &str = "guest-fsfreeze-thaw";

impl Policy {
    /// Lists as they were given, item by item. An allow list without a name is none: a documented
    /// way to unlock distributions' defaults.
    pub fn new(allow: &[String], block: &[String]) -> Policy {
        let names = |list: &[String]| -> BTreeSet<String> {
            list.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        };
        let allow = names(allow);
        Policy { allow: (!allow.is_empty()).then_some(allow), block: names(block) }
    }

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client (decision 4).
    pub fn check(&self, row: &Command, frozen: bool) -> Result<(), Error> {
        if frozen && !row.while_frozen {
            return Err(Error::disabled(row.name, "the agent is in frozen state"));
        }
        let allowed = self.allow.as_ref().is_none_or(|names| names.contains(row.name));
        if (allowed && !self.block.contains(row.name)) || (frozen && row.name == ALWAYS_WHILE_FROZEN) {
            return Ok(());
        }
        Err(Error::disabled(row.name, "the command is not allowed"))
    }

    /// Names in the lists that are no commands: most likely slips.
    pub fn unknown_names(&self) -> impl Iterator<Item = &str> {
        let listed = self.allow.iter().flatten().chain(&self.block);
        listed.map(String::as_str).filter(|name| commands::find(name).is_none())
    }
}
