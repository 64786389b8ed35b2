//! Values that other agents spell in other ways.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};

/// Reads an IP address. On Windows, QEMU's agent appends the zone to those of a link: `fe80::1%4`.
pub(super) fn address<'de, D: Deserializer<'de>, T: FromStr>(from: D) -> Result<T, D::Error> {
    struct Address<T>(PhantomData<T>);

    impl<T: FromStr> Visitor<'_> for Address<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an IP address")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            let address = text.split_once('%').map_or(text, |(address, _)| address);
            address.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    from.deserialize_str(Address(PhantomData))
}

const TOO_LONG: &str = "the number has more than 32 bits";

/// Reads an unsigned number of 32 bits. QEMU's agent prints those with the highest bit set as negative
/// ones, or as the 64-bit numbers with the same lower half.
pub(super) fn bits<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    struct Bits;

    impl Visitor<'_> for Bits {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of 32 bits")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
            match i32::try_from(number) {
                Ok(number) => Ok(u32::from_ne_bytes(number.to_ne_bytes())),
                Err(_) => u32::try_from(number).map_err(|_| E::custom(TOO_LONG)),
            }
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u32, E> {
            match i64::try_from(number) {
                Ok(number) => self.visit_i64(number),
                Err(_) => self.visit_i64(i64::from_ne_bytes(number.to_ne_bytes())),
            }
        }
    }

    from.deserialize_any(Bits)
}

/// As [`bits`], for a member that may be missing.
pub(super) fn optional_bits<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    bits(from).map(Some)
}
