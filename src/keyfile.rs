//! Reading and writing GLib key files: `qemu-ga.conf` and `qga.state`.
//!
//! Both files are shared with the stock agent, so a file must mean the same to both: what is read
//! here is exactly what GLib reads, and what GLib refuses is refused with its words.
//!
//! This is a reader of our own because the INI crates read another language: they take `;` lines as
//! comments, `:` as a separator, a backslash at the end of a line as a continuation, and let a key
//! run over line ends (`nonsense` above `verbose=1` becomes one key). In a file that says which
//! commands the host may run, such a difference is a hole.

use std::io::{self, Write};

/// Why a key file, or a value in it, is refused. The texts are GLib's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line that is nothing of what a key file may hold.
    #[error("Key file contains line “{0}” which is not a key-value pair, group, or comment")]
    Line(String),
    /// A pair above the first group.
    #[error("Key file does not start with a group")]
    NoGroup,
    /// A group name that is empty or holds brackets or control characters.
    #[error("Invalid group name: {0}")]
    GroupName(String),
    /// A key that is empty, or holds brackets in the wrong place.
    #[error("Invalid key name: {0}")]
    KeyName(String),
    /// A bad boolean, number or escape.
    #[error("Key file contains key “{0}” which has a value that cannot be interpreted.")]
    Value(String),
    /// A string that is not UTF-8.
    #[error("Key file contains key “{0}” with value “{1}” which is not UTF-8")]
    Encoding(String, String),
}

type Result<T> = std::result::Result<T, KeyFileError>;

/// A parsed key file. Values stay raw until they are asked for, so that a bad value under a key
/// nobody reads does no harm.
#[derive(Clone, Debug, Default)]
pub struct KeyFile {
    pairs: Vec<Pair>,
    has_group: bool,
}

#[derive(Clone, Debug)]
struct Pair {
    group: String,
    key: String,
    value: Vec<u8>,
}

impl KeyFile {
    /// Reads the whole text of a key file.
    pub fn parse(text: &[u8]) -> Result<KeyFile> {
        let mut file = KeyFile::default();
        let mut group: Option<String> = None;
        for whole in text.split(|&byte| byte == b'\n') {
            let whole = whole.strip_suffix(b"\r").unwrap_or(whole);
            let line = whole.trim_ascii_start();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            if let Some(name) = group_name(line) {
                group = Some(checked_group(name)?);
                file.has_group = true;
            } else if let Some(at) = line.iter().position(|&byte| byte == b'=').filter(|&at| at > 0) {
                let group = group.clone().ok_or(KeyFileError::NoGroup)?;
                let key = checked_key(line[..at].trim_ascii_end())?;
                let value = line[at + 1..].trim_ascii_start().to_vec();
                file.pairs.push(Pair { group, key, value });
            } else {
                return Err(KeyFileError::Line(lossy(whole)));
            }
        }
        Ok(file)
    }

    /// The string under `key`, its escapes resolved; `None` when the key is absent. Blanks at its end
    /// belong to it.
    pub fn string(&self, group: &str, key: &str) -> Result<Option<String>> {
        let Some(raw) = self.raw(group, key) else { return Ok(None) };
        let text = std::str::from_utf8(raw).map_err(|_| KeyFileError::Encoding(key.into(), lossy(raw)))?;
        unescape(text).map(Some).ok_or_else(|| KeyFileError::Value(key.into()))
    }

    /// The boolean under `key`: `true`, `1`, `false` or `0` and nothing else.
    pub fn boolean(&self, group: &str, key: &str) -> Result<Option<bool>> {
        match self.raw(group, key).map(<[u8]>::trim_ascii_end) {
            None => Ok(None),
            Some(b"true" | b"1") => Ok(Some(true)),
            Some(b"false" | b"0") => Ok(Some(false)),
            Some(_) => Err(KeyFileError::Value(key.into())),
        }
    }

    /// The decimal number under `key`.
    pub fn number(&self, group: &str, key: &str) -> Result<Option<u64>> {
        let Some(raw) = self.raw(group, key).map(<[u8]>::trim_ascii_end) else { return Ok(None) };
        let digits = !raw.is_empty() && raw.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(raw).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| KeyFileError::Value(key.into()))
    }

    /// Whether there is any group, be it empty.
    pub fn has_group(&self) -> bool {
        self.has_group
    }

    /// The keys of a group in the order of the file, repeated ones as often as they stand there.
    pub fn keys<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |pair| pair.group == group).map(|pair| pair.key.as_str())
    }

    fn raw(&self, group: &str, key: &str) -> Option<&[u8]> {
        // Groups of one name merge, and of keys of one name the last counts.
        let mut pairs = self.pairs.iter().rev();
        pairs.find(|pair| pair.group == group && pair.key == key).map(|pair| &pair.value[..])
    }
}

/// Writes `[group]`.
pub fn write_group(out: &mut impl Write, group: &str) -> io::Result<()> {
    writeln!(out, "[{group}]")
}

/// Writes `key=value`, escaped so that [`KeyFile::string`] gives `value` back.
pub fn write_pair(out: &mut impl Write, key: &str, value: &[u8]) -> io::Result<()> {
    write!(out, "{key}=")?;
    let leading = value.len() - value.trim_ascii_start().len();
    for (at, &byte) in value.iter().enumerate() {
        match byte {
            b' ' if at < leading => out.write_all(b"\\s")?,
            b'\t' if at < leading => out.write_all(b"\\t")?,
            b'\n' => out.write_all(b"\\n")?,
            b'\r' => out.write_all(b"\\r")?,
            b'\\' => out.write_all(b"\\\\")?,
            _ => out.write_all(&[byte])?,
        }
    }
    out.write_all(b"\n")
}

/// The name in a `[name]` line, if the line is one.
fn group_name(line: &[u8]) -> Option<&[u8]> {
    let inner = line.strip_prefix(b"[")?;
    let close = inner.iter().position(|&byte| byte == b']')?;
    inner[close + 1..].iter().all(|byte| b" \t".contains(byte)).then(|| &inner[..close])
}

fn checked_group(name: &[u8]) -> Result<String> {
    // A name in another encoding is the name of nothing that is ours.
    let name = lossy(name);
    let bad = name.is_empty() || name.chars().any(|c| c == '[' || c.is_control());
    if bad { Err(KeyFileError::GroupName(name)) } else { Ok(name) }
}

/// A key may carry a locale, `key[de_DE]`; brackets elsewhere are refused.
fn checked_key(key: &[u8]) -> Result<String> {
    let key = lossy(key);
    let (name, locale) = match key.split_once('[') {
        Some((name, rest)) => match rest.strip_suffix(']') {
            Some(locale) => (name, Some(locale)),
            None => return Err(KeyFileError::KeyName(key)),
        },
        None => (&*key, None),
    };
    let name_ok = !name.is_empty() && !name.contains(']') && !name.ends_with(' ');
    let locale_ok = locale.is_none_or(|text| text.chars().all(|c| c.is_alphanumeric() || "-_.@".contains(c)));
    if name_ok && locale_ok { Ok(key) } else { Err(KeyFileError::KeyName(key)) }
}

/// Resolves escapes; `None` for an unknown or unfinished one.
fn unescape(text: &str) -> Option<String> {
    if !text.contains('\\') {
        return Some(text.into());
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                's' => ' ',
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(plain)
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<KeyFile> {
        KeyFile::parse(text.as_bytes())
    }

    fn value_of(text: &str) -> Result<Option<String>> {
        parse(&format!("[g]\nk={text}\n"))?.string("g", "k")
    }

    #[test]
    fn blanks_around_keys_and_before_values_are_dropped() {
        let file = parse("  [g] \t\r\n\n # note\n  k  =  a b \r\n").unwrap();
        assert_eq!(file.string("g", "k").unwrap().as_deref(), Some("a b "));
    }

    #[test]
    fn groups_merge_and_the_last_value_wins() {
        let file = parse("[g]\nk=1\nk=2\n[h]\nk=9\n[g]\nk=3\n").unwrap();
        assert_eq!(file.string("g", "k").unwrap().as_deref(), Some("3"));
        assert_eq!(file.keys("g").collect::<Vec<_>>(), ["k", "k", "k"]);
    }

    #[test]
    fn what_other_ini_readers_take_is_taken_literally() {
        let file = parse("[g]\na=\"q\" ; # no comment\nb:c=d\n;e=f\n").unwrap();
        assert_eq!(file.string("g", "a").unwrap().as_deref(), Some("\"q\" ; # no comment"));
        assert_eq!(file.string("g", "b:c").unwrap().as_deref(), Some("d"));
        assert_eq!(file.string("g", ";e").unwrap().as_deref(), Some("f"));
    }

    #[test]
    fn malformed_lines_are_refused_in_glibs_words() {
        let refusal = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(refusal("verbose=1\n"), "Key file does not start with a group");
        let not_a_pair = "which is not a key-value pair, group, or comment";
        assert_eq!(refusal("[g]\nnonsense\n"), format!("Key file contains line “nonsense” {not_a_pair}"));
        assert_eq!(refusal("[g\nk=1\n"), format!("Key file contains line “[g” {not_a_pair}"));
        assert_eq!(refusal("\u{feff}[g]\n"), format!("Key file contains line “\u{feff}[g]” {not_a_pair}"));
        assert_eq!(refusal("[g]\n=1\n"), format!("Key file contains line “=1” {not_a_pair}"));
        assert_eq!(refusal("[]\n"), "Invalid group name: ");
        assert_eq!(refusal("[g]\na]b=1\n"), "Invalid key name: a]b");
    }

    #[test]
    fn a_line_with_an_equals_sign_behind_a_bracket_is_a_bad_key() {
        assert_eq!(parse("[g]\n[x=1\n").unwrap_err(), KeyFileError::KeyName("[x".into()));
    }

    #[test]
    fn localised_keys_do_no_harm() {
        assert!(parse("[g]\nName[de_DE]=x\n").is_ok());
    }

    #[test]
    fn escapes_are_resolved_and_unknown_ones_refused() {
        assert_eq!(value_of(r"\sa\tb\\c\n").unwrap().as_deref(), Some(" a\tb\\c\n"));
        assert_eq!(value_of(r"a\qb").unwrap_err(), KeyFileError::Value("k".into()));
        assert_eq!(value_of(r"a\").unwrap_err(), KeyFileError::Value("k".into()));
    }

    #[test]
    fn names_in_another_encoding_are_of_nobodys_concern() {
        let file = KeyFile::parse(b"[gr\xfcn]\nk=1\n[g]\nschl\xfcssel=1\nk=2\n").unwrap();
        assert_eq!(file.string("g", "k").unwrap().as_deref(), Some("2"));
    }

    #[test]
    fn bad_values_hurt_only_who_reads_them() {
        let file = KeyFile::parse(b"[g]\nk=\xff\nb=yes\n").unwrap();
        assert_eq!(file.string("g", "absent").unwrap(), None);
        assert!(matches!(file.string("g", "k"), Err(KeyFileError::Encoding(..))));
        assert_eq!(file.boolean("g", "b").unwrap_err(), KeyFileError::Value("b".into()));
    }

    #[test]
    fn booleans_and_numbers_are_strict() {
        let file = parse("[g]\na=true \nb=0\nc=TRUE\nd=\ne=12\nf=+1\ng=99999999999999999999\n").unwrap();
        assert_eq!(file.boolean("g", "a").unwrap(), Some(true));
        assert_eq!(file.boolean("g", "b").unwrap(), Some(false));
        assert!(file.boolean("g", "c").is_err() && file.boolean("g", "d").is_err());
        assert_eq!(file.number("g", "e").unwrap(), Some(12));
        assert!(file.number("g", "f").is_err() && file.number("g", "g").is_err() && file.number("g", "d").is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(text: Vec<u8>) {
            if let Ok(file) = KeyFile::parse(&text) {
                for pair in &file.pairs {
                    let _ = (file.string(&pair.group, &pair.key), file.boolean(&pair.group, &pair.key));
                }
            }
        }

        #[test]
        fn no_likely_text_panics(text in "[\\[\\]=#\\\\ \tag\r\n]{0,60}") {
            let _ = parse(&text).map(|file| file.string("g", "a"));
        }

        #[test]
        fn written_values_are_read_back(value in "[^\\x0c]{0,40}") {
            let mut text = b"[g]\n".to_vec();
            write_pair(&mut text, "k", value.as_bytes()).unwrap();
            prop_assert_eq!(KeyFile::parse(&text).unwrap().string("g", "k").unwrap(), Some(value));
        }
    }
}
