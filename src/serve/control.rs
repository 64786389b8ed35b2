//! What comes from outside of the channel: the freeze state, signals, new settings.

use std::time::Instant;

use super::signals::Signal;
use super::worker::{Report, start, start_freezing};
use super::{END_FROZEN, Server, THAW_AGAIN, limits};
use crate::config::{Config, ConfigError};
use crate::freeze;
use crate::log::OPERATOR;

/// Whether the settings are being read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Reloading {
    #[default]
    No,
    Once,
    /// And again then: what is read now may be out of date.
    Again,
}

impl Server<'_> {
    /// Follows the freeze state: its timers, and what had to wait for the thaw.
    pub(super) fn watch_freeze(&mut self) {
        let freezer = &self.agent.freezer;
        let is_frozen = freezer.is_frozen();
        if self.thawing {
            return;
        }
        if is_frozen {
            // Reckoned anew each time: the limit may be another one since a reload.
            let limit = self.agent.config().fsfreeze.timeout;
            let limit = limit.and_then(|limit| freezer.frozen_since()?.checked_add(limit));
            if freezer.is_unfinished() {
                self.thaw_again.get_or_insert_with(|| Instant::now() + THAW_AGAIN);
            }
            self.thaw_at = self.thaw_again.or(limit);
        } else {
            (self.thaw_at, self.thaw_again) = (None, None);
        }
        self.hurry(is_frozen);
        if !is_frozen {
            self.lifecycle.thawed().into_iter().for_each(|pidfile| start(move |_| pidfile.make()));
        }
    }

    /// While frozen, the loop gets its memory without waiting for a disk. Threads that it starts would
    /// do the same, with all that they run.
    pub(super) fn hurry(&mut self, on: bool) {
        if std::mem::replace(&mut self.hurried, on) != on {
            // Not on old kernels, nor without `CAP_SYS_RESOURCE`.
            let _ = self.agent.host.kernel().avoid_disk(on);
        }
    }

    /// Hooks that an earlier agent left waiting for a thaw wait no longer.
    pub(super) fn settle_hooks(&self) {
        if freeze::owes_hooks(&self.agent) {
            let agent = self.agent.clone();
            start_freezing(&self.agent, move |_| freeze::settle_hooks(&agent));
        }
    }

    pub(super) fn thaw_unasked(&mut self, why: &'static str) {
        self.thawing = true;
        (self.thaw_at, self.thaw_again) = (None, None);
        let (agent, reporter) = (self.agent.clone(), self.reporter.clone());
        start_freezing(&self.agent, move |_| {
            freeze::thaw_unasked(&agent, why);
            let _ = reporter.send(Report::Thawed);
        });
    }

    /// Acts on a signal; the exit status if the agent is to end now.
    pub(super) fn signal(&mut self, signal: Signal, status: u8) -> Option<u8> {
        match signal {
            Signal::Reload => {
                self.reload();
                None
            }
            Signal::End(number) if self.agent.freezer.is_busy() => {
                // Nothing may stay frozen: wait for the thaw, but not for ever.
                self.agent.freezer.refuse_from_now_on();
                let again = number == nix::libc::SIGTERM && std::mem::replace(&mut self.terminated, true);
                if again && self.end_at.is_some() {
                    return Some(0);
                }
                let limit = Instant::now() + END_FROZEN;
                self.end_at.get_or_insert(self.thaw_at.map_or(limit, |thaw| thaw.min(limit)));
                None
            }
            Signal::End(number) => {
                tracing::debug!("received signal num {number}, quitting");
                Some(status)
            }
        }
    }

    /// Reads the settings again, on a worker: their disk may hang.
    pub(super) fn reload(&mut self) {
        self.log.reopen();
        if self.reloading != Reloading::No {
            self.reloading = Reloading::Again;
            return;
        }
        self.reloading = Reloading::Once;
        let (config, reporter) = (self.agent.config(), self.reporter.clone());
        start(move |_| {
            let _ = reporter.send(Report::Reloaded(Box::new(config.reload())));
        });
    }

    pub(super) fn reloaded(&mut self, config: Result<Config, ConfigError>) {
        match config {
            Ok(config) => {
                self.framer.set_limits(limits(&config));
                self.agent.reload(config);
                self.attend();
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                tracing::error!(target: OPERATOR, "configuration not reloaded, the old one stays: {error}");
            }
        }
        if std::mem::take(&mut self.reloading) == Reloading::Again {
            self.reload();
        }
    }
}
