//! Tokens to a [`Message`]: the grammar and the names of its errors.
//!
//! Invariant: after an error nothing more is asked of the parser until it is reset, so it never
//! holds half a tree longer than the message that brought it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::lexer::Token;
use super::message::{Message, Node, skip};

/// Objects with more members than this look for duplicate keys in a table.
const SMALL_OBJECT: u32 = 16;

#[derive(Debug, Default)]
pub(super) struct Parser {
    pub(super) message: Message,
    open: Vec<Open>,
    want: Want,
    /// Hashes of the keys of objects that grew past `SMALL_OBJECT`, with the object's position.
    keys: HashSet<u64>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Open {
    node: usize,
    object: bool,
    members: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Want {
    #[default]
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    Separator,
}

impl Parser {
    /// Drops what was built and is ready for the next message. Keeps small buffers.
    pub(super) fn reset(&mut self) {
        self.message.text.clear();
        self.message.nodes.clear();
        self.open.clear();
        self.want = Want::Value;
        self.keys.clear();
    }

    /// Takes the finished tree out.
    pub(super) fn finish(&mut self) -> Message {
        let message = std::mem::take(&mut self.message);
        self.reset();
        message
    }

    /// Adds a token; the error is the text after `JSON parse error, `.
    #[inline]
    pub(super) fn token(&mut self, token: Token) -> Result<(), String> {
        match self.want {
            Want::Value => self.value(token),
            Want::FirstItem => match token {
                Token::Structure(b']') => self.close(),
                _ => self.value(token),
            },
            Want::FirstKey if matches!(token, Token::Structure(b'}')) => self.close(),
            Want::FirstKey | Want::Key => self.key(token),
            Want::Colon => match token {
                Token::Structure(b':') => {
                    self.want = Want::Value;
                    Ok(())
                }
                _ => Err("expecting ':'".into()),
            },
            Want::Separator => self.separator(token),
        }
    }

    fn value(&mut self, token: Token) -> Result<(), String> {
        let node = match token {
            Token::Structure(byte @ (b'{' | b'[')) => {
                let object = byte == b'{';
                self.open.push(Open { node: self.message.nodes.len(), object, members: 0 });
                let next = 0; // set when it closes
                self.message.nodes.push(if object { Node::Object { next } } else { Node::Array { next } });
                self.want = if object { Want::FirstKey } else { Want::FirstItem };
                return Ok(());
            }
            Token::Structure(_) => return Err("expecting value".into()),
            Token::Str { start } => self.str(start),
            Token::Number { start, float } => {
                let node = number(&self.message.text[start..], float)?;
                self.message.text.truncate(start);
                node
            }
            Token::Keyword { start } => {
                let node = match &self.message.text[start..] {
                    b"null" => Node::Null,
                    b"true" => Node::Bool(true),
                    b"false" => Node::Bool(false),
                    other => {
                        let word = String::from_utf8_lossy(other);
                        return Err(format!("invalid keyword '{}'", super::error::echo(&word)));
                    }
                };
                self.message.text.truncate(start);
                node
            }
        };
        self.message.nodes.push(node);
        self.want = Want::Separator;
        Ok(())
    }

    fn key(&mut self, token: Token) -> Result<(), String> {
        let Token::Str { start } = token else { return Err("expecting key".into()) };
        let node = self.str(start);
        self.refuse_duplicate(start)?;
        self.message.nodes.push(node);
        self.want = Want::Colon;
        Ok(())
    }

    fn separator(&mut self, token: Token) -> Result<(), String> {
        let object = self.open.last().is_some_and(|open| open.object);
        match (token, object) {
            (Token::Structure(b','), true) => self.want = Want::Key,
            (Token::Structure(b','), false) => self.want = Want::Value,
            (Token::Structure(b'}'), true) | (Token::Structure(b']'), false) => return self.close(),
            (_, true) => return Err("expected ',' or '}'".into()),
            (_, false) => return Err("expected ',' or ']'".into()),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let next = self.position();
        let open = self.open.pop().ok_or("expecting value")?;
        self.message.nodes[open.node] = if open.object { Node::Object { next } } else { Node::Array { next } };
        self.want = Want::Separator;
        Ok(())
    }

    fn str(&self, start: usize) -> Node {
        let len = narrow(self.message.text.len() - start);
        Node::Str { start: narrow(start), len }
    }

    fn position(&self) -> u32 {
        narrow(self.message.nodes.len())
    }

    /// Looks for the key at the end of the text among the members of the innermost object.
    fn refuse_duplicate(&mut self, start: usize) -> Result<(), String> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        open.members += 1;
        let (first, members) = (open.node + 1, open.members);
        let (text, nodes) = (&self.message.text, &self.message.nodes);
        let key = &text[start..];
        let suspect = if members <= SMALL_OBJECT {
            true
        } else {
            if members == SMALL_OBJECT + 1 {
                for other in keys(nodes, text, first) {
                    self.keys.insert(self.hasher.hash_one((first, other)));
                }
            }
            !self.keys.insert(self.hasher.hash_one((first, key)))
        };
        if suspect && keys(nodes, text, first).any(|other| other == key) {
            return Err("duplicate key".into());
        }
        Ok(())
    }
}

/// The keys of the unfinished object whose content starts at `at`.
fn keys<'a>(nodes: &'a [Node], text: &'a [u8], mut at: usize) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || match nodes.get(at) {
        Some(&Node::Str { start, len }) => {
            at = skip(nodes, at + 1);
            Some(&text[start as usize..][..len as usize])
        }
        _ => None,
    })
}

/// Reads a number that follows the grammar: signed, else unsigned 64 bit, else a double.
fn number(text: &[u8], float: bool) -> Result<Node, String> {
    let text = std::str::from_utf8(text).map_err(|_| "invalid number")?;
    if !float {
        if let Ok(int) = text.parse() {
            return Ok(Node::Int(int));
        }
        if let Ok(uint) = text.parse() {
            return Ok(Node::UInt(uint));
        }
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Node::Float(value)),
        // Upstream takes it for infinity and then writes `inf`, which is no JSON.
        _ => Err(format!("number '{}' is too large", super::error::echo(text))),
    }
}

/// Positions fit 32 bits: the limits of `frame` keep text and tokens far below that.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("messages are limited to 64 MiB")
}
