//! Readers of the Linux kernel's files: one file for each source.

pub mod cpu;
pub mod fd;
pub mod logind;
pub mod malloc;
pub mod memory;
pub mod mounts;
pub mod netlink;
pub mod os_release;
pub mod power;
pub mod route;
pub mod rtc;
pub mod timezone;
pub mod utmp;
