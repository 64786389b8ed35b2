//! What the log says of a client's doings: so many lines a minute, and one for those left out.

use std::time::{Duration, Instant};

/// Lines that one client after the other can cause in a minute.
const LINES: u32 = 20;

const PERIOD: Duration = Duration::from_secs(60);

/// Names in a line; more are only counted.
const NAMES: usize = 3;

#[derive(Default)]
pub(super) struct Notices {
    /// When the present minute ends.
    end: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Notices {
    /// Writes a warning, unless there were many.
    pub(super) fn warn(&mut self, now: Instant, text: impl FnOnce() -> String) {
        self.tick(now);
        let end = *self.end.get_or_insert(now + PERIOD);
        if self.lines < LINES && now < end {
            self.lines += 1;
            tracing::warn!("{}", text());
        } else {
            self.left_out += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> u32 {
        self.lines
    }

    /// When `tick` has something to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.end.filter(|_| self.left_out > 0)
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.end.is_some_and(|end| end <= now) {
            if self.left_out > 0 {
                tracing::warn!("{} more warnings about clients in a minute were left out", self.left_out);
            }
            *self = Notices::default();
        }
    }
}

/// `guest-exec, guest-get-disks, guest-exec and 17 more`
pub(super) fn names(names: &[&str]) -> String {
    let (first, rest) = names.split_at(names.len().min(NAMES));
    match rest.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_ends_and_is_counted() {
        let mut notices = Notices::default();
        let start = Instant::now();
        for _ in 0..1000 {
            notices.warn(start, String::new);
        }
        assert_eq!((notices.lines, notices.left_out), (LINES, 1000 - u64::from(LINES)));
        assert_eq!(notices.deadline(), Some(start + PERIOD), "they are told of when the minute is over");
        notices.tick(start + PERIOD);
        assert_eq!(notices.deadline(), None);
        notices.warn(start + PERIOD, String::new);
        assert_eq!((notices.lines, notices.left_out), (1, 0));
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(names(&["a"]), "a");
        assert_eq!(names(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }
}
