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

/// Thaw is never blocked while frozen: nothing may keep a guest frozen.
const ALWAYS_WHILE_FROZEN: &str = "guest-fsfreeze-thaw";

impl Policy {
    /// Lists as they were given, item by item. An empty allow list is none: a documented way to
    /// unlock distributions' defaults. One of empty names allows nothing.
    pub fn new(allow: &[String], block: &[String]) -> Policy {
        let names = |list: &[String]| -> BTreeSet<String> {
            list.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        };
        Policy { allow: (!allow.is_empty()).then(|| names(allow)), block: names(block) }
    }

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], block: &[&str]) -> Policy {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Policy::new(&owned(allow), &owned(block))
    }

    fn allowed(policy: &Policy, name: &str, frozen: bool) -> bool {
        policy.check(commands::find(name).expect("a command"), frozen).is_ok()
    }

    #[test]
    fn a_denial_wins() {
        let policy = policy(&["guest-ping", "guest-sync"], &["guest-ping"]);
        assert!(!allowed(&policy, "guest-ping", false));
        assert!(allowed(&policy, "guest-sync", false));
        assert!(!allowed(&policy, "guest-info", false));
    }

    #[test]
    fn an_empty_allow_list_is_none_and_one_of_empty_names_allows_nothing() {
        assert!(allowed(&policy(&[], &[]), "guest-exec", false));
        assert!(!allowed(&policy(&["", ""], &[]), "guest-exec", false));
    }

    #[test]
    fn blanks_around_names_do_not_open_a_hole() {
        assert!(!allowed(&policy(&[], &["guest-ping", " guest-exec"]), "guest-exec", false));
    }

    #[test]
    fn block_lists_hold_while_frozen_but_nothing_blocks_the_thaw() {
        let policy = policy(&[], &["guest-ping", "guest-fsfreeze-thaw"]);
        assert!(!allowed(&policy, "guest-ping", true));
        assert!(allowed(&policy, "guest-fsfreeze-thaw", true));
        assert!(!allowed(&policy, "guest-fsfreeze-thaw", false));
        assert!(!allowed(&policy, "guest-get-time", true));
    }

    #[test]
    fn six_commands_work_while_frozen_and_four_do_not_answer() {
        let names = |pick: fn(&Command) -> bool| -> Vec<_> {
            commands::all().filter(|row| pick(row)).map(|row| row.name).collect()
        };
        let mut frozen = names(|row| row.while_frozen);
        frozen.sort_unstable();
        assert_eq!(
            frozen,
            [
                "guest-fsfreeze-status",
                "guest-fsfreeze-thaw",
                "guest-info",
                "guest-ping",
                "guest-sync",
                "guest-sync-delimited",
            ]
        );
        let mut silent = names(|row| !row.replies);
        silent.sort_unstable();
        assert_eq!(silent, ["guest-shutdown", "guest-suspend-disk", "guest-suspend-hybrid", "guest-suspend-ram",]);
        let all: BTreeSet<_> = commands::names().collect();
        assert_eq!((all.len(), commands::names().count()), (43, 43), "43 commands, each once");
    }
}
