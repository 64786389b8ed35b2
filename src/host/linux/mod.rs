//! Readers of the Linux kernel's files: one file for each source.

pub mod mounts;
pub mod fd;
pub mod spawn;
