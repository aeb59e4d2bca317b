//! The command line's grammar.

mod values;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueHint};

pub use self::values::{Days, Size};
use self::values::{glob, idle_days, interval, nanos, ops};
pub use self::workspace::{ExecArgs, InWorkspace, SetupArgs};
use super::exit::Exit;
use crate::base::IdRange;
use crate::fuse::Transport;
use crate::session::{Policy, TraceFilter};

const EXAMPLES: &str = "Examples:
  sessionfs run ticket-8421 -- npm test        a command in the session's workspace, which comes back next time
  sessionfs run ticket-8421 -- bash            look around in it
  sessionfs mount ticket-8421 /mnt/workspace   the same for every process, until
  sessionfs umount ticket-8421                 everything is committed
  sessionfs ls                                 which sessions there are
  sessionfs cp ./src ticket-8421:/             into a session, mounted or not
  sessionfs export ticket-8421 > ws.tar        all of it, as a tar archive
";

/// A workspace that comes back: mount a session, work in it, stop it; the same ID brings every file back.
#[derive(Debug, Parser)]
#[command(name = "sessionfs", version, after_help = format!("{EXAMPLES}\n{}", Exit::help()))]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The directory that holds sessions [env: SESSIONFS_STORE] [default: /var/lib/sessionfs for root,
    /// $XDG_DATA_HOME/sessionfs otherwise]
    // Empty is a value here: `Context::new` says what is wrong with it.
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath,
        value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub store: Option<PathBuf>,
    /// Answers, and errors, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Says more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Says nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// Which operations to tell.
#[derive(Clone, Debug, Args)]
pub struct Tracing {
    /// Of these kinds only
    #[arg(long, value_name = "OP", value_delimiter = ',', value_parser = ops())]
    op: Vec<String>,
    /// On what matches, and what is below (may be repeated): a name anywhere or, with a slash before or within it, a path from
    /// the workspace's root; * and ? stop at a slash, ** does not
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    path: Vec<String>,
    /// That failed
    #[arg(long)]
    errors: bool,
    /// That took at least so long, for example 500us, 5ms or 1s
    #[arg(long, value_name = "DURATION", value_parser = nanos)]
    slow: Option<u64>,
}

impl From<Tracing> for TraceFilter {
    fn from(given: Tracing) -> TraceFilter {
        let Tracing { op: ops, path: paths, errors, slow } = given;
        TraceFilter { ops, paths, errors, slow_nanos: slow.unwrap_or_default() }
    }
}

/// How to open a session.
#[derive(Clone, Debug, Default, Args)]
pub struct Opening {
    /// Cap in bytes, for example 512M or 1G; of a session that is there it is changed [default of a new one: 1G]
    #[arg(long, value_name = "BYTES")]
    pub size: Option<Size>,
    /// Cap on files, directories and links together [default of a new session: 1000000]
    #[arg(long, value_name = "N")]
    pub inodes: Option<u64>,
    /// Fails when there is no such session, instead of creating it
    #[arg(long)]
    pub existing: bool,
    /// A path that has to be in the workspace, or the session is not resumed (may be repeated)
    #[arg(long, value_name = "PATH")]
    pub expect: Vec<OsString>,
    /// Reads all of the session first and holds it against its checksums; without it that is done when it is idle
    #[arg(long)]
    pub verify: bool,
    /// The version of what runs in the workspace. When it is another than the last one, see --on-version-change
    #[arg(long, env = "SESSIONFS_RUNTIME_VERSION", value_name = "V")]
    pub runtime_version: Option<String>,
    /// What another runtime version does: checkpoint (begins empty, and what was there becomes the session
    /// ID.before-V), keep (nothing), or reset (begins empty, and what was there is removed) [default: checkpoint]
    #[arg(long, value_name = "POLICY", requires = "runtime_version", value_parser = policy())]
    pub on_version_change: Option<Policy>,
    /// Directories whose content is not kept and does not count against the cap, for example target/ (anywhere) or
    /// /web/dist/ (from the root); may be repeated. Replaces what the session was told before; none: all is kept
    #[arg(long, value_name = "GLOB")]
    pub ephemeral: Vec<String>,
    /// Users whose id is another in the session: HOST here is SESSION there, and COUNT - 1 after each; may be repeated.
    /// Ids whose place is taken by that change places with it, so 1000:0 makes root's files there yours, and back
    #[arg(long, value_name = "HOST:SESSION[:COUNT]", value_delimiter = ',')]
    pub map_uid: Vec<IdRange>,
    /// The same for groups
    #[arg(long, value_name = "HOST:SESSION[:COUNT]", value_delimiter = ',')]
    pub map_gid: Vec<IdRange>,
    /// Lets other users in; without it the workspace is its owner's alone, not even root's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_other: Option<bool>,
    /// How the kernel hands over requests: by io_uring where it can, or only by it, or only by /dev/fuse
    /// [env: SESSIONFS_TRANSPORT] [default: auto]
    #[arg(long, value_name = "HOW", value_parser = transport())]
    pub transport: Option<Transport>,
}

fn transport() -> impl TypedValueParser<Value = Transport> {
    PossibleValuesParser::new(["auto", "uring", "device"]).try_map(|name| name.parse::<Transport>())
}

fn policy() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::NAMES).try_map(|name| name.parse::<Policy>())
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sessionfs run demo -- sh -c 'date >> log; cat log'
  sessionfs run --size 4G --mount /workspace demo -- cargo test
  sessionfs run --existing --expect package.json demo -- npm test
  sessionfs run --runtime-version 2.1 demo -- ./agent
  sessionfs run --ephemeral target/ --ephemeral node_modules/ demo -- make
  sessionfs run demo -- bash

The command runs with the workspace as its directory, in a mount namespace of its own: nobody else sees the mount.
SESSIONFS_SESSION and SESSIONFS_MOUNT are set. When it has ended, what is left of its processes gets SIGTERM, and
SIGKILL after the grace; then the session is stopped with everything committed.

Exit status: the command's own; 128+N when signal N ended it; 127 not found; 126 not executable; 125 when we failed
before it started; 121 when the file system's server died under it; 122 when not everything could be committed.")]
pub struct RunArgs {
    /// Where the workspace appears; made when missing [default: /mnt/workspace]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub mount: Option<PathBuf>,
    /// Seconds between SIGTERM and SIGKILL for what the command leaves running [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<u64>,
    #[command(flatten)]
    pub opening: Opening,
    /// The session; created if there is none
    pub session: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sessionfs mount ticket-8421                        at /mnt/workspace
  sessionfs mount --size 10G ticket-8421 ./work
  sessionfs mount --foreground ticket-8421 ./work    serves until SIGTERM or SIGINT, for a service manager")]
pub struct MountArgs {
    /// Serves in this process and logs to standard error, until it is stopped
    #[arg(short, long)]
    pub foreground: bool,
    #[command(flatten)]
    pub opening: Opening,
    /// The session; created if there is none
    pub session: String,
    /// An empty directory [default: /mnt/workspace, made when missing]
    #[arg(value_hint = ValueHint::DirPath)]
    pub mountpoint: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a command in a session's workspace and ends with its status
    Run(RunArgs),
    /// Runs a command in a session that is mounted, or is mounted for it, and ends with its status
    Exec(ExecArgs),
    /// Does a step of a session's set-up, once for the content of the files that it depends on
    Setup(SetupArgs),
    /// Shows the commands that were run in a session: when, how long, how they ended, what they changed
    #[command(after_help = "Examples:\n  sessionfs log demo\n  sessionfs log --last 1 --output demo")]
    Log {
        /// The newest N only
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        /// With the last lines of what they wrote
        #[arg(long)]
        output: bool,
        session: String,
    },
    /// Mounts a session; returns once the mount serves
    Mount(MountArgs),
    /// Unmounts and stops a session; returns once everything is committed
    #[command(after_help = "A mount whose server has died is detached; the session is not touched by that.")]
    Umount {
        /// A session, or where one is mounted
        #[arg(value_name = "SESSION|MOUNTPOINT", value_hint = ValueHint::DirPath)]
        target: PathBuf,
        /// Also while files on it are open: their users get ENOTCONN
        #[arg(long)]
        lazy: bool,
    },
    /// Lists the sessions of the store, or what is at a path of one
    #[command(after_help = "Examples:\n  sessionfs ls\n  sessionfs ls demo:/src\n  sessionfs ls --json")]
    Ls {
        /// A path in a session
        #[arg(value_name = "SESSION:/PATH")]
        target: Option<String>,
    },
    /// Says what takes the space of a session: by directory, by extension, the largest files
    #[command(
        after_help = "Examples:\n  sessionfs du demo\n  sessionfs du --depth 3 --top 20 demo:/web\n  sessionfs du --json demo

Charged is what counts against the cap, in pieces of 4 KiB, as df and st_blocks have it. A file with
several names counts once. What is in ephemeral directories is not charged and not shown."
    )]
    Du {
        /// Directories down to this depth
        #[arg(long, value_name = "N", default_value = "1")]
        depth: usize,
        /// The largest N of each kind
        #[arg(long, value_name = "N", default_value = "10")]
        top: usize,
        #[arg(value_name = "SESSION[:/PATH]")]
        target: String,
    },
    /// Says how a session is doing
    Status { session: String },
    /// What persistence saved: set-up that was not done again, resumes that went well, cold starts, time to the first action
    #[command(after_help = "Examples:\n  sessionfs stats\n  sessionfs stats demo\n  sessionfs stats --json demo

From the store's logs of events and commands, of removed sessions too. docs/metrics.md defines the figures.")]
    Stats { session: Option<String> },
    /// Figures of mounted sessions, as Prometheus reads them
    #[command(after_help = "Examples:
  sessionfs metrics demo
  sessionfs metrics --textfile /var/lib/prometheus/node-exporter/sessionfs.prom
  sessionfs metrics --json | jq '.[].operations.write'

Without a session: of all that are mounted, each with its label. What counts begins at 0 with the mount.")]
    Metrics {
        /// One that is mounted [default: all that are]
        session: Option<String>,
        /// Puts the text there, in the place of a file, whole: for the textfile collector of node-exporter
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "json")]
        textfile: Option<PathBuf>,
    },
    /// What mounted sessions are doing: operations a second, and how long they take
    #[command(after_help = "Examples:
  sessionfs top demo
  sessionfs top --interval 0.5 --count 10 > log    one table after another, an empty line behind each

Times are upper bounds, in steps of a factor of two.")]
    Top {
        /// One that is mounted [default: all that are]
        session: Option<String>,
        /// Seconds from one look to the next
        #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = interval)]
        interval: f64,
        /// Ends after so many tables
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Tells the operations of a mounted session as they end, a line each: when, who asked (process), how long it took, what,
    /// how it failed, offset and bytes, path
    #[command(after_help = "Examples:
  sessionfs trace demo
  sessionfs trace --op write,fsync --slow 5ms demo      what takes long
  sessionfs trace --errors --path src/ demo             what fails there, and below
  sessionfs trace --json demo | jq -r .path             all there is to know

Operations are what the kernel asks for: what its caches answer is none. Ends with status 0 when the session is stopped. Who
reads too slowly loses operations, and is told how many; nobody in the session waits. What trace itself does is not told.")]
    Trace {
        #[command(flatten)]
        filter: Tracing,
        /// Ends after so many operations
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// One that is mounted
        session: String,
    },
    /// Changes a session's caps, mounted or not, for good
    #[command(after_help = "Examples:
  sessionfs resize --size 4G demo
  sessionfs resize --inodes 2000000 demo

A cap may be set below what the session holds: then nothing new fits until enough is removed.")]
    #[command(group = ArgGroup::new("cap").args(["size", "inodes"]).multiple(true).required(true))]
    Resize {
        /// Cap in bytes, for example 512M or 1G
        #[arg(long, value_name = "BYTES")]
        size: Option<Size>,
        /// Cap on files, directories and links together
        #[arg(long, value_name = "N")]
        inodes: Option<u64>,
        session: String,
    },
    /// Removes sessions, for good; refuses one that is mounted
    #[command(after_help = "Examples:\n  sessionfs rm demo\n  sessionfs rm --all-idle --dry-run")]
    Rm {
        #[arg(required_unless_present = "all_idle", conflicts_with = "all_idle", value_name = "SESSION")]
        sessions: Vec<String>,
        /// Those that gc would remove for being idle
        #[arg(long)]
        all_idle: bool,
        /// Says what would go, and removes nothing
        #[arg(long, requires = "all_idle")]
        dry_run: bool,
        /// The clock looks wrong, and is not
        #[arg(long, requires = "all_idle")]
        clock_is_right: bool,
    },
    /// Removes sessions that nobody used for long enough, and what is beyond the store's budget
    #[command(after_help = "Examples:
  sessionfs gc --dry-run
  sessionfs gc --idle-days 30 --store-bytes 200G

What is mounted, in use or pinned stays. A session whose last use cannot be read stays, too; then the exit status is 8.")]
    Gc(GcArgs),
    /// Keeps sessions from being removed by gc, until they are unpinned
    Pin {
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
    },
    /// Lets gc remove sessions again when they are idle
    Unpin {
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
    },
    /// Sets after how many days without use a session may be removed
    #[command(after_help = "Examples:\n  sessionfs retain demo 60\n  sessionfs retain demo default")]
    Retain {
        session: String,
        /// Days, at least 1; default: the store's own number
        #[arg(value_name = "DAYS|default", value_parser = idle_days)]
        days: Days,
    },
    /// Verifies every invariant and checksum of a session, mounted or not
    Check { session: String },
    /// Commits everything a mounted session has been given, without stopping it
    Sync { session: String },
    /// Goes back to a session's last commit, when its journal is lost or cannot be replayed
    #[command(
        after_help = "What was acknowledged since that commit is given up. The journal is set aside, not deleted."
    )]
    DiscardJournal { session: String },
    /// Takes what is in a session's directory for the session, although it is older or another than was last seen
    #[command(
        after_help = "For a session.db that was replaced on purpose. What came after it, and is not there, is given up."
    )]
    Accept { session: String },
    /// Says what has happened to a session, also to one that is removed
    #[command(after_help = "Examples:\n  sessionfs events demo\n  sessionfs events --last 3 --json demo")]
    Events {
        /// The newest N only
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        session: String,
    },
    /// Writes a file of a session to standard output
    Cat {
        #[arg(value_name = "SESSION:/PATH")]
        file: String,
    },
    /// Copies into or out of a session, as cp -a does; directories with all that is in them
    #[command(after_help = "Examples:
  sessionfs cp demo:/src ./src         out of a session
  sessionfs cp ./patch demo:/          into one; a directory that is there takes it under its own name
  sessionfs cp --size 4G . new:/       a new session from what is here

What cannot be copied is named and left out; the rest is copied, and the exit status is that of the first failure. A file
that is there is replaced when its copy is whole.

One side is SESSION:/path. A host path with a colon in its first name is written ./like:this.")]
    Cp {
        #[arg(value_name = "SRC", value_hint = ValueHint::AnyPath)]
        from: OsString,
        #[arg(value_name = "DST", value_hint = ValueHint::AnyPath)]
        to: OsString,
        /// Cap in bytes, when the copy creates the session
        #[arg(long, value_name = "BYTES")]
        size: Option<Size>,
        /// Cap in inodes, when the copy creates the session
        #[arg(long, value_name = "N")]
        inodes: Option<u64>,
    },
    /// Writes a session, or a part of it, to standard output as a tar archive
    #[command(after_help = "Examples:
  sessionfs export demo | zstd > demo.tar.zst
  sessionfs export demo:/src | tar tv

Sockets are left out; holes stay holes (GNU sparse format 1.0), xattrs are SCHILY.xattr records,
ACLs SCHILY.acl records as well.")]
    Export {
        #[arg(value_name = "SESSION[:/PATH]")]
        target: String,
    },
    /// Checks everything that a mount needs here, mounts a session for a moment, and says how to mend what fails
    #[command(
        after_help = "Every check is ok, advice, a warning, or a failure, with what to do in Docker, in Kubernetes and on a plain
host. Ends with 0 when a mount works, and with 1 when it does not. Nothing is left behind."
    )]
    Doctor,
    /// Shows every setting and where it comes from: a flag, the environment, a file, or nowhere
    #[command(after_help = "Examples:
  sessionfs config
  sessionfs config --example > /etc/sessionfs.toml
  SESSIONFS_RETENTION_IDLE_DAYS=30 sessionfs config --json

An option is looked for in this order: a command's flag; the environment (retention.idle_days is
SESSIONFS_RETENTION_IDLE_DAYS); sessionfs.toml in the store; /etc/sessionfs.toml, or the file that SESSIONFS_CONFIG names.
A file has to belong to root or to the caller, and nobody else may write it.")]
    Config {
        /// Writes a file with every option, its default and what it means
        #[arg(long)]
        example: bool,
    },
    /// Writes completions for a shell to standard output
    Completions { shell: clap_complete::Shell },
    /// Writes the manual page (roff) to standard output, of one command if it is named
    Man {
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct GcArgs {
    /// Says what would go, and removes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Days without use, for sessions without a number of their own [default: 14]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_days: Option<u32>,
    /// Bytes on the disk that all sessions together may take; beyond it the longest idle go first [default: no bound]
    #[arg(long, value_name = "SIZE")]
    pub store_bytes: Option<Size>,
    /// The clock looks wrong, and is not
    #[arg(long)]
    pub clock_is_right: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
