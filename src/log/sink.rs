//! Where log lines end up.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

/// The facility of records about what the host did: that of ordinary programs, as upstream has it.
const LOG_USER: u8 = 1 << 3;
/// The facility of a daemon's own messages.
const LOG_DAEMON: u8 = 3 << 3;

/// The one place the log goes to. Lines that cannot be written are dropped: there is nobody to tell.
#[derive(Debug)]
pub(super) enum Sink {
    /// A terminal, a pipe, or whatever stderr is.
    Stderr,
    /// Stderr that leads to the journal, which notes times itself and takes a priority in front.
    Journal,
    /// A file and its name.
    File(File, PathBuf),
    /// A daemon without a log file.
    Syslog(Syslog),
}

impl Sink {
    pub(super) fn stderr() -> Sink {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        if stream.is_some_and(|stream| is_stream(&stream)) { Sink::Journal } else { Sink::Stderr }
    }

    pub(super) fn file(path: &Path) -> io::Result<Sink> {
        // A FIFO that nobody reads, or a terminal, may not stop us; the latter is not to be ours.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options().append(true).create(true).mode(0o600).custom_flags(flags.bits()).open(path)?;
        Ok(Sink::File(file, std::path::absolute(path)?))
    }

    pub(super) fn syslog() -> Sink {
        Sink::Syslog(Syslog { facility: LOG_DAEMON, ..Syslog::default() })
    }

    pub(super) fn is_stderr(&self) -> bool {
        matches!(self, Sink::Stderr | Sink::Journal)
    }

    /// Whether lines need a time of their own.
    pub(super) fn wants_time(&self) -> bool {
        matches!(self, Sink::Stderr | Sink::File(..))
    }

    /// Opens a file again by its name; if that fails the old one stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Sink::File(_, path) = self {
            *self = Sink::file(path)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, priority: u8, line: &[u8]) {
        let _ = match self {
            Sink::Stderr => write_to_stderr(line),
            Sink::Journal => write_to_stderr(&[format!("<{priority}>").as_bytes(), line].concat()),
            Sink::File(file, _) => file.write_all(line),
            Sink::Syslog(syslog) => {
                syslog.send(priority, line);
                Ok(())
            }
        };
    }
}

/// Writes as much as stderr takes at once: its reader may be stuck, and so would we be.
pub(super) fn write_to_stderr(text: &[u8]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    // A pipe that reports room has room for so much.
    for part in text.chunks(PIPE_BUF) {
        let has_room = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO)? > 0;
        if !has_room {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        stderr.write_all(part)?;
    }
    Ok(())
}

/// Whether a `DEVICE:INODE` of systemd's names our stderr.
fn is_stream(stream: &str) -> bool {
    fstat(io::stderr()).is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// The system log, reached without the C library, whose `syslog` may block.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    facility: u8,
    socket: Option<UnixDatagram>,
    /// When nobody was there, for not asking again with every line.
    absent_since: Option<Instant>,
    /// The message being sent, kept for its memory.
    message: Vec<u8>,
}

/// Log daemons cut longer messages, and the kernel refuses very long ones.
const LONGEST: usize = 8 << 10;

/// How long an absent log daemon is taken to stay absent.
const ABSENCE: Duration = Duration::from_secs(1);

impl Default for Syslog {
    fn default() -> Self {
        Syslog { path: "/dev/log".into(), facility: LOG_USER, socket: None, absent_since: None, message: Vec::new() }
    }
}

impl Syslog {
    /// A log daemon that listens elsewhere.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Syslog {
        Syslog { path: path.to_owned(), ..Syslog::default() }
    }

    /// Until when lines are dropped, because nobody is there.
    pub(super) fn absent_until(&self) -> Option<Instant> {
        self.absent_since.map(|since| since + ABSENCE)
    }

    /// Sends a line, or drops it when nobody takes it at once. The receiver adds the time.
    pub(super) fn send(&mut self, priority: u8, line: &[u8]) {
        self.message.clear();
        // Writing to a vector does not fail.
        let _ = write!(self.message, "<{}>qemu-ga: ", self.facility | priority);
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        self.message.extend_from_slice(&text[..text.len().min(LONGEST)]);
        if let Some(socket) = &self.socket {
            match socket.send(&self.message) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The log daemon was restarted.
                Err(_) => self.socket = None,
            }
        }
        if self.absent_since.is_some_and(|since| since.elapsed() < ABSENCE) {
            return;
        }
        match connect(&self.path) {
            Ok(socket) => {
                let _ = socket.send(&self.message);
                (self.socket, self.absent_since) = (Some(socket), None);
            }
            Err(_) => self.absent_since = Some(Instant::now()),
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}
