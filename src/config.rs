//! The configuration: defaults, then the key file, then the command line.
//!
//! The group `[general]` of the file is the stock agent's. Our own settings live in groups of their
//! own, which the stock agent ignores, so that one file serves both.

mod source;

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::source::{Last, Source};
use crate::cli::{Args, DEFAULT_CONFIG};
use crate::keyfile::{write_group, write_pair};

const GENERAL: &str = "general";
const FSFREEZE: &str = "fsfreeze";
const LIMITS: &str = "limits";
const NETWORK: &str = "network";
const VSOCK: &str = "vsock";
const HOTPLUG: &str = "hotplug";
const CLOCK: &str = "clock";

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
    /// Commands that are refused; items as they were given, blanks and repetitions included.
    pub block_rpcs: Vec<String>,
    /// If not empty, the only commands that are accepted.
    pub allow_rpcs: Vec<String>,
    /// How file systems are frozen.
    pub fsfreeze: Fsfreeze,
    /// What one agent may use up.
    pub limits: Limits,
    /// What is told of the network.
    pub network: Network,
    /// Who may connect over vsock.
    pub vsock: Vsock,
    /// What is put on line as it is plugged in.
    pub hotplug: Hotplug,
    /// How the system time is looked after.
    pub clock: Clock,
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

/// Group `[network]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// `hide`: interfaces that are not listed, as shell patterns.
    pub hide: Vec<String>,
}

/// The context id of the host, whichever guest asks.
const HOST_CID: u32 = 2;

/// Group `[vsock]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vsock {
    /// `allow`: context ids that may connect besides the host's.
    pub allow: Vec<u32>,
}

impl Vsock {
    /// Whether a client with this context id may connect.
    pub(crate) fn admits(&self, cid: u32) -> bool {
        cid == HOST_CID || self.allow.contains(&cid)
    }
}

/// Group `[hotplug]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hotplug {
    /// `cpus`: start processors that are plugged in.
    pub cpus: bool,
    /// `memory`: use memory that is plugged in.
    pub memory: bool,
}

/// Group `[clock]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// `keep`: set the time after the guest was stopped without noticing.
    pub keep: bool,
}

impl Config {
    /// Reads the file and applies the command line. The channel's path may still be missing: see
    /// [`Config::settle_channel`].
    #[inline(never)] // Its temporaries would lie on the stack for the agent's whole life.
    pub fn load(cli: &Args) -> Result<Config, ConfigError> {
        let file = match &cli.config {
            Some(path) => path.clone(),
            None => std::env::var_os("QGA_CONF").map_or_else(|| DEFAULT_CONFIG.into(), PathBuf::from),
        };
        Source { args: cli.clone(), file, required: cli.config.is_some(), last: Last::NoFile }.load()
    }

    /// The settings in a file that nobody named.
    #[cfg(test)]
    pub(crate) fn load_found(file: &Path) -> Result<Config, ConfigError> {
        Source { args: Args::default(), file: file.to_owned(), required: false, last: Last::NoFile }.load()
    }

    /// Reads the file again, for the same command line.
    ///
    /// # Errors
    /// Those of [`Config::load`], and when less of the file is there than was: then everything stays as it is.
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
            write_number(out, "timeout", &freeze.timeout.map_or(0, |time| time.as_secs()))?;
            write_number(out, "hook-timeout", &freeze.hook_timeout.as_secs())?;
            write_number(out, "freeze-timeout", &freeze.freeze_timeout.as_secs())?;
            write_pair(out, "best-effort", flag(freeze.best_effort))?;
        }
        if self.limits != Limits::default() {
            write_group(out, LIMITS)?;
            write_number(out, "file-handles", &self.limits.file_handles)?;
            write_number(out, "running-children", &self.limits.running_children)?;
            write_number(out, "finished-children", &self.limits.finished_children)?;
            write_number(out, "finished-bytes", &self.limits.finished_bytes)?;
            write_number(out, "request-bytes", &self.limits.request_bytes)?;
        }
        if self.network != Network::default() {
            write_group(out, NETWORK)?;
            write_pair(out, "hide", self.network.hide.join(",").as_bytes())?;
        }
        if self.vsock != Vsock::default() {
            write_group(out, VSOCK)?;
            let allow: Vec<String> = self.vsock.allow.iter().map(ToString::to_string).collect();
            write_pair(out, "allow", allow.join(",").as_bytes())?;
        }
        if self.hotplug != Hotplug::default() {
            write_group(out, HOTPLUG)?;
            write_pair(out, "cpus", flag(self.hotplug.cpus))?;
            write_pair(out, "memory", flag(self.hotplug.memory))?;
        }
        if self.clock != Clock::default() {
            write_group(out, CLOCK)?;
            write_pair(out, "keep", flag(self.clock.keep))?;
        }
        Ok(())
    }
}

fn write_path(out: &mut impl Write, key: &str, path: Option<&Path>) -> io::Result<()> {
    path.map_or(Ok(()), |path| write_pair(out, key, path.as_os_str().as_bytes()))
}

fn write_number(out: &mut impl Write, key: &str, number: &impl ToString) -> io::Result<()> {
    write_pair(out, key, number.to_string().as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keyfile::KeyFile;
    use proptest::prelude::*;
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

    proptest! {
        #[test]
        fn no_file_panics(text in "(\\[(general|fsfreeze|limits|network|vsock|hotplug|clock)\\]|[a-z-]{4,12}|hide|cpus|keep|timeout|daemon|=|[0-9,]{1,30}|\\\\|\n|.){0,20}") {
            let source = Source { args: Args::default(), file: "c".into(), required: false, last: Last::NoFile };
            if let Ok(config) = KeyFile::parse(text.as_bytes()).map_err(|_| ()).and_then(|file| source.combine(&file).map_err(|_| ())) {
                dump(&config);
            }
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
        assert_eq!(config.block_rpcs, ["a", " b", "c", "d", "", "e", "f"]);
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
        let text = "[fsfreeze]\ntimeout=0\nhook-timeout=5\nbest-effort=1\n[limits]\nfile-handles=7\n\
            [network]\nhide=veth*, docker? ,,cni[0-9]\n";
        let config = load(&[], text).unwrap();
        assert_eq!(config.network.hide, ["veth*", "docker?", "cni[0-9]"]);
        assert_eq!(load(&[], "").unwrap().network.hide, Vec::<String>::new());
        assert_eq!(config.fsfreeze.timeout, None);
        assert_eq!(config.fsfreeze.hook_timeout, Duration::from_secs(5));
        assert!(config.fsfreeze.best_effort);
        assert_eq!(config.limits, Limits { file_handles: 7, ..Limits::default() });
        let config = load(&[], "[hotplug]\ncpus=true\n[clock]\nkeep=1\n").unwrap();
        assert_eq!(config.hotplug, Hotplug { cpus: true, memory: false });
        assert!(config.clock.keep);
        let config = load(&[], "").unwrap();
        assert_eq!((config.hotplug, config.clock), (Hotplug::default(), Clock { keep: false }));
        assert!(reason("[hotplug]\nmemory=2\n[clock]\nkeep=on\n").contains("“memory”"));
        assert!(reason("[limits]\nrequest-bytes=0\n").contains("request-bytes"));
        assert!(reason("[fsfreeze]\ntimeout=-1\n").contains("timeout"));
    }

    #[test]
    fn numbers_stay_in_their_bounds() {
        let text = "[fsfreeze]\ntimeout=9223372036854775807\nhook-timeout=18446744073709551615\n\
            freeze-timeout=31536001\n[limits]\nfile-handles=18446744073709551615\nrequest-bytes=4294967297\n";
        let config = load(&[], text).unwrap();
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        assert_eq!(config.fsfreeze.timeout, Some(year));
        assert_eq!((config.fsfreeze.hook_timeout, config.fsfreeze.freeze_timeout), (year, year));
        assert_eq!((config.limits.file_handles, config.limits.request_bytes), (1 << 20, 1 << 30));
        assert!(std::time::Instant::now().checked_add(year).is_some());
    }

    #[test]
    fn vsock_is_for_the_host_unless_others_are_named() {
        let config = load(&[], "").unwrap();
        assert!(config.vsock.admits(2) && !config.vsock.admits(1) && !config.vsock.admits(3));
        let config = load(&[], "[vsock]\nallow=3, 1\n").unwrap();
        assert!([1, 2, 3].into_iter().all(|cid| config.vsock.admits(cid)) && !config.vsock.admits(4));
        assert!(dump(&config).ends_with("[vsock]\nallow=3,1\n"));
        assert!(reason("[vsock]\nallow=3;4\n").contains("allow") && reason("[vsock]\nallow=-1\n").contains("allow"));
    }

    #[test]
    fn a_reload_that_finds_less_than_there_was_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.conf");
        let source = Source { args: Args::default(), file: path.clone(), required: false, last: Last::NoFile };
        let absent = source.load().unwrap();
        assert!(absent.reload().is_ok(), "there never was a file");
        fs::write(&path, "# nothing yet\n").unwrap();
        let empty = absent.reload().unwrap();
        assert!(empty.reload().is_ok());
        fs::write(&path, "[general]\nblock-rpcs=guest-exec\n").unwrap();
        let config = empty.reload().unwrap();
        for less in ["", "\n", "# nothing\n"] {
            fs::write(&path, less).unwrap();
            assert!(config.reload().unwrap_err().to_string().ends_with(", it has no group any more"), "{less:?}");
        }
        fs::remove_file(&path).unwrap();
        assert!(config.reload().unwrap_err().to_string().ends_with(", No such file or directory"));
        fs::write(&path, "[general]\n").unwrap();
        assert!(config.reload().unwrap().block_rpcs.is_empty(), "what is taken out by hand is out");
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
            verbose=1\nretry-path=1\nblock-rpcs=,x,\n[fsfreeze]\ntimeout=9\n[limits]\nrequest-bytes=4096\n\
            [network]\nhide=a\\\\*b,[!c]\n[hotplug]\nmemory=true\n[clock]\nkeep=true\n";
        let first = load(&[], text).unwrap();
        let again = load(&[], &dump(&first)).unwrap();
        assert_eq!(dump(&first), dump(&again));
        assert_eq!(first.path, again.path);
        assert_eq!(again.network.hide, ["a\\*b", "[!c]"]);
        assert!(dump(&first).contains("[fsfreeze]\ntimeout=9\n"));
        assert!(dump(&first).contains("[hotplug]\ncpus=false\nmemory=true\n[clock]\nkeep=true\n"), "{}", dump(&first));
    }

    #[test]
    fn only_a_file_named_on_the_command_line_must_exist() {
        let absent = |required| {
            Source { args: Args::default(), file: "/nonexistent/c".into(), required, last: Last::NoFile }.load()
        };
        assert!(absent(false).is_ok());
        let error = absent(true).unwrap_err().to_string();
        assert_eq!(error, "error loading configuration from path: /nonexistent/c, No such file or directory");
        let directory =
            Source { args: Args::default(), file: "/".into(), required: false, last: Last::NoFile }.load().unwrap_err();
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
