//! The wire: bytes to requests and results to reply lines, without any I/O.
//!
//! [`frame::Framer`] cuts a byte stream into messages, [`request::Request`] reads the envelope,
//! [`args`] turns arguments into typed values, [`reply`] writes the answer.

pub mod args;
pub mod base64;
pub mod error;
pub mod frame;
pub mod lexer;
pub mod message;
pub mod parser;
pub mod reply;
pub mod request;
mod text;
