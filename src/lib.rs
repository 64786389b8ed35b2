//! QEMU guest agent: the library behind the `qemu-ga` daemon.
//!
//! The path of one request: `channel` -> `protocol::frame` -> `protocol::request` -> `session` ->
//! `agent` with the row of `commands` and `policy` -> handler -> `protocol::reply` -> `channel`.

pub mod agent;
pub mod channel;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod freeze;
pub mod host;
pub mod keyfile;
pub mod log;
pub mod output;
pub mod policy;
pub mod protocol;
pub mod serve;
pub mod session;
pub mod state;
