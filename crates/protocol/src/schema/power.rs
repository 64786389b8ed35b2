//! Shutdown and sleep. Success is not answered: there may be nobody left to answer (O14).

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// `guest-shutdown`: powers the guest down, halts it or reboots it, by an orderly shutdown (O14).
///
/// Success is not answered; the host sees the virtual machine's event, or the channel close.
/// On Linux by logind, else by the programs of the init system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestShutdown<'a> {
    /// `powerdown`, `halt` or `reboot`. Without it `powerdown`.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'a str>,
}

impl Command for GuestShutdown<'_> {
    const NAME: &'static str = "guest-shutdown";
    const SINCE: &'static str = "0.15";
    const REPLIES: bool = false;
    const ERRORS: &'static [&'static str] = &[
        // The missing bracket is QEMU's.
        "mode is invalid (valid values are: halt|powerdown|reboot",
        "child process has failed to shutdown: {output}",
        "child process has terminated abnormally: {output}",
    ];
    type Returns<'r> = Empty;
}

const SUSPEND_ERRORS: &[&str] = &[
    "the requested suspend mode is not supported by the guest",
    "the helper program '{program}' returned an unexpected exit status code ({status})",
    "the helper program '{program}' was terminated abnormally",
    "the helper program '{program}' could not be run: {reason}",
    "suspend: cannot write to '{path}': {reason}",
];

/// `guest-suspend-disk`: suspends to disk (O14, O27).
///
/// Success is not answered; a client synchronises anew when the guest is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSuspendDisk {}

impl Command for GuestSuspendDisk {
    const NAME: &'static str = "guest-suspend-disk";
    const SINCE: &'static str = "1.1";
    const REPLIES: bool = false;
    const ERRORS: &'static [&'static str] = SUSPEND_ERRORS;
    type Returns<'r> = Empty;
}

/// `guest-suspend-ram`: suspends to memory (O14, O27).
///
/// Success is not answered; a client synchronises anew when the guest is back. The host wakes the guest with
/// `system_wakeup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSuspendRam {}

impl Command for GuestSuspendRam {
    const NAME: &'static str = "guest-suspend-ram";
    const SINCE: &'static str = "1.1";
    const REPLIES: bool = false;
    const ERRORS: &'static [&'static str] = SUSPEND_ERRORS;
    type Returns<'r> = Empty;
}

/// `guest-suspend-hybrid`: suspends to memory with a copy on disk, should the power fail (O14, O27).
///
/// Success is not answered; a client synchronises anew when the guest is back. The host wakes the guest with
/// `system_wakeup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSuspendHybrid {}

impl Command for GuestSuspendHybrid {
    const NAME: &'static str = "guest-suspend-hybrid";
    const SINCE: &'static str = "1.1";
    const PLATFORMS: super::Platforms = super::Platforms::Linux;
    const REPLIES: bool = false;
    const ERRORS: &'static [&'static str] = SUSPEND_ERRORS;
    type Returns<'r> = Empty;
}
