//! The log: one line per event, `SECONDS.MICROS: level: text`, to stderr or a file.
//!
//! Who logs never waits for a disk: lines go into a bounded queue, and a [thread](LogControl::start_writer)
//! writes them. Before there is one, during the start, they are written at once.
//!
//! While file systems are frozen a line written anywhere could block for ever. So the log can be put on
//! [hold](LogControl::hold): lines then stay in the queue until it is [released](LogControl::release).
//!
//! Events with the target [`AUDIT`] also go to syslog, where administrators look for what the host
//! has done; those with the target [`OPERATOR`] also to stderr, for those who start the agent.

mod budget;
mod outlet;
mod ring;
mod sink;

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber, error};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, registry};

use self::budget::Budget;
use self::outlet::{Order, Outlet};
use self::ring::{Marks, Ring};
use self::sink::{Sink, Syslog};

/// The target of events that record what the host made the agent do.
pub const AUDIT: &str = "audit";

/// The target of events that the operator is to see wherever the log goes.
pub const OPERATOR: &str = "operator";

/// A line buffer that grew beyond this is given back.
const USUAL_LINE: usize = 16 << 10;

/// The writer needs little, and all of it is locked in memory during a freeze.
const STACK: usize = 64 << 10;

/// How long a hold waits for the line that is being written.
const LAST_LINE: Duration = Duration::from_millis(500);

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
    let log = Arc::new(Log {
        verbose: AtomicBool::new(false),
        line: Mutex::default(),
        queue: Mutex::default(),
        more: Condvar::new(),
        written: Condvar::new(),
        outlet: Mutex::new(Outlet { sink, syslog }),
    });
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

    /// From now on appends to this file. For the start: it waits for the disk.
    pub fn open_file(&self, path: &Path) -> io::Result<()> {
        let sink = Sink::file(path)?;
        lock(&self.0.outlet).sink = sink;
        Ok(())
    }

    /// Appends to this file from the next [release](LogControl::release) on.
    pub fn open_file_on_release(&self, path: &Path) {
        lock(&self.0.queue).order = Some(Order::Open(path.to_owned()));
    }

    /// Whether lines go to stderr. For the start: it waits for the line that is being written.
    pub fn is_stderr(&self) -> bool {
        lock(&self.0.outlet).sink.is_stderr()
    }

    /// Stderr leads nowhere from now on: what went there goes to syslog. For the start.
    pub fn leave_stderr(&self) {
        let mut outlet = lock(&self.0.outlet);
        if outlet.sink.is_stderr() {
            outlet.sink = Sink::syslog();
        }
    }

    /// From now on a thread writes, and nobody who logs waits for it.
    ///
    /// # Errors
    /// When there is no thread to be had; then lines are written at once, as before.
    pub fn start_writer(&self) -> io::Result<()> {
        if std::mem::replace(&mut lock(&self.0.queue).has_writer, true) {
            return Ok(());
        }
        let log = self.0.clone();
        let started = std::thread::Builder::new().name("log".into()).stack_size(STACK).spawn(move || log.write_on());
        started.map(drop).inspect_err(|_| lock(&self.0.queue).has_writer = false)
    }

    /// Writes nothing anywhere until the release; the newest lines are kept in memory.
    pub fn hold(&self) {
        let mut queue = lock(&self.0.queue);
        if !queue.held {
            queue.held = true;
            queue.ring.reserve();
        }
        // It may be written to what is about to be frozen.
        let busy = |queue: &mut Queue| queue.has_writer && queue.writing;
        let _ = self.0.written.wait_timeout_while(queue, LAST_LINE, busy);
    }

    /// Writes what was held back, and goes on as before the hold.
    pub fn release(&self) {
        lock(&self.0.queue).held = false;
        self.0.let_out();
    }

    /// Waits until everything is written, but not for long.
    pub fn finish(&self, patience: Duration) {
        let unfinished = |queue: &mut Queue| queue.has_writer && !queue.held && (queue.writing || queue.has_work());
        let _ = self.0.written.wait_timeout_while(lock(&self.0.queue), patience, unfinished);
    }

    /// Opens the log file again by its name, after a rotation. During a hold this waits for the release.
    pub fn reopen(&self) {
        lock(&self.0.queue).order.get_or_insert(Order::Reopen);
        self.0.let_out();
    }
}

/// What the layer and its handles share.
struct Log {
    verbose: AtomicBool,
    /// The line being formatted, kept for its memory.
    line: Mutex<Vec<u8>>,
    queue: Mutex<Queue>,
    /// Wakes the writer.
    more: Condvar,
    /// Wakes those who wait for the writer.
    written: Condvar,
    /// Held while a line is written, which may take for ever. Taken before the queue.
    outlet: Mutex<Outlet>,
}

/// What is still to be written.
#[derive(Default)]
struct Queue {
    ring: Ring,
    order: Option<Order>,
    budget: Budget,
    held: bool,
    /// A thread writes; otherwise those do that log.
    has_writer: bool,
    /// It is at work, or was woken to be.
    writing: bool,
    /// Nobody takes lines for syslog until then.
    syslog_absent: Option<Instant>,
}

impl Queue {
    fn has_work(&self) -> bool {
        self.order.is_some() || !self.ring.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Whether an event like this is for the sink.
    fn shows(&self, event: &Metadata<'_>) -> bool {
        *event.level() <= Level::WARN || self.verbose.load(Ordering::Relaxed)
    }

    fn event(&self, event: &Event<'_>, shown: bool) {
        let metadata = event.metadata();
        let (audit, operator) = (metadata.target() == AUDIT, metadata.target() == OPERATOR);
        let now = Instant::now();
        let late = {
            let mut queue = lock(&self.queue);
            if !shown && !queue.held && queue.syslog_absent.is_some_and(|until| now < until) {
                return;
            }
            queue.tell_left_out(now);
            if !queue.budget.take(metadata, now) {
                // The writer is to know when the minute is over.
                self.more.notify_one();
                return;
            }
            queue.held
        };
        let (priority, level) = match *metadata.level() {
            Level::ERROR => (3, "critical"),
            Level::WARN => (4, "warning"),
            Level::INFO => (6, "info"),
            _ => (7, "debug"),
        };
        // Another thread may be at it.
        let (mut kept, mut own) = (self.line.try_lock().ok(), Vec::new());
        let line = kept.as_deref_mut().unwrap_or(&mut own);
        let time = begin(line, level);
        event.record(&mut Text(line));
        line.push(b'\n');
        lock(&self.queue).ring.push(Marks { shown, audit, operator, late, priority, time }, line);
        if line.capacity() > USUAL_LINE {
            *line = Vec::new();
        }
        drop(kept);
        self.let_out();
    }

    /// Has what is in the queue written, if it may be.
    fn let_out(&self) {
        let mut queue = lock(&self.queue);
        if queue.held || queue.writing {
            return;
        }
        if queue.has_writer {
            queue.writing = true;
            self.more.notify_one();
            return;
        }
        drop(queue);
        self.write();
    }

    /// Writes what is in the queue. Nothing here may log.
    fn write(&self) {
        let mut line = Vec::new();
        let mut outlet = lock(&self.outlet);
        loop {
            let mut queue = lock(&self.queue);
            if queue.held {
                return;
            }
            if let Some(order) = queue.order.take() {
                drop(queue);
                if let Err(text) = outlet.obey(order) {
                    lock(&self.queue).say("warning", 4, &text);
                }
                continue;
            }
            let lost = queue.ring.take_lost();
            let marks = match lost {
                0 => queue.ring.pop(&mut line),
                _ => Some(sentence(&mut line, "warning", 4, &format!("{lost} older log lines are lost"))),
            };
            drop(queue);
            let Some(marks) = marks else { return };
            outlet.write(marks, &line);
            if marks.audit {
                lock(&self.queue).syslog_absent = outlet.syslog.absent_until();
            }
        }
    }

    /// The writer's life.
    fn write_on(&self) {
        let mut queue = lock(&self.queue);
        loop {
            queue.tell_left_out(Instant::now());
            if queue.held || !queue.has_work() {
                queue.writing = false;
                self.written.notify_all();
                queue = match queue.budget.due().filter(|_| !queue.held) {
                    None => self.more.wait(queue).unwrap_or_else(PoisonError::into_inner),
                    Some(end) => {
                        let rest = end.saturating_duration_since(Instant::now());
                        self.more.wait_timeout(queue, rest).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            }
            queue.writing = true;
            drop(queue);
            self.write();
            queue = lock(&self.queue);
        }
    }
}

impl Queue {
    /// Adds a line of the log's own.
    fn say(&mut self, level: &str, priority: u8, text: &str) {
        let mut line = Vec::new();
        let marks = sentence(&mut line, level, priority, text);
        self.ring.push(Marks { late: self.held, ..marks }, &line);
    }

    /// When a minute is over: what it left out.
    fn tell_left_out(&mut self, now: Instant) {
        let count = self.budget.settle(now);
        if count > 0 {
            self.say("warning", 4, &format!("{count} more log lines of the last minute were left out"));
        }
    }
}

/// Begins a line with the time, whose length is returned, and its level.
fn begin(line: &mut Vec<u8>, level: &str) -> u8 {
    line.clear();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Writing to a vector does not fail; neither do the other writes to lines.
    let _ = write!(line, "{}.{:06}: ", now.as_secs(), now.subsec_micros());
    let time = u8::try_from(line.len()).unwrap_or_default();
    let _ = write!(line, "{level}: ");
    time
}

/// Makes a whole line.
fn sentence(line: &mut Vec<u8>, level: &str, priority: u8, text: &str) -> Marks {
    let time = begin(line, level);
    let _ = fmt::Write::write_str(&mut Text(line), text);
    line.push(b'\n');
    Marks { shown: true, priority, time, ..Marks::default() }
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
        self.0.event(event, shown);
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

/// Whether a terminal may take a character for a command, or show text in another order by it.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Write for Text<'_> {
    /// What plays with lines or terminals is escaped, so that nobody can forge a line.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\n' => self.0.extend_from_slice(b"\\n"),
                '\r' => self.0.extend_from_slice(b"\\r"),
                '\t' | ' '..='~' => self.0.extend(u8::try_from(c)),
                '\0'..='\x7F' => write!(self.0, "\\x{:02x}", u32::from(c)).map_err(|_| fmt::Error)?,
                _ if is_deceptive(c) => write!(self.0, "{}", c.escape_unicode()).map_err(|_| fmt::Error)?,
                _ => self.0.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
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
    use std::path::PathBuf;
    use tempfile::TempDir;
    use tracing::{debug, info, warn};

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
            warn!("data: {}", "a\nb\r\x1b[2J\tü\u{9b}2J\u{202e}");
            assert_eq!(scene.log("log"), "warning: data: a\\nb\\r\\x1b[2J\tü\\u{9b}2J\\u{202e}\n");
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
            scene.control.reopen();
            warn!("two");
            fs::rename(scene.path("log"), scene.path("log.2")).unwrap();
            scene.control.hold();
            scene.control.reopen();
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
            assert!(lock(&scene.control.0.line).capacity() <= USUAL_LINE);
        });
    }

    #[test]
    fn who_logs_does_not_wait_for_a_disk_that_hangs_and_what_is_lost_is_counted() {
        Scene::run(|scene| {
            scene.control.start_writer().unwrap();
            scene.control.set_verbose(true);
            // The writer is in the middle of a line, for as long as this is held.
            let hangs = lock(&scene.control.0.outlet);
            for number in 0..15_000 {
                info!("line {number}");
            }
            scene.control.reopen();
            scene.control.hold();
            scene.control.release();
            scene.control.finish(Duration::from_millis(1));
            assert_eq!(scene.log("log"), "");
            drop(hangs);
            scene.control.finish(Duration::from_secs(60));
            let log = scene.log("log");
            let (first, rest) = log.split_once('\n').unwrap();
            let lost: usize = first.strip_prefix("warning: ").unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(first, format!("warning: {lost} older log lines are lost"));
            let kept: Vec<String> = (lost..15_000).map(|number| format!("info: line {number}")).collect();
            assert_eq!(rest.lines().collect::<Vec<_>>(), kept);
        });
    }

    #[test]
    fn a_writer_writes_all_lines_in_order_and_none_during_a_hold() {
        Scene::run(|scene| {
            scene.control.start_writer().unwrap();
            scene.control.start_writer().unwrap();
            for round in 0..50 {
                warn!("{round} before");
                scene.control.hold();
                let held = scene.log("log");
                warn!("{round} during");
                assert_eq!(scene.log("log"), held);
                scene.control.release();
            }
            scene.control.finish(Duration::from_secs(60));
            let all = (0..50).map(|round| format!("warning: {round} before\nwarning: {round} during\n"));
            assert_eq!(scene.log("log"), all.collect::<String>());
        });
    }

    #[test]
    fn a_flood_is_cut_and_costs_no_other_line() {
        Scene::run(|scene| {
            scene.control.start_writer().unwrap();
            for _ in 0..10_000 {
                warn!("flood");
            }
            warn!("another");
            scene.control.finish(Duration::from_secs(60));
            assert_eq!(scene.log("log"), format!("{}warning: another\n", "warning: flood\n".repeat(200)));
            // A minute later.
            lock(&scene.control.0.queue).budget.age();
            warn!("flood");
            scene.control.finish(Duration::from_secs(60));
            let end = "another\nwarning: 9800 more log lines of the last minute were left out\nwarning: flood\n";
            assert!(scene.log("log").ends_with(end), "{}", scene.log("log"));
        });
    }

    #[test]
    fn what_was_left_out_is_told_although_nothing_more_comes() {
        Scene::run(|scene| {
            scene.control.start_writer().unwrap();
            for _ in 0..300 {
                warn!("flood");
            }
            lock(&scene.control.0.queue).budget.age();
            // As the end of its wait does.
            scene.control.0.more.notify_one();
            let end = Instant::now() + Duration::from_secs(60);
            while !scene.log("log").ends_with("warning: 100 more log lines of the last minute were left out\n") {
                assert!(Instant::now() < end, "{}", scene.log("log"));
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_value_that_panics_while_it_is_formatted_does_not_silence_the_log() {
        struct Bad;
        impl Debug for Bad {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("a bug");
            }
        }
        Scene::run(|scene| {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| warn!("{:?}", Bad)));
            assert!(caught.is_err());
            warn!("after");
            assert_eq!(scene.log("log"), "warning: after\n");
        });
    }
}
