//! Reply lines: `{"return": ...}` or `{"error": ...}`, ASCII only, one line each (O1).

use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer as _};
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use super::error::Error;
use super::message::Value;

/// The byte that goes out before the reply to `guest-sync-delimited`, and before no other (O3).
pub const DELIMITER: u8 = 0xFF;

/// Writes a JSON value as upstream spells it.
pub fn value(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let mut serializer = Serializer::with_formatter(out, Ascii);
    value.serialize(&mut serializer).expect("a Vec takes all, and our types serialize");
}

/// The beginning of every successful reply.
pub const RETURN: &str = "{\"return\": ";

/// Ends a successful reply after the returned value.
pub fn end(out: &mut Vec<u8>, id: Option<Value<'_>>) {
    if let Some(id) = id {
        out.extend_from_slice(b", \"id\": ");
        value(out, &id);
    }
    out.extend_from_slice(b"}\n");
}

/// A whole error reply.
pub fn error(out: &mut Vec<u8>, error: &Error, id: Option<Value<'_>>) {
    let mut serializer = Serializer::with_formatter(&mut *out, Ascii);
    let mut write = || {
        let mut inner = serializer.serialize_map(None)?;
        inner.serialize_entry("error", &Body(error))?;
        if let Some(id) = id {
            inner.serialize_entry("id", &id)?;
        }
        inner.end()
    };
    write().expect("a Vec takes all");
    out.push(b'\n');
}

struct Body<'a>(&'a Error);

impl Serialize for Body<'_> {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(Some(2))?;
        map.serialize_entry("class", self.0.class.as_str())?;
        map.serialize_entry("desc", &self.0.desc)?;
        map.end()
    }
}

/// A blank after `:` and `,`; all outside of printable ASCII as `\uXXXX` in upper case.
struct Ascii;

impl Formatter for Ascii {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    /// Whole numbers are written as integers up to the 17 digits at which `%.17g` takes to an exponent:
    /// to a client the one is an integer and the other is not.
    fn write_f64<W: io::Write + ?Sized>(&mut self, out: &mut W, number: f64) -> io::Result<()> {
        if number.fract() == 0.0 && number.abs() < 1e17 {
            return write!(out, "{number:.0}");
        }
        CompactFormatter.write_f64(out, number)
    }

    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|b| b >= 0x7F) {
            out.write_all(&rest.as_bytes()[..at])?;
            let Some(c) = rest[at..].chars().next() else { break };
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04X}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: io::Write + ?Sized>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::AsciiControl(byte) => write!(out, "\\u{byte:04X}"),
            other => CompactFormatter.write_char_escape(out, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &(impl Serialize + ?Sized)) -> String {
        let mut out = Vec::new();
        value(&mut out, json);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn output_is_ascii_with_upper_case_escapes() {
        assert_eq!(text("a/é\u{7f}\u{1f}\0\u{1F600}\"\\\n"), r#""a/\u00E9\u007F\u001F\u0000\uD83D\uDE00\"\\\n""#);
    }

    #[test]
    fn a_blank_follows_comma_and_colon() {
        let json = serde_json::json!({"a": [1, 2], "b": {}, "c": []});
        assert_eq!(text(&json), r#"{"a": [1, 2], "b": {}, "c": []}"#);
    }

    #[test]
    fn whole_doubles_have_no_fraction() {
        assert_eq!(text(&[1.0, -0.0, 0.1, -1.5, 1e100]), "[1, -0, 0.1, -1.5, 1e+100]");
        assert_eq!(
            text(&[1e15, 1e16, -99_999_999_999_999_984.0, 1e17]),
            "[1000000000000000, 10000000000000000, -99999999999999984, 1e+17]"
        );
    }

    #[test]
    fn an_error_reply_is_one_line() {
        let mut out = Vec::new();
        error(&mut out, &Error::new("a\nb"), None);
        let expected = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"a\\nb\"}}\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
