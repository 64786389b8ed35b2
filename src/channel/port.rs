//! The virtio-serial port.
//!
//! While the host side is closed the port reports a hang-up for ever, and a level-triggered wait
//! (or one that remembers the hang-up, as tokio's does) would spin. A private epoll watches it
//! edge-triggered: it wakes when the host opens, closes or sends, and not otherwise (O30).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::stat::Mode;

/// Where udev names the ports.
const NAMES: &str = "/dev/virtio-ports";

/// Opens the port. Where udev made no names, it is looked up by its name in sysfs.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let open = |path: &Path| nix::fcntl::open(path, flags, Mode::empty());
    match open(path) {
        Err(nix::errno::Errno::ENOENT) => match unnamed(path) {
            Some(device) => Ok(open(&device)?),
            None => Err(nix::errno::Errno::ENOENT.into()),
        },
        other => Ok(other?),
    }
}

/// `/dev/vportNpM` of the port that udev would have named so.
fn unnamed(path: &Path) -> Option<PathBuf> {
    let name = path.strip_prefix(NAMES).ok()?.as_os_str().as_bytes();
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    let device = ports
        .filter_map(Result::ok)
        .find(|port| std::fs::read(port.path().join("name")).is_ok_and(|found| found.trim_ascii() == name))?;
    Some(Path::new("/dev").join(device.file_name()))
}

/// An epoll of its own around a device, to be watched in its place.
pub(super) fn edges(device: impl AsFd) -> io::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    epoll.add(device, EpollEvent::new(edges, 0))?;
    Ok(epoll)
}

/// Takes the edges that have come since the last call.
pub(super) fn take_edges(epoll: &Epoll) -> io::Result<EpollFlags> {
    let mut seen = [EpollEvent::empty()];
    let count = epoll.wait(&mut seen, EpollTimeout::ZERO)?;
    Ok(if count > 0 { seen[0].events() } else { EpollFlags::empty() })
}
