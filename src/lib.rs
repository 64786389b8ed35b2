//! QEMU guest agent: the library behind the `qemu-ga` daemon.
//!
//! The path of one request: `channel` -> `protocol::frame` -> `protocol::request` -> `session` ->
//! `dispatch` -> `gate` with `policy` and the row of
//! `commands` -> handler -> `protocol::reply` -> `channel`.

pub mod agent;
pub mod channel;
pub mod cli;
pub(crate) mod clock;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod dispatch;
pub mod freeze;
mod gate;
pub mod host;
pub(crate) mod hotplug;
pub mod keyfile;
pub mod log;
pub mod output;
pub mod policy;
pub mod protocol;
pub mod serve;
pub mod session;
pub mod state;
