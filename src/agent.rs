//! The agent: what commands work with, that is policy, state and the machine.

use std::sync::{Arc, PoisonError, RwLock};

use crate::commands::Command;
use crate::commands::exec::Children;
use crate::commands::file::Files;
use crate::config::Config;
use crate::freeze::Freezer;
use crate::gate::FreezeLane;
use crate::host::Host;
use crate::log::LogControl;
use crate::policy::Policy;
use crate::protocol::error::Result;
use crate::state::State;

/// Everything a command may need. One for each process; tests make as many as they like.
pub struct Agent {
    /// The machine.
    pub host: Host,
    /// The same for the loop, which must not wait.
    pub(crate) host_in_haste: Host,
    /// The handle counter and the frozen marker on disk.
    pub state: State,
    /// Open guest files.
    pub files: Files,
    /// Which file systems we have frozen.
    pub freezer: Freezer,
    /// Programs of guest-exec.
    pub children: Children,
    pub(crate) freeze_lane: FreezeLane,
    config: RwLock<Arc<Config>>,
    policy: RwLock<Policy>,
}

impl Agent {
    /// An agent with these settings.
    pub fn new(host: Host, config: Config, state: State, log: LogControl) -> Agent {
        let policy = RwLock::new(Policy::new(&config.allow_rpcs, &config.block_rpcs));
        let freezer = Freezer::new(&host, &state, log);
        let files = Files::default();
        let config = RwLock::new(Arc::new(config));
        let host_in_haste = host.in_haste();
        Agent {
            host,
            host_in_haste,
            config,
            state,
            files,
            freezer,
            children: Children::new(),
            freeze_lane: FreezeLane::default(),
            policy,
        }
    }

    /// The settings as they are now.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes new settings over: policy, limits, what concerns freezing.
    pub fn reload(&self, config: Config) {
        let policy = Policy::new(&config.allow_rpcs, &config.block_rpcs);
        policy.warn();
        policy.warn_if_wider(&self.policy.read().unwrap_or_else(PoisonError::into_inner));
        self.set_policy(policy);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Replaces the policy.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    pub fn check(&self, row: &Command) -> Result<()> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.check(row, self.freezer.is_frozen())
    }

    /// Whether policy refuses a command, whatever becomes of a freeze.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    pub(crate) fn check_for_any_state(&self, row: &Command) -> Result<()> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.check(row, false).or_else(|refusal| policy.check(row, true).map_err(|_| refusal))
    }
}
