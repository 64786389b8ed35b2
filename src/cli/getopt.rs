//! GNU getopt's reading of an argument vector: grouped short options, values attached or not,
//! options after operands, abbreviated long options, and its complaints to the letter.
//!
//! Scripts and units have been written against getopt for years; clap alone differs in the details
//! (`-F /x`, `--s`, `--ver`, the order in which `-V -h` act). So the words are read here, in order, and
//! clap, whose definitions serve as the table, gets them spelled out in full.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

/// The long options that may be abbreviated: those of the stock agent and no others, because every
/// name added here could make an abbreviation ambiguous that works today. Complaints list the
/// candidates in this order.
const ABBREVIABLE: [&str; 15] = [
    "help",
    "version",
    "dump-conf",
    "logfile",
    "pidfile",
    "fsfreeze-hook",
    "verbose",
    "method",
    "path",
    "daemonize",
    "block-rpcs",
    "allow-rpcs",
    "statedir",
    "retry-path",
    "config",
];

/// One thing met on the command line. Operands are dropped: the agent takes none.
#[derive(Debug)]
pub(super) enum Given<'a> {
    /// An option, with its value if it has one.
    Option(&'a Arg, Option<OsString>),
    /// Something getopt refuses, in its words but without the program's name.
    Complaint(String),
}

/// Whether an option takes a value.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    /// A value, attached or in the next word.
    Value,
    /// A value only if it is attached.
    AttachedValue,
}

/// Reads `words`, the argument vector without the program's name, against the options of `command`
/// (which must have been built). With `posix` the first operand ends the options.
pub(super) fn scan<'a>(command: &'a Command, words: impl IntoIterator<Item = OsString>, posix: bool) -> Vec<Given<'a>> {
    let mut given = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => break,
            [b'-', b'-', name @ ..] => given.push(long(command, name, &mut words)),
            [b'-', group @ ..] if !group.is_empty() => short(command, group, &mut words, &mut given),
            _operand if posix => break,
            _operand => {}
        }
    }
    given
}

/// Reads `--name` or `--name=value`; `word` is what follows the dashes.
fn long<'a>(command: &'a Command, word: &[u8], words: &mut impl Iterator<Item = OsString>) -> Given<'a> {
    let text = String::from_utf8_lossy(word);
    let (name, value) = match word.iter().position(|&byte| byte == b'=') {
        Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]).to_owned())),
        None => (word, None),
    };
    let (arg, name) = match &find_long(command, name)[..] {
        [] => return Given::Complaint(format!("unrecognized option '--{text}'")),
        [arg] => (*arg, arg.get_long().unwrap_or_default()),
        several => {
            let names: String = several.iter().filter_map(|arg| Some(format!(" '--{}'", arg.get_long()?))).collect();
            return Given::Complaint(format!("option '--{text}' is ambiguous; possibilities:{names}"));
        }
    };
    match (takes(arg), value) {
        (Takes::Nothing, Some(_)) => Given::Complaint(format!("option '--{name}' doesn't allow an argument")),
        (Takes::Value, None) => match words.next() {
            Some(value) => Given::Option(arg, Some(value)),
            None => Given::Complaint(format!("option '--{name}' requires an argument")),
        },
        (_, value) => Given::Option(arg, value),
    }
}

/// The options that `name` may mean: the one so called, else those it abbreviates.
fn find_long<'a>(command: &'a Command, name: &[u8]) -> Vec<&'a Arg> {
    let by_name =
        |name: &[u8]| command.get_arguments().find(|arg| arg.get_long().is_some_and(|long| long.as_bytes() == name));
    match by_name(name) {
        Some(arg) => vec![arg],
        None => {
            let full = ABBREVIABLE.iter().map(|full| full.as_bytes()).filter(|full| full.starts_with(name));
            full.filter_map(by_name).collect()
        }
    }
}

/// Reads the letters behind one dash.
fn short<'a>(
    command: &'a Command,
    group: &[u8],
    words: &mut impl Iterator<Item = OsString>,
    given: &mut Vec<Given<'a>>,
) {
    for (at, &byte) in group.iter().enumerate() {
        let letter = char::from(byte);
        let Some(arg) = command.get_arguments().find(|arg| arg.get_short() == Some(letter)) else {
            let letter = String::from_utf8_lossy(&group[at..]).chars().next().unwrap_or(letter);
            given.push(Given::Complaint(format!("invalid option -- '{letter}'")));
            continue;
        };
        let rest = &group[at + 1..];
        let attached = (!rest.is_empty()).then(|| OsString::from_vec(rest.to_vec()));
        let value = match takes(arg) {
            Takes::Nothing => {
                given.push(Given::Option(arg, None));
                continue;
            }
            Takes::AttachedValue => attached,
            Takes::Value => match attached.or_else(|| words.next()) {
                Some(value) => Some(value),
                None => {
                    given.push(Given::Complaint(format!("option requires an argument -- '{letter}'")));
                    return;
                }
            },
        };
        // What was left of the group is the value.
        given.push(Given::Option(arg, value));
        return;
    }
}

fn takes(arg: &Arg) -> Takes {
    match arg.get_num_args() {
        Some(range) if !range.takes_values() => Takes::Nothing,
        Some(range) if range.min_values() == 0 => Takes::AttachedValue,
        _ => Takes::Value,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::ArgAction;
    use proptest::prelude::*;

    fn command() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let mut command = Command::new("t")
            .disable_help_flag(true)
            .disable_version_flag(true)
            .arg(flag("verbose").short('v'))
            .arg(flag("version").short('V'))
            .arg(flag("verify"))
            .arg(Arg::new("path").long("path").short('p'))
            .arg(Arg::new("fsfreeze-hook").long("fsfreeze-hook").short('F').num_args(0..=1).require_equals(true));
        command.build();
        command
    }

    /// What was read, written as one line.
    fn read(words: &[&str], posix: bool) -> String {
        let command = command();
        let given = scan(&command, words.iter().map(OsString::from), posix);
        let one = |given: &Given| match given {
            Given::Option(arg, None) => arg.get_id().to_string(),
            Given::Option(arg, Some(value)) => format!("{}={}", arg.get_id(), value.to_string_lossy()),
            Given::Complaint(text) => format!("<{text}>"),
        };
        given.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn values_are_found_attached_and_in_the_next_word() {
        assert_eq!(
            read(&["-p/x", "-p", "-v", "--path", "--", "--path=", "-vp="], false),
            "path=/x path=-v path=-- path= verbose path=="
        );
    }

    #[test]
    fn an_optional_value_must_be_attached() {
        let words = ["-F", "/x", "-F/x", "-vF/y", "--fsfreeze-hook", "/z", "--fsfreeze-hook=", "--f=/q"];
        let hooks =
            "fsfreeze-hook fsfreeze-hook=/x verbose fsfreeze-hook=/y fsfreeze-hook fsfreeze-hook= fsfreeze-hook=/q";
        assert_eq!(read(&words, false), hooks);
    }

    #[test]
    fn operands_end_the_options_only_for_posix() {
        assert_eq!(read(&["a", "-v", "-", "-V", "--", "-v"], false), "verbose version");
        assert_eq!(read(&["-v", "a", "-V"], true), "verbose");
    }

    #[test]
    fn abbreviations_work_unless_ambiguous() {
        assert_eq!(read(&["--verb", "--pat=1", "--vers"], false), "verbose path=1 version");
        assert_eq!(read(&["--ver"], false), "<option '--ver' is ambiguous; possibilities: '--version' '--verbose'>");
        assert_eq!(read(&["--verif"], false), "<unrecognized option '--verif'>");
        assert_eq!(read(&["--verify"], false), "verify");
    }

    #[test]
    fn complaints_are_those_of_getopt() {
        assert_eq!(read(&["--foo=1"], false), "<unrecognized option '--foo=1'>");
        assert_eq!(read(&["-vZV"], false), "verbose <invalid option -- 'Z'> version");
        assert_eq!(read(&["-p"], false), "<option requires an argument -- 'p'>");
        assert_eq!(read(&["--pa"], false), "<option '--path' requires an argument>");
        assert_eq!(read(&["--verbo=1"], false), "<option '--verbose' doesn't allow an argument>");
    }

    proptest! {
        #[test]
        fn no_words_panic(words: Vec<Vec<u8>>, posix: bool) {
            scan(&command(), words.into_iter().map(OsString::from_vec), posix);
        }
    }
}
