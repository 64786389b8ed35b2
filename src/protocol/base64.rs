//! Base64 as clients write it: line breaks anywhere, the last group padded or not (O16).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64_simd::AsOut;
use zeroize::Zeroizing;

use super::error::{Error, Result};

/// For the last group: with or without padding, unused bits ignored as every decoder in use does.
const LAST_GROUP: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decoded bytes that [`Payload::chunks`] hands out at a time.
pub const CHUNK: usize = 192 * 1024;

/// Checked base64 text that has not been decoded yet, so that a payload of megabytes needs no
/// second buffer of its size.
pub struct Payload<'t> {
    /// Whole groups of four, without padding.
    groups: std::borrow::Cow<'t, [u8]>,
    last: [u8; 3],
    last_len: usize,
}

impl<'t> Payload<'t> {
    /// Checks the whole text, so that bad data is refused before anything is done with it.
    pub fn parse(text: &'t str) -> Result<Payload<'t>> {
        let text: std::borrow::Cow<'t, [u8]> =
            if text.contains('\n') { text.bytes().filter(|&b| b != b'\n').collect() } else { text.as_bytes().into() };
        // The last group is looked at by itself: it may be padded or short.
        let split = text.len().saturating_sub(1) / 4 * 4;
        let mut last = [0; 3];
        let bad = || Error::new("Base64 data contains invalid characters");
        if base64_simd::STANDARD_NO_PAD.check(&text[..split]).is_err() {
            let stray = |b: &u8| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
            return Err(if text.iter().any(stray) { bad() } else { malformed() });
        }
        let last_len = LAST_GROUP.decode_slice(&text[split..], &mut last).map_err(|e| match e {
            base64::DecodeSliceError::DecodeError(base64::DecodeError::InvalidByte(_, b)) if b != b'=' => bad(),
            _ => malformed(),
        })?;
        let groups = match text {
            std::borrow::Cow::Borrowed(text) => text[..split].into(),
            std::borrow::Cow::Owned(mut text) => {
                text.truncate(split);
                text.into()
            }
        };
        Ok(Payload { groups, last, last_len })
    }

    /// Number of decoded bytes.
    pub fn len(&self) -> usize {
        self.groups.len() / 4 * 3 + self.last_len
    }

    /// Whether there is nothing to decode.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decodes piece by piece into `scratch` and hands each piece on; `each` says whether to go on.
    pub fn chunks<E>(
        &self,
        scratch: &mut Vec<u8>,
        mut each: impl FnMut(&[u8]) -> std::result::Result<bool, E>,
    ) -> std::result::Result<(), E> {
        let size = CHUNK.min(self.groups.len() / 4 * 3);
        if scratch.len() < size {
            scratch.resize(size, 0);
        }
        for groups in self.groups.chunks(CHUNK / 3 * 4) {
            let piece = base64_simd::STANDARD_NO_PAD
                .decode(groups, scratch.as_mut_slice().as_out())
                .expect("checked when it was parsed");
            if !each(piece)? {
                return Ok(());
            }
        }
        if self.last_len > 0 {
            each(&self.last[..self.last_len])?;
        }
        Ok(())
    }

    /// The decoded bytes in one buffer, for payloads that are small by nature.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        let mut scratch = Vec::new();
        let all: std::result::Result<(), std::convert::Infallible> = self.chunks(&mut scratch, |piece| {
            out.extend_from_slice(piece);
            Ok(true)
        });
        let Ok(()) = all;
        out
    }
}

impl Payload<'_> {
    /// The decoded bytes where they may be a secret: no copy of them stays in memory.
    pub fn to_secret(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.len()));
        let mut scratch = Zeroizing::new(Vec::new());
        let all: std::result::Result<(), std::convert::Infallible> = self.chunks(&mut scratch, |piece| {
            out.extend_from_slice(piece);
            Ok(true)
        });
        let Ok(()) = all;
        out
    }
}

fn malformed() -> Error {
    Error::new("Base64 data is cut off or has padding inside")
}

/// Appends the encoded form. `data` in multiples of three may be encoded piece by piece.
pub fn encode(data: &[u8], out: &mut Vec<u8>) {
    base64_simd::STANDARD.encode_append(data, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> std::result::Result<Vec<u8>, String> {
        Payload::parse(text).map(|p| p.to_vec()).map_err(|e| e.desc)
    }

    #[test]
    fn line_breaks_and_missing_padding_are_accepted() {
        assert_eq!(decode("aGVs\nbG8=\n").as_deref(), Ok(&b"hello"[..]));
        assert_eq!(decode("aGk").as_deref(), Ok(&b"hi"[..]));
        assert_eq!(decode("aGk=").as_deref(), Ok(&b"hi"[..]));
        assert_eq!(decode("").as_deref(), Ok(&b""[..]));
        assert_eq!(decode("\n").as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn unused_bits_of_the_last_group_are_ignored() {
        assert_eq!(decode("aGl=").as_deref(), Ok(&b"hi"[..]));
    }

    #[test]
    fn foreign_characters_are_named_as_upstream_names_them() {
        for text in ["!!", "aG\tk=", "aGk=\r\n", "aGVsbG8=é", "aGVsbG8*aGVsbG8="] {
            assert_eq!(decode(text), Err("Base64 data contains invalid characters".into()), "{text}");
        }
    }

    #[test]
    fn data_is_never_lost_silently() {
        for text in ["aGk=aGk=", "====", "a", "aGVsbG8=aGVsbG8=", "aGVsbA==aGVs"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_large_payload_comes_in_chunks() {
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut text = Vec::new();
        encode(&data, &mut text);
        let text = String::from_utf8(text).expect("ASCII");
        assert_eq!(decode(&text), Ok(data));
    }
}
