//! The protocol of the QEMU guest agent, for those that speak it: the agent in the guest and its clients on
//! the host.
//!
//! [`schema`] has a type for the arguments and the result of every command. Nothing here reads, writes or
//! asks an operating system.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod schema;
