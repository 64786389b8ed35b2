//! What the verbose log may show of a request.

/// What was read, for the verbose log: bounded, on one line, and without payloads. What goes on
/// with an earlier read (`whole` is false) may be in the middle of one.
pub fn excerpt(data: &[u8], whole: bool) -> String {
    const LIMIT: usize = 256;
    let text = String::from_utf8_lossy(&data[..data.len().min(LIMIT)]);
    if !whole || ["password", "buf-b64", "input-data", "\"keys\""].iter().any(|secret| text.contains(secret)) {
        return "(not shown)".into();
    }
    text.trim_end().escape_debug().to_string().replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_the_middle_of_payloads_are_not_shown() {
        for secret in
            [r#"{"execute":"guest-set-user-password""#, r#"{"buf-b64":"aGk="#, r#"{"arguments":{"keys":["ssh"#]
        {
            assert_eq!(excerpt(secret.as_bytes(), true), "(not shown)");
        }
        assert_eq!(excerpt(b"QUJDREVG", false), "(not shown)");
    }

    #[test]
    fn what_is_shown_stays_on_one_line_and_short() {
        assert_eq!(excerpt(b"{\"execute\":\"guest-ping\"}\n", true), "{\"execute\":\"guest-ping\"}");
        assert_eq!(excerpt(b"a\nforged: line", true), "a\\nforged: line");
        assert!(excerpt(&[b'x'; 100_000], true).len() < 1000);
    }
}
