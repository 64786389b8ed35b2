//! The host side of the agent's channel: what libvirt or a person with socat would type.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lines::{Lines, Silence};
use super::{SOON, until};

/// Precedes the reply to `guest-sync-delimited`, and no other.
pub const DELIMITER: u8 = 0xFF;

/// An error reply.
#[derive(Debug)]
pub struct Refusal {
    pub class: String,
    pub text: String,
}

#[derive(Clone, Copy)]
pub enum Direction {
    ToAgent,
    FromAgent,
}

pub struct Agent {
    stream: UnixStream,
    lines: Lines,
    last_id: i64,
    observer: Option<fn(Direction, &[u8])>,
}

impl Agent {
    /// Connect to the chardev's socket. QEMU takes one client at a time: drop the former one first.
    pub fn connect(path: &Path) -> Self {
        let stream = until("QEMU listens on the agent's socket", SOON, || UnixStream::connect(path).ok());
        let lines = Lines::new(&stream);
        Self { stream, lines, last_id: 0, observer: None }
    }

    /// Show every line to `observer`, in both directions.
    pub fn observe(&mut self, observer: fn(Direction, &[u8])) {
        self.observer = Some(observer);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        if let Some(observer) = self.observer {
            observer(Direction::ToAgent, bytes);
        }
        self.stream.write_all(bytes).expect("write to the agent's socket");
    }

    /// Send as much as is taken within `limit`; how much that was.
    pub fn send_until_full(&mut self, bytes: &[u8], limit: Duration) -> usize {
        self.stream.set_write_timeout(Some(limit)).expect("set a write time-out");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(None).expect("clear the write time-out");
        sent
    }

    /// The next line as it came, without the newline.
    pub fn line(&mut self, limit: Duration) -> Result<Vec<u8>, Silence> {
        let line = self.lines.next(limit)?;
        if let Some(observer) = self.observer {
            observer(Direction::FromAgent, &line);
        }
        Ok(line)
    }

    /// Ask again and again until the agent answers, and leave the channel without stale replies.
    pub fn sync(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let id = self.post_sync();
            let answered = self.drain_to(id, Duration::from_secs(10));
            if answered {
                return;
            }
            assert!(Instant::now() < deadline, "the agent answered no sync for {limit:?}");
        }
    }

    /// Whether the agent answers a sync within `limit`.
    pub fn answers(&mut self, limit: Duration) -> bool {
        let id = self.post_sync();
        self.drain_to(id, limit)
    }

    fn post_sync(&mut self) -> i64 {
        self.last_id += 1;
        let id = 7_000_000_000 + self.last_id;
        let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
        self.send(&[&[DELIMITER], request.to_string().as_bytes(), b"\n"].concat());
        id
    }

    /// Read past everything up to the reply to this sync, which is the last thing asked.
    fn drain_to(&mut self, id: i64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.line(left) else { return false };
            let start = line.iter().rposition(|byte| *byte == DELIMITER).map_or(0, |at| at + 1);
            let reply: Value = serde_json::from_slice(&line[start..]).unwrap_or_default();
            if reply["return"] == id {
                return true;
            }
        }
    }

    /// Send a request and do not wait: the commands without a reply, or those that take their time.
    pub fn post(&mut self, command: &str, arguments: &Value) {
        // Written out, so that a transcript shows the members in the order in which people write them.
        let request = if arguments.is_null() {
            format!("{{\"execute\":\"{command}\"}}\n")
        } else {
            format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n")
        };
        self.send(request.as_bytes());
    }

    /// The next reply, whatever it answers.
    pub fn reply(&mut self, limit: Duration) -> Result<Value, Refusal> {
        let line = self.line(limit).unwrap_or_else(|silence| panic!("no reply within {limit:?}: {silence:?}"));
        let text = String::from_utf8_lossy(&line);
        let mut reply: Value =
            serde_json::from_slice(&line).unwrap_or_else(|error| panic!("a reply is JSON ({error}): {text}"));
        if let Some(error) = reply.get("error") {
            let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            return Err(Refusal { class: field("class"), text: field("desc") });
        }
        assert!(reply.get("return").is_some(), "a reply has return or error: {text}");
        Ok(reply["return"].take())
    }

    pub fn call(&mut self, command: &str, arguments: &Value) -> Result<Value, Refusal> {
        self.post(command, arguments);
        self.reply(SOON)
    }

    /// Call, where an error is not expected.
    pub fn get(&mut self, command: &str, arguments: &Value) -> Value {
        self.call(command, arguments).unwrap_or_else(|refusal| panic!("{command} {arguments}: {}", refusal.text))
    }

    /// Call, where success is not expected.
    pub fn refused(&mut self, command: &str, arguments: &Value) -> Refusal {
        match self.call(command, arguments) {
            Ok(reply) => panic!("{command} {arguments} is an error, but gave {reply}"),
            Err(refusal) => refusal,
        }
    }
}
