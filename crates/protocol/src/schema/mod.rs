//! The commands: one type for the arguments of each, and types for what they return.
//!
//! A type whose name begins with `Guest` is a command with its arguments: `guest-file-open` is
//! [`GuestFileOpen`]. All other types have the names of QEMU's own schema without `Guest`: what
//! `guest-file-read` returns, `GuestFileRead` there, is [`FileRead`] here.
//!
//! Every type can be serialized and deserialized:
//!
//! * The members go out in the order of their definition, and those that are `None` are left out.
//! * Results are read leniently: unknown members are ignored, and those that an older agent or one
//!   on another system does not send are optional. *Since* says which version of QEMU's agent sends them.
//! * Arguments borrow their text. An agent reads them with a deserializer of its own, which has QMP's words for
//!   what is wrong with them; that one visits members in the order of their definition. For it, optional
//!   arguments have the type `Option` and integers are `i64` or `u64`, and nothing is flattened.
//!
//! `docs/protocol.md` describes all of this for readers of other languages, and a test compares the two.

use serde::{Deserialize, Serialize};

mod agent;
mod cpu;
mod devices;
mod disk;
mod error_text;
mod exec;
mod file;
mod filesystem;
mod fsfreeze;
mod lenient;
mod memory;
mod network;
mod os;
mod password;
mod power;
mod secret;
mod ssh_keys;
mod time;
mod user;

pub use agent::*;
pub use cpu::*;
pub use devices::*;
pub use disk::*;
pub use error_text::{COMMON_ERRORS, is_error};
pub use exec::*;
pub use file::*;
pub use filesystem::*;
pub use fsfreeze::*;
pub use memory::*;
pub use network::*;
pub use os::*;
pub use password::*;
pub use power::*;
pub use secret::Secret;
pub use ssh_keys::*;
pub use time::*;
pub use user::*;

/// A command; the type that implements it is its arguments.
///
/// ```
/// use qga_protocol::schema::{Command, GuestFileOpen};
///
/// fn request<C: Command>(command: &C) -> serde_json::Value {
///     serde_json::json!({"execute": C::NAME, "arguments": command})
/// }
///
/// fn result<'r, C: Command>(_: &C, json: &'r str) -> serde_json::Result<C::Returns<'r>> {
///     serde_json::from_str(json)
/// }
///
/// let open = GuestFileOpen { path: "/etc/hostname", mode: None };
/// assert_eq!(request(&open).to_string(), r#"{"arguments":{"path":"/etc/hostname"},"execute":"guest-file-open"}"#);
/// let handle: i64 = result(&open, "1000")?;
/// assert_eq!(handle, 1000);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub trait Command: Serialize {
    /// The word in `execute`.
    const NAME: &'static str;
    /// The version of QEMU whose agent had it first.
    const SINCE: &'static str;
    /// Where it exists; elsewhere it is unknown.
    const PLATFORMS: Platforms = Platforms::All;
    /// Whether success is answered. After the four commands that are not, there may be nobody left to answer
    /// (O14).
    const REPLIES: bool = true;
    /// Whether it works while file systems are frozen.
    const WHILE_FROZEN: bool = false;
    /// Whether one byte 0xFF goes out before the reply to its success (O3).
    const DELIMITED: bool = false;
    /// The texts of its errors beyond [`COMMON_ERRORS`], for [`is_error`].
    const ERRORS: &'static [&'static str] = &[];
    /// The `return` member of the reply.
    type Returns<'r>: Serialize + Deserialize<'r>;
}

/// The systems that have a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// Linux and Windows.
    All,
    /// Linux only.
    Linux,
    /// Windows only.
    Windows,
}

/// The result of a command that returns nothing: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A command without its arguments, as an entry in a list of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// [`Command::NAME`].
    pub name: &'static str,
    /// [`Command::SINCE`].
    pub since: &'static str,
    /// [`Command::PLATFORMS`].
    pub platforms: Platforms,
    /// [`Command::REPLIES`].
    pub replies: bool,
    /// [`Command::WHILE_FROZEN`].
    pub while_frozen: bool,
    /// [`Command::DELIMITED`].
    pub delimited: bool,
    /// [`Command::ERRORS`].
    pub errors: &'static [&'static str],
}

impl Description {
    /// Describes one command.
    pub const fn of<C: Command>() -> Description {
        Description {
            name: C::NAME,
            since: C::SINCE,
            platforms: C::PLATFORMS,
            replies: C::REPLIES,
            while_frozen: C::WHILE_FROZEN,
            delimited: C::DELIMITED,
            errors: C::ERRORS,
        }
    }
}

/// All commands of the schema of QEMU 11.1, by group.
pub static COMMANDS: &[Description] = &[
    Description::of::<GuestSyncDelimited>(),
    Description::of::<GuestSync>(),
    Description::of::<GuestPing>(),
    Description::of::<GuestInfo>(),
    Description::of::<GuestGetTime>(),
    Description::of::<GuestSetTime>(),
    Description::of::<GuestShutdown<'_>>(),
    Description::of::<GuestSuspendDisk>(),
    Description::of::<GuestSuspendRam>(),
    Description::of::<GuestSuspendHybrid>(),
    Description::of::<GuestFileOpen<'_>>(),
    Description::of::<GuestFileClose>(),
    Description::of::<GuestFileRead>(),
    Description::of::<GuestFileWrite<'_>>(),
    Description::of::<GuestFileSeek>(),
    Description::of::<GuestFileFlush>(),
    Description::of::<GuestFsfreezeStatus>(),
    Description::of::<GuestFsfreezeFreeze>(),
    Description::of::<GuestFsfreezeFreezeList<'_>>(),
    Description::of::<GuestFsfreezeThaw>(),
    Description::of::<GuestGetFsinfo>(),
    Description::of::<GuestFstrim>(),
    Description::of::<GuestGetDisks>(),
    Description::of::<GuestGetDiskstats>(),
    Description::of::<GuestNetworkGetInterfaces>(),
    Description::of::<GuestNetworkGetRoute>(),
    Description::of::<GuestGetVcpus>(),
    Description::of::<GuestSetVcpus>(),
    Description::of::<GuestGetCpustats>(),
    Description::of::<GuestGetMemoryBlocks>(),
    Description::of::<GuestSetMemoryBlocks>(),
    Description::of::<GuestGetMemoryBlockInfo>(),
    Description::of::<GuestExec<'_>>(),
    Description::of::<GuestExecStatus>(),
    Description::of::<GuestSetUserPassword<'_>>(),
    Description::of::<GuestSshGetAuthorizedKeys<'_>>(),
    Description::of::<GuestSshAddAuthorizedKeys<'_>>(),
    Description::of::<GuestSshRemoveAuthorizedKeys<'_>>(),
    Description::of::<GuestGetHostName>(),
    Description::of::<GuestGetOsinfo>(),
    Description::of::<GuestGetTimezone>(),
    Description::of::<GuestGetLoad>(),
    Description::of::<GuestGetUsers>(),
    Description::of::<GuestGetDevices>(),
];
