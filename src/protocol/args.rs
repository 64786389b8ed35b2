//! Arguments to typed values, through plain serde derives, with QMP's own error texts.
//!
//! A command's arguments are a struct whose fields are checked in the order of their definition;
//! `Option` fields may be absent but not `null`; members that no field names come last and are
//! errors (O29). Borrowed `&str` fields point into the request, so a payload is not copied.

use std::fmt::Display;

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::error::{self, echo};
use super::message::{Items, Kind, Members, Value};

/// Reads the arguments of a command.
pub fn parse<'de, T: de::Deserialize<'de>>(arguments: Option<Members<'de>>) -> error::Result<T> {
    T::deserialize(Arguments(arguments)).map_err(|fault| error::Error::new(fault.to_string()))
}

/// What is wrong with an argument, and which one it is.
#[derive(Debug)]
struct Fault {
    path: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Missing,
    Unexpected,
    Type(String),
    NotUint64,
    Value(String),
    Other(String),
}

impl Fault {
    fn new(what: What) -> Fault {
        Fault { path: String::new(), what }
    }

    /// Says where, from the inside out: `logical-id`, `[0]`, `vcpus`.
    fn inside(mut self, outer: &str) -> Fault {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{outer}{dot}{}", self.path);
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = &self.path;
        match &self.what {
            What::Missing => write!(f, "Parameter '{path}' is missing"),
            What::Unexpected => write!(f, "Parameter '{path}' is unexpected"),
            What::Type(t) => write!(f, "Invalid parameter type for '{path}', expected: {t}"),
            What::NotUint64 => write!(f, "Parameter '{path}' expects uint64"),
            What::Value(v) => write!(f, "Parameter '{path}' does not accept value '{}'", echo(v)),
            What::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(text: T) -> Fault {
        Fault::new(What::Other(text.to_string()))
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Fault {
        Fault::new(What::Type(expected.to_string()))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Fault {
        match found {
            de::Unexpected::Str(value) => Fault::new(What::Value(value.to_owned())),
            _ => Fault::invalid_type(found, expected),
        }
    }

    fn unknown_variant(variant: &str, _: &'static [&'static str]) -> Fault {
        Fault::new(What::Value(variant.to_owned()))
    }

    fn missing_field(name: &'static str) -> Fault {
        Fault::new(What::Missing).inside(name)
    }
}

fn wrong_type<T>(expected: &str) -> Result<T, Fault> {
    Err(Fault::new(What::Type(expected.to_owned())))
}

/// The outermost struct: the `arguments` member, or nothing.
struct Arguments<'de>(Option<Members<'de>>);

impl<'de> Deserializer<'de> for Arguments<'de> {
    type Error = Fault;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        read_struct(self.0, fields, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        read_struct(self.0, &[], visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn read_struct<'de, V: Visitor<'de>>(
    members: Option<Members<'de>>,
    fields: &'static [&'static str],
    visitor: V,
) -> Result<V::Value, Fault> {
    let value = visitor.visit_map(Fields { members, rest: fields.iter(), current: "" })?;
    let known = |key: &str| fields.contains(&key);
    match members.into_iter().flatten().find(|(key, _)| !known(key)) {
        None => Ok(value),
        Some((key, _)) => Err(Fault::new(What::Unexpected).inside(&echo(key))),
    }
}

/// Walks the fields of the struct, not the members of the object: definition order.
struct Fields<'de> {
    members: Option<Members<'de>>,
    rest: std::slice::Iter<'static, &'static str>,
    current: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(field) = self.rest.next() else { return Ok(None) };
        self.current = field;
        seed.deserialize((*field).into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let value = self.members.and_then(|members| members.get(self.current));
        seed.deserialize(Argument(value)).map_err(|fault| fault.inside(self.current))
    }
}

/// One argument, or its absence.
struct Argument<'de>(Option<Value<'de>>);

impl<'de> Argument<'de> {
    fn kind(&self) -> Result<Kind<'de>, Fault> {
        self.0.map(Value::kind).ok_or_else(|| Fault::new(What::Missing))
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.kind()? {
                Kind::Int(int) => visitor.visit_i64(int),
                Kind::UInt(uint) => visitor.visit_u64(uint),
                _ => wrong_type("integer"),
            }
        }
    )*};
}

macro_rules! strings {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.kind()? {
                Kind::Str(text) => visitor.visit_borrowed_str(text),
                _ => wrong_type("string"),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Argument<'de> {
    type Error = Fault;

    /// By the type on the wire: for alternates, whose visitor names them in `expecting`.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Int(value) => visitor.visit_i64(value),
            Kind::UInt(value) => visitor.visit_u64(value),
            Kind::Float(value) => visitor.visit_f64(value),
            Kind::Str(value) => visitor.visit_borrowed_str(value),
            Kind::Array(items) => visitor.visit_seq(Elements { items, index: 0 }),
            Kind::Object(members) => visitor.visit_map(Fields { members: Some(members), rest: [].iter(), current: "" }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            None => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Bool(value) => visitor.visit_bool(value),
            _ => wrong_type("boolean"),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Int(int) => visitor.visit_i64(int),
            _ => wrong_type("integer"),
        }
    }

    /// A negative number stands for the unsigned one with the same bits, as it always did.
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Int(int) => visitor.visit_u64(u64::from_ne_bytes(int.to_ne_bytes())),
            Kind::UInt(uint) => visitor.visit_u64(uint),
            _ => Err(Fault::new(What::NotUint64)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Int(_) | Kind::UInt(_) | Kind::Float(_) => self.deserialize_any(visitor),
            _ => wrong_type("number"),
        }
    }

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_u8 deserialize_u16
    deserialize_u32 }
    strings! { deserialize_str deserialize_string deserialize_char }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Str(text) => visitor.visit_enum(text.into_deserializer()),
            _ => wrong_type("string"),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Array(items) => visitor.visit_seq(Elements { items, index: 0 }),
            _ => wrong_type("array"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.kind()? {
            Kind::Object(members) => read_struct(Some(members), fields, visitor),
            _ => wrong_type("object"),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

struct Elements<'de> {
    items: Items<'de>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        match seed.deserialize(Argument(Some(item))) {
            Ok(value) => Ok(Some(value)),
            Err(fault) => Err(fault.inside(&format!("[{index}]"))),
        }
    }
}

/// The arguments of a command that takes none.
#[derive(Debug, serde::Deserialize)]
pub struct Empty {}

#[cfg(test)]
mod tests;
