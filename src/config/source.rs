//! Where a configuration comes from: the key file and the command line, put together.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use super::{
    CLOCK, Clock, Config, ConfigError, FSFREEZE, Fsfreeze, GENERAL, HOTPLUG, Hotplug, LIMITS, Limits, NETWORK, Network,
    VSOCK, Vsock,
};
use crate::cli::Args;
use crate::host::regular;
use crate::keyfile::{KeyFile, KeyFileError};
use crate::protocol::error::os_reason;

/// The keys of our own groups, to tell a misspelt one.
const OWN_KEYS: &[(&str, &[&str])] = &[
    (FSFREEZE, &["timeout", "hook-timeout", "freeze-timeout", "best-effort"]),
    (LIMITS, &["file-handles", "running-children", "finished-children", "finished-bytes", "request-bytes"]),
    (NETWORK, &["hide"]),
    (VSOCK, &["allow"]),
    (HOTPLUG, &["cpus", "memory"]),
    (CLOCK, &["keep"]),
];

/// Longer than anybody waits; what is added to a clock must not leave its range.
const YEAR: u64 = 365 * 24 * 60 * 60;

/// More than a process can have.
const MOST_THINGS: u64 = 1 << 20;
/// What the parser can count.
const LARGEST_REQUEST: u64 = 1 << 30;
const MOST_BYTES: u64 = 1 << 40;

/// What a configuration is made of: a file and a command line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    pub(super) args: Args,
    pub(super) file: PathBuf,
    /// A file named on the command line must exist.
    pub(super) required: bool,
    /// What the file was when it was last read. Editors and package managers take a file away or empty it
    /// for a moment: that must not drop the policy it holds.
    pub(super) last: Last,
}

/// How much of a configuration file there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub(super) enum Last {
    #[default]
    NoFile,
    NoGroup,
    Groups,
}

impl Source {
    /// Reads the file and puts both together.
    pub(super) fn load(mut self) -> Result<Config, ConfigError> {
        let refused = |reason: String| ConfigError::File { path: self.file.clone(), reason };
        let (file, now) = match regular::read(&self.file) {
            Ok(text) => {
                let file = KeyFile::parse(&text).map_err(|error| refused(error.to_string()))?;
                let now = if file.has_group() { Last::Groups } else { Last::NoGroup };
                (file, now)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.required && self.last == Last::NoFile => {
                (KeyFile::default(), Last::NoFile)
            }
            Err(error) => return Err(refused(os_reason(&error))),
        };
        if now < self.last {
            return Err(refused("it has no group any more".into()));
        }
        let combined = self.combine(&file).map_err(|errors| {
            let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
            refused(reasons.join("; "))
        });
        self.last = now;
        combined.map(|config| Config { source: self, ..config })
    }

    /// Puts the file and the command line together, or says all that is wrong with the file's values.
    pub(super) fn combine(&self, file: &KeyFile) -> Result<Config, Vec<KeyFileError>> {
        warn_about(file);
        let args = &self.args;
        let mut values = Values { file, errors: Vec::new() };
        // The file's values are read even where the command line wins: a bad one is an error all the same.
        let method = values.string(GENERAL, "method");
        let path = values.path("path");
        let logfile = values.path("logfile");
        let pidfile = values.path("pidfile");
        let fsfreeze_hook = values.path("fsfreeze-hook");
        let statedir = values.path("statedir");
        let mut config = Config {
            daemonize: values.flag(GENERAL, "daemon") | args.daemonize,
            method: args.method.as_deref().map(lossy).or(method).unwrap_or_else(|| "virtio-serial".into()),
            path: args.path.clone().or(path),
            logfile: args.logfile.clone().or(logfile),
            pidfile: args.pidfile.clone().or(pidfile).unwrap_or_else(|| "/var/run/qemu-ga.pid".into()),
            fsfreeze_hook: args.fsfreeze_hook.clone().or(fsfreeze_hook),
            statedir: args.statedir.clone().or(statedir).unwrap_or_else(|| "/var/run".into()),
            verbose: values.flag(GENERAL, "verbose") | args.verbose,
            retry_path: values.flag(GENERAL, "retry-path") | args.retry_path,
            block_rpcs: [values.list(GENERAL, "block-rpcs"), values.list(GENERAL, "blacklist")].concat(),
            allow_rpcs: values.list(GENERAL, "allow-rpcs"),
            fsfreeze: values.fsfreeze(),
            limits: values.limits(),
            network: values.network(),
            vsock: Vsock { allow: values.numbers(VSOCK, "allow") },
            hotplug: values.hotplug(),
            clock: Clock { keep: values.flag(CLOCK, "keep") },
            source: self.clone(),
        };
        if !values.errors.is_empty() {
            return Err(values.errors);
        }

        if !args.blacklist.is_empty() {
            warn!("--blacklist is deprecated, use --block-rpcs");
        }
        config.block_rpcs.extend(args.block_rpcs.iter().chain(&args.blacklist).flat_map(|list| items(&lossy(list))));
        config.allow_rpcs.extend(args.allow_rpcs.iter().flat_map(|list| items(&lossy(list))));
        let allow_given = !args.allow_rpcs.is_empty() || file.keys(GENERAL).any(|key| key == "allow-rpcs");
        if allow_given && config.allow_rpcs.is_empty() {
            warn!("the allow list is empty, so all commands are allowed");
        }
        Ok(config)
    }
}

/// Warns about keys that do not do what who wrote them may think.
fn warn_about(file: &KeyFile) {
    for key in file.keys(GENERAL) {
        match key {
            "daemonize" => warn!("the configuration key daemonize has no effect, the key is daemon"),
            "blacklist" => warn!("the configuration key blacklist is deprecated, use block-rpcs"),
            // Keys of other releases pass in silence, as they always have.
            _ => {}
        }
    }
    for &(group, known) in OWN_KEYS {
        for key in file.keys(group).filter(|key| !known.contains(key)) {
            warn!("unknown configuration key {key} in group [{group}]");
        }
    }
}

/// The values of a file, with the errors met so far: all are reported at once.
struct Values<'a> {
    file: &'a KeyFile,
    errors: Vec<KeyFileError>,
}

impl Values<'_> {
    fn string(&mut self, group: &str, key: &str) -> Option<String> {
        self.noted(self.file.string(group, key))
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.string(GENERAL, key).map(PathBuf::from)
    }

    fn list(&mut self, group: &str, key: &str) -> Vec<String> {
        self.string(group, key).map_or_else(Vec::new, |list| items(&list))
    }

    fn flag(&mut self, group: &str, key: &str) -> bool {
        self.noted(self.file.boolean(group, key)).unwrap_or(false)
    }

    fn fsfreeze(&mut self) -> Fsfreeze {
        let usual = Fsfreeze::default();
        Fsfreeze {
            timeout: match self.noted(self.file.number(FSFREEZE, "timeout")) {
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(at_most(YEAR, FSFREEZE, "timeout", seconds))),
                None => usual.timeout,
            },
            hook_timeout: self.seconds("hook-timeout", usual.hook_timeout),
            freeze_timeout: self.seconds("freeze-timeout", usual.freeze_timeout),
            best_effort: self.flag(FSFREEZE, "best-effort"),
        }
    }

    fn limits(&mut self) -> Limits {
        let usual = Limits::default();
        Limits {
            file_handles: self.limit("file-handles", MOST_THINGS, usual.file_handles),
            running_children: self.limit("running-children", MOST_THINGS, usual.running_children),
            finished_children: self.limit("finished-children", MOST_THINGS, usual.finished_children),
            finished_bytes: self.limit("finished-bytes", MOST_BYTES, usual.finished_bytes),
            request_bytes: self.limit("request-bytes", LARGEST_REQUEST, usual.request_bytes),
        }
    }

    fn network(&mut self) -> Network {
        let hide = self.list(NETWORK, "hide");
        let patterns = hide.iter().map(|pattern| pattern.trim()).filter(|pattern| !pattern.is_empty());
        Network { hide: patterns.map(str::to_owned).collect() }
    }

    fn hotplug(&mut self) -> Hotplug {
        Hotplug { cpus: self.flag(HOTPLUG, "cpus"), memory: self.flag(HOTPLUG, "memory") }
    }

    fn seconds(&mut self, key: &str, usual: Duration) -> Duration {
        self.positive(FSFREEZE, key).map_or(usual, |number| Duration::from_secs(at_most(YEAR, FSFREEZE, key, number)))
    }

    fn limit(&mut self, key: &str, most: u64, usual: usize) -> usize {
        let number = self.positive(LIMITS, key).map(|number| at_most(most, LIMITS, key, number));
        number.map_or(usual, |number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// A comma list of numbers.
    fn numbers(&mut self, group: &str, key: &str) -> Vec<u32> {
        let list = self.string(group, key).unwrap_or_default();
        let parsed = items(&list).iter().map(|item| item.trim().parse()).collect::<Result<_, _>>();
        self.noted(parsed.map(Some).map_err(|_| KeyFileError::Value(key.into()))).unwrap_or_default()
    }

    /// A number from 1 on: with a limit of 0 the agent would be of no use.
    fn positive(&mut self, group: &str, key: &str) -> Option<u64> {
        let number = self.file.number(group, key);
        self.noted(number.and_then(|number| match number {
            Some(0) => Err(KeyFileError::Value(key.into())),
            number => Ok(number),
        }))
    }

    fn noted<T>(&mut self, value: Result<Option<T>, KeyFileError>) -> Option<T> {
        value.unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }
}

/// A number in its bounds. One that is too large must not keep an agent from its start: it may have a freeze
/// to end.
fn at_most(most: u64, group: &str, key: &str, number: u64) -> u64 {
    if number > most {
        warn!("[{group}] {key}={number} is too large, {most} is taken");
    }
    number.min(most)
}

/// The items of a comma list, as they stand there. An empty list has none.
fn items(list: &str) -> Vec<String> {
    if list.is_empty() { Vec::new() } else { list.split(',').map(str::to_owned).collect() }
}

fn lossy(text: impl AsRef<OsStr>) -> String {
    text.as_ref().to_string_lossy().into_owned()
}
