//! Bytes to tokens, with upstream's leniencies and resync points.
//!
//! Invariant: nothing here depends on how the bytes were split into reads. The text of a string is
//! decoded into the caller's buffer while it is scanned, so a payload of megabytes is looked at
//! once and copied once.

use zeroize::Zeroize;

use super::text::{append, basic_plane, clean_run, make_utf8, not_unicode, show, unescape};

/// A token. Two plain numbers, which come back in registers: a message of megabytes has hundreds of
/// thousands of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    /// Where its text, if it has one, starts in the caller's buffer. It ends where that ends. Of a
    /// small number it is the value.
    pub start: u64,
}

impl Token {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a length of a buffer")]
    pub(super) fn text_start(self) -> usize {
        self.start as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// `{`
    OpenObject,
    /// `}`
    CloseObject,
    /// `[`
    OpenArray,
    /// `]`
    CloseArray,
    /// `,`
    Comma,
    /// `:`
    Colon,
    /// A string, decoded.
    Str,
    /// A number of a few digits, as `i64` in the bits of `start`.
    Small,
    /// A number as written, without fraction and exponent.
    Int,
    /// A number as written.
    Float,
    /// `null`
    Null,
    /// `true`
    True,
    /// `false`
    False,
    /// Any run of small letters.
    Keyword,
}

/// What the lexer found.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// All input is used up, in the middle of a token or between two.
    NeedInput,
    /// A complete token.
    Token(Token),
    /// A string whose content is no text; the reason.
    BadText(String),
    /// A byte that can start or continue no token. `what` is the token so far with that byte.
    Stray { what: String, byte: u8 },
}

/// How much of a token is kept to be named in an error.
const PREFIX: usize = 64;

/// Strings up to this length are looked at byte by byte first.
const SHORT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    /// Where the current token's text starts in the caller's buffer.
    start: usize,
    /// Source bytes of the current or last token.
    length: usize,
    /// The first byte of the current token and what earlier reads held of it, about `PREFIX` bytes.
    prefix: Vec<u8>,
    /// A newline was seen outside of tokens since this was last taken.
    newline: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Between,
    Str(Quoted),
    Number(Number),
    Keyword,
    /// After a lexical error: bytes are dropped up to a point where a message may start.
    Discard,
}

#[derive(Debug)]
struct Quoted {
    quote: u8,
    escape: Escape,
    /// A `\uD800`-`\uDBFF` whose other half has not come yet, with its digits as written.
    high: Option<(u32, [u8; 4])>,
    non_ascii: bool,
    error: Option<String>,
}

#[derive(Debug)]
enum Escape {
    None,
    Backslash,
    /// The bytes after `\u`; `quoted` when the last of them was a backslash.
    Unicode {
        digits: [u8; 4],
        have: usize,
        quoted: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Minus,
    Zero,
    Int,
    Dot,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Lexer {
    /// Source bytes of the current token so far, or of the last one.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Whether a newline stood outside of tokens since the last call.
    pub(super) fn take_newline(&mut self) -> bool {
        std::mem::take(&mut self.newline)
    }

    /// Whether a token has begun and not ended.
    pub(super) fn in_token(&self) -> bool {
        !matches!(self.state, State::Between | State::Discard)
    }

    /// The next token, if it is a plain one that ends within this read: the common case. With `keep`
    /// false its text is thrown away.
    #[inline(always)]
    pub(super) fn plain(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Option<Token> {
        if !matches!(self.state, State::Between) {
            return None;
        }
        let start = text.len() as u64;
        while let Some((&byte, rest)) = input.split_first() {
            let structure = match byte {
                b'{' => Kind::OpenObject,
                b'}' => Kind::CloseObject,
                b'[' => Kind::OpenArray,
                b']' => Kind::CloseArray,
                b',' => Kind::Comma,
                b':' => Kind::Colon,
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.newline |= byte == b'\n';
                    *input = rest;
                    continue;
                }
                b'"' | b'\'' => {
                    let end = short_run(rest, byte)?;
                    if keep {
                        append(text, &rest[..end]);
                    }
                    self.length = end + 2;
                    *input = &rest[end + 1..];
                    return Some(Token { kind: Kind::Str, start });
                }
                b'-' | b'1'..=b'9' => {
                    let (token, end) = plain_number(input, start)?;
                    self.word(end, input, text, keep && token.kind != Kind::Small);
                    return Some(token);
                }
                b'a'..=b'z' => {
                    let end = end_of(input, 1, |b| b.is_ascii_lowercase())?;
                    let kind = match &input[..end] {
                        b"null" => Kind::Null,
                        b"true" => Kind::True,
                        b"false" => Kind::False,
                        _ => Kind::Keyword,
                    };
                    self.word(end, input, text, keep && kind == Kind::Keyword);
                    return Some(Token { kind, start });
                }
                _ => return None,
            };
            self.length = 1;
            *input = rest;
            return Some(Token { kind: structure, start });
        }
        None
    }

    /// A plain token that stands for itself, up to `end`.
    #[inline(always)]
    fn word(&mut self, end: usize, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) {
        if keep {
            append(text, &input[..end]);
        }
        self.length = end;
        *input = &input[end..];
    }

    /// Reads on to the end of the next token, after [`Lexer::plain`] found none.
    #[inline(never)]
    pub(super) fn step(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Step {
        loop {
            match &mut self.state {
                State::Between => {
                    let Some(&byte) = input.first() else { return Step::NeedInput };
                    if let Some(step) = self.begin(byte, input, text, keep) {
                        return step;
                    }
                }
                State::Discard => {
                    let stop = input.iter().position(|&b| resumes(b)).unwrap_or(input.len());
                    *input = &input[stop..];
                    if input.is_empty() {
                        return Step::NeedInput;
                    }
                    self.state = State::Between;
                    if let Some(token) = self.plain(input, text, keep) {
                        return Step::Token(token);
                    }
                }
                State::Str(_) => return self.string(input, text, keep),
                State::Number(_) => return self.number(input, text, keep),
                State::Keyword => {
                    let end = input.iter().position(|b| !b.is_ascii_lowercase());
                    let word = &input[..end.unwrap_or(input.len())];
                    self.take(word, text, keep);
                    *input = &input[word.len()..];
                    if end.is_none() {
                        self.remember(word);
                        return Step::NeedInput;
                    }
                    self.state = State::Between;
                    return Step::Token(Token { kind: Kind::Keyword, start: self.start as u64 });
                }
            }
        }
    }

    /// Looks at the first byte of a token that is not plain or does not end within this read.
    fn begin(&mut self, byte: u8, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Option<Step> {
        self.start = text.len();
        self.length = 1;
        let rest = &input[1..];
        self.forget();
        self.prefix.reserve_exact(PREFIX + 1);
        self.prefix.push(byte);
        self.state = match byte {
            b'"' | b'\'' => {
                State::Str(Quoted { quote: byte, escape: Escape::None, high: None, non_ascii: false, error: None })
            }
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Int),
            b'a'..=b'z' => State::Keyword,
            _ => {
                *input = rest;
                self.state = State::Discard;
                let what = show(&[byte]);
                return Some(Step::Stray { what, byte });
            }
        };
        *input = rest;
        if keep && !matches!(self.state, State::Str(_)) {
            append(text, &[byte]);
        }
        None
    }

    /// Adds source bytes that stand for themselves to the token.
    fn take(&mut self, bytes: &[u8], text: &mut Vec<u8>, keep: bool) {
        self.length += bytes.len();
        if keep {
            append(text, bytes);
        }
    }

    fn number(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Step {
        let State::Number(mut state) = self.state else { unreachable!("called for numbers") };
        let whole = *input;
        for (at, &byte) in whole.iter().enumerate() {
            use Number::*;
            state = match (state, byte) {
                (Minus, b'0') => Zero,
                (Minus | Int, b'0'..=b'9') => Int,
                (Zero | Int, b'.') => Dot,
                (Dot | Fraction, b'0'..=b'9') => Fraction,
                (Zero | Int | Fraction, b'e' | b'E') => Exponent,
                (Exponent, b'+' | b'-') => ExponentSign,
                (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
                (Minus | Dot | Exponent | ExponentSign, _) | (Zero, b'0'..=b'9') => {
                    return self.stray(input, at);
                }
                (Zero | Int | Fraction | ExponentDigits, _) => {
                    self.take(&whole[..at], text, keep);
                    *input = &whole[at..];
                    self.state = State::Between;
                    let kind = if matches!(state, Fraction | ExponentDigits) { Kind::Float } else { Kind::Int };
                    return Step::Token(Token { kind, start: self.start as u64 });
                }
            };
        }
        self.take(whole, text, keep);
        self.remember(whole);
        *input = &[];
        self.state = State::Number(state);
        Step::NeedInput
    }

    fn string(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Step {
        let State::Str(quoted) = &mut self.state else { unreachable!("called for strings") };
        let whole = *input;
        let mut at = 0;
        while at < whole.len() {
            match &mut quoted.escape {
                Escape::None => match whole[at] {
                    b if b == quoted.quote => {
                        quoted.lone_high();
                        return self.end_string(input, at, text, keep);
                    }
                    b'\\' => match basic_plane(&whole[at..]) {
                        Some(c) if quoted.high.is_none() => {
                            if keep && quoted.error.is_none() {
                                append(text, c.encode_utf8(&mut [0; 4]).as_bytes());
                            }
                            at += 5;
                        }
                        _ => quoted.escape = Escape::Backslash,
                    },
                    ..0x20 | 0xFE.. => return self.stray(input, at),
                    _ => {
                        quoted.lone_high();
                        let run = clean_run(&whole[at..], quoted.quote, &mut quoted.non_ascii);
                        if keep && quoted.error.is_none() {
                            append(text, &whole[at..at + run]);
                        }
                        at += run;
                        continue;
                    }
                },
                Escape::Backslash => match whole[at] {
                    ..0x20 | 0xFE.. => return self.stray(input, at),
                    b'u' => {
                        quoted.escape = Escape::Unicode { digits: [0; 4], have: 0, quoted: false };
                    }
                    byte => {
                        quoted.escape = Escape::None;
                        quoted.lone_high();
                        match unescape(byte) {
                            Some(plain) if keep && quoted.error.is_none() => append(text, &[plain]),
                            Some(_) => {}
                            None => quoted.fail(|| "invalid escape sequence in string".to_owned()),
                        }
                    }
                },
                Escape::Unicode { digits, have, quoted: after_backslash } => {
                    let byte = whole[at];
                    if !(0x20..0xFE).contains(&byte) {
                        return self.stray(input, at);
                    }
                    let ends = byte == quoted.quote && !*after_backslash;
                    *after_backslash = byte == b'\\' && !*after_backslash;
                    digits[*have] = byte;
                    *have += 1;
                    if ends || *have == 4 {
                        let (digits, have, dangling) = (*digits, *have, *after_backslash);
                        quoted.escape = if dangling { Escape::Backslash } else { Escape::None };
                        quoted.code_unit(digits, have, text, keep);
                    }
                    if ends {
                        quoted.lone_high();
                        return self.end_string(input, at, text, keep);
                    }
                }
            }
            at += 1;
        }
        self.length += whole.len();
        self.remember(whole);
        *input = &[];
        Step::NeedInput
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> &[u8] {
        &self.prefix
    }

    /// Forgets what was kept to name a token, which may have been a secret.
    pub(super) fn forget(&mut self) {
        self.prefix.as_mut_slice().zeroize();
        self.prefix.clear();
    }

    /// Keeps the beginning of a token that goes on in the next read, to name it in an error.
    fn remember(&mut self, bytes: &[u8]) {
        let room = PREFIX.saturating_sub(self.prefix.len());
        self.prefix.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_string(&mut self, input: &mut &[u8], at: usize, text: &mut Vec<u8>, keep: bool) -> Step {
        self.length += at + 1;
        *input = &input[at + 1..];
        let State::Str(quoted) = std::mem::take(&mut self.state) else { unreachable!("called for strings") };
        if let Some(reason) = quoted.error {
            return Step::BadText(reason);
        }
        if keep && quoted.non_ascii && !make_utf8(text, self.start) {
            return Step::BadText("invalid UTF-8 sequence in string".to_owned());
        }
        Step::Token(Token { kind: Kind::Str, start: self.start as u64 })
    }

    /// The byte at `at` cannot continue the current token.
    fn stray(&mut self, input: &mut &[u8], at: usize) -> Step {
        let whole = *input;
        *input = &whole[at + 1..];
        self.remember(&whole[..at]);
        self.prefix.push(whole[at]);
        self.state = State::Discard;
        Step::Stray { what: show(&self.prefix), byte: whole[at] }
    }
}

impl Quoted {
    fn fail(&mut self, reason: impl FnOnce() -> String) {
        self.error.get_or_insert_with(reason);
    }

    /// A high surrogate was not followed by a low one.
    fn lone_high(&mut self) {
        if let Some((_, digits)) = self.high.take() {
            self.fail(|| not_unicode(&digits));
        }
    }

    /// A `\u` escape is complete, or was cut off by the end of the string.
    fn code_unit(&mut self, digits: [u8; 4], have: usize, text: &mut Vec<u8>, keep: bool) {
        let unit = digits[..have]
            .iter()
            .try_fold(0, |unit, &digit| char::from(digit).to_digit(16).map(|value| unit << 4 | value));
        let Some(unit) = unit.filter(|_| have == 4) else {
            return self.fail(|| not_unicode(&digits[..have]));
        };
        let code = match (self.high.take(), unit) {
            (None, 0xD800..=0xDBFF) => {
                self.high = Some((unit, digits));
                return;
            }
            (Some((high, _)), 0xDC00..=0xDFFF) => 0x10000 + ((high - 0xD800) << 10) + unit - 0xDC00,
            (Some((_, first)), _) => return self.fail(|| not_unicode(&first)),
            (None, _) => unit,
        };
        match char::from_u32(code) {
            Some(c) if keep && self.error.is_none() => {
                append(text, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Some(_) => {}
            None => self.fail(|| not_unicode(&digits)),
        }
    }
}

/// Where a string of plain ASCII ends; `None` when it is longer than [`SHORT`], or not plain.
#[inline(always)]
fn short_run(text: &[u8], quote: u8) -> Option<usize> {
    let near = &text[..text.len().min(SHORT)];
    let plain = |b: u8| (0x20..0x7F).contains(&b) && b != quote && b != b'\\';
    let end = near.iter().position(|&b| !plain(b))?;
    (near[end] == quote).then_some(end)
}

/// A number at the beginning of the text, and its length; `None` when it is an odd one, or may go on
/// behind the text.
#[inline(always)]
fn plain_number(text: &[u8], start: u64) -> Option<(Token, usize)> {
    /// So many digits fit in any case.
    const DIGITS: usize = 18;
    let sign = usize::from(text.first() == Some(&b'-'));
    if !matches!(text.get(sign)?, b'1'..=b'9') {
        return None;
    }
    let whole = end_of(text, sign, |b| b.is_ascii_digit())?;
    match text[whole] {
        b'e' | b'E' => None,
        b'.' => {
            let end = end_of(text, whole + 1, |b| b.is_ascii_digit())?;
            let is_odd = end == whole + 1 || matches!(text[end], b'e' | b'E');
            (!is_odd).then_some((Token { kind: Kind::Float, start }, end))
        }
        _ if whole - sign > DIGITS => Some((Token { kind: Kind::Int, start }, whole)),
        _ => {
            let value = text[sign..whole].iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
            let value = if sign == 0 { value } else { -value };
            Some((Token { kind: Kind::Small, start: u64::from_ne_bytes(value.to_ne_bytes()) }, whole))
        }
    }
}

/// Where a run of these bytes ends that begins at `from`; `None` at the end of the text.
#[inline(always)]
fn end_of(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> Option<usize> {
    text[from..].iter().position(|&b| !belongs(b)).map(|length| from + length)
}

/// Whether discarding after a lexical error ends before this byte.
fn resumes(byte: u8) -> bool {
    match byte {
        b'\t' => false,
        ..0x20 | 0xFE.. => true,
        _ => matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b','),
    }
}
