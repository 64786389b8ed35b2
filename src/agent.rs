//! The agent: the command table together with policy, state and the machine.

use std::sync::RwLock;

use crate::commands::Command;
use crate::config::Config;
use crate::host::Host;
use crate::policy::Policy;
use crate::protocol::error::Result;

/// Everything a command may need. One for each process; tests make as many as they like.
pub struct Agent {
    /// The machine.
    pub host: Host,
    /// Settings.
    pub config: Config,
    policy: RwLock<Policy>,
}

impl Agent {
    /// An agent with these settings.
    pub fn new(host: Host, config: Config) -> Agent {
        let policy = RwLock::new(Policy::new(&config.allow_rpcs, &config.block_rpcs));
        Agent { host, config, policy }
    }

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    pub fn check(&self, row: &Command) -> Result<()> {
        self.policy.read().unwrap_or_else(|e| e.into_inner()).check(row, false)
    }
}
