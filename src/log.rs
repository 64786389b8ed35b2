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
mod tests;
