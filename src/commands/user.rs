//! Who is logged in.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::{Command, Ctx, Lane};
use crate::host::Host;
use crate::host::linux::logind::Logind;
use crate::host::linux::utmp;
use crate::protocol::args;
use crate::protocol::error::Result;

pub(super) const COMMANDS: &[Command] =
    &[Command::new("guest-get-users", |cx, a| cx.call(users, a)).lane(Lane::Prompt)];

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    user: String,
    /// Seconds since 1970, of the user's oldest session.
    login_time: f64,
}

/// The users with a session, each once. Never asks a name service (O11).
fn users(cx: &Ctx<'_>, _: args::Empty) -> Result<Vec<User>> {
    logged_in(cx.host)
}

/// From logind, since distributions give up utmp; and from utmp where there is one, since not
/// every login program talks to logind.
fn logged_in(host: &Host) -> Result<Vec<User>> {
    let sessions = match Logind::find(host).filter(Logind::has_sessions) {
        Some(logind) => host.may_wait().map(|()| logind.sessions())?,
        None => Ok(Vec::new()),
    };
    let sessions = sessions.unwrap_or_else(|failure| {
        tracing::warn!("no sessions from logind: {failure}");
        Vec::new()
    });
    let sessions = sessions.into_iter().map(|session| (session.user, session.since));
    let logins = utmp::logins(host).into_iter().map(|login| (login.user, login.since));
    Ok(oldest(sessions.chain(logins)))
}

/// One entry for each name, in order of appearance.
fn oldest(sessions: impl Iterator<Item = (String, Duration)>) -> Vec<User> {
    let mut places = HashMap::new();
    let mut users: Vec<User> = Vec::new();
    for (user, since) in sessions {
        let login_time = since.as_secs_f64();
        let place = *places.entry(user.clone()).or_insert(users.len());
        match users.get_mut(place) {
            Some(known) => known.login_time = known.login_time.min(login_time),
            None => users.push(User { user, login_time }),
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::fake::FakeKernel;
    use crate::protocol::reply;

    fn machine() -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().expect("directory");
        let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
        (dir, host)
    }

    fn write_utmp(host: &Host, records: &[(i16, &[u8], u32, u32)]) {
        fs::create_dir_all(host.path("/run")).expect("directory");
        fs::write(host.path("/run/utmp"), utmp::tests::file(records)).expect("file");
    }

    fn json(host: &Host) -> String {
        let mut out = Vec::new();
        reply::value(&mut out, &logged_in(host).expect("a list"));
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn without_any_source_nobody_is_logged_in() {
        let (_dir, host) = machine();
        assert_eq!(json(&host), "[]");
    }

    #[test]
    fn records_are_read_where_systems_without_run_have_them() {
        let (_dir, host) = machine();
        fs::create_dir_all(host.path("/var/run")).expect("directory");
        fs::write(host.path("/var/run/utmp"), utmp::tests::file(&[(7, b"ann", 7, 0)])).expect("file");
        assert_eq!(json(&host), r#"[{"user": "ann", "login-time": 7}]"#);
    }

    #[test]
    fn each_user_once_with_the_oldest_login() {
        let (_dir, host) = machine();
        let records: &[(i16, &[u8], u32, u32)] = &[
            (7, b"bob", 1_700_000_060, 0),
            (7, b"ann", 1_700_000_100, 0),
            (7, b"ann", 1_700_000_050, 250_000),
            (8, b"ann", 1, 0),
        ];
        write_utmp(&host, records);
        let expected = r#"[{"user": "bob", "login-time": 1700000060}, {"user": "ann", "login-time": 1700000050.25}]"#;
        assert_eq!(json(&host), expected);
    }

    #[cfg(feature = "logind")]
    mod with_logind {
        use super::*;
        use crate::host::linux::logind::tests::Bus;

        #[test]
        fn sessions_and_records_are_put_together() {
            let (dir, host) = machine();
            let bus = Bus::start(dir.path());
            bus.session("c1", "gdm", 5, "greeter", "active");
            bus.session("1", "ann", 1_700_000_200_000_000, "user", "active");
            bus.session("2", "ann", 1_700_000_100_500_000, "user", "online");
            write_utmp(&host, &[(7, b"ann", 1_700_000_150, 0), (7, b"telnet", 7, 0)]);
            let expected = r#"[{"user": "ann", "login-time": 1700000100.5}, {"user": "telnet", "login-time": 7}]"#;
            assert_eq!(json(&host), expected);
        }

        #[test]
        fn only_logind_has_to_be_waited_for() {
            let (dir, host) = machine();
            let bus = Bus::start(dir.path());
            // Read before, so that it is in memory where the file system can tell.
            write_utmp(&host, &[(7, b"ann", 7, 0)]);
            let hasty = host.in_haste();
            let told = logged_in(&hasty);
            if !hasty.take_refused() {
                assert_eq!(told.map(|users| users.len()), Ok(1));
            }
            bus.session("1", "ann", 1, "user", "active");
            let _ = logged_in(&hasty);
            assert!(hasty.take_refused());
        }

        #[test]
        fn a_bus_that_nobody_serves_leaves_utmp() {
            let (dir, host) = machine();
            let bus = Bus::start(dir.path());
            bus.session("1", "ann", 1, "user", "active");
            drop(bus);
            write_utmp(&host, &[(7, b"bob", 7, 0)]);
            assert_eq!(json(&host), r#"[{"user": "bob", "login-time": 7}]"#);
        }
    }
}
