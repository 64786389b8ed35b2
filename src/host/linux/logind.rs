//! Sessions and power by systemd-logind or elogind: org.freedesktop.login1(5), over D-Bus.
//!
//! Each conversation is a connection of its own with a deadline for the whole of it; between them
//! nothing is kept. Without the feature `logind` there is none to be found.

use std::time::Duration;

/// A session of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The name of the user.
    pub user: String,
    /// When the session began, since 1970.
    pub since: Duration,
}

/// What logind can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End everything and switch off.
    PowerOff,
    /// End everything and start anew.
    Reboot,
    /// End everything and stay switched on.
    Halt,
    /// Suspend to memory.
    Suspend,
    /// Suspend to disk.
    Hibernate,
    /// Suspend to both.
    HybridSleep,
}

impl Action {
    /// The method; that which asks whether it is possible has `Can` before it.
    #[cfg_attr(not(feature = "logind"), allow(dead_code, reason = "nobody to ask"))]
    fn method(self) -> &'static str {
        match self {
            Action::PowerOff => "PowerOff",
            Action::Reboot => "Reboot",
            Action::Halt => "Halt",
            Action::Suspend => "Suspend",
            Action::Hibernate => "Hibernate",
            Action::HybridSleep => "HybridSleep",
        }
    }
}

/// Why logind did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It, or the bus, cannot be reached.
    #[error("cannot reach logind: {0}")]
    Unreachable(String),
    /// It answered no.
    #[error("logind refused: {0}")]
    Refused(String),
    /// It did not answer in time.
    #[error("logind did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

#[cfg(feature = "logind")]
pub use bus::Logind;
#[cfg(not(feature = "logind"))]
pub use nobody::Logind;

#[cfg(feature = "logind")]
mod bus {
    use std::collections::HashMap;
    use std::io;
    use std::path::PathBuf;
    use std::time::Duration;

    use serde::de::DeserializeOwned;
    use tokio::net::UnixStream;
    use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue};
    use zbus::{Connection, connection};

    use super::{Action, Failure, Session};
    use crate::host::Host;

    const SOCKET: &str = "/run/dbus/system_bus_socket";
    const OLD_SOCKET: &str = "/var/run/dbus/system_bus_socket";

    /// logind makes this directory, and sd_login(3) looks for it.
    const RUNNING: &str = "/run/systemd/seats";

    /// One file for each session. Which there are is not looked up here, only that there are any.
    const SESSIONS: &str = "/run/systemd/sessions";

    const SERVICE: &str = "org.freedesktop.login1";
    const MANAGER: &str = "/org/freedesktop/login1";
    const MANAGER_INTERFACE: &str = "org.freedesktop.login1.Manager";
    const SESSION_INTERFACE: &str = "org.freedesktop.login1.Session";
    const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

    /// A list that clients poll must not take longer (O11).
    const LIST_LIMIT: Duration = Duration::from_millis(700);

    /// D-Bus's usual limit for a call.
    const ACT_LIMIT: Duration = Duration::from_secs(25);

    /// A logind that seems to run.
    #[derive(Debug)]
    pub struct Logind {
        socket: PathBuf,
        limit: Option<Duration>,
        sessions: bool,
    }

    impl Logind {
        /// logind, when it runs and there is a bus. Costs two looks at the file system.
        pub fn find(host: &Host) -> Option<Logind> {
            let socket = match host.exists(SOCKET) {
                true => SOCKET,
                false if !host.has_one_run() && host.exists(OLD_SOCKET) => OLD_SOCKET,
                false => return None,
            };
            if !host.exists(RUNNING) {
                return None;
            }
            let sessions = host.list(SESSIONS).map_or(true, |names| !names.is_empty());
            Some(Logind { socket: host.path(socket), limit: None, sessions })
        }

        /// All conversations get this much time instead of the usual.
        #[must_use]
        pub fn limit(self, limit: Duration) -> Logind {
            Logind { limit: Some(limit), ..self }
        }

        /// Whether there are sessions of any kind.
        pub fn has_sessions(&self) -> bool {
            self.sessions
        }

        /// The sessions of people: no greeters, no managers, none that is closing.
        pub fn sessions(&self) -> Result<Vec<Session>, Failure> {
            self.talk(LIST_LIMIT, async |bus| {
                type Row = (String, u32, String, String, OwnedObjectPath);
                let rows: Vec<Row> = call(bus, MANAGER, MANAGER_INTERFACE, "ListSessions", &()).await?;
                let mut sessions = Vec::new();
                for (_, _, user, _, path) in rows {
                    // A session may have ended since.
                    let asked = call(bus, &path, PROPERTIES, "GetAll", &(SESSION_INTERFACE,)).await;
                    let Ok(properties) = asked else { continue };
                    sessions.extend(session(user, &properties));
                }
                Ok(sessions)
            })
        }

        /// Whether the machine can do that.
        pub fn can(&self, action: Action) -> Result<bool, Failure> {
            self.talk(ACT_LIMIT, async |bus| {
                let method = format!("Can{}", action.method());
                let answer: String = call(bus, MANAGER, MANAGER_INTERFACE, &method, &()).await?;
                // A challenge is for those who are not root.
                Ok(answer == "yes" || answer == "challenge")
            })
        }

        /// Has it done. Returns when it has begun.
        pub fn act(&self, action: Action) -> Result<(), Failure> {
            self.talk(ACT_LIMIT, async |bus| {
                let interactive = false;
                call(bus, MANAGER, MANAGER_INTERFACE, action.method(), &(interactive,)).await
            })
        }

        /// Connects, talks and hangs up. The runtime is this conversation's own, so whatever became
        /// of it, nothing of it is left.
        fn talk<T>(
            &self,
            limit: Duration,
            talk: impl AsyncFnOnce(&Connection) -> zbus::Result<T>,
        ) -> Result<T, Failure> {
            let limit = self.limit.unwrap_or(limit);
            let unreachable = |error: io::Error| Failure::Unreachable(error.to_string());
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(unreachable)?;
            let whole = async {
                let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
                let bus = connection::Builder::unix_stream(stream).build().await.map_err(failure)?;
                talk(&bus).await.map_err(failure)
            };
            runtime.block_on(async {
                let answer = tokio::time::timeout(limit, whole).await;
                answer.unwrap_or(Err(Failure::TimedOut(limit)))
            })
        }
    }

    async fn call<T: DeserializeOwned + zbus::zvariant::Type>(
        bus: &Connection,
        path: &str,
        interface: &str,
        method: &str,
        arguments: &(impl serde::Serialize + DynamicType),
    ) -> zbus::Result<T> {
        let reply = bus.call_method(Some(SERVICE), path, Some(interface), method, arguments).await?;
        reply.body().deserialize()
    }

    fn failure(error: zbus::Error) -> Failure {
        match error {
            zbus::Error::MethodError(name, text, _) => Failure::Refused(text.unwrap_or_else(|| name.to_string())),
            error => Failure::Unreachable(error.to_string()),
        }
    }

    fn session(user: String, properties: &HashMap<String, OwnedValue>) -> Option<Session> {
        let text = |name| properties.get(name).and_then(|value| value.downcast_ref::<&str>().ok());
        let class = text("Class").unwrap_or("user");
        if !class.starts_with("user") || text("State") == Some("closing") || user.is_empty() {
            return None;
        }
        let micros = properties.get("Timestamp")?.downcast_ref::<u64>().ok()?;
        Some(Session { user, since: Duration::from_micros(micros) })
    }
}

#[cfg(not(feature = "logind"))]
mod nobody {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::{Action, Failure, Session};
    use crate::host::Host;

    /// Built without D-Bus: there is never one.
    #[derive(Debug)]
    pub struct Logind(Infallible);

    impl Logind {
        /// Never finds one.
        pub fn find(_: &Host) -> Option<Logind> {
            None
        }

        /// Cannot be called.
        #[must_use]
        pub fn limit(self, _: Duration) -> Logind {
            self
        }

        /// Cannot be called.
        pub fn has_sessions(&self) -> bool {
            match self.0 {}
        }

        /// Cannot be called.
        pub fn sessions(&self) -> Result<Vec<Session>, Failure> {
            match self.0 {}
        }

        /// Cannot be called.
        pub fn can(&self, _: Action) -> Result<bool, Failure> {
            match self.0 {}
        }

        /// Cannot be called.
        pub fn act(&self, _: Action) -> Result<(), Failure> {
            match self.0 {}
        }
    }
}

#[cfg(all(test, feature = "logind"))]
pub(crate) mod tests;
