use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_core::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use zbus::message::Type;
use zbus::zvariant::{ObjectPath, Value};
use zbus::{Connection, Message, MessageStream, connection};

use super::*;
use crate::host::Host;
use crate::host::fake::FakeKernel;

/// A message bus with a logind, as far as we use them.
pub(crate) struct Bus {
    root: std::path::PathBuf,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    sessions: Vec<(String, String, u64, String, String)>,
    /// What `CanX` answers; `na` when not said.
    can: HashMap<String, String>,
    refuse: Option<String>,
    silent: bool,
    calls: Vec<String>,
}

impl Bus {
    /// Serves below this root, until dropped.
    pub(crate) fn start(root: &Path) -> Bus {
        for dir in ["run/dbus", "run/systemd/seats", "run/systemd/sessions"] {
            fs::create_dir_all(root.join(dir)).expect("directory");
        }
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let socket = root.join("run/dbus/system_bus_socket");
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(async {
                let listener = UnixListener::bind(socket).expect("socket");
                ready.send(()).expect("the test waits");
                tokio::select! {
                    () = accept(&listener, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().expect("the bus starts");
        Bus { root: root.to_owned(), state, stop: Some(stop), thread: Some(thread) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding this")
    }

    /// Adds a session: its name, user, start in microseconds, class and state.
    pub(crate) fn session(&self, id: &str, user: &str, since: u64, class: &str, state: &str) {
        fs::write(self.root.join("run/systemd/sessions").join(id), "").expect("file");
        let text = str::to_owned;
        self.state().sessions.push((text(id), text(user), since, text(class), text(state)));
    }

    pub(crate) fn can(&self, action: &str, answer: &str) {
        self.state().can.insert(format!("Can{action}"), answer.to_owned());
    }

    /// From now on every action is refused.
    pub(crate) fn refuse(&self, text: &str) {
        self.state().refuse = Some(text.to_owned());
    }

    /// From now on nothing is answered.
    pub(crate) fn fall_silent(&self) {
        self.state().silent = true;
    }

    /// What was asked, without what only connects and looks.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the bus ends");
        }
    }
}

async fn accept(listener: &UnixListener, state: &Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        tokio::spawn(serve(stream, Arc::clone(state)));
    }
}

async fn serve(stream: UnixStream, state: Arc<Mutex<State>>) -> zbus::Result<()> {
    if state.lock().expect("nobody panics while holding this").silent {
        return std::future::pending().await;
    }
    let bus = connection::Builder::unix_stream(stream).server(zbus::Guid::generate())?.p2p();
    let bus = bus.build().await?;
    let mut messages = std::pin::pin!(MessageStream::from(&bus));
    while let Some(message) = std::future::poll_fn(|cx| messages.as_mut().poll_next(cx)).await {
        let message = message?;
        if message.message_type() == Type::MethodCall {
            answer(&bus, &message, &state).await?;
        }
    }
    Ok(())
}

async fn answer(bus: &Connection, message: &Message, state: &Mutex<State>) -> zbus::Result<()> {
    let header = message.header();
    let member = header.member().expect("a call has one").as_str();
    let path = header.path().expect("a call has one").as_str();
    if member == "Hello" {
        return bus.reply(&header, &":1.7").await;
    }
    assert_eq!(header.destination().map(|name| name.as_str()), Some("org.freedesktop.login1"));
    enum Reply {
        Sessions(Vec<(String, u32, String, String, ObjectPath<'static>)>),
        Properties(HashMap<&'static str, Value<'static>>),
        Text(String),
        Refusal(String),
        Done,
    }
    let object = |id: &str| format!("/org/freedesktop/login1/session/_{id}");
    let reply = {
        let mut state = state.lock().expect("nobody panics while holding this");
        match member {
            "ListSessions" => Reply::Sessions(
                state
                    .sessions
                    .iter()
                    .map(|(id, user, ..)| {
                        let path = ObjectPath::try_from(object(id)).expect("a path");
                        (id.clone(), 1000, user.clone(), String::new(), path)
                    })
                    .collect(),
            ),
            "GetAll" => match state.sessions.iter().find(|(id, ..)| object(id) == path) {
                Some((_, user, since, class, _)) if class != "vanished" => {
                    let found = state.sessions.iter().find(|(id, ..)| object(id) == path);
                    let state = found.map(|(.., state)| state.clone()).unwrap_or_default();
                    Reply::Properties(HashMap::from([
                        ("Name", Value::from(user.clone())),
                        ("Timestamp", Value::from(*since)),
                        ("Class", Value::from(class.clone())),
                        ("State", Value::from(state)),
                    ]))
                }
                _ => Reply::Refusal("Unknown object".to_owned()),
            },
            _ if member.starts_with("Can") => {
                Reply::Text(state.can.get(member).cloned().unwrap_or_else(|| "na".to_owned()))
            }
            _ => {
                let interactive: bool = message.body().deserialize()?;
                state.calls.push(format!("{member}({interactive})"));
                state.refuse.clone().map_or(Reply::Done, Reply::Refusal)
            }
        }
    };
    match reply {
        Reply::Sessions(rows) => bus.reply(&header, &rows).await,
        Reply::Properties(properties) => bus.reply(&header, &properties).await,
        Reply::Text(text) => bus.reply(&header, &text).await,
        Reply::Refusal(text) => bus.reply_error(&header, "org.freedesktop.DBus.Error.AccessDenied", &text).await,
        Reply::Done => bus.reply(&header, &()).await,
    }
}

fn machine() -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    (dir, host)
}

#[test]
fn without_logind_there_is_nothing_to_ask() {
    let (dir, host) = machine();
    assert!(Logind::find(&host).is_none());
    fs::create_dir_all(dir.path().join("run/systemd/seats")).expect("directory");
    assert!(Logind::find(&host).is_none(), "no bus");
}

#[test]
fn only_sessions_of_people_that_last_are_listed() {
    let (dir, host) = machine();
    let bus = Bus::start(dir.path());
    bus.session("1", "ann", 1_700_000_000_000_001, "user", "active");
    bus.session("2", "bob", 2, "user-early", "online");
    bus.session("3", "gdm", 3, "greeter", "active");
    bus.session("4", "ann", 4, "manager", "active");
    bus.session("5", "eve", 5, "user", "closing");
    bus.session("6", "cron", 6, "background", "active");
    bus.session("7", "gone", 7, "vanished", "active");
    let sessions = Logind::find(&host).expect("logind").sessions().expect("sessions");
    let session = |user: &str, micros| Session { user: user.to_owned(), since: Duration::from_micros(micros) };
    assert_eq!(sessions, [session("ann", 1_700_000_000_000_001), session("bob", 2)]);
}

#[test]
fn with_no_session_file_the_bus_is_not_bothered() {
    let (dir, host) = machine();
    let bus = Bus::start(dir.path());
    bus.fall_silent();
    assert!(!Logind::find(&host).expect("logind").has_sessions());
}

#[test]
fn a_silent_bus_is_given_up() {
    let (dir, host) = machine();
    let bus = Bus::start(dir.path());
    bus.session("1", "ann", 1, "user", "active");
    bus.fall_silent();
    let limit = Duration::from_millis(50);
    let logind = Logind::find(&host).expect("logind").limit(limit);
    let started = Instant::now();
    assert_eq!(logind.sessions(), Err(Failure::TimedOut(limit)));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn actions_are_not_interactive() {
    let (dir, host) = machine();
    let bus = Bus::start(dir.path());
    bus.can("Suspend", "yes");
    bus.can("Hibernate", "challenge");
    bus.can("HybridSleep", "no");
    let logind = Logind::find(&host).expect("logind");
    assert_eq!(logind.can(Action::Suspend), Ok(true));
    assert_eq!(logind.can(Action::Hibernate), Ok(true));
    assert_eq!(logind.can(Action::HybridSleep), Ok(false));
    assert_eq!(logind.can(Action::Halt), Ok(false), "na");
    assert_eq!(logind.act(Action::PowerOff), Ok(()));
    assert_eq!(bus.calls(), ["PowerOff(false)"]);
    bus.refuse("inhibited");
    assert_eq!(logind.act(Action::Reboot), Err(Failure::Refused("inhibited".to_owned())));
}

#[test]
fn what_is_no_bus_is_an_error() {
    let (dir, host) = machine();
    fs::create_dir_all(dir.path().join("run/systemd/seats")).expect("directory");
    fs::create_dir_all(dir.path().join("run/dbus")).expect("directory");
    fs::write(dir.path().join("run/dbus/system_bus_socket"), "").expect("file");
    let logind = Logind::find(&host).expect("it looks like one");
    assert!(matches!(logind.act(Action::PowerOff), Err(Failure::Unreachable(_))));
}
