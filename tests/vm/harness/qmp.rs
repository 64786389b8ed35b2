//! QEMU's own control socket: commands to the machine, and the events that tell what it does.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lines::{Lines, Silence};
use super::{SOON, until};

pub struct Qmp {
    stream: UnixStream,
    lines: Lines,
    /// Events nobody has asked for yet, oldest first.
    events: Vec<Value>,
    observer: Option<fn(&Value)>,
}

impl Qmp {
    pub fn connect(path: &Path) -> Self {
        let stream = until("QEMU listens on its QMP socket", SOON, || UnixStream::connect(path).ok());
        let lines = Lines::new(&stream);
        let mut qmp = Self { stream, lines, events: Vec::new(), observer: None };
        qmp.lines.next(SOON).expect("QMP greeting");
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    /// Show every event to `observer` as it arrives.
    pub fn observe(&mut self, observer: fn(&Value)) {
        self.observer = Some(observer);
    }

    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream, "{request}").unwrap_or_else(|error| panic!("QMP {command}: {error}"));
        loop {
            let reply = self.message(SOON);
            let mut message = reply.unwrap_or_else(|silence| panic!("QMP {command}: no reply, {silence:?}"));
            if let Some(error) = message.get("error") {
                panic!("QMP {command}: {}", error["desc"]);
            }
            if message.get("return").is_some() {
                return message["return"].take();
            }
            self.events.push(message);
        }
    }

    /// A command of the human monitor, for what QMP cannot tell.
    pub fn human(&mut self, command: &str) -> String {
        let reply = self.execute("human-monitor-command", &json!({"command-line": command}));
        reply.as_str().unwrap_or_default().to_owned()
    }

    /// Wait for an event of this name, be it one that came a while ago; later calls do not see it again.
    pub fn wait(&mut self, name: &str, limit: Duration) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(event) = self.take(name) {
                return event;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.message(left) {
                Ok(message) => self.events.push(message),
                Err(silence) => panic!("no QMP event {name} within {limit:?} ({silence:?}), but {:?}", self.names()),
            }
        }
    }

    /// Whether such an event came up to now.
    pub fn saw(&mut self, name: &str) -> bool {
        while let Ok(message) = self.message(Duration::from_millis(50)) {
            self.events.push(message);
        }
        self.take(name).is_some()
    }

    pub fn forget_events(&mut self) {
        self.saw("");
        self.events.clear();
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.events.iter().position(|event| event["event"] == name)?;
        Some(self.events.remove(index))
    }

    fn names(&self) -> Vec<&str> {
        self.events.iter().filter_map(|event| event["event"].as_str()).collect()
    }

    fn message(&mut self, limit: Duration) -> Result<Value, Silence> {
        let line = self.lines.next(limit)?;
        let message: Value = serde_json::from_slice(&line).expect("QMP speaks JSON");
        if let (Some(observer), true) = (self.observer, message.get("event").is_some()) {
            observer(&message);
        }
        Ok(message)
    }
}
