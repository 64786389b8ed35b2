//! Guest files: open, read, write, seek, flush, close.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::{Command, Empty};

/// `guest-file-open`: opens a file of the guest and returns its handle (O23).
///
/// The handle is a number that no client of this guest has seen yet. It is good until `guest-file-close` or the
/// end of the agent, also on other connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileOpen<'a> {
    /// The path; one that is not absolute begins at the agent's working directory.
    pub path: &'a str,
    /// As for fopen(3): `r`, `w` or `a`, with `b` and `+` behind it in any order. Without it `r`.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'a str>,
}

impl Command for GuestFileOpen<'_> {
    const NAME: &'static str = "guest-file-open";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] = &[
        "invalid file open mode '{mode}'",
        "failed to open file '{path}' (mode: '{mode}'): {reason}",
        "failed to open file '{path}': {number} files are open already",
    ];
    type Returns<'r> = i64;
}

const UNKNOWN_HANDLE: &str = "handle '{handle}' has not been found";
const BUSY_HANDLE: &str = "handle '{handle}' is in use by an earlier request that has not come to an end";
const INVALID_COUNT: &str = "value '{count}' is invalid for argument count";
pub(super) const INVALID_BASE64: &str = "Base64 data contains invalid characters";
pub(super) const TRUNCATED_BASE64: &str = "Base64 data is cut off or has padding inside";

/// `guest-file-close`: closes a file.
///
/// The handle is gone afterwards, also when the system reports an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileClose {
    /// What `guest-file-open` returned.
    pub handle: i64,
}

impl Command for GuestFileClose {
    const NAME: &'static str = "guest-file-close";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] = &[UNKNOWN_HANDLE, "failed to close handle: {reason}"];
    type Returns<'r> = Empty;
}

/// `guest-file-read`: reads on from the current position (O16, O23, O28).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileRead {
    /// What `guest-file-open` returned.
    pub handle: i64,
    /// Most bytes to read, from 0 to 50331648 (48 MiB). Without it 4096. libvirt takes replies up to 10 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

impl Command for GuestFileRead {
    const NAME: &'static str = "guest-file-read";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] =
        &[UNKNOWN_HANDLE, BUSY_HANDLE, INVALID_COUNT, "failed to read file: {reason}"];
    type Returns<'r> = FileRead<'r>;
}

/// What was read from a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileRead<'a> {
    /// The bytes in base64 without line breaks; empty when there are none.
    #[serde(borrow)]
    pub buf_b64: Cow<'a, str>,
    /// How many bytes that is.
    pub count: usize,
    /// Whether the end of the file was met. A read that takes exactly the rest may say false; the next one
    /// then has no bytes and says true. On Windows only a read without any bytes says true.
    pub eof: bool,
}

/// `guest-file-write`: writes at the current position (O16, O23).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestFileWrite<'a> {
    /// What `guest-file-open` returned.
    pub handle: i64,
    /// The bytes in base64; line breaks are allowed.
    pub buf_b64: &'a str,
    /// How many of the bytes to write, from 0. Without it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

impl Command for GuestFileWrite<'_> {
    const NAME: &'static str = "guest-file-write";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] = &[
        UNKNOWN_HANDLE,
        BUSY_HANDLE,
        INVALID_COUNT,
        INVALID_BASE64,
        TRUNCATED_BASE64,
        "failed to write to file: {reason}",
    ];
    type Returns<'r> = FileWrite;
}

/// What was written to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// How many bytes the system took.
    pub count: usize,
    /// Always false.
    pub eof: bool,
}

/// `guest-file-seek`: moves the position of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileSeek {
    /// What `guest-file-open` returned.
    pub handle: i64,
    /// How far from there, in bytes.
    pub offset: i64,
    /// From where: `set` (0) from the beginning, `cur` (1) from the current position, `end` (2) from the end. A
    /// number; also a word since 2.6.
    pub whence: FileWhence,
}

impl Command for GuestFileSeek {
    const NAME: &'static str = "guest-file-seek";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] =
        &[UNKNOWN_HANDLE, BUSY_HANDLE, "invalid whence code {whence}", "failed to seek file: {reason}"];
    type Returns<'r> = FileSeek;
}

/// Where a file's position is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSeek {
    /// Bytes from the beginning.
    pub position: u64,
    /// Always false.
    pub eof: bool,
}

/// Where a seek starts. It is written as the number, which all agents understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileWhence {
    /// At the beginning: 0 or `set`.
    Set,
    /// At the current position: 1 or `cur`.
    Cur,
    /// At the end: 2 or `end`.
    End,
    /// Any other number, which is an error.
    Other(i64),
}

impl Serialize for FileWhence {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_i64(match self {
            FileWhence::Set => 0,
            FileWhence::Cur => 1,
            FileWhence::End => 2,
            FileWhence::Other(code) => *code,
        })
    }
}

impl<'de> Deserialize<'de> for FileWhence {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FileWhence, D::Error> {
        from.deserialize_any(WhenceVisitor)
    }
}

/// An alternate: the type on the wire picks the branch, and numbers of any kind the integer's.
struct WhenceVisitor;

impl Visitor<'_> for WhenceVisitor {
    type Value = FileWhence;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestFileWhence")
    }

    fn visit_i64<E>(self, code: i64) -> Result<FileWhence, E> {
        Ok(match code {
            0 => FileWhence::Set,
            1 => FileWhence::Cur,
            2 => FileWhence::End,
            other => FileWhence::Other(other),
        })
    }

    fn visit_u64<E: de::Error>(self, code: u64) -> Result<FileWhence, E> {
        match i64::try_from(code) {
            Ok(code) => self.visit_i64(code),
            Err(_) => Err(E::invalid_type(de::Unexpected::Unsigned(code), &"integer")),
        }
    }

    fn visit_f64<E: de::Error>(self, code: f64) -> Result<FileWhence, E> {
        Err(E::invalid_type(de::Unexpected::Float(code), &"integer"))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<FileWhence, E> {
        match word {
            "set" => Ok(FileWhence::Set),
            "cur" => Ok(FileWhence::Cur),
            "end" => Ok(FileWhence::End),
            other => Err(E::unknown_variant(other, &["set", "cur", "end"])),
        }
    }
}

/// `guest-file-flush`: hands data that the agent has buffered to the system.
///
/// Afterwards the data need not be on the disk; on Windows they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileFlush {
    /// What `guest-file-open` returned.
    pub handle: i64,
}

impl Command for GuestFileFlush {
    const NAME: &'static str = "guest-file-flush";
    const SINCE: &'static str = "0.15";
    const ERRORS: &'static [&'static str] = &[UNKNOWN_HANDLE];
    type Returns<'r> = Empty;
}
