//! The command line: options and their help as clap definitions, read in the order and with the
//! leniencies of GNU getopt (see [`getopt`]).
//!
//! Parsing has no effects. Options that end the program at their place, `--help` among them, are
//! handed to the caller as [`Stop`], because the configuration file comes before them: with a broken
//! file even `--help` fails.

mod getopt;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};

use self::getopt::Given;
use crate::commands::agent::UPSTREAM_VERSION;

/// Where the configuration file is unless `--config` or `QGA_CONF` name another one.
pub const DEFAULT_CONFIG: &str = "/etc/qemu/qemu-ga.conf";

/// The hook that a bare `--fsfreeze-hook` enables.
pub const DEFAULT_HOOK: &str = "/etc/qemu/fsfreeze-hook";

const TEMPLATE: &str = "\
Usage: {usage}
{about}

Answers requests from the host of a virtual machine: files, programs, power,
file system freeze, and information about the guest.

{options}

The configuration file sets the same things in a group [general], under the
names of the long options; only --daemonize is called \"daemon\" there.
";

/// The options, as given.
#[derive(Parser, Clone, Debug, Default, PartialEq)]
#[command(name = "qemu-ga", no_binary_name = true, args_override_self = true)]
#[command(disable_help_flag = true, disable_version_flag = true, help_template = TEMPLATE)]
#[command(override_usage = "qemu-ga [-m <METHOD> -p <PATH>] [OPTIONS]")]
pub struct Args {
    /// Configuration file [default: /etc/qemu/qemu-ga.conf, or what the
    /// environment variable QGA_CONF names]
    #[arg(short, long, value_name = "FILE", verbatim_doc_comment, value_parser = path())]
    pub config: Option<PathBuf>,

    /// How the host is reached: virtio-serial (the default), isa-serial,
    /// unix-listen or vsock-listen
    #[arg(short, long, verbatim_doc_comment)]
    pub method: Option<OsString>,

    /// Device or socket [default: /dev/virtio-ports/org.qemu.guest_agent.0
    /// for virtio-serial, /dev/ttyS0 for isa-serial]; CID:PORT for vsock-listen
    #[arg(short, long, verbatim_doc_comment, value_parser = path())]
    pub path: Option<PathBuf>,

    /// Append the log to this file instead of writing it to stderr
    #[arg(short, long, value_name = "FILE", verbatim_doc_comment, value_parser = path())]
    pub logfile: Option<PathBuf>,

    /// Process id file of --daemonize [default: /var/run/qemu-ga.pid]
    #[arg(short = 'f', long, value_name = "FILE", verbatim_doc_comment, value_parser = path())]
    pub pidfile: Option<PathBuf>,

    /// Run a script with "freeze" before file systems are frozen and with
    /// "thaw" afterwards [default: /etc/qemu/fsfreeze-hook]. Another script
    /// must follow without a blank: -F/path, --fsfreeze-hook=/path
    #[arg(short = 'F', long, value_name = "SCRIPT", verbatim_doc_comment, value_parser = path())]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_HOOK)]
    pub fsfreeze_hook: Option<PathBuf>,

    /// Directory for the agent's state [default: /var/run]
    #[arg(short = 't', long, value_name = "DIR", verbatim_doc_comment, value_parser = path())]
    pub statedir: Option<PathBuf>,

    /// Log everything, not only warnings and errors
    #[arg(short, long)]
    pub verbose: bool,

    /// Print the version and exit
    #[arg(short = 'V', long)]
    pub version: bool,

    /// Run in the background
    #[arg(short, long)]
    pub daemonize: bool,

    /// Comma-separated list of commands to refuse ("help" lists all)
    #[arg(short, long, value_name = "LIST", action = ArgAction::Append)]
    pub block_rpcs: Vec<OsString>,

    /// Comma-separated list of the only commands to accept ("help" lists all)
    #[arg(short, long, value_name = "LIST", action = ArgAction::Append)]
    pub allow_rpcs: Vec<OsString>,

    /// Print the configuration that results from file and options, and exit
    #[arg(short = 'D', long)]
    pub dump_conf: bool,

    /// Print which file systems a freeze would freeze, in which order, what it
    /// would leave alone, which hooks it would run, and exit; freezes nothing.
    /// Status 0: a backup can rely on it
    #[arg(long, verbatim_doc_comment)]
    pub check_freeze: bool,

    /// With --check-freeze: print it as JSON
    #[arg(long, requires = "check_freeze")]
    pub json: bool,

    /// Keep trying when the device or socket cannot be opened or fails
    #[arg(short, long)]
    pub retry_path: bool,

    /// Print this help and exit
    #[arg(short, long)]
    pub help: bool,

    /// The former name of --block-rpcs, still found in units and scripts
    #[arg(long, hide = true, action = ArgAction::Append)]
    pub blacklist: Vec<OsString>,

    /// Service control on Windows; swallowed here, as upstream does
    #[arg(short = 's', hide = true)]
    service: Option<OsString>,
}

/// What ends the program once the configuration file has been read.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// Print [`help`]; status 0.
    Help,
    /// Print [`version`]; status 0.
    Version,
    /// Print the names of all commands; status 0.
    Commands,
    /// Complain; status 1.
    BadUsage {
        /// What is wrong, in getopt's words, for stderr.
        complaint: String,
        /// Where help is to be found, for stdout.
        hint: String,
    },
}

/// The command line, read.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandLine {
    /// All options, also those behind one that ends the program: a last `--config` counts wherever it stands.
    pub args: Args,
    /// The first option that ends the program.
    pub stop: Option<Stop>,
}

/// Reads an argument vector, the program's name first. With `posix` (the environment has
/// `POSIXLY_CORRECT`) the first operand ends the options.
#[inline(never)] // Its temporaries would lie on the stack for the agent's whole life.
pub fn parse(argv: impl IntoIterator<Item = OsString>, posix: bool) -> CommandLine {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_else(|| "qemu-ga".into());
    let program = program.to_string_lossy();
    let bad_usage = |complaint: &str| Stop::BadUsage {
        complaint: format!("{program}: {complaint}"),
        hint: format!("Unknown option, try '{program} --help' for more information."),
    };

    let mut command = Args::command();
    command.build();
    let given = getopt::scan(&command, argv, posix);
    let stop = given.iter().find_map(|given| match given {
        Given::Complaint(text) => Some(bad_usage(text)),
        Given::Option(arg, value) => match (arg.get_id().as_str(), value.as_deref()) {
            ("help", _) => Some(Stop::Help),
            ("version", _) => Some(Stop::Version),
            ("block_rpcs" | "allow_rpcs" | "blacklist", Some(value)) if value == "help" || value == "?" => {
                Some(Stop::Commands)
            }
            _ => None,
        },
    });

    let words: Vec<OsString> = given.into_iter().filter_map(spelled_out).collect();
    let parsed = command.try_get_matches_from(words).and_then(|matches| Args::from_arg_matches(&matches));
    match parsed {
        Ok(args) => CommandLine { args, stop },
        // Cannot happen with words spelled out from the same table.
        Err(error) => CommandLine { args: Args::default(), stop: Some(bad_usage(&error.to_string())) },
    }
}

/// An option as one word that clap cannot misunderstand: `--name` or `--name=value`.
fn spelled_out(given: Given) -> Option<OsString> {
    let Given::Option(arg, value) = given else { return None };
    let mut word = OsString::from("--");
    word.push(arg.get_long()?);
    if let Some(value) = value {
        word.push("=");
        word.push(value);
    }
    Some(word)
}

/// The text of `--help`.
pub fn help() -> String {
    Args::command().about(version()).render_help().to_string()
}

/// The text of `--version`, without a line end.
pub fn version() -> String {
    format!("QEMU Guest Agent {UPSTREAM_VERSION} (qemu-ga-rs {})", env!("CARGO_PKG_VERSION"))
}

/// Paths may be empty and need not be UTF-8.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parse(words: &[&str]) -> CommandLine {
        super::parse(["qemu-ga"].iter().chain(words).map(OsString::from), false)
    }

    fn args(words: &[&str]) -> Args {
        let line = parse(words);
        assert_eq!(line.stop, None);
        line.args
    }

    #[test]
    fn every_option_lands_in_its_field() {
        let short = args(&[
            "-cc", "-mm", "-pp", "-ll", "-ff", "-F/h", "-tt", "-v", "-d", "-bb1,b2", "-aa", "-D", "-r", "-s", "x",
            "-bb3",
        ]);
        let long = args(&[
            "--config=c",
            "--method=m",
            "--path=p",
            "--logfile=l",
            "--pidfile=f",
            "--fsfreeze-hook=/h",
            "--statedir=t",
            "--verbose",
            "--daemonize",
            "--block-rpcs=b1,b2",
            "--allow-rpcs=a",
            "--dump-conf",
            "--retry-path",
            "--block-rpcs=b3",
        ]);
        assert_eq!(short, long);
        assert_eq!(short.block_rpcs, ["b1,b2", "b3"]);
        assert_eq!(short.fsfreeze_hook.as_deref(), Some("/h".as_ref()));
        assert!(short.verbose && short.daemonize && short.dump_conf && short.retry_path);
    }

    #[test]
    fn the_last_of_repeated_values_counts_and_flags_may_repeat() {
        let args = args(&["-p", "1", "-vv", "-p", "2", "-v", "-F/x", "-F"]);
        assert_eq!(args.path.as_deref(), Some("2".as_ref()));
        assert_eq!(args.fsfreeze_hook.as_deref(), Some(DEFAULT_HOOK.as_ref()));
    }

    #[test]
    fn empty_and_odd_values_survive() {
        let odd = OsString::from_vec(b"/a\xff=b".to_vec());
        let words = [
            "q".into(),
            "-p".into(),
            odd.clone(),
            "--fsfreeze-hook=".into(),
            "-t".into(),
            "".into(),
            "-m".into(),
            "--".into(),
        ];
        let args = super::parse(words, false).args;
        assert_eq!(args.path.map(PathBuf::into_os_string), Some(odd));
        assert_eq!(args.fsfreeze_hook.as_deref(), Some("".as_ref()));
        assert_eq!(args.statedir.as_deref(), Some("".as_ref()));
        assert_eq!(args.method.as_deref(), Some("--".as_ref()));
    }

    #[test]
    fn the_first_ending_option_acts_and_a_later_config_still_counts() {
        assert_eq!(parse(&["-D", "-h", "-V"]).stop, Some(Stop::Help));
        assert_eq!(parse(&["-V", "--foo"]).stop, Some(Stop::Version));
        assert_eq!(parse(&["-b", "?", "-h"]).stop, Some(Stop::Commands));
        assert_eq!(parse(&["-b", "guest-ping,help"]).stop, None);
        let line = parse(&["--foo", "-h", "-c", "x"]);
        assert!(matches!(line.stop, Some(Stop::BadUsage { .. })));
        assert_eq!(line.args.config.as_deref(), Some("x".as_ref()));
    }

    #[test]
    fn complaints_name_the_program() {
        let Some(Stop::BadUsage { complaint, hint }) = parse(&["--service", "install"]).stop else { panic!() };
        assert_eq!(complaint, "qemu-ga: unrecognized option '--service'");
        assert_eq!(hint, "Unknown option, try 'qemu-ga --help' for more information.");
    }

    #[test]
    fn abbreviations_of_the_stock_agent_stay_unique() {
        for short in
            ["--f", "--r", "--s=x", "--m=x", "--l=x", "--c=x", "--b=x", "--a=x", "--verb", "--dump", "--pa=x", "--pi=x"]
        {
            assert_eq!(parse(&[short]).stop, None, "{short}");
        }
        assert_eq!(parse(&["--h"]).stop, Some(Stop::Help));
        for ambiguous in ["--ver", "--p", "--d"] {
            assert!(
                matches!(parse(&[ambiguous]).stop, Some(Stop::BadUsage { complaint, .. }) if complaint.contains("ambiguous"))
            );
        }
        assert_eq!(args(&["--blacklist=x"]).blacklist, ["x"]);
        assert!(parse(&["--bla=x"]).stop.is_some());
    }

    #[test]
    fn help_names_every_visible_option() {
        let help = help();
        for arg in Args::command().get_arguments().filter(|arg| !arg.is_hide_set()) {
            let long = arg.get_long().unwrap();
            let names = arg.get_short().map_or(format!("--{long}"), |short| format!("-{short}, --{long}"));
            assert!(help.contains(&names), "{names}: {help}");
        }
        assert!(!help.contains("blacklist"));
        assert!(help.starts_with("Usage: qemu-ga ") && help.contains(&version()));
    }
}
