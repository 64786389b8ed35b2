//! Cuts a byte stream into messages: one JSON value each, ended by its own last bracket.
//!
//! Invariant: each message costs at most one error reply, and an error in the middle of a message
//! never runs what stands inside its remainder. Memory is bounded by [`Limits`].

use std::ops::ControlFlow;

use super::error::{Error, Result};
use super::lexer::{Kind, Lexer, Step, Token};
use super::message::Message;
use super::parser::Parser;

/// Bounds on one message.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open braces and brackets.
    pub depth: usize,
    /// Tokens.
    pub tokens: usize,
    /// Bytes of all tokens, quotes included, white space not.
    pub bytes: usize,
}

impl Limits {
    /// Positions in a message are kept in 32 bits, with a whole read to spare.
    const MOST_BYTES: usize = 2 << 30;

    /// These, as far as the parser goes along.
    fn within_reason(self) -> Limits {
        Limits { bytes: self.bytes.min(Limits::MOST_BYTES), ..self }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { depth: 1024, tokens: 1 << 21, bytes: 64 << 20 }
    }
}

/// What the stream held next.
#[derive(Debug)]
pub enum Event {
    /// A complete JSON value, or the one error reply of a message that is none.
    Message(Result<Message>),
    /// The client's reset byte: whatever was pending is dropped. An error if there was something.
    Reset(Option<Error>),
}

/// A message under construction.
#[derive(Debug, Default)]
pub struct Framer {
    lexer: Lexer,
    parser: Parser,
    limits: Limits,
    /// What is open in the rest of a message that failed; until then the parser knows.
    braces: i64,
    brackets: i64,
    tokens: usize,
    bytes: usize,
    /// This message's error has been reported; the rest of it is skipped.
    failed: bool,
    /// Brackets that a lexical error left open: until they close, or a new line or reset comes,
    /// complete values are remains of a broken message and are refused.
    broken: i64,
    /// Bytes were discarded after a lexical error and no token has come since.
    discarding: bool,
}

impl Framer {
    /// A framer with bounds of its own.
    pub fn new(limits: Limits) -> Framer {
        Framer { limits: limits.within_reason(), ..Framer::default() }
    }

    /// Changes the bounds, also for the message that is under way.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits.within_reason();
    }

    /// Drops everything pending, as when the client went away.
    pub fn reset(&mut self) {
        self.lexer.forget();
        *self = Framer::new(self.limits);
    }

    /// Whether part of a message has arrived.
    pub fn is_pending(&self) -> bool {
        self.tokens > 0 || self.lexer.in_token()
    }

    /// Gives the buffers of a message back for the next one, if they are worth it.
    pub fn recycle(&mut self, mut message: Message) {
        if message.footprint() > self.parser.message.footprint() && !self.is_pending() {
            message.clear();
            self.parser.message = message;
        }
    }

    /// Bytes kept in buffers.
    pub fn footprint(&self) -> usize {
        self.parser.message.footprint()
    }

    /// Gives large buffers back to the system, unless they are in use.
    pub fn shrink(&mut self) {
        if !self.is_pending() {
            self.parser = Parser::default();
        }
    }

    /// Reads on to the next event; `None` when the input is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Event> {
        loop {
            let keep = !self.failed;
            let plain = self.lexer.plain(input, &mut self.parser.message.text, keep);
            let token = match plain {
                Some(token) => token,
                None => match self.lexer.step(input, &mut self.parser.message.text, keep) {
                    Step::Token(token) => token,
                    other => match self.no_token(other) {
                        ControlFlow::Continue(()) => continue,
                        ControlFlow::Break(event) => return event,
                    },
                },
            };
            self.look_for_newline();
            self.tokens += 1;
            self.bytes += self.lexer.length();
            self.discarding = false;
            if self.failed {
                self.skip(token);
                continue;
            }
            match self.add(token) {
                Ok(()) if self.parser.depth() > 0 => {}
                Ok(()) => return Some(self.complete()),
                Err(desc) => {
                    let event = self.fail(desc);
                    self.skip(token);
                    return Some(event);
                }
            }
        }
    }

    /// What follows from a step that gave no token: an event, the end of the input, or nothing yet.
    #[inline(never)]
    fn no_token(&mut self, step: Step) -> ControlFlow<Option<Event>> {
        self.look_for_newline();
        let event = match step {
            Step::NeedInput => return ControlFlow::Break(self.pause()),
            Step::Stray { what, byte } => self.stray(&what, byte),
            Step::BadText(reason) => {
                self.tokens += 1;
                let event = (!self.failed).then(|| self.fail(syntax(&reason)));
                self.end_if_closed();
                event
            }
            Step::Token(_) => None,
        };
        event.map_or(ControlFlow::Continue(()), |event| ControlFlow::Break(Some(event)))
    }

    /// A new line ends what a lexical error broke.
    #[inline(always)]
    fn look_for_newline(&mut self) {
        if self.broken > 0 && self.lexer.take_newline() {
            self.broken = 0;
        }
    }

    /// The input is used up.
    fn pause(&mut self) -> Option<Event> {
        let too_long = self.bytes + self.lexer.length() >= self.limits.bytes;
        let fails = too_long && self.lexer.in_token() && !self.failed;
        fails.then(|| self.fail("JSON token size limit exceeded".into()))
    }

    /// Gives a token to the parser; the error text if this breaks the message.
    #[inline(always)]
    fn add(&mut self, token: Token) -> std::result::Result<(), String> {
        if self.bytes >= self.limits.bytes {
            return Err("JSON token size limit exceeded".into());
        }
        if self.tokens > self.limits.tokens {
            return Err("JSON token count limit exceeded".into());
        }
        let opens = matches!(token.kind, Kind::OpenObject | Kind::OpenArray);
        if opens && self.parser.depth() >= self.limits.depth {
            return Err("JSON nesting depth limit exceeded".into());
        }
        self.parser.token(token).map_err(|reason| syntax(&reason))
    }

    /// Looks in the rest of a message that failed for its end.
    fn skip(&mut self, token: Token) {
        match token.kind {
            Kind::OpenObject => self.braces += 1,
            Kind::CloseObject => self.braces -= 1,
            Kind::OpenArray => self.brackets += 1,
            Kind::CloseArray => self.brackets -= 1,
            _ => {}
        }
        self.end_if_closed();
    }

    /// Whether a message that failed is over now.
    fn end_if_closed(&mut self) {
        if self.braces < 0 || self.brackets < 0 || (self.braces == 0 && self.brackets == 0) {
            // A closer too many belongs to the message that a lexical error broke.
            self.broken = (self.broken + self.braces.min(0) + self.brackets.min(0)).max(0);
            self.restart();
        }
    }

    /// Reports the one error of this message; the rest is skipped and takes no memory.
    #[cold]
    fn fail(&mut self, desc: String) -> Event {
        self.failed = true;
        let braces = self.parser.braces();
        self.brackets = count(self.parser.depth() - braces);
        self.braces = count(braces);
        self.parser = Parser::default();
        Event::Message(Err(Error::new(desc)))
    }

    /// The message ended at its last bracket.
    fn complete(&mut self) -> Event {
        let result = match self.broken {
            0 => Ok(self.parser.finish()),
            _ => Err(Error::new(syntax("value inside a broken message is not executed"))),
        };
        self.restart();
        Event::Message(result)
    }

    fn restart(&mut self) {
        (self.braces, self.brackets) = (0, 0);
        (self.tokens, self.bytes) = (0, 0);
        self.lexer.forget();
        if self.failed || !self.parser.message.nodes.is_empty() {
            self.parser.reset();
        }
        self.failed = false;
    }

    /// A lexical error drops the message under construction with its open brackets.
    fn stray(&mut self, what: &str, byte: u8) -> Option<Event> {
        let reset = byte >= 0xFE;
        let pending = self.is_pending() || self.discarding || what.chars().count() > 1;
        let silent = self.failed;
        let open = if self.failed { self.braces + self.brackets } else { count(self.parser.depth()) };
        // Lines that ended before this are no new start.
        self.lexer.take_newline();
        self.parser.reset();
        self.restart();
        self.broken = match byte {
            0xFE.. | b'\n' => 0,
            _ => self.broken + open,
        };
        self.discarding = !reset;
        let error = || Error::new(syntax(&format!("stray '{what}'")));
        match (reset, silent) {
            (true, _) => Some(Event::Reset((pending && !silent).then(error))),
            (false, true) => None,
            (false, false) => Some(Event::Message(Err(error()))),
        }
    }
}

/// Open brackets are few: the limit is a depth.
fn count(brackets: usize) -> i64 {
    i64::try_from(brackets).unwrap_or(i64::MAX)
}

fn syntax(reason: &str) -> String {
    format!("JSON parse error, {reason}")
}

#[cfg(test)]
mod tests;
