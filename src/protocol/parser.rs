//! Tokens to a [`Message`]: the grammar and the names of its errors.
//!
//! Invariant: after an error nothing more is asked of the parser until it is reset, so it never
//! holds half a tree longer than the message that brought it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::lexer::{Kind, Token};
use super::message::{Loose, Message, Node, skip};

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

/// What may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Want {
    /// An item of an array, or the whole value.
    #[default]
    Value,
    /// That, or the end of the array.
    FirstItem,
    /// A key or the end of the object.
    FirstKey,
    Key,
    Colon,
    MemberValue,
    /// A comma or the end of the array.
    NextItem,
    /// A comma or the end of the object.
    NextMember,
}

impl Parser {
    /// Open braces and brackets.
    #[inline(always)]
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Open braces.
    pub(super) fn braces(&self) -> usize {
        self.open.iter().filter(|open| open.object).count()
    }

    /// Drops what was built and is ready for the next message. Keeps small buffers.
    pub(super) fn reset(&mut self) {
        self.message.clear();
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
    ///
    /// By kind first, as the lexer knows it: what is wanted is then a question that is nearly always
    /// answered the same way.
    #[inline(always)]
    pub(super) fn token(&mut self, token: Token) -> Result<(), String> {
        let want = self.want;
        let wants_value = matches!(want, Want::Value | Want::FirstItem | Want::MemberValue);
        let node = match token.kind {
            Kind::OpenObject if wants_value => {
                self.open(true);
                return Ok(());
            }
            Kind::OpenArray if wants_value => {
                self.open(false);
                return Ok(());
            }
            Kind::CloseObject if matches!(want, Want::NextMember | Want::FirstKey) => return self.close(),
            Kind::CloseArray if matches!(want, Want::NextItem | Want::FirstItem) => return self.close(),
            Kind::Comma if matches!(want, Want::NextItem | Want::NextMember) => {
                self.want = if want == Want::NextMember { Want::Key } else { Want::Value };
                return Ok(());
            }
            Kind::Colon if want == Want::Colon => {
                self.want = Want::MemberValue;
                return Ok(());
            }
            Kind::Str if wants_value => self.str(token.text_start()),
            Kind::Str if matches!(want, Want::Key | Want::FirstKey) => return self.key(token.text_start()),
            Kind::Small if wants_value => Node::Int(Loose(i64::from_ne_bytes(token.start.to_ne_bytes()))),
            Kind::Null if wants_value => Node::Null,
            Kind::True if wants_value => Node::Bool(true),
            Kind::False if wants_value => Node::Bool(false),
            Kind::Int | Kind::Float | Kind::Keyword if wants_value => self.word(token)?,
            _ => return Err(want.expectation().to_owned()),
        };
        self.message.nodes.push(node);
        self.want = if want == Want::MemberValue { Want::NextMember } else { Want::NextItem };
        Ok(())
    }

    /// A number or keyword as written; its text is not needed after that.
    fn word(&mut self, token: Token) -> Result<Node, String> {
        let start = token.text_start();
        let text = &self.message.text[start..];
        let node = match token.kind {
            Kind::Keyword => keyword(text)?,
            kind => number(text, kind == Kind::Float)?,
        };
        self.message.text.truncate(start);
        Ok(node)
    }

    #[inline(always)]
    fn open(&mut self, object: bool) {
        let next = 0; // set when it closes
        self.open.push(Open { node: self.message.nodes.len(), object, members: 0 });
        self.message.nodes.push(if object { Node::Object { next } } else { Node::Array { next } });
        self.want = if object { Want::FirstKey } else { Want::FirstItem };
    }

    #[inline(always)]
    fn key(&mut self, start: usize) -> Result<(), String> {
        let node = self.str(start);
        self.refuse_duplicate(start)?;
        self.message.nodes.push(node);
        self.want = Want::Colon;
        Ok(())
    }

    #[inline(always)]
    fn close(&mut self) -> Result<(), String> {
        let next = self.position();
        let open = self.open.pop().ok_or("expecting value")?;
        self.message.nodes[open.node] = if open.object { Node::Object { next } } else { Node::Array { next } };
        let in_object = self.open.last().is_some_and(|outer| outer.object);
        self.want = if in_object { Want::NextMember } else { Want::NextItem };
        Ok(())
    }

    #[inline(always)]
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

impl Want {
    /// The error for anything else.
    fn expectation(self) -> &'static str {
        match self {
            Want::Value | Want::FirstItem | Want::MemberValue => "expecting value",
            Want::FirstKey | Want::Key => "expecting key",
            Want::Colon => "expecting ':'",
            Want::NextItem => "expected ',' or ']'",
            Want::NextMember => "expected ',' or '}'",
        }
    }
}

fn keyword(word: &[u8]) -> Result<Node, String> {
    match word {
        b"null" => Ok(Node::Null),
        b"true" => Ok(Node::Bool(true)),
        b"false" => Ok(Node::Bool(false)),
        other => {
            let word = String::from_utf8_lossy(other);
            Err(format!("invalid keyword '{}'", super::error::echo(&word)))
        }
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
            return Ok(Node::Int(Loose(int)));
        }
        if let Ok(uint) = text.parse() {
            return Ok(Node::UInt(Loose(uint)));
        }
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Node::Float(Loose(value))),
        // Upstream takes it for infinity and then writes `inf`, which is no JSON.
        _ => Err(format!("number '{}' is too large", super::error::echo(text))),
    }
}

/// Positions fit 32 bits: whatever the operator sets, `frame` keeps text and tokens below that.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("a message has 2 GiB at most")
}
