//! Where a configuration comes from: the key file and the command line, put together.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NONBLOCK;
use tracing::warn;

use super::{Config, ConfigError, FSFREEZE, Fsfreeze, GENERAL, LIMITS, Limits, NETWORK, Network};
use crate::cli::Args;
use crate::keyfile::{KeyFile, KeyFileError};
use crate::protocol::error::os_reason;

/// The keys of our own groups, to tell a misspelt one.
const OWN_KEYS: [(&str, &[&str]); 3] = [
    (FSFREEZE, &["timeout", "hook-timeout", "freeze-timeout", "best-effort"]),
    (LIMITS, &["file-handles", "running-children", "finished-children", "finished-bytes", "request-bytes"]),
    (NETWORK, &["hide"]),
];

/// What a configuration is made of: a file and a command line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    pub(super) args: Args,
    pub(super) file: PathBuf,
    /// A file named on the command line must exist.
    pub(super) required: bool,
}

impl Source {
    /// Reads the file and puts both together.
    pub(super) fn load(self) -> Result<Config, ConfigError> {
        let refused = |reason: String| ConfigError::File { path: self.file.clone(), reason };
        let file = match read(&self.file) {
            Ok(text) => KeyFile::parse(&text).map_err(|error| refused(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.required => KeyFile::default(),
            Err(error) => return Err(refused(os_reason(&error))),
        };
        self.combine(&file).map_err(|errors| {
            let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
            refused(reasons.join("; "))
        })
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

/// Reads a configuration file, or gives the error that GLib would.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO must not hang the start.
    let mut file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("Not a regular file"));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
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
    for (group, known) in OWN_KEYS {
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
                Some(seconds) => Some(Duration::from_secs(seconds)),
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
            file_handles: self.limit("file-handles", usual.file_handles),
            running_children: self.limit("running-children", usual.running_children),
            finished_children: self.limit("finished-children", usual.finished_children),
            finished_bytes: self.limit("finished-bytes", usual.finished_bytes),
            request_bytes: self.limit("request-bytes", usual.request_bytes),
        }
    }

    fn network(&mut self) -> Network {
        let hide = self.list(NETWORK, "hide");
        let patterns = hide.iter().map(|pattern| pattern.trim()).filter(|pattern| !pattern.is_empty());
        Network { hide: patterns.map(str::to_owned).collect() }
    }

    fn seconds(&mut self, key: &str, usual: Duration) -> Duration {
        self.positive(FSFREEZE, key).map_or(usual, Duration::from_secs)
    }

    fn limit(&mut self, key: &str, usual: usize) -> usize {
        self.positive(LIMITS, key).map_or(usual, |number| usize::try_from(number).unwrap_or(usize::MAX))
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

/// The items of a comma list, as they stand there. An empty list has none.
fn items(list: &str) -> Vec<String> {
    if list.is_empty() { Vec::new() } else { list.split(',').map(str::to_owned).collect() }
}

fn lossy(text: impl AsRef<OsStr>) -> String {
    text.as_ref().to_string_lossy().into_owned()
}
