//! Passwords of users.

use serde::{Deserialize, Serialize};

use super::file::{INVALID_BASE64, TRUNCATED_BASE64};
use super::{Command, Empty, Secret};

/// `guest-set-user-password`: sets the password of a user that exists (O16, O24).
///
/// On Linux by chpasswd(8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetUserPassword<'a> {
    /// The user's name.
    pub username: &'a str,
    /// The password in base64; line breaks are allowed.
    #[serde(borrow)]
    pub password: Secret<'a>,
    /// Whether the client has hashed the password, in the format of crypt(5). Must be false on Windows.
    pub crypted: bool,
}

impl Command for GuestSetUserPassword<'_> {
    const NAME: &'static str = "guest-set-user-password";
    const SINCE: &'static str = "2.3";
    const ERRORS: &'static [&'static str] = &[
        INVALID_BASE64,
        TRUNCATED_BASE64,
        "forbidden characters in raw password",
        "forbidden characters in username",
        "child process has failed to set user password: {output}",
        "child process has terminated abnormally: {output}",
    ];
    type Returns<'r> = Empty;
}
