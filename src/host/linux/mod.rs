//! Readers of the Linux kernel's files: one file for each source.

pub mod address;
pub mod authorized_keys;
pub mod block;
pub mod btrfs;
pub mod capability;
pub mod cpu;
pub mod descriptors;
pub mod diskstats;
pub mod fd;
pub mod file_limit;
pub mod logind;
pub mod malloc;
pub mod memory;
pub mod mounts;
pub mod netlink;
pub mod nvme;
pub mod os_release;
pub mod power;
pub mod route;
pub mod rtc;
pub mod selinux;
pub mod serial;
pub mod spawn;
pub mod swap;
pub mod timezone;
pub mod utmp;
