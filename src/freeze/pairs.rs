//! Hooks in pairs: whoever was told of a freeze is told of the thaw, once, in the opposite order.
//!
//! Who was told is noted on disk before the program starts, so that an agent that is killed in the
//! middle leaves the next one something to go by: a database must not stay locked for ever.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::hook::{self, Source};
use crate::agent::Agent;
use crate::host::run::{Failure, Program};
use crate::log::AUDIT;
use crate::protocol::error::{Error, Result, os_reason};

/// The hooks that were told of a freeze and not of a thaw yet.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// In the order in which they were told.
    programs: Vec<PathBuf>,
    /// An agent that keeps no such list froze: all of them.
    unknown: bool,
}

impl Told {
    /// What an earlier agent left behind.
    pub(super) fn at_start(programs: Vec<PathBuf>, frozen: bool) -> Told {
        Told { unknown: frozen && programs.is_empty(), programs }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty() && !self.unknown
    }

    /// Tells all hooks of the freeze that is about to come.
    ///
    /// # Errors
    /// At the first one that is refused or fails; it and those before it are still to be told of the thaw.
    pub(super) fn freeze(&mut self, agent: &Agent) -> Result<()> {
        if !self.is_empty() {
            // Left by an agent that was killed: its pairs come to an end before new ones begin.
            self.thaw(agent).unwrap_or_else(|error| tracing::error!("{error}"));
        }
        let hooks = configured(agent)?;
        // All of them before the first one runs: a refusal should disturb nobody.
        hooks.iter().try_for_each(|program| may_run(agent, program, "freeze"))?;
        for program in hooks {
            if agent.freezer.is_ending() {
                return Err(Error::new("nothing is frozen: the agent is about to end"));
            }
            self.programs.push(program.clone());
            if let Err(error) = agent.state.note_hooks(&self.programs) {
                // It was told nothing.
                self.programs.pop();
                return Err(Error::os("failed to note the fsfreeze hooks in the state directory", &error));
            }
            run(agent, &program, "freeze")?;
        }
        Ok(())
    }

    /// Tells those that were told of the freeze, the last one first.
    ///
    /// # Errors
    /// With all that failed; everybody has been told all the same.
    pub(super) fn thaw(&mut self, agent: &Agent) -> Result<()> {
        let mut errors = Vec::new();
        if std::mem::take(&mut self.unknown) {
            self.programs = configured(agent).unwrap_or_else(|error| {
                errors.push(error.desc);
                Vec::new()
            });
        }
        while let Some(program) = self.programs.pop() {
            // Before it runs: nobody is told twice because this was cut short.
            if let Err(error) = agent.state.note_hooks(&self.programs) {
                tracing::warn!("failed to note the fsfreeze hooks in the state directory: {}", os_reason(&error));
            }
            let told = run(agent, &program, "thaw");
            errors.extend(told.err().map(|error| error.desc));
        }
        if errors.is_empty() { Ok(()) } else { Err(Error::new(errors.join("; "))) }
    }
}

fn configured(agent: &Agent) -> Result<Vec<PathBuf>> {
    Source::find(&agent.host, agent.config().fsfreeze_hook.as_deref()).programs(&agent.host)
}

/// Goes on only if the hook is there and root's.
///
/// # Errors
/// With its name and what is wrong.
fn may_run(agent: &Agent, path: &Path, word: &str) -> Result<()> {
    match hook::check(&agent.host, path)? {
        true => Ok(()),
        false => Err(failed(path, word, &os_reason(&Errno::ENOENT.into()), b"")),
    }
}

fn failed(path: &Path, word: &str, why: &str, output: &[u8]) -> Error {
    let (name, output) = (path.display(), String::from_utf8_lossy(output));
    let said = if output.trim().is_empty() { String::new() } else { format!(": {}", output.trim()) };
    Error::new(format!("child process has failed to execute fsfreeze hook '{name}' ({word}): {why}{said}"))
}

/// Runs one hook for as long as `[fsfreeze] hook-timeout` allows.
///
/// # Errors
/// With its name, its exit status, and the end of what it wrote.
fn run(agent: &Agent, path: &Path, word: &str) -> Result<()> {
    // Again, and just before: others may have run for minutes since.
    may_run(agent, path, word)?;
    let name = path.display();
    tracing::debug!("running fsfreeze hook '{name}' {word}");
    // A hook that lived on after a killed agent might freeze after it was told to thaw.
    let program = Program::new(path).args([word]).deadline(agent.config().fsfreeze.hook_timeout).tied();
    let failed = |why: &str, output: &[u8]| Err(failed(path, word, why, output));
    match agent.host.run(&program) {
        Ok(finished) => match (finished.code(), finished.signal()) {
            (Some(0), _) => {
                log_output(path, word, &finished.output);
                Ok(())
            }
            (Some(code), _) => failed(&format!("exit status {code}"), &finished.output),
            (None, signal) => failed(&format!("killed by signal {}", signal.unwrap_or_default()), &finished.output),
        },
        Err(Failure::Start { reason, .. }) => failed(&os_reason(&reason), b""),
        Err(Failure::TimedOut { deadline, output, .. }) => {
            failed(&format!("not done after {} s", deadline.as_secs()), &output)
        }
    }
}

/// Nobody else keeps what a hook that succeeded had to say.
fn log_output(path: &Path, word: &str, output: &[u8]) {
    for line in String::from_utf8_lossy(output).lines().filter(|line| !line.trim().is_empty()) {
        tracing::info!(target: AUDIT, "fsfreeze hook '{}' ({word}): {line}", path.display());
    }
}
