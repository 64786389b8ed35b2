//! SSH keys of users: `guest-ssh-get-authorized-keys`, `guest-ssh-add-authorized-keys` and
//! `guest-ssh-remove-authorized-keys`.

use serde::{Deserialize, Serialize};

use super::{Command, Ctx, Empty};
use crate::host::linux::authorized_keys::{Action, worker};
use crate::log::AUDIT;
use crate::protocol::error::{Error, Result, echo};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-ssh-get-authorized-keys", |cx, a| cx.call(get, a)),
    Command::new("guest-ssh-add-authorized-keys", |cx, a| cx.call(add, a)),
    Command::new("guest-ssh-remove-authorized-keys", |cx, a| cx.call(remove, a)),
];

#[derive(Deserialize)]
struct Get<'a> {
    username: &'a str,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct Add<'a> {
    username: &'a str,
    #[serde(borrow)]
    keys: Vec<&'a str>,
    reset: Option<bool>,
}

#[derive(Deserialize)]
struct Remove<'a> {
    username: &'a str,
    #[serde(borrow)]
    keys: Vec<&'a str>,
}

/// Lists a user's keys in the order of the file. A missing file is an error.
fn get(_: &Ctx<'_>, args: Get<'_>) -> Result<Keys> {
    Ok(Keys { keys: act(args.username, Action::Get)? })
}

/// Adds keys that are not there yet; with `reset` all others go.
fn add(_: &Ctx<'_>, args: Add<'_>) -> Result<Empty> {
    let keys = checked(&args.keys)?;
    act(args.username, Action::Add { keys, reset: args.reset.unwrap_or(false) })?;
    Ok(Empty {})
}

/// Removes keys; those that are not there are no error.
fn remove(_: &Ctx<'_>, args: Remove<'_>) -> Result<Empty> {
    act(args.username, Action::Remove { keys: checked(&args.keys)? })?;
    Ok(Empty {})
}

fn act(user: &str, action: Action) -> Result<Vec<String>> {
    if user.contains('\0') {
        return Err(Error::new("failed to lookup user: the name has a NUL in it"));
    }
    if !matches!(action, Action::Get) {
        tracing::info!(target: AUDIT, "guest-ssh-authorized-keys called: keys of user {:?} change", echo(user));
    }
    worker::run(user, action).map_err(Error::new)
}

/// A key is one line that sshd reads as one, without what was behind it in a file: a line end, and
/// blanks.
///
/// Behind the last one there may be empty ones: `virsh set-user-sshkeys` makes one of the newline
/// at the end of its file.
fn checked(keys: &[&str]) -> Result<Vec<String>> {
    let lines: Vec<&str> = keys.iter().map(|key| without_end(key)).collect();
    let last = lines.iter().rposition(|line| !line.is_empty());
    let count = last.map_or(keys.len(), |last| last + 1);
    let is_key = |line: &str| {
        let text = line.trim_start();
        !text.is_empty() && !text.starts_with('#') && !line.contains(['\n', '\r', '\0'])
    };
    match lines[..count].iter().position(|line| !is_key(line)) {
        Some(bad) => Err(Error::new(format!("invalid OpenSSH public key: '{}'", echo(keys[bad])))),
        None => Ok(lines[..count].iter().map(|&line| line.to_owned()).collect()),
    }
}

/// Takes one line end off (LF, CR LF, CR), and blanks around it.
fn without_end(key: &str) -> &str {
    let blanks = [' ', '\t'];
    let line = key.trim_end_matches(blanks);
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line).trim_end_matches(blanks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use crate::commands::testing::{self, call};
    use crate::host::Host;

    #[test]
    fn bad_keys_are_refused_before_anything_is_done() {
        let agent = testing::agent(Host::real(), testing::config());
        for key in ["#x", " # x", "a\nb", "a\n\n", "a\rb", "a\0b", "a\0", "#x\r\n"] {
            for command in ["guest-ssh-add-authorized-keys", "guest-ssh-remove-authorized-keys"] {
                let args = json!({"username": "nosuchuser-zz", "keys": ["ssh-rsa AAAA", key]});
                let expected = format!("invalid OpenSSH public key: '{key}'");
                assert_eq!(call(&agent, command, args), Err(expected));
            }
        }
        for keys in [&[""][..], &["", ""], &["", "ssh-rsa AAAA"], &["ssh-rsa AAAA", "", "ssh-rsa BBBB"]] {
            let args = json!({"username": "nosuchuser-zz", "keys": keys});
            let error = call(&agent, "guest-ssh-add-authorized-keys", args);
            assert_eq!(error, Err("invalid OpenSSH public key: ''".to_owned()), "{keys:?}");
        }
    }

    /// As clients send them that read a file line by line, or one that Windows wrote.
    #[test]
    fn keys_with_their_line_ends_are_taken_without() {
        let keys = ["ssh-rsa AAAA a\r", "ssh-rsa BBBB b\r", ""];
        assert_eq!(super::checked(&keys), Ok(vec!["ssh-rsa AAAA a".into(), "ssh-rsa BBBB b".into()]));
        assert_eq!(super::checked(&["ssh-rsa AAAA a\n"]), Ok(vec!["ssh-rsa AAAA a".into()]));
        assert!(super::checked(&["ssh-rsa AAAA \t\r\n \n"]).is_err(), "two lines");
        assert!(super::checked(&["ssh-rsa AAAA", "\n", "ssh-rsa BBBB"]).is_err(), "an empty line");
        assert_eq!(super::checked(&["ssh-rsa AAAA", "\r\n"]), Ok(vec!["ssh-rsa AAAA".into()]), "the last one");
    }

    proptest! {
        #[test]
        fn line_ends_and_blanks_make_no_other_keys(
            list in prop::collection::vec(("[!-~]([ -~]{0,40}[!-~])?", "[ \t]{0,3}", "(\n|\r\n|\r)?", "[ \t]{0,3}"), 0..8),
            empty in 0..3_usize,
        ) {
            let list: Vec<_> = list.into_iter().filter(|(key, ..)| !key.starts_with('#')).collect();
            let plain: Vec<String> = list.iter().map(|(key, ..)| key.clone()).collect();
            let mut sent: Vec<String> = list.into_iter().map(|(key, a, end, b)| key + &a + &end + &b).collect();
            if !sent.is_empty() {
                sent.extend(vec![String::new(); empty]);
            }
            let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
            prop_assert_eq!(super::checked(&sent), Ok(plain));
        }
    }

    #[test]
    fn virsh_sends_an_empty_key_for_the_end_of_its_file() {
        assert_eq!(
            super::checked(&["ssh-rsa AAAA", "ssh-rsa BBBB", ""]),
            Ok(vec!["ssh-rsa AAAA".into(), "ssh-rsa BBBB".into()])
        );
        assert_eq!(super::checked(&[]), Ok(Vec::new()), "to reset only");
    }
}
