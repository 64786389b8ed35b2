//! The environment of programs: ours, and what a person expects to be there.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::unistd::{User, geteuid};

/// Where a login of root looks for programs.
const FULL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What service managers tell the agent, and nobody else.
const OURS_ALONE: [&str; 7] =
    ["NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// `NAME=value`, one after the other. Made once: ours does not change after the start.
pub(super) fn environment() -> impl Iterator<Item = Vec<u8>> {
    static ENVIRONMENT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let made = ENVIRONMENT.get_or_init(|| {
        let inherited = std::env::vars_os().filter(|(name, _)| OURS_ALONE.iter().all(|ours| name != ours));
        let entry = |(name, value): (OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        complete(inherited.collect(), &account()).into_iter().map(entry).collect()
    });
    made.iter().cloned()
}

/// Adds what is missing. A `PATH` that is there keeps its order and gets the directories it lacks.
fn complete(mut inherited: Vec<(OsString, OsString)>, account: &[(&str, OsString)]) -> Vec<(OsString, OsString)> {
    for (name, value) in account {
        if !inherited.iter().any(|(there, _)| there == name) {
            inherited.push(((*name).into(), value.clone()));
        }
    }
    let Some((_, path)) = inherited.iter_mut().find(|(name, _)| name == "PATH") else {
        inherited.push(("PATH".into(), FULL_PATH.into()));
        return inherited;
    };
    let mut text = std::mem::take(path).into_vec();
    let there: Vec<PathBuf> = std::env::split_paths(&OsString::from_vec(text.clone())).collect();
    for dir in FULL_PATH.split(':').filter(|dir| !there.iter().any(|there| there.as_os_str() == *dir)) {
        if !text.is_empty() {
            text.push(b':');
        }
        text.extend_from_slice(dir.as_bytes());
    }
    *path = OsString::from_vec(text);
    inherited
}

/// The variables of the account that the agent runs as, which a name service may have to answer.
fn account() -> Vec<(&'static str, OsString)> {
    let uid = geteuid();
    let (name, home, shell) = match User::from_uid(uid) {
        Ok(Some(user)) => (user.name.into(), user.dir.into_os_string(), user.shell.into_os_string()),
        // Images without accounts have a root all the same.
        _ if uid.is_root() => (OsString::from("root"), "/root".into(), "/bin/sh".into()),
        _ => return Vec::new(),
    };
    let shell = if shell.is_empty() { "/bin/sh".into() } else { shell };
    vec![("HOME", home), ("USER", name.clone()), ("LOGNAME", name), ("SHELL", shell)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(inherited: &[(&str, &str)]) -> Vec<String> {
        let inherited = inherited.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let account = [("HOME", "/root".into()), ("USER", "root".into())];
        let text =
            |(name, value): (OsString, OsString)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
        complete(inherited, &account).into_iter().map(text).collect()
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_there_stays() {
        let path = format!("PATH={FULL_PATH}");
        assert_eq!(completed(&[]), ["HOME=/root", "USER=root", &path]);
        assert_eq!(completed(&[("USER", "x"), ("HOME", "")]), ["USER=x", "HOME=", &path]);
    }

    #[test]
    fn a_path_keeps_its_order_and_lacks_nothing() {
        let path = |path: &str| completed(&[("PATH", path)]).remove(0);
        assert_eq!(path(FULL_PATH), format!("PATH={FULL_PATH}"));
        assert_eq!(
            path("/opt/a:/bin:/usr/bin"),
            "PATH=/opt/a:/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"
        );
        assert_eq!(path(""), format!("PATH={FULL_PATH}"));
    }
}
