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

/// A key is one line that sshd reads as one.
///
/// Behind the last one there may be empty ones: `virsh set-user-sshkeys` makes one of the newline
/// at the end of its file.
fn checked(keys: &[&str]) -> Result<Vec<String>> {
    let last = keys.iter().rposition(|key| !key.is_empty());
    let keys = last.map_or(keys, |last| &keys[..=last]);
    let is_key = |key: &str| {
        let text = key.trim();
        !text.is_empty() && !text.starts_with('#') && !key.contains(['\n', '\r', '\0'])
    };
    match keys.iter().find(|key| !is_key(key)) {
        Some(key) => Err(Error::new(format!("invalid OpenSSH public key: '{}'", echo(key)))),
        None => Ok(keys.iter().map(|key| (*key).to_owned()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::commands::testing::{self, call};
    use crate::host::Host;

    #[test]
    fn bad_keys_are_refused_before_anything_is_done() {
        let agent = testing::agent(Host::real(), testing::config());
        for key in [" ", "#x", " # x", "a\nb", "a\r", "a\0b"] {
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

    #[test]
    fn virsh_sends_an_empty_key_for_the_end_of_its_file() {
        assert_eq!(
            super::checked(&["ssh-rsa AAAA", "ssh-rsa BBBB", ""]),
            Ok(vec!["ssh-rsa AAAA".into(), "ssh-rsa BBBB".into()])
        );
        assert_eq!(super::checked(&[]), Ok(Vec::new()), "to reset only");
    }
}
