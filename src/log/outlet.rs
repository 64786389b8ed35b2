//! Where lines end up once they are let out, and by whom they are written.
//!
//! A write may take as long as the disk below it likes. So from the start of the loop on a thread of its
//! own writes, and all others only leave their lines in a [queue](super::Queue).

use std::io;
use std::path::PathBuf;

use super::ring::Marks;
use super::sink::{Sink, Syslog, write_to_stderr};
use crate::protocol::error::os_reason;

pub(super) struct Outlet {
    pub(super) sink: Sink,
    pub(super) syslog: Syslog,
}

/// What else the writer has to do, before the next line.
#[derive(Debug, PartialEq)]
pub(super) enum Order {
    Open(PathBuf),
    Reopen,
}

impl Outlet {
    pub(super) fn write(&mut self, marks: Marks, line: &[u8]) {
        let text = if marks.late { line } else { &line[usize::from(marks.time)..] };
        if marks.shown {
            self.sink.write(marks.priority, if self.sink.wants_time() { line } else { text });
        }
        if marks.audit {
            self.syslog.send(marks.priority, text);
        }
        if marks.operator && !self.sink.is_stderr() {
            let _ = write_to_stderr(line);
        }
    }

    /// What went wrong, as the text of a line.
    pub(super) fn obey(&mut self, order: Order) -> Result<(), String> {
        let done: io::Result<()> = match order {
            Order::Open(path) => Sink::file(&path).map(|sink| self.sink = sink),
            Order::Reopen => self.sink.reopen(),
        };
        done.map_err(|error| format!("unable to open specified log file: {}", os_reason(&error)))
    }
}
