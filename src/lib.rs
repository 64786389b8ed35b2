//! QEMU guest agent: the library behind the `qemu-ga` daemon.

pub mod protocol;
