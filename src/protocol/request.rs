//! The envelope: which command, with which arguments, under which id.

use std::fmt;

use super::error::{Error, echo};
use super::message::{Kind, Members, Message, Value};

/// A request whose envelope is right. The command's name and arguments are not checked yet.
#[derive(Debug)]
pub struct Request {
    message: Message,
    execute: usize,
    arguments: Option<usize>,
    id: Option<usize>,
}

/// A complete value that is no request.
#[derive(Debug)]
pub struct Refused {
    /// The reason.
    pub error: Error,
    message: Message,
    id: Option<usize>,
}

impl Request {
    /// Reads the envelope. The first fault in source order is the error.
    pub fn parse(message: Message) -> Result<Request, Box<Refused>> {
        let (mut execute, mut arguments, mut id) = (None, None, None);
        let mut fault = None;
        match message.root().members() {
            None => fault = Some("QMP input must be a JSON object".to_owned()),
            Some(members) => {
                for (key, value) in members {
                    let at = value.position();
                    let found = match (key, value.kind()) {
                        ("execute", Kind::Str(_)) => &mut execute,
                        ("arguments", Kind::Object(_)) => &mut arguments,
                        ("id", _) => &mut id,
                        ("execute", _) => {
                            fault.get_or_insert_with(|| member("execute", "must be a string"));
                            continue;
                        }
                        ("arguments", _) => {
                            fault.get_or_insert_with(|| member("arguments", "must be an object"));
                            continue;
                        }
                        (other, _) => {
                            fault.get_or_insert_with(|| member(&echo(other), "is unexpected"));
                            continue;
                        }
                    };
                    *found = Some(at);
                }
            }
        }
        match (fault, execute) {
            (None, Some(execute)) => Ok(Request { message, execute, arguments, id }),
            (fault, _) => {
                let desc = fault.unwrap_or_else(|| "QMP input lacks member 'execute'".to_owned());
                Err(Box::new(Refused { error: Error::new(desc), message, id }))
            }
        }
    }

    /// The command's name.
    pub fn execute(&self) -> &str {
        match self.message.value(self.execute).kind() {
            Kind::Str(name) => name,
            _ => unreachable!("checked when the envelope was read"),
        }
    }

    /// The arguments; `None` when the request has no such member.
    pub fn arguments(&self) -> Option<Members<'_>> {
        self.message.value(self.arguments?).members()
    }

    /// What to echo as `id` (O15).
    pub fn id(&self) -> Option<Value<'_>> {
        self.id.map(|at| self.message.value(at))
    }

    /// There is no secret in this request.
    pub(crate) fn mark_plain(&mut self) {
        self.message.mark_plain();
    }

    /// Wipes the arguments, if need be: nothing may be read from this request any more.
    pub(crate) fn wipe(&mut self) {
        self.message.wipe();
    }

    /// What the log may show: names and sizes, and no value.
    pub(crate) fn summary(&self) -> Summary<'_> {
        Summary(self)
    }

    /// Bytes of memory that this request holds on to.
    pub fn footprint(&self) -> usize {
        self.message.footprint()
    }

    /// Gives the buffers back when the request is done with.
    pub fn into_message(self) -> Message {
        self.message
    }
}

impl Refused {
    /// What to echo as `id`: errors carry it too.
    pub fn id(&self) -> Option<Value<'_>> {
        self.id.map(|at| self.message.value(at))
    }
}

/// Names in a summary; more are only counted.
const NAMES: usize = 16;

/// `guest-exec (path: 7 bytes, arg: 2 items)`
pub(crate) struct Summary<'r>(&'r Request);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.64}", self.0.execute())?;
        let Some(mut members) = self.0.arguments() else { return Ok(()) };
        f.write_str(" (")?;
        for (at, (name, value)) in members.by_ref().take(NAMES).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name:.64}")?;
            match value.kind() {
                Kind::Str(text) => write!(f, ": {} bytes", text.len())?,
                Kind::Array(items) => write!(f, ": {} items", items.count())?,
                Kind::Object(members) => write!(f, ": {} members", members.count())?,
                Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::UInt(_) | Kind::Float(_) => {}
            }
        }
        match members.count() {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}

fn member(name: &str, fault: &str) -> String {
    format!("QMP input member '{name}' {fault}")
}

#[cfg(test)]
mod tests {
    use crate::commands::testing;
    use serde_json::json;

    #[test]
    fn the_log_shows_names_and_sizes_and_no_value() {
        let arguments = json!({
            "path": "/bin/sh", "arg": ["-p", "S3CR3T"], "env": ["X=S3CR3T"], "input-data": "UzNDUjNU",
            "password": 12345, "capture-output": true, "x": {"S3CR3T": 1},
        });
        let mut shown = testing::request("guest-exec", &arguments).summary().to_string();
        assert!(!shown.contains("S3CR3T") && !shown.contains("12345"), "{shown}");
        for part in ["guest-exec (", "path: 7 bytes", "arg: 2 items", "env: 1 items", "input-data: 8 bytes"] {
            assert!(shown.contains(part), "{shown}");
        }
        let many: serde_json::Map<_, _> = (0..100_000).map(|i| (format!("{i}{}", "x".repeat(50)), json!(1))).collect();
        shown = testing::request(&"x".repeat(1 << 20), &json!(many)).summary().to_string();
        assert!(shown.len() < 4000, "{}", shown.len());
    }
}
