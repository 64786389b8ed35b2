//! A root shell in the guest, on a virtio-serial bus of its own (`guest/shell` is the other end).
//!
//! It tells what the guest itself says, to hold against what the agent claims, and it still works
//! when the agent is frozen, stuck or dead. One command at a time: one that may block must be put
//! into the background, with its output redirected.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::lines::Lines;
use super::{SOON, until};

pub struct Shell {
    stream: UnixStream,
    lines: Lines,
    last_id: u64,
}

#[derive(Debug)]
pub struct Output {
    pub status: i32,
    /// Standard output and standard error, without the newlines at the end.
    pub text: String,
}

impl Shell {
    pub fn connect(path: &Path) -> Self {
        let stream = until("QEMU listens on the shell's socket", SOON, || UnixStream::connect(path).ok());
        let lines = Lines::new(&stream);
        Self { stream, lines, last_id: 0 }
    }

    /// Run a script; `None` when the guest gives no answer in time.
    pub fn attempt(&mut self, script: &str, limit: Duration) -> Option<Output> {
        let deadline = Instant::now() + limit;
        self.last_id += 1;
        writeln!(self.stream, "{} {}", self.last_id, base64(script.as_bytes())).ok()?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = String::from_utf8(self.lines.next(left).ok()?).expect("the shell answers in ASCII");
            let mut fields = line.split(' ');
            // Anything else is the late answer to a command that was given up.
            if fields.next().and_then(|id| id.parse().ok()) == Some(self.last_id) {
                let status = fields.next().and_then(|status| status.parse().ok()).expect("a status");
                let text = String::from_utf8_lossy(&unbase64(fields.next().unwrap_or_default())).into_owned();
                return Some(Output { status, text });
            }
        }
    }

    pub fn run_within(&mut self, script: &str, limit: Duration) -> Output {
        self.attempt(script, limit)
            .unwrap_or_else(|| panic!("the guest's shell did not answer within {limit:?}: {script}"))
    }

    pub fn run(&mut self, script: &str) -> Output {
        self.run_within(script, SOON)
    }

    /// Run what must succeed; its output.
    pub fn ok(&mut self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(output.status, 0, "in the guest: {script}\n{}", output.text);
        output.text
    }

    /// Poll a command until it succeeds.
    pub fn until(&mut self, what: &str, script: &str) -> String {
        until(what, SOON, || {
            let output = self.run(script);
            (output.status == 0).then_some(output.text)
        })
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 written a second time, on purpose: what the agent's own code encodes is checked with it.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, at| group << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            let index = (group >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

pub fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut group, mut bits) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = (0_u32..).zip(ALPHABET).find(|(_, known)| **known == letter).expect("base64 text").0;
        group = group << 6 | value;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(group >> bits & 0xFF).expect("masked to a byte"));
        }
    }
    bytes
}
