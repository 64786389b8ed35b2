//! Programs: starting them, and what became of them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::file::{INVALID_BASE64, TRUNCATED_BASE64};
use super::{Command, Secret};

/// `guest-exec`: starts a program and returns its process id (O16, O22).
///
/// The program outlives the call; `guest-exec-status` tells of its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestExec<'a> {
    /// The program. One without a slash is looked for in PATH: in that of `env`, if there is one.
    pub path: &'a str,
    /// Its arguments; its name is not among them.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub arg: Option<Vec<&'a str>>,
    /// Its whole environment as `NAME=VALUE`. Without it, the agent's.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<&'a str>>,
    /// Its standard input in base64; line breaks are allowed. Without it, the input is empty.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub input_data: Option<Secret<'a>>,
    /// Which output is kept for `guest-exec-status`: `true` or `separated` both streams, each on its own; `false`
    /// or `none` nothing, as without it; `stdout`, `stderr` only that one; `merged` both in one. Words since 8.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture_output: Option<ExecCaptureOutput>,
}

impl Command for GuestExec<'_> {
    const NAME: &'static str = "guest-exec";
    const SINCE: &'static str = "2.5";
    const ERRORS: &'static [&'static str] =
        &["Failed to execute child process \u{201c}{path}\u{201d} ({reason})", INVALID_BASE64, TRUNCATED_BASE64];
    type Returns<'r> = Exec;
}

/// A program that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Its process id, greater than 0.
    pub pid: i64,
}

/// Which output of a program is kept. It is written as a boolean where that will do, which all
/// agents understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecCaptureOutput {
    /// None: `false` or `none`.
    None,
    /// Standard output: `stdout`.
    Stdout,
    /// Standard error: `stderr`.
    Stderr,
    /// Both: `true` or `separated`.
    Separated,
    /// Both, as if they were one: `merged`. QEMU's agent for Windows does not know it.
    Merged,
}

impl Serialize for ExecCaptureOutput {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            ExecCaptureOutput::None => out.serialize_bool(false),
            ExecCaptureOutput::Separated => out.serialize_bool(true),
            ExecCaptureOutput::Stdout => out.serialize_str("stdout"),
            ExecCaptureOutput::Stderr => out.serialize_str("stderr"),
            ExecCaptureOutput::Merged => out.serialize_str("merged"),
        }
    }
}

impl<'de> Deserialize<'de> for ExecCaptureOutput {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Alternate;

        impl Visitor<'_> for Alternate {
            type Value = ExecCaptureOutput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("GuestExecCaptureOutput")
            }

            fn visit_bool<E: de::Error>(self, yes: bool) -> Result<ExecCaptureOutput, E> {
                Ok(if yes { ExecCaptureOutput::Separated } else { ExecCaptureOutput::None })
            }

            fn visit_str<E: de::Error>(self, mode: &str) -> Result<ExecCaptureOutput, E> {
                Ok(match mode {
                    "none" => ExecCaptureOutput::None,
                    "stdout" => ExecCaptureOutput::Stdout,
                    "stderr" => ExecCaptureOutput::Stderr,
                    "separated" => ExecCaptureOutput::Separated,
                    "merged" => ExecCaptureOutput::Merged,
                    _ => {
                        return Err(E::unknown_variant(mode, &["none", "stdout", "stderr", "separated", "merged"]));
                    }
                })
            }
        }

        from.deserialize_any(Alternate)
    }
}

/// `guest-exec-status`: says whether a program has ended, and then once: how, and what it wrote (O22, O28).
///
/// After that its process id is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestExecStatus {
    /// What `guest-exec` returned.
    pub pid: i64,
}

impl Command for GuestExecStatus {
    const NAME: &'static str = "guest-exec-status";
    const SINCE: &'static str = "2.5";
    const ERRORS: &'static [&'static str] = &["PID {pid} does not exist"];
    type Returns<'r> = ExecStatus<'r>;
}

/// What became of a program. Members for an output that is empty or was not kept are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExecStatus<'a> {
    /// Whether it has ended and the outputs that are kept are closed, also by programs that it started. While this is
    /// false, all other members are missing.
    pub exited: bool,
    /// Its exit status, if it exited.
    #[serde(rename = "exitcode", skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// The number of the signal that ended it, if one did. On Windows, the code of an exception.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    /// Whether it wrote more to its standard output than the 16 MiB that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_truncated: Option<bool>,
    /// Its standard output in base64.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub out_data: Option<Cow<'a, str>>,
    /// Whether it wrote more to its standard error than the 16 MiB that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub err_truncated: Option<bool>,
    /// Its standard error in base64.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub err_data: Option<Cow<'a, str>>,
}
