//! The agent: the command table together with policy, state and the machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use crate::commands::exec::Children;
use crate::commands::file::Files;
use crate::commands::{Body, Command, Ctx, Lane, Stop};
use crate::config::Config;
use crate::freeze::Freezer;
use crate::host::Host;
use crate::log::LogControl;
use crate::policy::Policy;
use crate::protocol::error::{Error, Result};
use crate::protocol::reply;
use crate::protocol::request::Request;
use crate::session::{Done, Piece};
use crate::state::State;

/// Everything a command may need. One for each process; tests make as many as they like.
pub struct Agent {
    /// The machine.
    pub host: Host,
    /// The same for the loop, which must not wait.
    host_in_haste: Host,
    /// The handle counter and the frozen marker on disk.
    pub state: State,
    /// Open guest files.
    pub files: Files,
    /// Which file systems we have frozen.
    pub freezer: Freezer,
    /// Programs of guest-exec.
    pub children: Children,
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
        Agent { host, host_in_haste, config, state, files, freezer, children: Children::new(), policy }
    }

    /// The settings as they are now.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes new settings over: policy, limits, what concerns freezing.
    pub fn reload(&self, config: Config) {
        self.set_policy(Policy::new(&config.allow_rpcs, &config.block_rpcs));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Replaces the policy.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Names in the operator's lists that are no commands.
    pub fn unknown_names(&self) -> Vec<String> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.unknown_names().map(str::to_owned).collect()
    }

    /// Whether a command may be used now.
    ///
    /// # Errors
    /// The refusal as it goes to the client.
    pub fn check(&self, row: &Command) -> Result<()> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.check(row, self.freezer.is_frozen())
    }

    /// Runs a command on the loop and appends its reply. False when it needs a worker; then nothing
    /// was done.
    pub fn answer(&self, row: &Command, request: &Request, out: &mut Vec<u8>) -> bool {
        let host = match row.lane {
            Lane::Inline | Lane::Barrier => &self.host,
            Lane::Prompt => &self.host_in_haste,
            Lane::Worker | Lane::Freeze => return false,
        };
        let cx = Ctx::new(self, host);
        let result = self.check(row).and_then(|()| caught(row, || row.run(&cx, request.arguments())));
        if host.take_refused() {
            return false;
        }
        match result {
            Ok(Body::Json(json)) => success(row, json, request, out),
            Ok(Body::Stream(mut stream)) => {
                let mut json = Vec::new();
                while stream.next(&mut json) {}
                success(row, json, request, out);
            }
            Err(error) => reply::error(out, &error, request.id()),
        }
        true
    }

    /// Runs a command on a worker. Pieces of a long reply go to `send`, which says whether anybody
    /// still wants more; the whole of a short one is returned.
    pub fn work(&self, row: &Command, request: &Request, stop: &Stop, mut send: impl FnMut(Piece) -> bool) -> Done {
        let cx = Ctx::stoppable(self, &self.host, stop.clone());
        let mut out = Vec::new();
        match caught(row, || row.run(&cx, request.arguments())) {
            Ok(Body::Json(json)) => success(row, json, request, &mut out),
            Ok(Body::Stream(stream)) => stream_pieces(stream, request, &mut send, &mut out),
            Err(error) => reply::error(&mut out, &error, request.id()),
        }
        Done { reply: out, undo: cx.take_undo() }
    }
}

/// Longer values are moved into place, since a copy takes fresh memory.
const MOVE: usize = 64 << 10;

fn success(row: &Command, mut json: Vec<u8>, request: &Request, out: &mut Vec<u8>) {
    if !row.replies {
        return;
    }
    if row.delimited {
        out.push(reply::DELIMITER);
    }
    if json.len() > MOVE && out.is_empty() {
        json.splice(..0, reply::RETURN.bytes());
        *out = json;
    } else {
        out.extend_from_slice(reply::RETURN.as_bytes());
        out.extend_from_slice(&json);
    }
    reply::end(out, request.id());
}

/// Sends a long reply; one that ends with its first piece is left in `out` instead.
fn stream_pieces(
    mut stream: Box<dyn crate::commands::Stream>,
    request: &Request,
    send: &mut impl FnMut(Piece) -> bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(reply::RETURN.as_bytes());
    let mut first = true;
    while stream.next(out) {
        let mut cut = Vec::new();
        stream.cut(&mut cut);
        reply::end(&mut cut, request.id());
        if !send(Piece { bytes: std::mem::take(out), cut: Some(cut) }) {
            return;
        }
        first = false;
    }
    reply::end(out, request.id());
    if !first {
        send(Piece { bytes: std::mem::take(out), cut: None });
    }
}

/// A handler that panics costs its client an error reply, and nobody anything else.
fn caught(row: &Command, run: impl FnOnce() -> Result<Body>) -> Result<Body> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!("{} failed on an internal error: {reason}", row.name);
        Err(Error::new(format!("{} failed on an internal error", row.name)))
    })
}
