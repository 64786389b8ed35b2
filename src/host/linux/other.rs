//! Processes that are no children of ours, by a descriptor that stays theirs when the id is used again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::spawn::Exit;

/// A descriptor for a child that was not waited for: a pidfd, or before Linux 5.3 its directory in
/// `/proc`.
pub fn handle(pid: Pid) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: takes two integers and returns a new descriptor, close-on-exec, or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match Errno::result(fd).ok().and_then(|fd| i32::try_from(fd).ok()) {
        #[expect(unsafe_code, reason = "a raw descriptor comes from the call above")]
        // SAFETY: the descriptor is new and nobody else's.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Ok(File::open(format!("/proc/{pid}"))?.into()),
    }
}

/// How the process ended, as far as the system tells; `None` while it runs.
pub fn exit(handle: &OwnedFd) -> Option<Exit> {
    if nix::sys::stat::fstat(handle).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR) {
        let there = openat(handle, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let state = there.ok().and_then(|file| io::read_to_string(File::from(file)).ok());
        return state.is_none_or(|state| state.contains(") Z ")).then_some(Exit::Unknown);
    }
    let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(1) => Some(status(handle).unwrap_or(Exit::Unknown)),
        _ => None,
    }
}

/// Since Linux 6.15 a pidfd knows how its process ended, after somebody waited for it.
fn status(pidfd: &OwnedFd) -> Option<Exit> {
    /// `linux/pidfd.h`, its first version.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    nix::ioctl_readwrite!(pidfd_get_info, 0xFF, 11, PidfdInfo);
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: the kernel writes no more than the size that is part of the request.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }.ok()?;
    let code = info.exit_code;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(if code & 0x7f == 0 {
        Exit::Code(code >> 8 & 0xff)
    } else {
        Exit::Signal(code & 0x7f)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::linux::spawn::{Program, reap};

    #[test]
    fn a_process_is_known_by_its_handle_after_its_id_is_free() {
        let program = Program { path: "sh", args: &["-c", "read x; exit 3"], ..Program::default() };
        let (input, feed) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let pid = Program { stdio: [Some(input.as_fd()), None, None], ..program }.spawn().expect("it starts");
        let pidfd = handle(pid).expect("a handle");
        let directory = File::open(format!("/proc/{pid}")).expect("a directory").into();
        assert_eq!((exit(&pidfd), exit(&directory)), (None, None));
        drop(feed);
        reap(pid).expect("our child");
        assert!(matches!(exit(&pidfd), Some(Exit::Code(3) | Exit::Unknown)));
        assert_eq!(exit(&directory), Some(Exit::Unknown));
    }
}
