//! The result of a program as JSON, piece by piece: it may be 43 MB of base64.

use std::collections::VecDeque;
use std::sync::Arc;

use super::children::Outcome;
use super::output::Output;
use crate::commands::Stream;
use crate::host::linux::spawn::Exit;
use crate::protocol::base64;

/// Captured bytes encoded at a time; a multiple of three.
pub(super) const PIECE: usize = base64::CHUNK;

/// What is still to be sent.
pub(super) struct Reply {
    parts: VecDeque<Part>,
    started: bool,
}

enum Part {
    Text(String),
    /// The rest from here on.
    Data(Arc<Output>, usize),
}

impl Reply {
    pub fn new(outcome: &Outcome) -> Reply {
        let mut parts = VecDeque::new();
        let how = match outcome.exit {
            Exit::Code(code) => format!(", \"exitcode\": {code}"),
            Exit::Signal(signal) => format!(", \"signal\": {signal}"),
            Exit::Unknown => String::new(),
        };
        parts.push_back(Part::Text(format!("{{\"exited\": true{how}")));
        for (name, output) in [("out", &outcome.out), ("err", &outcome.err)] {
            let Some(output) = output.as_ref().filter(|output| output.data.len() > 0) else { continue };
            let truncated = output.truncated;
            let head = format!(", \"{name}-truncated\": {truncated}, \"{name}-data\": \"");
            parts.extend([Part::Text(head), Part::Data(Arc::clone(output), 0), Part::Text("\"".into())]);
        }
        parts.push_back(Part::Text("}".into()));
        Reply { parts, started: false }
    }
}

impl Stream for Reply {
    /// Stops only inside or right behind data, which `cut` relies on, or at the end.
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        self.started = true;
        while let Some(part) = self.parts.front_mut() {
            match part {
                Part::Text(text) => {
                    out.extend_from_slice(text.as_bytes());
                    self.parts.pop_front();
                }
                Part::Data(output, done) => {
                    let end = output.data.len().min(*done + PIECE);
                    base64::encode(&output.data.piece(*done..end), out);
                    *done = end;
                    if end == output.data.len() {
                        self.parts.pop_front();
                    }
                    return true;
                }
            }
        }
        false
    }

    fn cut(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.parts.front() {
            _ if !self.started => b"{}",
            Some(_) => b"\"}",
            None => b"",
        });
    }
}
