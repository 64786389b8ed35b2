//! What the tests of the schema share.

#![allow(dead_code, reason = "each test uses a part")]

pub mod members;
pub mod samples;
pub mod wire;
pub mod words;
