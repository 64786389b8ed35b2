//! Bytes to tokens, with upstream's leniencies and resync points.
//!
//! Invariant: nothing here depends on how the bytes were split into reads. The text of a string is
//! decoded into the caller's buffer while it is scanned, so a payload of megabytes is looked at
//! once and copied once.

use super::text::{basic_plane, clean_run, make_utf8, not_unicode, show, unescape};

/// A token; its text, if it has one, is in the caller's buffer from `start` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token {
    /// One of `{ } [ ] , :`.
    Structure(u8),
    /// A string, decoded.
    Str { start: usize },
    /// A number as written.
    Number { start: usize, float: bool },
    /// A run of small letters.
    Keyword { start: usize },
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

    /// Reads on to the end of the next token. With `keep` false its text is thrown away.
    #[inline]
    pub(super) fn next(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Step {
        if matches!(self.state, State::Between) {
            if let Some(token) = self.whole(input, text, keep) {
                return Step::Token(token);
            }
        }
        self.step(input, text, keep)
    }

    /// The common case: a plain token that ends within this read.
    #[inline]
    fn whole(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Option<Token> {
        let start = text.len();
        while let Some((&byte, rest)) = input.split_first() {
            let (length, token) = match byte {
                b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                    self.length = 1;
                    *input = rest;
                    return Some(Token::Structure(byte));
                }
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.newline |= byte == b'\n';
                    *input = rest;
                    continue;
                }
                b'"' | b'\'' => {
                    let near = &rest[..rest.len().min(SHORT)];
                    let plain = |b: u8| (0x20..0x7F).contains(&b) && b != byte && b != b'\\';
                    let end = near.iter().position(|&b| !plain(b)).filter(|&end| near[end] == byte)?;
                    if keep {
                        text.extend_from_slice(&near[..end]);
                    }
                    self.length = end + 2;
                    *input = &rest[end + 1..];
                    return Some(Token::Str { start });
                }
                b'1'..=b'9' => {
                    let end = rest.iter().position(|b| !b.is_ascii_digit())?;
                    if matches!(rest[end], b'.' | b'e' | b'E') {
                        return None;
                    }
                    (end + 1, Token::Number { start, float: false })
                }
                b'a'..=b'z' => {
                    let end = rest.iter().position(|b| !b.is_ascii_lowercase())?;
                    (end + 1, Token::Keyword { start })
                }
                _ => return None,
            };
            if keep {
                text.extend_from_slice(&input[..length]);
            }
            self.length = length;
            *input = &input[length..];
            return Some(token);
        }
        None
    }

    #[inline(never)]
    fn step(&mut self, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Step {
        loop {
            match &mut self.state {
                State::Between => {
                    if let Some(token) = self.whole(input, text, keep) {
                        return Step::Token(token);
                    }
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
                    return Step::Token(Token::Keyword { start: self.start });
                }
            }
        }
    }

    /// Looks at the first byte of a token that is not plain or does not end within this read.
    fn begin(&mut self, byte: u8, input: &mut &[u8], text: &mut Vec<u8>, keep: bool) -> Option<Step> {
        self.start = text.len();
        self.length = 1;
        let rest = &input[1..];
        self.prefix.clear();
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
            text.push(byte);
        }
        None
    }

    /// Adds source bytes that stand for themselves to the token.
    fn take(&mut self, bytes: &[u8], text: &mut Vec<u8>, keep: bool) {
        self.length += bytes.len();
        if keep {
            text.extend_from_slice(bytes);
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
                // Not after a bare zero: upstream reads `0e1` as `0` and a word, and so do we.
                (Int | Fraction, b'e' | b'E') => Exponent,
                (Exponent, b'+' | b'-') => ExponentSign,
                (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
                (Minus | Dot | Exponent | ExponentSign, _) | (Zero, b'0'..=b'9') => {
                    return self.stray(input, at);
                }
                (Zero | Int | Fraction | ExponentDigits, _) => {
                    self.take(&whole[..at], text, keep);
                    *input = &whole[at..];
                    self.state = State::Between;
                    let float = matches!(state, Fraction | ExponentDigits);
                    return Step::Token(Token::Number { start: self.start, float });
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
                                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
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
                            text.extend_from_slice(&whole[at..at + run]);
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
                            Some(plain) if keep && quoted.error.is_none() => text.push(plain),
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
        Step::Token(Token::Str { start: self.start })
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
                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Some(_) => {}
            None => self.fail(|| not_unicode(&digits)),
        }
    }
}

/// Whether discarding after a lexical error ends before this byte.
fn resumes(byte: u8) -> bool {
    match byte {
        b'\t' => false,
        ..0x20 | 0xFE.. => true,
        _ => matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b','),
    }
}
