//! SSH keys of users: the file `.ssh/authorized_keys`.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

const UNKNOWN_USER: &str = "failed to lookup user '{user}': {reason}";
const NUL_IN_USER: &str = "failed to lookup user: the name has a NUL in it";
const NO_USER: &str = "failed to become user '{user}': {reason}";
const NO_WORKER: &str = "failed to act for user '{user}': {reason}";
const INVALID_KEY: &str = "invalid OpenSSH public key: '{key}'";
const READ: &str = "failed to read '{path}': {reason}";
const WRITE: &str = "failed to write '{path}': {reason}";

/// `guest-ssh-get-authorized-keys`: lists a user's keys, in the order of the file. A missing file is an error.
///
/// Since 9.1 on Windows. The file is `.ssh/authorized_keys` in the user's home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSshGetAuthorizedKeys<'a> {
    /// The user's name.
    pub username: &'a str,
}

impl Command for GuestSshGetAuthorizedKeys<'_> {
    const NAME: &'static str = "guest-ssh-get-authorized-keys";
    const SINCE: &'static str = "5.2";
    const ERRORS: &'static [&'static str] = &[UNKNOWN_USER, NUL_IN_USER, NO_USER, NO_WORKER, READ];
    type Returns<'r> = AuthorizedKeys;
}

/// The keys of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizedKeys {
    /// One line of the file each, without comments and empty lines.
    pub keys: Vec<String>,
}

/// `guest-ssh-add-authorized-keys`: adds keys that are not there yet (O24).
///
/// What else is in the file stays, unless `reset` is true. Since 9.1 on Windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSshAddAuthorizedKeys<'a> {
    /// The user's name.
    pub username: &'a str,
    /// The keys, with options and comments, in the format of sshd(8). Empty ones at the end are ignored.
    #[serde(borrow)]
    pub keys: Vec<&'a str>,
    /// Whether these replace what is in the file. Without it false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

impl Command for GuestSshAddAuthorizedKeys<'_> {
    const NAME: &'static str = "guest-ssh-add-authorized-keys";
    const SINCE: &'static str = "5.2";
    const ERRORS: &'static [&'static str] = &[
        INVALID_KEY,
        UNKNOWN_USER,
        NUL_IN_USER,
        NO_USER,
        NO_WORKER,
        READ,
        WRITE,
        "failed to create directory '{path}': {reason}",
    ];
    type Returns<'r> = Empty;
}

/// `guest-ssh-remove-authorized-keys`: removes keys; those that are not there, and a missing file, are not an
/// error (O24).
///
/// Since 9.1 on Windows, where a missing file is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSshRemoveAuthorizedKeys<'a> {
    /// The user's name.
    pub username: &'a str,
    /// The keys, as they stand in the file. Empty ones at the end are ignored.
    #[serde(borrow)]
    pub keys: Vec<&'a str>,
}

impl Command for GuestSshRemoveAuthorizedKeys<'_> {
    const NAME: &'static str = "guest-ssh-remove-authorized-keys";
    const SINCE: &'static str = "5.2";
    const ERRORS: &'static [&'static str] = &[INVALID_KEY, UNKNOWN_USER, NUL_IN_USER, NO_USER, NO_WORKER, READ, WRITE];
    type Returns<'r> = Empty;
}
