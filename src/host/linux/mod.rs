//! Readers of the Linux kernel's files: one file for each source.

pub mod fd;
pub mod mounts;
pub mod os_release;
pub mod rtc;
pub mod timezone;
pub mod utmp;
