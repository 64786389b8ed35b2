//! The configuration: defaults, then the key file, then the command line.
//!
//! The group `[general]` of the file is the stock agent's. Our own settings live in groups of their
//! own, which the stock agent ignores, so that one file serves both.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NONBLOCK;
use tracing::warn;

use crate::cli::{Args, DEFAULT_CONFIG};
use crate::keyfile::{KeyFile, KeyFileError, write_group, write_pair};
use crate::protocol::error::os_reason;

const GENERAL: &str = "general";
const FSFREEZE: &str = "fsfreeze";
const LIMITS: &str = "limits";

/// The keys of our own groups, to tell a misspelt one.
const OWN_KEYS: [(&str, &[&str]); 2] = [
    (FSFREEZE, &["timeout", "hook-timeout", "freeze-timeout", "best-effort"]),
    (LIMITS, &["file-handles", "running-children", "finished-children", "finished-bytes", "request-bytes"]),
];

/// Why there is no usable configuration.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing though it was asked for, or cannot be read, or is malformed.
    #[error("error loading configuration from path: {}, {reason}", path.display())]
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// All that is wrong with it.
        reason: String,
    },
    /// The channel has no path by default and none was given.
    #[error("must specify a path for this channel")]
    NoPath,
}

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Run in the background.
    pub daemonize: bool,
    /// How the host is reached; not checked here, since a dump shows whatever was given.
    pub method: String,
    /// Device, socket or vsock address; none when the socket was inherited.
    pub path: Option<PathBuf>,
    /// Where the log goes instead of stderr.
    pub logfile: Option<PathBuf>,
    /// The process id file of a daemon.
    pub pidfile: PathBuf,
    /// The script that runs around a freeze.
    pub fsfreeze_hook: Option<PathBuf>,
    /// Where `qga.state` and the frozen marker are.
    pub statedir: PathBuf,
    /// Log everything.
    pub verbose: bool,
    /// Keep trying to open the channel.
    pub retry_path: bool,
    /// Commands that are refused.
    pub block_rpcs: Vec<String>,
    /// If not empty, the only commands that are accepted.
    pub allow_rpcs: Vec<String>,
    /// How file systems are frozen.
    pub fsfreeze: Fsfreeze,
    /// What one agent may use up.
    pub limits: Limits,
    /// For reading everything again.
    source: Source,
}

/// Group `[fsfreeze]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fsfreeze {
    /// `timeout`: thaw by ourselves after this time; `None`, written 0, is never.
    pub timeout: Option<Duration>,
    /// `hook-timeout`: the time a hook may take.
    pub hook_timeout: Duration,
    /// `freeze-timeout`: the time freezing may take.
    pub freeze_timeout: Duration,
    /// `best-effort`: freeze what can be frozen instead of nothing when one file system refuses.
    pub best_effort: bool,
}

impl Default for Fsfreeze {
    fn default() -> Self {
        Fsfreeze {
            timeout: Some(Duration::from_secs(600)),
            hook_timeout: Duration::from_secs(60),
            freeze_timeout: Duration::from_secs(30),
            best_effort: false,
        }
    }
}

/// Group `[limits]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `file-handles`: files open through guest-file-open.
    pub file_handles: usize,
    /// `running-children`: programs of guest-exec that run.
    pub running_children: usize,
    /// `finished-children`: ended programs whose result nobody has fetched.
    pub finished_children: usize,
    /// `finished-bytes`: captured output kept for them.
    pub finished_bytes: usize,
    /// `request-bytes`: size of one request.
    pub request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            file_handles: 1024,
            running_children: 256,
            finished_children: 256,
            finished_bytes: 64 << 20,
            request_bytes: 64 << 20,
        }
    }
}

/// What a configuration is made of.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    args: Args,
    file: PathBuf,
    /// A file named on the command line must exist.
    required: bool,
}

impl Config {
    /// Reads the file and applies the command line. The channel's path may still be missing: see
    /// [`Config::settle_channel`].
    pub fn load(cli: &Args) -> Result<Config, ConfigError> {
        let file = match &cli.config {
            Some(path) => path.clone(),
            None => std::env::var_os("QGA_CONF").map_or_else(|| DEFAULT_CONFIG.into(), PathBuf::from),
        };
        Source { args: cli.clone(), file, required: cli.config.is_some() }.load()
    }

    /// Reads the file again, for the same command line.
    pub fn reload(&self) -> Result<Config, ConfigError> {
        self.source.clone().load()
    }

    /// Gives the channel its default path, or what an inherited socket says it is (`activated`), over
    /// everything that was configured.
    pub fn settle_channel(&mut self, activated: Option<&str>) -> Result<(), ConfigError> {
        if let Some(method) = activated {
            self.method = method.into();
            self.path = None;
        } else if self.path.is_none() {
            self.path = Some(match self.method.as_str() {
                "virtio-serial" => "/dev/virtio-ports/org.qemu.guest_agent.0".into(),
                "isa-serial" => "/dev/ttyS0".into(),
                _ => return Err(ConfigError::NoPath),
            });
        }
        Ok(())
    }

    /// Makes all paths independent of the working directory, which a daemon leaves.
    pub fn make_absolute(&mut self) {
        let paths = [
            self.path.as_mut().filter(|_| self.method != "vsock-listen"),
            self.logfile.as_mut(),
            self.fsfreeze_hook.as_mut(),
            Some(&mut self.pidfile),
            Some(&mut self.statedir),
            Some(&mut self.source.file),
        ];
        for path in paths.into_iter().flatten() {
            // Fails for the empty path only, which is reported where it is used.
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
    }

    /// Writes the configuration as a file that [`Config::load`] reads back. Our own groups appear only
    /// if something in them differs from its default, so that other readers see nothing unusual.
    pub fn dump(&self, out: &mut impl Write) -> io::Result<()> {
        let flag = |on: bool| if on { &b"true"[..] } else { b"false" };
        write_group(out, GENERAL)?;
        write_pair(out, "daemon", flag(self.daemonize))?;
        write_pair(out, "method", self.method.as_bytes())?;
        write_path(out, "path", self.path.as_deref())?;
        write_path(out, "logfile", self.logfile.as_deref())?;
        write_path(out, "pidfile", Some(&self.pidfile))?;
        write_path(out, "fsfreeze-hook", self.fsfreeze_hook.as_deref())?;
        write_path(out, "statedir", Some(&self.statedir))?;
        write_pair(out, "verbose", flag(self.verbose))?;
        write_pair(out, "retry-path", flag(self.retry_path))?;
        write_pair(out, "block-rpcs", self.block_rpcs.join(",").as_bytes())?;
        write_pair(out, "allow-rpcs", self.allow_rpcs.join(",").as_bytes())?;
        if self.fsfreeze != Fsfreeze::default() {
            let freeze = &self.fsfreeze;
            write_group(out, FSFREEZE)?;
            write_number(out, "timeout", freeze.timeout.map_or(0, |time| time.as_secs()))?;
            write_number(out, "hook-timeout", freeze.hook_timeout.as_secs())?;
            write_number(out, "freeze-timeout", freeze.freeze_timeout.as_secs())?;
            write_pair(out, "best-effort", flag(freeze.best_effort))?;
        }
        if self.limits != Limits::default() {
            write_group(out, LIMITS)?;
            write_number(out, "file-handles", self.limits.file_handles)?;
            write_number(out, "running-children", self.limits.running_children)?;
            write_number(out, "finished-children", self.limits.finished_children)?;
            write_number(out, "finished-bytes", self.limits.finished_bytes)?;
            write_number(out, "request-bytes", self.limits.request_bytes)?;
        }
        Ok(())
    }
}

fn write_path(out: &mut impl Write, key: &str, path: Option<&Path>) -> io::Result<()> {
    path.map_or(Ok(()), |path| write_pair(out, key, path.as_os_str().as_bytes()))
}

fn write_number(out: &mut impl Write, key: &str, number: impl ToString) -> io::Result<()> {
    write_pair(out, key, number.to_string().as_bytes())
}

impl Source {
    fn load(self) -> Result<Config, ConfigError> {
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
    fn combine(&self, file: &KeyFile) -> Result<Config, Vec<KeyFileError>> {
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
            block_rpcs: [values.list("block-rpcs"), values.list("blacklist")].concat(),
            allow_rpcs: values.list("allow-rpcs"),
            fsfreeze: values.fsfreeze(),
            limits: values.limits(),
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

    fn list(&mut self, key: &str) -> Vec<String> {
        self.string(GENERAL, key).map_or_else(Vec::new, |list| items(&list))
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

/// The items of a comma list without the blanks around them. Empty items stay, but an empty list has none.
fn items(list: &str) -> Vec<String> {
    let list = list.trim();
    if list.is_empty() { Vec::new() } else { list.split(',').map(|item| item.trim().to_owned()).collect() }
}

fn lossy(text: impl AsRef<OsStr>) -> String {
    text.as_ref().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::fs;

    /// The configuration for these words with this file.
    fn load(words: &[&str], text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.conf");
        fs::write(&path, text).unwrap();
        let argv = ["qemu-ga", "-c", path.to_str().unwrap()].into_iter().chain(words.iter().copied());
        Config::load(&crate::cli::parse(argv.map(OsString::from), false).args)
    }

    fn dump(config: &Config) -> String {
        let mut text = Vec::new();
        config.dump(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn reason(text: &str) -> String {
        match load(&[], text).unwrap_err() {
            ConfigError::File { reason, .. } => reason,
            ConfigError::NoPath => panic!(),
        }
    }

    #[test]
    fn defaults_are_those_of_the_stock_agent() {
        let mut config = load(&[], "").unwrap();
        config.settle_channel(None).unwrap();
        let expected = "[general]\ndaemon=false\nmethod=virtio-serial\npath=/dev/virtio-ports/org.qemu.guest_agent.0\n\
            pidfile=/var/run/qemu-ga.pid\nstatedir=/var/run\nverbose=false\nretry-path=false\nblock-rpcs=\nallow-rpcs=\n";
        assert_eq!(dump(&config), expected);
    }

    #[test]
    fn the_command_line_wins_for_scalars_and_adds_to_lists() {
        let text = "[general]\nmethod=unix-listen\npath=/s\nblock-rpcs=a, b\nblacklist=c\nverbose=1\n";
        let config = load(&["-p", "/p", "-b", "d", "-b", ",e", "--blacklist=f"], text).unwrap();
        assert_eq!((config.method.as_str(), config.path.as_deref()), ("unix-listen", Some("/p".as_ref())));
        assert_eq!(config.block_rpcs, ["a", "b", "c", "d", "", "e", "f"]);
        assert!(config.verbose && !config.daemonize);
    }

    #[test]
    fn empty_lists_are_no_lists() {
        let config = load(&["-a", "", "-b", ""], "[general]\nallow-rpcs=\n").unwrap();
        assert!(config.allow_rpcs.is_empty() && config.block_rpcs.is_empty());
    }

    #[test]
    fn the_default_path_follows_the_method() {
        let settled = |method: &str, activated| {
            let mut config = load(&["-m", method], "").unwrap();
            config.settle_channel(activated).map(|()| (config.method, config.path))
        };
        assert_eq!(settled("isa-serial", None).unwrap().1, Some("/dev/ttyS0".into()));
        for method in ["unix-listen", "vsock-listen", "bogus"] {
            assert_eq!(settled(method, None), Err(ConfigError::NoPath));
            assert_eq!(settled(method, Some("unix-listen")), Ok(("unix-listen".into(), None)));
        }
    }

    #[test]
    fn own_groups_are_read_and_checked() {
        let text = "[fsfreeze]\ntimeout=0\nhook-timeout=5\nbest-effort=1\n[limits]\nfile-handles=7\n";
        let config = load(&[], text).unwrap();
        assert_eq!(config.fsfreeze.timeout, None);
        assert_eq!(config.fsfreeze.hook_timeout, Duration::from_secs(5));
        assert!(config.fsfreeze.best_effort);
        assert_eq!(config.limits, Limits { file_handles: 7, ..Limits::default() });
        assert!(reason("[limits]\nrequest-bytes=0\n").contains("request-bytes"));
        assert!(reason("[fsfreeze]\ntimeout=-1\n").contains("timeout"));
    }

    #[test]
    fn all_bad_values_are_reported_even_where_the_command_line_wins() {
        let text = "[general]\nverbose=yes\npath=/a\\qb\n";
        let ConfigError::File { reason, .. } = load(&["-p", "/x", "-v"], text).unwrap_err() else { panic!() };
        assert!(reason.contains("“path”") && reason.contains("“verbose”"), "{reason}");
    }

    #[test]
    fn a_dump_read_back_gives_the_same_dump() {
        let text = "[general]\ndaemon=true\nmethod=unix-listen\npath=\\s/a\\tb\\\\c \nlogfile=/l\nfsfreeze-hook=/h\n\
            verbose=1\nretry-path=1\nblock-rpcs=,x,\n[fsfreeze]\ntimeout=9\n[limits]\nrequest-bytes=4096\n";
        let first = load(&[], text).unwrap();
        let again = load(&[], &dump(&first)).unwrap();
        assert_eq!(dump(&first), dump(&again));
        assert_eq!(first.path, again.path);
        assert!(dump(&first).contains("[fsfreeze]\ntimeout=9\n"));
    }

    #[test]
    fn only_a_file_named_on_the_command_line_must_exist() {
        let absent = |required| Source { args: Args::default(), file: "/nonexistent/c".into(), required }.load();
        assert!(absent(false).is_ok());
        let error = absent(true).unwrap_err().to_string();
        assert_eq!(error, "error loading configuration from path: /nonexistent/c, No such file or directory");
        let directory = Source { args: Args::default(), file: "/".into(), required: false }.load().unwrap_err();
        assert_eq!(directory.to_string(), "error loading configuration from path: /, Not a regular file");
    }

    #[test]
    fn a_reload_sees_the_new_file_and_the_same_options() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.conf");
        fs::write(&path, "[general]\nblock-rpcs=a\n").unwrap();
        let argv = ["q", "-b", "z", "-c", path.to_str().unwrap()];
        let mut config = Config::load(&crate::cli::parse(argv.map(OsString::from), false).args).unwrap();
        config.make_absolute();
        fs::write(&path, "[general]\nblock-rpcs=b\n").unwrap();
        assert_eq!(config.reload().unwrap().block_rpcs, ["b", "z"]);
        fs::write(&path, "junk\n").unwrap();
        assert!(config.reload().is_err());
    }

    #[test]
    fn relative_paths_are_made_absolute_except_vsock_addresses() {
        let here = std::env::current_dir().unwrap();
        let mut config = load(&["-p", "3:4", "-m", "vsock-listen", "-f", "pid"], "").unwrap();
        config.make_absolute();
        assert_eq!(config.path, Some("3:4".into()));
        assert_eq!(config.pidfile, here.join("pid"));
    }
}
