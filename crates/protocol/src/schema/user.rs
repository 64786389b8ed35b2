//! Who is logged in.

use serde::{Deserialize, Serialize};

use super::Command;

/// `guest-get-users`: lists the users with a session, each once (O11, O19).
///
/// On Linux from logind and utmp(5), on Windows from the terminal services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetUsers {}

impl Command for GuestGetUsers {
    const NAME: &'static str = "guest-get-users";
    const SINCE: &'static str = "2.10";
    type Returns<'r> = Vec<User>;
}

/// A user with a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// The name.
    pub user: String,
    /// When the oldest session began: seconds since 1970, UTC, with a fraction.
    pub login_time: f64,
    /// The domain of the name. Windows only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}
