//! The lines that are not written yet.

use std::collections::VecDeque;

/// Bytes kept; the oldest lines make room.
const CAPACITY: usize = 256 << 10;

/// More than this is given back when it is empty.
const USUAL: usize = 4 << 10;

/// Keeps the bytes in front of a line from being taken for a line feed.
const MARK: u8 = 0x80;

/// Where a line belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Marks {
    /// For stderr or the log file.
    pub(super) shown: bool,
    /// For syslog.
    pub(super) audit: bool,
    /// For stderr, wherever the log goes.
    pub(super) operator: bool,
    /// Written long after its time, which is therefore part of it everywhere.
    pub(super) late: bool,
    /// The syslog priority.
    pub(super) priority: u8,
    /// How long the time at its start is.
    pub(super) time: u8,
}

impl Marks {
    fn pack(self) -> [u8; 3] {
        let Marks { shown, audit, operator, late, priority, time } = self;
        let flags = [shown, audit, operator, late].into_iter().enumerate();
        let flags = flags.fold(0, |flags, (bit, on)| flags | u8::from(on) << bit);
        [MARK | flags, MARK | priority, MARK | time]
    }

    fn unpack([flags, priority, time]: [u8; 3]) -> Marks {
        let bit = |bit: u8| flags & 1 << bit != 0;
        let (priority, time) = (priority & !MARK, time & !MARK);
        Marks { shown: bit(0), audit: bit(1), operator: bit(2), late: bit(3), priority, time }
    }
}

/// A bounded queue of lines, oldest first.
#[derive(Default)]
pub(super) struct Ring {
    /// For each line three bytes with its marks, then the line.
    bytes: VecDeque<u8>,
    lost: usize,
}

impl Ring {
    /// Takes all the memory that it may need, while there is some.
    pub(super) fn reserve(&mut self) {
        self.bytes.reserve_exact(CAPACITY - self.bytes.len());
    }

    /// Adds a line, whose only line feed must be its end.
    pub(super) fn push(&mut self, marks: Marks, line: &[u8]) {
        let size = line.len() + 3;
        if size > CAPACITY {
            self.lost += 1;
            return;
        }
        while self.bytes.len() + size > CAPACITY {
            self.bytes.drain(..self.first());
            self.lost += 1;
        }
        self.bytes.extend(marks.pack());
        self.bytes.extend(line);
    }

    /// Takes the oldest line out.
    pub(super) fn pop(&mut self, line: &mut Vec<u8>) -> Option<Marks> {
        line.clear();
        if self.bytes.is_empty() {
            return None;
        }
        let mut first = self.bytes.drain(..self.first());
        let marks = [first.next()?, first.next()?, first.next()?];
        line.extend(first);
        if self.bytes.is_empty() {
            // The next one comes to lie in the same memory.
            self.bytes.clear();
            if self.bytes.capacity() > USUAL {
                self.bytes = VecDeque::new();
            }
        }
        Some(Marks::unpack(marks))
    }

    /// How many lines found no room since this was asked.
    pub(super) fn take_lost(&mut self) -> usize {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.lost == 0
    }

    /// The length of the oldest line with its marks.
    fn first(&self) -> usize {
        self.bytes.iter().position(|&byte| byte == b'\n').map_or(self.bytes.len(), |at| at + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(ring: &mut Ring) -> Vec<(Marks, Vec<u8>)> {
        let mut line = Vec::new();
        std::iter::from_fn(|| ring.pop(&mut line).map(|marks| (marks, line.clone()))).collect()
    }

    #[test]
    fn lines_come_back_in_order_with_their_marks() {
        let mut ring = Ring::default();
        let mut pushed = Vec::new();
        for bits in 0..16_u8 {
            let bit = |bit: u8| bits & 1 << bit != 0;
            let (priority, time) = (bits % 8, 10 + bits);
            let marks = Marks { shown: bit(0), audit: bit(1), operator: bit(2), late: bit(3), priority, time };
            pushed.push((marks, if bits == 3 { b"\n".to_vec() } else { format!("line {bits}\n").into_bytes() }));
        }
        for (marks, line) in &pushed {
            ring.push(*marks, line);
        }
        assert_eq!(lines(&mut ring), pushed);
        assert!(ring.is_empty());
    }

    #[test]
    fn the_oldest_lines_make_room_and_are_counted() {
        let mut ring = Ring::default();
        let all: Vec<Vec<u8>> = (0..40_000).map(|number| format!("line {number}\n").into_bytes()).collect();
        for line in &all {
            ring.push(Marks::default(), line);
        }
        let lost = ring.take_lost();
        assert!(lost > 0 && ring.bytes.len() <= CAPACITY);
        let kept: Vec<Vec<u8>> = lines(&mut ring).into_iter().map(|(_, line)| line).collect();
        assert_eq!(kept, all[lost..]);
        assert!(ring.bytes.capacity() <= USUAL, "the memory is not given back");
    }

    #[test]
    fn a_line_larger_than_the_ring_costs_no_other_line() {
        let mut ring = Ring::default();
        ring.push(Marks::default(), b"kept\n");
        ring.push(Marks::default(), &[b'x'; CAPACITY]);
        assert_eq!((ring.take_lost(), lines(&mut ring).len()), (1, 1));
    }

    #[test]
    fn what_is_reserved_is_enough() {
        let mut ring = Ring::default();
        ring.push(Marks::default(), b"one\n");
        ring.reserve();
        let reserved = ring.bytes.capacity();
        for _ in 0..100_000 {
            ring.push(Marks::default(), b"another line\n");
        }
        assert_eq!(ring.bytes.capacity(), reserved);
    }
}
