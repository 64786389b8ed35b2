//! How much of what the host can cause comes into the log.

use std::time::{Duration, Instant};

use tracing::{Level, Metadata};

use super::AUDIT;

const PERIOD: Duration = Duration::from_secs(60);

/// Lines in a minute that one place in the code may write.
fn lines(event: &Metadata<'_>) -> u32 {
    match *event.level() {
        // The host can cause these by what it is allowed to do.
        _ if event.target() == AUDIT => 2_000,
        Level::ERROR | Level::WARN => 200,
        // Only with --verbose.
        _ => 20_000,
    }
}

/// What the present minute has seen.
#[derive(Default)]
pub(super) struct Budget {
    end: Option<Instant>,
    /// For each place, known by its address, how often it came. There are as many as the program has.
    places: Vec<(usize, u32)>,
    left_out: u64,
}

impl Budget {
    /// Whether this one may be written.
    pub(super) fn take(&mut self, event: &'static Metadata<'static>, now: Instant) -> bool {
        self.end.get_or_insert(now + PERIOD);
        let place = std::ptr::from_ref(event).addr();
        let at = self.places.iter().position(|(known, _)| *known == place).unwrap_or_else(|| {
            self.places.push((place, 0));
            self.places.len() - 1
        });
        let count = &mut self.places[at].1;
        let fits = *count < lines(event);
        *count += u32::from(fits);
        self.left_out += u64::from(!fits);
        fits
    }

    /// Makes the present minute end now.
    #[cfg(test)]
    pub(super) fn age(&mut self) {
        self.end = self.end.map(|end| end - PERIOD);
    }

    /// When somebody is to be told what was left out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.end.filter(|_| self.left_out > 0)
    }

    /// Begins a new minute when the old one is over; how many were left out in that.
    pub(super) fn settle(&mut self, now: Instant) -> u64 {
        if self.end.is_none_or(|end| now < end) {
            return 0;
        }
        self.end = None;
        self.places.clear();
        std::mem::take(&mut self.left_out)
    }
}
