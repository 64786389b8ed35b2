//! Cuts a byte stream into messages: one JSON value each, ended by its own last bracket.
//!
//! Invariant: each message costs at most one error reply, and an error in the middle of a message
//! never runs what stands inside its remainder. Memory is bounded by [`Limits`].

use super::error::{Error, Result};
use super::lexer::{Lexer, Step, Token};
use super::message::Message;
use super::parser::Parser;

/// Bounds on one message.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open braces and brackets.
    pub depth: i64,
    /// Tokens.
    pub tokens: usize,
    /// Bytes of all tokens, quotes included, white space not.
    pub bytes: usize,
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
        Framer { limits, ..Framer::default() }
    }

    /// Changes the bounds, also for the message that is under way.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Drops everything pending, as when the client went away.
    pub fn reset(&mut self) {
        *self = Framer::new(self.limits);
    }

    /// Whether part of a message has arrived.
    pub fn is_pending(&self) -> bool {
        self.tokens > 0 || self.lexer.in_token()
    }

    /// Gives the buffers of a message back for the next one, if they are worth it.
    pub fn recycle(&mut self, mut message: Message) {
        if message.footprint() > self.parser.message.footprint() && !self.is_pending() {
            message.text.clear();
            message.nodes.clear();
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
            let step = self.lexer.next(input, &mut self.parser.message.text, !self.failed);
            if self.broken > 0 && self.lexer.take_newline() {
                self.broken = 0;
            }
            let error = match step {
                Step::Token(token) => {
                    if let Token::Structure(byte) = token {
                        match byte {
                            b'{' => self.braces += 1,
                            b'}' => self.braces -= 1,
                            b'[' => self.brackets += 1,
                            b']' => self.brackets -= 1,
                            _ => {}
                        }
                    }
                    let error = self.add(token);
                    if error.is_none() && !self.has_ended() {
                        continue;
                    }
                    error
                }
                Step::BadText(reason) => {
                    self.tokens += 1;
                    (!self.failed).then(|| syntax(&reason))
                }
                Step::NeedInput => {
                    let too_long = self.bytes + self.lexer.length() >= self.limits.bytes;
                    if too_long && self.lexer.in_token() && !self.failed {
                        return Some(self.fail("JSON token size limit exceeded".into()));
                    }
                    return None;
                }
                Step::Stray { what, byte } => match self.stray(&what, byte) {
                    Some(event) => return Some(event),
                    None => continue,
                },
            };
            let mut event = error.map(|desc| self.fail(desc));
            if self.has_ended() {
                if !self.failed {
                    event = Some(self.complete());
                }
                self.end();
            }
            if event.is_some() {
                return event;
            }
        }
    }

    /// Whether the last token was the last one of its message.
    fn has_ended(&self) -> bool {
        self.braces < 0 || self.brackets < 0 || (self.braces == 0 && self.brackets == 0)
    }

    /// Counts a token and gives it to the parser; the error text if this breaks the message.
    #[inline]
    fn add(&mut self, token: Token) -> Option<String> {
        self.tokens += 1;
        self.bytes += self.lexer.length();
        self.discarding = false;
        if self.failed {
            return None;
        }
        if self.bytes >= self.limits.bytes {
            return Some("JSON token size limit exceeded".into());
        }
        if self.tokens > self.limits.tokens {
            return Some("JSON token count limit exceeded".into());
        }
        if self.braces + self.brackets > self.limits.depth {
            return Some("JSON nesting depth limit exceeded".into());
        }
        self.parser.token(token).err().map(|reason| syntax(&reason))
    }

    /// Reports the one error of this message; the rest is skipped and takes no memory.
    fn fail(&mut self, desc: String) -> Event {
        self.failed = true;
        self.parser = Parser::default();
        Event::Message(Err(Error::new(desc)))
    }

    fn complete(&mut self) -> Event {
        if self.broken > 0 {
            self.parser.reset();
            let desc = syntax("value inside a broken message is not executed");
            return Event::Message(Err(Error::new(desc)));
        }
        Event::Message(Ok(self.parser.finish()))
    }

    /// The message ended at its last bracket.
    fn end(&mut self) {
        // A closer too many belongs to the message that a lexical error broke.
        self.broken = (self.broken + self.braces.min(0) + self.brackets.min(0)).max(0);
        self.restart();
    }

    fn restart(&mut self) {
        (self.braces, self.brackets) = (0, 0);
        (self.tokens, self.bytes) = (0, 0);
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
        let open = self.braces + self.brackets;
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

fn syntax(reason: &str) -> String {
    format!("JSON parse error, {reason}")
}

#[cfg(test)]
mod tests;
