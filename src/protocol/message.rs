//! One complete JSON value as the parser leaves it: a flat list of nodes and the decoded text.
//!
//! Invariant: every range of a node lies inside `text` and holds UTF-8; the parser checked it.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use zeroize::Zeroize;

/// One element of the flat tree. A container is followed by its content; `next` is the index
/// after its last element. An object's content is key (a `Str`), value, key, value...
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(Loose<i64>),
    UInt(Loose<u64>),
    Float(Loose<f64>),
    Str { start: u32, len: u32 },
    Array { next: u32 },
    Object { next: u32 },
}

/// A number that may lie at any multiple of four bytes: a node has 12 bytes then and not 16, and
/// fresh memory is what costs most in messages of megabytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, packed(4))]
pub(super) struct Loose<T: Copy>(pub T);

/// A complete JSON value of any type.
///
/// Its text may be a password or a file. It is wiped before the memory is used again or given back,
/// unless somebody who knows says that it is neither.
#[derive(Debug, Default)]
pub struct Message {
    pub(super) text: Vec<u8>,
    pub(super) nodes: Vec<Node>,
    plain: bool,
}

impl Drop for Message {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Message {
    /// There is no secret in this message.
    pub(super) fn mark_plain(&mut self) {
        self.plain = true;
    }

    /// Wipes the text, if need be: nothing may be read from this message any more.
    pub(super) fn wipe(&mut self) {
        if !self.plain {
            self.text.as_mut_slice().zeroize();
            self.plain = true;
        }
    }

    /// Empties it for the next one, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.wipe();
        self.text.clear();
        self.nodes.clear();
        self.plain = false;
    }

    /// The outermost value.
    pub fn root(&self) -> Value<'_> {
        self.value(0)
    }

    /// The value at a position that [`Value::position`] gave for this message.
    pub(super) fn value(&self, at: usize) -> Value<'_> {
        Value { message: self, at }
    }

    /// Bytes of memory that this message holds on to.
    pub fn footprint(&self) -> usize {
        self.text.capacity() + self.nodes.capacity() * size_of::<Node>()
    }
}

/// A value inside a [`Message`].
#[derive(Clone, Copy, Debug)]
pub struct Value<'m> {
    message: &'m Message,
    at: usize,
}

/// A JSON value by its type.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'m> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    /// Any other number.
    Float(f64),
    /// A string, decoded.
    Str(&'m str),
    /// An array.
    Array(Items<'m>),
    /// An object.
    Object(Members<'m>),
}

impl<'m> Value<'m> {
    pub(super) fn position(self) -> usize {
        self.at
    }

    /// The value by its type.
    pub fn kind(self) -> Kind<'m> {
        let inner = self.at + 1;
        match self.message.nodes[self.at] {
            Node::Null => Kind::Null,
            Node::Bool(b) => Kind::Bool(b),
            Node::Int(int) => Kind::Int(int.0),
            Node::UInt(uint) => Kind::UInt(uint.0),
            Node::Float(float) => Kind::Float(float.0),
            Node::Str { start, len } => Kind::Str(self.message.str(start, len)),
            Node::Array { next } => Kind::Array(Items { message: self.message, at: inner, end: next as usize }),
            Node::Object { next } => Kind::Object(Members { message: self.message, at: inner, end: next as usize }),
        }
    }

    /// The members, if this is an object.
    pub fn members(self) -> Option<Members<'m>> {
        match self.kind() {
            Kind::Object(members) => Some(members),
            _ => None,
        }
    }
}

impl Message {
    fn str(&self, start: u32, len: u32) -> &str {
        let (start, len) = (start as usize, len as usize);
        std::str::from_utf8(&self.text[start..start + len]).expect("the parser checked UTF-8")
    }
}

/// Index after the value at `at`.
pub(super) fn skip(nodes: &[Node], at: usize) -> usize {
    match nodes[at] {
        Node::Array { next } | Node::Object { next } => next as usize,
        _ => at + 1,
    }
}

/// The elements of an array, in order.
#[derive(Clone, Copy, Debug)]
pub struct Items<'m> {
    message: &'m Message,
    at: usize,
    end: usize,
}

impl<'m> Iterator for Items<'m> {
    type Item = Value<'m>;

    fn next(&mut self) -> Option<Value<'m>> {
        (self.at < self.end).then(|| {
            let at = self.at;
            self.at = skip(&self.message.nodes, at);
            self.message.value(at)
        })
    }
}

/// The members of an object, in the order of the source.
#[derive(Clone, Copy, Debug)]
pub struct Members<'m> {
    message: &'m Message,
    at: usize,
    end: usize,
}

impl<'m> Members<'m> {
    /// The member of this name.
    pub fn get(mut self, name: &str) -> Option<Value<'m>> {
        self.find_map(|(key, value)| (key == name).then_some(value))
    }
}

impl<'m> Iterator for Members<'m> {
    type Item = (&'m str, Value<'m>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let Node::Str { start, len } = self.message.nodes[self.at] else {
            unreachable!("the parser puts a key before each member's value");
        };
        let value = self.at + 1;
        self.at = skip(&self.message.nodes, value);
        Some((self.message.str(start, len), self.message.value(value)))
    }
}

/// Written back as it came, for the echo of `id` (O4, O15).
impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.kind() {
            Kind::Null => out.serialize_unit(),
            Kind::Bool(b) => out.serialize_bool(b),
            Kind::Int(i) => out.serialize_i64(i),
            Kind::UInt(u) => out.serialize_u64(u),
            Kind::Float(f) => out.serialize_f64(f),
            Kind::Str(s) => out.serialize_str(s),
            Kind::Array(items) => {
                let mut seq = out.serialize_seq(None)?;
                for item in items {
                    seq.serialize_element(&item)?;
                }
                seq.end()
            }
            Kind::Object(members) => {
                let mut map = out.serialize_map(None)?;
                for (key, value) in members {
                    map.serialize_entry(key, &value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_wiped_unless_it_is_plain() {
        for plain in [false, true] {
            let mut message = Message::default();
            message.text.extend_from_slice(b"S3CR3T");
            if plain {
                message.mark_plain();
            }
            message.wipe();
            assert_eq!(message.text.iter().all(|&byte| byte == 0), !plain);
        }
    }

    #[test]
    fn a_node_has_12_bytes() {
        assert_eq!(size_of::<Node>(), 12);
    }
}
