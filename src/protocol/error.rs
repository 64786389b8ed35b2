//! What goes into the `error` member of a reply.

use std::fmt::Display;
use std::io;

/// The error classes that clients tell apart (O12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything that is not `CommandNotFound`.
    GenericError,
    /// The command is unknown or disabled.
    CommandNotFound,
}

impl Class {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::GenericError => "GenericError",
            Class::CommandNotFound => "CommandNotFound",
        }
    }
}

/// An error reply: a class and one sentence that names the object and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct Error {
    /// What clients match on.
    pub class: Class,
    /// What people read.
    pub desc: String,
}

/// What a command handler returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Names and values that are echoed are cut to this many characters, so that a bad request of
/// megabytes does not come back as megabytes.
const ECHO_LIMIT: usize = 16 << 10;

impl Error {
    /// A `GenericError` with this text.
    pub fn new(desc: impl Into<String>) -> Error {
        Error { class: Class::GenericError, desc: desc.into() }
    }

    /// `TEXT: No such file or directory`: what failed, and the system's reason without its number.
    pub fn os(what: impl Display, reason: &io::Error) -> Error {
        Error::new(format!("{what}: {}", os_reason(reason)))
    }

    /// The command does not exist.
    pub fn unknown_command(name: &str) -> Error {
        let desc = format!("The command {} has not been found", echo(name));
        Error { class: Class::CommandNotFound, desc }
    }

    /// The command exists and may not be used now.
    pub fn disabled(name: &str, reason: &str) -> Error {
        let desc = format!("Command {name} has been disabled: {reason}");
        Error { class: Class::CommandNotFound, desc }
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Error {
        Error::new(errno.desc())
    }
}

/// The system's description of an error, as C's `strerror` gives it.
///
/// `io::Error` adds "(os error 2)", which clients that match on upstream's texts do not expect.
pub fn os_reason(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        (None, _) if error.kind() == io::ErrorKind::InvalidInput => "Invalid argument".to_owned(),
        _ => text,
    }
}

/// A client's own text as it may be repeated in an error, cut when it is very long.
pub fn echo(text: &str) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(ECHO_LIMIT) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_reasons_have_no_number() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(Error::os("open", &error).desc, "open: No such file or directory");
    }

    #[test]
    fn a_path_with_nul_is_an_invalid_argument() {
        let error = std::fs::File::open("a\0b").expect_err("NUL");
        assert_eq!(os_reason(&error), "Invalid argument");
    }

    #[test]
    fn a_name_of_a_megabyte_is_not_echoed_whole() {
        let error = Error::unknown_command(&"é".repeat(1 << 20));
        assert!(error.desc.len() < 64 << 10, "{}", error.desc.len());
    }
}
