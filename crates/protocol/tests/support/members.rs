//! The members that types have on the wire and of which type they are, as their `Serialize` tells them; those that
//! are left out as well.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{self, Impossible, Serialize, Serializer};

/// All structs and enumerations inside the values that were recorded.
#[derive(Default)]
pub struct Types {
    /// The members of each struct, in the order of their definition.
    pub structs: BTreeMap<&'static str, Vec<Member>>,
    /// The enumerations.
    pub enums: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub name: &'static str,
    /// `None` as long as no value had it.
    pub kind: Option<String>,
    /// Whether one of the values was without it.
    pub optional: bool,
}

/// What the elements of an empty array would be.
const UNKNOWN: &str = "array of ?";

impl Member {
    fn merge(&mut self, seen: &Member) {
        self.optional |= seen.optional;
        let Some(kind) = seen.kind.as_ref().filter(|&kind| kind != UNKNOWN) else { return };
        match &self.kind {
            Some(known) if known != UNKNOWN && known != kind => self.kind = Some("alternate".to_owned()),
            _ => self.kind = Some(kind.clone()),
        }
    }
}

impl Types {
    /// Records a value and says what kind it is.
    pub fn record(&mut self, value: &impl Serialize) -> String {
        value.serialize(Recorder(self)).expect("it serializes")
    }
}

struct Recorder<'t>(&'t mut Types);

#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: fmt::Display>(text: T) -> Failed {
        Failed(text.to_string())
    }
}

macro_rules! scalars {
    ($($kind:literal: $($method:ident($type:ty)),*;)*) => {$($(
        fn $method(self, _: $type) -> Result<String, Failed> {
            Ok($kind.to_owned())
        }
    )*)*};
}

impl<'t> Serializer for Recorder<'t> {
    type Ok = String;
    type Error = Failed;
    type SerializeSeq = Inner<'t>;
    type SerializeTuple = Impossible<String, Failed>;
    type SerializeTupleStruct = Impossible<String, Failed>;
    type SerializeTupleVariant = Impossible<String, Failed>;
    type SerializeMap = Impossible<String, Failed>;
    type SerializeStruct = Inner<'t>;
    type SerializeStructVariant = Impossible<String, Failed>;

    scalars! {
        "boolean": serialize_bool(bool);
        "integer": serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_u8(u8),
            serialize_u16(u16), serialize_u32(u32), serialize_u64(u64);
        "number": serialize_f32(f32), serialize_f64(f64);
        "string": serialize_char(char), serialize_str(&str);
        "bytes": serialize_bytes(&[u8]);
    }

    fn serialize_none(self) -> Result<String, Failed> {
        Err(Failed("there is no null on the wire".to_owned()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<String, Failed> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<String, Failed> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<String, Failed> {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, name: &'static str, _: u32, _: &'static str) -> Result<String, Failed> {
        if !self.0.enums.contains(&name) {
            self.0.enums.push(name);
        }
        Ok(name.to_owned())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<String, Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, Failed> {
        Err(Failed(format!("{name} is not a union with a member that tells its kind")))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Inner<'t>, Failed> {
        Ok(Inner { types: self.0, name: "", seen: Vec::new(), element: None })
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Failed> {
        Err(Failed("a tuple".to_owned()))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Failed> {
        Err(Failed(name.to_owned()))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Failed> {
        Err(Failed(name.to_owned()))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Failed> {
        Err(Failed("an object without a type".to_owned()))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Inner<'t>, Failed> {
        Ok(Inner { types: self.0, name, seen: Vec::new(), element: None })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Failed> {
        Err(Failed(name.to_owned()))
    }
}

/// Inside a list or a struct.
struct Inner<'t> {
    types: &'t mut Types,
    name: &'static str,
    seen: Vec<Member>,
    element: Option<String>,
}

impl ser::SerializeSeq for Inner<'_> {
    type Ok = String;
    type Error = Failed;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        self.element = Some(value.serialize(Recorder(self.types))?);
        Ok(())
    }

    fn end(self) -> Result<String, Failed> {
        Ok(self.element.map_or(UNKNOWN.to_owned(), |element| format!("array of {element}")))
    }
}

impl ser::SerializeStruct for Inner<'_> {
    type Ok = String;
    type Error = Failed;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Failed> {
        let kind = value.serialize(Recorder(self.types))?;
        self.seen.push(Member { name, kind: Some(kind), optional: false });
        Ok(())
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), Failed> {
        self.seen.push(Member { name, kind: None, optional: true });
        Ok(())
    }

    fn end(self) -> Result<String, Failed> {
        let known = self.types.structs.entry(self.name).or_insert_with(|| self.seen.clone());
        assert_eq!(known.len(), self.seen.len(), "{} differs from itself", self.name);
        for (known, seen) in known.iter_mut().zip(&self.seen) {
            assert_eq!(known.name, seen.name, "{} differs from itself", self.name);
            known.merge(seen);
        }
        Ok(self.name.to_owned())
    }
}
