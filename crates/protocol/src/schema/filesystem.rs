//! Mounted file systems: what they are on, how full they are, and giving back what they do not use.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::{Command, DiskAddress};

/// `guest-get-fsinfo`: lists the file systems on disks of this machine, in reverse order of mounting (O11,
/// O17).
///
/// On Linux from `/proc/self/mountinfo`, `/sys/dev/block` and statfs(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetFsinfo {}

impl Command for GuestGetFsinfo {
    const NAME: &'static str = "guest-get-fsinfo";
    const SINCE: &'static str = "2.2";
    const ERRORS: &'static [&'static str] = &["Could not open '/proc/self/mountinfo': {reason}"];
    type Returns<'r> = Vec<FilesystemInfo>;
}

/// A mounted file system. Everything but the sizes is always there (O17); the sizes are missing where the file system
/// did not answer in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesystemInfo {
    /// The kernel's name of the device, as in `vda1` or `dm-0`; on Windows the volume, `\\?\Volume{...}\`.
    pub name: String,
    /// Where it is mounted. On Windows, `System Reserved` if it has no mount point.
    pub mountpoint: String,
    /// The type of the file system, as in `ext4` or `NTFS`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// Bytes that are used. Since 3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Bytes that users other than root can ever use: used and available. Since 3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// All bytes, with those that only root may use. Since 9.1, not on Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes_privileged: Option<u64>,
    /// The disks that it is on, below whatever is between; empty when it is on none.
    pub disk: Vec<DiskAddress>,
}

/// `guest-fstrim`: tells the disks which blocks of their file systems hold nothing (O10, O25).
///
/// May take minutes. A file system that cannot be trimmed has an error in the reply and does not fail the
/// command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFstrim {
    /// Bytes; shorter free ranges may be skipped. Unsigned, with all 64 bits. Without it 0. Ignored on Windows.
    #[serde(default, deserialize_with = "minimum", skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u64>,
}

impl Command for GuestFstrim {
    const NAME: &'static str = "guest-fstrim";
    const SINCE: &'static str = "1.2";
    const ERRORS: &'static [&'static str] =
        &["Parameter 'minimum' may not be negative", "Could not open '/proc/self/mountinfo': {reason}"];
    type Returns<'r> = FilesystemTrimResponse;
}

/// Unsigned, although the schema says integer: clients send all 64 bits (O25).
fn minimum<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Bytes(u64);

    impl<'de> Deserialize<'de> for Bytes {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
            struct Unsigned;

            impl Visitor<'_> for Unsigned {
                type Value = Bytes;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("integer")
                }

                fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                    Ok(Bytes(bytes))
                }

                fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                    let negative = |_| E::custom("Parameter 'minimum' may not be negative");
                    u64::try_from(bytes).map(Bytes).map_err(negative)
                }
            }
            // As it is written: to an agent's `deserialize_u64` a negative number is one with the same bits.
            from.deserialize_any(Unsigned)
        }
    }

    let bytes = Option::<Bytes>::deserialize(from)?;
    Ok(bytes.map(|bytes| bytes.0))
}

/// What was trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemTrimResponse {
    /// One entry for each file system. Since 2.4.
    #[serde(default)]
    pub paths: Vec<FilesystemTrimResult>,
}

/// What was trimmed of one file system: the numbers or the error, never both; neither on Windows when it went
/// well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemTrimResult {
    /// Where it is mounted.
    pub path: String,
    /// Bytes that were trimmed; some kinds of file system count again what was trimmed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<u64>,
    /// Bytes; shorter free ranges were skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u64>,
    /// Why it was not trimmed, as in `trim not supported` or `failed to trim: Operation not permitted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
