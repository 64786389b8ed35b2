//! The serial line: raw, 8 bits, 38400 where the platform wants a speed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::termios::{
    BaudRate, ControlFlags, FlushArg, SetArg, SpecialCharacterIndices, cfmakeraw, cfsetspeed, tcflush, tcgetattr,
    tcsetattr,
};

/// Opens and sets up the line. Something that is no terminal is taken as it is.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let line = nix::fcntl::open(path, flags, Mode::empty())?;
    match tcgetattr(&line) {
        Err(nix::errno::Errno::ENOTTY) => return Ok(line),
        Err(other) => return Err(other.into()),
        Ok(mut settings) => {
            cfmakeraw(&mut settings);
            cfsetspeed(&mut settings, BaudRate::B38400)?;
            settings.control_flags.remove(ControlFlags::CSTOPB | ControlFlags::CRTSCTS);
            settings.control_flags.insert(ControlFlags::CREAD | ControlFlags::CLOCAL);
            settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            tcsetattr(&line, SetArg::TCSANOW, &settings)?;
        }
    }
    // What came in before we listened is the middle of something.
    tcflush(&line, FlushArg::TCIFLUSH)?;
    Ok(line)
}
