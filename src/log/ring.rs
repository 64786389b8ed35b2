//! The lines that cannot be written while file systems are frozen.

use std::collections::VecDeque;

/// Bytes kept; the oldest lines make room. Allocated at once, since memory may be hard to get while
/// swap space is frozen.
const CAPACITY: usize = 64 << 10;

/// One line and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry<'a> {
    /// For stderr or the log file.
    pub(super) shown: bool,
    /// For syslog.
    pub(super) audit: bool,
    /// The syslog priority.
    pub(super) priority: u8,
    /// The text, ending with its only line feed.
    pub(super) line: &'a [u8],
}

/// A bounded queue of lines, oldest first.
pub(super) struct Ring {
    /// For each line a byte with its flags, one with its priority, then the line.
    bytes: VecDeque<u8>,
    lost: usize,
}

impl Ring {
    pub(super) fn new() -> Ring {
        Ring { bytes: VecDeque::with_capacity(CAPACITY), lost: 0 }
    }

    /// Adds a line, whose only line feed must be its end.
    pub(super) fn push(&mut self, entry: Entry<'_>) {
        let size = entry.line.len() + 2;
        if size > CAPACITY {
            self.lost += 1;
            return;
        }
        while self.bytes.len() + size > CAPACITY {
            let end = self.bytes.iter().position(|&byte| byte == b'\n').map_or(self.bytes.len(), |at| at + 1);
            self.bytes.drain(..end);
            self.lost += 1;
        }
        let flags = u8::from(entry.shown) | u8::from(entry.audit) << 1;
        // Neither byte can be taken for a line feed: flags and priorities are below 8.
        self.bytes.extend([flags, entry.priority]);
        self.bytes.extend(entry.line);
    }

    /// How many lines found no room.
    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    /// The lines, oldest first.
    pub(super) fn entries(&mut self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = &*self.bytes.make_contiguous();
        std::iter::from_fn(move || {
            let [flags, priority, lines @ ..] = rest else { return None };
            let end = lines.iter().position(|&byte| byte == b'\n')? + 1;
            rest = &lines[end..];
            Some(Entry { shown: flags & 1 != 0, audit: flags & 2 != 0, priority: *priority, line: &lines[..end] })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(line: &[u8]) -> Entry<'_> {
        Entry { shown: true, audit: false, priority: 4, line }
    }

    #[test]
    fn lines_come_back_in_order_with_their_marks() {
        let mut ring = Ring::new();
        let first = Entry { shown: false, audit: true, priority: 6, line: b"one\n" };
        ring.push(first);
        ring.push(entry(b"\n"));
        assert_eq!(ring.entries().collect::<Vec<_>>(), [first, entry(b"\n")]);
        assert_eq!(ring.lost(), 0);
    }

    #[test]
    fn the_oldest_lines_make_room_and_are_counted() {
        let mut ring = Ring::new();
        let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            ring.push(entry(line.as_bytes()));
        }
        let lost = ring.lost();
        assert!(lost > 0 && ring.bytes.capacity() < 2 * CAPACITY);
        let kept: Vec<Vec<u8>> = ring.entries().map(|entry| entry.line.to_vec()).collect();
        assert_eq!(kept, lines[lost..].iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_larger_than_the_ring_costs_no_other_line() {
        let mut ring = Ring::new();
        ring.push(entry(b"kept\n"));
        ring.push(entry(&[b'x'; CAPACITY]));
        assert_eq!((ring.lost(), ring.entries().count()), (1, 1));
    }
}
