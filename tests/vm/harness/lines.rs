//! Lines from a socket, with a deadline. What came of an unfinished line is kept for the next call.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Why there is no line.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    /// The time is up.
    Late,
    /// The other side has hung up.
    Closed,
}

pub struct Lines {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Lines {
    pub fn new(stream: &UnixStream) -> Self {
        let stream = stream.try_clone().expect("duplicate a socket");
        Self { stream, pending: Vec::new() }
    }

    /// The next line, without its newline.
    pub fn next(&mut self, limit: Duration) -> Result<Vec<u8>, Silence> {
        let deadline = Instant::now() + limit;
        let mut scanned = 0;
        loop {
            if let Some(end) = self.pending[scanned..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(scanned + end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(line);
            }
            scanned = self.pending.len();
            self.fill(deadline)?;
        }
    }

    /// Whatever came, of any length.
    pub fn some(&mut self, limit: Duration) -> Result<Vec<u8>, Silence> {
        if self.pending.is_empty() {
            self.fill(Instant::now() + limit)?;
        }
        Ok(std::mem::take(&mut self.pending))
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), Silence> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Silence::Late);
        }
        self.stream.set_read_timeout(Some(left)).expect("set a read time-out");
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Silence::Closed),
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(Silence::Late),
            // A reset is one more way of hanging up.
            Err(_) => Err(Silence::Closed),
        }
    }
}
