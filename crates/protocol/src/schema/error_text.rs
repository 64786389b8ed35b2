//! The texts of errors, with `{word}` for what varies.

/// What every command can fail with: unknown or not allowed now (class `CommandNotFound`), arguments that
/// do not fit, and an agent whose earlier commands hang.
pub const COMMON_ERRORS: &[&str] = &[
    "The command {command} has not been found",
    "Command {command} has been disabled: the command is not allowed",
    "Command {command} has been disabled: the agent is in frozen state",
    "Parameter '{member}' is missing",
    "Parameter '{member}' is unexpected",
    "Invalid parameter type for '{member}', expected: {type}",
    "Parameter '{member}' expects uint64",
    "Parameter '{member}' does not accept value '{value}'",
    "{command} cannot run now: {number} earlier commands have not come to an end",
];

/// Whether a `desc` is the error of this text, as a client that acts on one kind of error asks.
///
/// ```
/// # use qga_protocol::schema::is_error;
/// assert!(is_error("PID {pid} does not exist", "PID 123 does not exist"));
/// ```
pub fn is_error(text: &str, desc: &str) -> bool {
    let mut pieces = text.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest));
    let Some(mut rest) = pieces.next().and_then(|first| desc.strip_prefix(first)) else { return false };
    // What varies may hold the piece behind it as well, so the last one is looked for at the end.
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::is_error;

    #[test]
    fn a_text_without_variables_is_compared_whole() {
        assert!(is_error("mode is invalid", "mode is invalid"));
        assert!(!is_error("mode is invalid", "mode is invalid (x)"));
        assert!(!is_error("mode is invalid", "the mode is invalid"));
    }

    #[test]
    fn variables_stand_for_any_text() {
        let text = "failed to open file '{path}' (mode: '{mode}'): {reason}";
        assert!(is_error(text, "failed to open file '/a' (mode: 'r'): No such file or directory"));
        assert!(is_error(text, "failed to open file '' (mode: ''): "));
        assert!(!is_error(text, "failed to open file '/a': No such file or directory"));
        assert!(is_error("handle '{handle}' has not been found", "handle '1' has not been found"));
        assert!(!is_error("handle '{handle}' has not been found", "handle '1' has not been found."));
    }

    #[test]
    fn a_value_may_hold_what_follows_it() {
        let text = "failed to lookup user '{user}': {reason}";
        assert!(is_error(text, "failed to lookup user 'a': b': No such user"));
        assert!(is_error("Parameter '{member}' is missing", "Parameter 'x' is missing' is missing"));
    }
}
