//! The envelope: which command, with which arguments, under which id.

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

fn member(name: &str, fault: &str) -> String {
    format!("QMP input member '{name}' {fault}")
}
