//! Readers of the Linux kernel's files: one file for each source.

pub mod address;
pub mod block;
pub mod btrfs;
pub mod diskstats;
pub mod fd;
pub mod mounts;
pub mod nvme;
pub mod serial;
