//! The name of the distribution: os-release(5).

use std::collections::HashMap;

/// The assignments of a file, by name; the last one of a name counts.
///
/// Values are read as a shell would read them: quoted or not, in any mixture. Blanks around the `=`,
/// which a shell refuses, do no harm. A line that is no assignment is skipped by itself.
pub fn parse(text: &str) -> HashMap<&str, String> {
    text.lines().filter_map(assignment).collect()
}

fn assignment(line: &str) -> Option<(&str, String)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    Some((name, unquote(value.trim_start())?))
}

/// One word of a shell's assignment; `None` when a quotation mark has no partner.
fn unquote(text: &str) -> Option<String> {
    let mut word = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => loop {
                match rest.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match rest.next()? {
                    '"' => break,
                    '\\' => match rest.next()? {
                        // os-release(5) wants both kinds of quotation marks escaped.
                        c @ ('$' | '"' | '\'' | '\\' | '`') => word.push(c),
                        c => word.extend(['\\', c]),
                    },
                    c => word.push(c),
                }
            },
            '\\' => word.extend(rest.next()),
            ';' => break,
            c if c.is_ascii_whitespace() => break,
            c => word.push(c),
        }
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Option<String> {
        parse(text).remove("A")
    }

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        let cases = [
            ("A=plain", "plain"),
            ("A=", ""),
            ("A=\"\"", ""),
            ("A=\"two words; and more\"", "two words; and more"),
            ("A='Foo Bar; x'", "Foo Bar; x"),
            ("A='$HOME \\n'", "$HOME \\n"),
            (r#"A="\$\"\\\`\n""#, "$\"\\`\\n"),
            ("A=one' two'\" three\"", "one two three"),
            ("A=cut here", "cut"),
            ("A=cut;here", "cut"),
            ("A=a\\ b", "a b"),
            ("  A=indented\r", "indented"),
            ("A = spaced", "spaced"),
            ("A=\t\"spaced\" ", "spaced"),
            ("A=first\nA=second", "second"),
            ("A=a=b", "a=b"),
            ("A=\"Zażółć\"", "Zażółć"),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn an_apostrophe_in_double_quotes_may_be_escaped() {
        let text = r#"A="Unit test \"\'\$\`\\ and \\\" etc.""#;
        assert_eq!(value(text).as_deref(), Some(r#"Unit test "'$`\ and \" etc."#));
    }

    #[test]
    fn one_bad_line_spoils_no_other() {
        let text = "#comment=1\nnonsense\n=x\nB C=1\nA=\"open\nA=good\nA='open\n\u{fffd}\n";
        assert_eq!(value(text).as_deref(), Some("good"));
        assert_eq!(parse(text).len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(text in "[^'\r\n]{0,40}") {
            prop_assert_eq!(value(&format!("A='{text}'")), Some(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|[A='\"\\\\\n ;]){0,60}") {
            parse(&text);
        }
    }
}
