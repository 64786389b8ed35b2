//! Waiting for a channel that is not there yet, or that was lost (`--retry-path`).

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::worker::start;
use crate::channel::{self, ChannelError, Endpoint, Link};
use crate::config::Config;
use crate::protocol::error::os_reason;

/// A port that udev makes at boot is there within the first few tries.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Tries to open the channel again and again, ever more slowly, and logs each new reason once.
pub(super) struct Reopen {
    method: String,
    path: PathBuf,
    wait: Duration,
    reason: String,
    worked: bool,
    /// An attempt is under way, on a worker: the way to a socket may lead over a disk.
    opening: Option<oneshot::Receiver<Result<Endpoint, ChannelError>>>,
}

impl Reopen {
    pub(super) fn new(config: &Config) -> Reopen {
        let path = config.path.clone().unwrap_or_default();
        Reopen {
            method: config.method.clone(),
            path,
            wait: FIRST_WAIT,
            reason: String::new(),
            worked: false,
            opening: None,
        }
    }

    /// Whether there was a channel before.
    pub(super) fn has_worked(&self) -> bool {
        self.worked
    }

    /// A channel that was open has gone.
    pub(super) fn lost(&mut self) {
        self.worked = true;
        self.wait = FIRST_WAIT;
        self.reason.clear();
    }

    /// The channel, as soon as it can be opened; `None` when it never will be. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<Link> {
        loop {
            let opening = match &mut self.opening {
                Some(opening) => opening,
                None => {
                    tokio::time::sleep(self.wait).await;
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                    let (sender, opening) = oneshot::channel();
                    let (method, path) = (self.method.clone(), self.path.clone());
                    start(move |_| {
                        let _ = sender.send(channel::open(&method, &path));
                    });
                    self.opening.insert(opening)
                }
            };
            let opened = opening.await;
            self.opening = None;
            // Without a word if the worker had a bug, which the log tells.
            let Ok(opened) = opened else { continue };
            let reason = match opened {
                Ok(endpoint) => match Link::new(endpoint) {
                    Ok(link) => {
                        tracing::info!("channel '{}' is open", self.path.display());
                        self.worked = true;
                        return Some(link);
                    }
                    Err(error) => os_reason(&error),
                },
                Err(error) if !error.may_pass() => {
                    tracing::error!("{error}");
                    return None;
                }
                Err(error) => error.to_string(),
            };
            if reason != self.reason {
                tracing::warn!("{reason}; trying again");
                self.reason = reason;
            }
        }
    }
}
