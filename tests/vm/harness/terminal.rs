//! A person at a serial console: types, and reads what the guest prints.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::lines::{Lines, Silence};
use super::{SOON, until};

pub struct Terminal {
    stream: UnixStream,
    lines: Lines,
    /// Printed since the last thing that was waited for.
    seen: String,
}

impl Terminal {
    pub fn connect(path: &Path) -> Self {
        let stream = until("QEMU listens on the line's socket", SOON, || UnixStream::connect(path).ok());
        let lines = Lines::new(&stream);
        Self { stream, lines, seen: String::new() }
    }

    /// A line, as with the Enter key.
    pub fn enter(&mut self, text: &str) {
        self.stream.write_all(format!("{text}\r").as_bytes()).expect("write to the line's socket");
    }

    /// Wait until one of these is printed; which one. What was printed before it is forgotten.
    pub fn expect(&mut self, texts: &[&str]) -> usize {
        let deadline = Instant::now() + SOON;
        loop {
            let found = texts.iter().enumerate().filter_map(|(index, text)| Some((self.seen.find(text)?, index)));
            if let Some((at, index)) = found.min() {
                self.seen.drain(..at + texts[index].len());
                return index;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the console shows none of {texts:?}, but {:?}", self.seen);
            match self.lines.some(left.min(Duration::from_secs(10))) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(Silence::Late) => {}
                Err(Silence::Closed) => panic!("the console hung up after {:?}", self.seen),
            }
        }
    }

    /// Log in at a getty's prompt, which is still to come; whether that was allowed.
    pub fn log_in(&mut self, user: &str, password: &str) -> bool {
        self.expect(&["login: "]);
        self.enter(user);
        self.expect(&["Password: "]);
        self.enter(password);
        self.expect(&["Login incorrect", "$ "]) == 1
    }
}
