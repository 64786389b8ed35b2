//! The log: one line per event, `SECONDS.MICROS: level: text`, to stderr or a file.
//!
//! While file systems are frozen a line written anywhere could block for ever, and with it the agent
//! that has to thaw them. So the log can be put on [hold](LogControl::hold): lines are then kept in
//! memory and written when it is [released](LogControl::release).
//!
//! Events with the target [`AUDIT`] also go to syslog, where administrators look for what the host
//! has done.

mod excerpt;
mod ring;
mod sink;

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber, error, warn};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, registry};

pub use self::excerpt::excerpt;
use self::ring::{Entry, Ring};
use self::sink::{Sink, Syslog};
use crate::protocol::error::os_reason;

/// The target of events that record what the host made the agent do.
pub const AUDIT: &str = "audit";

/// A line buffer that grew beyond this is given back.
const USUAL_LINE: usize = 16 << 10;

/// Makes the log the receiver of all events of the process, panics included. It writes warnings and
/// errors to stderr until told otherwise.
pub fn init() -> LogControl {
    let (subscriber, control) = new(Sink::stderr(), Syslog::default());
    // Fails when there is a subscriber already: then this log stays silent, which harms nobody.
    let _ = set_global_default(subscriber);
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    control
}

/// A log that is not (yet) that of the process.
fn new(sink: Sink, syslog: Syslog) -> (impl Subscriber + Send + Sync, LogControl) {
    let writer = Writer { sink, syslog, line: Vec::new(), held: None, on_release: OnRelease::default() };
    let log = Arc::new(Log { verbose: AtomicBool::new(false), writer: Mutex::new(writer) });
    (registry().with(LogLayer(log.clone())), LogControl(log))
}

/// The handle by which the rest of the agent directs the log.
#[derive(Clone)]
pub struct LogControl(Arc<Log>);

impl LogControl {
    /// A log that is not that of the process, for tests.
    #[cfg(test)]
    pub(crate) fn detached() -> LogControl {
        new(Sink::stderr(), Syslog::default()).1
    }

    /// Writes everything, or only warnings and errors.
    pub fn set_verbose(&self, verbose: bool) {
        self.0.verbose.store(verbose, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// From now on appends to this file.
    pub fn open_file(&self, path: &Path) -> io::Result<()> {
        let sink = Sink::file(path)?;
        self.0.writer().sink = sink;
        Ok(())
    }

    /// Appends to this file from the next [release](LogControl::release) on.
    pub fn open_file_on_release(&self, path: &Path) {
        self.0.writer().on_release.open = Some(path.to_owned());
    }

    /// Whether lines go to stderr.
    pub fn is_stderr(&self) -> bool {
        self.0.writer().sink.is_stderr()
    }

    /// Stderr leads nowhere from now on: what went there goes to syslog.
    pub fn leave_stderr(&self) {
        let mut writer = self.0.writer();
        if writer.sink.is_stderr() {
            writer.sink = Sink::syslog();
        }
    }

    /// Writes nothing anywhere until the release; the newest lines are kept in memory.
    pub fn hold(&self) {
        let mut writer = self.0.writer();
        if writer.held.is_none() {
            writer.held = Some(Ring::new());
        }
    }

    /// Writes what was held back, and goes on as before the hold.
    pub fn release(&self) {
        let opened = self.0.writer().release();
        if let Err(error) = opened {
            warn!("unable to open specified log file: {}", os_reason(&error));
        }
    }

    /// Waits for the last lines, but not for long.
    pub fn finish(&self, _patience: Duration) {}

    /// Opens the log file again by its name, after a rotation. During a hold this waits for the release.
    pub fn reopen(&self) -> io::Result<()> {
        let mut writer = self.0.writer();
        if writer.held.is_some() {
            writer.on_release.reopen = true;
            return Ok(());
        }
        writer.sink.reopen()
    }
}

/// What the layer and its handles share.
struct Log {
    verbose: AtomicBool,
    writer: Mutex<Writer>,
}

impl Log {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event like this is for the sink.
    fn shows(&self, event: &Metadata<'_>) -> bool {
        *event.level() <= Level::WARN || self.verbose.load(Ordering::Relaxed)
    }
}

/// The agent's layer of the `tracing` subscriber.
struct LogLayer(Arc<Log>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn register_callsite(&self, event: &'static Metadata<'static>) -> Interest {
        if self.0.shows(event) || event.target() == AUDIT { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, event: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.shows(event) || event.target() == AUDIT
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let shown = self.0.shows(event.metadata());
        self.0.writer().event(event, shown);
    }
}

/// Formats lines and sends them on their way.
struct Writer {
    sink: Sink,
    syslog: Syslog,
    /// The line being formatted, kept for its memory.
    line: Vec<u8>,
    /// The held lines, while there is a hold.
    held: Option<Ring>,
    on_release: OnRelease,
}

/// What was put off until the end of a hold.
#[derive(Default)]
struct OnRelease {
    open: Option<PathBuf>,
    reopen: bool,
}

impl Writer {
    fn event(&mut self, event: &Event<'_>, shown: bool) {
        let (priority, level) = match *event.metadata().level() {
            Level::ERROR => (3, "critical"),
            Level::WARN => (4, "warning"),
            Level::INFO => (6, "info"),
            _ => (7, "debug"),
        };
        let audit = event.metadata().target() == AUDIT;
        self.line.clear();
        if self.sink.wants_time() || self.held.is_some() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // Writing to a vector does not fail; neither do the other writes to `line`.
            let _ = write!(self.line, "{}.{:06}: ", now.as_secs(), now.subsec_micros());
        }
        let text_at = self.line.len();
        let _ = write!(self.line, "{level}: ");
        event.record(&mut Text(&mut self.line));
        self.line.push(b'\n');

        if let Some(ring) = &mut self.held {
            ring.push(Entry { shown, audit, priority, line: &self.line });
        } else {
            if shown {
                self.sink.write(priority, &self.line);
            }
            if audit {
                self.syslog.send(priority, &self.line[text_at..]);
            }
        }
        if self.line.capacity() > USUAL_LINE {
            self.line = Vec::new();
        }
    }

    fn release(&mut self) -> io::Result<()> {
        let Some(mut ring) = self.held.take() else { return Ok(()) };
        let opened = match std::mem::take(&mut self.on_release) {
            OnRelease { open: Some(path), .. } => Sink::file(&path).map(|sink| self.sink = sink),
            OnRelease { reopen: true, .. } => self.sink.reopen(),
            _ => Ok(()),
        };
        if ring.lost() > 0 {
            let text = format!("{} older log lines of the freeze are lost\n", ring.lost());
            self.sink.write(4, text.as_bytes());
        }
        for Entry { shown, audit, priority, line } in ring.entries() {
            if shown {
                self.sink.write(priority, line);
            }
            if audit {
                self.syslog.send(priority, line);
            }
        }
        opened
    }
}

/// Collects the text of an event: the message, then the other fields as ` name=value`.
struct Text<'a>(&'a mut Vec<u8>);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self, "{value:?}"),
            name => write!(self, " {name}={value:?}"),
        };
    }
}

impl fmt::Write for Text<'_> {
    /// Control characters are escaped, so that nobody can forge a line.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match byte {
                b'\n' => self.0.extend_from_slice(b"\\n"),
                b'\r' => self.0.extend_from_slice(b"\\r"),
                b'\t' | b' '..=b'~' | 0x80.. => self.0.push(byte),
                _ => write!(self.0, "\\x{byte:02x}").map_err(|_| fmt::Error)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixDatagram;
    use tempfile::TempDir;
    use tracing::{debug, info};

    /// A log to a file, and a syslog daemon, in a directory.
    struct Scene {
        dir: TempDir,
        control: LogControl,
        syslog: UnixDatagram,
    }

    impl Scene {
        /// Runs `test` with this log as the thread's.
        fn run(test: impl FnOnce(&Scene)) {
            let dir = tempfile::tempdir().unwrap();
            let syslog = UnixDatagram::bind(dir.path().join("dev-log")).unwrap();
            syslog.set_nonblocking(true).unwrap();
            let sink = Sink::file(&dir.path().join("log")).unwrap();
            let (subscriber, control) = new(sink, Syslog::at(&dir.path().join("dev-log")));
            let scene = Scene { dir, control, syslog };
            tracing::subscriber::with_default(subscriber, || test(&scene));
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// The log without its times, which must be there.
        fn log(&self, name: &str) -> String {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let line = |line: &str| {
                let (time, text) = line.split_once(": ").unwrap();
                let (seconds, micros) = time.split_once('.').unwrap();
                assert!(seconds.len() == 10 && micros.len() == 6, "{line}");
                format!("{text}\n")
            };
            text.lines().map(line).collect()
        }

        fn audited(&self) -> Option<String> {
            let mut buffer = [0; 1024];
            let size = self.syslog.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
        }
    }

    #[test]
    fn only_warnings_and_errors_are_shown_unless_verbose() {
        Scene::run(|scene| {
            for verbose in [false, true] {
                scene.control.set_verbose(verbose);
                error!("one {}", 1);
                warn!(count = 2, name = "x", "two");
                info!("three");
                debug!("four");
            }
            let quiet = "critical: one 1\nwarning: two count=2 name=\"x\"\n";
            assert_eq!(scene.log("log"), format!("{quiet}{quiet}info: three\ndebug: four\n"));
        });
    }

    #[test]
    fn a_line_cannot_be_forged() {
        Scene::run(|scene| {
            warn!("data: {}", "a\nb\r\x1b[2J\tü");
            assert_eq!(scene.log("log"), "warning: data: a\\nb\\r\\x1b[2J\tü\n");
        });
    }

    #[test]
    fn audit_events_go_to_syslog_whatever_the_verbosity() {
        Scene::run(|scene| {
            info!(target: AUDIT, "guest-ping called");
            assert_eq!(scene.audited().as_deref(), Some("<14>qemu-ga: info: guest-ping called"));
            info!("not audited");
            assert_eq!(scene.audited(), None);
            assert_eq!(scene.log("log"), "");
        });
    }

    #[test]
    fn a_restarted_syslog_is_found_again_and_a_full_one_does_not_block() {
        Scene::run(|scene| {
            info!(target: AUDIT, "one");
            fs::remove_file(scene.path("dev-log")).unwrap();
            let restarted = UnixDatagram::bind(scene.path("dev-log")).unwrap();
            // A socket whose peer is still open keeps working; shutting it down is what a restart does.
            scene.syslog.shutdown(std::net::Shutdown::Both).unwrap();
            for _ in 0..10_000 {
                info!(target: AUDIT, "two");
            }
            let mut buffer = [0; 64];
            let size = restarted.recv(&mut buffer).unwrap();
            assert!(buffer[..size].ends_with(b"two"));
        });
    }

    #[test]
    fn nothing_is_written_during_a_hold_and_everything_after_it() {
        Scene::run(|scene| {
            scene.control.hold();
            warn!("one");
            info!(target: AUDIT, "two");
            debug!("never shown");
            assert_eq!((scene.log("log").as_str(), scene.audited()), ("", None));
            scene.control.release();
            warn!("three");
            assert_eq!(scene.log("log"), "warning: one\nwarning: three\n");
            let audited = scene.audited().unwrap();
            assert!(audited.starts_with("<14>qemu-ga: ") && audited.ends_with(": info: two"), "{audited}");
        });
    }

    #[test]
    fn a_log_file_wanted_while_frozen_is_made_at_the_release() {
        Scene::run(|scene| {
            scene.control.hold();
            scene.control.open_file_on_release(&scene.path("late"));
            warn!("one");
            assert!(!scene.path("late").exists());
            scene.control.release();
            assert_eq!((scene.log("late").as_str(), scene.log("log").as_str()), ("warning: one\n", ""));
        });
    }

    #[test]
    fn a_log_file_that_cannot_be_made_at_the_release_loses_no_line() {
        Scene::run(|scene| {
            scene.control.hold();
            scene.control.open_file_on_release(&scene.path("no/log"));
            warn!("one");
            scene.control.release();
            let complaint = "warning: unable to open specified log file: No such file or directory\n";
            assert_eq!(scene.log("log"), format!("warning: one\n{complaint}"));
        });
    }

    #[test]
    fn a_rotated_log_is_reopened_but_not_while_held() {
        Scene::run(|scene| {
            warn!("one");
            fs::rename(scene.path("log"), scene.path("log.1")).unwrap();
            scene.control.reopen().unwrap();
            warn!("two");
            fs::rename(scene.path("log"), scene.path("log.2")).unwrap();
            scene.control.hold();
            scene.control.reopen().unwrap();
            assert!(!scene.path("log").exists());
            scene.control.release();
            warn!("three");
            let logs = ["log.1", "log.2", "log"].map(|name| scene.log(name));
            assert_eq!(logs, ["warning: one\n", "warning: two\n", "warning: three\n"]);
        });
    }

    #[test]
    fn a_huge_line_does_not_keep_its_memory() {
        Scene::run(|scene| {
            warn!("{}", "x".repeat(1 << 20));
            assert!(scene.control.0.writer().line.capacity() <= USUAL_LINE);
        });
    }
}
