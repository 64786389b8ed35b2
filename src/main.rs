//! The `qemu-ga` program: the order of its start, up to the loop in `serve`.
//!
//! Whatever can fail comes before the process goes to the background, so that the caller sees it; and
//! going to the background comes before the runtime with its threads.

use std::env;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use qemu_ga::agent::Agent;
use qemu_ga::channel::{self, ChannelError, Endpoint};
use qemu_ga::cli::{self, Stop};
use qemu_ga::commands::exec::keeper;
use qemu_ga::config::{Config, ConfigError};
use qemu_ga::daemon::{self, Activated, ActivationError, Lifecycle, PidFileError};
use qemu_ga::freeze::check;
use qemu_ga::host::Host;
use qemu_ga::host::linux::authorized_keys::worker;
use qemu_ga::host::linux::descriptors::{self, TooFew};
use qemu_ga::host::linux::file_limit;
use qemu_ga::host::linux::malloc;
use qemu_ga::log::{self, LogControl};
use qemu_ga::policy::Policy;
use qemu_ga::protocol::error::os_reason;
use qemu_ga::state::{self, State, StateError};
use qemu_ga::{commands, serve};
use tracing::{error, info, warn};

fn main() -> ExitCode {
    if worker::main_if_asked() || keeper::main_if_asked() {
        return ExitCode::SUCCESS;
    }
    malloc::tune();
    descriptors::raise_limit();
    file_limit::report_as_error();
    let log = log::init();
    start(&log).map_or_else(
        |failure| {
            log.release();
            error!("{failure}");
            failure.consequences().iter().for_each(|text| error!("{text}"));
            if !log.is_stderr() {
                // Whoever starts us looks here first.
                let _ = writeln!(io::stderr(), "qemu-ga: {failure}");
            }
            ExitCode::FAILURE
        },
        ExitCode::from,
    )
}

/// Reads what is wanted, and does it; the result is the exit status.
fn start(log: &LogControl) -> Result<u8, Failure> {
    let line = cli::parse(env::args_os(), env::var_os("POSIXLY_CORRECT").is_some());
    let mut config = Config::load(&line.args)?;
    if let Some(stop) = line.stop {
        return end(stop);
    }
    if line.args.check_freeze {
        return check_freeze(&config, line.args.json);
    }
    // SAFETY: no thread has been started yet, and nothing here has opened descriptor 3 if it was handed over.
    #[expect(unsafe_code, reason = "the environment is changed")]
    let daemon::Handed { activated, keeper } = unsafe { daemon::activation() }?;
    config.settle_channel(activated.as_ref().map(|activated| activated.method))?;
    if line.args.dump_conf {
        return print(|out| config.dump(out));
    }
    log.set_verbose(config.verbose);
    run(config, activated, keeper, log)
}

/// Brings the agent up and serves until it is told to end.
fn run(
    mut config: Config,
    activated: Option<Activated>,
    keeper: Option<OwnedFd>,
    log: &LogControl,
) -> Result<u8, Failure> {
    if config.statedir.as_os_str().is_empty() {
        return Err(Failure::NoStateDir);
    }
    descriptors::check_limit().map_err(Failure::Descriptors)?;
    if config.daemonize {
        config.make_absolute();
        daemon::keep_private();
    }
    let frozen = state::is_marked_frozen(&config.statedir)?;
    if frozen {
        warn!(
            "previous instance appears to have exited with frozen filesystems: until they are thawed there is \
             no log and no pid file, and only what is safe then is allowed"
        );
        log.hold();
    }
    // Before anything is made that a failed start would leave behind.
    match &config.logfile {
        Some(path) if frozen => log.open_file_on_release(path),
        Some(path) => log.open_file(path).map_err(Failure::Log)?,
        None => {}
    }
    Policy::new(&config.allow_rpcs, &config.block_rpcs).warn();
    let state = State::open(&config.statedir)?;
    daemon::hold_signals();
    match open(&config, activated, frozen, log) {
        Ok((lifecycle, channel)) => {
            info!("{} started", cli::version());
            let agent = Agent::new(Host::real(), config, state, log.clone());
            if let Some(keeper) = keeper {
                agent.children.adopt(keeper, &agent.config().limits);
            }
            Ok(serve::run(agent, channel, log.clone(), lifecycle))
        }
        // What is frozen is that agent's.
        Err(failure) if !frozen || failure.is_of_another_agent() => Err(failure),
        Err(failure) => {
            let agent = Agent::new(Host::real(), config, state, log.clone());
            serve::leave(&agent, log, "the agent cannot start", || {});
            Err(failure)
        }
    }
}

/// What has to be there before the loop: the channel, and the process in its place.
#[inline(never)] // Its temporaries would lie on the stack for the agent's whole life.
fn open(
    config: &Config,
    activated: Option<Activated>,
    frozen: bool,
    log: &LogControl,
) -> Result<(Lifecycle, Option<Endpoint>), Failure> {
    let mut lifecycle = match config.daemonize {
        true => Lifecycle::background(&config.pidfile, frozen)?,
        false => Lifecycle::foreground(),
    };
    let opened = match (activated, &config.path) {
        (Some(activated), _) => channel::adopt(activated.socket),
        (None, path) => channel::open(&config.method, path.as_deref().unwrap_or("".as_ref())),
    };
    let channel = match opened {
        Ok(channel) => Some(channel),
        // The loop goes on trying, and says what is wrong.
        Err(failure) if config.retry_path && failure.may_pass() => None,
        // Somebody has to thaw: the loop does, at the latest when the time limit has passed.
        Err(failure) if frozen && failure.may_pass() && !failure.is_in_use() => {
            warn!("{failure}; waiting for the channel, since file systems are frozen");
            None
        }
        Err(failure) => return Err(failure.into()),
    };
    if config.daemonize {
        // SAFETY: no thread has been started yet.
        #[expect(unsafe_code, reason = "fork")]
        unsafe { lifecycle.detach() }.map_err(Failure::Detach)?;
        log.leave_stderr();
    }
    Ok((lifecycle, channel))
}

/// Says what a freeze would do; the status says whether a backup can rely on it.
#[inline(never)] // Its temporaries would lie on the stack for the agent's whole life.
fn check_freeze(config: &Config, json: bool) -> Result<u8, Failure> {
    let report = check::check(&Host::real(), config);
    print(|out| match json {
        true => serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => write!(out, "{report}"),
    })?;
    Ok(u8::from(!report.reliable))
}

/// Does what an option that ends the program asks for.
#[inline(never)] // Its temporaries would lie on the stack for the agent's whole life.
fn end(stop: Stop) -> Result<u8, Failure> {
    match stop {
        Stop::Help => print(|out| write!(out, "{}", cli::help())),
        Stop::Version => print(|out| writeln!(out, "{}", cli::version())),
        Stop::Commands => print(|out| commands::names().try_for_each(|name| writeln!(out, "{name}"))),
        Stop::BadUsage { complaint, hint } => {
            let _ = writeln!(io::stderr(), "{complaint}");
            print(|out| writeln!(out, "{hint}"))?;
            Ok(1)
        }
    }
}

/// Writes to stdout at once.
fn print(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<u8, Failure> {
    let mut text = Vec::new();
    write(&mut text)
        .and_then(|()| io::stdout().write_all(&text))
        .and_then(|()| io::stdout().flush())
        .map_err(Failure::Output)?;
    Ok(0)
}

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Activation(#[from] ActivationError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the state directory (--statedir) has an empty name")]
    NoStateDir,
    #[error(transparent)]
    Descriptors(TooFew),
    #[error("unable to open specified log file: {}", os_reason(.0))]
    Log(io::Error),
    #[error("failed to go to the background: {}", os_reason(.0))]
    Detach(io::Error),
    #[error("failed to write to stdout: {}", os_reason(.0))]
    Output(io::Error),
}

impl Failure {
    /// Another agent lives, and does what we were to do.
    fn is_of_another_agent(&self) -> bool {
        match self {
            Failure::PidFile(PidFileError::Lock(_)) => true,
            Failure::Channel(error) => error.is_in_use(),
            _ => false,
        }
    }

    /// What follows from it, in the words that monitoring looks for.
    fn consequences(&self) -> &'static [&'static str] {
        match self {
            Failure::State(_) => &["failed to load persistent state", "error initializing guest agent"],
            Failure::Channel(_) => &[
                "failed to create guest agent channel",
                "failed to initialize guest agent channel",
                "error initializing guest agent",
            ],
            Failure::Log(_) => &["error initializing guest agent"],
            _ => &[],
        }
    }
}
