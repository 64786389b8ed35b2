//! The members that types have on the wire, as their `Serialize` tells them, those that are left out as well.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{self, Impossible, Serialize, Serializer};

/// All structs and enumerations inside the values that were recorded.
#[derive(Default)]
pub struct Types {
    /// The members of each struct, in the order of their definition, and whether one of the values had it.
    pub structs: BTreeMap<&'static str, Vec<(&'static str, bool)>>,
    /// The enumerations.
    pub enums: Vec<&'static str>,
}

impl Types {
    pub fn record(&mut self, value: &impl Serialize) {
        value.serialize(Recorder(self)).expect("it serializes");
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
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, _: $type) -> Result<(), Failed> {
            Ok(())
        }
    )*};
}

impl<'t> Serializer for Recorder<'t> {
    type Ok = ();
    type Error = Failed;
    type SerializeSeq = Inner<'t>;
    type SerializeTuple = Impossible<(), Failed>;
    type SerializeTupleStruct = Impossible<(), Failed>;
    type SerializeTupleVariant = Impossible<(), Failed>;
    type SerializeMap = Impossible<(), Failed>;
    type SerializeStruct = Inner<'t>;
    type SerializeStructVariant = Impossible<(), Failed>;

    scalars! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32,
        serialize_f64: f64, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8]
    }

    fn serialize_none(self) -> Result<(), Failed> {
        Err(Failed("there is no null on the wire".to_owned()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Failed> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Failed> {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, name: &'static str, _: u32, _: &'static str) -> Result<(), Failed> {
        if !self.0.enums.contains(&name) {
            self.0.enums.push(name);
        }
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Failed> {
        Err(Failed(format!("{name} is not a union with a member that tells its kind")))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Inner<'t>, Failed> {
        Ok(Inner { types: self.0, name: "", seen: Vec::new() })
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
        Ok(Inner { types: self.0, name, seen: Vec::new() })
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
    seen: Vec<(&'static str, bool)>,
}

impl ser::SerializeSeq for Inner<'_> {
    type Ok = ();
    type Error = Failed;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        value.serialize(Recorder(self.types))
    }

    fn end(self) -> Result<(), Failed> {
        Ok(())
    }
}

impl ser::SerializeStruct for Inner<'_> {
    type Ok = ();
    type Error = Failed;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, member: &'static str, value: &T) -> Result<(), Failed> {
        self.seen.push((member, true));
        value.serialize(Recorder(self.types))
    }

    fn skip_field(&mut self, member: &'static str) -> Result<(), Failed> {
        self.seen.push((member, false));
        Ok(())
    }

    fn end(self) -> Result<(), Failed> {
        let known = self.types.structs.entry(self.name).or_insert_with(|| self.seen.clone());
        for (known, seen) in known.iter_mut().zip(&self.seen) {
            assert_eq!(known.0, seen.0, "{} differs from itself", self.name);
            known.1 |= seen.1;
        }
        Ok(())
    }
}
