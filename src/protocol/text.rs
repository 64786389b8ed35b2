//! The content of JSON strings: escapes, runs of plain bytes, UTF-8.

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
    let mut fixed = Vec::with_capacity(text.len() - start);
    let mut rest = &text[start..];
    while let Some(at) = rest.windows(2).position(|pair| pair == [0xC0, 0x80]) {
        fixed.extend_from_slice(&rest[..at]);
        fixed.push(0);
        rest = &rest[at + 2..];
    }
    fixed.extend_from_slice(rest);
    text.truncate(start);
    text.extend_from_slice(&fixed);
    std::str::from_utf8(&fixed).is_ok()
}

/// A token for an error message: a NUL ends it, bytes that are no text are replaced.
pub(super) fn show(token: &[u8]) -> String {
    let end = token.iter().position(|&b| b == 0).unwrap_or(token.len());
    String::from_utf8_lossy(&token[..end]).into_owned()
}
