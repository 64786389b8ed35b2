//! Which commands may be used: allow list, block list, and the frozen rule.

use std::collections::BTreeSet;

use tracing::warn;

use crate::commands::{self, Command};
use crate::log::OPERATOR;
use crate::protocol::error::Error;

/// The operator's allow and block lists. A denial wins; names are compared whole.
#[derive(Debug, Default)]
pub struct Policy {
    /// `None`: no allow list, everything not blocked may be used.
    allow: Option<BTreeSet<String>>,
    block: BTreeSet<String>,
    /// What in the lists does not do what it seems to.
    slips: Vec<String>,
}

/// What people write between names instead of a comma.
const SEPARATORS: [char; 5] = [' ', ';', '\t', '\n', '|'];

/// Thaw is never blocked while frozen: nothing may keep a guest frozen.
const ALWAYS_WHILE_FROZEN: &str = "guest-fsfreeze-thaw";

impl Policy {
    /// Lists as they were given, item by item. An empty allow list is none: a documented way to
    /// unlock distributions' defaults. One of empty names allows nothing.
    ///
    /// Where names are separated by something else than commas, all of them are blocked and none is
    /// allowed.
    pub fn new(allow: &[String], block: &[String]) -> Policy {
        let mut slips = Vec::new();
        let mut names = |what: &str, list: &[String], split: bool| -> BTreeSet<String> {
            let mut names = BTreeSet::new();
            for item in list.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
                let parts: Vec<&str> = item.split(SEPARATORS).filter(|part| !part.is_empty()).collect();
                if item.contains(SEPARATORS) {
                    slips.push(format!("the names in '{item}' of the {what} list are not separated by commas"));
                }
                for unknown in parts.iter().filter(|part| commands::find(part).is_none()) {
                    slips.push(format!("'{unknown}' in the {what} list is not a command"));
                }
                let kept: &[&str] = if split { &parts } else { &[item] };
                names.extend(kept.iter().map(|&name| name.to_owned()));
            }
            names
        };
        let block = names("block", block, true);
        let allow = (!allow.is_empty()).then(|| names("allow", allow, false));
        if allow.as_ref().is_some_and(|names| names.iter().all(|name| commands::find(name).is_none())) {
            slips.push("no name in the allow list is that of a command: nothing is allowed".into());
        }
        Policy { allow, block, slips }
    }

    /// Tells the operator what in the lists does not do what it seems to.
    pub fn warn(&self) {
        self.slips.iter().for_each(|slip| warn!(target: OPERATOR, "{slip}"));
    }

    /// Tells the operator what this policy allows that the one before it refused.
    pub(crate) fn warn_if_wider(&self, before: &Policy) {
        let names = self.wider_than(before);
        if !names.is_empty() {
            warn!(target: OPERATOR, "the new configuration allows what was refused: {}", names.join(", "));
        }
    }

    fn wider_than(&self, before: &Policy) -> Vec<&'static str> {
        commands::names().filter(|name| self.allows(name) && !before.allows(name)).collect()
    }

    fn allows(&self, name: &str) -> bool {
        self.allow.as_ref().is_none_or(|names| names.contains(name)) && !self.block.contains(name)
    }

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    pub fn check(&self, row: &Command, frozen: bool) -> Result<(), Error> {
        if frozen && !row.while_frozen {
            return Err(Error::disabled(row.name, "the agent is in frozen state"));
        }
        if self.allows(row.name) || (frozen && row.name == ALWAYS_WHILE_FROZEN) {
            return Ok(());
        }
        Err(Error::disabled(row.name, "the command is not allowed"))
    }
}

#[cfg(test)]
mod property;

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
    fn other_separators_block_all_and_allow_nothing_and_are_told() {
        let blocked = policy(&[], &["guest-exec guest-file-open", "guest-ping;guest-info"]);
        for name in ["guest-exec", "guest-file-open", "guest-ping", "guest-info"] {
            assert!(!allowed(&blocked, name, false), "{name}");
        }
        let text = "the names in 'guest-exec guest-file-open' of the block list are not separated by commas";
        assert_eq!((blocked.slips.len(), blocked.slips[0].as_str()), (2, text));
        let closed = policy(&["guest-ping guest-sync"], &[]);
        assert!(commands::names().all(|name| !allowed(&closed, name, false)));
        assert_eq!(closed.slips.len(), 2);
    }

    #[test]
    fn names_that_are_not_commands_are_told_and_allow_nothing() {
        let slips = |allow: &[&str], block: &[&str]| policy(allow, block).slips;
        assert_eq!(slips(&[], &["guest_exec"]), ["'guest_exec' in the block list is not a command"]);
        assert_eq!(slips(&["guest-ping", "Guest-Exec"], &[]), ["'Guest-Exec' in the allow list is not a command"]);
        assert_eq!(slips(&["exec"], &[]).len(), 2);
        assert!(commands::names().all(|name| !allowed(&policy(&["exec"], &[]), name, false)));
        assert!(slips(&[" guest-ping ", ""], &["guest-exec"]).is_empty());
        assert_eq!(slips(&["", ""], &[]), ["no name in the allow list is that of a command: nothing is allowed"]);
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
