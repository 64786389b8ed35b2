//! Freezing real file systems on loop devices, in a mount namespace of its own.
//!
//! Only these are ever named to the agent: the machine's own file systems are never frozen.

mod bench;
mod dead;
mod end;
mod hooks;
mod kill;
mod layouts;
#[path = "../support/mod.rs"]
mod support;
