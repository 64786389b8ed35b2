//! The operator's program that is told of a freeze before it and of a thaw after it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::agent::Agent;
use crate::host::run::Program;
use crate::protocol::error::{Error, Result};

/// What the hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Freeze,
    Thaw,
}

/// Runs the hook, if one is set, for as long as `[fsfreeze] hook-timeout` allows.
///
/// # Errors
/// With its exit status and the end of what it wrote.
pub(super) fn run(agent: &Agent, hook: Option<&Path>, phase: Phase) -> Result<()> {
    // RHEL switches the hook off by naming this.
    let none = |hook: &&Path| hook.as_os_str().is_empty() || *hook == Path::new("/dev/null");
    let Some(hook) = hook.filter(|hook| !none(hook)) else { return Ok(()) };
    check(agent, hook)?;
    let word = match phase {
        Phase::Freeze => "freeze",
        Phase::Thaw => "thaw",
    };
    let path = hook.to_string_lossy();
    let program = Program::new(&path).args([word]).deadline(agent.config().fsfreeze.hook_timeout);
    agent.host.run_to("execute fsfreeze hook", &program)
}

/// Refuses a hook that others than root may write: it would be root for everybody.
fn check(agent: &Agent, hook: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(format!("fsfreeze hook '{}' is not run: {why}", hook.display())));
    let Ok(found) = std::fs::metadata(agent.host.path(hook)) else {
        // The attempt to run it says what is wrong.
        return Ok(());
    };
    let ours = nix::unistd::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != ours {
        return refuse("its owner is not root");
    }
    if found.is_file() && found.mode() & 0o022 != 0 {
        return refuse("others than root may write to it");
    }
    Ok(())
}
