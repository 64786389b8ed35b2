//! The content of JSON strings: escapes, runs of plain bytes, UTF-8.

use zeroize::Zeroize;

/// The error for an escape that stands for no character.
pub(super) fn not_unicode(digits: &[u8]) -> String {
    format!("\\u{} is not a valid Unicode character", String::from_utf8_lossy(digits))
}

/// The character of a whole `\uXXXX` that needs no second half: the common case in one look.
pub(super) fn basic_plane(bytes: &[u8]) -> Option<char> {
    let &[b'\\', b'u', a, b, c, d, ..] = bytes else { return None };
    let code = [a, b, c, d].iter().try_fold(0, |code, &x| char::from(x).to_digit(16).map(|value| code << 4 | value))?;
    char::from_u32(code)
}

/// What a backslash and this byte stand for.
pub(super) fn unescape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\'' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// Length of the run of bytes that stand for themselves in a string.
///
/// Blocks of 64 without an early exit, so that the compiler turns each into a few vector
/// instructions; this loop sees every byte of a file upload.
pub(super) fn clean_run(bytes: &[u8], quote: u8, non_ascii: &mut bool) -> usize {
    let special = |b: u8| (b < 0x20) | (b == quote) | (b == b'\\') | (b >= 0xFE);
    let mut run = 0;
    let mut all = 0;
    for block in bytes.chunks_exact(64) {
        let (mut found, mut any) = (false, 0);
        for &b in block {
            found |= special(b);
            any |= b;
        }
        if found {
            break;
        }
        all |= any;
        run += 64;
    }
    let rest = &bytes[run..];
    let tail = rest.iter().position(|&b| special(b)).unwrap_or(rest.len());
    all |= rest[..tail].iter().fold(0, |any, b| any | b);
    *non_ascii |= all >= 0x80;
    run + tail
}

/// Checks the text from `start` on. `C0 80` is taken as NUL, as upstream writes it ("modified
/// UTF-8").
pub(super) fn make_utf8(text: &mut Vec<u8>, start: usize) -> bool {
    if std::str::from_utf8(&text[start..]).is_ok() {
        return true;
    }
    let (mut from, mut to) = (start, start);
    while from < text.len() {
        let nul = text[from..].starts_with(&[0xC0, 0x80]);
        text[to] = if nul { 0 } else { text[from] };
        from += if nul { 2 } else { 1 };
        to += 1;
    }
    text[to..].zeroize();
    text.truncate(to);
    std::str::from_utf8(&text[start..]).is_ok()
}

/// From this size on the C library moves memory by its pages, which leaves no copy behind; see
/// `host::linux::malloc`.
const PAGES: usize = 1 << 20;

/// Appends to text that may be a secret: what it grows out of is wiped.
#[inline(always)]
pub(super) fn append(text: &mut Vec<u8>, bytes: &[u8]) {
    if text.capacity() - text.len() < bytes.len() {
        make_room(text, bytes.len());
    }
    text.extend_from_slice(bytes);
}

#[cold]
#[inline(never)]
fn make_room(text: &mut Vec<u8>, bytes: usize) {
    if text.capacity() >= PAGES {
        return text.reserve(bytes);
    }
    let mut larger = Vec::with_capacity((text.len() + bytes).max(2 * text.capacity()).max(64));
    larger.extend_from_slice(text);
    text.as_mut_slice().zeroize();
    *text = larger;
}

/// A token for an error message: a NUL ends it, bytes that are no text are replaced.
pub(super) fn show(token: &[u8]) -> String {
    let end = token.iter().position(|&b| b == 0).unwrap_or(token.len());
    String::from_utf8_lossy(&token[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_grows_and_keeps_what_it_holds() {
        let (mut text, mut plain) = (Vec::new(), Vec::new());
        for piece in (0..300u32).map(|i| vec![i.to_le_bytes()[0]; (i * i) as usize % 40_000]) {
            append(&mut text, &piece);
            plain.extend_from_slice(&piece);
        }
        assert_eq!(text, plain);
    }

    #[test]
    fn modified_utf_8_is_made_plain_in_place() {
        let mut text = b"ab\xC0\x80c\xC0\x80\xC0\x80d".to_vec();
        assert!(make_utf8(&mut text, 1));
        assert_eq!(text, b"ab\0c\0\0d");
        assert!(!make_utf8(&mut b"a\xC0\x80\xFF".to_vec(), 0));
    }
}
