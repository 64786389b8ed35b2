//! Freezing the guest's file systems for a snapshot.

use serde::{Deserialize, Serialize};

use super::Command;

/// `guest-fsfreeze-status`: says whether the agent holds file systems frozen. Waits for a freeze or thaw
/// in progress (O9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeStatus {}

impl Command for GuestFsfreezeStatus {
    const NAME: &'static str = "guest-fsfreeze-status";
    const SINCE: &'static str = "0.15";
    const WHILE_FROZEN: bool = true;
    type Returns<'r> = FsfreezeStatus;
}

/// Whether file systems are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsfreezeStatus {
    /// They are not, as far as the agent knows.
    Thawed,
    /// The agent has frozen them.
    Frozen,
}

const FREEZE_ERRORS: &[&str] = &[
    "failed to open {mountpoint}: {reason}",
    "failed to freeze {mountpoint}: {reason}",
    "failed to read the mount table: {reason}",
    "failed to start the freeze: {reason}",
    "failed to note the freeze in the state directory: {reason}",
    "nothing is frozen: {reason}",
    "child process has failed to execute fsfreeze hook '{hook}' ({word}): {output}",
    "fsfreeze hook '{hook}' is not run: {reason}",
    "failed to read the fsfreeze hooks in '{directory}': {reason}",
    "failed to note the fsfreeze hooks in the state directory: {reason}",
];

/// `guest-fsfreeze-freeze`: freezes all local file systems and returns how many it froze (O9, O21).
///
/// Until the thaw, only commands that work while frozen do. The agent thaws by itself after a time that its
/// configuration sets, ten minutes by default; after ten seconds on Windows. When anything fails, nothing
/// stays frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeFreeze {}

impl Command for GuestFsfreezeFreeze {
    const NAME: &'static str = "guest-fsfreeze-freeze";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] = FREEZE_ERRORS;
    type Returns<'r> = i64;
}

/// `guest-fsfreeze-freeze-list`: freezes the file systems that are mounted at the given mount points and returns
/// how many it froze (O9, O21).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeFreezeList<'a> {
    /// Mount points; those that are unknown are ignored. Without it all file systems, and none with an empty
    /// list.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub mountpoints: Option<Vec<&'a str>>,
}

impl Command for GuestFsfreezeFreezeList<'_> {
    const NAME: &'static str = "guest-fsfreeze-freeze-list";
    const SINCE: &'static str = "2.2";
    const ERRORS: &'static [&'static str] = FREEZE_ERRORS;
    type Returns<'r> = i64;
}

/// `guest-fsfreeze-thaw`: thaws all file systems and returns how many were frozen (O9, O21).
///
/// Returns 0 without an error when nothing was frozen, and also when the agent has thawed by itself meanwhile: then a
/// snapshot may not be consistent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeThaw {}

impl Command for GuestFsfreezeThaw {
    const NAME: &'static str = "guest-fsfreeze-thaw";
    const SINCE: &'static str = "0.15";
    const WHILE_FROZEN: bool = true;
    const ERRORS: &'static [&'static str] =
        &["failed to read the mount table: {reason}", "file systems thawed ({count}), but: {error}"];
    type Returns<'r> = i64;
}
