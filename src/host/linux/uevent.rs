//! What the kernel tells of devices as they come and go: the uevent socket (netlink(7),
//! `NETLINK_KOBJECT_UEVENT`, lib/kobject_uevent.c).

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, UnixCredentials, bind,
    recvmsg, setsockopt, socket, sockopt,
};

/// The kernel's own messages. Those of udev have another group, and are not wanted.
const KERNEL_GROUP: u32 = 1;

/// More than the kernel's `UEVENT_BUFFER_SIZE` and the line before it.
const LONGEST: usize = 8 << 10;

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uevent<'a> {
    /// As in `add`, `remove`, `change`.
    pub action: &'a str,
    /// The class or bus, as in `memory`.
    pub subsystem: &'a str,
    /// The device's name in its directory, as in `memory40`.
    pub name: &'a str,
    /// The machine was copied, or taken back to an earlier state: it has another generation id.
    pub new_generation: bool,
}

impl<'a> Uevent<'a> {
    /// Reads `ACTION@PATH`, then `KEY=VALUE`, each with a NUL behind it.
    pub fn parse(message: &'a [u8]) -> Option<Uevent<'a>> {
        let mut parts = message.strip_suffix(&[0])?.split(|&byte| byte == 0).map(|part| std::str::from_utf8(part).ok());
        let (action, path) = parts.next()??.split_once('@')?;
        let mut event = Uevent { action, subsystem: "", name: path.rsplit('/').next()?, new_generation: false };
        for (key, value) in parts.flatten().filter_map(|part| part.split_once('=')) {
            match key {
                "SUBSYSTEM" => event.subsystem = value,
                "NEW_VMGENID" => event.new_generation = value == "1",
                _ => {}
            }
        }
        Some(event)
    }
}

/// What a look at the socket found.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// One message was taken.
    Message,
    /// There is none now.
    Nothing,
    /// Some were lost, since they came faster than they were taken.
    Lost,
}

/// An open uevent socket.
pub struct Uevents(OwnedFd);

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Uevents {
    /// From now on the kernel's messages are kept for us.
    ///
    /// # Errors
    /// The system's own: a sandbox may leave no such socket.
    pub fn open() -> nix::Result<Uevents> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Uevents(socket))
    }

    /// Takes one message and hands it over if it is the kernel's: other programs of root can send
    /// here as well.
    ///
    /// # Errors
    /// The socket does not work any more.
    pub fn take(&self, hear: impl FnOnce(Uevent<'_>)) -> nix::Result<Heard> {
        let mut buffer = [0; LONGEST];
        let mut control = cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<NetlinkAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        let (length, trusted) = match received {
            Ok(message) => {
                let whole = !message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                let kernel = message.address.is_some_and(|sender| sender.pid() == 0);
                (message.bytes, whole && kernel && message.cmsgs()?.any(|control| is_kernel(&control)))
            }
            Err(Errno::EAGAIN) => return Ok(Heard::Nothing),
            Err(Errno::EINTR) => return Ok(Heard::Message),
            Err(Errno::ENOBUFS) => return Ok(Heard::Lost),
            Err(error) => return Err(error),
        };
        if let Some(event) = buffer.get(..length).filter(|_| trusted).and_then(Uevent::parse) {
            hear(event);
        }
        Ok(Heard::Message)
    }
}

fn is_kernel(control: &ControlMessageOwned) -> bool {
    match control {
        ControlMessageOwned::ScmCredentials(sender) => sender.pid() == 0 && sender.uid() == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::sys::socket::{getsockname, sendto};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_of_the_kernel_is_read() {
        let message = b"add@/devices/system/memory/memory40\0ACTION=add\0DEVPATH=/devices/system/memory/memory40\0\
            SUBSYSTEM=memory\0SYNTH_UUID=0\0SEQNUM=1771\0";
        let memory = Uevent { action: "add", subsystem: "memory", name: "memory40", new_generation: false };
        assert_eq!(Uevent::parse(message), Some(memory));
        let message = b"change@/devices/platform/QEMUVGID:00\0ACTION=change\0SUBSYSTEM=platform\0NEW_VMGENID=1\0";
        assert!(Uevent::parse(message).is_some_and(|event| event.new_generation && event.name == "QEMUVGID:00"));
        // That of udev, and what is none.
        for message in [&b"libudev\0\xfe\xed\xca\xfe"[..], b"add@/a", b"add\0", b"", b"\0", b"\xff@/a\0"] {
            assert_eq!(Uevent::parse(message), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_panics(message in "(add@|remove@|/devices|cpu[0-9]{1,30}|\0|SUBSYSTEM=|cpu|=|@|.){0,12}") {
            let _ = Uevent::parse(message.as_bytes());
        }
    }

    /// Root can send to the socket; such a message must not pass for the kernel's.
    #[test]
    fn only_the_kernel_is_believed() {
        let uevents = Uevents::open().expect("a socket");
        let address: NetlinkAddr = getsockname(uevents.0.as_raw_fd()).expect("an address");
        let other = Uevents::open().expect("another");
        let forged = b"add@/devices/system/cpu/cpu7\0ACTION=add\0SUBSYSTEM=cpu\0";
        let to = NetlinkAddr::new(address.pid(), 0);
        match sendto(other.0.as_raw_fd(), forged, &to, MsgFlags::empty()) {
            Err(Errno::EPERM | Errno::EACCES) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED only_the_kernel_is_believed: only root can send");
                return;
            }
            sent => assert_eq!(sent, Ok(forged.len())),
        }
        let mut messages = 0;
        while uevents.take(|event| assert_ne!(event.name, "cpu7")).expect("a look") != Heard::Nothing {
            messages += 1;
        }
        assert!(messages > 0, "the message was there");
    }
}
