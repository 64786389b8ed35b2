use proptest::prelude::*;

use super::super::message::Value;
use super::*;

/// What the framer makes of a stream: `ok JSON`, `error TEXT`, `reset`.
fn events(pieces: &[&[u8]]) -> Vec<String> {
    let mut framer = Framer::default();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        while let Some(event) = framer.next(&mut input) {
            seen.push(match event {
                Event::Message(Ok(message)) => format!("ok {}", json(message.root())),
                Event::Message(Err(error)) => format!("error {}", error.desc),
                Event::Reset(error) => {
                    format!("reset{}", error.map(|e| format!(" {}", e.desc)).unwrap_or_default())
                }
            });
        }
    }
    seen
}

fn json(value: Value<'_>) -> String {
    let mut out = Vec::new();
    crate::protocol::reply::value(&mut out, &value);
    String::from_utf8(out).expect("ASCII")
}

fn one(text: &str) -> Vec<String> {
    events(&[text.as_bytes()])
}

/// Texts and numbers of errors as the reference agent (11.1.3) gives them.
#[test]
fn errors_are_upstreams() {
    let cases: &[(&str, &[&str])] = &[
        ("01\n", &["stray '01'"]),
        ("{\"a\":01}\n", &["stray '01'", "expecting value"]),
        ("{\"a\":1.}\n", &["stray '1.}'"]),
        ("{\"a\":-}\n", &["stray '-}'"]),
        ("{\"a\":1ee1}\n", &["stray '1ee'", "expecting value"]),
        ("{\"a\":1.5.2}\n", &["stray '.'", "expecting value"]),
        ("{\"a\":1a}\n", &["expected ',' or '}'"]),
        ("{\"a\":trUe}\n", &["invalid keyword 'tr'", "expecting value"]),
        ("{\"a\":\"abc\\q\"}\n", &["invalid escape sequence in string"]),
        ("{\"a\":\"abc\\u12\"}\n", &["\\u12\" is not a valid Unicode character"]),
        ("{\"a\":\"\\ud800\"}\n", &["\\ud800 is not a valid Unicode character"]),
        ("{\"a\":\"\\ud800\\u0041\"}\n", &["\\ud800 is not a valid Unicode character"]),
        ("{\"a\":\"\\udc00\"}\n", &["\\udc00 is not a valid Unicode character"]),
        ("{\"a\":\"x\ty\"}\n", &["stray '\"x\t'", "expecting value"]),
        ("{\"a\":\"x\\\ty\"}\n", &["stray '\"x\\\t'", "expecting value"]),
        ("--1\n", &["stray '--'"]),
        ("{\"x\":[ @]}\n", &["stray '@'", "expecting value", "expecting value"]),
        ("{\"x\" 1}\n", &["expecting ':'"]),
        ("{1:2}\n", &["expecting key"]),
        ("[1 2]\n", &["expected ',' or ']'"]),
        ("[1,]\n", &["expecting value"]),
        ("{,}\n", &["expecting key"]),
        ("}\n", &["expecting value"]),
        (":\n", &["expecting value"]),
        ("[1}\n", &["expected ',' or ']'"]),
        ("{]\n", &["expecting key"]),
        ("[[[}}}}\n", &["expecting value"; 4]),
        ("{\"a\":1,\"b\":2,\"\\u0061\":3,\"c\" 4}\n", &["duplicate key"]),
        ("{\"a\":1.e5}\n", &["stray '1.e'", "expecting value"]),
        ("{\"a\":1E+}\n", &["stray '1E+}'"]),
        ("{\"a\":truefalse}\n", &["invalid keyword 'truefalse'"]),
    ];
    for (text, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|e| format!("error JSON parse error, {e}")).collect();
        assert_eq!(one(text), expected, "{text:?}");
    }
}

#[test]
fn values_end_by_themselves_or_at_the_next_byte() {
    assert_eq!(one("{}[]\"a\"'b'"), ["ok {}", "ok []", "ok \"a\"", "ok \"b\""]);
    assert_eq!(one("12"), [""; 0]);
    assert_eq!(one("12 true\nnull "), ["ok 12", "ok true", "ok null"]);
    assert_eq!(one("1-1\n"), ["ok 1", "ok -1"]);
}

#[test]
fn numbers_keep_their_value() {
    let text = "[-0,18446744073709551615,-9223372036854775808,0.0e1,1.5E-3,123456789012345678901,0e1,-0E+2]";
    let expected = "ok [0, 18446744073709551615, -9223372036854775808, 0, 0.0015, 1.2345678901234568e+20, 0, -0]";
    assert_eq!(one(text), [expected]);
}

#[test]
fn infinity_is_refused_because_it_cannot_be_echoed() {
    assert_eq!(one("{\"id\":1e999}"), ["error JSON parse error, number '1e999' is too large"]);
}

#[test]
fn a_reset_byte_drops_what_is_pending_and_says_so_once() {
    assert_eq!(events(&[b"\xff\xff\xfe{}"]), ["reset", "reset", "reset", "ok {}"]);
    let dropped = "reset JSON parse error, stray '\"b\u{fffd}'";
    assert_eq!(events(&[b"{\"a\":\"b\xff{}"]), [dropped, "ok {}"]);
    assert_eq!(events(&[b"[[[\xff{}"]), ["reset JSON parse error, stray '\u{fffd}'", "ok {}"]);
    assert_eq!(events(&[b"{\"a\":\"\\\xff{}"])[1], "ok {}");
}

#[test]
fn nothing_inside_a_broken_message_is_executed() {
    let remains = "error JSON parse error, value inside a broken message is not executed";
    let seen = one("\n\n{\"x\":\n[ @ {\"execute\":\"guest-ping\"} ]}{}");
    assert_eq!(seen[1], remains);
    assert_eq!(seen.last().map(String::as_str), Some("ok {}"));
    // A new line or a reset byte is a new start.
    assert_eq!(one("{\"x\":[ @\n{\"a\":1}").last().map(String::as_str), Some("ok {\"a\": 1}"));
    assert_eq!(one("{\"x\":\"abc\n{\"a\":1}").last().map(String::as_str), Some("ok {\"a\": 1}"));
    let reset = events(&[b"{\"x\":[ @\xff{\"a\":1}"]);
    assert_eq!(reset.last().map(String::as_str), Some("ok {\"a\": 1}"));
    // Garbage between messages breaks none.
    assert_eq!(one("@\"{}").last().map(String::as_str), Some("ok {}"));
}

#[test]
fn modified_utf8_nul_is_a_nul() {
    assert_eq!(events(&[b"\"a\xc0\x80b\""]), ["ok \"a\\u0000b\""]);
    assert_eq!(events(&[b"\"\xe9\""]), ["error JSON parse error, invalid UTF-8 sequence in string"]);
}

#[test]
fn depth_1024_is_accepted_and_1025_refused() {
    let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(one(&nest(1024))[0].starts_with("ok"));
    assert_eq!(one(&nest(1025)), ["error JSON nesting depth limit exceeded"]);
}

#[test]
fn the_token_limit_is_exact_and_the_rest_is_silent() {
    let limits = Limits { tokens: 5, ..Limits::default() };
    let mut framer = Framer::new(limits);
    assert!(matches!(framer.next(&mut &b"[1,2]"[..]), Some(Event::Message(Ok(_)))));
    let mut input = &b"[1,2,3,4,5,6]{}"[..];
    assert!(matches!(framer.next(&mut input), Some(Event::Message(Err(_)))));
    assert!(matches!(framer.next(&mut input), Some(Event::Message(Ok(_)))));
}

#[test]
fn an_endless_string_is_cut_at_the_byte_limit_and_holds_no_memory() {
    let mut framer = Framer::new(Limits { bytes: 1 << 20, ..Limits::default() });
    assert!(framer.next(&mut &b"{\"a\":\""[..]).is_none());
    let block = vec![b'x'; 64 << 10];
    let mut errors = 0;
    for _ in 0..100 {
        errors += usize::from(framer.next(&mut &block[..]).is_some());
    }
    assert_eq!(errors, 1);
    assert!(framer.footprint() < 4096, "{}", framer.footprint());
    assert!(matches!(framer.next(&mut &b"\xff"[..]), Some(Event::Reset(None))));
}

#[test]
fn white_space_takes_no_memory() {
    let mut framer = Framer::default();
    assert!(framer.next(&mut &b"{"[..]).is_none());
    let blank = vec![b' '; 1 << 20];
    for _ in 0..10 {
        assert!(framer.next(&mut &blank[..]).is_none());
    }
    assert!(framer.footprint() < 4096, "{}", framer.footprint());
    assert!(framer.next(&mut &b"}"[..]).is_some());
}

#[test]
fn many_keys_are_compared_in_linear_time() {
    let members: Vec<_> = (0..50_000).map(|i| format!("\"k{i}\":{i}")).collect();
    let text = format!("{{{}}}", members.join(","));
    assert!(one(&text)[0].starts_with("ok"));
    let twice = format!("{{{},\"k77\":1}}", members.join(","));
    assert_eq!(one(&twice), ["error JSON parse error, duplicate key"]);
}

fn bytes_of_messages() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"{\"execute\":\"guest-ping\"}"[..]),
        Just(&b"{\"execute\":\"guest-sync\",\"arguments\":{\"id\":-12}}\n"[..]),
        Just(&b"'\\u00e9\\ud83d\\ude00\\n'"[..]),
        Just(&b"[1.5e3,tru"[..]),
        Just(&b"]}"[..]),
        Just(&b"\xff"[..]),
        Just(&b"{\"a\":\"\\u12"[..]),
        Just(&b"\"\\"[..]),
        Just(&b"@"[..]),
        Just(&b"\n"[..]),
        Just(&b"\xc3\xa9\xc0\x80"[..]),
    ];
    let raw = proptest::collection::vec(any::<u8>(), 0..12);
    let piece = prop_oneof![4 => piece.prop_map(<[u8]>::to_vec), 1 => raw];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(bytes in bytes_of_messages(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.push(0);
        at.push(bytes.len());
        at.sort_unstable();
        let pieces: Vec<_> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(events(&pieces), events(&[&bytes]));
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(events(&single), events(&[&bytes]));
    }

    #[test]
    fn what_serde_json_writes_we_read(text in ".*", int in any::<i64>()) {
        let source = serde_json::json!({ "t": text, "i": int });
        let seen = one(&source.to_string());
        let back: serde_json::Value = serde_json::from_str(seen[0].strip_prefix("ok ").expect("ok")).expect("JSON");
        prop_assert_eq!(back, source);
    }

    #[test]
    fn doubles_come_back_exactly(number in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
        let seen = one(&format!("{number:?} "));
        let back: f64 = seen[0].strip_prefix("ok ").expect("ok").parse().expect("a number");
        prop_assert_eq!(back.to_bits(), number.to_bits());
    }
}

#[test]
fn a_limit_above_what_the_parser_can_number_is_lowered() {
    let mut framer = Framer::new(Limits { bytes: usize::MAX, ..Limits::default() });
    assert_eq!(framer.limits.bytes, Limits::MOST_BYTES);
    framer.set_limits(Limits { bytes: usize::MAX, ..Limits::default() });
    assert_eq!(framer.limits.bytes, Limits::MOST_BYTES);
    const { assert!(Limits::MOST_BYTES < u32::MAX as usize) };
}

#[test]
fn the_beginning_of_a_secret_is_not_kept_longer_than_its_message() {
    let mut framer = Framer::default();
    // In two reads, so that it is kept to be named in an error.
    let (left, right) = ("{\"password\":\"S3C", "R3T and more\"}");
    assert!(framer.next(&mut left.as_bytes()).is_none());
    assert_ne!(framer.lexer.kept(), b"");
    assert!(matches!(framer.next(&mut right.as_bytes()), Some(Event::Message(Ok(_)))));
    assert_eq!(framer.lexer.kept(), b"");
    assert!(framer.next(&mut left.as_bytes()).is_none());
    assert!(matches!(framer.next(&mut b"\xff".as_slice()), Some(Event::Reset(Some(_)))));
    assert_eq!(framer.lexer.kept(), b"");
}
