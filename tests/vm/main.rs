//! The agent in real guests: Debian with systemd, with sysvinit and with OpenRC, and one of busybox alone,
//! under emulated QEMU machines.
//!
//! `cargo build --release && cargo test --test vm` (minutes; as root on the first run, to build the
//! guest images). `QGA_UNDER_TEST=/usr/sbin/qemu-ga` runs the same against another agent, such as
//! the C one; what that one is known not to do is then left out, and said so.
//!
//! The tests of the systemd guest share one boot and take turns (`shared`); each starts with a
//! fresh agent, so any one of them can be run alone. So do those of disks, processors, memory and
//! links, in a guest that has them all (`hardware`). Those that end the guest's life have their own.

mod by_hand;
mod clock;
mod database;
mod disks;
mod freeze;
mod hardware;
#[allow(dead_code, reason = "shared with the demo, which uses other parts of it")]
mod harness;
mod identity;
mod impatient;
mod inventory;
mod keys;
mod layouts;
#[path = "../support/libvirt_rules.rs"]
mod libvirt_rules;
mod logind;
mod memory;
mod network;
mod openrc;
mod other_guests;
mod password;
mod people;
mod port;
mod power;
mod processors;
mod script;
mod services;
mod shared;
mod snapshot;
mod stacks;
mod suspend;
mod swap;
mod sysv;
mod trim;
mod users;
mod virsh;
